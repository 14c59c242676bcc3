// Small dense problems, many at once: a block of threads keeps a problem's costs and potentials in shared memory and sweeps by
// itself, in logarithms and float64, until it is done or the host wants to look. All unfinished problems are one launch, and
// what becomes of one does not depend on the others, nor on how many sweeps a launch may take. Schedule, looks and ends are
// those of iterate.cu.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_entry.h"
#include "ot/device_schedule.h"
#include "ot/device_small.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 512, warps = threads / 32;
constexpr const char* name = "sinkhorn: small problems";
constexpr int looks_a_launch = 16;  // of a batch that nobody watches
// What one block does as fast as the launches of a sweep take: larger problems are worth all of the device.
constexpr int64_t most_entries = 16384;

struct Look {
    double error, reg;
    int iteration;
};

// A problem and how far it is; in the device's memory between launches.
struct Small {
    const void* cost;
    int64_t row_stride, column_stride;
    int narrow, rows, columns, balanced;
    double rho_a, rho_b, tol, mass, floor;
    const double* numbers;  // a, b (balanced: of a's mass), their logarithms
    double *u, *psi, *next;
    const double* regs;  // of the levels, the asked one last
    int levels, max_iter;

    int level, done, batch, iterations, idle, moved, over, finished, looks;
    Status status;
    double best;
    double error, spent;             // of what is returned
    double *f, *g, *row_sum, *sums;
    Look* history;  // of the last launch
};

__host__ __device__ constexpr int64_t pitch_of(int64_t columns) { return columns | 1; }  // no two rows in one bank
constexpr std::size_t shared_for(int64_t rows, int64_t columns) {
    return static_cast<std::size_t>(rows * pitch_of(columns) + 3 * rows + 4 * columns) * sizeof(double);
}
constexpr std::size_t aside = 4096;  // what the kernel declares itself, and the driver keeps

// The block's problem in shared memory.
struct Held {
    double *cost, *a, *log_a, *u, *b, *log_b, *psi, *next;
    int rows, columns;
    double inverse_reg, kappa_a, kappa_b;

    __device__ double c(int i, int j) const { return cost[i * pitch_of(columns) + j]; }
    __device__ static double exp_of(double x) { return exp2_flushed(x * log2_e); }
};

// log Σ exp(term(k)), k < count, by a warp; −Inf where all of them are.
template <class Term>
__device__ __forceinline__ double log_sum(int count, Term&& term) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    double high = minus_infinite, sum = 0;
    for (int k = lane; k < count; k += 32) high = fmax(high, term(k));
    high = over_warp(high, Larger());
    if (!(high > minus_infinite)) return minus_infinite;
    for (int k = lane; k < count; k += 32) sum += Held::exp_of(term(k) - high);
    return high + log(over_warp(sum, Plus()));
}

// One iteration: u at its optimum, then that of ψ into `next`. Gives the error of (u, ψ), to every thread.
__device__ double sweep(const Held& held, double* room) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    for (int i = warp; i < held.rows; i += warps) {
        if (!(held.a[i] > 0)) continue;
        const double total = log_sum(held.columns, [&](int j) { return fma(held.c(i, j), -held.inverse_reg, held.psi[j]); });
        if (lane == 0 && total > minus_infinite) held.u[i] = -total / (1 + held.kappa_a);  // else no column can take this row now
    }
    __syncthreads();
    double error = 0;
    for (int j = warp; j < held.columns; j += warps) {
        if (!(held.b[j] > 0)) continue;
        const double total =
            log_sum(held.rows, [&](int i) { return fma(held.c(i, j), -held.inverse_reg, held.log_a[i] + held.u[i]); });
        if (lane != 0) continue;
        const double sum = total > minus_infinite ? Held::exp_of(held.psi[j] + total) : 0;
        const double target = held.kappa_b == 0 ? held.b[j] : held.b[j] * exp(-held.kappa_b * (held.psi[j] - held.log_b[j]));
        error += fabs(sum - target);
        held.next[j] = total > minus_infinite ? held.log_b[j] - total / (1 + held.kappa_b) : held.psi[j];
    }
    return over_block(error, room, Plus());
}

