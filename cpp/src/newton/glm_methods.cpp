#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "newton/fit.h"

namespace raphson {

using std::int64_t;
using Vector = std::vector<double>;

namespace {

constexpr int memory = 12;                // pairs of L-BFGS
constexpr int patience = 10;              // reads without a decade before the preconditioner is made anew

}  // namespace

// Preconditioned conjugate gradients on ∇² s = −g until the residual is `forcing` of the gradient.
Vector GlmFit::newton_direction(double forcing, int most) {
    Vector s(at_.w.size(), 0.0), rest = at_.gradient, hp(s.size());
    for (double& r : rest) r = -r;
    Vector z = rest;
    metric_.solve(z);
    Vector p = z;
    double square = dot(rest, z);
    const double goal = forcing * length(rest);
    for (int step = 0; step < most && square > 0; ++step) {
        glm_.hessian(at_, p.data(), hp.data());
        ++solution_.hessian_products;
        const double curvature = dot(p, hp);
        if (!(curvature > 0)) break;
        const double alpha = square / curvature;
        for (std::size_t j = 0; j < s.size(); ++j) {
            s[j] += alpha * p[j];
            rest[j] -= alpha * hp[j];
        }
        if (length(rest) <= goal) break;
        z = rest;
        metric_.solve(z);
        const double next = dot(rest, z);
        for (std::size_t j = 0; j < s.size(); ++j) p[j] = z[j] + next / square * p[j];
        square = next;
    }
    return s;
}

void GlmFit::conjugate_gradients() {
    const bool diagonal = kind_ == GlmMetric::Kind::diagonal;
    while (true) {
        const double here = relative();
        // Superlinear: min(½, √‖g‖); no more than the tolerance needs.
        const double forcing = std::max(std::min(0.5, std::sqrt(here)), std::min(0.5, 0.3 * options_.tol / here));
        const int before = solution_.hessian_products;
        const Vector s = newton_direction(forcing, diagonal ? 500 : 100);
        const int used = solution_.hessian_products - before;
        ++solution_.iterations;
        if (!advance(s)) {
            solution_.status = relative() <= rounding_level ? Status::precision_floor : Status::stalled;
            record();
            if (relative() <= options_.tol) solution_.status = Status::converged;
            return;
        }
        if (record()) return;
        if (diagonal) {
            if (solution_.iterations % 4 == 0) metric_.build(glm_, at_, kind_, 0, 0);
        } else if (used > 4 + 4 * static_cast<int>(-std::log10(forcing) + 1)) {
            refresh();
        }
    }
}

void GlmFit::quasi_newton() {
    struct Pair {
        Vector s, y;
        double rho, log_scale;  // 1/sᵀy, and of sᵀy / yᵀM⁻¹y
    };
    std::deque<Pair> pairs;
    int since = 0;
    double mark = relative();
    while (true) {
        Vector q = at_.gradient, alpha(pairs.size());
        for (std::size_t i = pairs.size(); i-- > 0;) {
            alpha[i] = pairs[i].rho * dot(pairs[i].s, q);
            for (std::size_t j = 0; j < q.size(); ++j) q[j] -= alpha[i] * pairs[i].y[j];
        }
        metric_.solve(q);
        if (!pairs.empty()) {  // the newest pair's scale alone swings between the ends of the spectrum from step to step
            double sum = 0;
            for (const Pair& pair : pairs) sum += pair.log_scale;
            const double scale = std::exp(sum / static_cast<double>(pairs.size()));
            for (double& v : q) v *= scale;
        }
        for (std::size_t i = 0; i < pairs.size(); ++i) {
            const double beta = pairs[i].rho * dot(pairs[i].y, q);
            for (std::size_t j = 0; j < q.size(); ++j) q[j] += (alpha[i] - beta) * pairs[i].s[j];
        }
        for (double& v : q) v = -v;
        const Vector from = at_.w, slope = at_.gradient;
        ++solution_.iterations;
        if (!advance(q)) {
            const bool memory_at_fault = !pairs.empty();
            if (memory_at_fault || (refreshes_ < most_refreshes && relative() > rounding_level)) {  // else the metric may be
                memory_at_fault ? pairs.clear() : refresh();
                --solution_.iterations;  // it was no step
                continue;
            }
            solution_.status = Status::stalled;
            record();
            if (solution_.status != Status::converged && relative() <= rounding_level) solution_.status = Status::precision_floor;
            return;
        }
        if (record()) return;
        Pair pair{at_.w, at_.gradient, 0, 0};
        for (std::size_t j = 0; j < from.size(); ++j) {
            pair.s[j] -= from[j];
            pair.y[j] -= slope[j];
        }
        Vector my = pair.y;
        metric_.solve(my);
        const double curvature = dot(pair.s, pair.y), inside = dot(pair.y, my);
        if (curvature > 0 && inside > 0 && std::isfinite(1 / curvature) && std::isfinite(1 / inside)) {
            pair.rho = 1 / curvature;
            pair.log_scale = std::log(curvature / inside);
            pairs.push_back(std::move(pair));
            if (pairs.size() > memory) pairs.pop_front();
        }
        ++since;
        if (relative() <= 0.1 * mark) {
            mark = relative();
            since = 0;
        } else if (since >= patience && refreshes_ < most_refreshes) {
            refresh();
            pairs.clear();
            mark = relative();
            since = 0;
        }
    }
}

// One step beyond the tolerance, with the last step's matrix, which is near enough: the coefficients get the digits
// that the gradient's norm does not see when columns are nearly collinear, for one read.
void GlmFit::newton() {
    const bool coupled = glm_.outputs() > 1 && glm_.size() <= widest_coupled;
    bool reached = false;
    while (true) {
        if (reached) {
        } else if (coupled) {
            metric_.build_coupled(glm_, at_);
        } else {
            metric_.build(glm_, at_, GlmMetric::Kind::exact, 0, 0);
        }
        Vector s;
        if (glm_.outputs() == 1 || coupled) {
            s = at_.gradient;
            metric_.solve(s);
            for (double& v : s) v = -v;
        } else {  // the blocks couple: to a residual as good as a factor's for a Newton step
            s = newton_direction(1e-3, 200);
        }
        const double before = relative();
        ++solution_.iterations;
        const bool moved = advance(s);
        if (reached) {
            if (moved && relative() > before) std::swap(at_, next_);
            if (moved) solution_.history.back().gradient_norm = relative();
            return;
        }
        if (!moved) {
            solution_.status = relative() <= rounding_level ? Status::precision_floor : Status::stalled;
            return;
        }
        if (record()) {
            reached = solution_.status == Status::converged && relative() > 1e-14 && solution_.iterations < options_.max_iter;
            if (!reached) return;
        }
    }
}

void GlmFit::newton_sketch() {
    while (true) {
        metric_.build(glm_, at_, GlmMetric::Kind::sketch, fit_sketch_factor * glm_.p(), options_.seed + static_cast<std::uint64_t>(solution_.iterations));
        Vector s = at_.gradient;
        metric_.solve(s);
        for (double& v : s) v = -v;
        ++solution_.iterations;
        if (!advance(s)) {
            solution_.status = relative() <= rounding_level ? Status::precision_floor : Status::stalled;
            return;
        }
        if (record()) return;
    }
}

}  // namespace raphson
