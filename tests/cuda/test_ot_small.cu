// Small transport problems, a block of threads each, of mixed shapes in one launch.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "ot/device_small.h"
#include "ot_problem.h"

using namespace support;
using raphson::CudaTransport;
using raphson::Status;
using raphson::TransportOptions;
using raphson::TransportProblem;
using raphson::TransportSolution;

namespace {

struct Given {
    Problem host;
    TransportProblem problem;
    CudaTransport transport;
    TransportOptions options;
};

template <class T>
Given given_of(Scratch& scratch, const Problem& p) {
    Given given{p, {}, {}, {}};
    given.problem.n = p.n;
    given.problem.m = p.m;
    given.problem.a = p.a;
    given.problem.b = p.b;
    given.problem.reg = p.reg;
    given.problem.rho_a = p.rho_a;
    given.problem.rho_b = p.rho_b;
    given.problem.lowest_cost = infinity;
    given.problem.highest_cost = -infinity;
    for (const double c : p.cost) {
        if (std::isinf(c)) continue;
        given.problem.lowest_cost = std::min(given.problem.lowest_cost, c);
        given.problem.highest_cost = std::max(given.problem.highest_cost, c);
    }
    const DeviceCost cost = upload_cost<T>(scratch, p, 3, 1);
    given.transport.cost = {const_cast<void*>(cost.data), cost.type, p.n, p.m, cost.stride, 1};
    return given;
}

// The L1 residual of optimality, in float64.
double residual(const Problem& p, const TransportSolution& s) {
    std::vector<double> columns(static_cast<std::size_t>(p.m), 0.0);
    double error = 0;
    for (int64_t i = 0; i < p.n; ++i) {
        double row = 0;
        for (int64_t j = 0; j < p.m; ++j) {
            const bool both = p.a[i] > 0 && p.b[j] > 0;
            const double plan = both ? p.a[i] * p.b[j] * std::exp((s.f[i] + s.g[j] - p.at(i, j)) / p.reg) : 0;
            row += plan;
            columns[j] += plan;
        }
        if (p.a[i] > 0) error += std::fabs(row - p.a[i] * std::exp(-s.f[i] / p.rho_a));
    }
    for (int64_t j = 0; j < p.m; ++j) {
        if (p.b[j] > 0) error += std::fabs(columns[j] - p.b[j] * std::exp(-s.g[j] / p.rho_b));
    }
    return error;
}

}  // namespace

TEST_CASE("cuda small transport: problems of mixed shapes are what they are alone") {
    Scratch scratch(here);
    std::vector<Given> all;
    const std::vector<std::pair<int64_t, int64_t>> shapes{{1, 1}, {1, 40}, {33, 2}, {16, 17}, {7, 7}, {32, 32}};
    for (std::size_t k = 0; k < shapes.size(); ++k) {
        Problem p = random_problem<float>(shapes[k].first, shapes[k].second, k % 2 == 0 ? 0.1 : 0.02, k + 1);
        if (k == 3) p.rho_a = 0.7;
        if (k == 4) p.cost[3] = p.cost[20] = infinity;
        if (k == 5) {
            p.a[3] = p.b[0] = 0;
            equalize(p);
        }
        all.push_back(k % 2 == 0 ? given_of<double>(scratch, p) : given_of<float>(scratch, p));
        all.back().options.tol = k == 2 ? 1e-6 : 1e-9;
    }
    std::vector<CudaTransport> transports;
    std::vector<TransportOptions> options;
    for (Given& one : all) {
        one.transport.problem = &one.problem;
        CHECK(raphson::cuda::is_small(one.transport, here));
        transports.push_back(one.transport);
        options.push_back(one.options);
    }
    std::vector<TransportSolution> together(all.size());
    raphson::cuda::solve_small(transports.data(), options.data(), all.size(), false, together.data(), here);
    for (std::size_t k = 0; k < all.size(); ++k) {
        CAPTURE(k);
        CHECK(together[k].status == Status::converged);
        CHECK(std::fabs(residual(all[k].host, together[k]) - together[k].marginal_error) < 1e-13);
        CHECK(together[k].marginal_error <= all[k].options.tol);
        for (const bool watched : {false, true}) {
            TransportSolution alone;
            raphson::cuda::solve_small(&transports[k], &options[k], 1, watched, &alone, here);
            CHECK(alone.f == together[k].f);
            CHECK(alone.g == together[k].g);
            CHECK(alone.row_marginal == together[k].row_marginal);
            CHECK(alone.column_marginal == together[k].column_marginal);
            CHECK(alone.cost == together[k].cost);
            CHECK(alone.iterations == together[k].iterations);
            CHECK(alone.history.size() == together[k].history.size());
        }
    }
}

