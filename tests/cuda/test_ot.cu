// Entropic transport on the device: sweeps and products against sums in float64 written out here, the driver against the CPU
// library, which is tested against POT.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "device_support.h"
#include "ot/device_passes.h"
#include "raphson/ot.h"

using namespace support;
using raphson::DType;
using raphson::Metric;
using raphson::Status;
using raphson::cuda::DeviceBalance;
using raphson::cuda::DeviceCost;
using raphson::cuda::DeviceSinkhornOptions;
using raphson::cuda::DeviceSinkhornOutcome;
using raphson::cuda::PassRoom;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Problem {
    int64_t n = 0, m = 0;
    std::vector<double> a, b, cost;  // the cost as it is rounded to T
    double reg = 0.1, rho_a = infinity, rho_b = infinity;
    double kappa_a() const { return reg / rho_a; }
    double kappa_b() const { return reg / rho_b; }
    double at(int64_t i, int64_t j) const { return cost[static_cast<std::size_t>(i * m + j)]; }
    double span() const {
        double high = 0;
        for (const double c : cost) high = std::isinf(c) ? high : std::max(high, std::fabs(c));
        return high / reg;
    }
};

template <class T>
Problem random_problem(int64_t n, int64_t m, double reg, std::uint64_t seed) {
    Problem p;
    p.n = n;
    p.m = m;
    p.reg = reg;
    Random random{seed};
    for (int64_t i = 0; i < n; ++i) p.a.push_back(1.2 + random.uniform());
    for (int64_t j = 0; j < m; ++j) p.b.push_back(1.2 + random.uniform());
    double mass_a = 0, mass_b = 0;
    for (const double x : p.a) mass_a += x;
    for (const double x : p.b) mass_b += x;
    for (double& x : p.a) x /= mass_a;
    for (double& x : p.b) x /= mass_b;
    for (int64_t k = 0; k < n * m; ++k) p.cost.push_back(to_double(from_double<T>(1 + random.uniform())));
    return p;
}

// After weights have been set to zero: equal masses again.
void equalize(Problem& p) {
    double mass_a = 0, mass_b = 0;
    for (const double x : p.a) mass_a += x;
    for (const double x : p.b) mass_b += x;
    for (double& x : p.b) x *= mass_a / mass_b;
}

// The cost on the device, `shift` elements behind an aligned address and `gap` elements between rows, NaN in between.
template <class T>
DeviceCost upload_cost(Scratch& scratch, const Problem& p, int64_t gap = 0, int64_t shift = 0) {
    std::vector<T> memory(static_cast<std::size_t>(shift + p.n * (p.m + gap)), static_cast<T>(NAN));
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) memory[static_cast<std::size_t>(shift + i * (p.m + gap) + j)] = static_cast<T>(p.at(i, j));
    }
    DeviceCost cost;
    cost.rows = p.n;
    cost.columns = p.m;
    cost.type = type_of<T>();
    cost.data = upload(scratch, memory) + shift;
    cost.stride = p.m + gap;
    return cost;
}

std::vector<double> logs(const std::vector<double>& x) {
    std::vector<double> y;
    for (const double v : x) y.push_back(v > 0 ? std::log(v) : -infinity);
    return y;
}

DeviceBalance upload_balance(Scratch& scratch, const Problem& p, bool narrow) {
    DeviceBalance balance;
    balance.inverse_reg = 1 / p.reg;
    balance.kappa_a = p.kappa_a();
    balance.kappa_b = p.kappa_b();
    balance.a = upload(scratch, p.a);
    balance.b = upload(scratch, p.b);
    balance.log_b = upload(scratch, logs(p.b));
    balance.least_column = upload(scratch, std::vector<double>{raphson::cuda::lost_share(narrow)});
    return balance;
}

// log Σ exp, of any numbers.
double log_sum(const std::vector<double>& x) {
    const double high = *std::max_element(x.begin(), x.end());
    if (!(high > -infinity)) return high;
    double sum = 0;
    for (const double v : x) sum += std::exp(v - high);
    return high + std::log(sum);
}

struct Sweep {
    std::vector<double> u, psi_next, columns;
    double error = 0;
};

