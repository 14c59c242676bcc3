// The small blocks of the blocked dense factorisations, and triangles met by one vector. Row major float64, one thread.
#pragma once

#include <cstdint>

namespace raphson {

// Plane rotations that an implicit QL step makes, from column `last` down to column `first`: (c, s, −s) from entry `start`
// on, three numbers each.
struct RotationSweep {
    std::int64_t first, last, start;
};
constexpr std::int64_t rotated_rows = 16;  // of the matrix they are applied to, at a time

// The eigenvalues of D + rho z zᵀ: the poles D ascending and distinct, rho > 0, no z[i] zero. A root is kept as the pole next
// to it and its distance from there: poles[i] − root = (poles[i] − base) − tau then has full relative accuracy.
struct SecularEquation {
    std::int64_t count = 0;
    double rho = 0, squares = 0;    // squares: Σ z[i]²
    const double* poles = nullptr;  // these two: count rounded up to secular_lanes, there zeros in z below poles
    const double* z = nullptr;      // that are larger than all others
    double* base = nullptr;
    double* tau = nullptr;
};
constexpr std::int64_t secular_lanes = 8;

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
    // y −= Σ c[q]·x[q] for `count` vectors of n entries, `stride` apart.
    void (*subtract_rows)(std::int64_t n, std::int64_t count, const double* c, const double* x, std::int64_t stride, double* y);
    // sums[q] = x[q]·y for such vectors.
    void (*dot_rows)(std::int64_t n, std::int64_t count, const double* x, std::int64_t stride, const double* y, double* sums);
    // Householder reflectors of a few columns, each contiguous (p: count rows of h entries, ldp apart): column j keeps R's
    // entries 0 … j, below them the reflector v (its first entry, 1, is not stored). H = I − tau v vᵀ; tau 0 where there
    // is nothing to do.
    void (*reflect)(double* p, std::int64_t ldp, std::int64_t count, std::int64_t h, double* tau);
    // The first `count` columns of a symmetric matrix brought to tridiagonal form (upper triangle, a: n×n from the first of
    // them on): d, e (the entries beside the diagonal), tau, and by rows v and w (count×n), v the reflectors with their
    // ones and zeros, so that what is left is A − VᵀW − WᵀV from row and column `count` on; a itself is only read. Columns
    // below 1e-100 count as zeros: A's norm must be far above that.
    void (*tridiagonal_panel)(const double* a, std::int64_t lda, std::int64_t n, std::int64_t count, double* d, double* e,
                              double* tau, double* v, double* w);
    // Rows i and i + 1 of x (n×n), as (c −s; s c) for every rotation, in columns from … from + rotated_rows (fewer at the
    // end); rows (n × rotated_rows) is scratch. Four sweeps follow one another closely: each entry is read once for four.
    void (*rotate)(double* x, std::int64_t n, std::int64_t from, const double* rotations, const RotationSweep* sweeps,
                   std::int64_t count, double* rows);
    // The roots first … last − 1 of 1 + rho Σ z[i]²/(poles[i] − root) = 0, each in its interval between poles. Gives the most
    // evaluations of the sum that one took; past `most` it gives up, between the poles still.
    std::int64_t (*secular_roots)(const SecularEquation& problem, std::int64_t first, std::int64_t last, std::int64_t most);
    // exact[i], i = from … from + secular_lanes − 1: the √rho z for which these roots are exact (Löwner's formula).
    void (*secular_weights)(const SecularEquation& problem, std::int64_t from, double* exact);
    // Rows first … last − 1 of s: z[i]/(poles[i] − root) normalised, root by root, the poles in any order. Rows go on with
    // zeros up to a multiple of secular_lanes.
    void (*secular_vectors)(const SecularEquation& problem, std::int64_t first, std::int64_t last, double* s, std::int64_t lds);
    // out ← a·x + b·yᵀ (n×n, contiguous; out may be x); gives ‖out − x‖_F².
    double (*blend_transposed)(std::int64_t n, double a, const double* x, double b, const double* y, double* out);
    // The 1-norm, the ∞-norm and the squared Frobenius norm of x (n×n, contiguous).
    void (*norms)(std::int64_t n, const double* x, double* one, double* infinity, double* squares);
    // Gauss–Jordan elimination with a few rows of A (count×n) as pivot rows, the first pivot in column `first`: of the
    // columns from there on the one with the largest entry is swapped there, pivots[r] says which it was. Leaves the rows
    // of the inverse so far, and in `kept` (count×n) each pivot row as it was when it met the others. False where a pivot
    // is 0 or not finite.
    bool (*eliminate)(double* a, std::int64_t lda, std::int64_t count, std::int64_t n, std::int64_t first,
                      std::int64_t* pivots, double* kept);
    // The other rows' share (a: rows×n): they meet those kept rows one after the other. count ≤ 8.
    void (*absorb)(double* a, std::int64_t lda, std::int64_t rows, std::int64_t n, std::int64_t first, std::int64_t count,
                   const double* kept);
};

}  // namespace raphson
