// The driver of entropic transport on the device against the CPU library, which is tested against POT.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ot_problem.h"
#include "raphson/ot.h"

using namespace support;
using raphson::Metric;
using raphson::Status;
using raphson::cuda::DeviceSinkhornOptions;
using raphson::cuda::DeviceSinkhornOutcome;

namespace {

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
        CHECK(s.outcome.status != Status::breakdown);
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

TEST_CASE("cuda ot: as many sweeps as it takes") {
    // Without larger regs first: Sinkhorn's own number, and up to the next look.
    Scratch scratch(here);
    Problem p = random_problem<double>(12, 17, 0.1, 71);
    const DeviceCost cost = upload_cost<double>(scratch, p);
    DeviceSinkhornOptions options = options_of(p, 1e-9);
    options.continuation = false;
    std::vector<double> u(12, 0.0), psi = logs(p.b);
    int needed = 0;
    for (double error = 1; error > 0.8e-9;) {
        const Sweep s = reference_sweep(p, u, psi);
        u = s.u;
        psi = s.psi_next;
        error = s.error;
        ++needed;
    }
    const Solved plain = solve(p, cost, options, scratch);
    CHECK(needed > 20);
    CHECK(plain.outcome.iterations >= needed);
    CHECK(plain.outcome.iterations < needed + 8);

    // Masses that differ a little: b is scaled.
    Problem heavier = p;
    for (double& x : heavier.b) x *= 1 + 1e-6;
    options.max_iter = 200;
    CHECK(solve(heavier, cost, options, scratch).outcome.status == Status::converged);

    // The way to a small reg begins at a larger one, and its potentials keep their values in units of the cost: ended after
    // one sweep there, g is what that sweep gave.
    Problem steep = random_problem<double>(14, 15, 2e-3, 72);
    options = options_of(steep, 1e-9);
    options.max_iter = 1;
    const Solved cut = solve(steep, upload_cost<double>(scratch, steep), options, scratch);
    CHECK(cut.outcome.status == Status::max_iter);
    CHECK(cut.outcome.iterations == 1);
    check_returned(steep, cut);
    const auto ends = std::minmax_element(steep.cost.begin(), steep.cost.end());
    Problem mild = steep;
    while (mild.reg < 0.05 * (*ends.second - *ends.first)) mild.reg *= 4;
    const Sweep one = reference_sweep(mild, std::vector<double>(14, 0.0), logs(mild.b));
    const auto g = [&](int64_t j) { return mild.reg * (one.psi_next[j] - std::log(mild.b[j])); };
    for (int64_t j = 0; j < 15; ++j) CHECK(std::fabs((cut.g[j] - cut.g[0]) - (g(j) - g(0))) <= 1e-13);
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
            const Solved points = solve(p, cost, options, scratch);
            const Solved dense = solve(p, upload_cost<double>(scratch, p), options, scratch);
            CHECK(points.outcome.status == Status::converged);
            CHECK(points.outcome.iterations == dense.outcome.iterations);
            check_returned(p, points);
            for (int64_t i = 0; i < p.n; ++i) CHECK((points.f[i] == dense.f[i] || std::fabs(points.f[i] - dense.f[i]) <= 1e-12));
            for (int64_t j = 0; j < p.m; ++j) CHECK((points.g[j] == dense.g[j] || std::fabs(points.g[j] - dense.g[j]) <= 1e-12));
        }
    }
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
