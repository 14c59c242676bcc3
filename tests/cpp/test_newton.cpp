// The public solve_kkt and minimize, and the sparse factorisation behind them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "dense/dense.h"
#include "newton/sparse_ldlt.h"
#include <doctest/doctest.h>
#include "raphson/kkt.h"
#include "raphson/minimize.h"
#include "raphson/runtime.h"
#include "support.h"

using namespace raphson;
using std::int32_t;
using std::int64_t;
using Vector = std::vector<double>;

namespace {

// A symmetric matrix with a random sparse pattern, zeros on its diagonal where `hollow`.
struct Sparse {
    int64_t n;
    std::vector<int64_t> starts{0};
    std::vector<int32_t> index;
    Vector values, dense;

    Sparse(int64_t n_, double density, bool hollow, std::uint64_t seed) : n(n_), dense(static_cast<std::size_t>(n_ * n_), 0.0) {
        support::Random random{seed};
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = i; j < n; ++j) {
                const bool kept = j == i || j == i + 1 || random.uniform() > 1 - 2 * density;
                if (!kept) continue;
                const double value = j == i ? (hollow ? 0.0 : 2 * random.uniform()) : random.uniform() + (j == i + 1 ? 1.5 : 0.0);
                index.push_back(static_cast<int32_t>(j));
                values.push_back(value);
                dense[static_cast<std::size_t>(i * n + j)] = dense[static_cast<std::size_t>(j * n + i)] = value;
            }
            starts.push_back(static_cast<int64_t>(index.size()));
        }
    }
};

RowBlock rows(const Vector& values, int64_t count, int64_t cols) {
    RowBlock block;
    block.values = values.data();
    block.rows = count;
    block.cols = block.stride = cols;
    return block;
}

// Rosenbrock's function, on the circle of radius √2 if asked for: the minimiser (1, 1) is the same.
struct Rosenbrock final : Problem {
    bool circle;
    int64_t limit = -1;  // evaluations until it throws
    Vector h = Vector(4), j = Vector(2);

    explicit Rosenbrock(bool circle_) : circle(circle_) {}
    int64_t variables() const override { return 2; }
    int64_t constraints() const override { return circle ? 1 : 0; }
    double value(const double* x) override {
        if (limit >= 0 && --limit < 0) throw std::runtime_error("enough");
        return 100 * std::pow(x[1] - x[0] * x[0], 2) + std::pow(1 - x[0], 2);
    }
    void gradient(const double* x, double* g) override {
        g[0] = -400 * x[0] * (x[1] - x[0] * x[0]) - 2 * (1 - x[0]);
        g[1] = 200 * (x[1] - x[0] * x[0]);
    }
    void constraint_values(const double* x, double* c) override {
        if (circle) c[0] = x[0] * x[0] + x[1] * x[1] - 2;
    }
    RowBlock jacobian(const double* x) override {
        if (!circle) return {};
        j = {2 * x[0], 2 * x[1]};
        return rows(j, 1, 2);
    }
    RowBlock hessian(const double* x, double factor, const double* multipliers) override {
        h = {factor * (1200 * x[0] * x[0] - 400 * x[1] + 2), -400 * factor * x[0], -400 * factor * x[0], 200 * factor};
        if (circle) {
            h[0] += 2 * multipliers[0];
            h[3] += 2 * multipliers[0];
        }
        return rows(h, 2, 2);
    }
};

}  // namespace

TEST_CASE("newton: sparse LDLᵀ agrees with the dense one") {
    for (const int64_t n : {1, 2, 7, 40, 150, 400}) {
        bool paired = false;
        for (const bool hollow : {false, true, true}) {  // the last time rows are eliminated in pairs
            if (hollow && n % 2 == 1) continue;  // singular: a path of odd length has no perfect matching
            CAPTURE(n);
            CAPTURE(hollow);
            const Sparse a(n, 3.0 / static_cast<double>(n), hollow, static_cast<std::uint64_t>(n));
            SparseLdlt sparse;
            std::vector<int32_t> partner(static_cast<std::size_t>(n), -1);
            for (int64_t i = 0; paired && i + 1 < n; i += 2) {
                partner[static_cast<std::size_t>(i)] = static_cast<int32_t>(i + 1);
                partner[static_cast<std::size_t>(i + 1)] = static_cast<int32_t>(i);
            }
            paired = hollow;
            sparse.analyze(n, a.starts.data(), a.index.data(), partner.data());
            sparse.factor(a.values.data(), 1e-14);
            Vector copy = a.dense;
            Ldlt dense;
            dense.factor(copy.data(), n, n, 1e-14);
            CHECK(sparse.signs().positive == dense.signs().positive);
            CHECK(sparse.signs().negative == dense.signs().negative);
            const Vector x = support::normals<double>(n, 9);
            Vector y(x.size(), 0.0);
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t k = 0; k < n; ++k) y[static_cast<std::size_t>(i)] += a.dense[static_cast<std::size_t>(i * n + k)] * x[static_cast<std::size_t>(k)];
            }
            Vector exact = y;
            dense.solve(exact.data());
            sparse.solve(y.data());
            double most = 0, size = 0;
            for (std::size_t i = 0; i < x.size(); ++i) {
                most = std::fmax(most, std::fabs(y[i] - exact[i]));
                size = std::fmax(size, std::fabs(exact[i]));
            }
            CHECK(most <= 1e-8 * size);
            Vector p(x.size());
            const double curvature = sparse.negative_direction(p.data());
            double along = 0;
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t k = 0; k < n; ++k) along += p[static_cast<std::size_t>(i)] * a.dense[static_cast<std::size_t>(i * n + k)] * p[static_cast<std::size_t>(k)];
            }
            CHECK((curvature < 0) == (sparse.signs().negative > 0));
            CHECK(along == doctest::Approx(curvature).epsilon(1e-6));
        }
    }
}

