// Polynomials of a matrix times vectors.
#pragma once

#include <cstdint>

#include "raphson/rows.h"

namespace raphson {

// y₀ = y₋₁ = 0, yₛ₊₁ = a yₛ + b A yₛ + c yₛ₋₁ + d v for rows (a, b, c, d) of `steps`: Horner's rule, Chebyshev's recurrence.
// A (n×n) dense or CSR; v (columns × n), out the last y (columns × n), which may not overlap v. One read of A a step and four
// columns. std::invalid_argument: shapes.
void apply_recurrence(const RowBlock& a, const double* steps, std::int64_t count, const double* v, std::int64_t columns, double* out);

}  // namespace raphson
