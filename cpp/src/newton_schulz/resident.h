// What the kernels share that keep a matrix in shared memory from the norm to the result, a block of threads each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cuda/number.h"
#include "cuda/reduce.h"
#include "newton_schulz/device_passes.h"

namespace raphson::cuda {

constexpr int resident_threads = 256;
constexpr int resident_most_steps = 16;
constexpr std::size_t resident_static_bytes = 1024;  // more than such a kernel declares beside its dynamic shared memory

struct ResidentSteps {
    int count;
    float a[resident_most_steps], b[resident_most_steps], c[resident_most_steps];

    explicit ResidentSteps(const OrthogonalizePlan& plan) : count(static_cast<int>(plan.steps.size())), a{}, b{}, c{} {
        for (std::size_t t = 0; t < plan.steps.size(); ++t) {
            a[t] = static_cast<float>(plan.steps[t].a);
            b[t] = static_cast<float>(plan.steps[t].b);
            c[t] = static_cast<float>(plan.steps[t].c);
        }
    }
};

// Of every such kernel; sizes and arithmetic are its own.
inline bool resident_takes(const DeviceBatch& x, const OrthogonalizePlan& plan) {
    return x.dtype != DType::float64 && plan.normalize == Normalize::frobenius &&
           plan.steps.size() <= static_cast<std::size_t>(resident_most_steps) && x.cols < 0x7fff && x.count < 0x7fffffff;
}

inline std::string resident_name(const DeviceBatch& x) {
    return "orthogonalize " + std::to_string(x.count) + "x" + std::to_string(x.rows) + "x" + std::to_string(x.cols);
}

// f(row, column) for every entry of a matrix, neighbours in memory to neighbouring threads.
template <class F>
__device__ __forceinline__ void for_matrix_entries(const DeviceBatch& x, F&& f) {
    const bool by_rows = x.col_stride <= x.row_stride;
    const int fast = static_cast<int>(by_rows ? x.cols : x.rows), all = static_cast<int>(x.rows * x.cols);
    for (int i = static_cast<int>(threadIdx.x); i < all; i += resident_threads) {
        const int slow_index = i / fast, fast_index = i % fast;
        f(by_rows ? slow_index : fast_index, by_rows ? fast_index : slow_index);
    }
}

// matrix (P, `pitch` numbers from row to row) ← this block's matrix over its norm, multiplied in float64. The whole block.
template <class T, class P>
__device__ void resident_load(const DeviceBatch& x, double factor, double eps, double* room, P* matrix, int pitch) {
    const T* const from = reinterpret_cast<const T*>(x.matrix(blockIdx.x));
    double sum = 0, max = 0;
    for_matrix_entries(x, [&](int r, int c) {
        const double value = static_cast<double>(widen(from[r * x.row_stride + c * x.col_stride])), size = fabs(value);
        sum = fma(value, value, sum);
        max = LargerOrNaN()(size, max);
    });
    sum = over_block(sum, room, Plus());
    max = over_block(max, room, LargerOrNaN());
    const double norm = factor * sqrt(sum), floor = eps * max, divisor = norm > floor || norm != norm ? norm : floor;
    const double scale = divisor == 0 ? 0 : 1 / divisor;
    for_matrix_entries(x, [&](int r, int c) {
        const double value = static_cast<double>(widen(from[r * x.row_stride + c * x.col_stride]));
        matrix[r * pitch + c] = Rounded<P>::of(static_cast<float>(value * scale));
    });
}

template <class T, class P>
__device__ void resident_store(const P* matrix, int pitch, const DeviceBatch& out) {
    T* const to = reinterpret_cast<T*>(out.matrix(blockIdx.x));
    for_matrix_entries(out, [&](int r, int c) {
        to[r * out.row_stride + c * out.col_stride] = Rounded<T>::of(widen(matrix[r * pitch + c]));
    });
}

// The same of whatever type the caller's memory holds, float64 aside: found out once a block, and half the kernels.
template <class P>
__device__ void resident_load_any(const DeviceBatch& x, double factor, double eps, double* room, P* matrix, int pitch) {
    switch (x.dtype) {
        case DType::float32: resident_load<float>(x, factor, eps, room, matrix, pitch); break;
        case DType::bfloat16: resident_load<bfloat16>(x, factor, eps, room, matrix, pitch); break;
        default: resident_load<float16>(x, factor, eps, room, matrix, pitch); break;
    }
}
template <class P>
__device__ void resident_store_any(const P* matrix, int pitch, const DeviceBatch& out) {
    switch (out.dtype) {
        case DType::float32: resident_store<float>(matrix, pitch, out); break;
        case DType::bfloat16: resident_store<bfloat16>(matrix, pitch, out); break;
        default: resident_store<float16>(matrix, pitch, out); break;
    }
}

// All of orthogonalize in one launch, a block of threads for each matrix; false, and nothing done, where the plan, the types
// or the size do not fit. 16-bit arithmetic, standard method, up to 128 rows and about 600 columns:
bool resident(const DeviceBatch& x, const DeviceBatch& out, const OrthogonalizePlan& plan, double eps, CudaPlace place);
// The same up to 256 rows: 256 × 304 and 128 × 816 fit 227 KB.
bool resident_wide(const DeviceBatch& x, const DeviceBatch& out, const OrthogonalizePlan& plan, double eps, CudaPlace place);
// float32 arithmetic, either method, up to 160 rows.
bool resident_float(const DeviceBatch& x, const DeviceBatch& out, const OrthogonalizePlan& plan, double eps, CudaPlace place);

}  // namespace raphson::cuda
