// Dense float64 factorisations of any size, in blocks on the packed products. Row major.
#pragma once

#include <cstdint>
#include <vector>

namespace raphson {

// The lower triangle of a (n×n) becomes its Cholesky factor; the upper one is not touched. Pivots below `floor`, a lower
// bound of the smallest eigenvalue, are rounding errors and raised to it; says how many were. n³/3 flops.
std::int64_t cholesky(double* a, std::int64_t lda, std::int64_t n, double floor);

// x (n×cols) ← L⁻¹ x, or L⁻ᵀ x. n²·cols flops each.
void solve_lower(const double* l, std::int64_t ldl, std::int64_t n, double* x, std::int64_t ldx, std::int64_t cols);
void solve_lower_transposed(const double* l, std::int64_t ldl, std::int64_t n, double* x, std::int64_t ldx,
                            std::int64_t cols);

// Householder's QR of a (rows×n) in place: the reflectors below the diagonal of a, R on and above it.
// 2n²(rows − n/3) flops (rows ≥ n).
class HouseholderQr {
public:
    HouseholderQr(double* a, std::int64_t lda, std::int64_t rows, std::int64_t n);
    // r (n×n): the upper triangle; zero rows where a has fewer than n.
    void upper(double* r, std::int64_t ldr) const;
    // c (rows×cols) ← Q c, or Qᵀ c. 4·rows·n·cols flops.
    void apply(bool transposed, double* c, std::int64_t ldc, std::int64_t cols) const;

private:
    static constexpr std::int64_t block = 32, inner = 8;
    void factor_panel(std::int64_t k, std::int64_t width, double* v, double* vt, double* t);
    void reflectors(std::int64_t k, std::int64_t width, double* v, double* vt) const;

    double* a_;
    std::int64_t lda_, rows_, n_, count_;
    std::vector<double> t_;  // of every panel, block×block: Q of the panel is I − V T Vᵀ
};

// T of H₀ H₁ … = I − V T Vᵀ, from tau and S = VᵀV (width×width): T[j][j] = tau[j], above it −tau[j] T s_j.
void reflector_triangle(const double* tau, const double* s, std::int64_t width, double* t, std::int64_t ldt);

// a (n×n, symmetric, its upper triangle is read, destroyed) = Vᵀ diag(values) V: values ascending, row i of v belongs to
// values[i]. Householder's tridiagonal form, then implicit QL, its rotations kept and applied to 16 rows at a time, which
// is arithmetic and not memory. An eigenvalue takes at most `most_steps` QL steps; gives the most that one took, or a
// larger number where that was not enough: then V T Vᵀ is not diagonal yet. About 4n³ + 5n³ flops.
std::int64_t eigh(double* a, std::int64_t n, double* values, double* v, std::int64_t most_steps);

// a (n×n) ← its inverse, by Gauss–Jordan elimination with partial pivoting: every flop but those of narrow panels is a
// product's. False where a pivot is 0 or not finite, a is then lost. 2n³ flops.
bool invert(double* a, std::int64_t lda, std::int64_t n);

// out (cols×rows) ← aᵀ.
void transpose(const double* a, std::int64_t lda, std::int64_t rows, std::int64_t cols, double* out, std::int64_t ldo);

}  // namespace raphson
