// Polar factors: scaled Newton on a square matrix, a Newton–Schulz step for the last digits of orthogonality.
#include <algorithm>
#include <cmath>

#include "common/philox.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "newton_schulz/functions.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double eps = 0x1p-52;
constexpr double singular = 1e15;      // ‖X‖_F‖X⁻¹‖_F from which on the smallest singular values are rounding
constexpr double unscaled = 1e-2;      // change of a step from which on convergence is quadratic without scaling
constexpr double nearly_there = 2e-4;  // … and from which on one Newton–Schulz step, 3/4 of a fourth power, is enough
constexpr int most_polishing = 3;

// Below the backward error of any algorithm, and it gives null spaces a basis: entries of norm ½ε‖X‖_F/√n, always the same.
void perturb(double* x, int64_t n, double norm) {
    const PhiloxKey key = PhiloxKey::from_seed(0x706f6c6172);
    const double size = 0.5 * eps * norm * std::sqrt(12.0 / static_cast<double>(n));
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const PhiloxBlock block = philox_at(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j), 0, key);
            x[i * n + j] += size * (philox_uniform(block[0], block[1]) - 0.5);
        }
    }
}

// z (n×n) ← the orthogonal factor nearest to it. False where the inverses fail, or were cancelled: z is the last iterate.
bool newton(double* z, int64_t n, int64_t max_steps, bool* limited, MatrixReport& report) {
    const KernelTable& table = kernels();
    Workspace scratch;
    double* const inverse = scratch.take_array<double>(n * n);
    double* const gram = scratch.take_array<double>(n * n);
    const double norm = frobenius(z, n * n);
    bool scaled = true, perturbed = false, near = false;
    while (!near && report.iterations < max_steps) {
        double one = 0, infinity = 0, squares = 0, inverse_one = 0, inverse_infinity = 0, inverse_squares = 0;
        table.dense.norms(n, z, &one, &infinity, &squares);
        std::copy_n(z, n * n, inverse);
        const bool regular = invert(inverse, n, n);
        if (regular) table.dense.norms(n, inverse, &inverse_one, &inverse_infinity, &inverse_squares);
        const double cond = std::sqrt(squares) * std::sqrt(inverse_squares);
        if (poll_cancelled()) return false;
        if (report.iterations == 0 && !perturbed) {
            report.cond = regular && std::isfinite(cond) ? cond : INFINITY;
            if (!(report.cond < singular)) {
                perturb(z, n, norm);
                perturbed = true;
                continue;
            }
        }
        if (!regular || !std::isfinite(cond)) return false;
        double mu = 1;
        if (scaled) mu = std::sqrt(std::sqrt(inverse_one / one) * std::sqrt(inverse_infinity / infinity));
        const double step = table.dense.blend_transposed(n, 0.5 * mu, z, 0.5 / mu, inverse, z);
        const double change = std::sqrt(step / static_cast<double>(n));
        if (change < unscaled) scaled = false;
        near = change < nearly_there;
        ++report.iterations;
    }
    *limited = !near;
    for (int k = 0; near && k < most_polishing && report.iterations < max_steps; ++k) {
        table.gemm.f64.gram(n, n, -0.5, z, n, gram, n);
        double off = 0;
        for (int64_t i = 0; i < n; ++i) {
            gram[i * n + i] += 0.5;
            for (int64_t j = 0; j < n; ++j) off += gram[i * n + j] * gram[i * n + j];
            gram[i * n + i] += 1;
        }
        if (poll_cancelled()) return false;
        table.gemm.f64.product(n, n, n, 1.0, gram, n, z, n, 0.0, nullptr, 0, inverse, n);
        std::copy_n(inverse, n * n, z);
        ++report.iterations;
        if (3 * off < 4 * eps * std::sqrt(static_cast<double>(n))) break;  // 3·off is what is left, in the Frobenius norm
    }
    return true;
}

}  // namespace

void polar_of(const FunctionJob& job, const double* x, int64_t m, int64_t n, double* u, double* h, MatrixReport& report) {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const z = scratch.take_array<double>(n * n);
    double* const r = scratch.take_array<double>(n * n);
    double* const copy = scratch.take_array<double>(m * n);
    double* const work = scratch.take_array<double>(m * n);
    const double norm = frobenius(x, m * n);
    const double safe = polar_tolerance(job.narrow);
    std::copy_n(x, m * n, copy);
    const auto embed = [&](const double* square) {  // [square; 0]
        std::copy_n(square, n * n, u);
        std::fill_n(u + n * n, (m - n) * n, 0.0);
    };
    bool limited = false;
    if (norm == 0) {
        std::fill_n(z, n * n, 0.0);
        for (int64_t i = 0; i < n; ++i) z[i * n + i] = 1;
        std::fill_n(h, n * n, 0.0);
        embed(z);
        report.cond = INFINITY;
        judge(job, safe, false, report);
        return;
    }
    if (m > n) {
        const HouseholderQr qr(copy, n, m, n);
        qr.upper(r, n);
        std::copy_n(r, n * n, z);
        if (!newton(z, n, job.options.max_steps, &limited, report)) report.status = Status::breakdown;
        embed(z);
        qr.apply(false, u, n, n);
    } else {
        std::copy_n(x, n * n, r);
        std::copy_n(x, n * n, z);
        if (!newton(z, n, job.options.max_steps, &limited, report)) report.status = Status::breakdown;
        embed(z);
    }
    if (cancelled()) return;
    // H = Uᵀ X, symmetric but for rounding; both are rounded before they are measured.
    transpose(z, n, n, n, work, n);
    gemm.product(n, n, n, 1.0, work, n, r, n, 0.0, nullptr, 0, h, n);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) h[i * n + j] = h[j * n + i] = 0.5 * (h[i * n + j] + h[j * n + i]);
    }
    if (job.narrow) {
        round_to_float(u, m * n);
        round_to_float(h, n * n);
    }
    gemm.product(m, n, n, 1.0, u, n, h, n, -1.0, x, n, work, n);
    report.residual = frobenius(work, m * n) / norm;
    transpose(u, n, m, n, work, m);
    double squares = 0;
    gemm.gram(n, m, 1.0, work, m, z, n);
    distance_to_identity(z, n, &squares);
    report.orthogonality = std::sqrt(squares / static_cast<double>(n));
    judge(job, safe, limited, report);
}

}  // namespace raphson
