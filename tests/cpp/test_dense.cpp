// The blocked dense factorisations against their definitions.
#include <algorithm>
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
    // Rank 5 plus 1e-9: every block of the elimination is nearly singular, the matrix (condition 1e11) less so.
    const int64_t n = 150;
    const Matrix left = support::normals<double>(n * 5, 1), right = support::normals<double>(n * 5, 2), noise = support::normals<double>(n * n, 3);
    Matrix a(noise.size());
    for (int64_t i = 0; i < n * n; ++i) {
        a[i] = 1e-9 * noise[i];
        for (int64_t q = 0; q < 5; ++q) a[i] += left[i / n * 5 + q] * right[i % n * 5 + q];
    }
    Matrix inverse = a;
    REQUIRE(invert(inverse.data(), n, n));
    double squares = 0, inverse_squares = 0;
    for (int64_t i = 0; i < n * n; ++i) {
        squares += a[i] * a[i];
        inverse_squares += inverse[i] * inverse[i];
    }
    const double cond = std::sqrt(squares) * std::sqrt(inverse_squares);
    CHECK(distance(product(a, inverse, n, n, n), identity(n)) < 1e-16 * cond);
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

TEST_CASE("dense: symmetric eigenvalues") {
    for (const int64_t n : {1, 2, 3, 5, 16, 17, 33, 64, 100, 161}) {
        for (const int kind : {0, 1, 2, 3}) {
            CAPTURE(n);
            CAPTURE(kind);
            Matrix a(static_cast<std::size_t>(n * n), 0.0);
            if (kind == 0) {  // full
                const Matrix g = support::normals<double>(n * n, 40 + n);
                for (int64_t i = 0; i < n * n; ++i) a[i] = g[i] + g[i % n * n + i / n];
            } else if (kind == 1) {  // rank three
                const Matrix g = support::normals<double>(n * 3, 41);
                for (int64_t i = 0; i < n * n; ++i) {
                    for (int q = 0; q < 3; ++q) a[i] += g[i / n * 3 + q] * g[i % n * 3 + q];
                }
            } else if (kind == 2) {  // repeated eigenvalues, already diagonal
                for (int64_t i = 0; i < n; ++i) a[i * n + i] = static_cast<double>(i % 3) - 1;
            }  // else zero
            double entries = 0;
            for (const double x : a) entries = std::fmax(entries, std::fabs(x));
            Matrix copy = a, v(a.size()), scaled, values(static_cast<std::size_t>(n));
            CHECK(eigh(copy.data(), n, values.data(), v.data(), 30) <= 30);
            Matrix vt(a.size());
            transpose(v.data(), n, n, n, vt.data(), n);
            scaled = v;
            for (int64_t i = 0; i < n * n; ++i) scaled[i] *= values[i / n];
            const double size = static_cast<double>(n);
            CHECK(distance(product(v, vt, n, n, n), identity(n)) < 1e-15 * (5 + size));
            CHECK(distance(product(vt, scaled, n, n, n), a) <= 1e-15 * (5 + size) * std::sqrt(size) * entries);
            for (int64_t i = 1; i < n; ++i) CHECK(values[i] >= values[i - 1]);
        }
    }
}

TEST_CASE("dense: eigenvalues that are known") {
    const int64_t n = 90;  // second differences: 2 − 2 cos(kπ/(n + 1))
    Matrix a(static_cast<std::size_t>(n * n), 0.0), v(a.size()), values(static_cast<std::size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        a[i * n + i] = 2;
        if (i + 1 < n) a[i * n + i + 1] = a[(i + 1) * n + i] = -1;
    }
    Matrix copy = a;
    CHECK(eigh(copy.data(), n, values.data(), v.data(), 1) > 1);  // one step each is not enough
    CHECK(eigh(a.data(), n, values.data(), v.data(), 30) <= 30);
    for (int64_t k = 0; k < n; ++k) {
        const double truth = 2 - 2 * std::cos(static_cast<double>(k + 1) * 3.14159265358979323846 / static_cast<double>(n + 1));
        CHECK(values[k] == doctest::Approx(truth).epsilon(1e-13));
    }
}

