#include "ot/quadratic.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

namespace raphson {
namespace {

constexpr double level_factor = 4, level_goal = 1e-4;  // reg falls by the factor; levels between are solved to the goal
constexpr double widest = 0.1, first_scale = 0.05;     // of the cost's range: bounds of the smoothing
constexpr double ease_first = 0.25, ease_restart = 0.01, ease_factor = 0.1, ease_last = 1e-6, ease_final = 2.5e-6;
constexpr double ease_goal = 1e-7;
constexpr int ease_steps = 40;
constexpr double first_width = 1e-4;  // of the cost's range: pairs so near the support are an interior point's first
constexpr std::int64_t largest_enclosed = 1536, many_pairs = 100000;
constexpr int most_enclosures = 4, enclose_after = 5;  // steps without progress
constexpr int level_steps = 150, trials = 14, patience = 10;

class QuadraticRun {
public:
    QuadraticRun(const TransportProblem& problem, std::int64_t cardinality, const TransportOptions& options)
        : problem_(problem), options_(options), level_(problem, cardinality) {
        for (double a : problem.a) mass_ += a;
        span_ = std::max(problem.highest_cost - problem.lowest_cost, 0.0);
        largest_ = std::max({std::abs(problem.highest_cost), std::abs(problem.lowest_cost), std::numeric_limits<double>::min()});
        if (!(span_ > 1e-12 * largest_)) span_ = 1e-12 * largest_;
        width_ = first_width * span_;
        share_ = mass_ / static_cast<double>(std::max(problem.n, problem.m));
        if (options.g != nullptr) {
            for (std::int64_t j = 0; j < problem.m; ++j) {
                if (problem.b[j] > 0 && std::isfinite(options.g[j])) level_.g[j] = options.g[j];
            }
        }
    }

    QuadraticSolution solve() {
        const bool warm = options_.g != nullptr, limited = level_.constrained();
        level_.constrain(false);
        if (!warm || !limited) descend(warm, limited);
        if (warm && !limited && solution_.status == Status::stalled) {  // it was no start
            over_ = false;
            failures_ = enclosures_ = 0;
            enclosed_ = 0;
            width_ = first_width * span_;
            for (std::int64_t j = 0; j < problem_.m; ++j) level_.g[j] = problem_.b[j] > 0 ? 0 : minus_infinity;
            solution_.status = Status::max_iter;
            descend(false, false);
        }
        if (limited && !over_) tighten();
        return finish();
    }

private:
    // Through the regularisations to the problem's own, at once from a warm start.
    void descend(bool warm, bool limited) {
        std::vector<double> regs(1, problem_.reg);
        while (!warm && regs.back() * level_factor * share_ < span_) regs.push_back(regs.back() * level_factor);
        double delta = first_scale * span_;
        for (std::size_t k = regs.size(); k-- > 0 && !over_;) {
            level_.reg = regs[k];
            last_ = k == 0 && !limited;
            if (k + 1 < regs.size() || warm) {
                delta = std::min(first_scale * span_, regs[k] * share_ / (k + 1 < regs.size() ? level_factor : 1));
            }
            const double goal = k == 0 ? 0.9 * options_.tol : std::max(level_goal * mass_, options_.tol);
            reach(goal, last_ ? options_.max_iter : level_steps, delta);
        }
    }

    // The limit, eased less and less. Where it does not bind in the end, plans of the hull are plans.
    void tighten() {
        if (level_.single()) approach_single();
        if (over_) return;
        level_.constrain(true);
        level_.reg = problem_.reg;
        std::vector<double> before, here;
        double ease = level_.single() ? ease_final : options_.g != nullptr ? ease_restart : ease_first;
        for (int k = 0; !over_; ++k, ease *= ease_factor) {
            level_.ease = ease;
            last_ = ease < ease_last / ease_factor;
            reach(std::max(ease_goal * mass_, 0.9 * options_.tol), ease_steps,
                  std::min(first_scale * span_, level_.reg * share_ * ease));
            note_bound();
            if (solution_.status == Status::stopped || level_.hard_error <= options_.tol) break;
            // Once it is settled who ties, potentials are smooth in the ease.
            std::swap(before, here);
            here = level_.g;
            for (std::int64_t j = 0; k > 1 && j < problem_.m; ++j) {
                const double ahead = last_ ? ease_factor / (1 - ease_factor) : ease_factor;
                if (problem_.b[j] > 0) level_.g[j] += ahead * (here[j] - before[j]);
            }
            if (last_) {
                over_ = false;
                pass();
                over_ = true;
            }
        }
        const bool proven = solution_.status == Status::converged;
        if (proven && level_.hard_error > 10 * options_.tol) solution_.status = Status::stalled;
    }

