#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "dense/tiles.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t tile = 256;  // rows and columns of a product that a task updates
constexpr double growth = 0.6403882032022076;  // (1 + √17)/8: two blocks of one may grow as much as one of two

// The position of the largest entry but `skipped` in from … to, and its magnitude.
int64_t largest(const double* x, int64_t from, int64_t to, int64_t skipped, double* magnitude) {
    int64_t at = from;
    double most = -1;
    for (int64_t i = from; i < to; ++i) {
        const double here = std::fabs(x[i]);
        if (here > most && i != skipped) {
            most = here;
            at = i;
        }
    }
    *magnitude = std::fmax(most, 0.0);
    return at;
}

}  // namespace

// Rows and columns k < p of what is still to be factored, of Lᵀ above it, and of the panel's first rows of w.
void PivotedColumns::interchange(int64_t k, int64_t p, int64_t rows_of_w, double* w) {
    std::swap_ranges(a + k * lda + p + 1, a + k * lda + n, a + p * lda + p + 1);
    for (int64_t i = k + 1; i < p; ++i) std::swap(a[k * lda + i], a[i * lda + p]);
    std::swap(a[k * lda + k], a[p * lda + p]);
    for (int64_t q = 0; q < k; ++q) std::swap(a[q * lda + k], a[q * lda + p]);
    for (int64_t q = 0; q < rows_of_w; ++q) std::swap(w[q * n + k], w[q * n + p]);
    std::swap(order[k], order[p]);
}

// Whether L's entries stay below 1/threshold.
bool PivotedColumns::stable(int64_t k, bool two, const double* w1, const double* w2) const {
    if (count == n) return true;
    double first = 0, second = 0;
    largest(w1, k + (two ? 2 : 1), n, -1, &first);
    if (!two) return std::fabs(w1[k]) >= threshold * first;
    largest(w2, k + 2, n, -1, &second);
    const double determinant = std::fabs(w1[k] * w2[k + 1] - w1[k + 1] * w1[k + 1]) / threshold;
    return std::fabs(w2[k + 1]) * first + std::fabs(w1[k + 1]) * second <= determinant &&
           std::fabs(w1[k + 1]) * first + std::fabs(w1[k]) * second <= determinant;
}

// Pivots from `first` on of at most `most` (one more where the last is a block of two) columns; row q of w (·×n) is that of
// D Lᵀ. The rest of the matrix is not updated: columns are, when they are looked at.
void PivotedColumns::factor_panel(int64_t first, int64_t most, double* w) {
    const auto subtract_rows = kernels().dense.subtract_rows;
    Workspace scratch;
    double* const c = scratch.take_array<double>(most + 2);
    const auto bring = [&](int64_t row, int64_t k, double* out) {  // row `row` of the rest, up to date
        for (int64_t i = k; i < row; ++i) out[i] = a[i * lda + row];
        std::copy(a + row * lda + row, a + row * lda + n, out + row);
        for (int64_t q = 0; q < k - first; ++q) c[q] = w[q * n + row];
        subtract_rows(n - k, k - first, c, a + first * lda + k, lda, out + k);
    };
    while (done - first < most && done < candidates) {
        const int64_t k = done;
        double* const w1 = w + (k - first) * n;
        double* const w2 = w1 + n;
        double* const row = a + k * lda;
        bring(k, k, w1);
        double beside = 0, everywhere = 0;
        const int64_t r = largest(w1, k + 1, candidates, k, &beside);
        largest(w1, k, n, -1, &everywhere);
        if (everywhere <= zero) {  // NaN goes on, and is seen in the solution
            d[k] = e[k] = 0;
            ++signs.zero;
            std::fill(w1 + k, w1 + n, 0.0);
            std::fill(row + k, row + n, 0.0);
            row[k] = 1;
            ++done;
            continue;
        }
        bool two = false;
        if (std::fabs(w1[k]) < growth * beside) {
            bring(r, k, w2);
            double there = 0;
            largest(w2, k, candidates, r, &there);
            if (std::fabs(w1[k]) * there < growth * beside * beside) {
                two = std::fabs(w2[r]) < growth * there;
                const int64_t target = two ? k + 1 : k;
                if (!two) std::copy(w2 + k, w2 + n, w1 + k);
                if (r != target) interchange(target, r, k - first + (two ? 2 : 1), w);
            }
        }
        if (!stable(k, two, w1, w2)) {
            --candidates;
            if (candidates != k) interchange(k, candidates, k - first, w);
            continue;
        }
        if (!two) {
            const double pivot = w1[k];
            d[k] = pivot;
            e[k] = 0;
            for (int64_t i = k + 1; i < n; ++i) row[i] = w1[i] / pivot;
            row[k] = 1;
            ++(pivot > 0 ? signs.positive : signs.negative);
            ++done;
            continue;
        }
        double* const next = row + lda;
        const double d11 = w1[k], d12 = w1[k + 1], d22 = w2[k + 1];
        const double u = d11 / d12, v = d22 / d12, scale = 1 / (d12 * (u * v - 1));  // u v < 1: never small
        for (int64_t i = k + 2; i < n; ++i) {
            const double x = w1[i], y = w2[i];
            row[i] = scale * (v * x - y);
            next[i] = scale * (u * y - x);
        }
        row[k] = next[k + 1] = 1;
        row[k + 1] = 0;
        d[k] = d11;
        d[k + 1] = d22;
        e[k] = d12;
        e[k + 1] = 0;
        ++signs.positive;
        ++signs.negative;
        done += 2;
    }
}

