// Sums over whole vectors that drivers are written in; one place, so that no two say the same with other rounding unawares.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace raphson {

using Vector = std::vector<double>;

inline double dot(const double* x, const double* y, std::int64_t n) { return std::inner_product(x, x + n, y, 0.0); }
inline double dot(const Vector& x, const Vector& y) { return std::inner_product(x.begin(), x.end(), y.begin(), 0.0); }
inline double norm(const double* x, std::int64_t n) { return std::sqrt(dot(x, x, n)); }
inline double norm(const Vector& x) { return std::sqrt(dot(x, x)); }

// In four partial sums, which fill registers: for long vectors.
inline double dot_by_four(const Vector& x, const Vector& y) {
    double sums[4] = {};
    std::size_t k = 0;
    for (; k + 4 <= x.size(); k += 4) {
        for (std::size_t l = 0; l < 4; ++l) sums[l] += x[k + l] * y[k + l];
    }
    for (; k < x.size(); ++k) sums[0] += x[k] * y[k];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace raphson
