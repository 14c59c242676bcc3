// Sinkhorn-Newton-Sparse and its successors, by name. All move the columns' potentials alone: the rows are at
// their optimum after every sweep, which eliminates them from the Newton system exactly. All use the full row and column
// sums on the diagonal, and lump what the pattern drops (schur.h), which keeps it connected.
#include <algorithm>
#include <cmath>

#include "common/vector.h"
#include "ot/run.h"

namespace raphson {
namespace {

constexpr int sns_warm_up = 20, sns_per_row = 16, ssns_warm_up = 1;
constexpr double sns_cg_tolerance = 1e-8, ssns_cg_tolerance = 1e-8;
constexpr int most_cg = 5000;
// SPLR: the share of the entries that is kept, its bounds and its changes; the shift against the mean diagonal
constexpr double splr_densest = 0.01, splr_row = 10, splr_sparsest = 0.01, splr_first = 0.1, splr_denser = 1.1, splr_sparser = 0.99,
                 splr_shift = 1e-3, splr_curvature = 1e-6, splr_armijo = 1e-4, splr_wolfe = 0.9, splr_cg_tolerance = 1e-8;
constexpr int splr_trials = 20;

}  // namespace

double Run::direction(std::vector<double>& d, double shift, double target) {
    const std::int64_t m = level_.m();
    std::vector<double> rhs(static_cast<std::size_t>(level_.padded()), 0.0);
    for (std::int64_t j = 0; j < m; ++j) rhs[j] = level_.target_column(j) - level_.columns[j];
    Schur schur(level_, plan_.count >= 0 ? &plan_ : nullptr, shift);
    solution_.cg_iterations += schur.solve(rhs.data(), d.data(), target, most_cg).iterations;
    return temper(rhs, d);
}

void Run::move(const std::vector<double>& start, const std::vector<double>& d, double alpha) {
    for (std::int64_t j = 0; j < level_.m(); ++j) {
        if (start[j] > minus_infinity) level_.psi[j] = start[j] + alpha * d[j];
    }
}

bool Run::warm_up(int sweeps) {
    for (int k = 0; k < sweeps; ++k) {
        if (advance(false, goal_)) return false;
        if (level_.error() <= goal_) break;
        if (k + 1 == sweeps) break;
        level_.update_columns();
        if (k == 0) gauge();
    }
    return true;
}

void Run::sns() {
    if (!warm_up(sns_warm_up)) return;
    const std::int64_t size = std::max(level_.n(), level_.m());
    std::vector<double> d(static_cast<std::size_t>(level_.padded()), 0.0);
    while (level_.error() > goal_) {
        if (give_up()) return;
        // the pattern, from a sweep of its own at these potentials
        double mass = 0;
        for (double a : problem_.a) mass += a;
        plan_.threshold = 1e-6 * mass / static_cast<double>(size);
        level_.reserve(plan_, plan_capacity());
        level_.sweep(&plan_);
        if (plan_.count >= 0) level_.keep_largest(plan_, sns_per_row * size);
        const std::vector<double> start = level_.psi;
        const double slope = direction(d, 0, sns_cg_tolerance * level_.error());
        const double value = level_.semi_dual(), error = level_.error();
        double alpha = 1;
        bool accepted = false;
        for (int trial = 0; trial < 20 && slope > 0 && !accepted; ++trial, alpha /= 2) {
            move(start, d, alpha);
            if (advance(false, goal_)) return;
            const bool drowned = level_.error() < error && alpha * slope < 1e-12 * std::abs(value);
            accepted = drowned || level_.semi_dual() <= value - 1e-4 * alpha * slope;  // Armijo, while values tell
        }
        if (!accepted) {  // too far from the solution for this pattern: more of the warm-up
            level_.psi = start;
            level_.sweep();
            level_.update_columns();
            if (!warm_up(sns_warm_up)) return;
            continue;
        }
        solution_.history.back().stage = TransportStage::newton;
        ++solution_.newton_iterations;
    }
    solution_.status = Status::converged;
}

void Run::ssns() {
    if (!warm_up(ssns_warm_up)) return;
    const double size = static_cast<double>(std::max(level_.n(), level_.m()));
    std::vector<double> d(static_cast<std::size_t>(level_.padded()), 0.0);
    double mu = 1;
    while (level_.error() > goal_) {
        if (give_up()) return;
        double norm = 0;
        for (std::int64_t j = 0; j < level_.m(); ++j) {
            const double g = level_.columns[j] - level_.target_column(j);
            norm += g * g;
        }
        norm = std::sqrt(norm);
        plan_.threshold = 0.01 * norm / size;  // drops at most 0.01·‖g‖ from a row or a column
        level_.reserve(plan_, plan_capacity());
        level_.sweep(&plan_);
        const std::vector<double> start = level_.psi;
        const double error = level_.error(), value = level_.semi_dual(), shift = mu * norm;
        const double slope = direction(d, shift, ssns_cg_tolerance * error);
        double best = 0, best_value = value, step_norm = 0;
        for (double x : d) step_norm += x * x;
        for (const double alpha : {1.0, 0.5, 0.25, 0.1}) {
            if (!(slope > 0)) break;
            move(start, d, alpha);
            if (advance(false, goal_)) return;
            const double now = level_.semi_dual();
            const bool drowned = alpha * slope < 1e-12 * std::abs(value) && level_.error() < error;
            if (now < best_value || drowned) {
                best = alpha;
                best_value = now;
                if (now < value || drowned) break;
            }
        }
        // predicted: αsᵀg − ½α²sᵀHs with Hs = g − shift·s
        const double predicted = best * slope - 0.5 * best * best * (slope - shift * step_norm);
        const double gained = value - best_value;
        const double ratio = best > 0 && predicted > 1e-12 * std::abs(value) ? gained / predicted : best > 0 ? 1 : -1;
        if (ratio <= 0) {
            level_.psi = start;
            level_.sweep();
        } else {
            solution_.history.back().stage = TransportStage::newton;
            ++solution_.newton_iterations;
        }
        if (ratio < 0.25) mu *= 4;
        if (ratio > 0.75) mu = std::max(mu / 2, 1e-3);
    }
    solution_.status = Status::converged;
}

// Quasi-Newton: A, the Hessian of the largest entries, shifted, is corrected by the BFGS update that makes it map the last step to
// the last change of the gradient, so that the pattern may be much sparser than Newton's.
void Run::splr() {
    if (!warm_up(1)) return;
    const std::int64_t m = level_.m();
    const auto cols = static_cast<std::size_t>(level_.padded());
    const double entries = static_cast<double>(level_.n()) * static_cast<double>(m);
    const double densest = std::min(std::max(splr_densest, splr_row / static_cast<double>(std::min(level_.n(), m))), 0.2);
    double mass = 0, density = splr_first * densest, alpha_before = 1, norm_before = 0;
    for (double a : problem_.a) mass += a;
    std::vector<double> r(cols, 0.0), s(cols, 0.0), y(cols, 0.0), p(cols, 0.0), q(cols, 0.0), d(cols, 0.0);
    bool corrected = false;
    while (level_.error() > goal_) {
        if (give_up()) return;
        for (std::int64_t j = 0; j < m; ++j) {
            const double now = level_.target_column(j) - level_.columns[j];
            y[j] = r[j] - now;  // the gradient is −r
            r[j] = now;
        }
        const double norm = std::sqrt(dot(r, r)), error = level_.error(), value = level_.semi_dual();
        if (norm_before > 0) density = std::clamp(density * (norm > norm_before ? splr_denser : splr_sparser), splr_sparsest * densest, densest);
        norm_before = norm;
        const auto kept = static_cast<std::int64_t>(std::max(density * entries, static_cast<double>(std::max(level_.n(), m))));
        plan_.threshold = 1e-6 * mass / static_cast<double>(std::max(level_.n(), m));
        level_.reserve(plan_, plan_capacity());
        level_.sweep(&plan_);
        if (plan_.count >= 0) level_.keep_largest(plan_, kept);
        Schur schur(level_, plan_.count >= 0 ? &plan_ : nullptr, std::min(norm, splr_shift * mass / static_cast<double>(m)));
        const double target = splr_cg_tolerance * error;
        solution_.cg_iterations += schur.solve(r.data(), p.data(), target, most_cg).iterations;
        d = p;
        const double ys = dot(y, s);
        if (corrected && ys > splr_curvature * dot(y, y)) {
            double size = 0;
            for (double x : y) size += std::abs(x);
            solution_.cg_iterations += schur.solve(y.data(), q.data(), splr_cg_tolerance * size, most_cg).iterations;
            const double along = dot(s, r) / ys, on_s = (1 + dot(y, q) / ys) * along - dot(y, p) / ys;
            for (std::size_t j = 0; j < cols; ++j) d[j] += on_s * s[j] - along * q[j];
        }
        double slope = temper(r, d);
        if (!(slope > 0)) {
            d = p;
            slope = temper(r, d);
        }
        // a step that meets the strong Wolfe conditions, the second on derivatives, the first while values tell
        const std::vector<double> start = level_.psi;
        double alpha = std::min(1.0, 1.5 * alpha_before), low = 0, high = 0, low_slope = slope;
        bool accepted = false;
        for (int trial = 0; trial < splr_trials && slope > 0; ++trial) {
            move(start, d, alpha);
            if (advance(false, goal_)) return;
            double now = 0;
            for (std::int64_t j = 0; j < m; ++j) now += (level_.target_column(j) - level_.columns[j]) * d[j];
            const bool drowned = alpha * slope < 1e-12 * std::abs(value);
            const bool lower = drowned ? level_.error() <= 2 * error : level_.semi_dual() <= value - splr_armijo * alpha * slope;
            accepted = lower && std::abs(now) <= splr_wolfe * slope;
            if (accepted) break;
            if (!lower || now < 0 || !std::isfinite(now)) {
                high = alpha;
                const double guess = std::isfinite(now) && now < 0 ? low_slope / (low_slope - now) : 0.5;
                alpha = low + (high - low) * std::clamp(guess, 0.1, 0.9);
            } else {
                low = alpha;
                low_slope = now;
                alpha = high > 0 ? 0.5 * (low + high) : 2 * alpha;
            }
        }
        if (!accepted) {  // the pattern says nothing here: a sweep of Sinkhorn's, and no memory
            level_.psi = start;
            level_.sweep();
            level_.update_columns();
            if (advance(false, goal_)) return;
            corrected = false;
            alpha_before = 1;
            density = std::min(2 * density, densest);
            for (std::int64_t j = 0; j < m; ++j) r[j] = level_.target_column(j) - level_.columns[j];
            continue;
        }
        for (std::int64_t j = 0; j < m; ++j) s[j] = alpha * d[j];
        alpha_before = alpha;
        corrected = true;
        solution_.history.back().stage = TransportStage::newton;
        ++solution_.newton_iterations;
    }
    solution_.status = Status::converged;
}

}  // namespace raphson
