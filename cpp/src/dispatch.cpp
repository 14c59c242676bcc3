#include <cstdlib>
#include <stdexcept>
#include <string>

#include "common/cpu.h"
#include "raphson/runtime.h"
#include "table.h"

namespace raphson {

#define RAPHSON_ISA_ENTRY(space)           \
    namespace space {                      \
    extern const KernelTable kernel_table; \
    }
RAPHSON_ISA_LIST
#undef RAPHSON_ISA_ENTRY

BuiltTables built_tables() {
#define RAPHSON_ISA_ENTRY(space) {&space::kernel_table, cpu_runs(#space)},
    static const BuiltTable tables[] = {RAPHSON_ISA_LIST};
#undef RAPHSON_ISA_ENTRY
    return {tables, static_cast<int>(sizeof tables / sizeof *tables)};
}

namespace {

const KernelTable& pick() {
    const BuiltTables built = built_tables();
    const char* cap = std::getenv("RAPHSON_ISA");
    int last = built.count - 1;
    if (cap != nullptr && *cap != '\0') {
        std::string known;
        for (last = 0; last < built.count && std::string(built.first[last].table->isa) != cap; ++last) {
            known += std::string(last == 0 ? "" : ", ") + built.first[last].table->isa;
        }
        if (last == built.count) {
            throw std::invalid_argument("RAPHSON_ISA must be one of " + known + "; got '" + cap + "'");
        }
    }
    for (; last >= 0; --last) {
        if (built.first[last].runs_here) return *built.first[last].table;
    }
    throw std::runtime_error("raphson: this CPU lacks " + std::string(built.first[0].table->isa) +
                             ", the lowest instruction set that this build has code for");
}

}  // namespace

const KernelTable& kernels() {
    static const KernelTable& table = pick();
    return table;
}

BuildInfo build_info() {
    BuildInfo info;
    info.version = RAPHSON_VERSION;
    info.isa = kernels().isa;
    info.eigen = kernels().eigen_version;
    const BuiltTables built = built_tables();
    for (int i = 0; i < built.count; ++i) info.isas.emplace_back(built.first[i].table->isa);
    return info;
}

}  // namespace raphson
