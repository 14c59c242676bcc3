// The few operations on whole vectors that the solvers are written in.
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

namespace raphson {

using Vector = std::vector<double>;

inline double dot(const Vector& x, const Vector& y) { return std::inner_product(x.begin(), x.end(), y.begin(), 0.0); }
inline double norm(const Vector& x) { return std::sqrt(dot(x, x)); }

}  // namespace raphson
