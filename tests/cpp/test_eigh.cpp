// Symmetric eigenvalues where divide and conquer has something to stumble over: what deflates, what nearly does, clusters,
// grading, extreme scales; and the secular equation by itself.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "dense/dense.h"
#include <doctest/doctest.h>
#include "raphson/runtime.h"
#include "support.h"
#include "table.h"

using namespace raphson;
using std::int64_t;
using Matrix = std::vector<double>;

namespace {

constexpr double eps = 0x1p-52;
constexpr int64_t most_steps = 30;

struct Solved {
    Matrix values, vectors;
    int64_t steps = 0;
};

Solved solve(const Matrix& a, int64_t n, int64_t most = most_steps) {
    Solved result{Matrix(static_cast<std::size_t>(n)), Matrix(a.size())};
    Matrix copy = a;
    for (int64_t i = 0; i < n; ++i) std::fill_n(copy.begin() + i * n, i, std::numeric_limits<double>::quiet_NaN());
    result.steps = eigh(copy.data(), n, result.values.data(), result.vectors.data(), most);
    return result;
}

double row_norm(const Matrix& a, int64_t n, int64_t i) {
    double sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += a[i * n + j] * a[i * n + j];
    return std::sqrt(sum);
}

// max|V Vᵀ − I|
double orthogonality(const Matrix& v, int64_t n) {
    Matrix gram(v.size());
    kernels().gemm.f64.gram(n, n, 1.0, v.data(), n, gram.data(), n);
    double most = 0;
    for (int64_t i = 0; i < n * n; ++i) most = std::fmax(most, std::fabs(gram[i] - (i / n == i % n ? 1 : 0)));
    return most;
}

// Eigenpairs of a to rounding: ‖A v − λ v‖ beside ‖A‖, vectors orthonormal, values ascending, few steps.
void check_eigenpairs(Matrix a, int64_t n) {
    Solved got = solve(a, n);
    double largest = 0;
    for (const double x : a) largest = std::fmax(largest, std::fabs(x));
    int exponent = 0;
    std::frexp(largest, &exponent);
    for (double& x : a) x = std::ldexp(x, -exponent);
    for (double& x : got.values) x = std::ldexp(x, -exponent);
    Matrix residual(a.size());
    for (int64_t i = 0; i < n * n; ++i) residual[i] = got.values[i / n] * got.vectors[i];
    kernels().gemm.f64.product(n, n, n, 1.0, got.vectors.data(), n, a.data(), n, -1.0, residual.data(), n, residual.data(), n);
    double norm = 0, worst = 0;
    for (int64_t i = 0; i < n; ++i) {
        norm = std::fmax(norm, std::fabs(got.values[i]));
        worst = std::fmax(worst, row_norm(residual, n, i));
    }
    const double root = std::sqrt(static_cast<double>(n));
    CHECK(std::isfinite(got.values[0] + got.values[n - 1]));
    CHECK(worst <= (4 + 2 * root) * eps * norm);
    CHECK(orthogonality(got.vectors, n) <= (8 + 3 * root) * eps);
    CHECK(std::is_sorted(got.values.begin(), got.values.end()));
    CHECK(got.steps <= most_steps);
}

struct Named {
    const char* name;
    std::function<void(int64_t n, Matrix& d, Matrix& e, support::Random& random)> fill;
};

double real(int64_t i) { return static_cast<double>(i); }
// 10^x, x uniform between −decades and 0.
double decades(support::Random& random, double most) { return std::pow(10.0, -0.5 * most * (1 + random.uniform())); }

void glued(int64_t n, Matrix& d, Matrix& e, double glue) {  // of Wilkinson's matrices of 21 rows
    for (int64_t i = 0; i < n; ++i) {
        d[i] = std::fabs(real(i % 21) - 10);
        e[i] = i % 21 == 20 ? glue : 1;
    }
}
void constant(int64_t n, Matrix& d, Matrix& e, double diagonal, double beside) {
    std::fill_n(d.begin(), n, diagonal);
    std::fill_n(e.begin(), n, beside);
}

const Named tridiagonals[] = {
    {"second differences", [](int64_t n, Matrix& d, Matrix& e, support::Random&) { constant(n, d, e, 2, -1); }},
    {"no diagonal", [](int64_t n, Matrix& d, Matrix& e, support::Random&) { constant(n, d, e, 0, 1); }},
    {"Wilkinson's",
     [](int64_t n, Matrix& d, Matrix& e, support::Random&) {
         for (int64_t i = 0; i < n; ++i) d[i] = std::fabs(real(i) - 0.5 * real(n - 1));
         std::fill_n(e.begin(), n, 1.0);
     }},
    {"glued, 1e-14", [](int64_t n, Matrix& d, Matrix& e, support::Random&) { glued(n, d, e, 1e-14); }},
    {"glued, 1e-8", [](int64_t n, Matrix& d, Matrix& e, support::Random&) { glued(n, d, e, 1e-8); }},
    {"glued, 1e-3", [](int64_t n, Matrix& d, Matrix& e, support::Random&) { glued(n, d, e, 1e-3); }},
    {"graded down to 1e-200",
     [](int64_t n, Matrix& d, Matrix& e, support::Random&) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = std::pow(10.0, -200 * real(i) / real(n));
             e[i] = 0.1 * std::pow(10.0, -200 * (real(i) + 0.5) / real(n));
         }
     }},
    {"graded up from 1e-16",
     [](int64_t n, Matrix& d, Matrix& e, support::Random&) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = std::pow(10.0, -16 * (1 - real(i) / real(n)));
             e[i] = 0.5 * std::pow(10.0, -16 * (1 - (real(i) + 0.5) / real(n)));
         }
     }},
    {"normal, a third of e zero",
     [](int64_t n, Matrix& d, Matrix& e, support::Random& random) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = random.normal();
             e[i] = random.uniform() < 0.33 ? random.normal() : 0.0;
         }
     }},
    {"normal, e of every size",
     [](int64_t n, Matrix& d, Matrix& e, support::Random& random) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = random.normal();
             e[i] = decades(random, 20);
         }
     }},
    {"one cluster",
     [](int64_t n, Matrix& d, Matrix& e, support::Random& random) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = 1;
             e[i] = decades(random, 18);
         }
     }},
    {"two clusters",
     [](int64_t n, Matrix& d, Matrix& e, support::Random& random) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = random.uniform() < 0 ? 1 : -1;
             e[i] = 1e-9 * random.normal();
         }
     }},
    {"thirty decades",
     [](int64_t n, Matrix& d, Matrix& e, support::Random& random) {
         for (int64_t i = 0; i < n; ++i) {
             d[i] = decades(random, 30);
             e[i] = decades(random, 30);
         }
     }},
};

