#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "ot/host_level.h"
#include "ot/run.h"

namespace raphson {

const char* to_string(TransportStage stage) {
    static const char* const names[] = {"sinkhorn", "kernel", "newton", "dense_newton"};
    return names[static_cast<int>(stage)];
}

namespace {

constexpr double highest_density = 0.2;  // of a sparse plan; above, dense products are cheaper
// The continuation: reg falls by a factor of 4 a level, of 2 near the end of a long way. Levels between are solved to
// level_goal where the way is long: worse starts cost more later, most where plans are nearly forests (grids at 1e-5).
constexpr double first_reg = 0.05, coarse_factor = 0.25, fine_factor = 0.5, fine_below = 2e-4, loose_goal = 1e-2,
                 level_goal = 1e-4, level_below = 2e-3, careful_goal = 1e-7, smallest_step = 0.9;
constexpr double dropped_share = 1e-2;  // entries of the plan below this share of error/n are lumped
constexpr std::int64_t most_entries = 32000000;
constexpr int rescue_sweeps = 100, most_rescues = 4, level_sweeps = 30, patience = 60, patience_at_floor = 12;

bool is_power_of_two(int k) { return (k & (k - 1)) == 0; }

}  // namespace

Run::Run(Level& level, const TransportOptions& options)
    : problem_(level.problem()), options_(options), level_(level), goal_(0.8 * options.tol) {
    const TransportProblem& problem = problem_;
    const double span = std::max(std::abs(problem.highest_cost), std::abs(problem.lowest_cost)) / problem.reg;
    double mass = 0;
    for (double a : problem.a) mass += a;
    floor_ = mass * std::numeric_limits<double>::epsilon() * (16 + span);
    if (options.f != nullptr) {
        for (std::int64_t i = 0; i < problem.n; ++i) {
            level_.u[i] = std::isfinite(options.f[i]) ? options.f[i] / problem.reg : 0;
        }
    }
    if (options.g != nullptr) {
        for (std::int64_t j = 0; j < problem.m; ++j) {
            if (std::isfinite(options.g[j])) level_.psi[j] = level_.log_b()[j] + options.g[j] / problem.reg;
        }
    }
}

bool Run::done(TransportStage stage) {
    ++solution_.iterations;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
    solution_.history.push_back({stage, level_.error(), level_.reg(), seconds.count()});
    if (options_.callback && options_.callback(solution_.history.back(), solution_.iterations)) {
        solution_.status = Status::stopped;
        return over_ = true;
    }
    if (!std::isfinite(level_.error())) {
        solution_.status = Status::breakdown;
        return over_ = true;
    }
    if (solution_.iterations >= options_.max_iter && !(level_.reg() == problem_.reg && level_.error() <= options_.tol)) {
        solution_.status = Status::max_iter;
        return over_ = true;
    }
    return false;
}

std::int64_t Run::plan_capacity() const {
    const double entries = static_cast<double>(level_.n()) * static_cast<double>(level_.m());
    return std::min(static_cast<std::int64_t>(highest_density * entries) + 64, most_entries);
}

bool Run::give_up() {
    const double error = level_.error();
    if (best_ == 0 || error < 0.9 * best_) {
        best_ = error;
        idle_ = 0;
        return false;
    }
    const bool at_floor = error < 100 * floor_;
    if (++idle_ <= (at_floor ? patience_at_floor : patience)) return false;
    if (level_.has_kernel()) {  // perhaps only its entries' rounding is in the way
        level_.refuse_kernel();
        best_ = 0;
        return false;
    }
    if (!at_floor && rescues_ < most_rescues) {  // plain sweeps, slow but sure, and on from there
        sweeps_only_ = rescue_sweeps << rescues_++;
        best_ = 0;
        return false;
    }
    solution_.status = at_floor ? Status::precision_floor : Status::stalled;
    return over_ = true;
}

// One sweep, in the kernel domain while it is there; collecting the plan when asked for. True when the run is over.
bool Run::advance(bool want_plan, double goal) {
    plan_ready_ = false;
    if (level_.has_kernel()) {
        if (level_.sweep_kernel()) return done(TransportStage::kernel);
        level_.sweep(nullptr, true);
        return done(TransportStage::sinkhorn);
    }
    if (want_plan && plan_fits_) {
        level_.reserve(plan_, plan_capacity());
        const double known = std::isfinite(level_.error()) && level_.error() > 0 ? level_.error() : 1.0;
        plan_.threshold = dropped_share * std::clamp(known, goal, 1e-2) / static_cast<double>(std::max(level_.n(), level_.m()));
        level_.sweep(&plan_);
        plan_ready_ = plan_fits_ = plan_.count >= 0 && plan_.count <= plan_capacity();
    } else {
        level_.sweep();
    }
    return done(TransportStage::sinkhorn);
}

double Run::temper(const std::vector<double>& rhs, std::vector<double>& d) const {
    double slope = 0;
    for (std::int64_t j = 0; j < level_.m(); ++j) {
        if (d[j] > 1) d[j] = 1 + std::log(d[j]);
        if (d[j] < -1) d[j] = -1 - std::log(-d[j]);
        slope += rhs[j] * d[j];
    }
    return std::isfinite(slope) ? slope : 0;
}

bool Run::newton_step(double goal, bool dense) {
    const std::int64_t m = level_.m();
    const auto cols = static_cast<std::size_t>(level_.padded());
    Schur schur(level_, dense ? nullptr : &plan_);
    std::vector<double> rhs(cols, 0.0), d(cols, 0.0), start = level_.psi;
    const double error = level_.error();
    for (std::int64_t j = 0; j < m; ++j) rhs[j] = level_.target_column(j) - level_.columns[j];
    const double forcing = std::clamp(0.3 * goal / error, std::min(0.1, std::sqrt(error) * 0.3), 0.3);
    const double target = error * forcing;
    const double nnz = dense ? 0 : static_cast<double>(plan_.count);
    const PassCosts costs = level_.costs();
    const double md = static_cast<double>(m);
    const double product = costs.product_start + (dense ? costs.product * static_cast<double>(level_.n()) * md
                                                        : costs.sparse * nnz + costs.vector * md);
    const double factoring = md * md * md / 3 * costs.factor_flop + nnz * nnz / static_cast<double>(level_.n()) + 2 * md * md;
    int most = 2000;
    CgOutcome outcome;
    const bool can_factor = !dense && level_.can_factor();
    if (can_factor && last_cg_ * product > factoring) {
        if (schur.factor(factor_)) most = 50;
        outcome = schur.solve(rhs.data(), d.data(), target, most);
    } else {
        if (can_factor) most = std::max(20, static_cast<int>(factoring / product));
        outcome = schur.solve(rhs.data(), d.data(), target, most);
        last_cg_ = outcome.iterations;
        if (can_factor && outcome.residual > target) {
            solution_.cg_iterations += outcome.iterations;
            if (schur.factor(factor_)) outcome = schur.solve(rhs.data(), d.data(), target, 50);
            last_cg_ = most + 1;
        }
    }
    solution_.cg_iterations += outcome.iterations;
    const double slope = temper(rhs, d);
    if (!(slope > 0)) return false;
    // ψ(α) = start + α d: the semi-dual is convex, its derivative along d is −(target − columns)·d. No function values,
    // which drown in rounding near the solution.
    double alpha = 1;
    for (int trial = 0; trial < 12; ++trial) {
        for (std::int64_t j = 0; j < m; ++j) {
            if (start[j] > minus_infinity) level_.psi[j] = start[j] + alpha * d[j];
        }
        if (advance(!dense, goal)) return true;
        double now = 0;
        for (std::int64_t j = 0; j < m; ++j) now += (level_.target_column(j) - level_.columns[j]) * d[j];
        if (now >= -0.5 * slope || level_.error() <= 2 * error) break;
        alpha *= std::clamp(slope / (slope - now), 0.1, 0.7);
    }
    ++solution_.newton_iterations;
    solution_.history.back().stage = dense ? TransportStage::dense_newton : TransportStage::newton;
    return true;
}

// Nanoseconds from here to the goal by Newton steps, given Sinkhorn's contraction: it bounds the condition of S.
double Run::newton_cost(double error, double goal, double rate) const {
    const double n = static_cast<double>(level_.n()), m = static_cast<double>(level_.m());
    const bool sparse = plan_fits_ && plan_ready_;
    const PassCosts costs = level_.costs();
    const double product =
        costs.product_start +
        (sparse ? costs.sparse * static_cast<double>(plan_.count) + costs.vector * m : costs.product * n * m);
    const double steps = 2 + (error > 0.1 ? 2 : 0);
    double cg = 0.6 * std::sqrt(1 / (1 - std::min(rate, 0.999999))) * std::log(2 * error / goal + 1);
    double solving = cg * product;
    if (sparse && level_.can_factor()) solving = std::min(solving, steps * m * m * m / 3 * costs.factor_flop);
    return steps * ((sparse ? costs.collecting : costs.product) * n * m + costs.step_start) + solving;
}

Run::Outcome Run::reach(double goal, int patient) {
    double previous = 0, rate = 1;  // Sinkhorn's: measured over its own moves
    int moves = 0;
    const int begun = solution_.iterations;
    bool moved_by_sinkhorn = false;
    plan_fits_ = true;
    last_cg_ = 0;
    const double n = static_cast<double>(level_.n()), m = static_cast<double>(level_.m());
    if (advance(false, goal)) return Outcome::over;
    best_ = 0;
    for (;;) {
        const double error = level_.error();
        if (error <= goal) {
            if (!level_.has_kernel()) return Outcome::reached;
            level_.drop_kernel();  // its entries are rounded: the log domain has the last word
            if (advance(false, goal)) return Outcome::over;
            if (level_.error() > goal) level_.refuse_kernel();
            continue;
        }
        if (solution_.iterations - begun > patient) {
            if (error > loose_goal || idle_ > patient) return Outcome::struggling;
            if (goal > options_.tol) return Outcome::reached;  // a level between: near enough
        }
        if (give_up()) return Outcome::over;
        if (moved_by_sinkhorn) rate = std::clamp(error / previous, 0.05, 0.999999);
        moved_by_sinkhorn = false;
        const double sweeps = std::log(goal / error) / std::log(rate);
        const PassCosts costs = level_.costs();
        const bool collects_on_the_way = costs.collecting < 2 * costs.sweep;  // else now and then, to know how many they are
        const double by_sinkhorn = sweeps * (n * m * (level_.has_kernel() ? costs.kernel : costs.sweep) + costs.sweep_start);
        if (sweeps_only_ > 0 && --sweeps_only_ > 0) best_ = 0;
        const bool newton = sweeps_only_ == 0 && moves >= 2 && newton_cost(error, goal, rate) < by_sinkhorn;
        if (newton && !level_.has_kernel() && !plan_ready_ && plan_fits_) {
            if (advance(true, goal)) return Outcome::over;  // at the same potentials: the plan's large entries
        }
        if (newton) {
            const bool dense = !plan_ready_;
            if (dense && !level_.has_kernel() && level_.kernel_allowed()) {
                level_.sweep(nullptr, true);
                if (done(TransportStage::sinkhorn)) return Outcome::over;
            }
            if (newton_step(goal, dense)) {
                if (over_) return Outcome::over;
                continue;
            }
        }
        previous = error;
        moved_by_sinkhorn = true;
        level_.update_columns();
        if (moves++ == 0) gauge();  // a start may carry any constant, and large ones cost digits
        const bool many = sweeps > 6 && moves >= 3 && !plan_ready_ && level_.kernel_allowed() && !level_.has_kernel();
        if (many) {
            level_.sweep(nullptr, true);
            if (done(TransportStage::sinkhorn)) return Outcome::over;
        } else if (advance(moves >= 2 && (collects_on_the_way || is_power_of_two(moves)), goal)) {
            return Outcome::over;
        }
    }
}

void Run::automatic() {
    const double span = problem_.highest_cost - problem_.lowest_cost;
    if (options_.f != nullptr || options_.g != nullptr) {  // a warm start, until it proves none
        const Outcome outcome = reach(goal_, level_sweeps);
        if (outcome == Outcome::reached) solution_.status = Status::converged;
        const bool absurd = outcome == Outcome::over && solution_.status == Status::breakdown;
        if (outcome != Outcome::struggling && !absurd) return;
        if (absurd) solution_.status = Status::max_iter;
        over_ = false;
        std::fill(level_.u.begin(), level_.u.end(), 0.0);
        level_.psi = level_.log_b();
    }
    std::vector<double> regs;
    for (double reg = problem_.reg; reg < first_reg * span; reg /= reg < fine_below * span ? fine_factor : coarse_factor) {
        regs.push_back(reg);
    }
    std::reverse(regs.begin(), regs.end());
    if (regs.empty()) regs.assign(1, problem_.reg);
    std::vector<double> older, old;  // g at the last two levels
    double older_reg = 0, old_reg = 0, goal = problem_.reg < level_below * span ? level_goal : loose_goal;
    for (std::size_t k = 0; k < regs.size();) {
        const double reg = regs[k];
        level_.set_reg(reg);
        if (!old.empty()) {  // the duals are nearly linear in reg
            const double step = older.empty() ? 0 : (reg - old_reg) / (old_reg - older_reg);
            for (std::int64_t j = 0; j < level_.m(); ++j) {
                if (!(problem_.b[j] > 0)) continue;
                level_.psi[j] = level_.log_b()[j] + (old[j] + (step != 0 ? step * (old[j] - older[j]) : 0)) / reg;
            }
        }
        const bool last = k + 1 == regs.size(), divisible = !old.empty() && reg < smallest_step * old_reg;
        const Outcome outcome = reach(last ? goal_ : std::max(options_.tol, goal), divisible ? level_sweeps : options_.max_iter);
        if (outcome == Outcome::over) return;
        if (outcome == Outcome::struggling) {  // again from the last level, solved well this time, and in smaller steps
            if (goal > careful_goal) {
                goal = careful_goal;
                regs.assign(1, problem_.reg);
                while (regs.back() / fine_factor < old_reg) regs.push_back(regs.back() / fine_factor);
                std::reverse(regs.begin(), regs.end());
                regs.insert(regs.begin(), old_reg);
                k = 0;
            } else {
                regs.insert(regs.begin() + static_cast<std::ptrdiff_t>(k), std::sqrt(reg * old_reg));
            }
            older.clear();
            continue;
        }
        if (reg != old_reg) {
            older = old;
            older_reg = old_reg;
        }
        old.assign(static_cast<std::size_t>(level_.m()), 0.0);
        for (std::int64_t j = 0; j < level_.m(); ++j) {
            if (problem_.b[j] > 0) old[j] = (level_.psi[j] - level_.log_b()[j]) * reg;
        }
        old_reg = reg;
        ++k;
    }
    solution_.status = Status::converged;
}

void Run::sinkhorn() {
    if (advance(false, goal_)) return;
    for (int moves = 0;; ++moves) {
        if (level_.error() <= goal_) {
            if (!level_.has_kernel()) break;
            level_.drop_kernel();
            if (advance(false, goal_)) return;
            if (level_.error() > goal_) level_.refuse_kernel();
            continue;
        }
        if (level_.error() < 100 * floor_ && give_up()) return;  // slow is not stalled: it goes on to max_iter
        level_.update_columns();
        if (moves == 0) gauge();
        if (moves == 2 && level_.kernel_allowed()) {
            level_.sweep(nullptr, true);
            if (done(TransportStage::sinkhorn)) return;
        } else if (advance(false, goal_)) {
            return;
        }
    }
    solution_.status = Status::converged;
}

// Potentials of a balanced problem are free by a constant in each connected part: ⟨a, u⟩ = ⟨b, v⟩ there.
void Run::gauge() {
    if (!problem_.balanced()) return;
    const std::vector<double> shift = gauge_shifts(
        problem_, [&](std::int64_t i) { return level_.u[i]; },
        [&](std::int64_t j) { return level_.psi[j] - level_.log_b()[j]; });
    for (std::int64_t i = 0; i < level_.n(); ++i) {
        if (problem_.a[i] > 0) level_.u[i] += shift[problem_.row_part(i)];
    }
    for (std::int64_t j = 0; j < level_.m(); ++j) {
        if (problem_.b[j] > 0) level_.psi[j] -= shift[problem_.column_part(j)];
    }
}

TransportSolution Run::finish() {
    // measured are the potentials as they are returned, from the cost
    const std::int64_t n = level_.n(), m = level_.m();
    if (level_.reg() != problem_.reg) {  // ended on the way
        level_.set_reg(problem_.reg);
        level_.sweep();
    }
    gauge();
    solution_.f.resize(static_cast<std::size_t>(n));
    solution_.g.resize(static_cast<std::size_t>(m));
    for (std::int64_t i = 0; i < n; ++i) {
        solution_.f[i] = problem_.a[i] > 0 ? problem_.reg * level_.u[i] : minus_infinity;
        level_.u[i] = solution_.f[i] / problem_.reg;  // -Inf too: an old one's exponentials may be Inf, and Inf·0 is NaN
    }
    for (std::int64_t j = 0; j < m; ++j) {
        solution_.g[j] = problem_.b[j] > 0 ? problem_.reg * (level_.psi[j] - level_.log_b()[j]) : minus_infinity;
        if (problem_.b[j] > 0) level_.psi[j] = level_.log_b()[j] + solution_.g[j] / problem_.reg;
    }
    level_.measure(&solution_.cost);
    solution_.marginal_error = level_.error();
    solution_.row_marginal.resize(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) solution_.row_marginal[i] = problem_.a[i] * level_.row_sum[i];
    solution_.column_marginal.assign(level_.columns.begin(), level_.columns.begin() + m);
    if (solution_.marginal_error <= options_.tol && solution_.status != Status::stopped) solution_.status = Status::converged;
    if (solution_.status == Status::converged && !(solution_.marginal_error <= options_.tol)) {
        solution_.status = Status::precision_floor;
    }
    return std::move(solution_);
}

TransportSolution solve_transport(Level& level, const TransportOptions& options) {
    Run run(level, options);
    switch (options.method) {
        case TransportMethod::automatic: run.automatic(); break;
        case TransportMethod::sinkhorn: run.sinkhorn(); break;
        case TransportMethod::sns: run.sns(); break;
        case TransportMethod::ssns: run.ssns(); break;
        case TransportMethod::splr: run.splr(); break;
    }
    return run.finish();
}

TransportSolution solve_transport(const TransportProblem& problem, const TransportOptions& options) {
    HostLevel level(problem);
    TransportSolution solution = solve_transport(level, options);
    const bool stuck = solution.status == Status::stalled || solution.status == Status::max_iter;
    if (stuck && proves_infeasible(problem, solution.f, solution.g)) solution.status = Status::infeasible;
    return solution;
}

namespace {

template <class T>
std::vector<double> weights(const char* name, TensorView<const T> view) {
    if (view.ndim != 1) throw std::invalid_argument(std::string("sinkhorn: ") + name + " must have one axis");
    std::vector<double> values(static_cast<std::size_t>(view.shape[0]));
    for (std::int64_t i = 0; i < view.shape[0]; ++i) values[i] = view.data[i * view.strides[0]];
    return values;
}

}  // namespace

template <class T>
TransportSolution sinkhorn(TensorView<const double> a, TensorView<const double> b, TensorView<const T> cost, double reg,
                           const TransportOptions& options) {
    if (cost.ndim != 2) throw std::invalid_argument("sinkhorn: cost must have two axes");
    if (cost.shape[1] > 1 && cost.strides[1] != 1) {
        throw std::invalid_argument("sinkhorn: cost must be contiguous along its columns");
    }
    if (!(options.tol > 0)) throw std::invalid_argument("sinkhorn: tol must be positive");
    if (options.max_iter < 1) throw std::invalid_argument("sinkhorn: max_iter must be at least 1");
    TransportCost rows;
    rows.dense = {dtype_of<T>(), cost.data, cost.strides[0], cost.shape[0], cost.shape[1]};
    const CostFacts facts = cost.size() > 0 ? scan_cost("sinkhorn", rows, options.check_finite) : CostFacts{};
    const double mass_tolerance = 1e-9;
    return solve_transport(make_problem("sinkhorn", rows, facts, weights("a", a), weights("b", b), reg, options.rho_a,
                                        options.rho_b, mass_tolerance),
                           options);
}
template TransportSolution sinkhorn<double>(TensorView<const double>, TensorView<const double>, TensorView<const double>,
                                            double, const TransportOptions&);
template TransportSolution sinkhorn<float>(TensorView<const double>, TensorView<const double>, TensorView<const float>,
                                           double, const TransportOptions&);

}  // namespace raphson
