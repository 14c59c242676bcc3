// Polar factors: a scaled Newton step or a few on a square matrix, then the best polynomials for what they left.
#include <algorithm>
#include <cmath>
#include <optional>

#include "common/philox.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "newton_schulz/functions.h"
#include "newton_schulz/minimax.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double eps = 0x1p-52;
constexpr double ill = 1e8;        // ‖X‖_F‖X⁻¹‖_F from which on elimination may lose digits that the polar factor keeps
constexpr double singular = 1e15;  // … from which on the smallest singular values are rounding

// An inverse costs 4 products at n = 64, 2 at 512, and a step of products 2.2: the bound of σ from which on these are cheaper.
double few_steps(int64_t n) { return std::clamp(2e4 / static_cast<double>(n), 20.0, 300.0); }

constexpr std::uint32_t most_shakes = 8;
// One random matrix in a thousand or so is unlucky: where ‖UH − X‖_F/‖X‖_F is above this, another is tried.
constexpr std::uint32_t most_attempts = 4;
double good(int64_t n) { return 8e-15 * std::sqrt(std::max(1.0, static_cast<double>(n) / 500)); }

// x += size·r with entries r of variance 1, always the same.
void add_noise(double* x, int64_t n, double size, std::uint32_t stream) {
    const PhiloxKey key = PhiloxKey::from_seed(0x706f6c6172);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const PhiloxBlock block = philox_at(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j), stream, key);
            x[i * n + j] += size * std::sqrt(12.0) * (philox_uniform(block[0], block[1]) - 0.5);
        }
    }
}

// Multiplies by a random orthogonal Qᵀ. Gauss–Jordan elimination is not stable where U of A = LU is much worse conditioned
// than A, as it is of triangular matrices and of columns of very different size; QᵀA has forgotten both.
class Mixture {
public:
    Mixture(int64_t n, double* room, std::uint32_t attempt)  // room: n×n
        : n_(n), room_(room), stream_(attempt * (most_shakes + 1)) {}
    bool entered() const { return q_.has_value(); }
    void enter(double* z) {
        std::fill_n(room_, n_ * n_, 0.0);
        add_noise(room_, n_, 1.0, stream_);
        q_.emplace(room_, n_, n_, n_);
        q_->apply(true, z, n_, n_);
    }
    // Half an ulp of z, below the backward error of any algorithm, gives null spaces a basis. Few times at most.
    void shake(double* z, double norm) {
        add_noise(z, n_, 0.5 * eps * norm / std::sqrt(static_cast<double>(n_)), stream_ + ++shaken_);
    }
    bool exhausted() const { return shaken_ == most_shakes; }
    void leave(double* z) const {
        if (q_) q_->apply(false, z, n_, n_);
    }

private:
    int64_t n_;
    double* room_;
    std::uint32_t stream_, shaken_ = 0;
    std::optional<HouseholderQr> q_;
};

// z ← ½(μz + z⁻ᵀ/μ), until products take over; afterwards no singular value is below 1, since x + 1/x ≥ 2. What needs it is
// mixed first. False where an inverse fails, or the call was cancelled.
bool newton(double* z, int64_t n, int64_t max_steps, Mixture& mixture, MatrixReport& report) {
    const KernelTable& table = kernels();
    Workspace scratch;
    double* const inverse = scratch.take_array<double>(n * n);
    const double norm = frobenius(z, n * n);
    double largest = INFINITY;
    while (largest > few_steps(n) && report.iterations < max_steps) {
        double one = 0, infinity = 0, squares = 0, inverse_one = 0, inverse_infinity = 0, inverse_squares = 0;
        table.dense.norms(n, z, &one, &infinity, &squares);
        std::copy_n(z, n * n, inverse);
        const bool regular = invert(inverse, n, n);
        if (regular) table.dense.norms(n, inverse, &inverse_one, &inverse_infinity, &inverse_squares);
        const double cond = std::sqrt(squares) * std::sqrt(inverse_squares);
        if (poll_cancelled()) return false;
        if (report.iterations == 0 && !mixture.entered()) {
            report.cond = regular && std::isfinite(cond) ? cond : INFINITY;
            if (!(report.cond < ill)) {
                if (!(report.cond < singular)) mixture.shake(z, norm);
                mixture.enter(z);
                continue;
            }
        }
        if (!regular || !std::isfinite(cond)) {
            if (report.iterations > 0 || !mixture.entered() || mixture.exhausted()) return false;
            mixture.shake(z, norm);  // of few rows the mixture may have rounded all of it away
            continue;
        }
        const double top = std::sqrt(one) * std::sqrt(infinity), bottom = std::sqrt(inverse_one) * std::sqrt(inverse_infinity);
        const double mu = std::sqrt(bottom / top);
        (void)table.dense.blend_transposed(n, 0.5 * mu, z, 0.5 / mu, inverse, z);
        const double end = std::sqrt(top) * std::sqrt(bottom);  // what was in [1/bottom, top] is in [1/end, end] times 1/μ
        largest = 0.5 * (end + 1 / end);
        ++report.iterations;
    }
    return true;
}

