// Contiguous vectors of doubles: the two operations that the small dense factorisations are made of.
#pragma once

#include "common/simd_double.h"

RAPHSON_ISA_BEGIN

// y -= a·x
inline void subtract(std::int64_t n, double a, const double* x, double* y) {
    constexpr int width = Vec<double>::width;
    const Vec<double> minus = splat(-a);
    std::int64_t i = 0;
    for (; i + width <= n; i += width) store(y + i, fma(minus, load(x + i), load(y + i)));
    for (; i < n; ++i) y[i] -= a * x[i];
}

inline double dot(std::int64_t n, const double* x, const double* y) {
    constexpr int width = Vec<double>::width;
    Vec<double> sums[4] = {zero<double>(), zero<double>(), zero<double>(), zero<double>()};
    std::int64_t i = 0;
    for (; i + 4 * width <= n; i += 4 * width) {
        RAPHSON_UNROLL
        for (int q = 0; q < 4; ++q) sums[q] = fma(load(x + i + q * width), load(y + i + q * width), sums[q]);
    }
    for (; i + width <= n; i += width) sums[0] = fma(load(x + i), load(y + i), sums[0]);
    double sum = sum_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
    for (; i < n; ++i) sum += x[i] * y[i];
    return sum;
}

RAPHSON_ISA_END
