// ROOT's outlier split and AuON's scaling: the two maps of the family that need no products.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/table.h"
#include "newton_schulz/orthogonalize.h"

namespace raphson {

// Argument rules; std::invalid_argument names the argument, both shapes and what was expected.
void check_soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers);
void check_auon(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out);

// Checked arguments; outputs of x's type. Nothing has been written when NaN or Inf in x throws std::invalid_argument.
void soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers);
void auon(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out);

// The same of arrays on a device, of float16 too. NaN or Inf in a matrix makes NaN of all its results. Outputs are C-contiguous.
void auon_on_device(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out, const CudaTable& table, CudaPlace place);

// Between which of `total` sorted numbers the quantile lies, and how far from the first.
struct QuantilePlace {
    std::int64_t first, second;
    double share;

    QuantilePlace(std::int64_t total, double quantile) {
        const double at = static_cast<double>(total - 1) * quantile;
        first = std::min(static_cast<std::int64_t>(at), total - 1);
        second = std::min(first + 1, total - 1);
        share = at - static_cast<double>(first);
    }
    // Each exact at its own end.
    static constexpr double between(double a, double b, double share) {
        return share < 0.5 ? a + (b - a) * share : b - (b - a) * (1 - share);
    }
};

// What a call costs, in the unit of orthogonalize_flops: for the choice to release the GIL.
double soft_clip_flops(const BatchRef& x);
double auon_flops(const BatchRef& x, int hybrid_steps);

}  // namespace raphson