// z, whose singular values are at least 1, ← the orthogonal factor nearest to it, by the odd quintic nearest to 1 on the
// interval that is left, in δ = zzᵀ − I: p(z) = (a + b + c) z + ((b + 2c) δ + cδ²) z. What is added vanishes as z converges.
bool compose(double* z, int64_t n, int64_t max_steps, bool* limited, MatrixReport& report) {
    const KernelTable& table = kernels();
    const GemmFunctions<double, double>& gemm = table.gemm.f64;
    Workspace scratch;
    double* const delta = scratch.take_array<double>(n * n);
    double* const factor = scratch.take_array<double>(n * n);
    double* from = z;
    double* to = scratch.take_array<double>(n * n);
    const double target = eps * std::sqrt(static_cast<double>(n));  // of ‖δ‖_F
    double lower = 1, upper = INFINITY;
    bool done = false;
    while (!done && report.iterations < max_steps) {
        gemm.gram(n, n, 1.0, from, n, delta, n);
        for (int64_t i = 0; i < n; ++i) delta[i * n + i] -= 1;
        double one = 0, infinity = 0, squares = 0;
        table.dense.norms(n, delta, &one, &infinity, &squares);
        if (poll_cancelled() || !std::isfinite(squares)) return false;
        const double off = std::sqrt(squares);
        const bool cubic = 0.75 * off * off <= target;  // what Kovarik's cubic and quintic leave: ¾δ², ⅝δ³
        done = cubic || 0.625 * off * off * off <= target;
        if (cubic) {
            gemm.product(n, n, n, -0.5, delta, n, from, n, 1.0, from, n, to, n);
        } else {
            const double bound = std::min(off, infinity);  // of every |σ² − 1|
            lower = std::max(lower, std::sqrt(std::max(1 - bound, 0.0)));
            upper = std::min(upper, std::sqrt(1 + bound));
            const MinimaxStep best = done || lower > upper ? minimax_quintic(1, 1) : minimax_quintic(lower, upper);
            const Step& p = best.step;
            gemm.symmetric(n, p.c, delta, n, delta, n, p.b + 2 * p.c, delta, n, factor, n);
            gemm.product(n, n, n, 1.0, factor, n, from, n, p.a + p.b + p.c, from, n, to, n);
            lower = 2 - best.peak;
            upper = best.peak;
        }
        std::swap(from, to);
        ++report.iterations;
    }
    if (from != z) std::copy_n(from, n * n, z);
    *limited = !done;
    return true;
}

// z (n×n) ← the orthogonal factor nearest to it. False where it was not found: z is the last iterate. `random`: whether it
// hangs on random numbers, of which every attempt has others.
bool orthogonal_factor(double* z, int64_t n, int64_t max_steps, std::uint32_t attempt, bool* random, bool* limited,
                       MatrixReport& report) {
    Workspace scratch;
    Mixture mixture(n, scratch.take_array<double>(n * n), attempt);
    const bool found = newton(z, n, max_steps, mixture, report) && compose(z, n, max_steps, limited, report);
    mixture.leave(z);
    *random = mixture.entered();
    return found;
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
    std::optional<HouseholderQr> qr;
    if (m > n) {
        std::copy_n(x, m * n, copy);
        qr.emplace(copy, n, m, n);
        qr->upper(r, n);
    } else {
        std::copy_n(x, n * n, r);
    }
    bool found = false;
    int64_t spent = 0;
    for (std::uint32_t attempt = 0; attempt < most_attempts; ++attempt) {
        bool random = false;
        report.iterations = 0;
        std::copy_n(r, n * n, z);
        found = orthogonal_factor(z, n, job.options.max_steps - spent, attempt, &random, &limited, report);
        spent += report.iterations;
        if (cancelled()) return;
        transpose(z, n, n, n, work, n);
        gemm.product(n, n, n, 1.0, work, n, r, n, 0.0, nullptr, 0, h, n);  // H = Uᵀ X, symmetric but for rounding
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < i; ++j) {
                const double apart = 0.5 * (h[i * n + j] - h[j * n + i]);
                squares += 2 * apart * apart;
                h[i * n + j] = h[j * n + i] = 0.5 * (h[i * n + j] + h[j * n + i]);
            }
        }
        if (!found || !random || spent >= job.options.max_steps || std::sqrt(squares) <= good(n) * norm) break;
    }
    report.iterations = spent;
    if (!found) report.status = Status::breakdown;
    embed(z);
    if (qr) qr->apply(false, u, n, n);
    // Both are rounded before they are measured.
    if (job.narrow) {
        round_to_float(u, m * n);
        round_to_float(h, n * n);
    }
    gemm.product(m, n, n, 1.0, u, n, h, n, -1.0, x, n, work, n);
    report.residual = frobenius(work, m * n) / norm;
    if (m > n) transpose(u, n, m, n, work, m);  // a square U has the same defect by rows
    double squares = 0;
    gemm.gram(n, m, 1.0, m > n ? work : u, m, z, n);
    distance_to_identity(z, n, &squares);
    report.orthogonality = std::sqrt(squares / static_cast<double>(n));
    judge(job, safe, limited, report);
}

}  // namespace raphson
