// Where rounding ends a solver's progress.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "common/vector.h"

namespace raphson {

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
