#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "cuda/table.h"

// On a GPU, or (compiled against emulation/) on the CPU. Status 77, which ctest reports as skipped, where there is none.
int main(int argc, char** argv) {
    int devices = 0;
    try {
        devices = raphson::cuda_table().device_count();
    } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
    }
    if (devices == 0) {
        std::printf("skipped: no CUDA device\n");
        return 77;
    }
    doctest::Context context(argc, argv);
    return context.run();
}
