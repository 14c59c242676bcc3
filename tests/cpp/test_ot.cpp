// Entropic transport: the public call against alternating scaling, the Newton system against its formula.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "ot/host_level.h"
#include "ot/problem.h"
#include "ot/schur.h"
#include "raphson/ot.h"
#include "raphson/runtime.h"
#include "support.h"

using namespace raphson;

namespace {

using Real = long double;
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Balanced {
    std::vector<double> a, b, cost;
    std::int64_t n, m;
    Balanced(std::int64_t rows, std::int64_t cols) : a(static_cast<std::size_t>(rows), 1.0 / static_cast<double>(rows)),
                                                     b(static_cast<std::size_t>(cols), 1.0 / static_cast<double>(cols)), n(rows), m(cols) {
        support::Random random{11};
        cost.resize(static_cast<std::size_t>(n * m));
        for (double& c : cost) c = 0.5 * (random.uniform() + 1);
    }
    TransportSolution solve(double reg, const TransportOptions& options = {}) const {
        return sinkhorn<double>({a.data(), {n}}, {b.data(), {m}}, {cost.data(), {n, m}}, reg, options);
    }
};

}  // namespace

TEST_CASE("ot: the Newton system of the large entries, with the others lumped") {
    for (const double rho : {infinity, 2.0}) {
        const Balanced given(23, 30);
        TransportCost rows;
        rows.dense = {DType::float64, given.cost.data(), 30, 23, 30};
        const TransportProblem problem =
            make_problem("test", rows, scan_cost("test", rows, true), given.a, given.b, 0.05, rho, rho, 1e-9);
        HostLevel level(problem);
        SparsePlan plan;
        level.reserve(plan, 23 * 30);
        plan.threshold = 2e-3;  // most entries are dropped
        level.sweep();
        level.update_columns();
        level.sweep(&plan);
        REQUIRE(plan.count > 23);
        REQUIRE(plan.count < 23 * 30 / 2);
        // T as it stands for the dropped entries too: their row and column sums as a plan of rank one
        std::vector<std::vector<Real>> t(23, std::vector<Real>(30, 0));
        std::vector<Real> p(23), q(30);
        Real total = 0;
        for (int i = 0; i < 23; ++i) p[i] = level.target_row(i);
        for (int j = 0; j < 30; ++j) q[j] = level.columns[j];
        const SparsePlan::Piece& piece = plan.pieces[0];
        const auto* index = static_cast<const std::int32_t*>(piece.index.get());
        const auto* value = static_cast<const double*>(piece.value.get());
        for (std::int64_t i = 0, k = 0; i < 23; ++i) {
            for (; k < piece.row_end[i]; ++k) {
                t[i][index[k]] = value[k];
                p[i] -= value[k];
                q[index[k]] -= value[k];
            }
            total += p[i];
        }
        for (int i = 0; i < 23; ++i) {
            for (int j = 0; j < 30; ++j) t[i][j] += p[i] * q[j] / total;
        }
        const Real kappa = std::isinf(rho) ? 0 : 0.05 / rho;
        std::vector<std::vector<Real>> s(30, std::vector<Real>(30, 0));
        for (int j = 0; j < 30; ++j) {
            s[j][j] = level.columns[j] + kappa * level.target_column(j);
            for (int k = 0; k < 30; ++k) {
                for (int i = 0; i < 23; ++i) s[j][k] -= t[i][j] * t[i][k] / (level.target_row(i) * (1 + kappa));
            }
        }
        Schur schur(level, &plan);
        std::vector<double> x(static_cast<std::size_t>(level.padded()), 0.0), y(x), rhs(x), solution(x);
        support::Random random{7};
        for (int j = 0; j < 30; ++j) x[j] = random.normal();
        schur.apply(x.data(), y.data());
        for (int j = 0; j < 30; ++j) {
            Real expected = 0, of_ones = 0;
            for (int k = 0; k < 30; ++k) {
                expected += s[j][k] * x[k];
                of_ones += s[j][k];
            }
            CHECK(std::fabs(y[j] - static_cast<double>(expected)) < 1e-14);
            if (std::isinf(rho)) CHECK(std::fabs(static_cast<double>(of_ones)) < 1e-15);  // the null vector is exact
        }
        for (int j = 0; j < 30; ++j) rhs[j] = y[j];
        const CgOutcome plain = schur.solve(rhs.data(), solution.data(), 1e-15, 200);
        CHECK(plain.iterations > 5);
        std::vector<double> memory;
        REQUIRE(schur.factor(memory));
        const CgOutcome factored = schur.solve(rhs.data(), solution.data(), 1e-13, 200);
        CHECK(factored.iterations <= 2);
        double shift = 0;
        for (int j = 0; j < 30; ++j) shift += (x[j] - solution[j]) / 30;
        if (!std::isinf(rho)) CHECK(std::fabs(shift) < 1e-11);
        for (int j = 0; j < 30; ++j) CHECK(std::fabs(x[j] - solution[j] - (std::isinf(rho) ? shift : 0)) < 1e-10);
    }
}

