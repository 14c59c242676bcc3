// Quadratically regularised transport: the row kernels of every instruction set against plain loops, and a solve in C++.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ot/eased.h"
#include "ot/quadratic.h"
#include "ot/quadratic_interior.h"
#include "support.h"
#include "table.h"

using namespace raphson;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class Test>
void on_every_isa(Test&& test) {
    const BuiltTables built = built_tables();
    for (int k = 0; k < built.count; ++k) {
        if (!built.first[k].runs_here) continue;
        CAPTURE(built.first[k].table->isa);
        test(built.first[k].table->ot);
    }
}

double threshold_by_sorting(std::vector<double> v, double z) {
    std::sort(v.begin(), v.end(), std::greater<double>());
    long double sum = 0, t = 0;
    for (std::size_t k = 0; k < v.size(); ++k) {
        sum += v[k];
        const long double next = (sum - z) / static_cast<long double>(k + 1);
        if (v[k] <= next) break;
        t = next;
    }
    return static_cast<double>(t);
}

}  // namespace

TEST_CASE_TEMPLATE("ot quadratic: peaks and entries above a bound", T, double, float) {
    on_every_isa([](const OtTable& table) {
        support::Random random{5};
        for (const std::int64_t m : {1, 2, 7, 8, 9, 31, 32, 33, 64, 100, 257}) {
            const auto padded = static_cast<std::size_t>(ot_padded(m));
            std::vector<double> g(padded, -infinity), v(static_cast<std::size_t>(m));
            std::vector<T> cost(static_cast<std::size_t>(m));
            for (std::int64_t j = 0; j < m; ++j) {
                g[j] = j % 11 == 3 ? -infinity : random.normal();
                cost[j] = j % 7 == 5 ? static_cast<T>(infinity) : static_cast<T>(random.normal());
                v[j] = g[j] - static_cast<double>(cost[j]);
            }
            const CostBlock row{dtype_of<T>(), cost.data(), m, 1, m};
            std::vector<double> peaks(ot_peaks);
            table.row_peaks(row, g.data(), peaks.data());
            CHECK(*std::max_element(peaks.begin(), peaks.end()) == *std::max_element(v.begin(), v.end()));
            for (double peak : peaks) CHECK((peak == -infinity || std::count(v.begin(), v.end(), peak) >= 1));
            for (const double bound : {-infinity, -1e300, -1.0, 0.0, v[0], 3.0, infinity}) {
                std::vector<std::int32_t> index(padded + ot_padding, -1);
                std::vector<double> value(padded + ot_padding);
                const std::int64_t count = table.row_above(row, g.data(), bound, index.data(), value.data());
                std::int64_t expected = 0;
                for (std::int64_t j = 0; j < m; ++j) {
                    if (!(v[j] >= bound)) continue;
                    REQUIRE(expected < count);
                    CHECK(index[expected] == j);
                    CHECK(value[expected++] == v[j]);
                }
                CHECK(count == expected);
            }
        }
    });
}

TEST_CASE("ot quadratic: thresholds of simplices") {
    on_every_isa([](const OtTable& table) {
        support::Random random{7};
        for (const std::size_t count : {1u, 2u, 5u, 16u, 17u, 40u, 300u}) {
            for (const double z : {1e-12, 1e-3, 0.5, 30.0, 1e6}) {
                std::vector<double> v(count);
                for (double& x : v) x = random.normal();
                if (count > 4) v[1] = v[2] = v[3];
                const double highest = *std::max_element(v.begin(), v.end());
                for (double& x : v) x -= highest;
                if (count > 5) v[4] = -infinity;
                const double expected = threshold_by_sorting(v, z);
                const double got = table.simplex_threshold(v.data(), static_cast<std::int64_t>(count), z, -z);
                CHECK(std::fabs(got - expected) <= 1e-14 * (z + std::fabs(expected)));
            }
        }
        for (int count = 2; count < 40; ++count) {  // entries at the threshold: in or out by a rounding, and it has to end
            for (const double z : {0.1, 1.0 / 3, 0.7}) {
                std::vector<double> v(static_cast<std::size_t>(count), -z);
                v[0] = 0;
                CHECK(std::fabs(table.simplex_threshold(v.data(), count, z, -z) + z) <= 1e-15);
                CHECK(std::fabs(table.simplex_threshold(v.data(), count, z, -0.5 * z) + z) <= 1e-15);
            }
        }
    });
}