// Balanced potentials are free by a constant: ⟨a, u⟩ = ⟨b, v⟩.
__device__ void gauge(const Held& held, double* room) {
    double difference = 0, mass = 0;
    for (int i = static_cast<int>(threadIdx.x); i < held.rows; i += threads) {
        if (!(held.a[i] > 0)) continue;
        difference -= held.a[i] * held.u[i];
        mass += held.a[i];
    }
    for (int j = static_cast<int>(threadIdx.x); j < held.columns; j += threads) {
        if (held.b[j] > 0) difference += held.b[j] * (held.psi[j] - held.log_b[j]);
    }
    const double shift = over_block(difference, room, Plus()) / (2 * over_block(mass, room, Plus()));
    for (int i = static_cast<int>(threadIdx.x); i < held.rows; i += threads) held.u[i] += shift;
    for (int j = static_cast<int>(threadIdx.x); j < held.columns; j += threads) held.psi[j] -= shift;
    __syncthreads();
}

__device__ void take_next(const Held& held) {
    for (int j = static_cast<int>(threadIdx.x); j < held.columns; j += threads) held.psi[j] = held.next[j];
    __syncthreads();
}

__device__ void set_reg(const Small& p, Held& held, double reg) {
    held.inverse_reg = 1 / reg;
    held.kappa_a = reg / p.rho_a;
    held.kappa_b = reg / p.rho_b;
}
// Potentials keep their values in units of the cost.
__device__ void change_reg(Small& p, Held& held, double from, double to) {
    if (p.moved != 0) take_next(held);
    p.moved = 0;
    const double ratio = from / to;
    for (int i = static_cast<int>(threadIdx.x); i < held.rows; i += threads) held.u[i] *= ratio;
    for (int j = static_cast<int>(threadIdx.x); j < held.columns; j += threads) {
        if (held.psi[j] > minus_infinite) held.psi[j] = held.log_b[j] + (held.psi[j] - held.log_b[j]) * ratio;
    }
    __syncthreads();
    set_reg(p, held, to);
}

// f and g as they are rounded, and what they are worth.
__device__ void finish(Small& p, const Held& held, double reg, double* room) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    for (int i = static_cast<int>(threadIdx.x); i < held.rows; i += threads) {
        p.f[i] = held.a[i] > 0 ? reg * held.u[i] : minus_infinite;
        if (held.a[i] > 0) held.u[i] = p.f[i] / reg;
    }
    for (int j = static_cast<int>(threadIdx.x); j < held.columns; j += threads) {
        p.g[j] = held.b[j] > 0 ? reg * (held.psi[j] - held.log_b[j]) : minus_infinite;
        if (held.b[j] > 0) held.psi[j] = held.log_b[j] + p.g[j] / reg;
    }
    __syncthreads();
    const auto plan = [&](int i, int j) { return Held::exp_of(fma(held.c(i, j), -held.inverse_reg, held.u[i] + held.psi[j])); };
    double error = 0, spent = 0;
    for (int i = warp; i < held.rows; i += warps) {
        const double a = held.a[i];
        double sum = 0, cost = 0;
        for (int j = lane; a > 0 && j < held.columns; j += 32) {
            const double e = plan(i, j);
            sum += e;
            if (e > 0) cost = fma(e, held.c(i, j), cost);  // 0·Inf counts as 0
        }
        sum = over_warp(sum, Plus());
        cost = over_warp(cost, Plus());
        if (lane != 0) continue;
        p.row_sum[i] = sum;
        if (!(a > 0)) continue;
        spent += a * cost;
        error += fabs(a * sum - (held.kappa_a == 0 ? a : a * exp(-held.kappa_a * held.u[i])));
    }
    for (int j = warp; j < held.columns; j += warps) {
        const double b = held.b[j];
        double sum = 0;
        for (int i = lane; b > 0 && i < held.rows; i += 32) {
            if (held.a[i] > 0) sum = fma(held.a[i], plan(i, j), sum);
        }
        sum = over_warp(sum, Plus());
        if (lane != 0) continue;
        p.sums[j] = sum;
        const double target = held.kappa_b == 0 || !(b > 0) ? b : b * exp(-held.kappa_b * (held.psi[j] - held.log_b[j]));
        error += fabs(sum - target);
    }
    p.error = over_block(error, room, Plus());
    p.spent = over_block(spent, room, Plus());
    p.finished = 1;
}

