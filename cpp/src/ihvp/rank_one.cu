// The inverse of a Kronecker factor after one more statistic: both products with v in one read of M, then a read and a write.
#include <cmath>
#include <limits>

#include "cuda/copy.h"
#include "cuda/number.h"
#include "cuda/parts.h"
#include "cuda/reduce.h"
#include "ihvp/device_fisher.h"
#include "ihvp/device_fisher_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* name = "rank_one_inverse_update";
constexpr int threads = 256, warps = threads / 32;
constexpr int per_lane = 8, tile_columns = 32 * per_lane, tile_rows = 32;
constexpr int per_thread = 4, piece = per_thread * threads;  // columns of a row that a block of threads writes
static_assert(tile_columns == threads);

// Sums of a tile's rows times v, and of its columns: row_parts[tile column · n + i], column_parts[tile row · n + j].
template <class S>
__global__ void __launch_bounds__(threads) products_kernel(const S* m, int64_t stride, int64_t n, const double* v,
                                                           int64_t across, double* row_parts, double* column_parts) {
    __shared__ double room[warps][tile_columns];
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t r0 = blockIdx.x / across * tile_rows, c0 = blockIdx.x % across * tile_columns + lane;
    double x[per_lane], sums[per_lane] = {};
#pragma unroll
    for (int e = 0; e < per_lane; ++e) x[e] = c0 + 32 * e < n ? v[c0 + 32 * e] : 0;
#pragma unroll
    for (int r = 0; r < tile_rows; r += warps) {
        const int64_t i = r0 + r + warp;
        if (i >= n) break;  // a whole warp
        const double by = v[i];
        double sum = 0;
#pragma unroll
        for (int e = 0; e < per_lane; ++e) {
            const double entry = c0 + 32 * e < n ? static_cast<double>(widen(m[i * stride + c0 + 32 * e])) : 0;
            sum = fma(entry, x[e], sum);
            sums[e] = fma(entry, by, sums[e]);
        }
        sum = over_warp(sum, Plus());
        if (lane == 0) row_parts[blockIdx.x % across * n + i] = sum;
    }
#pragma unroll
    for (int e = 0; e < per_lane; ++e) room[warp][lane + 32 * e] = sums[e];
    __syncthreads();
    const int64_t j = blockIdx.x % across * tile_columns + threadIdx.x;
    if (j >= n) return;
    double sum = 0;
    for (int w = 0; w < warps; ++w) sum += room[w][threadIdx.x];
    column_parts[blockIdx.x / across * n + j] = sum;
}

struct StoreMixed {  // α·sum + β·v
    double* to;
    const double* v;
    double alpha, beta;
    __device__ void operator()(int64_t i, double sum) const { to[i] = fma(alpha, sum, beta * v[i]); }
};

__global__ void __launch_bounds__(threads) gain_kernel(const double* v, const double* p, int64_t n, double* gain) {
    __shared__ double room[warps];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += threads) sum = fma(v[i], p[i], sum);
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) *gain = sum;
}

// out may be m: a thread reads what it writes before.
template <class S>
__global__ void __launch_bounds__(threads) update_kernel(const S* m, int64_t stride, int64_t n, const double* p,
                                                         const double* q, double alpha, double beta, double sigma, int64_t pieces,
                                                         S* out) {
    const int64_t i = blockIdx.x / pieces, c0 = blockIdx.x % pieces * piece + threadIdx.x;
    const double left = sigma * p[i];
    S held[per_thread];
#pragma unroll
    for (int e = 0; e < per_thread; ++e) {
        const int64_t j = c0 + e * threads;
        if (j < n) held[e] = m[i * stride + j];
    }
#pragma unroll
    for (int e = 0; e < per_thread; ++e) {
        const int64_t j = c0 + e * threads;
        if (j >= n) continue;
        const double value = fma(-left, q[j], alpha * static_cast<double>(widen(held[e]))) + (i == j ? beta : 0);
        out[i * n + j] = Rounded<S>::of(static_cast<Sum<S>>(value));
    }
}

}  // namespace

double rank_one_inverse(const CudaView& inverse, const CudaView& v, double alpha, double beta, double weight, void* out,
                        CudaPlace place) {
    const int64_t n = inverse.rows;
    if (n == 0) return 1;
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const void* m = inverse.data;
    int64_t stride = inverse.row_stride;
    if (inverse.column_stride != 1 && n > 1) {
        void* const packed = scratch.take(static_cast<std::size_t>(n * n * itemsize(inverse.type)));
        pack(inverse, packed, place);
        m = packed;
        stride = n;
    }
    auto *const x = scratch.take_array<double>(n), *const gain = scratch.take_array<double>(1);
    auto *const p = scratch.take_array<double>(n), *const q = scratch.take_array<double>(n);
    widen(v, x, place);
    const int64_t across = ceil_div(n, tile_columns), down = ceil_div(n, tile_rows), pieces = ceil_div(n, piece);
    auto *const row_parts = scratch.take_array<double>(across * n), *const column_parts = scratch.take_array<double>(down * n);
    for_type(inverse.type, [&](auto number) {
        using S = decltype(number);
        const Grid tiles{block_count(across * down, name), threads};
        launch(name, place, tiles, products_kernel<S>, static_cast<const S*>(m), stride, n, x, across, row_parts, column_parts);
    });
    add_parts(name, row_parts, across, n, StoreMixed{p, x, alpha, beta}, place);
    add_parts(name, column_parts, down, n, StoreMixed{q, x, alpha, beta}, place);
    launch(name, place, {dim3(1), threads}, gain_kernel, x, p, n, gain);
    const double divisor = 1 + weight * read(gain, 1, place, name).front();
    if (divisor <= 0) return divisor;
    const double sigma = std::isfinite(divisor) ? weight / divisor : std::numeric_limits<double>::quiet_NaN();
    for_type(inverse.type, [&](auto number) {
        using S = decltype(number);
        const Grid all{block_count(n * pieces, name), threads};
        launch(name, place, all, update_kernel<S>, static_cast<const S*>(m), stride, n, p, q, alpha, beta, sigma, pieces,
               static_cast<S*>(out));
    });
    return divisor;
}

}  // namespace raphson::cuda
