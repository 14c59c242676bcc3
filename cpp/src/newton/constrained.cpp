// AdaSketch-Newton (Hong, Na, Mahoney, Kolar 2023): Newton steps on ∇L = 0, c = 0, solved as accurately as the descent of an
// exact augmented Lagrangian asks for.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "newton/kkt_system.h"
#include "newton/minres.h"
#include "newton/schur.h"
#include "newton/sketch_project.h"
#include "newton/smooth.h"
#include "newton/vector.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double epsilon = std::numeric_limits<double>::epsilon();

double largest(const Vector& x) {
    double most = 0;
    for (const double v : x) most = std::isfinite(v) ? std::fmax(most, std::fabs(v)) : std::numeric_limits<double>::infinity();
    return most;
}

struct Point {
    Vector x, multipliers, g, c, residual;  // residual: ∇L
    OwnedRows jacobian;
    double value = 0;

    double squares() const { return dot(residual, residual) + dot(c, c); }
};

class Constrained {
public:
    Constrained(Counted& problem, const MinimizeOptions& options, MinimizeSolution& s)
        : problem_(problem), options_(options), s_(s), n_(problem.variables()), m_(problem.constraints()), paper_(options.rule == AccuracyRule::paper) {
        if (paper_) {
            eta1_ = 1;
            eta2_ = 0.1;
        }
    }

    void run() {
        at_.x = s_.x;
        for (Point* p : {&at_, &trial_}) {
            p->x.resize(static_cast<std::size_t>(n_));
            p->g.resize(static_cast<std::size_t>(n_));
            p->residual.resize(static_cast<std::size_t>(n_));
            p->c.resize(static_cast<std::size_t>(m_));
            p->multipliers.assign(static_cast<std::size_t>(m_), 0.0);
        }
        step_.resize(static_cast<std::size_t>(n_ + m_));
        if (!values(at_) || !derivatives(at_)) throw std::invalid_argument("minimize: no finite value and derivatives at x0");
        if (options_.multipliers != nullptr) {
            std::copy_n(options_.multipliers, m_, at_.multipliers.begin());
        } else if (!paper_) {
            estimate_multipliers(at_);
        }
        lagrangian(at_);
        if (!paper_ && m_ >= n_ && !solve_equations()) return;
        best_ = at_.squares();
        for (;;) {
            publish();
            if (done()) {
                s_.status = Status::converged;
                return;
            }
            if (s_.iterations >= options_.max_iter) {
                s_.status = Status::max_iter;
                return;
            }
            if (s_.iterations > 0 && report()) {
                s_.status = Status::stopped;
                return;
            }
            if (!iterate()) {
                if (s_.status == Status::stalled && at_floor()) s_.status = Status::precision_floor;
                return;
            }
            ++s_.iterations;
            if (stands() && at_floor()) {
                publish();
                s_.status = done() ? Status::converged : Status::precision_floor;
                return;
            }
        }
    }

private:
    bool values(Point& p) {
        p.value = problem_.value(p.x.data());
        return problem_.constraint_values(p.x.data(), p.c.data()) && std::isfinite(p.value);
    }
    bool derivatives(Point& p) {
        if (!problem_.gradient(p.x.data(), p.g.data())) return false;
        p.jacobian.copy(problem_.jacobian(p.x.data()));
        lagrangian(p);
        return std::isfinite(largest(p.residual));
    }
    void lagrangian(Point& p) {
        p.residual = p.g;
        add_transposed(p.jacobian.view(), p.multipliers.data(), p.residual.data());
    }

    // min ‖g + Gᵀλ‖ by [[I, Gᵀ], [G, −small]].
    void estimate_multipliers(Point& p) {
        const RowBlock& g = p.jacobian.view();
        Vector ones(static_cast<std::size_t>(n_), 1.0), right(step_.size(), 0.0), found(step_.size());
        std::vector<int64_t> starts(static_cast<std::size_t>(n_ + 1));
        std::vector<std::int32_t> index(static_cast<std::size_t>(n_));
        std::iota(starts.begin(), starts.end(), int64_t{0});
        std::iota(index.begin(), index.end(), 0);
        RowBlock identity;
        identity.rows = identity.cols = n_;
        identity.values = ones.data();
        identity.starts = starts.data();
        identity.index = index.data();
        KktSystem system;
        system.set(identity, g);
        const PivotSigns signs = system.factor(0, 0);
        if (signs.zero > 0 || m_ > n_) system.factor(0, 1e-8 * std::fmax(1.0, system.jacobian_norm()));
        for (int64_t i = 0; i < n_; ++i) right[static_cast<std::size_t>(i)] = -p.g[static_cast<std::size_t>(i)];
        double residual = 0;
        system.solve(right.data(), found.data(), &residual);
        ++s_.factorisations;
        std::copy(found.begin() + n_, found.end(), p.multipliers.begin());
        if (!(largest(p.multipliers) <= 1e3 * std::fmax(1.0, largest(p.g)))) std::fill(p.multipliers.begin(), p.multipliers.end(), 0.0);
        lagrangian(p);
    }

