// Gradient windows and Fisher inverses against plain loops in long double, and the passes of every instruction set that
// runs here.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dense/dense.h"
#include "ihvp/fisher.h"
#include "ihvp/passes.h"
#include "raphson/ihvp.h"
#include "raphson/runtime.h"
#include "table.h"

using namespace raphson;

namespace {

using Real = long double;
using Matrix = std::vector<std::vector<Real>>;

std::vector<double> numbers(std::size_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    std::vector<double> values(count);
    for (double& v : values) v = normal(generator);
    return values;
}

// Gaussian elimination with pivots: right and slow.
std::vector<Real> solved(Matrix a, std::vector<Real> b) {
    const std::size_t n = b.size();
    for (std::size_t k = 0; k < n; ++k) {
        std::size_t best = k;
        for (std::size_t i = k; i < n; ++i) best = std::fabs(a[i][k]) > std::fabs(a[best][k]) ? i : best;
        std::swap(a[k], a[best]);
        std::swap(b[k], b[best]);
        for (std::size_t i = k + 1; i < n; ++i) {
            const Real factor = a[i][k] / a[k][k];
            for (std::size_t j = k; j < n; ++j) a[i][j] -= factor * a[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (std::size_t k = n; k-- > 0;) {
        for (std::size_t j = k + 1; j < n; ++j) b[k] -= a[k][j] * b[j];
        b[k] /= a[k][k];
    }
    return b;
}

// F = λI + GᵀG/m, dense.
Matrix fisher(const std::vector<std::vector<double>>& rows, Real m, Real lambda, std::size_t dim, std::size_t block) {
    Matrix f(dim, std::vector<Real>(dim, 0));
    for (std::size_t i = 0; i < dim; ++i) {
        for (std::size_t j = 0; j < dim; ++j) {
            if (i / block != j / block) continue;
            for (const auto& row : rows) f[i][j] += static_cast<Real>(row[i]) * row[j] / m;
        }
        f[i][i] += lambda;
    }
    return f;
}

template <class T>
double distance(const std::vector<T>& got, const std::vector<Real>& expected) {
    Real error = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
        error += (got[i] - expected[i]) * (got[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return static_cast<double>(std::sqrt(error / size));
}

std::uint16_t half_bits(double x) {  // exact for what the tests store
    const IhvpTable& pass = kernels().ihvp;
    std::uint16_t bits = 0;
    pass.narrow(Stored::float16, &x, 1, &bits);
    return bits;
}

}  // namespace

TEST_CASE("ihvp: a full window agrees with dense algebra") {
    for (const auto& [block, capacity] : {std::pair<std::int64_t, std::int64_t>{0, 4}, {5, 4}, {0, 19}}) {  // 19: whole registers
        const std::int64_t dim = 23;
        const int steps = static_cast<int>(2 * capacity + 3);
        WindowOptions options;
        options.type = WindowType::float64;
        options.block_size = block;
        GradientWindow window(dim, capacity, {0.05}, options);
        const auto all = numbers(static_cast<std::size_t>(dim * steps), 1);
        std::vector<double> out(static_cast<std::size_t>(dim)), x = numbers(static_cast<std::size_t>(dim), 2), y = out;
        for (int step = 0; step < steps; ++step) {
            const double* g = all.data() + step * dim;
            window.precondition<double>({g, {dim}}, {out.data(), {dim}});
            std::vector<std::vector<double>> rows;
            for (int r = std::max(0, step + 1 - static_cast<int>(capacity)); r <= step; ++r) rows.emplace_back(all.data() + r * dim, all.data() + (r + 1) * dim);
            const Matrix f = fisher(rows, static_cast<Real>(capacity), 0.05L, static_cast<std::size_t>(dim), static_cast<std::size_t>(block == 0 ? dim : block));
            CHECK(distance(out, solved(f, {g, g + dim})) < 1e-13);
            window.solve<double>({x.data(), {dim}}, {y.data(), {dim}});
            const auto expected = solved(f, {x.begin(), x.end()});
            CHECK(distance(y, expected) < 1e-12);
            Real quadratic = 0;
            for (std::size_t i = 0; i < x.size(); ++i) quadratic += x[i] * expected[i];
            CHECK(window.quadratic<double>({x.data(), {dim}}) == doctest::Approx(static_cast<double>(quadratic)).epsilon(1e-12));
        }
        CHECK(window.length() == capacity);
    }
}

TEST_CASE("ihvp: strides, refusals and what they leave behind") {
    GradientWindow window(6, 2, {0.1});
    std::vector<float> g(12), out(6), before(6);
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = static_cast<float>(i) - 4;
    CHECK_THROWS_AS(window.logdet(), std::invalid_argument);
    window.precondition<float>({g.data(), {6}, {2}}, {before.data(), {6}});
    std::vector<float> straight;
    for (int i = 0; i < 6; ++i) straight.push_back(g[static_cast<std::size_t>(2 * i)]);
    GradientWindow other(6, 2, {0.1});
    other.precondition<float>({straight.data(), {6}}, {out.data(), {6}});
    CHECK(out == before);
    const double logdet = window.logdet();
    straight[3] = std::numeric_limits<float>::infinity();
    CHECK_THROWS_AS(window.push<float>({straight.data(), {6}}), std::invalid_argument);
    CHECK_THROWS_AS(window.push<float>({straight.data(), {5}}), std::invalid_argument);
    std::vector<double> wide(6, 1.0);
    CHECK_THROWS_AS(window.push<double>({wide.data(), {6}}), std::invalid_argument);  // not the window's type
    CHECK_THROWS_AS(window.set_damping({0.0}), std::invalid_argument);
    CHECK(window.length() == 1);
    CHECK(window.logdet() == logdet);
    CHECK_THROWS_AS(GradientWindow(0, 2, {0.1}), std::invalid_argument);
    CHECK_THROWS_AS(GradientWindow(6, 0, {0.1}), std::invalid_argument);
}

TEST_CASE("ihvp: the number of threads changes no bit") {
    const std::int64_t dim = 20011, capacity = 9;
    const auto values = numbers(static_cast<std::size_t>(dim) * 12, 3);
    const std::vector<float> all(values.begin(), values.end());
    const int threads = get_num_threads();
    for (const WindowType type : {WindowType::float32, WindowType::bfloat16, WindowType::float16, WindowType::int8}) {
        std::vector<float> first, out(static_cast<std::size_t>(dim));
        for (const int count : {1, 2, 3}) {
            set_num_threads(count);
            WindowOptions options;
            options.type = type;
            GradientWindow window(dim, capacity, {1e-3}, options);
            for (int step = 0; step < 12; ++step) {
                window.precondition<float>({all.data() + step * dim, {dim}}, {out.data(), {dim}});
            }
            if (count == 1) first = out;
            CHECK(std::memcmp(first.data(), out.data(), out.size() * sizeof(float)) == 0);
        }
    }
    set_num_threads(threads);
}

TEST_CASE("ihvp: passes of every instruction set, any width and number of rows") {
    const BuiltTables built = built_tables();
    for (int t = 0; t < built.count; ++t) {
        if (!built.first[t].runs_here) continue;
        const IhvpTable& pass = built.first[t].table->ihvp;
        CAPTURE(built.first[t].table->isa);
        for (const std::int64_t width : {1, 7, 8, 31, 256, 257, 600}) {
            for (const std::int64_t count : {1, 2, 4, 5, 8, 11}) {
                const std::int64_t stride = width + 3, blocks = (width + int8_block - 1) / int8_block;
                const auto values = numbers(static_cast<std::size_t>(stride * count), 4), x = numbers(static_cast<std::size_t>(width), 5);
                const auto c = numbers(static_cast<std::size_t>(count), 6);
                for (const Stored type : {Stored::float64, Stored::float32, Stored::bfloat16, Stored::float16, Stored::int8}) {
                    std::vector<char> memory(static_cast<std::size_t>(stride * count * stored_size(type)));
                    std::vector<float> scales(static_cast<std::size_t>(blocks * count));
                    Matrix stored;
                    for (std::int64_t r = 0; r < count; ++r) {
                        std::vector<double> row(values.begin() + r * stride, values.begin() + r * stride + width);
                        pass.store_row(type, row.data(), width, 1.0, memory.data() + r * stride * stored_size(type),
                                       scales.data() + r * blocks);
                        for (std::int64_t k = 0; k < width; ++k) {
                            const double unit = type == Stored::int8       ? 0.02
                                                : type == Stored::bfloat16 ? 0x1p-8
                                                : type == Stored::float16  ? 0x1p-11
                                                                           : 0x1p-24;
                            const double given = values[static_cast<std::size_t>(r * stride + k)];
                            CHECK(std::fabs(row[static_cast<std::size_t>(k)] - given) <=
                                  unit * (type == Stored::int8 ? 1 : std::fabs(given)) + 1e-7);
                        }
                        stored.emplace_back(row.begin(), row.end());
                    }
                    const Rows rows{type, memory.data(), stride, scales.data(), blocks, count};
                    std::vector<double> sums(static_cast<std::size_t>(count), 0.0), out(static_cast<std::size_t>(width));
                    pass.products(rows, width, x.data(), sums.data());
                    pass.combine(rows, width, c.data(), out.data());
                    for (std::int64_t r = 0; r < count; ++r) {
                        Real expected = 0, size = 0;
                        for (std::int64_t k = 0; k < width; ++k) {
                            const Real term = stored[static_cast<std::size_t>(r)][static_cast<std::size_t>(k)] * x[static_cast<std::size_t>(k)];
                            expected += term;
                            size += std::fabs(term);
                        }
                        CHECK(std::fabs(static_cast<double>(sums[static_cast<std::size_t>(r)] - expected)) <= 1e-13 * static_cast<double>(size));
                    }
                    for (std::int64_t k = 0; k < width; ++k) {
                        Real expected = 0, size = 0;
                        for (std::int64_t r = 0; r < count; ++r) {
                            const Real term = stored[static_cast<std::size_t>(r)][static_cast<std::size_t>(k)] * c[static_cast<std::size_t>(r)];
                            expected += term;
                            size += std::fabs(term);
                        }
                        CHECK(std::fabs(static_cast<double>(out[static_cast<std::size_t>(k)] - expected)) <= 1e-13 * static_cast<double>(size));
                    }
                    if (type != Stored::int8) continue;
                    std::fill(sums.begin(), sums.end(), 0.0);
                    pass.products_int8(rows, width, reinterpret_cast<const std::int8_t*>(memory.data()), scales.data(), sums.data());
                    for (std::int64_t r = 0; r < count; ++r) {
                        Real expected = 0, size = 0;
                        for (std::int64_t k = 0; k < width; ++k) {
                            const Real term = stored[static_cast<std::size_t>(r)][static_cast<std::size_t>(k)] * stored[0][static_cast<std::size_t>(k)];
                            expected += term;
                            size += std::fabs(term);
                        }
                        CHECK(std::fabs(static_cast<double>(sums[static_cast<std::size_t>(r)] - expected)) <= 1e-13 * static_cast<double>(size));
                    }
                }
            }
        }
    }
}

TEST_CASE("ihvp: every float16 widens and narrows to itself, ties go to even") {
    const BuiltTables built = built_tables();
    for (int t = 0; t < built.count; ++t) {
        if (!built.first[t].runs_here) continue;
        const IhvpTable& pass = built.first[t].table->ihvp;
        std::vector<std::uint16_t> all, back;
        for (unsigned bits = 0; bits < 65536; ++bits) {
            if ((bits & 0x7c00u) != 0x7c00u) all.push_back(static_cast<std::uint16_t>(bits));
        }
        all.push_back(0x3c00);  // an odd number, so that the ends of rows are met
        std::vector<double> wide(all.size());
        back.resize(all.size());
        pass.widen(Stored::float16, all.data(), static_cast<std::int64_t>(all.size()), wide.data());
        pass.narrow(Stored::float16, wide.data(), static_cast<std::int64_t>(all.size()), back.data());
        CHECK(all == back);
    }
    CHECK(half_bits(1 + 0x1p-11) == 0x3c00);
    CHECK(half_bits(1 + 0x1p-10 + 0x1p-11) == 0x3c02);
    CHECK(half_bits(65504) == 0x7bff);
    CHECK(half_bits(65520) == 0x7c00);
    CHECK(half_bits(0x1p-25) == 0);
    CHECK(half_bits(0x1.8p-24) == 2);
}

TEST_CASE("ihvp: blocked Cholesky and triangular solves") {
    for (const std::int64_t n : {1, 5, 64, 65, 200, 331}) {
        const auto x = numbers(static_cast<std::size_t>(n * n), 8);
        std::vector<double> a(static_cast<std::size_t>(n * n));
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t j = 0; j <= i; ++j) {
                double sum = i == j ? 1.0 : 0.0;
                for (std::int64_t k = 0; k < n; ++k) sum += x[static_cast<std::size_t>(i * n + k)] * x[static_cast<std::size_t>(j * n + k)];
                a[static_cast<std::size_t>(i * n + j)] = a[static_cast<std::size_t>(j * n + i)] = sum;
            }
        }
        std::vector<double> l = a;
        CHECK(cholesky(l.data(), n, n, 0.5) == 0);
        const std::int64_t cols = 3;
        const auto right = numbers(static_cast<std::size_t>(n * cols), 9);
        std::vector<double> y = right;
        solve_lower(l.data(), n, n, y.data(), cols, cols);
        solve_lower_transposed(l.data(), n, n, y.data(), cols, cols);
        double error = 0, size = 0;
        for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t c = 0; c < cols; ++c) {
                double sum = -right[static_cast<std::size_t>(i * cols + c)];
                for (std::int64_t k = 0; k < n; ++k) {
                    const double term = a[static_cast<std::size_t>(i * n + k)] * y[static_cast<std::size_t>(k * cols + c)];
                    sum += term;
                    size += std::fabs(term);
                }
                error += std::fabs(sum);
            }
        }
        CHECK(error <= 1e-13 * size);
    }
    std::vector<double> singular(9, 1.0);  // rank one: the other pivots are rounding, and raised
    CHECK(cholesky(singular.data(), 3, 3, 1e-3) == 2);
    CHECK(singular[4] == doctest::Approx(std::sqrt(1e-3)));
}

TEST_CASE("ihvp: a static inverse agrees with dense algebra, in place and of few and many columns") {
    for (const std::int64_t block : {0, 7}) {
        const std::int64_t m = 6, dim = 25;
        const auto g = numbers(static_cast<std::size_t>(m * dim), 10);
        const Fisher inverse({g.data(), DType::float64, m, dim, dim}, 0.03, block);
        std::vector<std::vector<double>> rows;
        for (std::int64_t r = 0; r < m; ++r) rows.emplace_back(g.data() + r * dim, g.data() + (r + 1) * dim);
        const Matrix f = fisher(rows, static_cast<Real>(m), 0.03L, static_cast<std::size_t>(dim), static_cast<std::size_t>(block == 0 ? dim : block));
        const std::int64_t count = 9;
        const auto x = numbers(static_cast<std::size_t>(count * dim), 11);
        std::vector<double> out(static_cast<std::size_t>(count * dim)), diagonal(static_cast<std::size_t>(dim));
        for (const std::int64_t used : {std::int64_t{1}, count}) {
            inverse.solve({x.data(), DType::float64, used, dim, dim}, DType::float64, out.data());
            for (std::int64_t r = 0; r < used; ++r) {
                const std::vector<double> got(out.begin() + r * dim, out.begin() + (r + 1) * dim);
                CHECK(distance(got, solved(f, {x.begin() + r * dim, x.begin() + (r + 1) * dim})) < 1e-12);
            }
        }
        inverse.diagonal(diagonal.data());
        for (std::size_t k = 0; k < static_cast<std::size_t>(dim); ++k) {
            std::vector<Real> unit(static_cast<std::size_t>(dim), 0);
            unit[k] = 1;
            CHECK(diagonal[k] == doctest::Approx(static_cast<double>(solved(f, unit)[k])).epsilon(1e-11));
        }
    }
}
