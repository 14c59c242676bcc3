#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;

namespace {

constexpr int64_t panel = 32;
constexpr int64_t tile = 256;

// a (n×n) ← A − VᵀW − WᵀV in the upper triangle, from row and column `count` on; vw (2·count × n): V above W.
void update(double* a, int64_t lda, int64_t n, int64_t count, const double* vw, double* by_columns) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const int64_t depth = 2 * count, rest = n - count, tiles = (rest + tile - 1) / tile;
    transpose(vw + count, n, depth, rest, by_columns, depth);
    for (int64_t i = 0; i < rest; ++i) {  // against V's column stands W's, and the other way about
        for (int64_t q = 0; q < count; ++q) std::swap(by_columns[i * depth + q], by_columns[i * depth + count + q]);
    }
    parallel_for(tiles * (tiles + 1) / 2, [&](int64_t index) {
        int64_t column = 0;
        while ((column + 1) * (column + 2) / 2 <= index) ++column;
        const int64_t j0 = column * tile, i0 = (index - column * (column + 1) / 2) * tile;
        double* const to = a + (count + i0) * lda + count + j0;
        gemm.product(std::min(tile, rest - i0), std::min(tile, rest - j0), depth, -1.0, by_columns + i0 * depth, depth,
                     vw + count + j0, n, 1.0, to, lda, to, lda);
    });
}

// Qᵀ of the reflectors (rows of v, n×n), by rows: from the last panel to the first, each as I − V T Vᵀ.
void accumulate(const double* v, const double* tau, int64_t n, double* q) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const by_columns = scratch.take_array<double>(n * panel);
    double* const w = scratch.take_array<double>(n * panel);
    double* const wt = scratch.take_array<double>(n * panel);
    double s[panel * panel], t[panel * panel], tt[panel * panel];
    std::fill_n(q, n * n, 0.0);
    for (int64_t i = 0; i < n; ++i) q[i * n + i] = 1;
    for (int64_t k = (n - 1) / panel * panel; k >= 0; k -= panel) {
        const int64_t count = std::min(panel, n - k), from = k + 1, rest = n - from;
        if (rest <= 0) continue;
        const double* const rows = v + k * n + from;  // count × rest
        transpose(rows, n, count, rest, by_columns, count);
        gemm.product(count, count, rest, 1.0, rows, n, by_columns, count, 0.0, nullptr, 0, s, count);
        reflector_triangle(tau + k, s, count, t, count);
        for (int64_t i = 0; i < count; ++i) {
            for (int64_t j = 0; j < count; ++j) tt[i * count + j] = t[j * count + i];
        }
        double* const corner = q + from * n + from;
        gemm.product(rest, count, rest, 1.0, corner, n, by_columns, count, 0.0, nullptr, 0, w, count);
        gemm.product(rest, count, count, 1.0, w, count, tt, count, 0.0, nullptr, 0, wt, count);
        gemm.product(rest, rest, count, -1.0, wt, count, rows, n, 1.0, corner, n, corner, n);
        if (poll_cancelled()) return;
    }
}

// Rotations wait until there are enough of them to be worth the trip through the matrix.
class Rotations {
public:
    Rotations(double* v, int64_t n) : v_(v), n_(n), room_(n * most_sweeps) {
        rotations_ = scratch_.take_array<double>(3 * room_);
        sweeps_ = scratch_.take_array<RotationSweep>(most_sweeps);
    }
    // Room for the rotations of a step over columns first … last; `taken` of them, from the last column on, are then kept.
    double* begin(int64_t first, int64_t last) {
        if (count_ == most_sweeps || used_ + last - first > room_) flush();
        return rotations_ + 3 * used_;
    }
    void keep(int64_t last, int64_t taken) {
        if (taken == 0) return;
        sweeps_[count_++] = {last - taken, last, used_};
        used_ += taken;
    }
    void flush() {
        if (count_ > 0) {
            parallel_for((n_ + rotated_rows - 1) / rotated_rows, [&](int64_t task) {
                Workspace scratch;
                double* const rows = scratch.take_array<double>(n_ * rotated_rows);
                kernels().dense.rotate(v_, n_, task * rotated_rows, rotations_, sweeps_, count_, rows);
            });
        }
        count_ = used_ = 0;
    }

private:
    static constexpr int64_t most_sweeps = 64;
    Workspace scratch_;
    double* v_;
    int64_t n_, room_;
    double* rotations_;
    RotationSweep* sweeps_;
    int64_t count_ = 0, used_ = 0;
};

