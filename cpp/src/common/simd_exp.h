// 2^x of registers of doubles.
#pragma once

#include "common/simd_double.h"

RAPHSON_ISA_BEGIN

constexpr double log2_e = 1.4426950408889634;
constexpr double exp2_lowest = -1021.0;  // below, exp2_flushed gives exactly 0

// x[k] ← 2^x[k] within 2 ulp; 0 below exp2_lowest (also for -Inf), NaN for NaN, at least 2^1022 above 1023. N independent
// chains, stage by stage, because one alone waits for itself. x = n + f with n a multiple of 1/16 (a table of sixteenths
// where one instruction looks them up) or 1; 2^f − 1 = f·q(f), q interpolating at Chebyshev nodes: error 2e-17 before
// rounding. Base 2 because then n and f are exact: callers scale their potentials once, not every argument.
template <int N>
RAPHSON_FORCE_INLINE void exp2_flushed(Vec<double> (&x)[N]) {
    Vec<double> t[N], f[N], p[N];
#if defined(RAPHSON_SIMD_AVX512)
    alignas(64) static constexpr double sixteenths[16] = {
        1.0,                1.0442737824274138, 1.0905077326652577, 1.1387886347566916, 1.189207115002721,
        1.241857812073484,  1.2968395546510096, 1.3542555469368927, 1.4142135623730951, 1.4768261459394993,
        1.5422108254079407, 1.6104903319492543, 1.681792830507429,  1.7562521603732995, 1.8340080864093424,
        1.9152065613971474};
    constexpr double q[] = {0.00015403724019468894, 0.0013333781621472902, 0.009618129106919254,
                            0.05550410865663603,    0.24022650695910075,   0.6931471805599457};
    const __m512d low = _mm512_load_pd(sixteenths), high = _mm512_load_pd(sixteenths + 8);
    const Vec<double> magic = splat(422212465065984.0), minus_magic = splat(-422212465065984.0);  // 1.5·2^48
#else
    constexpr double q[] = {4.4549624846332125e-10, 7.072589488396345e-09,  1.0178062436412765e-07, 1.321544257022465e-06,
                            1.5252733829851596e-05, 0.00015403530441765088, 0.0013333558146416927,  0.009618129107606871,
                            0.0555041086648216,     0.24022650695910097,    0.6931471805599453};
    const Vec<double> magic = splat(6755399441055744.0), minus_magic = splat(-6755399441055744.0);  // 1.5·2^52
    for (int k = 0; k < N; ++k) x[k] = min(splat(1023.0), x[k]);
#endif
    RAPHSON_UNROLL
    for (int k = 0; k < N; ++k) t[k] = add(x[k], magic);
#if defined(RAPHSON_SIMD_AVX512)
    __mmask8 there[N];
    RAPHSON_UNROLL
    for (int k = 0; k < N; ++k) there[k] = _mm512_cmp_pd_mask(x[k].v, splat(exp2_lowest).v, _CMP_NLT_UQ);
#endif
    RAPHSON_UNROLL
    for (int k = 0; k < N; ++k) f[k] = subtract(x[k], add(t[k], minus_magic));
    RAPHSON_UNROLL
    for (int k = 0; k < N; ++k) p[k] = fma(f[k], splat(q[0]), splat(q[1]));
    RAPHSON_UNROLL
    for (int c = 2; c < static_cast<int>(sizeof q / sizeof *q); ++c) {
        const Vec<double> next = splat(q[c]);
        RAPHSON_UNROLL
        for (int k = 0; k < N; ++k) p[k] = fma(p[k], f[k], next);
    }
    RAPHSON_UNROLL
    for (int k = 0; k < N; ++k) {
#if defined(RAPHSON_SIMD_AVX512)
        const Vec<double> part = {_mm512_permutex2var_pd(low, _mm512_castpd_si512(t[k].v), high)};
        p[k] = fma(mul(part, f[k]), p[k], part);
        x[k] = {_mm512_maskz_scalef_pd(there[k], p[k].v, add(t[k], minus_magic).v)};  // by the whole part: it takes the floor
#else
        p[k] = fma(p[k], f[k], splat(1.0));
        x[k] = zero_where_below(scale_by_power(p[k], t[k]), x[k], splat(exp2_lowest));
#endif
    }
}

RAPHSON_ISA_END