    // As many constraints as variables: x is where they hold, whatever f is, and nothing holds a step back better than ‖c‖.
    bool solve_equations() {
        publish();
        if (done()) return true;
        const Status found = move_by_violation(0.5 * options_.tol, options_.max_iter);
        publish();
        if (found == Status::converged) return true;
        s_.status = found;
        return false;
    }
    // To the least violation, or to a norm of `goal`; multipliers anew.
    Status move_by_violation(double goal, int most) {
        Status found = restore(problem_, at_.x, goal, std::fmin(1e-9, 0.1 * options_.tol), most);
        if (found == Status::max_iter && most < options_.max_iter) found = Status::stalled;
        if (!values(at_) || !derivatives(at_)) return Status::breakdown;
        estimate_multipliers(at_);
        return found;
    }

    void publish() {
        s_.x = at_.x;
        s_.multipliers = at_.multipliers;
        s_.value = at_.value;
        s_.optimality = largest(at_.residual) / std::fmax(1.0, largest(at_.multipliers));
        s_.constraint_violation = largest(at_.c);
    }
    bool done() const {
        if (paper_) return std::sqrt(at_.squares()) <= options_.tol;
        return std::fmax(s_.optimality, s_.constraint_violation) <= options_.tol;
    }
    // The last step changed no digit to speak of.
    bool stands() const {
        double most = 0, moved = 0;
        for (std::size_t i = 0; i < at_.x.size(); ++i) {
            most = std::fmax(most, std::fabs(at_.x[i]));
            moved = std::fmax(moved, std::fabs(at_.x[i] - trial_.x[i]));
        }
        return moved <= 8 * epsilon * most;
    }
    // Whether the nearest numbers would change the optimality conditions as much as they are violated; spends trial_.
    bool at_floor() {
        nudge(at_.x, trial_.x);
        trial_.multipliers = at_.multipliers;
        if (!values(trial_) || !derivatives(trial_)) return false;
        double change = 0;
        for (std::size_t i = 0; i < at_.residual.size(); ++i) {
            change += (trial_.residual[i] - at_.residual[i]) * (trial_.residual[i] - at_.residual[i]);
        }
        for (std::size_t i = 0; i < at_.c.size(); ++i) change += (trial_.c[i] - at_.c[i]) * (trial_.c[i] - at_.c[i]);
        return std::sqrt(at_.squares()) <= floor_factor * std::sqrt(change);
    }
    bool report() {
        if (!options_.callback) return false;
        return options_.callback({s_.iterations, s_.value, s_.optimality, s_.constraint_violation, last_step_, at_.x.data(), at_.multipliers.data()});
    }

    bool wanted(const PivotSigns& signs) const { return signs.positive == n_ && signs.negative == m_; }
    PivotSigns factor(double shift, double damping) {
        ++s_.factorisations;
        return system_.factor(shift, damping);
    }

    // Of a shift that is felt: beside ∇²L, and so that no step is absurdly long.
    double curvature_scale() const {
        const double own = system_.hessian_norm() / std::sqrt(static_cast<double>(n_));
        const double scale = std::fmax(own, largest(at_.residual) / std::fmax(1.0, largest(at_.x)));
        return scale > 0 ? scale : 1.0;
    }

    // B = ∇²L + shift I that is positive definite where G x = 0: K has then n positive and m negative eigenvalues.
    bool convexify(double at_least) {
        const double scale = curvature_scale();
        double shift = at_least, damping = 0;
        PivotSigns signs = factor(shift, damping);
        if (!wanted(signs) && (signs.zero > 0 || m_ > n_)) {  // rows of G that depend on one another
            damping = 1e-8 * std::fmax(1.0, system_.jacobian_norm() / std::sqrt(static_cast<double>(m_)));
            signs = factor(shift, damping);
        }
        bool first = true;
        while (!wanted(signs)) {
            if (shift == 0) {
                shift = last_shift_ > 0 ? std::fmax(last_shift_ / 3, 1e-12 * scale) : 1e-4 * scale;
            } else {
                shift *= first && last_shift_ == 0 ? 100 : 8;
                first = false;
            }
            if (shift > 1e40) return false;
            signs = factor(shift, damping);
        }
        if (shift > at_least) last_shift_ = shift;
        shift_ = shift;
        damping_ = damping;
        return true;
    }

