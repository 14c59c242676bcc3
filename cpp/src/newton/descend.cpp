// Newton steps of a length that adapts.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "newton/smooth.h"
#include "newton/vector.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double epsilon = std::numeric_limits<double>::epsilon();

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// What a trial step led to.
struct Trial {
    Vector x, g;
    double value = 0;
    bool finite = false;
};

class Descender {
public:
    Descender(Smooth& f, Descent& at, const DescentRule& rule)
        : f_(f), at_(at), rule_(rule), d_(at.x.size()), hd_(at.x.size()) {
        trial_.x.resize(at.x.size());
        trial_.g.resize(at.x.size());
    }

    void run() {
        for (;;) {
            if (rule_.done(at_.value, at_.g)) {
                at_.status = Status::converged;
                if (!(at_.value > rule_.saddles_above) || !leave_saddle()) return;
                continue;
            }
            if (at_.steps >= rule_.most) {
                at_.status = Status::max_iter;
                return;
            }
            if (at_.value < -1e100) {  // unbounded below, as far as anyone can tell
                at_.status = Status::breakdown;
                return;
            }
            const bool moved = rule_.method == MinimizeMethod::damped ? damped_step() : regularised_step();
            if (!moved) {
                at_.status = Status::stalled;
                return;
            }
            if (at_.status == Status::stopped) return;
        }
    }

private:
    void look(double scale) {
        for (std::size_t i = 0; i < d_.size(); ++i) trial_.x[i] = at_.x[i] + scale * d_[i];
        trial_.value = f_.value(trial_.x.data());
        trial_.finite = std::isfinite(trial_.value);
    }
    bool look_at_gradient() {
        trial_.finite = trial_.finite && f_.gradient(trial_.x.data(), trial_.g.data());
        return trial_.finite;
    }
    void accept(double step) {
        at_.x.swap(trial_.x);
        at_.g.swap(trial_.g);
        at_.value = trial_.value;
        ++at_.steps;
        if (rule_.accepted(at_, step)) at_.status = Status::stopped;
    }
    double rounding() const { return 10 * epsilon * std::fmax(std::fabs(at_.value), std::fabs(trial_.value)); }

    // The Hessian where it is due, and a shift of at least `shift` that makes it positive definite.
    double positive_shift(double shift) {
        double floor = 0;
        curved_ = false;
        for (int tries = 0; tries < 60; ++tries) {
            if (f_.factor(shift)) return shift;
            Vector& p = hd_;
            const double value = f_.negative_direction(p.data()), squares = dot(p, p);
            const double needed = squares > 0 ? -value / squares : 0;  // at least that more
            if (needed > shift) {
                curved_ = true;
                curve_ = p;
            }
            const double least = needed > 0 ? 1e-8 : 1e-13;  // of the eigenvalues' size; singular matrices need little
            floor = std::fmax(std::fmax(4 * shift, shift + 1.5 * needed), least * std::fmax(f_.size(), 1e-100));
            shift = std::fmax(floor, 1e-150);
        }
        return shift;
    }

    double promise(double slope) {  // what the quadratic model falls by along d
        f_.times(d_.data(), hd_.data());
        return -slope - 0.5 * dot(d_, hd_);
    }
    // Where curvature is negative, the step goes on along it, as far as steps may be, if the model approves.
    double bend(double slope) {
        const double straight = promise(slope), length = norm(curve_), reach = norm(d_);
        const double far = std::fmin(at_.length, 10 * std::fmax(1.0, norm(at_.x)));
        if (!(length > 0) || !(reach < far)) return straight;
        const double sign = dot(at_.g, curve_) > 0 ? -1 / length : 1 / length, along = dot(d_, curve_) * sign;
        const double more = -along + std::sqrt(along * along + far * far - reach * reach);
        const Vector before = d_;
        for (std::size_t i = 0; i < d_.size(); ++i) d_[i] += more * sign * curve_[i];
        const double bent = promise(dot(at_.g, d_));
        if (bent > straight) return bent;
        d_ = before;
        return straight;
    }