// What a look at the error means: the run is over, or the level is, or neither.
__device__ bool level_ends(Small& p, double error, double goal, bool last) {
    p.moved = error <= goal ? 0 : 1;  // 0: (u, ψ) are the ones to keep
    if (error <= goal) {
        p.status = Status::converged;
        p.over = last ? 1 : 0;
        return true;
    }
    if (!(error - error == 0)) {
        p.status = Status::breakdown;
        p.over = 1;
        return true;
    }
    p.status = Status::max_iter;
    if (error < progress * p.best) {
        p.best = error;
        p.idle = 0;
    } else if (error < near_floor * p.floor && ++p.idle > patience_at_floor) {
        p.status = Status::precision_floor;
        p.over = 1;
        return true;
    }
    if (p.iterations >= p.max_iter) p.over = 1;
    return p.over != 0;
}

__global__ void __launch_bounds__(threads) small_kernel(Small* problems, int most_looks) {
    __shared__ double room[warps];
    Small& kept = problems[blockIdx.x];
    if (kept.finished != 0) return;
    Small p = kept;  // every thread has it, and decides what the others do
    Held held{};
    held.rows = p.rows;
    held.columns = p.columns;
    const int n = p.rows, m = p.columns, me = static_cast<int>(threadIdx.x);
    double* at = reinterpret_cast<double*>(dynamic_shared());
    const auto take = [&](int64_t count) {
        double* const mine = at;
        at += count;
        return mine;
    };
    held.cost = take(n * pitch_of(m));
    for (double** vector : {&held.a, &held.log_a, &held.u}) *vector = take(n);
    for (double** vector : {&held.b, &held.log_b, &held.psi, &held.next}) *vector = take(m);
    for (int k = me; k < n * m; k += threads) {
        const int i = k / m, j = k % m;
        const int64_t from = i * p.row_stride + j * p.column_stride;
        held.cost[i * pitch_of(m) + j] =
            p.narrow != 0 ? static_cast<double>(static_cast<const float*>(p.cost)[from]) : static_cast<const double*>(p.cost)[from];
    }
    for (int i = me; i < n; i += threads) {
        held.a[i] = p.numbers[i];
        held.log_a[i] = p.numbers[n + m + i];
        held.u[i] = p.u[i];
    }
    for (int j = me; j < m; j += threads) {
        held.b[j] = p.numbers[n + j];
        held.log_b[j] = p.numbers[2 * n + m + j];
        held.psi[j] = p.psi[j];
        held.next[j] = p.next[j];
    }
    __syncthreads();
    double reg = p.regs[p.level];
    set_reg(p, held, reg);
    p.looks = 0;
    while (p.over == 0 && p.looks < most_looks) {
        const bool last = p.level + 1 == p.levels;
        const double goal = last ? goal_share * p.tol : fmax(p.tol, level_goal * p.mass);
        const int most = last ? p.max_iter : level_sweeps;
        int now = p.batch < most - p.done ? p.batch : most - p.done;
        now = now < p.max_iter - p.iterations ? now : p.max_iter - p.iterations;
        double error = 0;
        for (int k = 0; k < now; ++k) {
            if (p.moved != 0) take_next(held);
            if (p.iterations == 1 && p.balanced != 0) gauge(held, room);  // a start may carry any constant
            error = sweep(held, room);
            p.moved = 1;
            ++p.iterations;
        }
        p.done += now;
        if (me == 0) p.history[p.looks] = {error, reg, p.iterations};
        ++p.looks;
        const bool ends = level_ends(p, error, goal, last);
        p.batch = 2 * p.batch < sweeps_between_looks ? 2 * p.batch : sweeps_between_looks;
        if (p.over != 0 || (!ends && p.done < most)) continue;
        if (last) {
            p.over = 1;
            continue;
        }
        if (p.iterations >= p.max_iter) {  // a level that ended with the last sweep
            p.status = Status::max_iter;
            p.over = 1;
            continue;
        }
        ++p.level;
        p.done = p.idle = 0;
        p.batch = 1;
        p.best = __builtin_huge_val();
        change_reg(p, held, reg, p.regs[p.level]);
        reg = p.regs[p.level];
    }
    if (p.over != 0) {
        if (p.level + 1 != p.levels) {  // ended on the way
            p.level = p.levels - 1;
            change_reg(p, held, reg, p.regs[p.level]);
            reg = p.regs[p.level];
            (void)sweep(held, room);
        }
        if (p.balanced != 0) gauge(held, room);
        finish(p, held, reg, room);
    }
    for (int i = me; i < n; i += threads) p.u[i] = held.u[i];
    for (int j = me; j < m; j += threads) {
        p.psi[j] = held.psi[j];
        p.next[j] = held.next[j];
    }
    __syncthreads();  // all have read what thread 0 now writes
    if (me == 0) kept = p;
}

