// Entropic transport: every pass of every instruction set that runs here against plain loops in long double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ot/passes.h"
#include "ot/problem.h"
#include "support.h"
#include "table.h"

using namespace raphson;

namespace {

using Real = long double;
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

double uniform(support::Random& random) { return 0.5 * (random.uniform() + 1); }

struct Case {
    std::int64_t n, m, padded;
    std::vector<double> cost, psi, mass, u;

    Case(std::int64_t rows, std::int64_t cols, std::uint64_t seed = 1) : n(rows), m(cols), padded(ot_padded(cols)) {
        support::Random random{seed};
        cost.resize(static_cast<std::size_t>(n * m));
        for (double& c : cost) c = uniform(random);
        if (cost.size() > 2) cost[1] = infinity;
        psi.assign(static_cast<std::size_t>(padded), minus_infinity);
        for (std::int64_t j = 0; j < m; ++j) psi[j] = random.normal() - 3;
        mass.resize(static_cast<std::size_t>(n));
        for (double& a : mass) a = uniform(random) + 0.1;
        u.resize(static_cast<std::size_t>(n));
        for (double& x : u) x = random.normal();
    }
    template <class T>
    std::vector<T> as() const {
        return std::vector<T>(cost.begin(), cost.end());
    }
};

const std::vector<std::pair<std::int64_t, std::int64_t>> shapes = {{1, 1}, {1, 9}, {3, 8}, {4, 7}, {5, 16}, {9, 33}, {21, 100}};

template <class T>
LogBlock log_block(const Case& c, const std::vector<T>& cost, double reg) {
    LogBlock b{};
    b.cost = {dtype_of<T>(), cost.data(), c.m, c.n, c.m};
    b.inverse_reg = 1 / reg;
    b.psi = c.psi.data();
    b.mass = c.mass.data();
    b.exponent = 1;
    return b;
}

void check_near(double got, Real expected, double relative) {
    const Real error = std::fabs(static_cast<Real>(got) - expected);
    CHECK_MESSAGE(error <= static_cast<Real>(relative) * std::fabs(expected) + 1e-300L, got, " against ", static_cast<double>(expected));
}

}  // namespace

TEST_CASE("ot passes: powers of two") {
    on_every_isa([](const OtTable& table) {
        support::Random random{3};
        std::vector<double> x, got;
        for (int k = 0; k < 2003; ++k) x.push_back(k % 2 == 0 ? 1021 * random.uniform() : 2 * random.uniform());
        got.resize(x.size());
        table.exp2(x.data(), static_cast<std::int64_t>(x.size()), got.data());
        for (std::size_t k = 0; k < x.size(); ++k) check_near(got[k], std::exp2(static_cast<Real>(x[k])), 4.5e-16);
        const std::vector<double> ends = {-infinity, -1e300, -1021.01, 0.0, 1.0, -1.0, 2000.0, std::nan("")};
        table.exp2(ends.data(), static_cast<std::int64_t>(ends.size()), got.data());
        for (int k = 0; k < 3; ++k) CHECK(got[k] == 0);
        CHECK(got[3] == 1);
        CHECK(got[4] == 2);
        CHECK(got[5] == 0.5);
        CHECK(got[6] > 1e307);
        CHECK(std::isnan(got[7]));
    });
}