    struct Demand {  // of the paper's accuracy rule
        double psi = 0, upsilon = 0;
    };
    // The paper's shift and constants (its code's: lowest eigenvalue 1e-6 on the null space, xi_B = 0.1).
    Demand paper_rule() {
        constexpr double lowest = 1e-6, xi_b = 0.1;
        if (m_ > 2000) throw std::invalid_argument("minimize: rule='paper' takes a dense eigenvalue of the Jacobian: at most 2000 constraints");
        const double hessian = system_.hessian_norm();
        shift_ = wanted(factor(-lowest, 0)) ? 0 : xi_b + hessian;
        damping_ = 0;
        factor(shift_, 0);
        const auto size = static_cast<std::size_t>(m_);
        Vector gram(size * size), values(size), vectors(gram.size()), row(static_cast<std::size_t>(n_)), product(size);
        for (int64_t i = 0; i < m_; ++i) {
            std::fill(row.begin(), row.end(), 0.0);
            each_entry(at_.jacobian.view(), i, [&](int64_t j, double v) { row[static_cast<std::size_t>(j)] = v; });
            times_rows(at_.jacobian.view(), row.data(), gram.data() + i * m_);
        }
        eigh(gram.data(), m_, values.data(), vectors.data(), 60);
        const double xi_g = std::fmax(values.empty() ? 1.0 : values[0], 1e-12);
        double trace = 0;
        for (int64_t i = 0; i < n_; ++i) trace += system_.hessian_diagonal(i);
        const double b = hessian * hessian + 2 * shift_ * trace + static_cast<double>(n_) * shift_ * shift_;  // ‖B‖_F²
        return {20 * std::fmax(b, 1.0) / (std::fmin(xi_g, 1.0) * std::fmin(xi_b, 1.0)), std::fmax(std::fmax(system_.jacobian_norm(), hessian), 1.0)};
    }
    double paper_delta(const Demand& d) const {
        return (0.5 - 0.1) * eta2_ / ((1 + eta1_ + eta2_) * d.upsilon * d.upsilon * d.psi * d.psi);
    }

    // Of the merit function f + λᵀc + η₁/2 ‖c‖² + η₂/2 ‖∇L‖² along the step; ∇²L is that of the Lagrangian, not shifted.
    double merit_slope() const {
        Vector hd(static_cast<std::size_t>(n_)), gr(static_cast<std::size_t>(m_)), gd(gr.size());
        system_.hessian_times(at_.residual.data(), hd.data());
        times_rows(at_.jacobian.view(), at_.residual.data(), gr.data());
        times_rows(at_.jacobian.view(), step_.data(), gd.data());
        double slope = eta1_ * dot(at_.c, gd);
        for (std::size_t i = 0; i < hd.size(); ++i) slope += (at_.residual[i] + eta2_ * hd[i]) * step_[i];
        for (std::size_t i = 0; i < gr.size(); ++i) slope += (at_.c[i] + eta2_ * gr[i]) * step_[hd.size() + i];
        return slope;
    }
    double merit(const Point& p) const {
        return p.value + dot(p.multipliers, p.c) + 0.5 * eta1_ * dot(p.c, p.c) + 0.5 * eta2_ * dot(p.residual, p.residual);
    }