// ---- the host's half ------------------------------------------------------------------------------------------------------------

// One problem's numbers on the host: what it starts with.
struct Start {
    std::vector<double> numbers, u, psi, regs;
    double mass = 0, floor = 0;

    Start(const TransportProblem& p, const TransportOptions& options) {
        double mass_b = 0;
        for (const double a : p.a) mass += a;
        for (const double b : p.b) mass_b += b;
        const double factor = p.balanced() ? mass / mass_b : 1;
        numbers = p.a;
        for (const double b : p.b) numbers.push_back(b * factor);
        const std::size_t weights = numbers.size();
        for (std::size_t k = 0; k < weights; ++k) numbers.push_back(numbers[k] > 0 ? std::log(numbers[k]) : minus_infinite);
        const auto given = [&](const double* from, int64_t k) { return from != nullptr && std::isfinite(from[k]) ? from[k] / p.reg : 0; };
        for (int64_t i = 0; i < p.n; ++i) u.push_back(given(options.f, i));
        for (int64_t j = 0; j < p.m; ++j) {
            psi.push_back(numbers[weights + static_cast<std::size_t>(p.n + j)] + given(options.g, j));
        }
        const bool any = p.highest_cost >= p.lowest_cost, started = options.f != nullptr || options.g != nullptr;
        regs = started ? std::vector<double>{p.reg} : regs_of(p.reg, any ? p.highest_cost - p.lowest_cost : 0);
        const double size = any ? std::max(std::abs(p.lowest_cost), std::abs(p.highest_cost)) / p.reg : 0;
        floor = mass * std::numeric_limits<double>::epsilon() * (16 + size);
    }
};

TransportSolution solution_of(const TransportProblem& p, const Small& small, const double* results, std::vector<TransportRecord> history) {
    TransportSolution solution;
    solution.f.assign(results, results + p.n);
    solution.g.assign(results + p.n, results + p.n + p.m);
    solution.row_marginal.assign(results + p.n + p.m, results + 2 * p.n + p.m);
    solution.column_marginal.assign(results + 2 * p.n + p.m, results + 2 * (p.n + p.m));
    for (int64_t i = 0; i < p.n; ++i) solution.row_marginal[i] = p.a[i] > 0 ? p.a[i] * solution.row_marginal[i] : 0;
    solution.status = end_of(small.status, small.error, small.tol);
    solution.iterations = small.iterations;
    solution.marginal_error = small.error;
    solution.cost = small.spent;
    solution.history = std::move(history);
    return solution;
}

}  // namespace

bool is_small(const CudaTransport& given, CudaPlace place) {
    const int64_t n = given.problem->n, m = given.problem->m;
    return given.is_dense() && n > 0 && m > 0 && n * m <= most_entries && shared_for(n, m) + aside <= traits(place.device).shared_bytes;
}

