// Least squares by the Cholesky factor of AᵀA, for matrices whose condition allows it.
#pragma once

#include <cstdint>
#include <optional>

#include "raphson/sketch.h"
#include "sketch/lstsq_rows.h"

namespace raphson {

// Whether that is expected to be the fastest way, by the shape alone.
bool gram_pays(const RowSource& a);

// Nothing where A's condition, range or rank is beyond it, or where it does not reach tol: other methods are asked then.
// sweeps counts the reads of A, of which it then took one or none.
std::optional<LstsqResult> lstsq_by_gram(const LstsqRows& passes, const RowSource& a, std::int64_t k, DType precision,
                                         const LstsqOptions& options, double tol, int& sweeps);

}  // namespace raphson