    // One solution of K step = right, to goal·‖right‖ in all; called again with a smaller goal it goes on where it was.
    void solve(const Vector& right, double goal, bool again) {
        double residual = 0;
        const double length = std::sqrt(dot(right, right));
        switch (options_.inner) {
            case KktMethod::ldlt:
                if (!again) s_.inner_iterations += 1 + system_.solve(right.data(), step_.data(), &residual);
                return;
            case KktMethod::minres: {
                if (!again) {
                    schur_ = std::make_unique<SchurPreconditioner>(system_, system_.hessian(), system_.jacobian());
                    std::fill(step_.begin(), step_.end(), 0.0);
                }
                s_.inner_iterations += minres(
                    n_ + m_, [&](const double* x, double* y) { system_.times(x, y); },
                    [&](const double* x, double* y) { schur_->apply(x, y); }, right.data(), goal * length,
                    std::min<int64_t>(options_.inner_max_iter, 5 * (n_ + m_) + 50), step_.data(), &residual);
                return;
            }
            default:
                if (!again) {
                    projection_ = std::make_unique<SketchProject>(system_, options_.inner, RowSampling::equilibrated, 32,
                                                                  options_.seed + static_cast<std::uint64_t>(s_.iterations) * 0x9E3779B97F4A7C15u);
                    projection_->start(right.data(), nullptr);
                    spent_ = 0;
                }
                const int64_t used = projection_->run(goal * length, std::max<int64_t>(0, options_.inner_max_iter - spent_));
                spent_ += used;
                s_.inner_iterations += used;
                projection_->solution(step_.data());
        }
    }

    // Where rows of G depend on one another, multipliers may run off along them: they stay then, and are estimated anew.
    void hold_multipliers() {
        double most = 0;
        for (std::size_t i = at_.x.size(); i < step_.size(); ++i) most = std::fmax(most, std::fabs(step_[i]));
        estimate_ = most > 1e3 * std::fmax(1.0, std::fmax(largest(at_.multipliers), largest(at_.g)));
        if (estimate_) std::fill(step_.begin() + n_, step_.end(), 0.0);
    }

    // A step along which the merit function falls: the penalties and the accuracy change until it does.
    bool find_step(const Demand& demand) {
        Vector right(step_.size());
        for (std::size_t i = 0; i < at_.residual.size(); ++i) right[i] = -at_.residual[i];
        for (std::size_t i = 0; i < at_.c.size(); ++i) right[at_.residual.size() + i] = -at_.c[i];
        const double squares = dot(right, right);
        constexpr double nu = 1.5;
        if (paper_) delta_ = std::fmax(std::fmin(delta_, paper_delta(demand)), 1e-6);
        double theta = std::fmin(0.1, std::sqrt(std::sqrt(squares)));  // → 0: superlinear
        for (int tries = 0; tries < 200; ++tries) {
            const double goal = paper_ ? delta_ / (system_.frobenius_shifted() * demand.psi) : theta;
            solve(right, goal, tries > 0);
            if (!std::isfinite(dot(step_, step_))) return false;
            if (!paper_ && damping_ > 0) hold_multipliers();
            slope_ = merit_slope();
            if (eta1_ > 1e8 || eta2_ < 1e-8 || slope_ <= -0.5 * eta2_ * squares) return true;
            eta1_ *= nu * nu;
            eta2_ /= nu;
            if (paper_) {
                delta_ = std::fmax(std::fmin(delta_ / (nu * nu * nu * nu), paper_delta(demand)), 1e-6);
            } else {
                theta = std::fmax(0.1 * theta, 1e-10);
            }
        }
        return true;
    }

    bool look(double alpha) {
        for (std::size_t i = 0; i < at_.x.size(); ++i) trial_.x[i] = at_.x[i] + alpha * step_[i];
        for (std::size_t i = 0; i < at_.c.size(); ++i) trial_.multipliers[i] = at_.multipliers[i] + alpha * step_[at_.x.size() + i];
        return values(trial_);
    }

    // Second-order correction: the constraints' curvature along the step, met by a second solution with the same factors.
    bool correct() {
        const Vector before = step_;
        Vector right(step_.size());
        for (std::size_t i = 0; i < at_.residual.size(); ++i) right[i] = -at_.residual[i];
        for (std::size_t i = 0; i < at_.c.size(); ++i) right[at_.residual.size() + i] = -(at_.c[i] + trial_.c[i]);
        double residual = 0;
        system_.solve(right.data(), step_.data(), &residual);
        const bool fine = std::isfinite(dot(step_, step_)) && look(1);
        step_ = before;
        return fine && derivatives(trial_);
    }

    // What a trial's merit is held against: the largest of the last points', under today's penalties (Grippo, Lampariello,
    // Lucidi 1986), so that one step may climb out of a bend.
    double reference() {
        const std::array<double, 3> now = {at_.value + dot(at_.multipliers, at_.c), 0.5 * dot(at_.c, at_.c), 0.5 * dot(at_.residual, at_.residual)};
        double most = now[0] + eta1_ * now[1] + eta2_ * now[2];
        if (paper_) return most;
        constexpr std::size_t kept = 4;
        for (const auto& past : past_) most = std::fmax(most, past[0] + eta1_ * past[1] + eta2_ * past[2]);
        if (past_.size() >= kept) past_.erase(past_.begin());
        past_.push_back(now);
        return most;
    }

