// One register of doubles out of any stored type, and back.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/simd_double.h"

RAPHSON_ISA_BEGIN

struct half {
    std::uint16_t bits;
};

// IEEE binary16 in software, for the ends of rows and for CPUs without F16C.
inline float to_float(half h) {
    const std::uint32_t sign = static_cast<std::uint32_t>(h.bits & 0x8000u) << 16;
    const std::uint32_t magnitude = h.bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude >= 0x400u) return bits_float(sign | ((magnitude << 13) + 0x38000000u));
    const float small = static_cast<float>(magnitude) * 0x1p-24f;  // subnormal: exact
    return sign != 0 ? -small : small;
}
inline half to_half(float x) {  // to nearest even
    const std::uint32_t u = float_bits(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds to 65536 or more
    if (magnitude < 0x38800000u) {                                                       // subnormal or zero
        const float shifted = bits_float(magnitude) + 0.5f;                              // the sum rounds at 2⁻²⁴
        return {static_cast<std::uint16_t>(sign | (float_bits(shifted) - 0x3f000000u))};
    }
    const std::uint32_t rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u);
    return {static_cast<std::uint16_t>(sign | rounded >> 13)};
}

inline double to_double(double x) { return x; }
inline double to_double(float x) { return static_cast<double>(x); }
inline double to_double(bfloat16 x) { return static_cast<double>(widen(x)); }
inline double to_double(half x) { return static_cast<double>(to_float(x)); }
inline double to_double(std::int8_t x) { return static_cast<double>(x); }

constexpr int pd = Vec<double>::width;

#if defined(RAPHSON_SIMD_AVX512)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const bfloat16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)))};
}
RAPHSON_FORCE_INLINE Vec<double> load_wide(const half* p) {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(
        _mm512_cvtph_ps(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))))};
}
RAPHSON_FORCE_INLINE Vec<double> load_wide(const std::int8_t* p) {
    return {_mm512_cvtepi32_pd(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
#elif defined(RAPHSON_SIMD_AVX2)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const bfloat16* p) {
    const __m128i wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(wide, 16)))};
}
RAPHSON_FORCE_INLINE Vec<double> load_wide(const std::int8_t* p) {
    int four;
    std::memcpy(&four, p, sizeof four);
    return {_mm256_cvtepi32_pd(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four)))};
}
#if defined(__F16C__)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const half* p) {
    return {_mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
#define RAPHSON_HAS_HALF_LOAD 1
#endif
#elif defined(RAPHSON_SIMD_SSE)
RAPHSON_FORCE_INLINE Vec<double> load_wide(const bfloat16* p) {
    int two;
    std::memcpy(&two, p, sizeof two);
    return {_mm_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(_mm_cvtsi32_si128(two)), 16)))};
}
RAPHSON_FORCE_INLINE Vec<double> load_wide(const std::int8_t* p) {
    std::int16_t two;
    std::memcpy(&two, p, sizeof two);
    return {_mm_cvtepi32_pd(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(two)))};
}
#endif

// Whatever has no instruction of its own, lane by lane.
template <class S>
RAPHSON_FORCE_INLINE Vec<double> load_wide(const S* p) {
    double lanes[pd];
    for (int l = 0; l < pd; ++l) lanes[l] = to_double(p[l]);
    return load(lanes);
}
template <class S>
RAPHSON_FORCE_INLINE Vec<double> load_wide_part(const S* p, int count) {
    double lanes[pd] = {};
    for (int l = 0; l < count; ++l) lanes[l] = to_double(p[l]);
    return load(lanes);
}

RAPHSON_ISA_END
