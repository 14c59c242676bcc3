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
// values[i]. Householder's tridiagonal form, then divide and conquer (tridiagonal.h), whose few, orthogonal factors turn
// vectors less often than QL's rotations. Gives the most steps that an eigenvalue took, of QL on a leaf or for a root of a
// secular equation; a larger number than `most_steps` where those were not enough: V is orthogonal then, but V A Vᵀ not
// diagonal yet. About 4/3 n³ flops, as many for the merges unless vectors deflate, and 2n³.
std::int64_t eigh(double* a, std::int64_t n, double* values, double* v, std::int64_t most_steps);

// a (n×n) ← its inverse, by Gauss–Jordan elimination with partial pivoting: every flop but those of narrow panels is a
// product's. False where a pivot is 0 or not finite, a is then lost. 2n³ flops.
bool invert(double* a, std::int64_t lda, std::int64_t n);

// How many eigenvalues are positive, negative and, to rounding, zero.
struct PivotSigns {
    std::int64_t positive = 0, negative = 0, zero = 0;
};

// P A Pᵀ = L D Lᵀ of a symmetric, indefinite matrix, D with blocks of one and two (Bunch and Kaufman 1977, partial
// pivoting), for its first columns: in panels, the rest in products. Pivots are looked for in those columns' rows only; one
// below `threshold` times the rest of its column waits, behind those that were found (Duff and Reid 1983).
struct PivotedColumns {
    double* a = nullptr;  // n×n: the upper triangle is read; its first `done` rows become Lᵀ, the rest the Schur complement
    std::int64_t lda = 0, n = 0, count = 0;
    double zero = 0;       // a column that is nowhere above this is left out, as if it were zeros
    double threshold = 0;  // where count < n
    double* d = nullptr;   // count: D's diagonal
    double* e = nullptr;   // count: and the entry right of it where a block of two begins, else 0
    std::int64_t* order = nullptr;  // count: which row came to stand where; given as 0, 1, …
    PivotSigns signs{};
    std::int64_t done = 0;

    void factor();

private:
    static constexpr std::int64_t block = 48;
    void factor_panel(std::int64_t first, std::int64_t most, double* w);
    void interchange(std::int64_t k, std::int64_t p, std::int64_t rows_of_w, double* w);
    bool stable(std::int64_t k, bool two, const double* w1, const double* w2) const;

    std::int64_t candidates = 0;  // those behind them wait
};
// x ← D⁻¹ x; a zero pivot's entry is 0.
void solve_pivots(const double* d, const double* e, std::int64_t count, double* x);
// The most negative eigenvalue of D, and x its eigenvector; 0, and x = 0, where there is none.
double most_negative_pivot(const double* d, const double* e, std::int64_t count, double* x);

// The whole of such a matrix. Sylvester: it has as many eigenvalues of each sign as D. n³/3 flops.
class Ldlt {
public:
    // a (n×n): its upper triangle is read and becomes Lᵀ; it must live as long as this. Pivots up to `zero` count as 0:
    // solve() leaves their component of the solution at 0.
    void factor(double* a, std::int64_t lda, std::int64_t n, double zero);
    void solve(double* x) const;  // x ← A⁻¹ x, 2n² flops
    PivotSigns signs() const { return columns_.signs; }
    // p with pᵀ A p = the most negative eigenvalue of D's blocks, which it gives (0, and p = 0, where there is none).
    double negative_direction(double* p) const;

private:
    PivotedColumns columns_;
    std::vector<double> d_, e_;
    std::vector<std::int64_t> order_;
};

// out (cols×rows) ← aᵀ.
void transpose(const double* a, std::int64_t lda, std::int64_t rows, std::int64_t cols, double* out, std::int64_t ldo);

}  // namespace raphson