Sweep reference_sweep(const Problem& p, std::vector<double> u, const std::vector<double>& psi) {
    Sweep s;
    std::vector<double> terms(static_cast<std::size_t>(p.m));
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) terms[j] = psi[j] - p.at(i, j) / p.reg;
        const double sum = log_sum(terms);
        if (sum > -infinity) u[i] = -sum / (1 + p.kappa_a());
    }
    terms.resize(static_cast<std::size_t>(p.n));
    for (int64_t j = 0; j < p.m; ++j) {
        for (int64_t i = 0; i < p.n; ++i) terms[i] = p.a[i] > 0 ? std::log(p.a[i]) + u[i] - p.at(i, j) / p.reg : -infinity;
        const double sum = log_sum(terms), log_b = std::log(p.b[j]);
        s.columns.push_back(p.b[j] > 0 ? std::exp(psi[j] + sum) : 0);
        s.psi_next.push_back(p.b[j] > 0 ? log_b - sum / (1 + p.kappa_b()) : -infinity);
        if (p.b[j] > 0) s.error += std::fabs(s.columns[j] - p.b[j] * std::exp(-p.kappa_b() * (psi[j] - log_b)));
    }
    s.u = u;
    return s;
}

// What a sweep may be off. float32: an exponential 2^x has the error 2^-24·(1 + |x|)·ln 2 from its argument and 2^-22 from
// the instruction; |x| ≤ 40 for all that counts in a sum, four are added in float32, then 32 in the columns. float64: the
// argument is rounded at the size of C/reg.
struct Bounds {
    double potential, column;  // absolute; relative
};
Bounds bounds_of(const Problem& p, bool narrow) {
    if (narrow) return {41 * 0x1p-24 * 0.7 + 0x1p-22 + 4 * 0x1p-24, 2 * (41 * 0x1p-24 * 0.7 + 0x1p-22) + 40 * 0x1p-24};
    const double argument = (20 + 4 * p.span()) * 0x1p-52;
    return {argument + 1e-14, 4 * argument + 1e-13};
}

template <class T>
void check_sweep(const Problem& p, const std::vector<double>& u, const std::vector<double>& psi, bool resident, int64_t gap,
                 int64_t shift) {
    CAPTURE(p.n);
    CAPTURE(p.m);
    CAPTURE(resident);
    CAPTURE(gap);
    CAPTURE(shift);
    Scratch scratch(here);
    const DeviceCost cost = upload_cost<T>(scratch, p, gap, shift);
    const PassRoom room = raphson::cuda::pass_room(cost, resident, scratch);
    CHECK(room.resident == resident);
    const DeviceBalance balance = upload_balance(scratch, p, room.narrow);
    double* du = upload(scratch, u);
    const double* dpsi = upload(scratch, psi);
    auto* next = poisoned<double>(scratch, p.m);
    auto* columns = poisoned<double>(scratch, p.m);
    auto* error = poisoned<double>(scratch, 1);
    raphson::cuda::sweep(cost, balance, room, du, dpsi, next, columns, here);
    raphson::cuda::total_error(balance, room, p.m, error, here);
    const Sweep truth = reference_sweep(p, u, psi);
    const Bounds bounds = bounds_of(p, room.narrow);
    const auto got_u = download(du, p.n), got_next = download(next, p.m), got_columns = download(columns, p.m);
    double worst_u = 0, worst_next = 0, worst_column = 0, mass = 0;
    for (int64_t i = 0; i < p.n; ++i) worst_u = std::max(worst_u, std::fabs(got_u[i] - truth.u[i]));
    for (int64_t j = 0; j < p.m; ++j) {
        mass += truth.columns[j];
        worst_column = std::max(worst_column, std::fabs(got_columns[j] - truth.columns[j]) / (truth.columns[j] + 1e-17));
        if (p.b[j] > 0) worst_next = std::max(worst_next, std::fabs(got_next[j] - truth.psi_next[j]));
        if (!(p.b[j] > 0)) CHECK(got_next[j] == -infinity);
    }
    CHECK(worst_u <= bounds.potential);
    CHECK(worst_column <= bounds.column);
    CHECK(worst_next <= 2 * bounds.column + bounds.potential);
    CHECK(std::fabs(download(error, 1)[0] - truth.error) <= bounds.column * (mass + 1e-17));
    CHECK(std::all_of(got_u.begin(), got_u.end(), [](double x) { return std::isfinite(x); }));
}

