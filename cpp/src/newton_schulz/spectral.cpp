// Functions of symmetric matrices by their eigenvalues, which give the condition and the definiteness for nothing.
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

// out = Σ weight[i] vᵢvᵢᵀ for rows vᵢ and weights that are not negative: half a product, symmetric to the bit.
void weighted(const double* v, int64_t n, const double* weight, double* by_columns, double* out) {
    transpose(v, n, n, n, by_columns, n);
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t i = 0; i < n; ++i) by_columns[j * n + i] *= std::sqrt(weight[i]);
    }
    kernels().gemm.f64.gram(n, n, 1.0, by_columns, n, out, n);
}

// out = Xᵖ of a symmetric X, by squares; all three n×n, X is kept.
void power(const double* x, int64_t n, int64_t p, double* out, double* square, double* spare) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    std::copy_n(x, n * n, square);
    bool started = false;
    for (;; p /= 2) {
        if (p % 2 == 1) {
            if (started) {
                gemm.symmetric(n, 1.0, out, n, square, n, 0.0, nullptr, 0, spare, n);
                std::copy_n(spare, n * n, out);
            } else {
                std::copy_n(square, n * n, out);
                started = true;
            }
        }
        if (p == 1) return;
        gemm.gram(n, n, 1.0, square, n, spare, n);
        std::copy_n(spare, n * n, square);
    }
}

}  // namespace

void spectral_of(const FunctionJob& job, const double* a, int64_t n, double* value, double* second, MatrixReport& report) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    const bool root = job.function == MatrixFunction::inverse_root;
    Workspace scratch;
    double* const copy = scratch.take_array<double>(n * n);
    double* const v = scratch.take_array<double>(n * n);
    double* const work = scratch.take_array<double>(n * n);
    double* const spare = scratch.take_array<double>(n * n);
    double* const lambda = scratch.take_array<double>(n);
    double* const weight = scratch.take_array<double>(n);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = i; j < n; ++j) copy[i * n + j] = 0.5 * (a[i * n + j] + a[j * n + i]);
    }
    report.iterations = eigh(copy, n, lambda, v, job.options.max_steps);
    if (cancelled()) return;
    const bool limited = report.iterations > job.options.max_steps;
    report.iterations = std::min(report.iterations, job.options.max_steps);

    // Rounding moves eigenvalues by this much.
    const double largest = std::max(std::fabs(lambda[0]), std::fabs(lambda[n - 1]));
    const double nothing = static_cast<double>(n) * eps * largest;
    const double ridge = root ? job.ridge + job.options.relative_ridge * std::max(lambda[n - 1], 0.0) : 0.0;
    double smallest = std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < n; ++i) {
        lambda[i] += ridge;
        smallest = std::min(smallest, std::fabs(lambda[i]));
    }
    report.cond = smallest > 0 ? std::max(std::fabs(lambda[0]), std::fabs(lambda[n - 1])) / smallest
                               : std::numeric_limits<double>::infinity();
    const double p = static_cast<double>(job.p);
    switch (job.function) {
        case MatrixFunction::sign: {
            if (!(smallest > nothing)) report.status = Status::breakdown;
            for (int64_t i = 0; i < n; ++i) weight[i] = lambda[i] > 0 ? 2.0 : 0.0;
            weighted(v, n, weight, work, value);
            for (int64_t i = 0; i < n; ++i) value[i * n + i] -= 1;
            if (job.narrow) round_to_float(value, n * n);
            gemm.gram(n, n, 1.0, value, n, work, n);
            report.residual = distance_to_identity(work, n);
            judge(job, safe_tolerance(n, 1, job.narrow), limited, report);
            return;
        }
        case MatrixFunction::sqrt: {
            if (lambda[0] < -nothing) report.status = Status::breakdown;
            for (int64_t i = 0; i < n; ++i) weight[i] = lambda[i] > 0 ? std::sqrt(lambda[i]) : 0.0;
            weighted(v, n, weight, work, value);
            if (job.narrow) round_to_float(value, n * n);
            gemm.gram(n, n, 1.0, value, n, work, n);
            double difference = 0, norm = 0;
            for (int64_t i = 0; i < n * n; ++i) {
                difference += (work[i] - a[i]) * (work[i] - a[i]);
                norm += a[i] * a[i];
            }
            report.residual = norm > 0 ? std::sqrt(difference / norm) : 0.0;
            report.inverse_residual = std::numeric_limits<double>::infinity();
            if (second != nullptr && lambda[0] > nothing) {
                for (int64_t i = 0; i < n; ++i) weight[i] = 1 / weight[i];
                weighted(v, n, weight, work, second);
                if (job.narrow) round_to_float(second, n * n);
                gemm.gram(n, n, 1.0, second, n, work, n);
                gemm.product(n, n, n, 1.0, a, n, work, n, 0.0, nullptr, 0, spare, n);
                report.inverse_residual = distance_to_identity(spare, n);
            }
            judge(job, safe_tolerance(n, 1, job.narrow), limited, report);
            return;
        }
        default: break;
    }
    // What is not positive has no root: it is left out of the sum, so that the iterate is finite.
    if (!(lambda[0] > 0) || !(lambda[n - 1] > 0)) report.status = Status::breakdown;
    for (int64_t i = 0; i < n; ++i) weight[i] = lambda[i] > 0 ? std::pow(lambda[i], -1 / p) : 0.0;
    weighted(v, n, weight, work, value);
    if (job.narrow) round_to_float(value, n * n);
    power(value, n, job.p, copy, v, work);
    std::copy_n(a, n * n, work);
    for (int64_t i = 0; i < n; ++i) work[i * n + i] += ridge;
    gemm.product(n, n, n, 1.0, work, n, copy, n, 0.0, nullptr, 0, spare, n);
    report.residual = distance_to_identity(spare, n);
    judge(job, safe_tolerance(n, report.cond, job.narrow, job.p), limited, report);
}

}  // namespace raphson