void PivotedColumns::factor() {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    const int64_t panel = std::min(block, count);
    double* const w = scratch.take_array<double>((panel + 2) * n);
    double* const columns = scratch.take_array<double>((panel + 1) * n);  // of L: the products want it so
    done = 0;
    candidates = count;
    while (done < candidates) {
        throw_if_cancelled();
        const int64_t first = done;
        factor_panel(first, panel, w);
        const int64_t width = done - first, rest = n - done;
        if (rest == 0 || width == 0) continue;
        transpose(a + first * lda + done, lda, width, rest, columns, width);
        each_triangle_tile(rest, tile, [&](int64_t k0, int64_t i0) {
            double* const target = a + (done + i0) * lda + done + k0;
            gemm.product(std::min(tile, rest - i0), std::min(tile, rest - k0), width, -1.0, columns + i0 * width, width,
                         w + done + k0, n, 1.0, target, lda, target, lda);
        });
    }
}

void solve_pivots(const double* d, const double* e, int64_t count, double* x) {
    for (int64_t k = 0; k < count; ++k) {
        if (e[k] == 0) {
            x[k] = d[k] == 0 ? 0.0 : x[k] / d[k];
            continue;
        }
        const double u = d[k] / e[k], v = d[k + 1] / e[k], scale = 1 / (e[k] * (u * v - 1)), left = x[k], right = x[k + 1];
        x[k] = scale * (v * left - right);
        x[k + 1] = scale * (u * right - left);
        ++k;
    }
}

void Ldlt::factor(double* a, int64_t lda, int64_t n, double zero) {
    d_.resize(static_cast<std::size_t>(n));
    e_.resize(static_cast<std::size_t>(n));
    order_.resize(static_cast<std::size_t>(n));
    std::iota(order_.begin(), order_.end(), int64_t{0});
    columns_ = {};
    columns_.a = a;
    columns_.lda = lda;
    columns_.n = columns_.count = n;
    columns_.zero = zero;
    columns_.d = d_.data();
    columns_.e = e_.data();
    columns_.order = order_.data();
    columns_.factor();
}

void Ldlt::solve(double* x) const {
    const DenseTable& pass = kernels().dense;
    const int64_t n = columns_.n;
    Workspace scratch;
    double* const y = scratch.take_array<double>(n);
    for (int64_t i = 0; i < n; ++i) y[i] = x[order_[static_cast<std::size_t>(i)]];
    pass.solve_triangle(columns_.a, columns_.lda, n, true, true, y);
    solve_pivots(d_.data(), e_.data(), n, y);
    pass.solve_triangle(columns_.a, columns_.lda, n, true, false, y);
    for (int64_t i = 0; i < n; ++i) x[order_[static_cast<std::size_t>(i)]] = y[i];
}

double most_negative_pivot(const double* d, const double* e, int64_t count, double* x) {
    double most = 0;
    int64_t at = 0;
    for (int64_t k = 0; k < count; ++k) {
        const bool two = e[k] != 0;
        const double middle = two ? (d[k] + d[k + 1]) / 2 : d[k];
        const double value = two ? middle - std::hypot((d[k] - d[k + 1]) / 2, e[k]) : middle;
        if (value < most) {
            most = value;
            at = k;
        }
        if (two) ++k;
    }
    std::fill_n(x, count, 0.0);
    if (!(most < 0)) return 0;
    if (e[at] == 0) {
        x[at] = 1;
    } else {  // the block's eigenvector, from the row that is not lost to cancellation
        const double first = d[at] - most, second = d[at + 1] - most;
        const double y = first > second ? -e[at] : second, z = first > second ? first : -e[at], length = std::hypot(y, z);
        x[at] = y / length;
        x[at + 1] = z / length;
    }
    return most;
}

double Ldlt::negative_direction(double* p) const {
    const int64_t n = columns_.n;
    Workspace scratch;
    double* const y = scratch.take_array<double>(n);
    const double most = most_negative_pivot(d_.data(), e_.data(), n, y);
    kernels().dense.solve_triangle(columns_.a, columns_.lda, n, true, false, y);
    for (int64_t i = 0; i < n; ++i) p[order_[static_cast<std::size_t>(i)]] = y[i];
    return most;
}

}  // namespace raphson