    bool search() {
        const double here = reference(), beta = paper_ ? 0.1 : 1e-4;
        const double floor = paper_ ? 1e-12 : largest(at_.c) > options_.tol ? 1e-3 : 1e-10;  // infeasible: rather restore
        bool corrected = paper_ || options_.inner != KktMethod::ldlt;
        for (double alpha = 1; alpha > floor; alpha *= 0.5) {
            const bool finite = look(alpha) && derivatives(trial_);
            if (finite && accept(here, alpha, beta)) return true;
            if (alpha < 1 || corrected || !finite || dot(trial_.c, trial_.c) < dot(at_.c, at_.c)) continue;
            corrected = true;
            if (correct() && accept(here, 1, beta)) return true;
        }
        return false;
    }
    bool accept(double here, double alpha, double beta) {
        const double there = merit(trial_), now = trial_.squares();
        const double rounding = 20 * epsilon * (std::fabs(at_.value) + std::fabs(dot(at_.multipliers, at_.c)) + std::fabs(here));
        const bool falls = slope_ < 0 && there <= here + beta * alpha * slope_;
        // Newton's own measure, where the merit function is all rounding, or, unshifted, when it is cut to a half
        const bool near = now < 0.9 * at_.squares() && std::fabs(there - here) <= rounding;
        const bool fast = !paper_ && shift_ == 0 && now <= 0.25 * best_;
        if (!falls && !near && !fast) return false;
        std::swap(at_, trial_);
        best_ = std::fmin(best_, now);
        last_step_ = alpha;
        return true;
    }

    bool iterate() {
        hessian_.copy(problem_.hessian(at_.x.data(), 1, at_.multipliers.data()));
        system_.set(hessian_.view(), at_.jacobian.view());
        Demand demand;
        if (paper_) {
            demand = paper_rule();
            if (find_step(demand) && search()) return true;
            s_.status = Status::stalled;
            return false;
        }
        double shift = 0;
        for (int tries = 0; tries < 2; ++tries) {
            if (!convexify(shift)) break;
            estimate_ = false;
            if (find_step(demand) && search()) {
                failures_ = 0;
                if (estimate_) estimate_multipliers(at_);
                return true;
            }
            shift = std::fmax(10 * shift_, 1e-2 * curvature_scale());
        }
        return recover();
    }

    // No step was found: less violation first, new multipliers and penalties, or the end.
    bool recover() {
        const double length = std::sqrt(dot(at_.c, at_.c));
        if (++failures_ > 4) {
            s_.status = Status::stalled;
            return false;
        }
        const int left = options_.max_iter - s_.iterations - 1;  // this step itself is one
        if (left > 0 && largest(at_.c) > options_.tol) {
            const Status found = move_by_violation(std::fmax(0.1 * length, 0.5 * options_.tol), std::min(200, left));
            if (found == Status::infeasible || found == Status::breakdown) {
                publish();
                s_.status = found;
                return false;
            }
        } else {
            estimate_multipliers(at_);
        }
        eta1_ = 1;
        eta2_ = 1e-2;
        best_ = at_.squares();
        past_.clear();
        last_step_ = 0;
        return true;
    }

    Counted& problem_;
    const MinimizeOptions& options_;
    MinimizeSolution& s_;
    int64_t n_, m_;
    bool paper_;
    Point at_, trial_;
    Vector step_;
    OwnedRows hessian_;
    KktSystem system_;
    std::unique_ptr<SchurPreconditioner> schur_;
    std::unique_ptr<SketchProject> projection_;
    double eta1_ = 1, eta2_ = 1e-2, delta_ = 0.1, slope_ = 0, best_ = 0;
    std::vector<std::array<double, 3>> past_;  // f + λᵀc, ½‖c‖², ½‖∇L‖²
    double shift_ = 0, damping_ = 0, last_shift_ = 0, last_step_ = 0;
    int64_t spent_ = 0;
    int failures_ = 0;
    bool estimate_ = false;  // multipliers, after this step
};

}  // namespace

void minimize_constrained(Counted& problem, const MinimizeOptions& options, MinimizeSolution& s) {
    Constrained(problem, options, s).run();
}

}  // namespace raphson
