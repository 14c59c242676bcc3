// Changes of the entries of contiguous float64 matrices, batch by batch: a thread an entry.
#pragma once

#include "newton_schulz/device_passes.h"

namespace raphson::cuda {

constexpr int entry_threads = 256;

__device__ __forceinline__ double& entry(const Working& x, int64_t matrix, int64_t i, int64_t j) {
    return static_cast<double*>(x.data)[matrix * x.step + i * x.ld + j];
}

template <class Change>
__global__ void __launch_bounds__(entry_threads) each_kernel(int64_t rows, int64_t cols, int64_t count, Change change) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * entry_threads + threadIdx.x;
    if (at >= rows * cols * count) return;
    const int64_t line = at / cols;
    change(line / rows, line % rows, at % cols);
}
// change(matrix, row, column) of all entries of matrices of x's shape; `name`: of the function, in an error.
template <class Change>
void each(const char* name, const Working& x, Change change, CudaPlace place) {
    const int64_t entries = x.rows * x.cols * x.count;
    launch(name, place, {block_count(ceil_div(entries, entry_threads), name), entry_threads}, each_kernel<Change>, x.rows, x.cols,
           x.count, change);
}

}  // namespace raphson::cuda
