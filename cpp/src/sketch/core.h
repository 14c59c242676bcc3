// The small dense algebra behind a sketch, beyond what dense/ has. Row major float64; n is the number of columns of the
// tall matrix.
#pragma once

#include <cstdint>
#include <vector>

#include "dense/blocks.h"

namespace raphson {

struct SketchCoreTable {
    // r (n × n, leading dimension ld) = u diag(s) vᵀ, s from the largest down; u, v (n × n) by columns.
    void (*svd)(const double* r, std::int64_t ld, std::int64_t n, double* u, double* s, double* v);
    // Largest and smallest singular value of the upper triangle: exact up to n = 16, else power iterations.
    void (*extremes)(const DenseTable& dense, const double* r, std::int64_t ld, std::int64_t n, double* largest,
                     double* smallest);
};

// The upper triangle r (n × n) of a (rows × n, destroyed); zero rows where a has fewer.
void upper_triangle(double* a, std::int64_t rows, std::int64_t n, double* r);
// r (n × (n + k)): that of a's first n columns (a: rows × (n + k), destroyed) and, beside it, n rows of Qᵀ times the others.
void upper_triangle_beside(double* a, std::int64_t rows, std::int64_t n, std::int64_t k, double* r);
// out (n × n): the upper triangle of rᵀr + shift I. gram: rᵀr, or empty, and kept where it is needed.
void shifted_triangle(const double* r, std::int64_t ld, std::int64_t n, double shift, std::vector<double>& gram, double* out);
// Minimum-norm solution of a x = b, a (rows × n, rows < n), singular values up to rcond·largest taken as zeros; b (rows ×
// k), x (n × k). Gives the rank, and the singular values' extremes.
std::int64_t solve_wide(const double* a, std::int64_t rows, std::int64_t n, const double* b, std::int64_t k, double rcond,
                        double* x, double* largest, double* smallest);

}  // namespace raphson
