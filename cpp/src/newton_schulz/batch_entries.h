// How kernels walk the entries of matrices in the caller's memory, in any strides.
#pragma once

#include <algorithm>

#include "newton_schulz/device_passes.h"

namespace raphson::cuda {

constexpr int batch_threads = 256;

// A matrix is read by this many blocks, by its size alone.
inline int64_t parts_of(const DeviceBatch& x) {
    constexpr int64_t elements_a_part = 1 << 15, most_parts = 256;
    return std::clamp<int64_t>(ceil_div(x.rows * x.cols, elements_a_part), 1, most_parts);
}

// f(entry) of the block's part of its matrix, the first block's being matrix `first`; along whichever axis lies closer in
// memory.
template <class T, class F>
__device__ __forceinline__ void for_entries(const DeviceBatch& x, int64_t first, int64_t parts, F&& f) {
    const int64_t part = blockIdx.x % parts;
    const T* data = reinterpret_cast<const T*>(x.matrix(first + blockIdx.x / parts));
    const bool by_rows = x.col_stride <= x.row_stride;
    const int64_t lines = by_rows ? x.rows : x.cols, length = by_rows ? x.cols : x.rows;
    const int64_t line_stride = by_rows ? x.row_stride : x.col_stride, stride = by_rows ? x.col_stride : x.row_stride;
    if (stride == 1 && line_stride == length) {
        const int64_t size = lines * length, from = size * part / parts, to = size * (part + 1) / parts;
        for (int64_t i = from + threadIdx.x; i < to; i += batch_threads) f(data[i]);
        return;
    }
    for (int64_t line = lines * part / parts; line < lines * (part + 1) / parts; ++line) {
        const T* p = data + line * line_stride;
        for (int64_t i = threadIdx.x; i < length; i += batch_threads) f(p[i * stride]);
    }
}

constexpr int tile = 32;

// One tile of 32×32 a block; where the caller's memory runs down the columns it is turned in shared memory, so that both
// sides are touched along their rows.
template <class From, class To, class Convert>
__device__ __forceinline__ void copy_tile(const From* from, int64_t from_row, int64_t from_col, To* to, int64_t to_row,
                                          int64_t to_col, int64_t rows, int64_t cols, int64_t index, Convert convert) {
    __shared__ To turned[tile][tile + 1];
    const int64_t tile_cols = ceil_div(cols, tile);
    const int64_t r0 = index / tile_cols * tile, c0 = index % tile_cols * tile;
    const int x = static_cast<int>(threadIdx.x) % tile, y = static_cast<int>(threadIdx.x) / tile;
    const bool turns = (from_row < from_col) != (to_row < to_col);
    if (!turns) {
        const bool down_columns = from_row < from_col;
        for (int i = y; i < tile; i += batch_threads / tile) {
            const int64_t r = r0 + (down_columns ? x : i), c = c0 + (down_columns ? i : x);
            if (r < rows && c < cols) to[r * to_row + c * to_col] = convert(from[r * from_row + c * from_col]);
        }
        return;
    }
    const bool reads_down = from_row < from_col;
    for (int i = y; i < tile; i += batch_threads / tile) {
        const int64_t r = r0 + (reads_down ? x : i), c = c0 + (reads_down ? i : x);
        if (r < rows && c < cols) turned[i][x] = convert(from[r * from_row + c * from_col]);
    }
    __syncthreads();
    for (int i = y; i < tile; i += batch_threads / tile) {
        const int64_t r = r0 + (reads_down ? i : x), c = c0 + (reads_down ? x : i);
        if (r < rows && c < cols) to[r * to_row + c * to_col] = turned[x][i];
    }
}

}  // namespace raphson::cuda
