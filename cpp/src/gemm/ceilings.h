// The ceilings that speed is judged against, measured on the machine and in the run that is judged.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

struct CeilingTable {
    // Runs a register-only loop of this ISA's widest multiply-adds (bfloat16: dot products where the ISA has them, else
    // the float32 loop) `rounds` times on one thread and returns the floating-point operations done (multiply and add
    // count two). `sink` keeps the result alive.
    double (*fma_loop)(DType dtype, std::int64_t rounds, double* sink);
    // Reads `bytes` of memory once (64-byte aligned, multiple of 1 KiB) with the widest loads; returns a checksum.
    double (*read_loop)(const void* data, std::int64_t bytes);
};

}  // namespace raphson
