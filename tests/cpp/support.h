// What several test files need: numbers to fill arrays with, conversions, matrices with strides, error texts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "raphson/view.h"

namespace support {

using raphson::bfloat16;
using std::int64_t;

inline double to_double(double x) { return x; }
inline double to_double(float x) { return static_cast<double>(x); }
inline double to_double(bfloat16 x) {
    const std::uint32_t u = static_cast<std::uint32_t>(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, sizeof f);
    return static_cast<double>(f);
}

// Rounded to nearest even; to bfloat16 by way of float32, as the library does it, but written differently.
template <class T>
T from_double(double x) {
    if constexpr (std::is_same_v<T, bfloat16>) {
        const auto f = static_cast<float>(x);
        std::uint32_t u;
        std::memcpy(&u, &f, sizeof u);
        if (f != f) return {static_cast<std::uint16_t>(u >> 16 | 0x40u)};
        const std::uint32_t rest = u & 0xffffu, odd = u >> 16 & 1u;
        return {static_cast<std::uint16_t>((u >> 16) + (rest > 0x8000u || (rest == 0x8000u && odd != 0) ? 1u : 0u))};
    } else {
        return static_cast<T>(x);
    }
}

struct Random {
    std::uint64_t state = 1;

    double uniform() {  // (-1, 1)
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(static_cast<int64_t>(state) >> 11) * 0x1p-52;
    }
    double normal() {  // near enough: a sum of twelve
        double sum = 0;
        for (int i = 0; i < 12; ++i) sum += uniform();
        return sum / 2;
    }
};

template <class T>
std::vector<T> normals(int64_t count, std::uint64_t seed, double scale = 1) {
    Random random{seed};
    std::vector<T> x(static_cast<std::size_t>(count));
    for (T& v : x) v = from_double<T>(random.normal() * scale);
    return x;
}

// Bit for bit: NaNs equal themselves, zeros of different signs differ.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// The text of the std::invalid_argument that f throws; empty if it throws none.
template <class F>
std::string refusal(F f) {
    try {
        f();
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return {};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace support