// Potentials near a solution: rows are trusted where they are.
template <class T>
void check_near(Problem p, int64_t gap = 0, int64_t shift = 0, bool both = true) {
    std::vector<double> u, psi = logs(p.b);
    Random random{static_cast<std::uint64_t>(p.n * 1000 + p.m)};
    for (int64_t i = 0; i < p.n; ++i) u.push_back(1 / p.reg + random.uniform());
    for (double& x : psi) x += random.uniform();
    check_sweep<T>(p, u, psi, true, gap, shift);
    if (both) check_sweep<T>(p, u, psi, false, gap, shift);
}

// Σ in float64 of the plan of f and g, and its L1 residual.
struct Measured {
    double error = 0, cost = 0;
};
Measured measured(const Problem& p, const std::vector<double>& f, const std::vector<double>& g) {
    Measured found;
    std::vector<double> columns(static_cast<std::size_t>(p.m), 0.0);
    for (int64_t i = 0; i < p.n; ++i) {
        if (!(p.a[i] > 0)) continue;
        double row = 0;
        for (int64_t j = 0; j < p.m; ++j) {
            const double plan = p.b[j] > 0 ? p.a[i] * p.b[j] * std::exp((f[i] + g[j] - p.at(i, j)) / p.reg) : 0;
            row += plan;
            columns[j] += plan;
            if (plan > 0) found.cost += plan * p.at(i, j);
        }
        found.error += std::fabs(row - p.a[i] * std::exp(-f[i] / p.rho_a));
    }
    for (int64_t j = 0; j < p.m; ++j) {
        if (p.b[j] > 0) found.error += std::fabs(columns[j] - p.b[j] * std::exp(-g[j] / p.rho_b));
    }
    return found;
}

DeviceSinkhornOptions options_of(const Problem& p, double tol) {
    DeviceSinkhornOptions options{};
    options.reg = p.reg;
    options.rho_a = p.rho_a;
    options.rho_b = p.rho_b;
    options.tol = tol;
    options.continuation = true;
    options.resident = true;
    options.max_iter = 10000;
    return options;
}

struct Solved {
    std::vector<double> f, g;
    DeviceSinkhornOutcome outcome;
};

Solved solve(const Problem& p, const DeviceCost& cost, const DeviceSinkhornOptions& options, Scratch& scratch) {
    Solved s;
    auto* f = poisoned<double>(scratch, p.n);
    auto* g = poisoned<double>(scratch, p.m);
    s.outcome = raphson::cuda::sinkhorn(cost, upload(scratch, p.a), upload(scratch, p.b), options, f, g, scratch);
    s.f = download(f, p.n);
    s.g = download(g, p.m);
    return s;
}

// What has to hold for whatever is returned.
void check_returned(const Problem& p, const Solved& s) {
    const Measured host = measured(p, s.f, s.g);
    const double rounding = (100 + 8 * p.span()) * 0x1p-52 * 4;
    CHECK(std::fabs(host.error - s.outcome.marginal_error) <= rounding * (1 + host.error));
    CHECK(std::fabs(host.cost - s.outcome.cost) <= rounding * (1 + std::fabs(host.cost) * 4));
    double left = 0, right = 0, size = 0;
    for (int64_t i = 0; i < p.n; ++i) {
        if (!(p.a[i] > 0)) CHECK(s.f[i] == -infinity);
        if (p.a[i] > 0) left += p.a[i] * s.f[i], size += p.a[i] * std::fabs(s.f[i]);
    }
    for (int64_t j = 0; j < p.m; ++j) {
        if (!(p.b[j] > 0)) CHECK(s.g[j] == -infinity);
        if (p.b[j] > 0) right += p.b[j] * s.g[j];
    }
    if (std::isinf(p.rho_a) && std::isinf(p.rho_b)) CHECK(std::fabs(left - right) <= 1e-12 * (size + 1));
}

template <class T>
raphson::TransportSolution on_cpu(const Problem& p, double tol) {
    std::vector<T> cost;
    for (const double c : p.cost) cost.push_back(static_cast<T>(c));
    raphson::TransportOptions options;
    options.tol = tol;
    options.rho_a = p.rho_a;
    options.rho_b = p.rho_b;
    return raphson::sinkhorn<T>({p.a.data(), {p.n}}, {p.b.data(), {p.m}}, {cost.data(), {p.n, p.m}}, p.reg, options);
}