Matrix matrix_of(const Matrix& d, const Matrix& e) {
    const auto n = static_cast<int64_t>(d.size());
    Matrix a(static_cast<std::size_t>(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i) {
        a[i * n + i] = d[i];
        if (i + 1 < n) a[i * n + i + 1] = a[(i + 1) * n + i] = e[i];
    }
    return a;
}

Matrix symmetric(int64_t n, std::uint64_t seed, double scale = 1) {
    Matrix a = support::normals<double>(n * n, seed, scale);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) a[i * n + j] = a[j * n + i];
    }
    return a;
}

// f(i, j) for i ≥ j.
template <class F>
Matrix filled(int64_t n, F f) {
    Matrix a(static_cast<std::size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j <= i; ++j) a[i * n + j] = a[j * n + i] = f(i, j);
    }
    return a;
}

constexpr int64_t sizes[] = {1, 2, 3, 5, 24, 25, 49, 64, 97, 130, 200};

}  // namespace

TEST_CASE("dense: eigenpairs of tridiagonal matrices that are hard to divide") {
    for (const Named& kind : tridiagonals) {
        for (const int64_t n : sizes) {
            CAPTURE(kind.name);
            CAPTURE(n);
            support::Random random{static_cast<std::uint64_t>(n)};
            Matrix d(static_cast<std::size_t>(n)), e(d.size());
            kind.fill(n, d, e, random);
            check_eigenpairs(matrix_of(d, e), n);
        }
    }
}

