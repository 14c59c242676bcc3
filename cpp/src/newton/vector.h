// The few operations on whole vectors that the solvers are written in.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace raphson {

using Vector = std::vector<double>;

inline double dot(const Vector& x, const Vector& y) { return std::inner_product(x.begin(), x.end(), y.begin(), 0.0); }
inline double norm(const double* x, std::int64_t n) { return std::sqrt(std::inner_product(x, x + n, x, 0.0)); }
inline double norm(const Vector& x) { return std::sqrt(dot(x, x)); }

// x moved by about one unit in the last place of its largest entry, every entry to one side or the other.
inline void nudge(const Vector& x, Vector& moved) {
    double most = 0;
    for (const double entry : x) most = std::fmax(most, std::fabs(entry));
    const double step = std::numeric_limits<double>::epsilon() * (most > 0 ? most : 1.0);
    for (std::size_t i = 0; i < x.size(); ++i) moved[i] = x[i] + ((i * 2654435761u >> 16 & 1u) != 0 ? -step : step);
}
// A residual is at the precision's floor where the nearest numbers would change it by a tenth of itself.
constexpr double floor_factor = 10;

}  // namespace raphson