    void refresh() {
        const double start = now();
        f_.take_hessian(at_.x.data(), false);
        hessian_seconds_ = now() - start;
        age_ = 0;
    }
    int period() const {
        if (rule_.method != MinimizeMethod::lazy) return 1;
        if (rule_.period > 0) return rule_.period;
        const double ratio = step_seconds_ > 0 ? hessian_seconds_ / step_seconds_ : 1;
        return static_cast<int>(std::clamp(ratio, 1.0, std::fmax(1.0, static_cast<double>(d_.size()))));
    }

    struct Verdict {
        bool good, level;  // level: the values' difference is all rounding
        double ratio;      // of what the value fell by to what the model promised
    };
    Verdict judge(double model, double shift, double length) {
        const double fall = at_.value - trial_.value;
        Verdict v{false, std::fabs(fall) <= rounding() && model <= 1e3 * rounding(), model > 0 ? fall / model : -1};
        if (!trial_.finite || !(v.level || fall > 0) || !look_at_gradient()) return v;
        const double left = norm(trial_.g);
        const bool by_value = !v.level && fall >= left * left / (8 * shift);
        const bool by_gradient = v.level && (-dot(trial_.g, d_) >= left * left / (4 * shift) || left < 0.9 * length);
        v.good = by_value || by_gradient || (!v.level && v.ratio >= 0.1);
        return v;
    }

    // Along a step that was not shortened by a shift: however variables are scaled, it points where Newton points.
    bool search_line(double slope) {
        for (double alpha = 0.5; alpha > 0.03; alpha *= 0.5) {
            look(alpha);
            if (!trial_.finite || !(at_.value - trial_.value >= -1e-4 * alpha * slope) || !look_at_gradient()) continue;
            ++age_;
            shift_ = 0;
            trusted_ = false;
            accept(alpha * norm(d_));
            return true;
        }
        return false;
    }

    // λ = ‖g‖/γ; accepted when the value falls by ‖g₊‖²/(8λ) (Semenov, Jaggi, Doikov 2026), or by a share of what the model
    // promised, or, where the value is all rounding, when the gradient agrees.
    bool regularised_step() {
        if (age_ < 0 || age_ >= period()) refresh();
        const bool fresh = age_ == 0;
        const double start = now();
        bool kept = !fresh;  // the factors as well
        double shift = shift_;
        for (int tries = 0; tries < 80; ++tries) {
            const double length = norm(at_.g);
            if (!kept) {
                const double before = now();
                shift = positive_shift(length / at_.length);
                if (fresh && tries == 0) hessian_seconds_ += now() - before;
            }
            kept = false;
            f_.solve(at_.g.data(), d_.data());
            for (double& entry : d_) entry = -entry;
            const double slope = dot(at_.g, d_);
            if (!(slope < 0) || !std::isfinite(slope)) {
                at_.length *= 0.1;
                continue;
            }
            const double model = curved_ ? bend(slope) : promise(slope), reach = norm(d_);
            if (reach <= 4 * epsilon * norm(at_.x)) return false;
            look(1);
            Verdict verdict = judge(model, shift, length);
            if (!verdict.good && trial_.finite) {
                hd_ = d_;
                if (f_.correct(d_.data())) {
                    look(1);
                    verdict = judge(model, shift, length);
                }
                if (!verdict.good) d_ = hd_;
            }
            if (!verdict.good && shift == 0 && search_line(slope)) return true;
            const auto [good, level, ratio] = verdict;
            if (!good) {
                const bool lazy = !fresh;
                at_.length = std::fmin(0.5 * at_.length, (ratio < -1 || !trial_.finite ? 0.1 : 0.4) * reach);
                if (lazy) {  // the Hessian is too old before it is too steep
                    refresh();
                    return regularised_step();
                }
                if (at_.length < 1e-200) return false;
                continue;
            }
            if (level || ratio > 0.9) {
                at_.length = std::fmax(2 * at_.length, 4 * reach);
            } else if (ratio > 0.5) {
                at_.length = std::fmax(at_.length, 2 * reach);
            } else if (ratio < 0.25 && shift > 0) {
                at_.length = std::fmin(at_.length, reach);
            }
            if (shift > 0) at_.length = std::fmin(at_.length, 1e100);
            shift_ = shift;
            ++age_;
            trusted_ = fresh && shift <= 1e-8 * f_.size() && (level || std::fabs(ratio - 1) < 0.2);
            accept(reach);
            if (!fresh || age_ == 1) step_seconds_ = now() - start;
            return true;
        }
        return false;
    }

