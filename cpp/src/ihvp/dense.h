// Dense float64 triangles of any size, in blocks on the packed products. Row major, lower.
#pragma once

#include <cstdint>

namespace raphson {

// The lower triangle of a (n×n) becomes its Cholesky factor; the upper one is not touched. Pivots below `floor`, a lower
// bound of the smallest eigenvalue, are rounding errors and raised to it; says how many were. n³/3 flops.
std::int64_t cholesky(double* a, std::int64_t lda, std::int64_t n, double floor);

// x (n×cols) ← L⁻¹ x, or L⁻ᵀ x. n²·cols flops each.
void solve_lower(const double* l, std::int64_t ldl, std::int64_t n, double* x, std::int64_t ldx, std::int64_t cols);
void solve_lower_transposed(const double* l, std::int64_t ldl, std::int64_t n, double* x, std::int64_t ldx,
                            std::int64_t cols);

}  // namespace raphson
