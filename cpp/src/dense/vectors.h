// Contiguous vectors of doubles: the operations that the small dense factorisations are made of.
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

// y -= Σ a[q]·x[q], and sums[q] = x[q]·y, for `count` vectors `stride` apart: four share the reads of y.
inline void subtract_many(std::int64_t n, std::int64_t count, const double* a, const double* x, std::int64_t stride, double* y) {
    constexpr int width = Vec<double>::width;
    std::int64_t q = 0;
    for (; q + 4 <= count; q += 4) {
        const double* const rows = x + q * stride;
        const Vec<double> c[4] = {splat(-a[q]), splat(-a[q + 1]), splat(-a[q + 2]), splat(-a[q + 3])};
        std::int64_t i = 0;
        for (; i + width <= n; i += width) {
            Vec<double> sum = mul(c[0], load(rows + i));
            RAPHSON_UNROLL
            for (int k = 1; k < 4; ++k) sum = fma(c[k], load(rows + k * stride + i), sum);
            store(y + i, add(load(y + i), sum));
        }
        for (; i < n; ++i) {
            for (int k = 0; k < 4; ++k) y[i] -= a[q + k] * rows[k * stride + i];
        }
    }
    for (; q < count; ++q) subtract(n, a[q], x + q * stride, y);
}

inline void dot_many(std::int64_t n, std::int64_t count, const double* x, std::int64_t stride, const double* y, double* sums) {
    constexpr int width = Vec<double>::width;
    std::int64_t q = 0;
    for (; q + 4 <= count; q += 4) {
        const double* const rows = x + q * stride;
        Vec<double> sum[4] = {zero<double>(), zero<double>(), zero<double>(), zero<double>()};
        std::int64_t i = 0;
        for (; i + width <= n; i += width) {
            const Vec<double> right = load(y + i);
            RAPHSON_UNROLL
            for (int k = 0; k < 4; ++k) sum[k] = fma(load(rows + k * stride + i), right, sum[k]);
        }
        for (int k = 0; k < 4; ++k) sums[q + k] = sum_lanes(sum[k]);
        for (; i < n; ++i) {
            for (int k = 0; k < 4; ++k) sums[q + k] += rows[k * stride + i] * y[i];
        }
    }
    for (; q < count; ++q) sums[q] = dot(n, x + q * stride, y);
}

RAPHSON_ISA_END