    // αH⁻¹g with α from the decrement G = √(gᵀH⁻¹g): order 2, α = (√(1+2LG) − 1)/(LG) (Hanzely et al. 2022); above,
    // α = 1/(1+θ), θ = (9L)^(1/(q−1)) G^((q−2)/(q−1)) (Hanzely, Abdukhakimov, Takáč 2024). L doubles until the value falls as
    // that L promises.
    bool damped_step() {
        refresh();
        positive_shift(0);
        f_.solve(at_.g.data(), d_.data());
        for (double& entry : d_) entry = -entry;
        const double squares = -dot(at_.g, d_);
        if (!(squares > 0)) return false;
        const double decrement = std::sqrt(squares), reach = norm(d_);
        double& constant = at_.length;  // L
        for (int tries = 0; tries < 100; ++tries) {
            const double lg = constant * decrement;
            double alpha = lg > 1e-8 ? (std::sqrt(1 + 2 * lg) - 1) / lg : 1 - lg / 2;
            if (rule_.order > 2) {
                const double q = rule_.order;
                alpha = 1 / (1 + std::pow(9 * constant, 1 / (q - 1)) * std::pow(decrement, (q - 2) / (q - 1)));
            }
            look(alpha);
            const double fall = at_.value - trial_.value;
            const bool level = std::fabs(fall) <= rounding();
            if (trial_.finite && (level || fall >= 0.5 * alpha * (1 - alpha / 2) * squares) && look_at_gradient() &&
                (!level || norm(trial_.g) <= norm(at_.g))) {
                constant = std::fmax(0.5 * constant, 1e-100);
                trusted_ = level;
                accept(alpha * reach);
                return true;
            }
            if (alpha * reach <= 4 * epsilon * norm(at_.x)) return false;
            constant *= trial_.finite ? 2 : 10;
        }
        return false;
    }

    // Where the gradient is small: a direction of negative curvature, if there is one and the value falls along it.
    bool leave_saddle() {
        if (at_.steps >= rule_.most || trusted_) return false;
        f_.take_hessian(at_.x.data(), true);
        age_ = -1;
        const double noise = 1e-10 * std::fmax(f_.size(), std::numeric_limits<double>::min());
        if (f_.factor(noise)) return false;
        const double value = f_.negative_direction(d_.data());
        const double squares = dot(d_, d_);
        if (!(value < 0) || !(squares > 0)) return false;
        const double curvature = value / squares - noise, unit = 1 / std::sqrt(squares);
        const double sign = dot(at_.g, d_) > 0 ? -unit : unit;
        for (double& entry : d_) entry *= sign;
        for (double step = std::fmax(1.0, rule_.method == MinimizeMethod::damped ? 1.0 : std::fmin(at_.length, 1e3)); step > 1e-7; step *= 0.25) {
            for (const double side : {step, -step}) {
                look(side);
                if (trial_.finite && at_.value - trial_.value > std::fmax(-0.1 * curvature * step * step, 1e3 * rounding()) && look_at_gradient()) {
                    if (rule_.method != MinimizeMethod::damped) at_.length = std::fmax(step, 1e-3);
                    trusted_ = false;
                    accept(step);
                    return at_.status != Status::stopped;
                }
            }
        }
        at_.indefinite = true;
        return false;
    }

    Smooth& f_;
    Descent& at_;
    const DescentRule& rule_;
    Vector d_, hd_, curve_;  // curve: a direction of negative curvature
    bool curved_ = false;
    Trial trial_;
    bool trusted_ = false;  // the last Hessian was positive definite, and its model held: no saddle point is here
    int age_ = -1;  // steps made with this Hessian; −1: there is none
    double shift_ = 0, hessian_seconds_ = 0, step_seconds_ = 0;
};

}  // namespace

void descend(Smooth& f, Descent& at, const DescentRule& rule) { Descender(f, at, rule).run(); }

}  // namespace raphson