    // With one entry a row Σ P²/ζ is a² whatever the row: the eased problem is the plain one at the regularisation σ·reg.
    void approach_single() {
        level_.constrain(false);
        for (double ease = ease_first; !over_; ease *= ease_factor) {
            last_ = ease < ease_last / ease_factor;
            level_.reg = problem_.reg * ease;
            const double goal = last_ ? 0.9 * options_.tol : std::max(level_goal * mass_, options_.tol);
            reach(goal, last_ ? options_.max_iter : level_steps, std::min(first_scale * span_, level_.reg * share_));
            if (last_) break;
        }
        best_g_.clear();  // it was the best of another problem
        const bool ended = solution_.status == Status::stalled || solution_.status == Status::precision_floor;
        if (ended) over_ = false;
        if (!over_) solution_.status = Status::max_iter;
        failures_ = 0;
    }

    // Of the dual's maximum, from the plan at hand: what its marginals lack costs at most half the potentials' range.
    void note_bound() {
        double low = std::numeric_limits<double>::infinity(), high = -low;
        for (std::int64_t j = 0; j < problem_.m; ++j) {
            if (!(problem_.b[j] > 0)) continue;
            low = std::min(low, level_.g[j]);
            high = std::max(high, level_.g[j]);
        }
        const double lack = level_.error * std::max(high - low, span_);
        solution_.bound = std::min(solution_.bound, level_.cost + level_.penalty + lack);
    }

    bool pass() {  // true when the run is over
        level_.pass();
        level_.lift();
        ++solution_.iterations;
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
        solution_.history.push_back({TransportStage::newton, level_.hard_error, level_.reg, seconds.count()});
        if (options_.callback && options_.callback(solution_.history.back(), solution_.iterations)) {
            solution_.status = Status::stopped;
            return over_ = true;
        }
        if (!std::isfinite(level_.error) || !std::isfinite(level_.value)) {
            solution_.status = Status::breakdown;
            return over_ = true;
        }
        // with a limit the best is where the dual is highest, else where the plan fits best
        const double rank = level_.ease > 0 ? level_.hard_value : level_.error;
        if ((last_ || level_.ease > 0) && (best_g_.empty() || rank < best_)) {
            best_ = rank;
            best_g_ = level_.g;
        }
        if (solution_.iterations >= options_.max_iter && !(last_ && level_.error <= options_.tol)) {
            solution_.status = Status::max_iter;
            return over_ = true;
        }
        return false;
    }

    // What rounding of g − C leaves of the column sums.
    double floor() const {
        return 4 * std::numeric_limits<double>::epsilon() * (mass_ + largest_ * static_cast<double>(level_.entries) / level_.reg);
    }

    void reach(double goal, int steps, double delta) {
        if (pass()) return;
        int idle = 0;
        double lowest = level_.error;
        for (int step = 0; step < steps; ++step) {
            const bool eased = level_.ease > 0, tied = level_.hard_error > 10 * level_.error;
            over_ = eased && level_.hard_error <= 0.9 * options_.tol;
            if (over_ || level_.error <= (eased && !tied ? 0.9 * options_.tol : goal)) {
                if (last_ || over_) solution_.status = Status::converged;
                return;
            }
            const bool at_floor = level_.error < 10 * floor();
            const int most_failures = at_floor ? 1 : patience;
            const int most_idle = at_floor ? 3 : eased ? patience : 4 * patience;
            idle = level_.error < 0.9 * lowest ? 0 : idle + 1;
            lowest = idle == 0 ? level_.error : lowest;
            const bool stuck = idle > most_idle || failures_ > most_failures;
            const bool may_enclose = last_ && !eased && (level_.error > floor() || options_.tol > 1e-2 * floor());
            if (may_enclose && (stuck || idle % patience == enclose_after) && enclose()) {
                if (over_) return;
                failures_ = 0;
                delta = 0;
            } else if (stuck) {
                break;
            } else {
                const bool taken = newton_step(goal, delta);
                if (over_) return;
                failures_ = taken ? 0 : failures_ + 1;
            }
        }
        if (!last_) return;
        over_ = true;
        solution_.status = level_.error < 10 * floor() ? Status::precision_floor : Status::stalled;
    }

