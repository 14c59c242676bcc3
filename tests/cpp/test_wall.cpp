// Eigen compiled once per instruction set and linked into one binary: under qemu, an old CPU meets no new instruction.
// The symbols themselves are tools/check_isa_wall.py's business.
#include <doctest/doctest.h>

#include <initializer_list>
#include <string>

#include "common/cpu.h"

#define RAPHSON_ISA_ENTRY(space) \
    namespace raphson::space {   \
    double wall_probe(int n);    \
    }
RAPHSON_ISA_LIST
#undef RAPHSON_ISA_ENTRY

TEST_CASE("wall: every instruction set has an Eigen of its own") {
    struct Probe {
        const char* space;
        double (*run)(int);
    };
#define RAPHSON_ISA_ENTRY(space) {#space, raphson::space::wall_probe},
    const Probe probes[] = {RAPHSON_ISA_LIST};
#undef RAPHSON_ISA_ENTRY
    int ran = 0;
    for (const Probe& probe : probes) {
        if (!raphson::cpu_runs(probe.space)) continue;
        ++ran;
        CAPTURE(std::string(probe.space));
        for (const int n : {1, 2, 3, 8, 17, 40}) CHECK(probe.run(n) < 1e-9);
    }
    CHECK(ran > 0);
}
