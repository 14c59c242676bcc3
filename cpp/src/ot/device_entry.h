// What the kernels of entropic transport share: exponentials, sums over a block in a fixed order, entries of a cost.
#pragma once

#include <cstdint>

#include "cuda/reduce.h"
#include "ot/passes.h"

namespace raphson::cuda {

constexpr double log2_e = 1.4426950408889634;
constexpr double minus_infinite = -__builtin_huge_val();

// 2^x within 2 ulp, exactly 0 below 2^-1021 and for NaN (-Inf + Inf: a forbidden pair); not above 2^1023. The polynomial of
// common/simd_exp.h: fourteen operations in float64, where the library's exp2 takes about twice as many.
__device__ __forceinline__ double exp2_flushed(double x) {
    constexpr double q[] = {4.4549624846332125e-10, 7.072589488396345e-09,  1.0178062436412765e-07, 1.321544257022465e-06,
                            1.5252733829851596e-05, 0.00015403530441765088, 0.0013333558146416927,  0.009618129107606871,
                            0.0555041086648216,     0.24022650695910097,    0.6931471805599453};
    constexpr double magic = 6755399441055744.0, lowest = -1021, highest = 1023;  // 1.5·2^52: whole numbers in the low bits
    const double limited = x > highest ? highest : x;
    const double t = limited + magic, f = limited - (t - magic);
    double p = q[0];
#pragma unroll
    for (int k = 1; k < 11; ++k) p = fma(p, f, q[k]);
    p = fma(p, f, 1.0);
    const auto exponent = static_cast<unsigned>(__double2loint(t)) << 20;
    const int high = static_cast<int>(static_cast<unsigned>(__double2hiint(p)) + exponent);
    return x >= lowest ? __hiloint2double(high, __double2loint(p)) : 0;
}

// 2^x within 2 ulp + |x|·2^-24 of rounding of x itself; 0 below 2^-126.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return x < -126.0f ? 0.0f : std::exp2(x);
#endif
}

// ---- entries ----------------------------------------------------------------------------------------------------------------

// Rows that a thread goes through at once: what it reads of a column serves them all.
constexpr int rows_at_once = 4;

template <class T>
struct DenseEntries {
    const T* data;
    int64_t stride;

    __device__ double at(int64_t i, int64_t j) const { return static_cast<double>(data[i * stride + j]); }
    // Of column j in the rows from i on, the last row again beyond it.
    __device__ void column(int64_t i, int64_t last, int64_t j, double (&c)[rows_at_once]) const {
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) c[r] = at(i + r < last ? i + r : last, j);
    }
};

template <Metric metric>
struct PointEntries {
    static constexpr Metric kind = metric;
    const double *x, *y;
    int64_t dim;
    double scale;

    static __device__ double add(double sum, double difference) {
        if constexpr (metric == Metric::cityblock) return sum + fabs(difference);
        return fma(difference, difference, sum);
    }
    __device__ double finished(double sum) const { return scale * (metric == Metric::euclidean ? sqrt(sum) : sum); }
    __device__ double at(int64_t i, int64_t j) const {
        double sum = 0;
        for (int64_t k = 0; k < dim; ++k) sum = add(sum, x[i * dim + k] - y[j * dim + k]);
        return finished(sum);
    }
    __device__ void column(int64_t i, int64_t last, int64_t j, double (&c)[rows_at_once]) const {
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) c[r] = 0;
        for (int64_t k = 0; k < dim; ++k) {
            const double here = y[j * dim + k];
#pragma unroll
            for (int r = 0; r < rows_at_once; ++r) c[r] = add(c[r], x[(i + r < last ? i + r : last) * dim + k] - here);
        }
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) c[r] = finished(c[r]);
    }
};

}  // namespace raphson::cuda