TEST_CASE_TEMPLATE("ot passes: a sweep in the log domain", T, double, float) {
    on_every_isa([](const OtTable& table) {
        for (const auto& [n, m] : shapes) {
            for (const double exponent : {1.0, 0.6}) {
                for (const bool update : {true, false}) {
                    Case c(n, m);
                    const std::vector<T> cost = c.as<T>();
                    const double reg = 0.3;
                    LogBlock b = log_block(c, cost, reg);
                    std::vector<double> u = c.u, sums(u.size()), columns(static_cast<std::size_t>(c.padded), 0.25),
                                        scratch(static_cast<std::size_t>(ot_scratch(c.m)));
                    std::vector<T> plan(cost.size());
                    double cost_sum = 0.5;
                    b.exponent = exponent;
                    b.update = update;
                    b.u = u.data();
                    b.row_sum = sums.data();
                    b.columns = columns.data();
                    b.cost_sum = &cost_sum;
                    b.plan = plan.data();
                    b.plan_stride = m;
                    b.scratch = scratch.data();
                    table.log_sweep(b);
                    std::vector<Real> expected_columns(columns.size(), 0.25L);
                    Real expected_cost = 0.5L;
                    for (std::int64_t i = 0; i < n; ++i) {
                        Real sum = 0;
                        for (std::int64_t j = 0; j < m; ++j) {
                            sum += std::exp(static_cast<Real>(c.u[i]) + c.psi[j] - static_cast<Real>(cost[i * m + j]) / reg);
                        }
                        check_near(sums[i], sum, 1e-13);
                        const Real moved = update ? exponent * (c.u[i] - std::log(sum)) : static_cast<Real>(c.u[i]);
                        if (sum > 0) CHECK(std::fabs(u[i] - static_cast<double>(moved)) < 1e-13 * (1 + std::fabs(u[i])));
                        for (std::int64_t j = 0; j < m && sum > 0; ++j) {
                            const Real p = c.mass[i] * std::exp(moved + c.psi[j] - static_cast<Real>(cost[i * m + j]) / reg);
                            expected_columns[j] += p;
                            if (p > 0) expected_cost += p * cost[i * m + j];
                            check_near(static_cast<double>(plan[i * m + j]), p / c.mass[i], sizeof(T) == 8 ? 1e-12 : 1e-6);
                        }
                    }
                    for (std::int64_t j = 0; j < m; ++j) check_near(columns[j], expected_columns[j], 1e-12);
                    check_near(cost_sum, expected_cost, 1e-12);
                }
            }
        }
    });
}

TEST_CASE("ot passes: potentials that are far off, and rows that nobody takes") {
    on_every_isa([](const OtTable& table) {
        Case c(6, 11);
        LogBlock b = log_block(c, c.cost, 1e-3);
        std::vector<double> u = {0, 5000, -5000, 1e9, minus_infinity, 0}, sums(6), columns(static_cast<std::size_t>(c.padded)),
                            scratch(static_cast<std::size_t>(ot_scratch(c.m)));
        for (int j = 0; j < 11; ++j) c.cost[5 * 11 + j] = infinity;
        b.update = true;
        b.u = u.data();
        b.row_sum = sums.data();
        b.columns = columns.data();
        b.scratch = scratch.data();
        table.log_sweep(b);
        Real total = 0;
        for (int j = 0; j < 11; ++j) total += columns[j];
        Real mass = 0;
        for (int i = 0; i < 5; ++i) mass += c.mass[i];  // the sixth has nowhere to go
        check_near(static_cast<double>(total), mass, 1e-13);
        for (int i = 0; i < 5; ++i) {
            Real highest = -1e30L, sum = 0;
            for (int j = 0; j < 11; ++j) highest = std::max(highest, c.psi[j] - static_cast<Real>(c.cost[i * 11 + j]) * 1000);
            for (int j = 0; j < 11; ++j) sum += std::exp(c.psi[j] - static_cast<Real>(c.cost[i * 11 + j]) * 1000 - highest);
            check_near(u[i], -(highest + std::log(sum)), 1e-12);
        }
    });
}

TEST_CASE("ot passes: the large entries of a sweep") {
    on_every_isa([](const OtTable& table) {
        for (const auto& [n, m] : shapes) {
            const Case c(n, m);
            std::vector<double> u = c.u, sums(u.size()), columns(static_cast<std::size_t>(c.padded)),
                                scratch(static_cast<std::size_t>(ot_scratch(c.m)));
            LogBlock b = log_block(c, c.cost, 0.05);
            std::vector<std::int32_t> index(c.cost.size() + 16);
            std::vector<double> value(index.size());
            std::vector<std::int64_t> row_end(u.size());
            SparseBlock sparse{0.01, static_cast<std::int64_t>(index.size()), index.data(), value.data(), row_end.data(), 0};
            b.update = true;
            b.u = u.data();
            b.row_sum = sums.data();
            b.columns = columns.data();
            b.scratch = scratch.data();
            b.sparse = &sparse;
            table.log_sweep(b);
            std::int64_t at = 0;
            for (std::int64_t i = 0; i < n; ++i) {
                for (std::int64_t j = 0; j < m; ++j) {
                    const Real p = c.mass[i] * std::exp(static_cast<Real>(u[i]) + c.psi[j] - static_cast<Real>(c.cost[i * m + j]) / 0.05);
                    if (std::fabs(p - 0.01L) < 1e-12L || p < 0.01L) continue;
                    REQUIRE(at < sparse.count);
                    CHECK(index[at] == j);
                    check_near(value[at], p, 1e-12);
                    ++at;
                }
                CHECK(row_end[i] == at);
            }
            CHECK(sparse.count == at);
            if (at > 1) {  // and one that has no room
                SparseBlock small = sparse;
                small.capacity = at - 1;
                small.count = 0;
                b.sparse = &small;
                std::fill(columns.begin(), columns.end(), 0.0);
                table.log_sweep(b);
                CHECK(small.count == -1);
            }
            // products with what was kept
            const SparseRows rows{index.data(), value.data(), row_end.data(), n, m};
            std::vector<double> x(static_cast<std::size_t>(m)), z(static_cast<std::size_t>(n)), y(x), back(x);
            support::Random random{9};
            for (double& v : x) v = random.normal();
            for (double& v : z) v = random.normal();
            table.sparse_columns(rows, z.data(), back.data());
            table.sparse_normal(rows, x.data(), z.data(), y.data());
            std::vector<Real> expected_y(y.size(), 0), expected_back(y.size(), 0);
            std::int64_t first = 0;
            for (std::int64_t i = 0; i < n; ++i) {
                Real sum = 0;
                for (std::int64_t k = first; k < row_end[i]; ++k) sum += static_cast<Real>(value[k]) * x[index[k]];
                for (std::int64_t k = first; k < row_end[i]; ++k) {
                    expected_y[index[k]] += z[i] * sum * value[k];
                    expected_back[index[k]] += static_cast<Real>(z[i]) * value[k];
                }
                first = row_end[i];
            }
            for (std::int64_t j = 0; j < m; ++j) {
                CHECK(std::fabs(y[j] - static_cast<double>(expected_y[j])) < 1e-12);
                CHECK(std::fabs(back[j] - static_cast<double>(expected_back[j])) < 1e-12);
            }
        }
    });
}

