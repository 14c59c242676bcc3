// The public matrix functions on plain memory: values by their definitions, reports, views with strides, misuse.
#include <doctest/doctest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "raphson/matrix_functions.h"
#include "raphson/runtime.h"
#include "support.h"

using namespace raphson;
using std::int64_t;

namespace {

template <class T>
std::vector<double> times(const std::vector<T>& a, const std::vector<T>& b, int64_t m, int64_t k, int64_t n) {
    std::vector<double> c(static_cast<std::size_t>(m * n), 0.0);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t q = 0; q < k; ++q) {
            for (int64_t j = 0; j < n; ++j) c[i * n + j] += static_cast<double>(a[i * k + q]) * static_cast<double>(b[q * n + j]);
        }
    }
    return c;
}

double off_identity(const std::vector<double>& x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n * n; ++i) most = std::fmax(most, std::fabs(x[i] - (i % (n + 1) == 0 ? 1.0 : 0.0)));
    return most;
}

template <class T>
std::vector<T> positive(int64_t n, std::uint64_t seed) {
    const auto g = support::normals<double>(n * n, seed);
    std::vector<T> a(g.size());
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            double sum = i == j ? 0.5 : 0.0;
            for (int64_t k = 0; k < n; ++k) sum += g[i * n + k] * g[j * n + k] / static_cast<double>(n);
            a[i * n + j] = static_cast<T>(sum);
        }
    }
    return a;
}

}  // namespace

TEST_CASE_TEMPLATE("matrix functions: values and reports", T, double, float) {
    const int64_t n = 70;
    const double eps = sizeof(T) == 8 ? 1e-15 : 5e-7;
    const auto a = positive<T>(n, 3);
    std::vector<T> value(a.size()), second(a.size());
    MatrixReport report;

    inverse_root<T>({a.data(), {n, n}}, 2, {value.data(), {n, n}}, &report);
    auto square = times(value, value, n, n, n);
    std::vector<double> wide(a.begin(), a.end());
    const double error = off_identity(times(wide, square, n, n, n), n);
    CHECK(report.status == Status::converged);
    CHECK(error < 200 * eps);
    CHECK(report.residual == doctest::Approx(error).epsilon(0.5).scale(eps));

    matrix_sqrt<T>({a.data(), {n, n}}, {value.data(), {n, n}}, {second.data(), {n, n}}, &report);
    CHECK(report.residual < 100 * eps);
    CHECK(off_identity(times(value, second, n, n, n), n) < 300 * eps);

    matrix_inverse<T>({a.data(), {n, n}}, {value.data(), {n, n}}, &report);
    CHECK(off_identity(times(a, value, n, n, n), n) < 200 * eps);

    matrix_sign<T>({a.data(), {n, n}}, {value.data(), {n, n}}, &report);
    CHECK(off_identity(std::vector<double>(value.begin(), value.end()), n) < 20 * eps);

    const int64_t m = 90, k = 40;
    const auto x = support::normals<T>(m * k, 9);
    std::vector<T> u(x.size()), h(static_cast<std::size_t>(k * k)), ut(x.size());
    polar<T>({x.data(), {m, k}}, {u.data(), {m, k}}, {h.data(), {k, k}}, &report);
    for (int64_t i = 0; i < m * k; ++i) ut[(i % k) * m + i / k] = u[i];
    CHECK(off_identity(times(ut, u, k, m, k), k) < 10 * eps);
    const auto product = times(u, h, m, k, k);
    double off = 0;
    for (int64_t i = 0; i < m * k; ++i) off = std::fmax(off, std::fabs(product[i] - static_cast<double>(x[i])));
    CHECK(off < 50 * eps);
    CHECK(report.orthogonality < 10 * eps);

    // the transpose, by strides alone, into a transposed view
    std::vector<T> again(x.size());
    polar<T>({x.data(), {k, m}, {1, k}}, {again.data(), {k, m}, {1, k}}, {}, &report);
    CHECK(again == u);
}

TEST_CASE("matrix functions: a batch, its broken matrix, and the number of threads") {
    const int64_t n = 24, count = 9;
    std::vector<double> a;
    for (int64_t i = 0; i < count; ++i) {
        auto one = positive<double>(n, 20 + static_cast<std::uint64_t>(i));
        if (i == 4) one[0] = -100;
        a.insert(a.end(), one.begin(), one.end());
    }
    const int before = get_num_threads();
    std::vector<double> first;
    for (const int threads : {1, 2, 3}) {
        set_num_threads(threads);
        std::vector<double> value(a.size());
        std::vector<MatrixReport> reports(count);
        inverse_root<double>({a.data(), {3, 3, n, n}}, 4, {value.data(), {3, 3, n, n}}, reports.data());
        for (int64_t i = 0; i < count; ++i) {
            CHECK(reports[static_cast<std::size_t>(i)].status == (i == 4 ? Status::breakdown : Status::converged));
        }
        if (first.empty()) first = value;
        CHECK(value == first);
    }
    set_num_threads(before);
}

