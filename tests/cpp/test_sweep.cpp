// Sweeps over tall matrices, their dense core, normal numbers and Hadamard transforms: every instruction set that runs
// here against plain loops; and the public functions on top of them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "raphson/newton.h"
#include "raphson/runtime.h"
#include "raphson/sketch.h"
#include "sketch/sweep.h"
#include "support.h"
#include "sketch/core.h"
#include "table.h"

using namespace raphson;
using std::int64_t;

namespace {

template <class Body>
void for_each_isa(Body&& body) {
    const BuiltTables built = built_tables();
    for (int k = 0; k < built.count; ++k) {
        if (!built.first[k].runs_here) continue;
        CAPTURE(built.first[k].table->isa);
        body(*built.first[k].table);
    }
}

// The dense rows as compressed ones.
struct Compressed {
    std::vector<int64_t> starts{0};
    std::vector<std::int32_t> index;
    std::vector<double> values;
    RowBlock block;

    Compressed(const std::vector<double>& a, int64_t rows, int64_t cols) {
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t j = (i * 7) % 3; j < cols; j += 3) {
                index.push_back(static_cast<std::int32_t>(j));
                values.push_back(a[static_cast<std::size_t>(i * cols + j)]);
            }
            starts.push_back(static_cast<int64_t>(index.size()));
        }
        block.values = values.data();
        block.rows = rows;
        block.cols = cols;
        block.starts = starts.data();
        block.index = index.data();
    }
    std::vector<double> dense() const {
        std::vector<double> d(static_cast<std::size_t>(block.rows * block.cols), 0.0);
        for (int64_t i = 0; i < block.rows; ++i) {
            for (int64_t p = starts[i]; p < starts[i + 1]; ++p) d[i * block.cols + index[p]] = values[p];
        }
        return d;
    }
};

void check_halves(const SweepTable& table, const RowBlock& block, const std::vector<double>& dense, int k) {
    const int64_t rows = block.rows, cols = block.cols, stride = cols + 3;
    const auto v = support::normals<double>(k * stride, 1), u = support::normals<double>(rows * k, 2);
    std::vector<double> t(static_cast<std::size_t>(rows * k), 99.0), out = support::normals<double>(k * stride, 3), expected = out;
    table.dots(block, v.data(), stride, k, t.data());
    table.combine(block, u.data(), k, out.data(), stride);
    for (int64_t i = 0; i < rows; ++i) {
        for (int c = 0; c < k; ++c) {
            double sum = 0;
            for (int64_t j = 0; j < cols; ++j) {
                sum += dense[i * cols + j] * v[c * stride + j];
                expected[c * stride + j] += dense[i * cols + j] * u[i * k + c];
            }
            REQUIRE(t[i * k + c] == doctest::Approx(sum).epsilon(1e-12));
        }
    }
    for (std::size_t j = 0; j < out.size(); ++j) REQUIRE(out[j] == doctest::Approx(expected[j]).epsilon(1e-12));
}

}  // namespace

TEST_CASE_TEMPLATE("sweep passes: dense halves", T, double, float) {
    for_each_isa([](const KernelTable& table) {
        for (const int64_t rows : {1, 3, 4, 9}) {
            for (const int64_t cols : {1, 7, 8, 65, 300}) {
                const auto a = support::normals<T>(rows * cols, 5);
                const RowBlock block = dense_rows(TensorView<const T>(a.data(), {rows, cols}));
                const std::vector<double> dense(a.begin(), a.end());
                for (const int k : {1, 2, 3, 4, 7, 10}) check_halves(table.sweep, block, dense, k);
            }
        }
    });
}

TEST_CASE("sweep passes: compressed halves") {
    for_each_isa([](const KernelTable& table) {
        const Compressed rows(support::normals<double>(11 * 40, 6), 11, 40);
        for (const int k : {1, 3}) check_halves(table.sweep, rows.block, rows.dense(), k);
        check_halves(table.sweep, rows.block.part(0, 4), rows.dense(), 2);
    });
}

