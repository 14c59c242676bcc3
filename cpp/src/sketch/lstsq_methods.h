// Methods of least squares that stand by themselves: by the Cholesky factor of AᵀA, and of wide matrices.
#pragma once

#include <cstdint>
#include <optional>

#include "raphson/sketch.h"
#include "sketch/lstsq_rows.h"

namespace raphson {

// Thrown inwards: products of A's entries would leave the range of float64, or its precision.
struct OutOfRange {};
// By A's Frobenius norm; `as_it_is`: whatever it is.
inline void check_range(double frobenius, bool as_it_is) {
    if (!as_it_is && !(frobenius > 1e-70 && frobenius < 1e70)) throw OutOfRange();
}

// x as it is returned: in the data's dtype, of a problem whose A and b were scaled by powers of two.
struct Returned {
    DType type = DType::float64;
    int exponent = 0;  // 2^exponent·x is the caller's x

    double rounded(double x) const;  // to that dtype, in the solver's units
    double unscaled(double x) const;  // Inf is refused
};

constexpr std::int64_t widest_sparse = 4096;  // columns of a compressed matrix whose triangle is formed

// Whether the Cholesky factor of AᵀA is to be tried: where it was asked for and can exist, or is expected to be the fastest
// way, by the shape alone.
bool gram_first(const RowSource& a, std::int64_t k, const LstsqOptions& options);

// Nothing where A's condition, range or rank is beyond it, or where it does not reach tol: other methods are asked then.
// sweeps counts the reads of A that this took.
std::optional<LstsqResult> lstsq_by_gram(const LstsqRows& passes, const RowSource& a, std::int64_t k, const Returned& returned,
                                         const LstsqOptions& options, double tol, int& sweeps);

// The solution of least norm of fewer rows than columns, by QR of Aᵀ; A is copied.
LstsqResult lstsq_wide(const RowSource& a, const double* b, std::int64_t k, const Returned& returned, const LstsqOptions& options,
                       double tol, bool as_it_is);

}  // namespace raphson