template <class T>
void check_driver(const Problem& p, bool resident = true, int64_t gap = 0) {
    CAPTURE(p.n);
    CAPTURE(p.m);
    CAPTURE(p.reg);
    CAPTURE(p.rho_a);
    CAPTURE(p.rho_b);
    constexpr bool narrow = std::is_same_v<T, float>;
    Scratch scratch(here);
    const DeviceCost cost = upload_cost<T>(scratch, p, gap);
    const double tol = narrow ? 1e-5 : 1e-9;
    DeviceSinkhornOptions options = options_of(p, tol);
    options.resident = resident;
    const Solved s = solve(p, cost, options, scratch);
    CHECK(s.outcome.status == Status::converged);
    CHECK(s.outcome.marginal_error <= tol);
    CHECK(s.outcome.iterations >= 1);
    check_returned(p, s);
    const raphson::TransportSolution cpu = on_cpu<T>(p, 1e-11);
    // A potential is off by reg times the relative error of its marginal, times what the problem makes of it.
    double least = 1;
    for (const double x : p.a) least = x > 0 ? std::min(least, x) : least;
    for (const double x : p.b) least = x > 0 ? std::min(least, x) : least;
    const double bound = p.reg * 10 * tol / least;
    double worst = 0;
    for (int64_t i = 0; i < p.n; ++i) {
        if (p.a[i] > 0) worst = std::max(worst, std::fabs(s.f[i] - cpu.f[i]));
    }
    for (int64_t j = 0; j < p.m; ++j) {
        if (p.b[j] > 0) worst = std::max(worst, std::fabs(s.g[j] - cpu.g[j]));
    }
    CHECK(worst <= bound);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda ot: one iteration", T, double, float) {
    const int64_t shapes[][2] = {{1, 1}, {1, 5}, {7, 1}, {2, 32}, {33, 65}, {70, 130}, {19, 700}};
    for (const auto& s : shapes) {
        Problem p = random_problem<T>(s[0], s[1], 0.07, static_cast<std::uint64_t>(s[0] + 31 * s[1]));
        check_near<T>(p);
        check_near<T>(p, 4, 1, false);
        p.rho_a = 0.5;
        check_near<T>(p, 3);
        p.rho_b = 2;
        check_near<T>(p, 0, 0, false);
    }
}

TEST_CASE("cuda ot: one iteration, blocks of every width, and rows too wide for the chip") {
    for (const int64_t m : {1500, 2500, 5000, 9000, 16384}) check_near<float>(random_problem<float>(3, m, 0.1, 5), 0, 0, m < 3000);
    for (const int64_t m : {700, 1500, 2500, 8192}) check_near<double>(random_problem<double>(3, m, 0.1, 5), 0, 0, false);
    const std::vector<double> u(2, 8.0);
    const Problem wide = random_problem<float>(2, 16385, 0.1, 6), wide_64 = random_problem<double>(2, 8193, 0.1, 6);
    check_sweep<float>(wide, u, logs(wide.b), false, 0, 0);
    check_sweep<double>(wide_64, u, logs(wide_64.b), false, 0, 0);
    Scratch scratch(here);
    CHECK(!raphson::cuda::pass_room(upload_cost<float>(scratch, wide), true, scratch).resident);
    CHECK(!raphson::cuda::pass_room(upload_cost<double>(scratch, wide_64), true, scratch).resident);
    // Column sums leave the registers several times a block.
    check_near<float>(random_problem<float>(3200, 3, 0.1, 7), 0, 0, false);
    check_near<double>(random_problem<double>(1700, 2, 0.1, 8), 0, 0, false);
}

