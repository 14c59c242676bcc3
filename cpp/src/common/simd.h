// One register of floats or doubles, for whatever instruction set this file is compiled for. Only what the passes use;
// every operation is the plain IEEE one, so a lane computes what a scalar would, `fma` apart: SSE has none and rounds
// twice. `*_part` touches the first `count` lanes only (0 ≤ count ≤ width), store_part also from lane `first` on; lanes
// that are not loaded are zero.
// bfloat16 is widened to float32 on load and rounded to nearest even on store; a NaN stays a NaN, made quiet.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define RAPHSON_SIMD_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && (defined(__FMA__) || defined(_MSC_VER))
#define RAPHSON_SIMD_AVX2 1
#include <immintrin.h>
#elif defined(__SSE4_1__) || defined(_M_X64)
#define RAPHSON_SIMD_SSE 1
#include <immintrin.h>
#elif defined(__aarch64__) || defined(_M_ARM64)
#define RAPHSON_SIMD_NEON 1
#include <arm_neon.h>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define RAPHSON_FORCE_INLINE __forceinline
#define RAPHSON_UNROLL
#define RAPHSON_NO_UNROLL
#elif defined(__clang__)
#define RAPHSON_FORCE_INLINE inline __attribute__((always_inline))
#define RAPHSON_UNROLL _Pragma("clang loop unroll(full)")
#define RAPHSON_NO_UNROLL _Pragma("clang loop unroll(disable)")
#else
#define RAPHSON_FORCE_INLINE inline __attribute__((always_inline))
#define RAPHSON_UNROLL _Pragma("GCC unroll 16")
#define RAPHSON_NO_UNROLL _Pragma("GCC unroll 1")
#endif

#include "isa.h"
#include "raphson/view.h"

RAPHSON_ISA_BEGIN

// Fetches the cache line of p, which need not be readable, into the first-level cache or (far) the second; to_write
// takes it from the other cores too. Every CPU with AVX2 knows prefetchw, but compilers want a flag to believe it.
#if defined(RAPHSON_SIMD_AVX512) || defined(RAPHSON_SIMD_AVX2) || defined(RAPHSON_SIMD_SSE)
RAPHSON_FORCE_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
RAPHSON_FORCE_INLINE void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
#if !defined(RAPHSON_SIMD_SSE) && defined(__GNUC__)
RAPHSON_FORCE_INLINE void prefetch_to_write(const void* p) {
    __asm__ volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p)));
}
#else
RAPHSON_FORCE_INLINE void prefetch_to_write(const void* p) { prefetch(p); }
#endif
#elif defined(__GNUC__)
RAPHSON_FORCE_INLINE void prefetch_to_write(const void* p) { __builtin_prefetch(p, 1, 3); }
RAPHSON_FORCE_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
RAPHSON_FORCE_INLINE void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }
#else
RAPHSON_FORCE_INLINE void prefetch_to_write(const void*) {}
RAPHSON_FORCE_INLINE void prefetch(const void*) {}
RAPHSON_FORCE_INLINE void prefetch_far(const void*) {}
#endif

RAPHSON_FORCE_INLINE std::uint32_t float_bits(float x) {
    std::uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    return u;
}
RAPHSON_FORCE_INLINE float bits_float(std::uint32_t u) {
    float x;
    std::memcpy(&x, &u, sizeof x);
    return x;
}
RAPHSON_FORCE_INLINE float widen(bfloat16 x) { return bits_float(static_cast<std::uint32_t>(x.bits) << 16); }
RAPHSON_FORCE_INLINE bfloat16 narrow(float x) {
    const std::uint32_t u = float_bits(x);
    const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return {static_cast<std::uint16_t>(x == x ? rounded : (u >> 16) | 0x40u)};
}

template <class T>
struct Vec;

#if defined(RAPHSON_SIMD_AVX512)

