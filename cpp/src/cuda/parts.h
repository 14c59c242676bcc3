// Sums of what the blocks of a kernel left behind, a part each, always in the same order.
#pragma once

#include "cuda/runtime.h"

namespace raphson::cuda {

constexpr int adding_threads = 256, most_slices = 8;

// store(i, Σ parts[p · size + i]) for all i < size, in an order that `count` alone decides: `slices` runs of parts, side by
// side, then those.
template <class Store>
__global__ void __launch_bounds__(adding_threads) add_parts_kernel(const double* parts, int64_t count, int64_t size, int slices,
                                                                   Store store) {
    __shared__ double room[adding_threads];
    const int thread = static_cast<int>(threadIdx.x), width = adding_threads / slices, slice = thread / width;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * width + thread % width;
    double sum = 0;
    if (i < size) {
#pragma unroll 8
        for (int64_t p = count * slice / slices; p < count * (slice + 1) / slices; ++p) sum += parts[p * size + i];
    }
    room[thread] = sum;
    __syncthreads();
    if (slice != 0 || i >= size) return;
    for (int s = 1; s < slices; ++s) sum += room[s * width + thread];
    store(i, sum);
}

template <class T>
struct StoreScaled {  // rows of `cols` numbers
    T* data;
    int64_t ld, cols;
    double scale;
    __device__ void operator()(int64_t i, double sum) const { data[i / cols * ld + i % cols] = static_cast<T>(scale * sum); }
};

template <class Store>
void add_parts(const char* name, const double* parts, int64_t count, int64_t size, const Store& store, CudaPlace place) {
    const int slices = power_of_two(count, 1, most_slices);
    const Grid grid{block_count(ceil_div(size, adding_threads / slices), name), adding_threads};
    launch(name, place, grid, add_parts_kernel<Store>, parts, count, size, slices, store);
}
inline void add_parts(const char* name, const double* parts, int64_t count, int64_t size, double* to, CudaPlace place) {
    add_parts(name, parts, count, size, StoreScaled<double>{to, size, size, 1.0}, place);
}

}  // namespace raphson::cuda
