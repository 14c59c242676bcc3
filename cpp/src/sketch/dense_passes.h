// The passes of dense embeddings: normal numbers by position, and Hadamard transforms.
#pragma once

#include <cstdint>

namespace raphson {

constexpr std::int64_t hadamard_columns = 16;  // transformed together

struct DenseSketchTable {
    // out (rows × n, leading dimension ld) = scale · N(0, 1). Entry (r, i) by Box and Muller from the numbers of
    // Philox4x32-10 at (first + i, r / 4), in float64 from 32 bits each.
    void (*normals)(std::uint64_t seed, std::uint32_t stream, std::int64_t first, std::int64_t n, std::int64_t rows, double scale,
                    double* out, std::int64_t ld);
    // x (rows × hadamard_columns) ← H x, H the unnormalised Sylvester-Hadamard matrix; rows a power of two.
    void (*hadamard)(double* x, std::int64_t rows);
};

}  // namespace raphson
