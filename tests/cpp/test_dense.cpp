// The blocked dense factorisations against their definitions.
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "dense/dense.h"
#include <doctest/doctest.h>
#include "support.h"
#include "table.h"

using namespace raphson;
using std::int64_t;
using Matrix = std::vector<double>;

namespace {

Matrix product(const Matrix& a, const Matrix& b, int64_t m, int64_t k, int64_t n) {
    Matrix c(static_cast<std::size_t>(m * n), 0.0);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t q = 0; q < k; ++q) {
            for (int64_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + q] * b[q * n + j];
        }
    }
    return c;
}

double distance(const Matrix& a, const Matrix& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::fmax(most, std::fabs(a[i] - b[i]));
    return most;
}

Matrix identity(int64_t n) {
    Matrix out(static_cast<std::size_t>(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i) out[i * n + i] = 1;
    return out;
}

}  // namespace

TEST_CASE("dense: Householder's QR") {
    const std::vector<std::pair<int64_t, int64_t>> shapes = {{1, 1},   {5, 3},    {3, 5},    {40, 40}, {33, 32},
                                                             {150, 71}, {64, 100}, {260, 97}, {7, 0},   {0, 4}};
    for (const auto& [m, n] : shapes) {
        CAPTURE(m);
        CAPTURE(n);
        Matrix a = support::normals<double>(m * n, 3 * m + n);
        if (n > 2) {
            for (int64_t i = 0; i < m; ++i) a[i * n + 1] = 0;  // a column without a reflector
        }
        Matrix factored = a;
        const HouseholderQr qr(factored.data(), n, m, n);
        Matrix r(static_cast<std::size_t>(n * n)), q = identity(m);
        qr.upper(r.data(), n);
        qr.apply(false, q.data(), m, m);
        Matrix stacked(static_cast<std::size_t>(m * n), 0.0);
        for (int64_t i = 0; i < std::min(m, n); ++i) {
            for (int64_t j = 0; j < n; ++j) stacked[i * n + j] = r[i * n + j];
        }
        CHECK(distance(product(q, stacked, m, m, n), a) < 1e-13 * std::sqrt(1.0 + static_cast<double>(m)));
        Matrix qt = identity(m);
        qr.apply(true, qt.data(), m, m);
        CHECK(distance(product(qt, q, m, m, m), identity(m)) < 1e-14 * std::sqrt(1.0 + static_cast<double>(m)));
    }
}

TEST_CASE("dense: QR of entries whose squares leave the range") {
    for (const double scale : {1e-200, 1e200}) {
        Matrix a = support::normals<double>(40 * 9, 5), factored;
        for (double& x : a) x *= scale;
        factored = a;
        Matrix r(81);
        HouseholderQr(factored.data(), 9, 40, 9).upper(r.data(), 9);
        double column = 0;
        for (int64_t i = 0; i < 40; ++i) column += (a[i * 9] / scale) * (a[i * 9] / scale);
        CHECK(std::fabs(r[0]) / scale == doctest::Approx(std::sqrt(column)).epsilon(1e-13));
    }
}

TEST_CASE("dense: inverse") {
    for (const int64_t n : {1, 2, 7, 8, 9, 63, 64, 65, 130, 200}) {
        CAPTURE(n);
        const Matrix a = support::normals<double>(n * n, 17 + n);
        Matrix inverse = a;
        REQUIRE(invert(inverse.data(), n, n));
        double entries = 0;
        for (const double x : inverse) entries = std::fmax(entries, std::fabs(x));
        CHECK(distance(product(inverse, a, n, n, n), identity(n)) < 1e-14 * static_cast<double>(n) * (1 + entries));
        CHECK(distance(product(a, inverse, n, n, n), identity(n)) < 1e-14 * static_cast<double>(n) * (1 + entries));
    }
    Matrix permutation = {0, 0, 1, 1, 0, 0, 0, 1, 0}, singular = {1, 2, 2, 4}, nan = {NAN, 1, 1, 1};
    CHECK(invert(permutation.data(), 3, 3));
    CHECK(distance(permutation, {0, 1, 0, 0, 0, 1, 1, 0, 0}) == 0);
    CHECK_FALSE(invert(singular.data(), 2, 2));
    CHECK_FALSE(invert(nan.data(), 2, 2));
}

TEST_CASE("dense: triangles met by one vector") {
    const auto built = built_tables();
    for (int t = 0; t < built.count; ++t) {
        if (!built.first[t].runs_here) continue;
        const DenseTable& dense = built.first[t].table->dense;
        const int64_t n = 37;
        Matrix full = support::normals<double>(n * n, 9), x = support::normals<double>(n, 10);
        for (int64_t i = 0; i < n; ++i) full[i * n + i] = 20 + std::fabs(full[i * n + i]);
        for (const bool upper : {false, true}) {
            for (const bool transposed : {false, true}) {
                Matrix solved = x;
                dense.solve_triangle(full.data(), n, n, upper, transposed, solved.data());
                for (int64_t i = 0; i < n; ++i) {
                    double sum = 0;
                    for (int64_t j = 0; j < n; ++j) {
                        const int64_t row = transposed ? j : i, col = transposed ? i : j;
                        if (upper ? row <= col : row >= col) sum += full[row * n + col] * solved[j];
                    }
                    REQUIRE(sum == doctest::Approx(x[i]).epsilon(1e-12));
                }
            }
        }
        Matrix y(static_cast<std::size_t>(n));
        for (const bool transposed : {false, true}) {
            dense.upper_times(full.data(), n, n, transposed, x.data(), y.data());
            for (int64_t i = 0; i < n; ++i) {
                double sum = 0;
                for (int64_t j = 0; j < n; ++j) {
                    if (transposed ? j <= i : j >= i) sum += full[transposed ? j * n + i : i * n + j] * x[j];
                }
                REQUIRE(y[i] == doctest::Approx(sum).epsilon(1e-12));
            }
        }
    }
}
