// The small blocks of the blocked dense factorisations, and triangles met by one vector. Row major float64, one thread.
#pragma once

#include <cstdint>

namespace raphson {

struct DenseTable {
    // n×n, n small: the lower triangle becomes the Cholesky factor. Pivots below `floor`, which exact arithmetic never
    // meets (the smallest eigenvalue is known to be at least that), are raised to it; says how many.
    std::int64_t (*factor_block)(double* a, std::int64_t lda, std::int64_t n, double floor);
    // rows of x (rows×n) ← x L⁻ᵀ.
    void (*solve_rows)(const double* l, std::int64_t ldl, std::int64_t n, double* x, std::int64_t ldx, std::int64_t rows);
    // x (n×cols) ← L⁻¹ x, or L⁻ᵀ x.
    void (*solve_columns)(const double* l, std::int64_t ldl, std::int64_t n, bool transposed, double* x, std::int64_t ldx,
                          std::int64_t cols);
    // x ← T⁻¹ x, or T⁻ᵀ x, for one vector and an upper or a lower triangle of any size; and the product T x, or Tᵀ x.
    void (*solve_triangle)(const double* t, std::int64_t ld, std::int64_t n, bool upper, bool transposed, double* x);
    void (*upper_times)(const double* t, std::int64_t ld, std::int64_t n, bool transposed, const double* x, double* y);
    // Householder reflectors of a few columns, each contiguous (p: count rows of h entries, ldp apart): column j keeps R's
    // entries 0 … j, below them the reflector v (its first entry, 1, is not stored). H = I − tau v vᵀ; tau 0 where there
    // is nothing to do.
    void (*reflect)(double* p, std::int64_t ldp, std::int64_t count, std::int64_t h, double* tau);
    // Gauss–Jordan elimination with a few rows of A (count×n) as pivot rows, the first pivot in column `first`: of the
    // columns from there on the one with the largest entry is swapped there, pivots[r] says which it was. Leaves the rows
    // of the inverse so far. False where a pivot is 0 or not finite.
    bool (*eliminate)(double* a, std::int64_t lda, std::int64_t count, std::int64_t n, std::int64_t first,
                      std::int64_t* pivots);
};

}  // namespace raphson
