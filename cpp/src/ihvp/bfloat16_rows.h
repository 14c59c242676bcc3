// bfloat16 rows on AVX-512. Widening 32 of them in memory order takes five shuffles' worth of work; taken apart into those
// in even and in odd places it is a shift and a mask, so the other operand is put into that order instead, once a tile.
#pragma once

#include "ihvp/stored.h"

#if defined(RAPHSON_SIMD_AVX512)

RAPHSON_ISA_BEGIN

constexpr std::int64_t bf16_group = 32;

// Entries 0 2 … 14, 16 … 30, 1 3 … 15, 17 … 31.
RAPHSON_FORCE_INLINE void load_parted(const bfloat16* p, Vec<double> (&v)[4]) {
    const __m512i words = _mm512_loadu_si512(p);
    const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    v[0] = {_mm512_cvtps_pd(_mm512_castps512_ps256(even))};
    v[1] = {_mm512_cvtps_pd(_mm512_extractf32x8_ps(even, 1))};
    v[2] = {_mm512_cvtps_pd(_mm512_castps512_ps256(odd))};
    v[3] = {_mm512_cvtps_pd(_mm512_extractf32x8_ps(odd, 1))};
}

// Whole groups of x into that order, and back in place.
inline void part(const double* x, std::int64_t width, double* out) {
    const __m512i even = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), odd = _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1);
    for (std::int64_t k = 0; k < width; k += bf16_group) {
        const __m512d a = _mm512_loadu_pd(x + k), b = _mm512_loadu_pd(x + k + 8);
        const __m512d c = _mm512_loadu_pd(x + k + 16), d = _mm512_loadu_pd(x + k + 24);
        _mm512_storeu_pd(out + k, _mm512_permutex2var_pd(a, even, b));
        _mm512_storeu_pd(out + k + 8, _mm512_permutex2var_pd(c, even, d));
        _mm512_storeu_pd(out + k + 16, _mm512_permutex2var_pd(a, odd, b));
        _mm512_storeu_pd(out + k + 24, _mm512_permutex2var_pd(c, odd, d));
    }
}
inline void unpart(double* x, std::int64_t width) {
    const __m512i low = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), high = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    for (std::int64_t k = 0; k < width; k += bf16_group) {
        const __m512d a = _mm512_loadu_pd(x + k), b = _mm512_loadu_pd(x + k + 8);
        const __m512d c = _mm512_loadu_pd(x + k + 16), d = _mm512_loadu_pd(x + k + 24);
        _mm512_storeu_pd(x + k, _mm512_permutex2var_pd(a, low, c));
        _mm512_storeu_pd(x + k + 8, _mm512_permutex2var_pd(a, high, c));
        _mm512_storeu_pd(x + k + 16, _mm512_permutex2var_pd(b, low, d));
        _mm512_storeu_pd(x + k + 24, _mm512_permutex2var_pd(b, high, d));
    }
}

// sums[r] += Σ rowᵣ·x, x parted, width whole groups.
template <int N>
RAPHSON_FORCE_INLINE void dot_parted(const bfloat16* first, std::int64_t stride, std::int64_t width, const double* x,
                                     double* sums) {
    Vec<double> even[N], odd[N];
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) even[r] = odd[r] = zero<double>();
    for (std::int64_t k = 0; k < width; k += bf16_group) {
        const Vec<double> x0 = load(x + k), x1 = load(x + k + 8), x2 = load(x + k + 16), x3 = load(x + k + 24);
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) {
            Vec<double> v[4];
            prefetch(first + r * stride + k + 512);
            load_parted(first + r * stride + k, v);
            even[r] = fma(v[0], x0, even[r]);
            odd[r] = fma(v[1], x1, odd[r]);
            even[r] = fma(v[2], x2, even[r]);
            odd[r] = fma(v[3], x3, odd[r]);
        }
    }
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) sums[r] += sum_lanes(add(even[r], odd[r]));
}

// out (parted) += Σ coefficient·row, or = when they are the first.
template <int N>
RAPHSON_FORCE_INLINE void add_parted(const bfloat16* first, std::int64_t stride, std::int64_t width,
                                     const double* coefficients, bool begin, double* out) {
    Vec<double> c[N];
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) c[r] = splat(coefficients[r]);
    for (std::int64_t k = 0; k < width; k += bf16_group) {
        Vec<double> sum[4];
        RAPHSON_UNROLL
        for (int q = 0; q < 4; ++q) sum[q] = begin ? zero<double>() : load(out + k + 8 * q);
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) {
            Vec<double> v[4];
            prefetch(first + r * stride + k + 512);
            load_parted(first + r * stride + k, v);
            RAPHSON_UNROLL
            for (int q = 0; q < 4; ++q) sum[q] = fma(v[q], c[r], sum[q]);
        }
        RAPHSON_UNROLL
        for (int q = 0; q < 4; ++q) store(out + k + 8 * q, sum[q]);
    }
}

RAPHSON_ISA_END

#endif