TEST_CASE("sweep: a whole matrix, and weighted Gram matrices with a border") {
    const int64_t n = 20000, d = 37, p = d + 1;  // eleven tasks
    auto a = support::normals<double>(n * d, 9);
    const Compressed compressed(a, n, d);
    const auto w = support::normals<double>(n, 10);
    for (const bool sparse : {false, true}) {
        const RowBlock dense = dense_rows(TensorView<const double>(a.data(), {n, d}));
        const RowBlock& block = sparse ? compressed.block : dense;
        const std::vector<double> values = sparse ? compressed.dense() : a;
        const RowSource source = RowSource::of(block);
        const auto v = support::normals<double>(d, 11);
        std::vector<double> out(static_cast<std::size_t>(d)), expected(out.size(), 0.0);
        Sweep what;
        what.v = v.data();
        what.in = what.outs = what.sums = 1;
        what.out = out.data();
        what.stride = d;
        const auto sums = sweep(source, what, [&](int64_t first, int64_t rows, const double* t, double* u, double* total) {
            for (int64_t i = 0; i < rows; ++i) {
                u[i] = t[i] * w[first + i];
                total[0] += t[i];
            }
        });
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) {
            double t = 0;
            for (int64_t j = 0; j < d; ++j) t += values[i * d + j] * v[j];
            sum += t;
            for (int64_t j = 0; j < d; ++j) expected[j] += values[i * d + j] * t * w[i];
        }
        CHECK(sums[0] == doctest::Approx(sum).epsilon(1e-10));
        for (int64_t j = 0; j < d; ++j) CHECK(out[j] == doctest::Approx(expected[j]).epsilon(1e-10));

        std::vector<double> gram(static_cast<std::size_t>(p * p)), truth(gram.size(), 0.0), diagonal(static_cast<std::size_t>(p));
        weighted_gram(source, w.data(), 1, gram.data());
        weighted_squares(source, w.data(), 1, diagonal.data());
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t r = 0; r < p; ++r) {
                const double left = r < d ? values[i * d + r] : 1.0;
                for (int64_t c = 0; c < p; ++c) truth[r * p + c] += w[i] * left * (c < d ? values[i * d + c] : 1.0);
            }
        }
        for (std::size_t j = 0; j < gram.size(); ++j) REQUIRE(gram[j] == doctest::Approx(truth[j]).epsilon(1e-9).scale(100));
        for (int64_t j = 0; j < p; ++j) REQUIRE(diagonal[j] == doctest::Approx(truth[j * p + j]).epsilon(1e-9).scale(100));

        RowSource parts = source;  // the same by blocks
        parts.whole = nullptr;
        parts.visit = [&](const RowSource::Body& body) {
            for (const int64_t first : {0, 3000, 3001}) body(block.part(first, (first == 0 ? 3000 : first == 3000 ? 3001 : n) - first), first);
        };
        weighted_gram(parts, w.data(), 1, gram.data());
        weighted_squares(parts, w.data(), 1, diagonal.data());
        for (std::size_t j = 0; j < gram.size(); ++j) REQUIRE(gram[j] == doctest::Approx(truth[j]).epsilon(1e-9).scale(100));
        for (int64_t j = 0; j < p; ++j) REQUIRE(diagonal[j] == doctest::Approx(truth[j * p + j]).epsilon(1e-9).scale(100));
    }
}

TEST_CASE("sketch core: triangles") {
    const int64_t m = 50, n = 12;
    const auto a = support::normals<double>(m * n, 12);
    std::vector<double> copy = a, r(static_cast<std::size_t>(n * n)), out(r.size());
    upper_triangle(copy.data(), m, n, r.data());
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            double gram = 0, square = 0;
            for (int64_t k = 0; k < m; ++k) gram += a[k * n + i] * a[k * n + j];
            for (int64_t k = 0; k < n; ++k) square += r[k * n + i] * r[k * n + j];
            REQUIRE(square == doctest::Approx(gram).epsilon(1e-12).scale(10));
            if (j < i) REQUIRE(r[i * n + j] == 0);
        }
    }
    std::vector<double> kept;
    for (const double shift : {0.0, 1e-30, 2.5, 0.3}) {
        shifted_triangle(r.data(), n, n, shift, kept, out.data());
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < n; ++j) {
                double gram = i == j ? shift : 0, square = 0;
                for (int64_t k = 0; k < n; ++k) {
                    gram += r[k * n + i] * r[k * n + j];
                    square += out[k * n + i] * out[k * n + j];
                }
                REQUIRE(square == doctest::Approx(gram).epsilon(1e-12).scale(10));
            }
        }
    }
}

TEST_CASE("sketch core: a shift far below the largest entry") {
    const double r[4] = {1.0, 0.5, 0.0, 1e-8};
    double out[4];
    std::vector<double> kept;
    shifted_triangle(r, 2, 2, 1e-13, kept, out);
    CHECK(kept.empty());
    CHECK(std::fabs(out[0]) == doctest::Approx(1).epsilon(1e-12));
    const double truth = 1e-16 + 1e-13 * 1.25;  // its Schur complement
    CHECK(out[3] * out[3] / truth == doctest::Approx(1).epsilon(1e-3));
}