    // The interior point method on pairs near the support, each time on more of them. True: a pass was made at what it
    // found.
    bool enclose() {
        if (problem_.m > largest_enclosed) return false;
        if (proves_infeasible(problem_, level_.f, {level_.g.begin(), level_.g.begin() + problem_.m})) return false;
        const std::int64_t few = 4 * (problem_.n + problem_.m), all = problem_.n * problem_.m;
        const std::int64_t most = std::min(all, std::max({16 * few, all / 8, many_pairs}));
        PairList pairs;
        while (width_ < 3 * span_ && enclosures_ < most_enclosures) {
            PairList more = level_.near(width_, most);
            const auto count = static_cast<std::int64_t>(more.index.size());
            // Too many: then what there was. And a width that rounds to 0, of costs that are all 0, would not grow.
            width_ = count > 0 && width_ > 0 ? 4 * width_ : std::numeric_limits<double>::infinity();
            if (count > 0) pairs = std::move(more);
            const auto held = static_cast<std::int64_t>(pairs.index.size());
            if (held == enclosed_ || (held < std::max(few, 3 * enclosed_ / 2) && width_ < 3 * span_)) continue;
            enclosed_ = held;
            ++enclosures_;
            std::vector<double> f = level_.f, g(level_.g.begin(), level_.g.begin() + problem_.m);
            const double lack = std::max(0.1 * options_.tol, 1e-13 * mass_);
            const int steps = solve_on_pairs(pairs, problem_.a, problem_.b, level_.reg, lack, f, g);
            if (steps == 0) continue;
            solution_.newton_iterations += steps;
            std::copy(g.begin(), g.end(), level_.g.begin());
            pass();
            return true;
        }
        return false;
    }

    // One direction and the line search along it; true if it brought progress.
    bool newton_step(double goal, double& delta) {
        const double error = level_.error, value = level_.value;
        const double forcing = std::clamp(0.3 * goal / error, std::min(3e-2, 0.3 * error / mass_), 0.1);
        const double narrow = 1e-14 * largest_;
        double wide = std::max({widest * span_, level_.reg * share_, narrow});
        delta = std::clamp(delta, narrow, wide);
        double slope = 0;
        for (;;) {
            while (!level_.direction(delta, forcing, d_)) {  // too many entries
                wide = delta /= 4;
                if (delta < narrow) return false;
            }
            slope = slope_of();
            // the model holds on the scale delta: a direction that goes far beyond asks for a wider one
            if (!(slope > 3 * delta * error) || delta >= wide) break;
            delta = std::min({slope / error, 8 * delta, wide});
        }
        for (std::int64_t j = 0; j < problem_.m; ++j) {  // beyond four delta only as the logarithm
            const double far = std::abs(d_[j]) / (4 * delta);
            if (far > 1) d_[j] = std::copysign(4 * delta * (1 + std::log(far)), d_[j]);
        }
        slope = slope_of();
        if (!(slope > 0) || !std::isfinite(slope)) {
            delta = std::min(4 * delta, wide);
            return false;
        }
        const std::vector<double> start = level_.g;
        const double rounding = 1e-13 * std::abs(value) + 1e-15 * mass_ * largest_;
        double alpha = 1, low = 0, low_slope = slope, high = 0, high_slope = 0, best_alpha = 0, best_value = value;
        bool good = false;
        for (int trial = 0; trial < trials; ++trial) {
            for (std::int64_t j = 0; j < problem_.m; ++j) {
                if (problem_.b[j] > 0) level_.g[j] = start[j] + alpha * d_[j];
            }
            if (pass()) return false;
            const double now = slope_of();
            const bool risen = level_.value > value + rounding;
            if (level_.value < best_value) {
                best_value = level_.value;
                best_alpha = alpha;
            }
            good = std::abs(now) <= 0.7 * slope && !risen;
            if (good) break;
            if (now < 0 || risen) {
                high = alpha;
                high_slope = now;
            } else {
                low = alpha;
                low_slope = now;
                if (high == 0) {
                    alpha *= 3;
                    continue;
                }
            }
            const double guess = low_slope / (low_slope - std::min(high_slope, 0.0) + 1e-300);
            alpha = low + (high - low) * std::clamp(guess, 0.1, risen ? 0.4 : 0.9);
            if (high - low < 1e-3 * high && best_alpha > 0) break;  // a kink
        }
        if (!good) {
            if (level_.value > best_value || best_alpha == 0) {
                alpha = best_alpha;
                for (std::int64_t j = 0; j < problem_.m; ++j) {
                    if (problem_.b[j] > 0) level_.g[j] = start[j] + alpha * d_[j];
                }
                if (pass()) return false;
            }
            if (best_alpha == 0) {
                delta = std::min(8 * delta, wide);
                return false;
            }
        }
        ++solution_.newton_iterations;
        const double moved = alpha * slope / error;
        delta = alpha > 1 ? std::max(moved, delta) : std::max(moved, 1e-3 * delta);
        return true;
    }