TEST_CASE_TEMPLATE("ot passes: a sweep over a kernel", T, double, float) {
    on_every_isa([](const OtTable& table) {
        for (const auto& [n, m] : shapes) {
            for (const int form : {0, 1, 2}) {  // linear, balanced, relaxed
                support::Random random{5};
                std::vector<T> kernel(static_cast<std::size_t>(n * m));
                for (T& k : kernel) k = static_cast<T>(uniform(random));
                std::vector<double> x(static_cast<std::size_t>(ot_padded(m)), 0.0), a(static_cast<std::size_t>(n)), offset(a), t(a), scale(a),
                    columns(x.size(), 0.125);
                for (std::int64_t j = 0; j < m; ++j) x[j] = uniform(random);
                for (double& v : a) v = uniform(random);
                for (double& v : offset) v = random.normal();
                KernelBlock b{};
                b.kernel = {dtype_of<T>(), kernel.data(), m, n, m};
                b.x = x.data();
                b.coefficient = a.data();
                b.linear = form == 0;
                b.exponent = form == 2 ? 0.7 : 1.0;
                b.offset = form == 2 ? offset.data() : nullptr;
                b.t = t.data();
                b.log_scale = scale.data();
                b.columns = columns.data();
                table.kernel_sweep(b);
                std::vector<Real> expected(columns.size(), 0.125L);
                for (std::int64_t i = 0; i < n; ++i) {
                    Real sum = 0;
                    for (std::int64_t j = 0; j < m; ++j) sum += static_cast<Real>(kernel[i * m + j]) * x[j];
                    check_near(t[i], sum, 1e-13);
                    const Real log_scale = (form == 2 ? offset[i] : 0.0) - b.exponent * std::log(sum);
                    const Real z = form == 0 ? a[i] * sum : a[i] * std::exp(log_scale);
                    if (form != 0) CHECK(std::fabs(scale[i] - static_cast<double>(log_scale)) < 1e-12);
                    for (std::int64_t j = 0; j < m; ++j) expected[j] += z * kernel[i * m + j];
                }
                for (std::int64_t j = 0; j < m; ++j) check_near(columns[j], expected[j], 1e-12);
            }
        }
    });
}

TEST_CASE("ot passes: columns in logarithms") {
    on_every_isa([](const OtTable& table) {
        Case c(13, 27);
        c.mass[3] = 0;
        std::vector<double> phi = c.u;
        phi[3] = minus_infinity;
        const std::vector<std::int64_t> groups = {0, 16, 24};
        std::vector<double> highest(static_cast<std::size_t>(c.padded), minus_infinity), sums(highest.size(), 0.0);
        const CostBlock cost{DType::float64, c.cost.data(), c.m, c.n, c.m};
        table.column_max(cost, 2000, phi.data(), groups.data(), 3, highest.data());
        table.column_sum(cost, 2000, phi.data(), highest.data(), groups.data(), 3, sums.data());
        for (std::int64_t j = 0; j < c.m; ++j) {
            if (j >= 8 && j < 16) {
                CHECK(sums[j] == 0);
                continue;
            }
            Real top = -1e30L, sum = 0;
            for (std::int64_t i = 0; i < c.n; ++i) top = std::max(top, phi[i] - static_cast<Real>(c.cost[i * c.m + j]) * 2000);
            for (std::int64_t i = 0; i < c.n; ++i) sum += std::exp(phi[i] - static_cast<Real>(c.cost[i * c.m + j]) * 2000 - top);
            check_near(highest[j], top, 1e-14);
            check_near(sums[j], sum, 1e-11);
        }
    });
}