TEST_CASE("sketch: rows by where they go") {
    const int64_t n = 53, d = 11, rows = 7;
    const auto a = support::normals<double>(n * d, 15), w = support::normals<double>(n, 16);
    const SparseSign s(rows, n, 1, 5);
    std::vector<std::int32_t> row(static_cast<std::size_t>(n));
    std::vector<std::int8_t> sign(row.size());
    s.entries(0, n, row.data(), sign.data());
    std::vector<double> out(static_cast<std::size_t>(rows * d), 0.5), expected = out;
    s.add<double>(TensorView<const double>(a.data(), {n, d}), 0, w.data(), out.data());
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < d; ++j) expected[row[i] * d + j] += sign[i] * w[i] * a[i * d + j];
    }
    for (std::size_t j = 0; j < out.size(); ++j) REQUIRE(out[j] == doctest::Approx(expected[j]).epsilon(1e-12));
}

TEST_CASE("dense sketch passes: Hadamard transforms and normal numbers") {
    std::vector<double> first;
    for_each_isa([&](const KernelTable& table) {
        for (const int64_t rows : {1, 2, 16, 64}) {
            const auto x = support::normals<double>(rows * hadamard_columns, 13);
            std::vector<double> y = x;
            table.dense_sketch.hadamard(y.data(), rows);
            for (int64_t i = 0; i < rows; ++i) {
                for (int64_t j = 0; j < hadamard_columns; ++j) {
                    double sum = 0;
                    for (int64_t k = 0; k < rows; ++k) {
                        int bits = 0;
                        for (int64_t b = i & k; b != 0; b &= b - 1) ++bits;
                        sum += (bits % 2 != 0 ? -1 : 1) * x[k * hadamard_columns + j];
                    }
                    REQUIRE(y[i * hadamard_columns + j] == doctest::Approx(sum).epsilon(1e-12).scale(10));
                }
            }
        }
        std::vector<double> numbers(7 * 100, 99.0);
        table.dense_sketch.normals(5, 6, 1000, 90, 7, 2.0, numbers.data(), 100);
        double square = 0;
        for (int64_t r = 0; r < 7; ++r) {
            for (int64_t i = 0; i < 90; ++i) square += numbers[r * 100 + i] * numbers[r * 100 + i] / (4.0 * 630);
            CHECK(numbers[r * 100 + 90] == 99.0);
        }
        CHECK(square == doctest::Approx(1).epsilon(0.2));
        if (first.empty()) first = numbers;
        for (std::size_t j = 0; j < numbers.size(); ++j) REQUIRE(numbers[j] == doctest::Approx(first[j]).epsilon(1e-11));
    });
}

TEST_CASE_TEMPLATE("lstsq and fit_glm from C++", T, double, float) {
    const int64_t m = 3000, n = 10;
    const auto a = support::normals<T>(m * n, 14);
    std::vector<T> b(static_cast<std::size_t>(m));
    std::vector<double> y(b.size());
    for (int64_t i = 0; i < m; ++i) {
        b[i] = static_cast<T>(2) * a[i * n] - a[i * n + 3];
        y[i] = a[i * n + 1] + static_cast<T>(0.5) * a[i * n + 2] + static_cast<T>(i % 7 - 3) > 0 ? 1.0 : 0.0;
    }
    const LstsqResult fit = lstsq<T>({a.data(), {m, n}}, {b.data(), {m}});
    CHECK(fit.status == Status::converged);
    CHECK(fit.rank == n);
    CHECK(fit.x[0] == doctest::Approx(2).epsilon(1e-6));
    CHECK(fit.x[3] == doctest::Approx(-1).epsilon(1e-6));
    CHECK(fit.backward_error[0] <= (sizeof(T) == 8 ? 1e-15 : 1e-6));
    CHECK_THROWS_AS(lstsq<T>({a.data(), {m, n}}, {b.data(), {m - 1}}), std::invalid_argument);

    const RowBlock block = dense_rows(TensorView<const T>(a.data(), {m, n}));
    GlmData data;
    data.y = y.data();
    GlmOptions options;
    options.ridge = 1e-3;
    const GlmSolution logistic = fit_glm(RowSource::of(block), data, options);
    CHECK(logistic.status == Status::converged);
    CHECK(logistic.gradient_norm <= 1e-8);
    CHECK(logistic.coef.size() == static_cast<std::size_t>(n + 1));
    CHECK(logistic.coef[1] > 0.1);
    data.y = nullptr;
    std::vector<double> bad(y.size(), 2.0);
    data.y = bad.data();
    CHECK_THROWS_AS(fit_glm(RowSource::of(block), data, options), std::invalid_argument);
}