TEST_CASE("cuda small transport: level by level and look by look as the driver of larger problems") {
    struct Case {
        double reg, rho;
        bool started;
        int most;
    };
    constexpr int all = 10000;
    for (const Case& the : {Case{0.3, infinity, false, all}, Case{0.004, infinity, false, all}, Case{0.01, 0.6, false, all},
                            Case{0.02, infinity, true, all}, Case{0.001, infinity, false, 5}}) {
        const double reg = the.reg, rho = the.rho;
        const bool started = the.started;
        CAPTURE(reg);
        Scratch scratch(here);
        Problem p = random_problem<double>(14, 11, reg, 5);
        p.rho_a = rho;
        for (double& c : p.cost) c += 6;  // the range counts, not the size
        for (double& b : p.b) b *= 1.25;  // balanced: of a's mass
        Given one = given_of<double>(scratch, p);
        one.transport.problem = &one.problem;
        const std::vector<double> f(14, 0.25), g{9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -1};
        raphson::cuda::DeviceSinkhornOptions options{};
        options.reg = p.reg;
        options.rho_a = p.rho_a;
        options.rho_b = p.rho_b;
        one.options.max_iter = options.max_iter = the.most;
        if (started) {
            one.options.f = f.data();
            one.options.g = g.data();
            options.f = upload(scratch, f);
            options.g = upload(scratch, g);
        }
        TransportSolution small;
        raphson::cuda::solve_small(&one.transport, &one.options, 1, false, &small, here);
        auto *const f_out = poisoned<double>(scratch, p.n), *const g_out = poisoned<double>(scratch, p.m);
        const auto large = raphson::cuda::sinkhorn(upload_cost<double>(scratch, p), upload(scratch, p.a), upload(scratch, p.b), options,
                                                   f_out, g_out, scratch);
        CHECK(small.iterations == large.iterations);
        REQUIRE(small.history.size() == large.history.size());
        for (std::size_t k = 0; k < large.history.size(); ++k) {
            CHECK(small.history[k].reg == large.history[k].reg);
            CHECK(small.history[k].error == doctest::Approx(large.history[k].error).epsilon(1e-4));
        }
        CHECK(small.cost == doctest::Approx(large.cost).epsilon(1e-9));
        const std::vector<double> f_large = download(f_out, p.n);
        for (int64_t i = 0; i < p.n; ++i) CHECK(std::fabs(small.f[i] - f_large[i]) < 2e-9);
    }
}

TEST_CASE("cuda small transport: what a block holds") {
    CudaTransport given;
    TransportProblem p;
    given.problem = &p;
    double data = 0;
    given.cost.data = &data;
    const auto small = [&](int64_t n, int64_t m) {
        p.n = n;
        p.m = m;
        return raphson::cuda::is_small(given, here);
    };
    CHECK(small(128, 128));
    CHECK(!small(128, 129));
    CHECK(!small(1, 16384));  // vectors beside the row
    CHECK(!small(0, 4));
    given.cost.data = nullptr;  // points
    CHECK(!small(4, 4));
}
