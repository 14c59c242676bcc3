// The small dense algebra behind a sketch. Row major float64; n is the number of columns of the tall matrix.
#pragma once

#include <cstdint>

namespace raphson {

struct SketchCoreTable {
    // Householder: the upper triangle r (n × n) of a (rows × n, destroyed); zero rows where a has fewer.
    void (*qr)(double* a, std::int64_t rows, std::int64_t n, double* r);
    // r (n × n, leading dimension ld) = u diag(s) vᵀ, s from the largest down; u, v (n × n) by columns.
    void (*svd)(const double* r, std::int64_t ld, std::int64_t n, double* u, double* s, double* v);
    // x ← r⁻¹ x, or r⁻ᵀ x, for an upper triangle.
    void (*solve)(const double* r, std::int64_t ld, std::int64_t n, bool transposed, double* x);
    // Largest and smallest singular value of the upper triangle: exact up to n = 64, else power iterations.
    void (*extremes)(const double* r, std::int64_t ld, std::int64_t n, double* largest, double* smallest);
    // out (n × n): the upper triangle of rᵀr + shift I.
    void (*shifted)(const double* r, std::int64_t ld, std::int64_t n, double shift, double* out);
    // Minimum-norm solution of a x = b, a (rows × n, rows < n, destroyed), singular values up to rcond·largest taken as
    // zeros; b (rows × k), x (n × k). Gives the rank, and the singular values' extremes.
    std::int64_t (*wide)(double* a, std::int64_t rows, std::int64_t n, const double* b, std::int64_t k, double rcond, double* x,
                         double* largest, double* smallest);
    // g (n × n, symmetric) becomes its Cholesky factor; false where it is not positive definite.
    bool (*cholesky)(double* g, std::int64_t n);
    // x ← g⁻¹ x by that factor.
    void (*cholesky_solve)(const double* factor, std::int64_t n, double* x);
};

}  // namespace raphson