TEST_CASE("ot: every method finds the plan of alternating scaling") {
    const Balanced p(31, 45);
    const double reg = 0.05;
    std::vector<Real> u(31, 1), v(45, 1);
    for (int k = 0; k < 3000; ++k) {
        for (int i = 0; i < 31; ++i) {
            Real sum = 0;
            for (int j = 0; j < 45; ++j) sum += std::exp(-static_cast<Real>(p.cost[i * 45 + j]) / reg) * v[j];
            u[i] = p.a[i] / sum;
        }
        for (int j = 0; j < 45; ++j) {
            Real sum = 0;
            for (int i = 0; i < 31; ++i) sum += std::exp(-static_cast<Real>(p.cost[i * 45 + j]) / reg) * u[i];
            v[j] = p.b[j] / sum;
        }
    }
    for (const TransportMethod method : {TransportMethod::automatic, TransportMethod::sinkhorn, TransportMethod::sns, TransportMethod::ssns}) {
        TransportOptions options;
        options.method = method;
        const TransportSolution s = p.solve(reg, options);
        CHECK(s.status == Status::converged);
        CHECK(s.marginal_error <= 1e-9);
        for (int i = 0; i < 31; ++i) {
            for (int j = 0; j < 45; ++j) {
                const double got = p.a[i] * p.b[j] * std::exp((s.f[i] + s.g[j] - p.cost[i * 45 + j]) / reg);
                CHECK(std::fabs(got - static_cast<double>(u[i] * std::exp(-static_cast<Real>(p.cost[i * 45 + j]) / reg) * v[j])) < 1e-9);
            }
        }
    }
}

TEST_CASE("ot: the number of threads does not change a bit") {
    const Balanced p(300, 260);
    const int before = get_num_threads();
    std::vector<std::vector<double>> found;
    for (const int threads : {1, 2, 3, 8}) {
        set_num_threads(threads);
        for (const double reg : {0.1, 0.002}) found.push_back(p.solve(reg).f);
    }
    set_num_threads(before);
    for (std::size_t k = 2; k < found.size(); ++k) CHECK(support::same_bits(found[k], found[k % 2]));
}

TEST_CASE("ot: misuse is refused") {
    Balanced p(4, 5);
    const auto text = [&](double reg = 1.0) { return support::refusal([&] { p.solve(reg); }); };
    CHECK(text().empty());
    CHECK(support::contains(text(0.0), "reg must be positive"));
    p.a[1] = -1;
    CHECK(support::contains(text(), "a must not be negative"));
    p.a[1] = 3;
    CHECK(support::contains(text(), "equal mass"));
    p.a[1] = 0.25;
    p.cost[7] = std::nan("");
    CHECK(support::contains(text(), "cost has NaN at (1, 2)"));
    p.cost[7] = 0;
    for (int j = 0; j < 5; ++j) p.cost[10 + j] = infinity;
    CHECK(support::contains(text(), "row 2 has mass"));
    p.a.resize(3);
    CHECK(support::contains(support::refusal([&] { sinkhorn<double>({p.a.data(), {3}}, {p.b.data(), {5}}, {p.cost.data(), {4, 5}}, 1.0); }),
                            "a must have shape (4,)"));
}

TEST_CASE("ot: a cancelled solve throws soon") {
    const Balanced p(700, 700);
    int asked = 0;
    const PollScope scope([](void* count) { return ++*static_cast<int*>(count) >= 2; }, &asked);
    TransportOptions options;
    options.method = TransportMethod::sinkhorn;
    options.tol = 1e-30;
    options.max_iter = 1000000;
    CHECK_THROWS_AS(p.solve(1e-4, options), Cancelled);
}
