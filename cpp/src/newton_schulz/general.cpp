// Inverse, sign and square root of matrices that need not be symmetric: Newton's iterations by Gauss–Jordan inverses.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "newton_schulz/functions.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double eps = 0x1p-52;
constexpr double unscaled = 1e-2;    // change of a step from which on scaling only disturbs
constexpr double converged = 1e-9;   // … and from which on the next step is exact
constexpr int64_t hopeless = 50;     // steps after which a change of more than `unscaled` is chaos: no sign, no root

bool symmetric(const FunctionJob& job, const double* a, int64_t n) {
    return symmetric_to_rounding(largest_asymmetry(a, n), job.narrow);
}

// One scaled Newton step x ← ½(μx + μ⁻¹x⁻¹), inverse given; gives the relative change.
double newton_step(double* x, const double* inverse, int64_t count, double mu) {
    double step = 0, squares = 0;
    for (int64_t i = 0; i < count; ++i) {
        const double to = 0.5 * (mu * x[i] + inverse[i] / mu);
        step += (to - x[i]) * (to - x[i]);
        squares += to * to;
        x[i] = to;
    }
    return std::sqrt(step / squares);
}

}  // namespace

bool solve_sylvester(const double* x, int64_t n, const double* r, double* d) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const int64_t count = n * n;
    Workspace scratch;
    double* const h = scratch.take_array<double>(count);
    double* const inverse = scratch.take_array<double>(count);
    double* const left = scratch.take_array<double>(count);
    double* const both = scratch.take_array<double>(count);
    std::copy_n(x, count, h);
    std::copy_n(r, count, d);
    double change = 1;
    for (int64_t step = 0; step < hopeless; ++step) {
        const bool last = change < converged;
        std::copy_n(h, count, inverse);
        if (!invert(inverse, n, n)) return false;
        const double mu = change < unscaled ? 1.0 : std::sqrt(frobenius(inverse, count) / frobenius(h, count));
        if (!std::isfinite(mu)) return false;
        gemm.product(n, n, n, 1.0, inverse, n, d, n, 0.0, nullptr, 0, left, n);
        gemm.product(n, n, n, 1.0, left, n, inverse, n, 0.0, nullptr, 0, both, n);
        for (int64_t i = 0; i < count; ++i) d[i] = 0.5 * (mu * d[i] + both[i] / mu);
        change = newton_step(h, inverse, count, mu);
        if (poll_cancelled()) return false;
        if (!last) continue;
        for (int64_t i = 0; i < count; ++i) d[i] *= 0.5;
        return distance_to_identity(h, n) < 0.1;  // −1 among the signs: no such solution
    }
    return false;
}

void inverse_of(const FunctionJob& job, const double* a, int64_t n, double* value, MatrixReport& report) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const int64_t count = n * n;
    Workspace scratch;
    double* const product = scratch.take_array<double>(count);
    double* const better = scratch.take_array<double>(count);
    std::copy_n(a, count, value);
    report.iterations = 1;
    if (!invert(value, n, n) || !std::isfinite(frobenius(value, count))) {
        double one = 0, infinity = 0, squares = 0;
        kernels().dense.norms(n, a, &one, &infinity, &squares);
        transpose(a, n, n, n, value, n);  // where Newton–Schulz would begin
        for (int64_t i = 0; i < count && squares > 0; ++i) value[i] /= one * infinity;
        report.status = Status::breakdown;
        report.cond = INFINITY;
    } else {
        report.cond = frobenius(a, count) * frobenius(value, count);
    }
    if (cancelled()) return;
    const auto measure = [&](double* x) {
        if (job.narrow) round_to_float(x, count);
        gemm.product(n, n, n, 1.0, a, n, x, n, 0.0, nullptr, 0, product, n);
        return distance_to_identity(product, n);
    };
    const double safe = safe_tolerance(n, report.cond, job.narrow), tol = job.options.tol >= 0 ? job.options.tol : safe;
    report.residual = measure(value);
    while (report.status != Status::breakdown && report.residual > tol && report.residual < 0.5 &&
           report.iterations < job.options.max_steps && !poll_cancelled()) {
        for (int64_t i = 0; i < count; ++i) product[i] = (i % (n + 1) == 0 ? 1.0 : 0.0) - product[i];  // I − A X
        gemm.product(n, n, n, 1.0, value, n, product, n, 1.0, value, n, better, n);
        const double residual = measure(better);
        if (!(residual < 0.5 * report.residual)) break;
        std::copy_n(better, count, value);
        report.residual = residual;
        ++report.iterations;
    }
    judge(job, safe, report.iterations >= job.options.max_steps && report.iterations > 1, report);
}