void solve_small(const CudaTransport* given, const TransportOptions* options, std::size_t count, bool watched,
                 TransportSolution* solutions, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const auto began = std::chrono::steady_clock::now();
    const int most_looks = watched ? 1 : looks_a_launch;
    const auto total = static_cast<int64_t>(count);
    std::vector<Small> problems;
    std::vector<double> numbers;
    std::vector<int64_t> begins, result_begins;
    std::size_t shared = 0;
    int64_t results_size = 0;
    auto* const history = scratch.take_array<Look>(total * most_looks);
    for (std::size_t k = 0; k < count; ++k) {
        const TransportProblem& p = *given[k].problem;
        const Start start(p, options[k]);
        const CudaView& cost = given[k].cost;
        Small small{};
        small.cost = cost.data;
        small.row_stride = cost.row_stride;
        small.column_stride = cost.column_stride;
        small.narrow = cost.type == DType::float32 ? 1 : 0;
        small.rows = static_cast<int>(p.n);
        small.columns = static_cast<int>(p.m);
        small.balanced = p.balanced() ? 1 : 0;
        small.rho_a = p.rho_a;
        small.rho_b = p.rho_b;
        small.tol = options[k].tol;
        small.mass = start.mass;
        small.floor = start.floor;
        small.levels = static_cast<int>(start.regs.size());
        small.max_iter = options[k].max_iter;
        small.batch = 1;
        small.status = Status::max_iter;
        small.over = small.max_iter <= 0 ? 1 : 0;
        small.best = std::numeric_limits<double>::infinity();
        small.history = history + static_cast<int64_t>(k) * most_looks;
        problems.push_back(small);
        begins.push_back(static_cast<int64_t>(numbers.size()));
        result_begins.push_back(results_size);
        results_size += 2 * (p.n + p.m);
        for (const std::vector<double>* part : {&start.numbers, &start.u, &start.psi, &start.psi, &start.regs}) {
            numbers.insert(numbers.end(), part->begin(), part->end());
        }
        shared = std::max(shared, shared_for(p.n, p.m));
    }
    double *const there = upload(numbers, scratch), *const results = scratch.take_array<double>(results_size);
    for (std::size_t k = 0; k < count; ++k) {
        Small& small = problems[k];
        const int64_t n = small.rows, m = small.columns;
        double* const mine = there + begins[k];
        small.numbers = mine;
        small.u = mine + 2 * (n + m);
        small.psi = small.u + n;
        small.next = small.psi + m;
        small.regs = small.next + m;
        small.f = results + result_begins[k];
        small.g = small.f + n;
        small.row_sum = small.g + m;
        small.sums = small.row_sum + n;
    }
    Small* const states = upload(problems, scratch);
    std::vector<std::vector<TransportRecord>> records(count);
    std::vector<int> stopped(count, 0);
    for (bool left = true; left;) {
        launch(name, place, {block_count(total, name), threads, shared}, small_kernel, states, most_looks);
        std::vector<char> done;
        for (const Small& small : problems) done.push_back(small.finished != 0 ? 1 : 0);
        problems = read(states, total, place, name);
        const std::vector<Look> looks = read(history, total * most_looks, place, name);
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
        bool stop = false;
        left = false;
        for (std::size_t k = 0; k < count; ++k) {
            if (done[k] != 0) continue;
            for (int l = 0; l < problems[k].looks; ++l) {
                const Look& look = looks[k * static_cast<std::size_t>(most_looks) + static_cast<std::size_t>(l)];
                records[k].push_back({TransportStage::sinkhorn, look.error, look.reg, seconds.count()});
                if (!options[k].callback || !options[k].callback(records[k].back(), look.iteration)) continue;
                stopped[k] = 1;
            }
            left = left || problems[k].finished == 0;
            if (stopped[k] == 0 || problems[k].finished != 0) continue;
            problems[k].over = 1;
            problems[k].looks = 0;
            stop = true;
        }
        if (stop) write(problems.data(), states, problems.size() * sizeof(Small), place);
    }
    const std::vector<double> found = read(results, results_size, place, name);
    for (std::size_t k = 0; k < count; ++k) {
        if (stopped[k] != 0) problems[k].status = Status::stopped;
        solutions[k] = solution_of(*given[k].problem, problems[k], found.data() + result_begins[k], std::move(records[k]));
    }
}

}  // namespace raphson::cuda