TEST_CASE_TEMPLATE("cuda ot: one iteration from potentials that are far off", T, double, float) {
    Problem p = random_problem<T>(23, 41, 2e-4, 11);  // C/reg to 1e4
    p.a[4] = p.b[7] = p.b[40] = 0;
    for (int64_t j = 0; j < p.m; j += 3) p.cost[static_cast<std::size_t>(5 * p.m + j)] = infinity;
    for (int64_t i = 0; i < p.n; ++i) p.cost[static_cast<std::size_t>(i * p.m + 12)] += 1;  // a column that nothing reaches
    for (double& c : p.cost) c = to_double(from_double<T>(c));
    equalize(p);
    for (const bool resident : {true, false}) {
        check_sweep<T>(p, std::vector<double>(23, 0.0), logs(p.b), resident, 0, 0);
        check_sweep<T>(p, std::vector<double>(23, 9e4), logs(p.b), resident, 2, 1);
        Problem relaxed = p;
        relaxed.rho_a = 0.3;
        relaxed.rho_b = 0.01;
        check_sweep<T>(relaxed, std::vector<double>(23, -3.0), logs(p.b), resident, 0, 0);
    }
    // A row that no column can take keeps its potential and gives nothing.
    Problem closed = random_problem<T>(5, 9, 0.1, 12);
    for (int64_t j = 0; j < 9; ++j) closed.cost[static_cast<std::size_t>(18 + j)] = infinity;
    check_sweep<T>(closed, std::vector<double>(5, 1.5), logs(closed.b), true, 0, 0);
    check_sweep<T>(closed, std::vector<double>(5, 1.5), logs(closed.b), false, 0, 0);
}

TEST_CASE_TEMPLATE("cuda ot: the driver finds what the CPU finds", T, double, float) {
    const int64_t shapes[][2] = {{1, 1}, {1, 9}, {13, 1}, {11, 11}, {9, 37}};
    for (const auto& s : shapes) {
        Problem p = random_problem<T>(s[0], s[1], 0.5, static_cast<std::uint64_t>(3 * s[0] + s[1]));
        check_driver<T>(p);
        check_driver<T>(p, false, 3);
        p.rho_a = p.rho_b = 0.7;
        check_driver<T>(p);
        p.rho_a = infinity;
        check_driver<T>(p);
        std::swap(p.rho_a, p.rho_b);
        check_driver<T>(p, true, 1);
    }
    Problem holes = random_problem<T>(18, 27, 0.4, 21);
    holes.a[0] = holes.a[9] = holes.b[26] = 0;
    for (std::size_t k = 1; k < holes.cost.size(); k += 7) holes.cost[k] = infinity;
    equalize(holes);
    check_driver<T>(holes);
    check_driver<T>(holes, false);
    check_driver<T>(random_problem<T>(14, 12, 0.05, 22));  // by way of larger regs
}

TEST_CASE_TEMPLATE("cuda ot: small reg, limits and starts", T, double, float) {
    Scratch scratch(here);
    Problem p = random_problem<T>(16, 16, 1e-4, 31);  // C/reg to 2e4
    const DeviceCost cost = upload_cost<T>(scratch, p);
    DeviceSinkhornOptions options = options_of(p, 1e-7);
    for (const bool continuation : {true, false}) {
        options.continuation = continuation;
        options.max_iter = 90;
        const Solved s = solve(p, cost, options, scratch);
        CHECK(s.outcome.iterations <= 90);
        CHECK((s.outcome.status == Status::max_iter || s.outcome.status == Status::converged || s.outcome.status == Status::precision_floor));
        CHECK((s.outcome.status == Status::converged) == (s.outcome.marginal_error <= 1e-7));
        CHECK(std::isfinite(s.outcome.marginal_error));
        check_returned(p, s);
    }
    // One good pair for every row: solved to the end whatever reg is.
    for (int64_t i = 0; i < 16; ++i) {
        p.a[i] = p.b[i] = 1.0 / 16;
        for (int64_t j = 0; j < 16; ++j) {
            double& c = p.cost[static_cast<std::size_t>(i * 16 + j)];
            c = to_double(from_double<T>(i == j ? 0.01 * c : 0.5 + c / 4));
        }
    }
    const DeviceCost easy = upload_cost<T>(scratch, p);
    options = options_of(p, 1e-5);
    const Solved exact = solve(p, easy, options, scratch);
    CHECK(exact.outcome.status == Status::converged);
    check_returned(p, exact);
    double diagonal = 0;
    for (int64_t i = 0; i < 16; ++i) diagonal += p.at(i, i) / 16;
    CHECK(std::fabs(exact.outcome.cost - diagonal) <= 1e-4);

    // From the answer, shifted by a constant: one sweep.
    Problem q = random_problem<T>(9, 14, 0.5, 33);
    const DeviceCost plain = upload_cost<T>(scratch, q);
    options = options_of(q, 1e-6);
    const Solved cold = solve(q, plain, options, scratch);
    std::vector<double> f = cold.f, g = cold.g;
    for (double& x : f) x += 50;
    for (double& x : g) x -= 50;
    g[3] = NAN;
    DeviceSinkhornOptions warm = options;
    warm.g = upload(scratch, cold.g);
    warm.f = upload(scratch, f);
    const Solved again = solve(q, plain, warm, scratch);
    CHECK(cold.outcome.status == Status::converged);
    CHECK(again.outcome.iterations == 1);
    check_returned(q, again);
    warm.g = upload(scratch, g);
    const Solved repaired = solve(q, plain, warm, scratch);
    CHECK(repaired.outcome.status == Status::converged);
    check_returned(q, repaired);
    // More than the precision gives.
    options.tol = 1e-19;
    options.max_iter = 2000;
    const Solved floor = solve(q, plain, options, scratch);
    CHECK(floor.outcome.status == Status::precision_floor);
    CHECK(floor.outcome.marginal_error <= (std::is_same_v<T, float> ? 2e-6 : 1e-13));
    check_returned(q, floor);
    options.max_iter = 3;
    CHECK(solve(q, plain, options, scratch).outcome.iterations == 3);
}

