// Least violation of constraints: the function ½‖c‖² for descend().
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "newton/kkt_system.h"
#include "newton/smooth.h"

namespace raphson {
namespace {

using std::int64_t;
using Vector = std::vector<double>;

// Its Hessian GᵀG + Σ cᵢ∇²cᵢ is never formed: (S + λI + GᵀG) d = r is the system [[S + λI, Gᵀ], [G, −I]] [d; Gd] = [r; 0].
class Violation final : public Smooth {
public:
    explicit Violation(Counted& problem)
        : problem_(problem), n_(problem.variables()), m_(problem.constraints()), c_(static_cast<std::size_t>(m_)), right_(static_cast<std::size_t>(n_ + m_)), found_(right_.size()), no_starts_(static_cast<std::size_t>(n_ + 1), 0) {
        nothing_.rows = nothing_.cols = n_;
        nothing_.starts = no_starts_.data();
    }

    double value(const double* x) override {
        seen_.assign(x, x + n_);
        if (!problem_.constraint_values(x, c_.data())) return std::nan("");
        return 0.5 * std::inner_product(c_.begin(), c_.end(), c_.begin(), 0.0);
    }
    bool gradient(const double* x, double* g) override {  // where value() was called last
        std::fill_n(g, n_, 0.0);
        add_transposed(problem_.jacobian(x), c_.data(), g);
        return std::all_of(g, g + n_, [](double v) { return std::isfinite(v); });
    }
    void take_hessian(const double* x, bool exact) override {
        if (!std::equal(seen_.begin(), seen_.end(), x)) value(x);
        here_ = c_;
        jacobian_.copy(problem_.jacobian(x));
        // Gauss–Newton is Newton on c itself; where that is slow, the violation will stay, and its own curvature counts.
        const double squares = std::inner_product(c_.begin(), c_.end(), c_.begin(), 0.0);
        const bool fast = !exact && squares < 0.7 * before_[1];
        before_[1] = before_[0];
        before_[0] = squares;
        gauss_newton_ = fast;
        if (fast) {
            system_.set(nothing_, jacobian_.view());
        } else {
            curvature_.copy(problem_.hessian(x, 0, c_.data()));
            system_.set(curvature_.view(), jacobian_.view());
        }
    }
    bool factor(double shift) override {
        newton_ = false;
        if (shift == 0 && gauss_newton_ && m_ == n_) {  // G d = −c itself: GᵀG would square its condition
            const PivotSigns signs = system_.factor(0, 0);
            ++problem_.counts().factorisations;
            newton_ = signs.positive == n_ && signs.negative == n_;
            if (newton_) return true;
        }
        const PivotSigns signs = system_.factor(shift, 1);
        ++problem_.counts().factorisations;
        return signs.positive == n_ && signs.negative == m_;
    }
    void solve(const double* rhs, double* d) override {
        std::fill(right_.begin(), right_.end(), 0.0);
        if (newton_) {
            std::copy(here_.begin(), here_.end(), right_.begin() + n_);  // rhs is Gᵀ of it
        } else {
            std::copy(rhs, rhs + n_, right_.begin());
        }
        double residual = 0;
        system_.solve(right_.data(), found_.data(), &residual);
        std::copy_n(found_.begin(), n_, d);
    }
    void times(const double* v, double* hv) override {
        Vector gv(static_cast<std::size_t>(m_));
        times_rows(jacobian_.view(), v, gv.data());
        system_.hessian_times(v, hv);
        add_transposed(jacobian_.view(), gv.data(), hv);
    }
    double size() const override { return system_.hessian_norm() + system_.jacobian_norm() * system_.jacobian_norm(); }
    // Chord step: where the constraints bend, the same Jacobian brings c(x + d) down.
    bool correct(double* d) override {
        if (!gauss_newton_) return false;
        for (std::size_t i = 0; i < c_.size(); ++i) right_[static_cast<std::size_t>(n_) + i] = -c_[i];
        std::fill_n(right_.begin(), n_, 0.0);
        double residual = 0;
        system_.solve(right_.data(), found_.data(), &residual);
        for (int64_t i = 0; i < n_; ++i) d[i] += found_[static_cast<std::size_t>(i)];
        return std::all_of(d, d + n_, [](double v) { return std::isfinite(v); });
    }
    double negative_direction(double* p) override {  // the system always has m negative eigenvalues: of the Hessian itself
        std::fill_n(p, n_, 0.0);
        constexpr int64_t most = 300;
        if (gauss_newton_ || n_ > most) return 0;
        Vector h(static_cast<std::size_t>(n_ * n_)), unit(static_cast<std::size_t>(n_), 0.0);
        for (int64_t i = 0; i < n_; ++i) {
            unit[static_cast<std::size_t>(i)] = 1;
            times(unit.data(), h.data() + i * n_);
            unit[static_cast<std::size_t>(i)] = 0;
        }
        Ldlt ldlt;
        ldlt.factor(h.data(), n_, n_, 1e-14 * size());
        return ldlt.negative_direction(p);
    }

private:
    Counted& problem_;
    int64_t n_, m_;
    Vector seen_, c_, here_, right_, found_;  // c where value() was asked for last (seen), and where the Hessian was taken
    double before_[2] = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};  // ‖c‖², one and two steps ago
    std::vector<int64_t> no_starts_;
    RowBlock nothing_;  // n×n zeros
    bool gauss_newton_ = false, newton_ = false;
    OwnedRows jacobian_, curvature_;
    KktSystem system_;
};

}  // namespace

Status restore(Counted& problem, Vector& x, double goal, double tol, int most) {
    Violation violation(problem);
    Descent at;
    at.x = x;
    at.value = violation.value(x.data());
    at.g.resize(x.size());
    if (!std::isfinite(at.value) || !violation.gradient(x.data(), at.g.data())) return Status::breakdown;
    ++problem.counts().restorations;
    const double size = std::fmax(1.0, std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0)));
    at.length = problem.constraints() >= problem.variables() ? std::numeric_limits<double>::infinity() : 1e3 * size;  // full steps first
    DescentRule rule;
    rule.most = most;
    rule.saddles_above = 0.5 * goal * goal;
    bool near = false;
    rule.done = [&](double value, const Vector& g) {
        const double length = std::sqrt(2 * value);
        near = length <= goal;
        double steep = 0;
        for (const double entry : g) steep = std::fmax(steep, std::fabs(entry));
        return near || steep <= tol * std::fmin(1.0, length);
    };
    rule.accepted = [](const Descent&, double) { return false; };
    descend(violation, at, rule);
    x = at.x;
    problem.counts().iterations += at.steps;
    if (at.status != Status::converged) return at.status;
    return near ? Status::converged : Status::infeasible;
}

}  // namespace raphson
