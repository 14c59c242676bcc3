// Number formats in device code: bits in memory, float or double in registers, rounded to nearest even on the way back.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "raphson/view.h"

namespace raphson::cuda {

struct float16 {
    std::uint16_t bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

#ifdef __CUDACC__
__device__ __forceinline__ float widen(float16 x) { return __half2float(__ushort_as_half(x.bits)); }
#else
inline float widen(float16 x) {
    const unsigned sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> 10 & 0x1fu, fraction = x.bits & 0x3ffu;
    if (exponent == 0) {
        const float size = std::ldexp(static_cast<float>(fraction), -24);
        return sign != 0 ? -size : size;
    }
    return __uint_as_float(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13);
}
#endif

// T(x) of a sum in float (double for double).
template <class T>
struct Rounded;
template <>
struct Rounded<float> {
    __device__ static __forceinline__ float of(float x) { return x; }
};
template <>
struct Rounded<double> {
    __device__ static __forceinline__ double of(double x) { return x; }
};
template <>
struct Rounded<bfloat16> {
    __device__ static __forceinline__ bfloat16 of(float x) {
#ifdef __CUDACC__
        return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
        const unsigned u = __float_as_uint(x);
        if (x != x) return {static_cast<std::uint16_t>(u >> 16 | 0x40u)};
        return {static_cast<std::uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
#endif
    }
};
template <>
struct Rounded<float16> {
    __device__ static __forceinline__ float16 of(float x) {
#ifdef __CUDACC__
        return {__half_as_ushort(__float2half_rn(x))};
#else
        const unsigned u = __float_as_uint(x), sign = u >> 16 & 0x8000u, size = u & 0x7fffffffu;
        if (size > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
        if (size >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds to infinity
        const float magnitude = __uint_as_float(size);
        if (size < 0x38800000u) {  // subnormal: a whole number of 2⁻²⁴
            return {static_cast<std::uint16_t>(sign | static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 24))))};
        }
        const unsigned rounded = size + 0xfffu + (size >> 13 & 1u);
        return {static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)))};
#endif
    }
};

// What products are accumulated and scaled in.
template <class T>
struct SumOf {
    using type = float;
};
template <>
struct SumOf<double> {
    using type = double;
};
template <class T>
using Sum = typename SumOf<T>::type;

// f(T{}) for the type that is known when the host runs.
template <class F>
void for_type(DType type, F&& f) {
    switch (type) {
        case DType::float64: return f(double{});
        case DType::float32: return f(float{});
        case DType::bfloat16: return f(bfloat16{});
        case DType::float16: return f(float16{});
    }
}

// Number `at` of an array whose type is known when the kernel runs.
__device__ __forceinline__ double read_number(const void* data, DType type, std::int64_t at) {
    switch (type) {
        case DType::float64: return static_cast<const double*>(data)[at];
        case DType::float32: return static_cast<double>(static_cast<const float*>(data)[at]);
        case DType::bfloat16: return static_cast<double>(widen(static_cast<const bfloat16*>(data)[at]));
        default: return static_cast<double>(widen(static_cast<const float16*>(data)[at]));
    }
}
__device__ __forceinline__ void write_number(void* data, DType type, std::int64_t at, double value) {
    switch (type) {
        case DType::float64: static_cast<double*>(data)[at] = value; return;
        case DType::float32: static_cast<float*>(data)[at] = static_cast<float>(value); return;
        case DType::bfloat16: static_cast<bfloat16*>(data)[at] = Rounded<bfloat16>::of(static_cast<float>(value)); return;
        default: static_cast<float16*>(data)[at] = Rounded<float16>::of(static_cast<float>(value)); return;
    }
}

}  // namespace raphson::cuda
