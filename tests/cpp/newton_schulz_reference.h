// orthogonalize written out: a schedule as plain float64 loops, and how far rounding alone may lead away from it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "raphson/newton_schulz.h"
#include "support.h"

namespace support {

using Matrix = std::vector<double>;  // row major

inline std::size_t at(int64_t i, int64_t j, int64_t cols) { return static_cast<std::size_t>(i * cols + j); }

inline Matrix transposed(const Matrix& x, int64_t m, int64_t n) {
    Matrix t(x.size());
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) t[at(j, i, m)] = x[at(i, j, n)];
    }
    return t;
}

// c (m×n) = a (m×k) b (k×n)
inline Matrix product(const Matrix& a, const Matrix& b, int64_t m, int64_t k, int64_t n) {
    Matrix c(static_cast<std::size_t>(m * n), 0.0);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t p = 0; p < k; ++p) {
            for (int64_t j = 0; j < n; ++j) c[at(i, j, n)] += a[at(i, p, k)] * b[at(p, j, n)];
        }
    }
    return c;
}

// Relative errors of random sign and of at most `unit`, as a rounding would leave them.
struct Noise {
    double unit = 0;
    Random random{99};
    void operator()(Matrix& x) {
        if (unit == 0) return;
        for (double& v : x) v *= 1 + unit * random.uniform();
    }
};

inline Matrix reference(Matrix x, int64_t m, int64_t n, const raphson::Schedule& schedule,
                        raphson::Normalize normalize = raphson::Normalize::schedule, Noise noise = {}) {
    using raphson::Normalize;
    if (m > n) return transposed(reference(transposed(x, m, n), n, m, schedule, normalize, noise), n, m);
    if (normalize == Normalize::schedule) normalize = schedule.normalize();
    double max = 0;
    for (const double v : x) max = std::fmax(max, std::fabs(v));
    if (max == 0) return x;
    for (double& v : x) v /= max;
    const Matrix a = product(x, transposed(x, m, n), m, n, m);
    double trace = 0, squares = 0, largest = 0;
    Matrix sums(static_cast<std::size_t>(m), 0.0);
    for (int64_t i = 0; i < m; ++i) {
        trace += a[at(i, i, m)];
        for (int64_t j = 0; j < m; ++j) {
            squares += a[at(i, j, m)] * a[at(i, j, m)];
            sums[static_cast<std::size_t>(i)] += std::fabs(a[at(i, j, m)]);
        }
        largest = std::fmax(largest, sums[static_cast<std::size_t>(i)]);
    }
    for (int64_t i = 0; i < m; ++i) {
        const double size = normalize == Normalize::frobenius ? trace
                            : normalize == Normalize::gram    ? std::fmin(largest, std::sqrt(squares))
                                                              : sums[static_cast<std::size_t>(i)];
        for (int64_t j = 0; j < n; ++j) x[at(i, j, n)] /= schedule.norm_factor() * std::sqrt(size);
    }
    noise(x);
    for (const raphson::Step& s : schedule.steps()) {
        Matrix gram = product(x, transposed(x, m, n), m, n, m);
        noise(gram);
        const Matrix square = product(gram, gram, m, m, m);
        Matrix q(gram.size());
        for (std::size_t i = 0; i < q.size(); ++i) q[i] = s.b * gram[i] + s.c * square[i];
        noise(q);
        const Matrix qx = product(q, x, m, m, n);
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = s.a * x[i] + qx[i];
        noise(x);
    }
    return x;
}

template <class T>
Matrix doubles(const std::vector<T>& x) {
    Matrix d;
    for (const T v : x) d.push_back(to_double(v));
    return d;
}

// ‖found - expected‖_F / ‖expected‖_F
inline double distance(const Matrix& found, const Matrix& expected) {
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
        difference += (found[i] - expected[i]) * (found[i] - expected[i]);
        size += expected[i] * expected[i];
    }
    return size == 0 ? std::sqrt(difference) : std::sqrt(difference / size);
}

template <class T>
constexpr double unit_roundoff = std::is_same_v<T, double> ? 0x1p-53 : std::is_same_v<T, float> ? 0x1p-24 : 0x1p-9;

// How far the schedule may lead from the reference when every number of it is rounded to type P: what is magnified is
// not the library's error but the polynomials' slope, which near a fold of the published tables is above 100. The worst
// of four trials, eight times; in float64 and float32, whose sums are rounded at every term and whose Gram method rounds
// more often, forty times.
template <class P>
double allowance(const Matrix& x, int64_t m, int64_t n, const raphson::Schedule& schedule,
                 raphson::Normalize normalize = raphson::Normalize::schedule) {
    const Matrix exact = reference(x, m, n, schedule, normalize);
    double worst = unit_roundoff<P>;
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
        const Noise noise{unit_roundoff<P>, Random{seed}};
        worst = std::fmax(worst, distance(reference(x, m, n, schedule, normalize, noise), exact));
    }
    return (std::is_same_v<P, bfloat16> ? 8 : 40) * worst;
}

template <class T>
std::vector<T> orthogonalized(const std::vector<T>& x, int64_t m, int64_t n, const raphson::Schedule& schedule,
                              const raphson::OrthogonalizeOptions& options = {}) {
    std::vector<T> out(x.size(), from_double<T>(7));
    raphson::orthogonalize<T>({x.data(), {m, n}}, {out.data(), {m, n}}, schedule, options);
    return out;
}

// Fewer and smaller when RAPHSON_TESTS_SMALL is set: an emulator takes a hundred times as long.
inline bool small_tests() { return std::getenv("RAPHSON_TESTS_SMALL") != nullptr; }

inline std::vector<std::pair<int64_t, int64_t>> shapes() {
    if (small_tests()) return {{1, 1}, {5, 1}, {3, 4}, {31, 5}, {17, 33}};
    return {{1, 1},  {1, 5},   {5, 1},   {2, 2},    {3, 4},    {7, 7},  {16, 16},
            {31, 5}, {17, 33}, {65, 64}, {40, 130}, {130, 40}, {96, 97}};
}

}  // namespace support
