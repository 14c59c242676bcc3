// Device memory for tests: what is uploaded, what comes back, and outputs that hold NaNs until they are written.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../cpp/support.h"
#include "cuda/number.h"
#include "cuda/runtime.h"

namespace support {

using raphson::CudaPlace;
using raphson::cuda::float16;
using raphson::cuda::Scratch;

constexpr CudaPlace here{0, nullptr};

template <class T>
constexpr raphson::DType type_of() {
    if constexpr (std::is_same_v<T, float16>) {
        return raphson::DType::float16;
    } else {
        return raphson::dtype_of<T>();
    }
}

inline double to_double(float16 x) {
    const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    const double size = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                        : exponent == 0 ? std::ldexp(fraction, -24)
                                        : std::ldexp(1024 + fraction, exponent - 25);
    return (x.bits & 0x8000) != 0 ? -size : size;
}
// By search: slow, and nothing the library does.
template <>
inline float16 from_double<float16>(double x) {
    const double size = std::fabs(x);
    int low = 0, high = 0x7c00;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (to_double(float16{static_cast<std::uint16_t>(middle)}) <= size ? low : high) = middle;
    }
    const double below = size - to_double(float16{static_cast<std::uint16_t>(low)});
    const double above = (high == 0x7c00 ? 65536.0 : to_double(float16{static_cast<std::uint16_t>(high)})) - size;
    const int nearest = below < above || (below == above && low % 2 == 0) ? low : high;
    return {static_cast<std::uint16_t>(nearest | (std::signbit(x) ? 0x8000 : 0))};
}

template <class T>
T* upload(Scratch& scratch, const std::vector<T>& from) {
    auto* to = scratch.take_array<T>(static_cast<int64_t>(from.size()));
    raphson::cuda::check(cudaMemcpyAsync(to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice, nullptr), "upload");
    raphson::cuda::check(cudaStreamSynchronize(nullptr), "upload");
    return to;
}
template <class T>
T* poisoned(Scratch& scratch, int64_t count) {
    auto* to = scratch.take_array<T>(count);
    raphson::cuda::check(cudaMemsetAsync(to, 0xff, static_cast<std::size_t>(count) * sizeof(T), nullptr), "poison");
    return to;
}
template <class T>
std::vector<T> download(const T* from, int64_t count) {
    std::vector<T> to(static_cast<std::size_t>(count));
    raphson::cuda::check(cudaMemcpyAsync(to.data(), from, to.size() * sizeof(T), cudaMemcpyDeviceToHost, nullptr), "download");
    raphson::cuda::check(cudaStreamSynchronize(nullptr), "download");
    return to;
}

}  // namespace support