TEST_CASE("dense: eigenpairs of full matrices, extreme ones too") {
    for (const int64_t n : sizes) {
        CAPTURE(n);
        for (const double scale : {1.0, 1e298, 1e-290, 1e150, 1e-155}) {
            CAPTURE(scale);
            check_eigenpairs(symmetric(n, 7 * n, scale), n);
        }
        check_eigenpairs(filled(n, [](int64_t, int64_t) { return 1.0; }), n);
        check_eigenpairs(filled(n, [](int64_t i, int64_t j) { return (i ^ j) % 4 == 0 ? 1.0 : 0.0; }), n);
        check_eigenpairs(filled(n, [](int64_t i, int64_t j) { return i == j ? real(i % 3) - 1 : 0.0; }), n);
        check_eigenpairs(filled(n, [](int64_t i, int64_t j) { return 1 / real(i + j + 1); }), n);
        check_eigenpairs(filled(n, [](int64_t i, int64_t j) { return real(i - j); }), n);
        check_eigenpairs(filled(n, [](int64_t i, int64_t j) { return std::pow(10.0, -0.9 * real(i + j)); }), n);
        const auto graded = [n](int64_t i) { return std::pow(10.0, -200 * real(i) / real(n)); };
        check_eigenpairs(filled(n, [&](int64_t i, int64_t j) { return i == j ? graded(i) : 0.1 * graded(i); }), n);
        check_eigenpairs(filled(n, [&](int64_t i, int64_t j) { return i == j ? graded(n - i) : 0.1 * graded(n - j); }), n);
        for (const int64_t rank : {1, 2, 7}) {
            const Matrix g = support::normals<double>(n * rank, 3 * n);
            Matrix a(static_cast<std::size_t>(n * n));
            kernels().gemm.f64.gram(n, rank, 1.0, g.data(), rank, a.data(), n);
            check_eigenpairs(a, n);
            for (int64_t i = 0; i < n; ++i) a[i * n + i] += 3;
            check_eigenpairs(a, n);
        }
    }
    check_eigenpairs(symmetric(500, 1), 500);
    CHECK(eigh(nullptr, 0, nullptr, nullptr, 1) == 0);
}

TEST_CASE("dense: eigenvectors are orthogonal after too few steps, too") {
    for (const int64_t n : {3, 40, 130}) {
        CAPTURE(n);
        const Matrix a = symmetric(n, 5);
        const Solved got = solve(a, n, 1);
        CHECK(got.steps > 1);
        CHECK(orthogonality(got.vectors, n) <= 8 * std::sqrt(static_cast<double>(n)) * eps);
        CHECK(std::is_sorted(got.values.begin(), got.values.end()));
    }
}

TEST_CASE("dense: a root of the secular equation where its bounds meet") {
    Matrix poles(static_cast<std::size_t>(secular_lanes), 1e3), z(poles.size(), 0.0), base(2), tau(2);
    poles[0] = 0.3;
    poles[1] = 3.2;
    z[0] = z[1] = std::sqrt(0.5);
    for (int i = 40; i < 400; ++i) {  // the last root lies rho/2 beyond the last pole, up to rounding
        const double rho = std::pow(10.0, -0.04 * i);
        const SecularEquation problem{2, rho, 1, poles.data(), z.data(), base.data(), tau.data()};
        CAPTURE(rho);
        CHECK(kernels().dense.secular_roots(problem, 0, 2, 100) <= 10);
        CHECK(std::fabs(2 * tau[1] / rho - 1) < rho + 4 * eps);
    }
    // The first one between two poles, in the middle of them up to rounding, on the one side and the other.
    poles[0] = 0.11643178588988591;
    poles[1] = 0.11645022235447099;
    for (const int swapped : {0, 1}) {
        z[swapped] = 0.70710678118654768;
        z[1 - swapped] = 0.70710678118654746;
        const SecularEquation problem{2, 30286206777.769958, 1, poles.data(), z.data(), base.data(), tau.data()};
        CHECK(kernels().dense.secular_roots(problem, 0, 1, 100) <= 10);
        CHECK(std::fabs(2 * std::fabs(tau[0]) / (poles[1] - poles[0]) - 1) < 4 * eps);
    }
}

