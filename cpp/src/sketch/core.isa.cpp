#include "sketch/core.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/workspace.h"
#include "dense/vectors.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

// One-sided Jacobi (Hestenes): columns are turned until they are orthogonal. Accurate for small singular values too;
// 7 n³ flops a sweep, some eight sweeps, and only where the rank is cut.
void turn(double* x, double* y, int64_t n, double cosine, double sine) {
    for (int64_t i = 0; i < n; ++i) {
        const double left = x[i], right = y[i];
        x[i] = cosine * left - sine * right;
        y[i] = sine * left + cosine * right;
    }
}

// a (n columns of n) becomes u·diag(s), s descending; v, where it is not null, the right singular vectors by columns.
void jacobi(double* a, int64_t n, double* s, double* v) {
    if (v != nullptr) {
        std::fill_n(v, n * n, 0.0);
        for (int64_t i = 0; i < n; ++i) v[i * n + i] = 1;
    }
    constexpr int most_sweeps = 40;
    constexpr double small = 1e-15;
    const double squares = dot(n * n, a, a) * 0x1p-104;  // columns below are rounding errors: turning them would not end
    for (int sweep = 0; sweep < most_sweeps; ++sweep) {
        bool turned = false;
        for (int64_t p = 0; p + 1 < n; ++p) {
            for (int64_t q = p + 1; q < n; ++q) {
                double* const x = a + p * n;
                double* const y = a + q * n;
                const double pp = dot(n, x, x), qq = dot(n, y, y), pq = dot(n, x, y);
                if (!(std::fabs(pq) > small * std::sqrt(pp) * std::sqrt(qq)) || !(std::min(pp, qq) > squares)) continue;
                turned = true;
                const double zeta = (qq - pp) / (2 * pq);
                const double t = (zeta >= 0 ? 1.0 : -1.0) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta));
                const double cosine = 1 / std::sqrt(1 + t * t), sine = cosine * t;
                turn(x, y, n, cosine, sine);
                if (v != nullptr) turn(v + p * n, v + q * n, n, cosine, sine);
            }
        }
        if (!turned) break;
    }
    for (int64_t i = 0; i < n; ++i) s[i] = std::sqrt(dot(n, a + i * n, a + i * n));
    for (int64_t i = 0; i < n; ++i) {  // by selection: few columns
        int64_t top = i;
        for (int64_t j = i + 1; j < n; ++j) top = s[j] > s[top] ? j : top;
        if (top == i) continue;
        std::swap(s[i], s[top]);
        std::swap_ranges(a + i * n, a + i * n + n, a + top * n);
        if (v != nullptr) std::swap_ranges(v + i * n, v + i * n + n, v + top * n);
    }
}

void columns_of(const double* r, int64_t ld, int64_t n, double* a) {
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t i = 0; i < n; ++i) a[j * n + i] = i <= j ? r[i * ld + j] : 0.0;
    }
}

void svd(const double* r, int64_t ld, int64_t n, double* u, double* s, double* v) {
    columns_of(r, ld, n, u);
    jacobi(u, n, s, v);
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t i = 0; i < n && s[j] > 0; ++i) u[j * n + i] /= s[j];  // columns of zeros stay: nobody reads u there
    }
}

constexpr int64_t exact_limit = 16;
constexpr int least_power_steps = 10, power_steps = 40;
constexpr double settled = 1e-3;  // relative change in a step, after which an estimate good to a few percent goes on as it is

double length(int64_t n, const double* x) { return std::sqrt(dot(n, x, x)); }
void divide(int64_t n, double* x, double by) {
    for (int64_t j = 0; j < n; ++j) x[j] /= by;
}

void extremes(const DenseTable& dense, const double* r, int64_t ld, int64_t n, double* largest, double* smallest) {
    *largest = *smallest = 0;
    if (n == 0) return;
    Workspace scratch;
    double* const x = scratch.take_array<double>(n);
    double* const y = scratch.take_array<double>(n);
    if (n <= exact_limit) {
        double* const full = scratch.take_array<double>(n * n);
        columns_of(r, ld, n, full);
        jacobi(full, n, x, nullptr);
        *largest = x[0];
        *smallest = x[n - 1];
        return;
    }
    const auto goes_on = [](int step, double before, double now) {
        return step < least_power_steps || std::fabs(now - before) > settled * now;
    };
    for (int64_t j = 0; j < n; ++j) x[j] = 1 + 0.5 * std::sin(static_cast<double>(j));  // no direction left out
    divide(n, x, length(n, x));
    double before = 0;
    for (int step = 0; step < power_steps && goes_on(step, before, *largest); ++step) {
        before = *largest;
        dense.upper_times(r, ld, n, false, x, y);
        *largest = length(n, y);
        dense.upper_times(r, ld, n, true, y, x);
        const double norm = length(n, x);
        if (!(norm > 0) || !std::isfinite(norm)) break;
        divide(n, x, norm);
    }
    for (int64_t i = 0; i < n; ++i) {
        if (!(std::fabs(r[i * ld + i]) > 0)) return;
    }
    for (int64_t j = 0; j < n; ++j) x[j] = 1 + 0.5 * std::cos(static_cast<double>(j));
    divide(n, x, length(n, x));
    before = 0;
    for (int step = 0; step < power_steps && goes_on(step, before, *smallest); ++step) {
        before = *smallest;
        dense.solve_triangle(r, ld, n, true, true, x);
        const double half = length(n, x);
        *smallest = 0;
        if (!std::isfinite(half)) return;
        *smallest = 1 / half;
        dense.solve_triangle(r, ld, n, true, false, x);
        const double norm = length(n, x);
        if (!std::isfinite(norm)) {
            *smallest = 0;
            return;
        }
        divide(n, x, norm);
    }
}

}  // namespace

extern const SketchCoreTable sketch_core_table;
const SketchCoreTable sketch_core_table{svd, extremes};

RAPHSON_ISA_END