// Implicit QL (Martin and Wilkinson's imtql2) of the tridiagonal matrix d, e. Entries beside the diagonal are zero below a
// quarter ulp of the norm, too: what the tridiagonal form left there is rounding.
int64_t implicit_ql(double* d, double* e, int64_t n, int64_t most_steps, Rotations& rotations) {
    constexpr double eps = 0x1p-52;
    double norm = 0;
    for (int64_t i = 0; i < n; ++i) norm = std::max(norm, std::fabs(d[i]) + std::fabs(e[i]));
    const double nothing = 0.25 * eps * norm;
    int64_t taken = 0;
    for (int64_t l = 0; l < n; ++l) {
        for (int64_t steps = 0;; ++steps) {
            int64_t m = l;
            for (; m + 1 < n; ++m) {
                const double beside = std::fabs(e[m]);
                if (beside <= nothing || beside <= eps * (std::fabs(d[m]) + std::fabs(d[m + 1]))) break;
            }
            taken = std::max(taken, steps);
            if (m == l) break;
            if (steps == most_steps || poll_cancelled()) return most_steps + 1;
            double g = (d[l + 1] - d[l]) / (2 * e[l]);
            double r = std::hypot(g, 1.0);
            g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
            double s = 1, c = 1, p = 0;
            double* rotation = rotations.begin(l, m);
            int64_t i = m - 1;
            for (; i >= l; --i) {
                const double f = s * e[i], b = c * e[i];
                r = std::sqrt(f * f + g * g);
                e[i + 1] = r;
                if (r == 0) {  // the matrix falls apart here
                    d[i + 1] -= p;
                    e[m] = 0;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                rotation[0] = c;
                rotation[1] = s;
                rotation[2] = -s;
                rotation += 3;
            }
            rotations.keep(m, m - 1 - i);
            if (i >= l) continue;
            d[l] -= p;
            e[l] = g;
            e[m] = 0;
        }
    }
    return taken;
}

}  // namespace

int64_t eigh(double* a, int64_t n, double* values, double* v, int64_t most_steps) {
    if (n == 0) return 0;
    Workspace scratch;
    double* const e = scratch.take_array<double>(n);
    double* const tau = scratch.take_array<double>(n);
    {
        Workspace inner;
        double* const reflectors = inner.take_array<double>(n * n);
        double* const vw = inner.take_array<double>(2 * panel * n);
        double* const by_columns = inner.take_array<double>(2 * panel * n);
        for (int64_t k = 0; k < n; k += panel) {
            const int64_t count = std::min(panel, n - k), rest = n - k;
            kernels().dense.tridiagonal_panel(a + k * n + k, n, rest, count, values + k, e + k, tau + k, vw, vw + count * rest);
            for (int64_t q = 0; q < count; ++q) {
                std::fill_n(reflectors + (k + q) * n, k, 0.0);
                std::copy_n(vw + q * rest, rest, reflectors + (k + q) * n + k);
            }
            if (poll_cancelled()) return most_steps + 1;
            if (rest > count) update(a + k * n + k, n, rest, count, vw, by_columns);
        }
        accumulate(reflectors, tau, n, v);
    }
    Rotations rotations(v, n);
    const int64_t taken = implicit_ql(values, e, n, most_steps, rotations);
    rotations.flush();
    auto* const order = scratch.take_array<int64_t>(n);
    std::iota(order, order + n, int64_t{0});
    std::stable_sort(order, order + n, [&](int64_t i, int64_t j) { return values[i] < values[j]; });
    std::copy_n(values, n, e);
    for (int64_t i = 0; i < n; ++i) {
        values[i] = e[order[i]];
        std::copy_n(v + order[i] * n, n, a + i * n);
    }
    std::copy_n(a, n * n, v);
    return taken;
}

}  // namespace raphson
