// 2^x of one register of doubles, and what goes with it: conversions, maxima, a mask of large lanes.
#pragma once

#include "common/simd.h"

RAPHSON_ISA_BEGIN

constexpr double log2_e = 1.4426950408889634;
constexpr double exp2_lowest = -1021.0;  // below, exp2_flushed gives exactly 0

#if defined(RAPHSON_SIMD_AVX512)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x.v)); }
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_max_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_min_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE unsigned lanes_at_least(Vec<double> x, Vec<double> limit) {
    return _mm512_cmp_pd_mask(x.v, limit.v, _CMP_GE_OQ);
}
// p·2^n where t = n + 1.5·2^52: n sits in the low bits of t.
RAPHSON_FORCE_INLINE Vec<double> scale_by_power(Vec<double> p, Vec<double> t) {
    return {_mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(p.v), _mm512_slli_epi64(_mm512_castpd_si512(t.v), 52)))};
}
RAPHSON_FORCE_INLINE Vec<double> zero_where_below(Vec<double> x, Vec<double> tested, Vec<double> limit) {
    return {_mm512_maskz_mov_pd(_mm512_cmp_pd_mask(tested.v, limit.v, _CMP_NLT_UQ), x.v)};
}
#elif defined(RAPHSON_SIMD_AVX2)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const float* p) { return {_mm256_cvtps_pd(_mm_loadu_ps(p))}; }
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) { _mm_storeu_ps(p, _mm256_cvtpd_ps(x.v)); }
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {_mm256_sub_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm256_min_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE unsigned lanes_at_least(Vec<double> x, Vec<double> limit) {
    return static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd(x.v, limit.v, _CMP_GE_OQ)));
}
RAPHSON_FORCE_INLINE Vec<double> scale_by_power(Vec<double> p, Vec<double> t) {
    return {_mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(p.v), _mm256_slli_epi64(_mm256_castpd_si256(t.v), 52)))};
}
RAPHSON_FORCE_INLINE Vec<double> zero_where_below(Vec<double> x, Vec<double> tested, Vec<double> limit) {
    return {_mm256_and_pd(_mm256_cmp_pd(tested.v, limit.v, _CMP_NLT_UQ), x.v)};
}
#elif defined(RAPHSON_SIMD_SSE)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const float* p) {
    return {_mm_cvtps_pd(_mm_castpd_ps(_mm_load_sd(reinterpret_cast<const double*>(p))))};
}
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) {
    const __m128 y = _mm_cvtpd_ps(x.v);
    _mm_storel_pi(reinterpret_cast<__m64*>(p), y);
}
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {_mm_sub_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm_max_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm_min_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE unsigned lanes_at_least(Vec<double> x, Vec<double> limit) {
    return static_cast<unsigned>(_mm_movemask_pd(_mm_cmpge_pd(x.v, limit.v)));
}
RAPHSON_FORCE_INLINE Vec<double> scale_by_power(Vec<double> p, Vec<double> t) {
    return {_mm_castsi128_pd(_mm_add_epi64(_mm_castpd_si128(p.v), _mm_slli_epi64(_mm_castpd_si128(t.v), 52)))};
}
RAPHSON_FORCE_INLINE Vec<double> zero_where_below(Vec<double> x, Vec<double> tested, Vec<double> limit) {
    return {_mm_and_pd(_mm_cmpnlt_pd(tested.v, limit.v), x.v)};
}
#elif defined(RAPHSON_SIMD_NEON)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const float* p) { return {vcvt_f64_f32(vld1_f32(p))}; }
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) { vst1_f32(p, vcvt_f32_f64(x.v)); }
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {vsubq_f64(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {vmaxq_f64(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {vminq_f64(a.v, b.v)}; }
RAPHSON_FORCE_INLINE unsigned lanes_at_least(Vec<double> x, Vec<double> limit) {
    const uint64x2_t m = vcgeq_f64(x.v, limit.v);
    return static_cast<unsigned>(vgetq_lane_u64(m, 0) & 1u) | static_cast<unsigned>(vgetq_lane_u64(m, 1) & 2u);
}
RAPHSON_FORCE_INLINE Vec<double> scale_by_power(Vec<double> p, Vec<double> t) {
    return {vreinterpretq_f64_s64(vaddq_s64(vreinterpretq_s64_f64(p.v), vshlq_n_s64(vreinterpretq_s64_f64(t.v), 52)))};
}
RAPHSON_FORCE_INLINE Vec<double> zero_where_below(Vec<double> x, Vec<double> tested, Vec<double> limit) {
    return {vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(x.v), vcltq_f64(tested.v, limit.v)))};
}
#else
RAPHSON_FORCE_INLINE Vec<double> load_wide(const float* p) { return {static_cast<double>(*p)}; }
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) { *p = static_cast<float>(x.v); }
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {a.v - b.v}; }
RAPHSON_FORCE_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {a.v > b.v ? a.v : b.v}; }
RAPHSON_FORCE_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {a.v < b.v ? a.v : b.v}; }  // as x86: b when either is NaN
RAPHSON_FORCE_INLINE unsigned lanes_at_least(Vec<double> x, Vec<double> limit) { return x.v >= limit.v ? 1u : 0u; }
RAPHSON_FORCE_INLINE Vec<double> scale_by_power(Vec<double> p, Vec<double> t) {
    std::uint64_t low, bits;
    std::memcpy(&low, &t.v, sizeof low);
    std::memcpy(&bits, &p.v, sizeof bits);
    bits += low << 52;
    std::memcpy(&p.v, &bits, sizeof bits);
    return p;
}
RAPHSON_FORCE_INLINE Vec<double> zero_where_below(Vec<double> x, Vec<double> tested, Vec<double> limit) {
    return {tested.v < limit.v ? 0.0 : x.v};
}
#endif
RAPHSON_FORCE_INLINE Vec<double> load_wide(const double* p) { return load(p); }
RAPHSON_FORCE_INLINE void store_narrow(double* p, Vec<double> x) { store(p, x); }
RAPHSON_FORCE_INLINE Vec<double> load_wide_part(const double* p, int count) { return load_part(p, count); }
RAPHSON_FORCE_INLINE Vec<double> load_wide_part(const float* p, int count) {
    float lanes[Vec<double>::width] = {};
    for (int i = 0; i < count; ++i) lanes[i] = p[i];
    return load_wide(lanes);
}
RAPHSON_FORCE_INLINE void store_narrow_part(double* p, Vec<double> x, int count) { store_part(p, x, count); }
RAPHSON_FORCE_INLINE void store_narrow_part(float* p, Vec<double> x, int count) {
    float lanes[Vec<double>::width];
    store_narrow(lanes, x);
    for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

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
