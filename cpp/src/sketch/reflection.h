// Least squares with an intercept or weights as plain least squares of fewer rows.
#pragma once

#include <cstdint>

#include "raphson/rows.h"

namespace raphson {

// A reflection that takes √w to a multiple of one row p, applied to √w·[X 1], leaves the intercept in that row alone. The
// others are √w (x − x_p − d/(1 + √(w_p/Σw))) with d the weighted mean of x − x_p: one row less than centring leaves, so
// that no row depends on the others, and a constant column is exactly 0.
struct Reflection {
    std::int64_t row = -1;           // p; −1: rows are only scaled by √w
    const double* weight = nullptr;  // null: ones
    double total = 0;                // Σw
};
// x: dense, in memory; out: packed rows of x's type, all but p; mean (cols): the weighted mean of x (p ≥ 0). Two reads of x
// and a write.
void reflect(const RowBlock& x, const Reflection& by, void* out, double* mean);

}  // namespace raphson