TEST_CASE("dense: roots of the secular equation count as steps") {
    const int64_t n = 48;
    Matrix d(static_cast<std::size_t>(n)), e(d.size(), 0.0);  // no steps but for the pair in the middle
    for (int64_t i = 0; i < n; ++i) d[i] = real(i);
    e[n / 2 - 1] = 1;
    CHECK(solve(matrix_of(d, e), n).steps > 1);
    CHECK(solve(matrix_of(d, e), n, 1).steps > 1);
}

TEST_CASE("dense: eigenpairs do not depend on the number of threads") {
    const int threads = get_num_threads();
    for (const int64_t n : {100, 301}) {
        const Matrix a = symmetric(n, 9);
        set_num_threads(1);
        const Solved one = solve(a, n);
        for (const int count : {2, 3}) {
            set_num_threads(count);
            const Solved more = solve(a, n);
            CHECK(support::same_bits(one.values, more.values));
            CHECK(support::same_bits(one.vectors, more.vectors));
            CHECK(one.steps == more.steps);
        }
    }
    set_num_threads(threads);
}

TEST_CASE("dense: roots of the secular equation") {
    for (std::uint64_t trial = 0; trial < 200; ++trial) {
        CAPTURE(trial);
        support::Random random{trial};
        random.uniform();
        const auto count = static_cast<int64_t>(1 + 40 * std::fabs(random.uniform()));
        const int64_t lanes = (count + secular_lanes - 1) / secular_lanes * secular_lanes;
        Matrix poles(static_cast<std::size_t>(lanes)), z(poles.size()), base(static_cast<std::size_t>(count)), tau(base.size());
        double pole = random.normal(), squares = 0;
        for (int64_t i = 0; i < count; ++i) {
            poles[i] = pole;
            switch (trial % 4) {
                case 0: pole += decades(random, 1); break;
                case 1: pole += decades(random, 14); break;
                case 2: pole += random.uniform() < 0.6 ? 1e-15 * (2 + random.uniform()) : 0.1; break;
                default: pole += 0.1; break;
            }
            z[i] = random.uniform() * (trial % 3 == 0 ? decades(random, 12) : 1);
            squares += z[i] * z[i];
        }
        for (int64_t i = 0; i < count; ++i) z[i] /= std::sqrt(squares);
        for (int64_t i = count; i < lanes; ++i) poles[i] = 1e3;
        const double rho = trial % 5 == 0 ? decades(random, 10) : 1;
        const SecularEquation problem{count, rho, 1, poles.data(), z.data(), base.data(), tau.data()};
        CHECK(kernels().dense.secular_roots(problem, 0, count, 100) <= 24);
        for (int64_t j = 0; j < count; ++j) {
            CAPTURE(j);
            const double to = j + 1 < count ? poles[j + 1] : poles[j] + 2 * rho;
            CHECK((base[j] == poles[j] || base[j] == to));
            CHECK(std::fabs(tau[j]) <= (j + 1 < count ? 0.5000001 * (to - poles[j]) : 1.0000001 * rho));  // from the nearer one
            CHECK((base[j] == poles[j] ? tau[j] > 0 : tau[j] < 0));
            double value = 1 / rho, size = 1 / rho;
            for (int64_t i = 0; i < count; ++i) {
                const double distance = (poles[i] - base[j]) - tau[j], term = z[i] * z[i] / distance;
                value += term;
                size += std::fabs(term) + std::fabs(tau[j] * term / distance);
            }
            CHECK(std::fabs(value) <= 8 * eps * size);
        }
        Matrix exact(z.size());  // √rho z, to what the roots are rounded to
        for (int64_t i = 0; i < count; i += secular_lanes) kernels().dense.secular_weights(problem, i, exact.data());
        for (int64_t i = 0; i < count; ++i) CHECK(std::fabs(exact[i] / std::sqrt(rho) / z[i] - 1) < 1e-12);
    }
}
