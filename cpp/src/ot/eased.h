// One row of transport with at most k entries, the limit eased: the maximum over p ≥ 0, Σp = a, 0 ≤ ζ ≤ 1, Σζ ≤ k of
//   ⟨p, v⟩ − reg/2·Σⱼ pⱼ²((1 − σ)/ζⱼ + σ).
// At σ → 0 this is the row's maximum over plans with at most k entries (the perspective relaxation has no gap for a
// row), at 1 the one without a limit; between, it is smooth: with u = v − t, entries u ≥ β/(1 − σ) are whole (p =
// u/reg, ζ = 1), entries between β and that are parts (p = (u − β)/(σ reg), ζ = (u/β − 1)(1 − σ)/σ), and t and β are
// such that Σp = a and Σζ = k.
#pragma once

#include <cstdint>

namespace raphson {

struct EasedRow {
    double t = 0, beta = 0;             // beta 0: the limit does not bind
    std::int64_t whole = 0, parts = 0;  // entries: the first `whole` of v, then `parts`
};

// v: count > k values, falling; z = reg·a; t: where to begin, usually that of the first k alone; highest: a bound on t
// from above, the threshold without a limit.
EasedRow ease_row(const double* v, std::int64_t count, std::int64_t k, double z, double sigma, double t,
                  double highest);

}  // namespace raphson
