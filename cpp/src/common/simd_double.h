// More of one register of doubles: float32 in and out, extremes, a mask of large lanes, powers of two, sums.
#pragma once

#include <cmath>

#include "common/simd.h"

RAPHSON_ISA_BEGIN

#if defined(RAPHSON_SIMD_AVX512)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const float* p) { return {_mm512_cvtps_pd(_mm256_loadu_ps(p))}; }
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) { _mm256_storeu_ps(p, _mm512_cvtpd_ps(x.v)); }
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> divide(Vec<double> a, Vec<double> b) { return {_mm512_div_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> square_root(Vec<double> a) { return {_mm512_sqrt_pd(a.v)}; }
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
RAPHSON_FORCE_INLINE Vec<double> divide(Vec<double> a, Vec<double> b) { return {_mm256_div_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> square_root(Vec<double> a) { return {_mm256_sqrt_pd(a.v)}; }
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
    return {_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
RAPHSON_FORCE_INLINE void store_narrow(float* p, Vec<double> x) {
    const __m128 y = _mm_cvtpd_ps(x.v);
    _mm_storel_pi(reinterpret_cast<__m64*>(p), y);
}
RAPHSON_FORCE_INLINE Vec<double> subtract(Vec<double> a, Vec<double> b) { return {_mm_sub_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> divide(Vec<double> a, Vec<double> b) { return {_mm_div_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> square_root(Vec<double> a) { return {_mm_sqrt_pd(a.v)}; }
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
RAPHSON_FORCE_INLINE Vec<double> divide(Vec<double> a, Vec<double> b) { return {vdivq_f64(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> square_root(Vec<double> a) { return {vsqrtq_f64(a.v)}; }
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
RAPHSON_FORCE_INLINE Vec<double> divide(Vec<double> a, Vec<double> b) { return {a.v / b.v}; }
RAPHSON_FORCE_INLINE Vec<double> square_root(Vec<double> a) { return {std::sqrt(a.v)}; }
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

RAPHSON_FORCE_INLINE double sum_lanes(Vec<double> x) {  // halves of what is left, so that every width has one order
    constexpr int width = Vec<double>::width;
    double lanes[width];
    store(lanes, x);
    for (int step = width / 2; step > 0; step /= 2) {
        for (int l = 0; l < step; ++l) lanes[l] += lanes[l + step];
    }
    return lanes[0];
}

RAPHSON_ISA_END
