#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "raphson/runtime.h"
#include "table.h"

// Says what is tested first: a wrong RAPHSON_ISA or RAPHSON_NUM_THREADS ends here with its message and status 2. An
// instruction set that was asked for and that this CPU lacks is status 77, which ctest reports as skipped.
int main(int argc, char** argv) {
    try {
        const raphson::BuildInfo info = raphson::build_info();
        std::printf("raphson %s, %s, %d threads, Eigen %s\n", info.version.c_str(), info.isa.c_str(),
                    raphson::get_num_threads(), info.eigen.c_str());
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        return 2;
    }
    if (const char* wanted = std::getenv("RAPHSON_ISA")) {
        const raphson::BuiltTables built = raphson::built_tables();
        for (int i = 0; i < built.count; ++i) {
            if (built.first[i].table->isa == std::string(wanted) && !built.first[i].runs_here) {
                std::printf("skipped: this CPU does not run %s\n", wanted);
                return 77;
            }
        }
    }
    doctest::Context context(argc, argv);
    return context.run();
}
