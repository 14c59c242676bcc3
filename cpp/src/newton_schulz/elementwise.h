// The passes of what is no product: order statistics of magnitudes, clipping, hyperbolic scaling, and the sums and
// updates between the products of the derivative.
#pragma once

#include <cstdint>

#include "newton_schulz/passes.h"
#include "raphson/view.h"

namespace raphson {

// Magnitudes as integers: the bits of |x|, which sort as |x| does. 64 bits for float64, else 32.
using MagnitudeKey = std::int64_t;

struct MagnitudeCounts {
    std::int64_t elements, below, upto;  // all keys, those < low, those ≤ high
    MagnitudeKey largest;
};

struct ElementwiseTable {
    // The keys of `count` elements whose positions depend on the shape alone and are spread evenly over the matrix.
    void (*sample)(const MatrixRef& x, std::int64_t count, MagnitudeKey* keys);
    // count and gather cut x into this many tasks.
    std::int64_t (*count_tasks)(const MatrixRef& x);
    // One read; counts of every task.
    void (*count)(const MatrixRef& x, MagnitudeKey low, MagnitudeKey high, MagnitudeCounts* of_task);
    // One read; the keys in [low, high] of task t are written from keys[offsets[t]] on. `keys` has the width of
    // MagnitudeKey for float64, else of int32.
    void (*gather)(const MatrixRef& x, MagnitudeKey low, MagnitudeKey high, const std::int64_t* offsets, void* keys);
    // clipped = x limited to [-limit, limit], which is a number of x's type; outliers = x - clipped, rounded once.
    void (*split)(const MatrixRef& x, double limit, const MatrixRef& clipped, const MatrixRef& outliers);

    // Σ (cosh(x·scale·rescale) - 1) in float64; largest bounds |x·scale·rescale|.
    double (*sum_cosh_less_one)(const MatrixRef& x, double scale, double rescale, double largest);
    // out = (x·scale)·rescale, multiplied in float64; out may be x.
    void (*scaled)(const MatrixRef& x, double scale, double rescale, const MatrixRef& out);

    // The rest: row-major, contiguous matrices of float64 or float32.
    // dots[i] = Σⱼ aᵢⱼ bᵢⱼ in float64.
    void (*row_dots)(DType dtype, const void* a, const void* b, std::int64_t rows, std::int64_t cols, double* dots);
    // out = alpha (a + aᵀ) + beta base, all m×m, out symmetric to the bit if base is; base may be null. out is not a.
    void (*symmetric_sum)(DType dtype, const void* a, std::int64_t m, double alpha, const void* base, double beta,
                          void* out);
    // outᵢⱼ = (wᵢ + wⱼ) sign(aᵢⱼ), m×m.
    void (*signed_weights)(DType dtype, const void* a, std::int64_t m, const double* w, void* out);
    // g ← diag(row) g + alpha x; `row` may be null (ones).
    void (*update)(DType dtype, void* g, const void* x, std::int64_t rows, std::int64_t cols, const double* row,
                   double alpha);
};

}  // namespace raphson
