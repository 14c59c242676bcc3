// What the tests of sketches and sweeps share. Truth is a sum in long double of the very numbers uploaded: a sum of k terms
// in float64 may be wrong by k·u·Σ|terms|, u = 2⁻⁵³, whatever the order of its additions; every bound counts from that.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "device_support.h"
#include "sketch/device_passes.h"

namespace support {

using raphson::cuda::DenseResult;
using raphson::cuda::DenseRows;

constexpr double unit = 0x1p-53;

inline double roundings(int64_t terms) { return static_cast<double>(terms) * unit; }
template <class T>
double rounding() {  // of a result stored as T
    return std::is_same_v<T, float> ? 0x1p-24 : unit;
}

// n × d numbers, ld from row to row; NaN between the rows, so that whatever reads there is found out.
template <class T>
struct Matrix {
    int64_t n, d, ld;
    std::vector<T> x;

    Matrix(int64_t n_, int64_t d_, int64_t ld_, std::uint64_t seed) : n(n_), d(d_), ld(ld_), x(normals<T>(n_ * ld_, seed)) {
        for (int64_t i = 0; i < n * ld; ++i) {
            if (i % ld >= d) x[i] = std::numeric_limits<T>::quiet_NaN();
        }
    }
    double at(int64_t i, int64_t j) const { return to_double(x[i * ld + j]); }
    DenseRows on_device(Scratch& scratch) const { return {upload(scratch, x), type_of<T>(), n, d, ld}; }
};

// Moves the emulation's order of blocks and threads on: equal calls then run in different orders.
inline void shake() {
    Scratch scratch(here);
    raphson::cuda::normal_entries({1, 2, 4, 0, 1}, 1, poisoned<double>(scratch, 4), 1, here);
}

inline std::vector<double> some_weights(int64_t n) {
    std::vector<double> w = normals<double>(n, 77);
    for (int64_t i = 0; i < n; i += 5) w[i] = 0;
    return w;
}

// Largest error over its bound, where that is passed. Below the smallest normal number float64 has no digits to check.
struct Worst {
    double ratio = 0;
    void account(double got, long double truth, long double bound) {
        bound += std::numeric_limits<double>::min();
        const long double error = std::fabs(static_cast<long double>(got) - truth);
        if (!(error <= bound)) ratio = std::fmax(ratio, static_cast<double>(error / bound));
        if (got != got) ratio = INFINITY;
    }
};

}  // namespace support
