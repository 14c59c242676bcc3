// The steps between load and store: products of matrices in scratch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "raphson/newton_schulz.h"
#include "table.h"

namespace raphson {

// Scratch of one matrix of m×n (m ≤ n), all of the plan's precision.
struct IterationBuffers {
    void *x, *y;      // m×n; x holds the matrix, divided by its Frobenius norm (times the factor, when that is the rule)
    void* square[5];  // m×m; `standard` uses the first two
    double* factors;  // m
    std::int64_t ld, square_ld;  // numbers from row to row of m×n and of m×m
};

// Numbers from row to row of scratch with rows of n numbers. Where rows are a multiple of 2 KiB apart, those that a bfloat16
// product reads together lie in the same few sets of the first-level cache: such rows get a cache line more.
constexpr std::int64_t row_length(std::int64_t n, DType precision) {
    return precision == DType::bfloat16 && n % 1024 == 0 ? n + 32 : n;
}

constexpr int square_buffers(Method method) { return method == Method::gram ? 5 : 2; }

// Runs the plan's steps and returns the buffer (x or y) that holds the result. Stops early once cancelled().
void* iterate(const KernelTable& table, const OrthogonalizePlan& plan, double eps, std::int64_t m, std::int64_t n,
              const IterationBuffers& buffers);

}  // namespace raphson
