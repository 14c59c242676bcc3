#include "ot/device_solve.h"

#include <memory>
#include <utility>

#include "ot/device_level.h"
#include "ot/problem.h"
#include "ot/run.h"

namespace raphson {
namespace {

// The cost on the host for as long as this lives, as the problem's.
class Visit {
public:
    Visit(const CudaTable& table, const CudaTransport& given, CudaPlace place) {
        const CudaView& c = given.cost;
        constexpr auto word = static_cast<std::int64_t>(sizeof(double));
        memory_.resize(static_cast<std::size_t>((c.rows * c.columns * itemsize(c.type) + word - 1) / word));
        table.read(c, memory_.data(), place);
        cost_.dense = {c.type, memory_.data(), c.columns, c.rows, c.columns};
    }
    const TransportCost& cost() const { return cost_; }

private:
    std::vector<double> memory_;
    TransportCost cost_;
};

TransportCost only_shape(std::int64_t n, std::int64_t m) {
    TransportCost cost;
    cost.points.rows = n;
    cost.points.columns = m;
    return cost;
}

TransportSolution of_nans(const TransportProblem& p) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    TransportSolution solution;
    solution.status = Status::breakdown;
    solution.f.assign(static_cast<std::size_t>(p.n), nan);
    solution.g.assign(static_cast<std::size_t>(p.m), nan);
    solution.row_marginal = solution.f;
    solution.column_marginal = solution.g;
    solution.marginal_error = solution.cost = nan;
    return solution;
}

}  // namespace

DeviceProblem make_device_problem(const std::string& function, const CudaTable& table, const CudaTransport& given, std::int64_t n,
                                  std::int64_t m, bool check_finite, std::vector<double> a, std::vector<double> b, double reg,
                                  double rho_a, double rho_b, double mass_tolerance, CudaPlace place) {
    const auto make = [&](const TransportCost& cost, const CostFacts& facts) {
        return make_problem(function, cost, facts, std::move(a), std::move(b), reg, rho_a, rho_b, mass_tolerance);
    };
    if (!given.is_dense() || n == 0 || m == 0) return {make(only_shape(n, m), {}), false};
    const CudaCostFacts found = table.transport->scan(given.cost, place);
    if (found.bad && check_finite) refuse_entry(function, found.entry, found.row, found.column);
    if (found.bad) return {make(only_shape(n, m), {}), true};
    require_finite_entry(function, found.facts);
    if (!found.facts.forbids) return {make(only_shape(n, m), found.facts), false};
    DeviceProblem result{make(Visit(table, given, place).cost(), found.facts), false};
    result.problem.cost = only_shape(n, m);
    return result;
}

namespace {

// Sweeps of a float32 cost in float32 leave an error of about 5e-7 of the mass; and values, which the methods by name compare,
// tell less than that.
constexpr double narrow_tolerance = 5e-6;

TransportSolution solve_by_newton(const TransportProblem& given_problem, const CudaTable& table, const CudaTransport& given,
                                  const TransportOptions& options, CudaPlace place) {
    TransportProblem problem = given_problem;
    double mass = 0;
    for (const double a : problem.a) mass += a;
    const bool narrow = options.method == TransportMethod::automatic && options.tol >= narrow_tolerance * mass;
    std::unique_ptr<CudaLevel> passes(table.transport->make_level(given, narrow, place));
    if (!given.is_dense()) {
        const CostFacts facts = passes->range();
        problem.lowest_cost = facts.lowest;
        problem.highest_cost = facts.highest;
    }
    DeviceLevel level(problem, std::move(passes), given);
    return solve_transport(level, options);
}

// After sweeps: a gauge in every part of the allowed pairs, of which the device's driver knows one.
void gauge_parts(const TransportProblem& p, const CudaTable& table, const CudaTransport& given, const TransportOptions& options,
                 TransportSolution& solution, CudaPlace place) {
    if (!p.balanced() || p.components == 1 || solution.status == Status::breakdown) return;
    const std::vector<double> shift = gauge_shifts(
        p, [&](std::int64_t i) { return solution.f[i]; }, [&](std::int64_t j) { return solution.g[j]; });
    for (std::int64_t i = 0; i < p.n; ++i) {
        if (p.a[i] > 0) solution.f[i] += shift[p.row_part(i)];
    }
    for (std::int64_t j = 0; j < p.m; ++j) {
        if (p.b[j] > 0) solution.g[j] -= shift[p.column_part(j)];
    }
    table.transport->measure(given, solution, place);
    if (solution.status == Status::converged && !(solution.marginal_error <= options.tol)) {
        solution.status = Status::precision_floor;
    }
}

void judge(const TransportProblem& p, const CudaTable& table, const CudaTransport& given, TransportSolution& solution, CudaPlace place) {
    const bool stuck = solution.status == Status::stalled || solution.status == Status::max_iter;
    if (!stuck || !p.forbids) return;
    TransportProblem at_home = p;
    const Visit visit(table, given, place);
    at_home.cost = visit.cost();
    if (proves_infeasible(at_home, solution.f, solution.g)) solution.status = Status::infeasible;
}

}  // namespace

TransportSolution solve_on_device(const DeviceProblem& on_device, const CudaTable& table, const CudaTransport& given,
                                  const TransportOptions& options, CudaPlace place) {
    const TransportProblem& p = on_device.problem;
    if (on_device.poisoned) return of_nans(p);
    TransportSolution solution;
    if (options.method == TransportMethod::sinkhorn) {
        solution = table.transport->solve(given, options, place);
        gauge_parts(p, table, given, options, solution, place);
    } else {
        solution = solve_by_newton(p, table, given, options, place);
    }
    judge(p, table, given, solution, place);
    return solution;
}

std::vector<TransportSolution> solve_on_device(const std::vector<DeviceCall>& calls, const CudaTable& table, CudaPlace place) {
    std::vector<TransportSolution> solutions(calls.size()), together;
    std::vector<std::size_t> small;
    std::vector<CudaTransport> given;
    std::vector<TransportOptions> options;
    for (std::size_t k = 0; k < calls.size(); ++k) {
        const DeviceCall& call = calls[k];
        const bool sweeps = call.options.method == TransportMethod::sinkhorn && !call.problem->poisoned;
        if (sweeps && table.transport->is_small(call.given, place)) {
            small.push_back(k);
            given.push_back(call.given);
            options.push_back(call.options);
        } else {
            solutions[k] = solve_on_device(*call.problem, table, call.given, call.options, place);
        }
    }
    if (small.empty()) return solutions;
    together.resize(small.size());
    table.transport->solve_small(given.data(), options.data(), small.size(), together.data(), place);
    for (std::size_t i = 0; i < small.size(); ++i) {
        const TransportProblem& p = calls[small[i]].problem->problem;
        gauge_parts(p, table, given[i], options[i], together[i], place);
        judge(p, table, given[i], together[i], place);
        solutions[small[i]] = std::move(together[i]);
    }
    return solutions;
}

double solve_hessian(const DeviceProblem& on_device, const CudaTable& table, const CudaTransport& given, Potentials at,
                     const double* p, const double* q, double* alpha, double* beta, CudaPlace place) {
    DeviceLevel level(on_device.problem, std::unique_ptr<CudaLevel>(table.transport->make_level(given, false, place)), given);
    return solve_hessian(level, at, p, q, alpha, beta);
}

}  // namespace raphson