TEST_CASE("cuda ot: clouds of points") {
    Random random{5};
    for (const Metric metric : {Metric::sqeuclidean, Metric::euclidean, Metric::cityblock}) {
        for (const int64_t dim : {1, 3}) {
            CAPTURE(static_cast<int>(metric));
            CAPTURE(dim);
            Scratch scratch(here);
            Problem p = random_problem<double>(11, 18, 0.5, 41);
            p.a[2] = p.b[0] = 0;
            equalize(p);
            std::vector<double> x, y;
            for (int64_t k = 0; k < p.n * dim; ++k) x.push_back(random.uniform());
            for (int64_t k = 0; k < p.m * dim; ++k) y.push_back(random.uniform());
            constexpr double scale = 0.6;
            for (int64_t i = 0; i < p.n; ++i) {
                for (int64_t j = 0; j < p.m; ++j) {
                    double sum = 0;
                    for (int64_t k = 0; k < dim; ++k) {
                        const double d = x[i * dim + k] - y[j * dim + k];
                        sum += metric == Metric::cityblock ? std::fabs(d) : d * d;
                    }
                    p.cost[static_cast<std::size_t>(i * p.m + j)] = scale * (metric == Metric::euclidean ? std::sqrt(sum) : sum);
                }
            }
            DeviceCost cost;
            cost.rows = p.n;
            cost.columns = p.m;
            cost.metric = metric;
            cost.scale = scale;
            cost.x = upload(scratch, x);
            cost.y = upload(scratch, y);
            cost.dim = dim;
            const DeviceSinkhornOptions options = options_of(p, 1e-9);
            const Solved points = solve(p, cost, options, scratch), dense = solve(p, upload_cost<double>(scratch, p), options, scratch);
            CHECK(points.outcome.status == Status::converged);
            CHECK(points.outcome.iterations == dense.outcome.iterations);
            check_returned(p, points);
            for (int64_t i = 0; i < p.n; ++i) CHECK((points.f[i] == dense.f[i] || std::fabs(points.f[i] - dense.f[i]) <= 1e-12));
            for (int64_t j = 0; j < p.m; ++j) CHECK((points.g[j] == dense.g[j] || std::fabs(points.g[j] - dense.g[j]) <= 1e-12));
        }
    }
}

