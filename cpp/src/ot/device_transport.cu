// What raphson._cuda has for transport: the driver and the passes, from numbers of the host and back.
#include "ot/device_transport.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_numbers.h"
#include "ot/device_passes.h"
#include "ot/device_pattern.h"
#include "ot/device_small.h"

namespace raphson::cuda {
namespace {

void keep_sums(const TransportProblem& p, const DeviceSums& sums, TransportSolution& solution, CudaPlace place) {
    solution.row_marginal = read(sums.row_sum, p.n, place);
    for (int64_t i = 0; i < p.n; ++i) solution.row_marginal[i] = p.a[i] > 0 ? p.a[i] * solution.row_marginal[i] : 0;
    solution.column_marginal = read(sums.columns, p.m, place);
}

// ---- the table's ------------------------------------------------------------------------------------------------------------

CudaCostFacts scan(const CudaView& given, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const DeviceCost cost = dense_cost(given, scratch);
    auto* const parts = scratch.take_array<double>(cost_range_parts);
    cost_range(cost, parts, place);
    const std::vector<double> found = read(parts, cost_range_numbers, place);
    CudaCostFacts result;
    result.facts = {found[0], found[1], found[2] > 0};
    result.bad = std::isfinite(found[3]);
    if (!result.bad) return result;
    const auto at = static_cast<int64_t>(found[3]);
    result.row = at / cost.columns;
    result.column = at % cost.columns;
    auto* const entry = scratch.take_array<double>(1);
    void* const from = static_cast<char*>(const_cast<void*>(cost.data)) +
                       (result.row * cost.stride + result.column) * itemsize(cost.type);
    copy(contiguous(from, cost.type, 1, 1), contiguous(entry, DType::float64, 1, 1), place);
    result.entry = read(entry, 1, place)[0];
    return result;
}

TransportSolution solve(const CudaTransport& given, const TransportOptions& options, CudaPlace place) {
    TransportSolution solution;
    if (is_small(given, place)) {
        solve_small(&given, &options, 1, true, &solution, place);
        return solution;
    }
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const TransportProblem& p = *given.problem;
    const DeviceCost cost = cost_of(given, scratch);
    const double range[] = {p.lowest_cost, p.highest_cost};
    DeviceSinkhornOptions asked{};
    asked.reg = p.reg;
    asked.rho_a = p.rho_a;
    asked.rho_b = p.rho_b;
    asked.tol = options.tol;
    asked.max_iter = options.max_iter;
    asked.f = options.f == nullptr ? nullptr : upload(options.f, p.n, scratch);
    asked.g = options.g == nullptr ? nullptr : upload(options.g, p.m, scratch);
    asked.range = given.is_dense() ? range : nullptr;
    asked.callback = options.callback;
    auto *const f = scratch.take_array<double>(p.n), *const g = scratch.take_array<double>(p.m);
    DeviceSinkhornOutcome outcome = sinkhorn(cost, upload(p.a, scratch), upload(p.b, scratch), asked, f, g, scratch);
    solution.f = read(f, p.n, place);
    solution.g = read(g, p.m, place);
    solution.status = outcome.status;
    solution.iterations = outcome.iterations;
    solution.marginal_error = outcome.marginal_error;
    solution.cost = outcome.cost;
    solution.history = std::move(outcome.history);
    keep_sums(p, outcome.sums, solution, place);
    return solution;
}

void solve_side_by_side(const CudaTransport* given, const TransportOptions* options, std::size_t count, TransportSolution* solutions,
                        CudaPlace place) {
    solve_small(given, options, count, false, solutions, place);
}

void measure_solution(const CudaTransport& given, TransportSolution& solution, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const Placed at(given, solution.f.data(), solution.g.data(), scratch);
    const PassRoom room = pass_room(at.cost, false, scratch);
    const DeviceSums sums{scratch.take_array<double>(at.cost.rows), scratch.take_array<double>(at.cost.columns)};
    auto* const numbers = scratch.take_array<double>(2);
    measure(at.cost, at.balance, room, at.u, at.psi, sums, numbers, numbers + 1, place);
    const std::vector<double> found = read(numbers, 2, place);
    solution.marginal_error = found[0];
    solution.cost = found[1];
    keep_sums(*given.problem, sums, solution, place);
}

void plan(const CudaTransport& given, const double* f, const double* g, void* out, DType type, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const TransportProblem& p = *given.problem;
    if (no_plan(given, f, g)) {
        const auto bytes = static_cast<std::size_t>(p.n * p.m * itemsize(type));
        return check(cudaMemsetAsync(out, 0xff, bytes, stream(place)), "sinkhorn: plan");  // NaN in every width
    }
    Scratch scratch(place);
    const Placed at(given, f, g, scratch);
    plan_rows(at.cost, at.balance, at.u, at.psi, 0, p.n, type, out, p.m, place);
}

void times(const CudaTransport& given, const double* f, const double* g, bool transposed, const CudaView& v, const CudaView& out,
           CudaPlace place) {
    const DeviceGuard guard(place.device);
    if (no_plan(given, f, g)) {
        const auto bytes = static_cast<std::size_t>(out.rows * out.columns * itemsize(out.type));
        return check(cudaMemsetAsync(out.data, 0xff, bytes, stream(place)), "sinkhorn: plan times vector");
    }
    Scratch scratch(place);
    const Placed at(given, f, g, scratch);
    const PassRoom room = transposed ? pass_room(at.cost, false, scratch) : PassRoom{};
    auto *const one = scratch.take_array<double>(v.rows), *const product = scratch.take_array<double>(out.rows);
    const auto column = [](const CudaView& of, int64_t k) {
        void* const data = static_cast<char*>(of.data) + k * of.column_stride * itemsize(of.type);
        return CudaView{data, of.type, of.rows, 1, of.row_stride, 1};
    };
    for (int64_t k = 0; k < v.columns; ++k) {
        copy(column(v, k), contiguous(one, DType::float64, v.rows, 1), place);
        if (transposed) {
            plan_transposed_times(at.cost, at.balance, room, at.u, at.psi, one, product, place);
        } else {
            plan_times(at.cost, at.balance, at.u, at.psi, one, product, place);
        }
        copy(contiguous(product, DType::float64, out.rows, 1), column(out, k), place);
    }
}

// With weights of one for all points a sweep finds the u that makes every row of the plan sum to one.
void map(const CudaTransport& given, const double* g, double* out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const TransportProblem& p = *given.problem;
    if (has_nan(g, p.m)) {
        std::fill_n(out, p.n * given.dim, std::numeric_limits<double>::quiet_NaN());
        return;
    }
    Scratch scratch(place);
    Placed at(given, nullptr, g, scratch);
    at.balance.kappa_a = 0;
    const PassRoom room = pass_room(at.cost, false, scratch);
    auto *const unused = scratch.take_array<double>(p.m), *const sums = scratch.take_array<double>(p.m);
    sweep(at.cost, at.balance, room, at.u, at.psi, unused, sums, place);
    auto *const coordinate = scratch.take_array<double>(p.m), *const mapped = scratch.take_array<double>(p.n * given.dim);
    const CudaView y{const_cast<double*>(at.cost.y), DType::float64, p.m, 1, given.dim, 1};
    for (int64_t k = 0; k < given.dim; ++k) {
        CudaView from = y;
        from.data = static_cast<double*>(y.data) + k;
        copy(from, contiguous(coordinate, DType::float64, p.m, 1), place);
        plan_times(at.cost, at.balance, at.u, at.psi, coordinate, mapped + k * p.n, place);
    }
    read({mapped, DType::float64, p.n, given.dim, 1, p.n}, out, place);
}

SparseResult sparse(const CudaTransport& given, Potentials potentials, double most_dropped, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const Placed at(given, potentials.f, potentials.g, scratch);
    auto* const masses = scratch.take_array<unsigned long long>(mass_bins);
    masses_by_size(at.cost, at.balance, at.u, at.psi, masses, place);
    const std::vector<unsigned long long> found = read(masses, mass_bins, place);
    SparseResult result;
    int cut = 0;
    for (; cut < mass_bins; ++cut) {
        const double here = std::ldexp(static_cast<double>(found[static_cast<std::size_t>(cut)]), cut - 1023 - mass_bits);
        if (!(result.dropped + here <= most_dropped)) break;
        result.dropped += here;
    }
    const double threshold = cut == 0 ? 0 : std::ldexp(1.0, cut - 1023);
    constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();
    const DevicePattern kept = collect(at.cost, at.balance, at.u, at.psi, threshold, no_limit, false, scratch);
    result.value = read(kept.by_rows, kept.count, place);
    result.row_end = read(kept.row_begin + 1, kept.rows, place);
    result.index = read(kept.column, kept.count, place);
    return result;
}

}  // namespace

// level.cu, gradient.cu
CudaLevel* make_level(const CudaTransport& given, bool narrow, CudaPlace place);
CudaRounding rounded(const CudaTransport& given, Potentials at, void* out, DType type, CudaPlace place);
void weighted_sums(const CudaTransport& given, Potentials at, const CudaTransportGradient& gradient, double* rows, double* columns,
                   CudaPlace place);
void cost_gradient(const CudaTransport& given, Potentials at, const CudaTransportGradient& gradient, void* out, DType type,
                   CudaPlace place);
void point_gradient(const CudaTransport& given, Potentials at, const CudaTransportGradient& gradient, double* x, double* y,
                    CudaPlace place);

const CudaTransportTable& transport_table() {
    static const CudaTransportTable table{scan,          solve,         is_small,       solve_side_by_side, measure_solution,
                                          make_level,    rounded,       weighted_sums,  cost_gradient,      point_gradient,
                                          sparse,        plan,          times,          map};
    return table;
}

}  // namespace raphson::cuda