TEST_CASE("matrix functions: derivatives of the inverse and of the root agree with differences") {
    const int64_t n = 12;
    const auto a = positive<double>(n, 5), bar = support::normals<double>(n * n, 6);
    std::vector<double> value(a.size()), gradient(a.size()), moved(a.size()), up(a.size()), down(a.size());
    MatrixReport report;
    const auto slope = [&](auto&& function, int64_t entry) {
        const double step = 1e-5;
        double sum = 0;
        for (const double side : {step, -step}) {
            moved = a;
            moved[entry] += side;
            const int64_t mirrored = entry % n * n + entry / n;
            if (mirrored != entry) moved[mirrored] += side;
            function(moved, up);
            for (int64_t i = 0; i < n * n; ++i) sum += (side > 0 ? 1 : -1) * up[i] * bar[i] / (2 * step);
        }
        return sum;
    };
    const auto root = [&](const std::vector<double>& from, std::vector<double>& to) {
        inverse_root<double>({from.data(), {n, n}}, 3, {to.data(), {n, n}}, &report);
    };
    root(a, value);
    inverse_root_vjp<double>({value.data(), {n, n}}, 3, {bar.data(), {n, n}}, {gradient.data(), {n, n}});
    for (const int64_t entry : {0, 5, 30, 143}) {
        const int64_t mirrored = entry % n * n + entry / n;
        const double expected = slope(root, entry);
        CHECK(gradient[entry] + (mirrored != entry ? gradient[mirrored] : 0.0) == doctest::Approx(expected).epsilon(1e-6));
    }
    const auto inverse = [&](const std::vector<double>& from, std::vector<double>& to) {
        matrix_inverse<double>({from.data(), {n, n}}, {to.data(), {n, n}}, &report);
    };
    inverse(a, value);
    matrix_inverse_vjp<double>({value.data(), {n, n}}, {bar.data(), {n, n}}, {gradient.data(), {n, n}});
    const double expected = slope(inverse, 30);
    CHECK(gradient[30] + gradient[30 % n * n + 30 / n] == doctest::Approx(expected).epsilon(1e-6));
}

TEST_CASE("matrix functions: a root without symmetry is corrected, and its derivative solves its equation") {
    const int64_t n = 30;
    auto a = support::normals<double>(n * n, 11, 0.05);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) a[i * n + j] *= j < i ? 0.0 : std::pow(10.0, -static_cast<double>(i + j) / 8);
        a[i * n + i] = std::pow(10.0, -static_cast<double>(i) / 4);  // eigenvalues from 1 to 6e-8
    }
    std::vector<double> value(a.size()), bar = support::normals<double>(n * n, 12), gradient(a.size());
    MatrixReport report;
    matrix_sqrt<double>({a.data(), {n, n}}, {value.data(), {n, n}}, {}, &report);
    const auto square = times(value, value, n, n, n);
    double off = 0, size = 0;
    for (int64_t i = 0; i < n * n; ++i) {
        off += (square[i] - a[i]) * (square[i] - a[i]);
        size += a[i] * a[i];
    }
    CHECK(report.status == Status::converged);
    CHECK(std::sqrt(off / size) < 1e-14);

    for (int64_t i = 0; i < n; ++i) a[i * n + i] += 1;
    matrix_sqrt<double>({a.data(), {n, n}}, {value.data(), {n, n}}, {}, &report);
    matrix_sqrt_vjp<double>({value.data(), {n, n}}, {bar.data(), {n, n}}, {gradient.data(), {n, n}});
    std::vector<double> transposed(value.size());
    for (int64_t i = 0; i < n * n; ++i) transposed[i] = value[i % n * n + i / n];
    const auto left = times(transposed, gradient, n, n, n), right = times(gradient, transposed, n, n, n);
    for (int64_t i = 0; i < n * n; ++i) REQUIRE(left[i] + right[i] == doctest::Approx(bar[i]).epsilon(1e-11).scale(1));
}

TEST_CASE("matrix functions: misuse throws and names the argument") {
    std::vector<double> a(12, 1.0), out(12);
    MatrixReport report;
    const auto text = [&](auto&& call) {
        try {
            call();
        } catch (const std::invalid_argument& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    CHECK(text([&] { matrix_inverse<double>({a.data(), {3, 4}}, {out.data(), {3, 4}}, &report); }).find("square") !=
          std::string::npos);
    CHECK(text([&] { matrix_sign<double>({a.data(), {3, 3}}, {out.data(), {2, 2}}, &report); }).find("value has shape") !=
          std::string::npos);
    CHECK(text([&] { inverse_root<double>({a.data(), {3, 3}}, 0, {out.data(), {3, 3}}, &report); }).find("p must be") !=
          std::string::npos);
    MatrixFunctionOptions options;
    options.ridge = -1;
    CHECK(text([&] { inverse_root<double>({a.data(), {3, 3}}, 2, {out.data(), {3, 3}}, &report, options); }).find("ridge") !=
          std::string::npos);
    a[2] = NAN;
    CHECK(text([&] { matrix_inverse<double>({a.data(), {3, 3}}, {out.data(), {3, 3}}, &report); }).find("NaN") !=
          std::string::npos);
}