TEST_CASE("ot quadratic: optimality conditions of a solve") {
    support::Random random{11};
    const std::int64_t n = 60, m = 83;
    std::vector<double> a(n), b(m), cost(static_cast<std::size_t>(n * m));
    double mass_a = 0, mass_b = 0;
    for (double& x : a) mass_a += x = 1.1 + random.uniform();
    for (double& x : b) mass_b += x = 1.1 + random.uniform();
    for (double& x : a) x /= mass_a;
    for (double& x : b) x /= mass_b;
    for (double& c : cost) c = random.uniform();
    cost[5] = infinity;
    for (const double reg : {1e-2, 1.0, 1e3}) {
        TransportCost rows;
        rows.dense = {DType::float64, cost.data(), m, n, m};
        const TransportProblem problem =
            make_problem("test", rows, scan_cost("test", rows, true), a, b, reg, infinity, infinity, 1e-9);
        TransportOptions options;
        options.tol = 1e-11;
        const QuadraticSolution found = solve_quadratic(problem, 0, options);
        CHECK(found.status == Status::converged);
        std::vector<double> columns(m, 0.0);
        std::int64_t at = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            std::vector<double> row(m, 0.0);
            double sum = 0;
            for (; at < found.plan.row_end[i]; ++at) {
                row[found.plan.index[at]] = found.plan.value[at];
                sum += found.plan.value[at];
            }
            CHECK(std::fabs(sum - a[i]) < 1e-14);
            for (std::int64_t j = 0; j < m; ++j) {
                columns[j] += row[j];
                const double expected = std::max(found.f[i] + found.g[j] - cost[i * m + j], 0.0) / reg;
                CHECK(std::fabs(row[j] - expected) < 1e-12);
            }
        }
        double error = 0;
        for (std::int64_t j = 0; j < m; ++j) error += std::fabs(columns[j] - b[j]);
        CHECK(error <= 1e-11);
        // a limit of k: no row has more
        options.max_iter = 60;
        const QuadraticSolution limited = solve_quadratic(problem, 2, options);
        std::int64_t before = 0;
        for (const std::int64_t end : limited.plan.row_end) {
            CHECK(end - before <= 2);
            before = end;
        }
    }
}

TEST_CASE("ot quadratic: eased rows") {
    support::Random random{5};
    for (int trial = 0; trial < 3000; ++trial) {
        const auto count = static_cast<std::int64_t>(2 + 40 * (random.uniform() * 0.5 + 0.5));
        const auto k = 1 + static_cast<std::int64_t>(trial) % (count - 1);
        std::vector<double> v(static_cast<std::size_t>(count));
        for (double& x : v) x = trial % 3 == 0 ? std::floor(4 * random.uniform()) / 8 : random.uniform();  // with ties
        std::sort(v.begin(), v.end(), [](double p, double q) { return p > q; });
        const double highest = v[0];
        for (double& x : v) x -= highest;
        double all = 0;
        for (double x : v) all += x;
        const double z = (trial % 2 == 0 ? 0.1 : 30.0);
        const double open = kernels().ot.simplex_threshold(v.data(), count, z, -z);
        std::int64_t support = 0;
        for (double x : v) support += x > open;
        if (support <= k) continue;
        const double sigma = std::pow(10.0, -(trial % 8)) * 0.5;
        const double alone = kernels().ot.simplex_threshold(v.data(), k, z, -z);
        const EasedRow row = ease_row(v.data(), count, k, z, sigma, alone, open);
        double mass = 0, slots = 0;
        for (std::int64_t j = 0; j < count; ++j) {
            const double u = v[j] - row.t, top = row.beta / (1 - sigma);
            const bool whole = j < row.whole, part = !whole && j < row.whole + row.parts;
            const double slack = 1e-12 * (1 + z);
            if (whole) CHECK(u >= top - slack);
            if (part) CHECK((u >= row.beta - slack && u <= top + slack));
            if (!whole && !part) CHECK(u <= row.beta + slack);
            if (whole) mass += u;
            if (whole) slots += 1;
            if (part) mass += (u - row.beta) / sigma;
            if (part) slots += (u / row.beta - 1) * (1 - sigma) / sigma;
        }
        CAPTURE(sigma);
        CAPTURE(k);
        CHECK(row.beta > 0);
        CHECK(row.t <= open + 1e-12);
        const double rounding = 1e-14 * (1 + z) * static_cast<double>(count) / sigma;
        CHECK(std::fabs(mass - z) <= rounding);
        CHECK(std::fabs(slots - static_cast<double>(k)) <= rounding / row.beta);
    }
}

TEST_CASE("ot quadratic: interior point on pairs") {
    // Two rows, three columns, the middle column served by both: by hand, f₀ = g₀ = 0 up to one constant.
    const std::vector<double> a{0.5, 0.5}, b{0.3, 0.4, 0.3};
    PairList pairs;
    pairs.row_end = {2, 4};
    pairs.index = {0, 1, 1, 2};
    pairs.cost = {0, 0.25, 0.5, 1};
    std::vector<double> f(2, 0.0), g(3, 0.0);
    const double reg = 2;
    CHECK(solve_on_pairs(pairs, a, b, reg, 1e-12, f, g) > 0);
    const double expected[] = {0.3, 0.2, 0.2, 0.3};
    for (std::size_t k = 0; k < 4; ++k) {
        const double u = f[k / 2] + g[pairs.index[k]] - pairs.cost[k];
        CHECK(std::fabs(u / reg - expected[k]) < 1e-6);  // p·s is what has vanished
    }
    // without the pair (1, 1) the second row cannot be served: said, and nothing moved
    pairs.row_end = {2, 3};
    pairs.index = {0, 1, 2};
    pairs.cost = {0, 0.25, 1};
    const std::vector<double> before = g;
    CHECK(solve_on_pairs(pairs, a, b, reg, 1e-12, f, g) == 0);
    CHECK(g == before);
    CHECK(solve_on_pairs({{0, 0}, {}, {}}, a, b, reg, 1e-12, f, g) == 0);
}
