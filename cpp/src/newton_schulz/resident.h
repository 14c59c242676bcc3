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

// Arrays that differ by where they begin alone, for one launch: what fits a kernel's arguments, which a captured graph keeps.
struct ResidentArrays {
    static constexpr int most = 96;

    DeviceBatch x, out;  // as the first one lies
    int count;
    const char* from[most];
    char* to[most];

    ResidentArrays(const DeviceBatch& x_, const DeviceBatch& out_) : x(x_), out(out_), count(0), from{}, to{} {}
    // False, and nothing done, where the arrays of an item lie otherwise or there is no room.
    bool add(const DeviceBatch& x_, const DeviceBatch& out_) {
        if (count == most || (count + 1) * x.count > 0x7fffffff || !x.lies_as(x_) || !out.lies_as(out_)) return false;
        from[count] = x_.data;
        to[count++] = out_.data;
        return true;
    }
    unsigned blocks() const { return static_cast<unsigned>(count * x.count); }  // one a matrix
    __device__ const char* source() const { return from[blockIdx.x / x.count] + x.offset(blockIdx.x % x.count); }
    __device__ char* target() const { return to[blockIdx.x / x.count] + out.offset(blockIdx.x % x.count); }
};

// Of every such kernel; sizes and arithmetic are its own.
inline bool resident_takes(const ResidentArrays& arrays, const OrthogonalizePlan& plan) {
    const DeviceBatch& x = arrays.x;
    return arrays.count > 0 && x.dtype != DType::float64 && plan.normalize == Normalize::frobenius &&
           plan.steps.size() <= static_cast<std::size_t>(resident_most_steps) && x.cols < 0x7fff;
}

inline std::string resident_name(const ResidentArrays& arrays) {
    const DeviceBatch& x = arrays.x;
    return "orthogonalize " + std::to_string(arrays.blocks()) + "x" + std::to_string(x.rows) + "x" + std::to_string(x.cols);
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
__device__ void resident_load(const ResidentArrays& arrays, double factor, double eps, double* room, P* matrix, int pitch) {
    const DeviceBatch& x = arrays.x;
    const T* const from = reinterpret_cast<const T*>(arrays.source());
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
__device__ void resident_store(const P* matrix, int pitch, const ResidentArrays& arrays) {
    const DeviceBatch& out = arrays.out;
    T* const to = reinterpret_cast<T*>(arrays.target());
    for_matrix_entries(out, [&](int r, int c) {
        to[r * out.row_stride + c * out.col_stride] = Rounded<T>::of(widen(matrix[r * pitch + c]));
    });
}

// The same of whatever type the caller's memory holds, float64 aside: found out once a block, and half the kernels.
template <class P>
__device__ void resident_load_any(const ResidentArrays& arrays, double factor, double eps, double* room, P* matrix, int pitch) {
    switch (arrays.x.dtype) {
        case DType::float32: resident_load<float>(arrays, factor, eps, room, matrix, pitch); break;
        case DType::bfloat16: resident_load<bfloat16>(arrays, factor, eps, room, matrix, pitch); break;
        default: resident_load<float16>(arrays, factor, eps, room, matrix, pitch); break;
    }
}
template <class P>
__device__ void resident_store_any(const P* matrix, int pitch, const ResidentArrays& arrays) {
    switch (arrays.out.dtype) {
        case DType::float32: resident_store<float>(matrix, pitch, arrays); break;
        case DType::bfloat16: resident_store<bfloat16>(matrix, pitch, arrays); break;
        default: resident_store<float16>(matrix, pitch, arrays); break;
    }
}

// All of orthogonalize in one launch, a block of threads for each matrix; false, and nothing done, where the plan, the types
// or the size do not fit. 16-bit arithmetic, standard method, up to 128 rows and about 600 columns:
bool resident(const ResidentArrays& arrays, const OrthogonalizePlan& plan, double eps, CudaPlace place);
// The same up to 256 rows: 256 × 304 and 128 × 816 fit 227 KB.
bool resident_wide(const ResidentArrays& arrays, const OrthogonalizePlan& plan, double eps, CudaPlace place);
// float32 arithmetic, either method, up to 160 rows.
bool resident_float(const ResidentArrays& arrays, const OrthogonalizePlan& plan, double eps, CudaPlace place);

}  // namespace raphson::cuda
