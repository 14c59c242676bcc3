#include <algorithm>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;

namespace {

constexpr int64_t block = 64, inner = 8;

// Columns swapped as the pivots say, in rows that did not take part.
void swap_columns(double* a, int64_t lda, int64_t rows, const int64_t* pivots, int64_t first, int64_t count) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t r = 0; r < count; ++r) std::swap(a[i * lda + first + r], a[i * lda + pivots[r]]);
    }
}

// The other rows' share of one step: a −= M·G, M the columns first … first+count of a, which are replaced.
void eliminate_others(double* a, int64_t lda, int64_t rows, int64_t n, int64_t first, int64_t count, const double* pivot_rows,
                      int64_t ldp, double* m) {
    if (rows == 0) return;
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t r = 0; r < count; ++r) {
            m[i * count + r] = a[i * lda + first + r];
            a[i * lda + first + r] = 0;
        }
    }
    kernels().gemm.f64.product(rows, n, count, -1.0, m, count, pivot_rows, ldp, 1.0, a, lda, a, lda);
}

}  // namespace

bool invert(double* a, int64_t lda, int64_t n) {
    const DenseTable& dense = kernels().dense;
    Workspace scratch;
    double* const m = scratch.take_array<double>(n * block);
    int64_t* const pivots = scratch.take_array<int64_t>(n);
    for (int64_t k = 0; k < n; k += block) {
        const int64_t width = std::min(block, n - k);
        double* const panel = a + k * lda;
        for (int64_t j = 0; j < width; j += inner) {  // the panel's rows among themselves
            const int64_t strip = std::min(inner, width - j);
            double* const rows = panel + j * lda;
            if (!dense.eliminate(rows, lda, strip, n, k + j, pivots + k + j)) return false;
            const int64_t below = width - j - strip;
            swap_columns(panel, lda, j, pivots + k + j, k + j, strip);
            swap_columns(rows + strip * lda, lda, below, pivots + k + j, k + j, strip);
            eliminate_others(panel, lda, j, n, k + j, strip, rows, lda, m);
            eliminate_others(rows + strip * lda, lda, below, n, k + j, strip, rows, lda, m);
        }
        const int64_t next = k + width;
        swap_columns(a, lda, k, pivots + k, k, width);
        swap_columns(a + next * lda, lda, n - next, pivots + k, k, width);
        eliminate_others(a, lda, k, n, k, width, panel, lda, m);
        eliminate_others(a + next * lda, lda, n - next, n, k, width, panel, lda, m);
        if (poll_cancelled()) return false;
    }
    // (A P)⁻¹ = P⁻¹ A⁻¹: the rows go back in the opposite order.
    for (int64_t k = n - 1; k >= 0; --k) {
        if (pivots[k] != k) std::swap_ranges(a + k * lda, a + k * lda + n, a + pivots[k] * lda);
    }
    return true;
}

}  // namespace raphson
