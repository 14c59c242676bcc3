// Sums and extremes over a warp or a block of threads, always combined in the same order.
#pragma once

#include "cuda/runtime.h"

namespace raphson::cuda {

struct Plus {
    __device__ double operator()(double a, double b) const { return a + b; }
};
struct Larger {  // NaN loses
    __device__ double operator()(double a, double b) const { return fmax(a, b); }
};
struct LargerOrNaN {  // a NaN stays
    __device__ double operator()(double a, double b) const { return a > b || a != a ? a : b; }
};
struct Smaller {  // NaN loses
    __device__ double operator()(double a, double b) const { return fmin(a, b); }
};

// Every lane gets the result.
template <class Combine>
__device__ __forceinline__ double over_warp(double value, Combine combine) {
#pragma unroll
    for (int by = 16; by > 0; by /= 2) value = combine(value, __shfl_xor_sync(~0u, value, by));
    return value;
}

// Every thread of the block gets the result; blocks of whole warps. room: a number a warp in shared memory, free again
// when the call returns.
template <class Combine>
__device__ __forceinline__ double over_block(double value, double* room, Combine combine) {
    value = over_warp(value, combine);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    value = room[0];
    for (unsigned w = 1; w < blockDim.x / 32; ++w) value = combine(value, room[w]);
    __syncthreads();
    return value;
}

}  // namespace raphson::cuda
