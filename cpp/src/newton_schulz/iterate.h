// The steps between load and store: products on contiguous matrices.
#pragma once

#include <cstddef>
#include <cstdint>

#include "raphson/newton_schulz.h"
#include "table.h"

namespace raphson {

// Scratch of one matrix of m×n (m ≤ n), all of the plan's precision, contiguous.
struct IterationBuffers {
    void *x, *y;      // m×n; x holds the matrix, divided by its Frobenius norm (times the factor, when that is the rule)
    void* square[5];  // m×m; `standard` uses the first two
    double* factors;  // m
};

constexpr int square_buffers(Method method) { return method == Method::gram ? 5 : 2; }

// Runs the plan's steps and returns the buffer (x or y) that holds the result. Stops early once cancelled().
void* iterate(const KernelTable& table, const OrthogonalizePlan& plan, double eps, std::int64_t m, std::int64_t n,
              const IterationBuffers& buffers);

}  // namespace raphson