    double slope_of() const {
        double sum = 0;
        for (std::int64_t j = 0; j < problem_.m; ++j) {
            if (problem_.b[j] > 0) sum += (problem_.b[j] - level_.columns[j]) * d_[j];
        }
        return sum;
    }

    QuadraticSolution finish() {
        level_.reg = problem_.reg;
        const bool limited = level_.constrained();
        level_.constrain(limited);
        if (!best_g_.empty() && (limited || best_ < level_.error)) level_.g = best_g_;
        level_.ease = 0;
        level_.pass();
        const std::vector<double> shift =
            gauge_shifts(problem_, [&](std::int64_t i) { return level_.f[i]; }, [&](std::int64_t j) { return level_.g[j]; });
        for (std::int64_t j = 0; j < problem_.m; ++j) {
            if (problem_.b[j] > 0) level_.g[j] -= shift[problem_.column_part(j)];
        }
        if (limited) {
            level_.settle(ease_last, solution_.plan);
        } else {
            level_.pass(&solution_.plan);
        }
        note_bound();  // what has at most k entries is in the hull
        solution_.f.assign(level_.f.begin(), level_.f.end());
        solution_.g.assign(level_.g.begin(), level_.g.begin() + problem_.m);
        double rows = 0;  // as returned
        std::int64_t at = 0;
        for (std::int64_t i = 0; i < problem_.n; ++i) {
            double sum = 0;
            for (; at < solution_.plan.row_end[i]; ++at) sum += solution_.plan.value[at];
            rows += std::abs(sum - problem_.a[i]);
        }
        solution_.marginal_error = rows + level_.error;
        solution_.cost = level_.cost;
        solution_.squares = level_.squares;
        solution_.cg_iterations = level_.cg_iterations;
        if (solution_.marginal_error <= options_.tol && solution_.status != Status::stopped) solution_.status = Status::converged;
        if (solution_.status == Status::converged && !(solution_.marginal_error <= options_.tol)) {
            solution_.status = Status::precision_floor;
        }
        return std::move(solution_);
    }

    const TransportProblem& problem_;
    const TransportOptions& options_;
    QuadraticLevel level_;
    QuadraticSolution solution_;
    std::vector<double> d_, best_g_;
    double mass_ = 0, span_ = 0, largest_ = 0, share_ = 0, best_ = 0;
    double width_ = 0;
    std::int64_t enclosed_ = 0;
    int failures_ = 0, enclosures_ = 0;
    bool over_ = false, last_ = false;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

QuadraticSolution solve_quadratic(const TransportProblem& problem, std::int64_t cardinality, const TransportOptions& options) {
    QuadraticSolution solution = QuadraticRun(problem, cardinality, options).solve();
    const bool stuck = solution.status == Status::stalled || solution.status == Status::max_iter;
    if (stuck && proves_infeasible(problem, solution.f, solution.g)) {
        solution.status = Status::infeasible;
        solution.bound = std::numeric_limits<double>::infinity();  // the dual has no maximum
    }
    return solution;
}

}  // namespace raphson