void sign_of(const FunctionJob& job, const double* a, int64_t n, double* value, MatrixReport& report) {
    if (symmetric(job, a, n)) return spectral_of(job, a, n, value, nullptr, report);
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const int64_t count = n * n;
    Workspace scratch;
    double* const inverse = scratch.take_array<double>(count);
    std::copy_n(a, count, value);
    double change = 1;
    bool done = false;
    while (!done && report.iterations < job.options.max_steps) {
        done = change < converged;
        std::copy_n(value, count, inverse);
        if (!invert(inverse, n, n) || !std::isfinite(frobenius(inverse, count))) {
            report.status = Status::breakdown;
            break;
        }
        if (report.iterations == 0) report.cond = frobenius(a, count) * frobenius(inverse, count);
        const double mu = change < unscaled ? 1.0 : std::sqrt(frobenius(inverse, count) / frobenius(value, count));
        change = newton_step(value, inverse, count, mu);
        ++report.iterations;
        if (poll_cancelled()) return;
        if (report.iterations >= hopeless && change > unscaled) {
            report.status = Status::breakdown;
            break;
        }
    }
    if (report.cond * eps > 1) report.status = Status::breakdown;  // an eigenvalue at 0 has no sign
    if (job.narrow) round_to_float(value, count);
    gemm.product(n, n, n, 1.0, value, n, value, n, 0.0, nullptr, 0, inverse, n);
    report.residual = distance_to_identity(inverse, n);
    const double norm = frobenius(value, count);
    judge(job, safe_tolerance(n, std::max(1.0, norm * norm / static_cast<double>(n)), job.narrow), !done, report);
}

void sqrt_of(const FunctionJob& job, const double* a, int64_t n, double* value, double* second, MatrixReport& report) {
    if (symmetric(job, a, n)) return spectral_of(job, a, n, value, second, report);
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const int64_t count = n * n;
    Workspace scratch;
    double* const y = scratch.take_array<double>(count);
    double* const x_inverse = scratch.take_array<double>(count);
    double* const y_inverse = scratch.take_array<double>(count);
    double* const x = value;
    std::copy_n(a, count, x);
    std::fill_n(y, count, 0.0);
    for (int64_t i = 0; i < n; ++i) y[i * n + i] = 1;
    double change = 1;
    bool done = false;
    while (!done && report.iterations < job.options.max_steps) {
        done = change < converged;
        std::copy_n(x, count, x_inverse);
        std::copy_n(y, count, y_inverse);
        const bool regular = invert(x_inverse, n, n) && invert(y_inverse, n, n);
        const double above = std::hypot(frobenius(x_inverse, count), frobenius(y_inverse, count));
        if (!regular || !std::isfinite(above)) {
            report.status = Status::breakdown;
            break;
        }
        if (report.iterations == 0) report.cond = frobenius(a, count) * frobenius(x_inverse, count);
        // The sign iteration of [0 X; Y 0], whose inverse is [0 Y⁻¹; X⁻¹ 0]: its scaling.
        const double mu = change < unscaled ? 1.0 : std::sqrt(above / std::hypot(frobenius(x, count), frobenius(y, count)));
        change = newton_step(x, y_inverse, count, mu);
        change = std::max(change, newton_step(y, x_inverse, count, mu));
        ++report.iterations;
        if (poll_cancelled()) return;
        if (report.iterations >= hopeless && change > unscaled) {
            report.status = Status::breakdown;
            break;
        }
    }
    if (report.cond * eps > 1) report.status = Status::breakdown;
    const double norm = frobenius(a, count);
    double* const difference = x_inverse;
    const auto measure = [&](const double* root) {  // A − X²
        gemm.product(n, n, n, -1.0, root, n, root, n, 1.0, a, n, difference, n);
        return frobenius(difference, count) / norm;
    };
    double residual = measure(x);
    // The iteration leaves an error of cond·ε; Newton's own correction X D + D X = A − X² takes it away.
    constexpr int most_corrections = 2;
    const double fine = 4 * std::sqrt(static_cast<double>(n)) * eps;
    for (int k = 0; done && report.status != Status::breakdown && residual > fine && k < most_corrections; ++k) {
        if (!solve_sylvester(x, n, difference, y_inverse)) break;
        for (int64_t i = 0; i < count; ++i) y_inverse[i] += x[i];
        const double better = measure(y_inverse);
        if (!(better < residual)) break;
        std::copy_n(y_inverse, count, x);
        residual = better;
    }
    if (cancelled()) return;
    report.inverse_residual = std::numeric_limits<double>::infinity();
    if (second != nullptr && report.status != Status::breakdown) {
        std::copy_n(x, count, second);
        if (invert(second, n, n)) {
            if (job.narrow) round_to_float(second, count);
            gemm.product(n, n, n, 1.0, second, n, second, n, 0.0, nullptr, 0, y, n);
            gemm.product(n, n, n, 1.0, a, n, y, n, 0.0, nullptr, 0, y_inverse, n);
            report.inverse_residual = distance_to_identity(y_inverse, n);
        }
    }
    if (job.narrow) {
        round_to_float(x, count);
        residual = measure(x);
    }
    report.residual = residual;
    // Schur methods reach n·ε·‖X‖²/‖A‖ (Higham, 6.2).
    const double size = frobenius(x, count);
    judge(job, safe_tolerance(n, std::max(1.0, size * size / norm), job.narrow), !done, report);
}

}  // namespace raphson
