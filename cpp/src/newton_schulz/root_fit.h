// One quintic for all steps, fitted to the singular values of a Gaussian matrix: ROOT's coefficients for any shape.
#pragma once

#include <cstdint>

#include "raphson/schedule.h"

namespace raphson {

// What the fit minimises, and the bound it keeps. Plain functions, so that tests can judge other triples by them.
//
// The singular values of an m × n Gaussian matrix (m ≤ n) divided by its Frobenius norm are √(λ/m), λ distributed after
// Marchenko and Pastur with ratio m/n. The mean of (1 - σ)² after `steps` equal steps is a quadrature of that density:
// no random numbers.
double gaussian_objective(const Step& step, std::int64_t m, std::int64_t n, int steps);

// The largest s with p(sM) ≤ M, M the peak of the quintic: rounding may then lift singular values by the factor s at
// every step, and the next step still brings all of them below M again. Below 1 the iteration escapes even without
// rounding; 0 for a quintic with no peak.
double tolerated_growth(const Step& step);

// The triple with the smallest objective after 5 steps among those with tolerated_growth ≥ 1 + safety and a peak in
// [1, 1.25], slope at 0 rewarded a little. Rounded to four decimals, as the published ones are: beyond them platforms
// differ.
// About 5 ms; results are kept, and calls from several threads wait for each other.
Step fit_root(std::int64_t m, std::int64_t n, double safety);

}  // namespace raphson
