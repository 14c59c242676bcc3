#include "ot/device_solve.h"

#include <utility>

#include "ot/problem.h"

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

TransportSolution solve_on_device(const DeviceProblem& on_device, const CudaTable& table, const CudaTransport& given,
                                  const TransportOptions& options, CudaPlace place) {
    const TransportProblem& p = on_device.problem;
    if (on_device.poisoned) return of_nans(p);
    TransportSolution solution = table.transport->solve(given, options, place);
    if (p.balanced() && p.components > 1 && solution.status != Status::breakdown) {  // the driver knows of one part
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
    if (solution.status != Status::max_iter || !p.forbids) return solution;
    TransportProblem at_home = p;
    const Visit visit(table, given, place);
    at_home.cost = visit.cost();
    if (proves_infeasible(at_home, solution.f, solution.g)) solution.status = Status::infeasible;
    return solution;
}

}  // namespace raphson
