#include <algorithm>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;

namespace {

constexpr int64_t block = 64, inner = 8;
constexpr int64_t strips_alone = 128;  // up to this order the strips reach every row: a product would cost more

// Columns swapped as the pivots say, in rows that did not take part.
void swap_columns(double* a, int64_t lda, int64_t rows, const int64_t* pivots, int64_t first, int64_t count) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t r = 0; r < count; ++r) std::swap(a[i * lda + first + r], a[i * lda + pivots[r]]);
    }
}

// Pivot rows that the other rows meet one after the other, as one: x[first + r] = f_r when row r is met, and it has met
// those before by then. So with M = x[first …] the factors are F = M (I + U)⁻¹, U what is above the diagonal of the pivot
// rows' own columns; and x −= F·P, M and U replaced by zeros. Factors made from reduced pivot rows (F = M) would do in
// exact arithmetic, but those grow where the block is ill-conditioned, however harmless the matrix.
class Pivots {
public:
    // p (count×n): the rows; U is taken out of it.
    Pivots(double* p, int64_t n, int64_t first, int64_t count) : p_(p), n_(n), first_(first), count_(count) {
        for (int64_t r = count - 1; r >= 0; --r) {  // row r of the inverse: e_r − Σ u[r][k] row k
            double* const row = inverse_ + r * count;
            for (int64_t q = 0; q < count; ++q) row[q] = q == r ? 1.0 : 0.0;
            for (int64_t k = r + 1; k < count; ++k) {
                double& u = p[r * n + first + k];
                for (int64_t q = k; q < count; ++q) row[q] -= u * inverse_[k * count + q];
                u = 0;
            }
        }
    }
    // The other rows' share: m and f hold rows × count.
    void meet(double* a, int64_t lda, int64_t rows, double* m, double* f) const {
        if (rows == 0) return;
        const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t r = 0; r < count_; ++r) {
                m[i * count_ + r] = a[i * lda + first_ + r];
                a[i * lda + first_ + r] = 0;
            }
        }
        gemm.product(rows, count_, count_, 1.0, m, count_, inverse_, count_, 0.0, nullptr, 0, f, count_);
        gemm.product(rows, n_, count_, -1.0, f, count_, p_, n_, 1.0, a, lda, a, lda);
    }

private:
    double* p_;
    int64_t n_, first_, count_;
    double inverse_[block * block];  // (I + U)⁻¹
};

}  // namespace

bool invert(double* a, int64_t lda, int64_t n) {
    const DenseTable& dense = kernels().dense;
    Workspace scratch;
    double* const m = scratch.take_array<double>(n * block);
    double* const f = scratch.take_array<double>(n * block);
    double* const p = scratch.take_array<double>(n * std::max(block, std::min(n, strips_alone)));
    int64_t* const pivots = scratch.take_array<int64_t>(n);
    const int64_t panel_rows = n <= strips_alone ? n : block;
    for (int64_t k = 0; k < n; k += panel_rows) {
        const int64_t width = std::min(panel_rows, n - k);
        double* const panel = a + k * lda;
        for (int64_t j = 0; j < width; j += inner) {  // the panel's rows among themselves
            const int64_t count = std::min(inner, width - j), below = width - j - count, first = k + j;
            double* const rows = panel + j * lda;
            if (!dense.eliminate(rows, lda, count, n, first, pivots + first, p + j * n)) return false;
            swap_columns(panel, lda, j, pivots + first, first, count);
            swap_columns(rows + count * lda, lda, below, pivots + first, first, count);
            swap_columns(p, n, j, pivots + first, first, count);
            dense.absorb(panel, lda, j, n, first, count, p + j * n);
            dense.absorb(rows + count * lda, lda, below, n, first, count, p + j * n);
        }
        const int64_t next = k + width;
        swap_columns(a, lda, k, pivots + k, k, width);
        swap_columns(a + next * lda, lda, n - next, pivots + k, k, width);
        if (width < n) {
            const Pivots all(p, n, k, width);
            all.meet(a, lda, k, m, f);
            all.meet(a + next * lda, lda, n - next, m, f);
        }
        if (poll_cancelled()) return false;
    }
    // (A P)⁻¹ = P⁻¹ A⁻¹: the rows go back in the opposite order.
    for (int64_t k = n - 1; k >= 0; --k) {
        if (pivots[k] != k) std::swap_ranges(a + k * lda, a + k * lda + n, a + pivots[k] * lda);
    }
    return true;
}

}  // namespace raphson
