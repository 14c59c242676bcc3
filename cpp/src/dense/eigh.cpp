#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "dense/tiles.h"
#include "dense/tridiagonal.h"
#include "table.h"

namespace raphson {

using std::int64_t;

namespace {

constexpr int64_t panel = 32;
constexpr int64_t tile = 256;
// Of columns in one sum: a reflector begins with a 1, and a long sum that begins with that is rounded at its size all along.
constexpr int64_t span = 32;

// The exponent of the largest entry of the upper triangle.
int exponent_of(const double* a, int64_t n) {
    double most[8] = {};  // eight chains: one maximum after the other would wait for itself
    for (int64_t i = 0; i < n; ++i) {
        const double* const row = a + i * n;
        int64_t j = i;
        for (; j + 8 <= n; j += 8) {
            for (int q = 0; q < 8; ++q) most[q] = std::max(most[q], std::fabs(row[j + q]));
        }
        for (; j < n; ++j) most[0] = std::max(most[0], std::fabs(row[j]));
    }
    int exponent = 0;
    std::frexp(*std::max_element(most, most + 8), &exponent);
    return exponent;
}

// a (n×n) ← A − VᵀW − WᵀV in the upper triangle, from row and column `count` on; vw (2·count × n): V above W.
void update(double* a, int64_t lda, int64_t n, int64_t count, const double* vw, double* by_columns) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const int64_t depth = 2 * count, rest = n - count;
    transpose(vw + count, n, depth, rest, by_columns, depth);
    for (int64_t i = 0; i < rest; ++i) {  // against V's column stands W's, and the other way about
        for (int64_t q = 0; q < count; ++q) std::swap(by_columns[i * depth + q], by_columns[i * depth + count + q]);
    }
    each_triangle_tile(rest, tile, [&](int64_t j0, int64_t i0) {
        double* const to = a + (count + i0) * lda + count + j0;
        gemm.product(std::min(tile, rest - i0), std::min(tile, rest - j0), depth, -1.0, by_columns + i0 * depth, depth,
                     vw + count + j0, n, 1.0, to, lda, to, lda);
    });
}

// x (n×n) ← x Qᵀ, Q the product of the reflectors (rows of v, n×n, each from its panel's first column on): from the last
// panel to the first, each as I − V T Vᵀ.
void back_transform(const double* v, const double* tau, int64_t n, double* x) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const by_columns = scratch.take_array<double>(n * panel);
    double* const w = scratch.take_array<double>(n * panel);
    double* const ty = scratch.take_array<double>(n * panel);
    double s[panel * panel], t[panel * panel], tt[panel * panel];
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
        gemm.product(count, rest, count, 1.0, tt, count, rows, n, 0.0, nullptr, 0, ty, rest);
        for (int64_t begin = 0; begin < rest; begin += span) {
            gemm.product(n, count, std::min(span, rest - begin), 1.0, x + from + begin, n, by_columns + begin * count, count,
                         begin > 0 ? 1.0 : 0.0, w, count, w, count);
        }
        gemm.product(n, rest, count, -1.0, w, count, ty, rest, 1.0, x + from, n, x + from, n);
        if (poll_cancelled()) return;
    }
}

}  // namespace

int64_t eigh(double* a, int64_t n, double* values, double* v, int64_t most_steps) {
    if (n == 0) return 0;
    Workspace scratch;
    double* const d = scratch.take_array<double>(n);
    double* const e = scratch.take_array<double>(n);
    double* const tau = scratch.take_array<double>(n);
    double* const reflectors = scratch.take_array<double>(n * n);
    int exponent = exponent_of(a, n);
    if (std::abs(exponent) < 60) exponent = 0;  // squares of the entries neither overflow nor vanish
    {
        Workspace inner;
        // Rows that begin at cache lines, and not all at the same place of a page: the panels read them over and over.
        const int64_t ld = (n + 7) / 8 * 8 + (n % 64 == 0 ? 8 : 0);
        double* const work = inner.take_array<double>(n * ld);
        double* const vw = inner.take_array<double>(2 * panel * n);
        double* const by_columns = inner.take_array<double>(2 * panel * n);
        for (int64_t i = 0; i < n; ++i) {
            std::copy_n(a + i * n + i, n - i, work + i * ld + i);
            for (int64_t j = i; j < n && exponent != 0; ++j) work[i * ld + j] = std::ldexp(work[i * ld + j], -exponent);
        }
        for (int64_t k = 0; k < n; k += panel) {
            const int64_t count = std::min(panel, n - k), rest = n - k;
            double* const corner = work + k * ld + k;
            kernels().dense.tridiagonal_panel(corner, ld, rest, count, d + k, e + k, tau + k, vw, vw + count * rest);
            for (int64_t q = 0; q < count; ++q) std::copy_n(vw + q * rest, rest, reflectors + (k + q) * n + k);
            if (poll_cancelled()) return most_steps + 1;
            if (rest > count) update(corner, ld, rest, count, vw, by_columns);
        }
    }
    auto* const order = scratch.take_array<int64_t>(n);
    const int64_t taken = tridiagonal_eigh(d, e, n, a, order, most_steps);
    if (cancelled()) return most_steps + 1;
    for (int64_t i = 0; i < n; ++i) {
        values[i] = std::ldexp(d[order[i]], exponent);
        std::copy_n(a + order[i] * n, n, v + i * n);
    }
    back_transform(reflectors, tau, n, v);
    return taken;
}

}  // namespace raphson