TEST_CASE("dense: LDLᵀ of symmetric indefinite matrices") {
    for (const int64_t n : {1, 2, 3, 5, 20, 47, 48, 49, 50, 97, 130, 300}) {
        for (const int kind : {0, 1, 2}) {  // Gaussian; zero diagonal (every pivot a block of two); a saddle point
            CAPTURE(n);
            CAPTURE(kind);
            Matrix a = support::normals<double>(n * n, 11 * n + kind);
            const int64_t m = n / 3;
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t j = 0; j < i; ++j) a[i * n + j] = a[j * n + i];
                if (kind == 1 && n > 1) a[i * n + i] = 0;
                if (kind == 2 && i >= n - m) std::fill_n(a.begin() + i * n + n - m, m, 0.0);
                if (kind == 2 && i < n - m) a[i * n + i] += 3.0 * static_cast<double>(n);  // m negative eigenvalues
            }
            Matrix factored(static_cast<std::size_t>(n * (n + 3)), 7.0);  // with a leading dimension
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t j = i; j < n; ++j) factored[i * (n + 3) + j] = a[i * n + j];
            }
            Ldlt ldlt;
            ldlt.factor(factored.data(), n + 3, n, 1e-14 * static_cast<double>(n));
            const PivotSigns signs = ldlt.signs();
            CHECK(signs.positive + signs.negative + signs.zero == n);
            Matrix values(static_cast<std::size_t>(n)), vectors(a.size()), destroyed = a;
            eigh(destroyed.data(), n, values.data(), vectors.data(), 60);
            CHECK(signs.negative == std::count_if(values.begin(), values.end(), [](double x) { return x < 0; }));
            if (kind == 2) CHECK(signs.negative == m);
            const Matrix x = support::normals<double>(n, 5);
            Matrix y = product(a, x, n, n, 1);
            ldlt.solve(y.data());
            double smallest = 1e300, largest = 0;
            for (const double v : values) {
                smallest = std::min(smallest, std::fabs(v));
                largest = std::max(largest, std::fabs(v));
            }
            CHECK(distance(x, y) < 1e-14 * static_cast<double>(n + 8) * largest / smallest);
            Matrix p(static_cast<std::size_t>(n));
            const double curvature = ldlt.negative_direction(p.data());
            CHECK((curvature < 0) == (signs.negative > 0));
            const Matrix ap = product(a, p, n, n, 1), along = product(p, ap, 1, n, 1);
            double length = 0;
            for (const double v : p) length += v * v;
            CHECK(std::fabs(along[0] - curvature) <= 1e-12 * static_cast<double>(n) * largest * length);
        }
    }
}

TEST_CASE("dense: LDLᵀ of a singular matrix counts what is missing") {
    const int64_t n = 90, rank = 31;
    const Matrix half = support::normals<double>(n * rank, 3);
    Matrix transposed(half.size());
    transpose(half.data(), rank, n, rank, transposed.data(), n);
    for (int64_t i = 0; i < n; ++i) {  // signs: 20 positive, 11 negative
        for (int64_t q = 0; q < rank; ++q) transposed[q * n + i] *= q < 20 ? 1.0 : -1.0;
    }
    const Matrix a = product(half, transposed, n, rank, n);
    Matrix factored = a;
    Ldlt ldlt;
    ldlt.factor(factored.data(), n, n, 1e-10);
    CHECK(ldlt.signs().positive == 20);
    CHECK(ldlt.signs().negative == 11);
    CHECK(ldlt.signs().zero == n - rank);
    const Matrix b = product(a, support::normals<double>(n, 8), n, n, 1);  // consistent
    Matrix x = b;
    ldlt.solve(x.data());
    CHECK(distance(product(a, x, n, n, 1), b) < 1e-9);
    ldlt.factor(factored.data(), n, 0, 0);
    CHECK(ldlt.signs().zero == 0);
}