TEST_CASE_TEMPLATE("cuda ot: the plan and its products", T, double, float) {
    Scratch scratch(here);
    Problem p = random_problem<T>(37, 53, 0.2, 51);
    p.a[1] = p.b[8] = 0;
    p.cost[60] = infinity;
    const DeviceCost cost = upload_cost<T>(scratch, p, 5);
    const PassRoom room = raphson::cuda::pass_room(cost, true, scratch);
    const DeviceBalance balance = upload_balance(scratch, p, room.narrow);
    const std::vector<double> u = normals<double>(p.n, 1), v = normals<double>(p.m, 2), z = normals<double>(p.n, 3);
    std::vector<double> psi = logs(p.b);
    for (double& x : psi) x += 5;
    const double *du = upload(scratch, u), *dpsi = upload(scratch, psi);
    std::vector<double> plan, rows(37, 0.0), columns(53, 0.0), t(37, 0.0), y(53, 0.0);
    double spent = 0;
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) {
            const double e = p.b[j] > 0 ? std::exp(u[i] + psi[j] - p.at(i, j) / p.reg) : 0, entry = p.a[i] * e;
            plan.push_back(entry);
            rows[i] += e;
            columns[j] += entry;
            t[i] += entry * v[j];
            y[j] += entry * z[i];
            if (entry > 0) spent += entry * p.at(i, j);
        }
    }
    const auto near = [](const std::vector<double>& got, const std::vector<double>& truth) {
        double worst = 0, size = 0;
        for (std::size_t k = 0; k < truth.size(); ++k) {
            worst = std::max(worst, got[k] == got[k] ? std::fabs(got[k] - truth[k]) : infinity);
            size = std::max(size, std::fabs(truth[k]));
        }
        CHECK(worst <= 1e-13 * size);
    };
    auto *dt = poisoned<double>(scratch, p.n), *dy = poisoned<double>(scratch, p.m), *numbers = poisoned<double>(scratch, 2);
    raphson::cuda::plan_times(cost, balance, du, dpsi, upload(scratch, v), dt, here);
    raphson::cuda::plan_transposed_times(cost, balance, room, du, dpsi, upload(scratch, z), dy, here);
    near(download(dt, p.n), t);
    near(download(dy, p.m), y);
    auto *dr = poisoned<double>(scratch, p.n), *dc = poisoned<double>(scratch, p.m);
    raphson::cuda::measure(cost, balance, room, du, dpsi, {dr, dc}, numbers, numbers + 1, here);
    near(download(dr, p.n), rows);
    near(download(dc, p.m), columns);
    double error = 0;
    for (int64_t i = 0; i < p.n; ++i) error += p.a[i] > 0 ? std::fabs(p.a[i] * rows[i] - p.a[i]) : 0;
    for (int64_t j = 0; j < p.m; ++j) error += std::fabs(columns[j] - p.b[j]);
    near(download(numbers, 2), {error, spent});
    const int64_t stride = 60, first = 3, count = 30;
    auto* wide = poisoned<double>(scratch, count * stride);
    auto* narrow = poisoned<float>(scratch, count * stride);
    raphson::cuda::plan_rows(cost, balance, du, dpsi, first, count, DType::float64, wide, stride, here);
    raphson::cuda::plan_rows(cost, balance, du, dpsi, first, count, DType::float32, narrow, stride, here);
    const auto got = download(wide, count * stride);
    const auto rounded = download(narrow, count * stride);
    std::vector<double> dense, wanted;
    int64_t written = 0, agree = 0;
    for (int64_t k = 0; k < count * stride; ++k) {
        written += got[k] == got[k];
        agree += rounded[k] == static_cast<float>(got[k]);
        if (k % stride >= p.m) continue;
        dense.push_back(got[k]);
        wanted.push_back(plan[static_cast<std::size_t>((first + k / stride) * p.m + k % stride)]);
    }
    near(dense, wanted);
    CHECK(written == count * p.m);  // and nothing else
    CHECK(agree == count * p.m);
}

TEST_CASE("cuda ot: the same bits every time") {
    const auto bits = [](const auto& p, const auto& upload_it, bool resident) {
        std::vector<double> all[2];
        for (auto& one : all) {
            Scratch scratch(here);
            DeviceSinkhornOptions options = options_of(p, 1e-12);
            options.max_iter = 12;
            options.resident = resident;
            const Solved s = solve(p, upload_it(scratch), options, scratch);
            one = s.f;
            one.insert(one.end(), s.g.begin(), s.g.end());
            one.push_back(s.outcome.marginal_error);
            one.push_back(s.outcome.cost);
        }
        CHECK(same_bits(all[0], all[1]));
    };
    const Problem narrow = random_problem<float>(90, 170, 1e-3, 61), wide = random_problem<double>(90, 170, 1e-3, 62);
    for (const bool resident : {true, false}) {
        bits(narrow, [&](Scratch& scratch) { return upload_cost<float>(scratch, narrow); }, resident);
        bits(wide, [&](Scratch& scratch) { return upload_cost<double>(scratch, wide); }, resident);
    }
}