TEST_CASE("newton: solve_kkt, dense, on every method and any number of threads") {
    const int64_t n = 300, m = 120;
    Vector b = support::normals<double>(n * n, 1), g = support::normals<double>(m * n, 2);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) b[static_cast<std::size_t>(i * n + j)] = b[static_cast<std::size_t>(j * n + i)];
        b[static_cast<std::size_t>(i * n + i)] += 40;
    }
    const Vector rhs = support::normals<double>(n + m, 3);
    KktOptions options;
    const KktSolution first = solve_kkt(rows(b, n, n), rows(g, m, n), rhs.data(), options);
    CHECK(first.status == Status::converged);
    CHECK(first.residual < 1e-12);
    CHECK(first.inertia.positive == n);
    CHECK(first.inertia.negative == m);
    const int before = get_num_threads();
    for (const int threads : {1, 2, 3, 8}) {
        set_num_threads(threads);
        CHECK(solve_kkt(rows(b, n, n), rows(g, m, n), rhs.data(), options).x == first.x);
    }
    set_num_threads(before);
    for (const KktMethod method : {KktMethod::minres, KktMethod::block}) {
        options.method = method;
        options.tol = 1e-5;
        options.block_size = 500;
        const KktSolution found = solve_kkt(rows(b, n, n), rows(g, m, n), rhs.data(), options);
        CHECK(found.status == Status::converged);
        CHECK(found.residual <= 1e-5);
        CHECK_FALSE(found.factored);
    }
    CHECK_THROWS_AS(solve_kkt(rows(b, n, n - 1), rows(g, m, n), rhs.data()), std::invalid_argument);
    CHECK_THROWS_AS(solve_kkt(rows(b, n, n), rows(g, m, n - 1), rhs.data()), std::invalid_argument);
    options.tol = 0;
    CHECK_THROWS_AS(solve_kkt(rows(b, n, n), rows(g, m, n), rhs.data(), options), std::invalid_argument);
}

TEST_CASE("newton: minimize a C++ problem") {
    const Vector start = {-1.2, 1.0};
    for (const MinimizeMethod method : {MinimizeMethod::automatic, MinimizeMethod::gns, MinimizeMethod::lazy, MinimizeMethod::damped}) {
        Rosenbrock problem(false);
        MinimizeOptions options;
        options.method = method;
        options.period = 2;
        MinimizeSolution found;
        minimize(problem, start.data(), options, found);
        CHECK(found.status == Status::converged);
        CHECK(found.x[0] == doctest::Approx(1).epsilon(1e-6));
        CHECK(found.evaluations < 200);
    }
    Rosenbrock problem(true);
    MinimizeSolution found;
    minimize(problem, start.data(), {}, found);
    CHECK(found.status == Status::converged);
    CHECK(found.method == MinimizeMethod::adasketch);
    CHECK(found.constraint_violation <= 1e-8);
    CHECK(found.multipliers.size() == 1);
    MinimizeOptions options;
    options.method = MinimizeMethod::gns;
    CHECK_THROWS_AS(minimize(problem, start.data(), options, found), std::invalid_argument);
}

TEST_CASE("newton: what a problem throws leaves the last point behind") {
    Rosenbrock problem(false);
    problem.limit = 9;
    const Vector start = {-1.2, 1.0};
    MinimizeSolution found;
    CHECK_THROWS_AS(minimize(problem, start.data(), {}, found), std::runtime_error);
    CHECK(found.iterations > 2);
    CHECK(found.value < 24.2);  // that of the start
}

TEST_CASE("newton: a callback stops") {
    Rosenbrock problem(true);
    const Vector start = {-1.2, 1.0};
    MinimizeOptions options;
    int seen = 0;
    options.callback = [&](const MinimizeRecord& record) { return (seen = record.iteration) == 2; };
    MinimizeSolution found;
    minimize(problem, start.data(), options, found);
    CHECK(found.status == Status::stopped);
    CHECK(seen == 2);
    CHECK(found.iterations == 2);
}
