#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "common/vector.h"
#include "dense/dense.h"
#include "sketch/core.h"
#include "sketch/triangle.h"
#include "support.h"

using namespace raphson;
using std::int64_t;

namespace {

// ‖(SᵀS + shift I)^(−1/2) D⁻¹ z‖ / (‖D x‖ √n), S = R D⁻¹ with columns at norm 1, by a dense factor for every call.
double truth(const std::vector<double>& r, int64_t n, const std::vector<double>& z, const double* x, double r_norm) {
    std::vector<double> length(static_cast<std::size_t>(n), 0.0), gram(r.size(), 0.0), y(length.size());
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t i = 0; i < n; ++i) length[j] += r[i * n + j] * r[i * n + j];
        length[j] = std::sqrt(length[j]);
    }
    double x_norm = 0;
    for (int64_t j = 0; j < n; ++j) x_norm += length[j] * x[j] * length[j] * x[j];
    x_norm = std::sqrt(x_norm);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            for (int64_t k = 0; k < n; ++k) gram[i * n + j] += r[k * n + i] * r[k * n + j] / (length[i] * length[j]);
        }
        gram[i * n + i] += r_norm / x_norm * (r_norm / x_norm);
        y[i] = z[i] / length[i];
    }
    REQUIRE(cholesky(gram.data(), n, n, 1e-300) == 0);
    solve_lower(gram.data(), n, n, y.data(), 1, 1);
    return norm(y.data(), n) / (x_norm * std::sqrt(static_cast<double>(n)));
}

}  // namespace

TEST_CASE("sketch core: backward errors for residuals of every size") {
    for (const int64_t n : {5, 20, 90}) {
        const int64_t m = n + 3;
        std::vector<double> a = support::normals<double>(m * n, 3), r(static_cast<std::size_t>(n * n));
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) a[i * n + j] *= std::pow(10.0, static_cast<double>(j % 7) - 3);
        }
        upper_triangle(a.data(), m, n, r.data());
        Triangle triangle(n, 0);
        triangle.upper = r;
        triangle.frobenius = norm(r.data(), n * n);
        triangle.decide(-1);
        REQUIRE(triangle.rank == n);
        const std::vector<double> z = support::normals<double>(n, 4), x = support::normals<double>(n, 5);
        // from far below the smallest singular value, where the shift is left out, to far above the largest
        for (const double r_norm : {1e3, 1e-12, 1e-2, 3e-3, 1.0, 1e8, 1e-30, 10.0}) {
            CAPTURE(n);
            CAPTURE(r_norm);
            triangle.prepare_error(x.data(), r_norm);
            CHECK(triangle.backward_error(z, x.data(), r_norm) == doctest::Approx(truth(r, n, z, x.data(), r_norm)).epsilon(6e-3));
        }
    }
}