template <>
struct Vec<float> {
    static constexpr int width = 16;
    __m512 v;
};
template <>
struct Vec<double> {
    static constexpr int width = 8;
    __m512d v;
};
RAPHSON_FORCE_INLINE Vec<float> splat(float x) { return {_mm512_set1_ps(x)}; }
RAPHSON_FORCE_INLINE Vec<double> splat(double x) { return {_mm512_set1_pd(x)}; }
RAPHSON_FORCE_INLINE Vec<float> load(const float* p) { return {_mm512_loadu_ps(p)}; }
RAPHSON_FORCE_INLINE Vec<double> load(const double* p) { return {_mm512_loadu_pd(p)}; }
RAPHSON_FORCE_INLINE void store(float* p, Vec<float> x) { _mm512_storeu_ps(p, x.v); }
RAPHSON_FORCE_INLINE void store(double* p, Vec<double> x) { _mm512_storeu_pd(p, x.v); }
RAPHSON_FORCE_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> add(Vec<double> a, Vec<double> b) { return {_mm512_add_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) { return {_mm512_mul_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
RAPHSON_FORCE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
RAPHSON_FORCE_INLINE __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
RAPHSON_FORCE_INLINE Vec<float> load_part(const float* p, int count) {
    return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
RAPHSON_FORCE_INLINE Vec<double> load_part(const double* p, int count) {
    return {_mm512_maskz_loadu_pd(static_cast<__mmask8>(first_lanes(count)), p)};
}
RAPHSON_FORCE_INLINE __mmask16 lanes_between(int first, int count) {
    return static_cast<__mmask16>(first_lanes(count) & ~first_lanes(first));
}
RAPHSON_FORCE_INLINE void store_part(float* p, Vec<float> x, int count, int first = 0) {
    _mm512_mask_storeu_ps(p, lanes_between(first, count), x.v);
}
RAPHSON_FORCE_INLINE void store_part(double* p, Vec<double> x, int count, int first = 0) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(lanes_between(first, count)), x.v);
}
RAPHSON_FORCE_INLINE Vec<float> widen(__m256i x) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
}
RAPHSON_FORCE_INLINE __m256i narrow(Vec<float> x) {
    const __m512i u = _mm512_castps_si512(x.v);
    const __m512i high = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    const __m512i rounded = _mm512_srli_epi32(sum, 16);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}
RAPHSON_FORCE_INLINE Vec<float> load(const bfloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
RAPHSON_FORCE_INLINE Vec<float> load_part(const bfloat16* p, int count) {
    return widen(_mm256_maskz_loadu_epi16(first_lanes(count), p));
}
RAPHSON_FORCE_INLINE void store(bfloat16* p, Vec<float> x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
}
RAPHSON_FORCE_INLINE void store_part(bfloat16* p, Vec<float> x, int count, int first = 0) {
    _mm256_mask_storeu_epi16(p, lanes_between(first, count), narrow(x));
}

RAPHSON_FORCE_INLINE void transpose(Vec<float> (&r)[16]) {
    __m512 s[16];
    RAPHSON_UNROLL
    for (int i = 0; i < 16; i += 4) {  // 4×4 blocks within each 128-bit lane of rows i … i+3
        const __m512 a = _mm512_unpacklo_ps(r[i].v, r[i + 1].v), b = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
        const __m512 c = _mm512_unpacklo_ps(r[i + 2].v, r[i + 3].v), d = _mm512_unpackhi_ps(r[i + 2].v, r[i + 3].v);
        s[i] = _mm512_shuffle_ps(a, c, 0x44);
        s[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        s[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        s[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    RAPHSON_UNROLL
    for (int i = 0; i < 4; ++i) {  // then the 128-bit lanes as a 4×4 matrix
        const __m512 a = _mm512_shuffle_f32x4(s[i], s[i + 4], 0x88), b = _mm512_shuffle_f32x4(s[i], s[i + 4], 0xdd);
        const __m512 c = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(s[i + 8], s[i + 12], 0xdd);
        r[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}
RAPHSON_FORCE_INLINE void transpose(Vec<double> (&r)[8]) {
    __m512d s[8];
    RAPHSON_UNROLL
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm512_unpacklo_pd(r[i].v, r[i + 1].v);
        s[i + 1] = _mm512_unpackhi_pd(r[i].v, r[i + 1].v);
    }
    RAPHSON_UNROLL
    for (int i = 0; i < 2; ++i) {
        const __m512d a = _mm512_shuffle_f64x2(s[i], s[i + 2], 0x88), b = _mm512_shuffle_f64x2(s[i], s[i + 2], 0xdd);
        const __m512d c = _mm512_shuffle_f64x2(s[i + 4], s[i + 6], 0x88);
        const __m512d d = _mm512_shuffle_f64x2(s[i + 4], s[i + 6], 0xdd);
        r[i].v = _mm512_shuffle_f64x2(a, c, 0x88);
        r[i + 2].v = _mm512_shuffle_f64x2(b, d, 0x88);
        r[i + 4].v = _mm512_shuffle_f64x2(a, c, 0xdd);
        r[i + 6].v = _mm512_shuffle_f64x2(b, d, 0xdd);
    }
}

#elif defined(RAPHSON_SIMD_AVX2)

template <>
struct Vec<float> {
    static constexpr int width = 8;
    __m256 v;
};
template <>
struct Vec<double> {
    static constexpr int width = 4;
    __m256d v;
};
RAPHSON_FORCE_INLINE Vec<float> splat(float x) { return {_mm256_set1_ps(x)}; }
RAPHSON_FORCE_INLINE Vec<double> splat(double x) { return {_mm256_set1_pd(x)}; }
RAPHSON_FORCE_INLINE Vec<float> load(const float* p) { return {_mm256_loadu_ps(p)}; }
RAPHSON_FORCE_INLINE Vec<double> load(const double* p) { return {_mm256_loadu_pd(p)}; }
RAPHSON_FORCE_INLINE void store(float* p, Vec<float> x) { _mm256_storeu_ps(p, x.v); }
RAPHSON_FORCE_INLINE void store(double* p, Vec<double> x) { _mm256_storeu_pd(p, x.v); }
RAPHSON_FORCE_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {_mm256_add_ps(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> add(Vec<double> a, Vec<double> b) { return {_mm256_add_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {_mm256_mul_ps(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) { return {_mm256_mul_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
    return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
RAPHSON_FORCE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
    return {_mm256_fmadd_pd(a.v, b.v, c.v)};
}
RAPHSON_FORCE_INLINE Vec<float> load(const bfloat16* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))};
}
RAPHSON_FORCE_INLINE void store(bfloat16* p, Vec<float> x) {
    const __m256i u = _mm256_castps_si256(x.v);
    const __m256i high = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
    const __m256i wide = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

RAPHSON_FORCE_INLINE void transpose(Vec<float> (&r)[8]) {
    __m256 s[8];
    RAPHSON_UNROLL
    for (int i = 0; i < 8; i += 4) {
        const __m256 a = _mm256_unpacklo_ps(r[i].v, r[i + 1].v), b = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
        const __m256 c = _mm256_unpacklo_ps(r[i + 2].v, r[i + 3].v), d = _mm256_unpackhi_ps(r[i + 2].v, r[i + 3].v);
        s[i] = _mm256_shuffle_ps(a, c, 0x44);
        s[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        s[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        s[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    RAPHSON_UNROLL
    for (int i = 0; i < 4; ++i) {
        r[i].v = _mm256_permute2f128_ps(s[i], s[i + 4], 0x20);
        r[i + 4].v = _mm256_permute2f128_ps(s[i], s[i + 4], 0x31);
    }
}
RAPHSON_FORCE_INLINE void transpose(Vec<double> (&r)[4]) {
    const __m256d a = _mm256_unpacklo_pd(r[0].v, r[1].v), b = _mm256_unpackhi_pd(r[0].v, r[1].v);
    const __m256d c = _mm256_unpacklo_pd(r[2].v, r[3].v), d = _mm256_unpackhi_pd(r[2].v, r[3].v);
    r[0].v = _mm256_permute2f128_pd(a, c, 0x20);
    r[1].v = _mm256_permute2f128_pd(b, d, 0x20);
    r[2].v = _mm256_permute2f128_pd(a, c, 0x31);
    r[3].v = _mm256_permute2f128_pd(b, d, 0x31);
}

#elif defined(RAPHSON_SIMD_SSE)

template <>
struct Vec<float> {
    static constexpr int width = 4;
    __m128 v;
};
template <>
struct Vec<double> {
    static constexpr int width = 2;
    __m128d v;
};
RAPHSON_FORCE_INLINE Vec<float> splat(float x) { return {_mm_set1_ps(x)}; }
RAPHSON_FORCE_INLINE Vec<double> splat(double x) { return {_mm_set1_pd(x)}; }
RAPHSON_FORCE_INLINE Vec<float> load(const float* p) { return {_mm_loadu_ps(p)}; }
RAPHSON_FORCE_INLINE Vec<double> load(const double* p) { return {_mm_loadu_pd(p)}; }
RAPHSON_FORCE_INLINE void store(float* p, Vec<float> x) { _mm_storeu_ps(p, x.v); }
RAPHSON_FORCE_INLINE void store(double* p, Vec<double> x) { _mm_storeu_pd(p, x.v); }
RAPHSON_FORCE_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {_mm_add_ps(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> add(Vec<double> a, Vec<double> b) { return {_mm_add_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {_mm_mul_ps(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) { return {_mm_mul_pd(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return add(mul(a, b), c); }
RAPHSON_FORCE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return add(mul(a, b), c); }
RAPHSON_FORCE_INLINE Vec<float> load(const bfloat16* p) {
    const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(x), 16))};
}
RAPHSON_FORCE_INLINE void store(bfloat16* p, Vec<float> x) {
    const __m128i u = _mm_castps_si128(x.v);
    const __m128i high = _mm_srli_epi32(u, 16);
    const __m128i odd = _mm_and_si128(high, _mm_set1_epi32(1));
    const __m128i sum = _mm_add_epi32(_mm_add_epi32(u, _mm_set1_epi32(0x7fff)), odd);
    const __m128i quiet = _mm_or_si128(high, _mm_set1_epi32(0x40));
    const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(x.v, x.v));
    const __m128i wide = _mm_blendv_epi8(_mm_srli_epi32(sum, 16), quiet, nan);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(wide, wide));
}
RAPHSON_FORCE_INLINE void transpose(Vec<float> (&r)[4]) { _MM_TRANSPOSE4_PS(r[0].v, r[1].v, r[2].v, r[3].v); }
RAPHSON_FORCE_INLINE void transpose(Vec<double> (&r)[2]) {
    const __m128d low = _mm_unpacklo_pd(r[0].v, r[1].v);
    r[1].v = _mm_unpackhi_pd(r[0].v, r[1].v);
    r[0].v = low;
}

#elif defined(RAPHSON_SIMD_NEON)

template <>
struct Vec<float> {
    static constexpr int width = 4;
    float32x4_t v;
};
template <>
struct Vec<double> {
    static constexpr int width = 2;
    float64x2_t v;
};
RAPHSON_FORCE_INLINE Vec<float> splat(float x) { return {vdupq_n_f32(x)}; }
RAPHSON_FORCE_INLINE Vec<double> splat(double x) { return {vdupq_n_f64(x)}; }
RAPHSON_FORCE_INLINE Vec<float> load(const float* p) { return {vld1q_f32(p)}; }
RAPHSON_FORCE_INLINE Vec<double> load(const double* p) { return {vld1q_f64(p)}; }
RAPHSON_FORCE_INLINE void store(float* p, Vec<float> x) { vst1q_f32(p, x.v); }
RAPHSON_FORCE_INLINE void store(double* p, Vec<double> x) { vst1q_f64(p, x.v); }
RAPHSON_FORCE_INLINE Vec<float> add(Vec<float> a, Vec<float> b) { return {vaddq_f32(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> add(Vec<double> a, Vec<double> b) { return {vaddq_f64(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> mul(Vec<float> a, Vec<float> b) { return {vmulq_f32(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> mul(Vec<double> a, Vec<double> b) { return {vmulq_f64(a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
RAPHSON_FORCE_INLINE Vec<float> load(const bfloat16* p) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16))};
}
RAPHSON_FORCE_INLINE void store(bfloat16* p, Vec<float> x) {
    const uint32x4_t u = vreinterpretq_u32_f32(x.v);
    const uint32x4_t high = vshrq_n_u32(u, 16);
    const uint32x4_t sum = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), vandq_u32(high, vdupq_n_u32(1)));
    const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    vst1_u16(&p->bits, vmovn_u32(vbslq_u32(vceqq_f32(x.v, x.v), vshrq_n_u32(sum, 16), quiet)));
}
RAPHSON_FORCE_INLINE void transpose(Vec<float> (&r)[4]) {
    const float32x4_t a = vtrn1q_f32(r[0].v, r[1].v), b = vtrn2q_f32(r[0].v, r[1].v);
    const float32x4_t c = vtrn1q_f32(r[2].v, r[3].v), d = vtrn2q_f32(r[2].v, r[3].v);
    r[0].v = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1].v = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2].v = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3].v = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}
RAPHSON_FORCE_INLINE void transpose(Vec<double> (&r)[2]) {
    const float64x2_t low = vtrn1q_f64(r[0].v, r[1].v);
    r[1].v = vtrn2q_f64(r[0].v, r[1].v);
    r[0].v = low;
}

#else  // one lane, plain C++

template <class T>
struct Vec {
    static constexpr int width = 1;
    T v;
};
RAPHSON_FORCE_INLINE Vec<float> splat(float x) { return {x}; }
RAPHSON_FORCE_INLINE Vec<double> splat(double x) { return {x}; }
RAPHSON_FORCE_INLINE Vec<float> load(const float* p) { return {*p}; }
RAPHSON_FORCE_INLINE Vec<double> load(const double* p) { return {*p}; }
RAPHSON_FORCE_INLINE Vec<float> load(const bfloat16* p) { return {widen(*p)}; }
RAPHSON_FORCE_INLINE void store(float* p, Vec<float> x) { *p = x.v; }
RAPHSON_FORCE_INLINE void store(double* p, Vec<double> x) { *p = x.v; }
RAPHSON_FORCE_INLINE void store(bfloat16* p, Vec<float> x) { *p = narrow(x.v); }
template <class T>
RAPHSON_FORCE_INLINE Vec<T> add(Vec<T> a, Vec<T> b) {
    return {a.v + b.v};
}
template <class T>
RAPHSON_FORCE_INLINE Vec<T> mul(Vec<T> a, Vec<T> b) {
    return {a.v * b.v};
}
template <class T>
RAPHSON_FORCE_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
    return {a.v * b.v + c.v};
}
template <class T>
RAPHSON_FORCE_INLINE void transpose(Vec<T> (&)[1]) {}

#endif

template <class T>
RAPHSON_FORCE_INLINE Vec<T> zero() {
    return splat(T(0));
}

#if !defined(RAPHSON_SIMD_AVX512)
// No masks: through a buffer. Edges only.
template <class Lane, class T>
RAPHSON_FORCE_INLINE auto load_lanes(const T* p, int count) {
    T lanes[Vec<Lane>::width] = {};
    for (int i = 0; i < count; ++i) lanes[i] = p[i];
    return load(lanes);
}
template <class Lane, class T>
RAPHSON_FORCE_INLINE void store_lanes(T* p, Vec<Lane> x, int count, int first) {
    T lanes[Vec<Lane>::width];
    store(lanes, x);
    for (int i = first; i < count; ++i) p[i] = lanes[i];
}
RAPHSON_FORCE_INLINE Vec<float> load_part(const float* p, int count) { return load_lanes<float>(p, count); }
RAPHSON_FORCE_INLINE Vec<double> load_part(const double* p, int count) { return load_lanes<double>(p, count); }
RAPHSON_FORCE_INLINE Vec<float> load_part(const bfloat16* p, int count) { return load_lanes<float>(p, count); }
RAPHSON_FORCE_INLINE void store_part(float* p, Vec<float> x, int count, int first = 0) {
    store_lanes(p, x, count, first);
}
RAPHSON_FORCE_INLINE void store_part(double* p, Vec<double> x, int count, int first = 0) {
    store_lanes(p, x, count, first);
}
RAPHSON_FORCE_INLINE void store_part(bfloat16* p, Vec<float> x, int count, int first = 0) {
    store_lanes(p, x, count, first);
}
#endif

RAPHSON_ISA_END