TEST_CASE("ot passes: costs of points") {
    on_every_isa([](const OtTable& table) {
        for (const Metric metric : {Metric::sqeuclidean, Metric::euclidean, Metric::cityblock}) {
            for (const std::int64_t dim : {1, 2, 5}) {
                const std::int64_t n = 5, m = 19, padded = ot_padded(m);
                const auto x = support::normals<double>(n * dim, 1), y = support::normals<double>(m * dim, 2);
                std::vector<double> turned(static_cast<std::size_t>(dim * padded), 0.0), cost(static_cast<std::size_t>(n * padded));
                for (std::int64_t j = 0; j < m; ++j) {
                    for (std::int64_t k = 0; k < dim; ++k) turned[k * padded + j] = y[j * dim + k];
                }
                table.point_costs({metric, 0.5, x.data(), turned.data(), padded, dim, n, m, cost.data(), padded});
                for (std::int64_t i = 0; i < n; ++i) {
                    for (std::int64_t j = 0; j < m; ++j) {
                        Real sum = 0;
                        for (std::int64_t k = 0; k < dim; ++k) {
                            const Real d = static_cast<Real>(x[i * dim + k]) - y[j * dim + k];
                            sum += metric == Metric::cityblock ? std::fabs(d) : d * d;
                        }
                        check_near(cost[i * padded + j], 0.5L * (metric == Metric::euclidean ? std::sqrt(sum) : sum), 1e-14);
                    }
                }
            }
        }
    });
}

TEST_CASE_TEMPLATE("ot passes: what a cost holds", T, double, float) {
    on_every_isa([](const OtTable& table) {
        for (const std::int64_t m : {1, 7, 8, 40}) {
            std::vector<T> cost(static_cast<std::size_t>(3 * m));
            for (std::size_t k = 0; k < cost.size(); ++k) cost[k] = static_cast<T>(k % 11) - 3;
            const CostBlock block{dtype_of<T>(), cost.data(), m, 3, m};
            CostScan found = table.scan(block);
            CHECK(found.lowest == static_cast<double>(*std::min_element(cost.begin(), cost.end())));
            CHECK(found.highest == static_cast<double>(*std::max_element(cost.begin(), cost.end())));
            CHECK(!found.forbids);
            CHECK(!found.bad);
            for (std::size_t k = 0; k < cost.size(); ++k) {
                const T kept = cost[k];
                cost[k] = static_cast<T>(infinity);
                found = table.scan(block);
                CHECK(found.forbids);
                CHECK(!found.bad);
                CHECK(std::isfinite(found.highest) == (cost.size() > 1));
                cost[k] = static_cast<T>(std::nan(""));
                CHECK(table.scan(block).bad);
                cost[k] = static_cast<T>(-infinity);
                CHECK(table.scan(block).bad);
                cost[k] = kept;
            }
        }
    });
}

TEST_CASE("ot passes: a Cholesky factor and its solves") {
    on_every_isa([](const OtTable& table) {
        const std::int64_t n = 37;
        const auto g = support::normals<double>(n * n, 4);
        std::vector<double> s(static_cast<std::size_t>(n * n), 0.0), x(static_cast<std::size_t>(n));
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
                for (std::int64_t k = 0; k < n; ++k) s[i * n + j] += g[i * n + k] * g[j * n + k];
            }
            s[i * n + i] += 1;
        }
        std::vector<double> factor = s;
        const auto truth = support::normals<double>(n, 8);
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t j = 0; j < n; ++j) x[i] += s[i * n + j] * truth[j];
        }
        REQUIRE(table.cholesky(factor.data(), n));
        table.cholesky_solve(factor.data(), n, x.data());
        for (std::int64_t i = 0; i < n; ++i) CHECK(x[i] == doctest::Approx(truth[i]).epsilon(1e-10));
        s[0] = -1;
        CHECK(!table.cholesky(s.data(), n));
    });
}
