// What FisherInverse does to vectors on a CUDA device: numbers in and out, scores, and which weights go.
#include <algorithm>
#include <cmath>

#include "cuda/number.h"
#include "cuda/reduce.h"
#include "ihvp/device_fisher_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr int64_t most_blocks = 512;  // of sums: a number each, added by one block

Grid one_each(int64_t count, const char* name) { return {block_count(ceil_div(count, threads), name), threads}; }
__device__ __forceinline__ int64_t thread_of_grid() { return static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; }

__global__ void __launch_bounds__(threads) widen_kernel(const CudaView x, double* to) {
    const int64_t at = thread_of_grid();
    if (at >= x.rows * x.columns) return;
    to[at] = read_number(x.data, x.type, at / x.columns * x.row_stride + at % x.columns * x.column_stride);
}

template <class Bits>
__global__ void __launch_bounds__(threads) pack_kernel(const CudaView x, Bits* to) {
    const int64_t at = thread_of_grid();
    if (at >= x.rows * x.columns) return;
    to[at] = static_cast<const Bits*>(x.data)[at / x.columns * x.row_stride + at % x.columns * x.column_stride];
}

__global__ void __launch_bounds__(threads) single_scores_kernel(const double* w, const double* d, int64_t count, double* scores, double* u) {
    const int64_t at = thread_of_grid();
    if (at >= count) return;
    const double multiplier = w[at] / d[at];
    u[at] = multiplier;
    scores[at] = 0.5 * w[at] * multiplier;
}

// A warp a group.
__global__ void __launch_bounds__(threads) group_scores_kernel(const double* w, const double* u, int64_t groups, int64_t group, double* scores) {
    const int64_t q = thread_of_grid() / 32;
    if (q >= groups) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    double sum = 0;
    for (int64_t i = lane; i < group; i += 32) sum = fma(0.5 * w[q * group + i], u[q * group + i], sum);
    sum = over_warp(sum, Plus());
    if (lane == 0) scores[q] = sum;
}

__global__ void __launch_bounds__(threads) masked_kernel(const double* x, const std::uint8_t* kept, bool which, double by, int64_t count, double* to) {
    const int64_t at = thread_of_grid();
    if (at < count) to[at] = (kept[at] != 0) == which ? by * x[at] : 0;
}

__global__ void __launch_bounds__(threads) apply_change_kernel(const double* w, const std::uint8_t* kept, double* change, const CudaView out) {
    const int64_t at = thread_of_grid();
    if (at >= out.rows) return;
    const bool stays = kept[at] != 0;
    if (!stays) change[at] = -w[at];
    write_number(out.data, out.type, at * out.row_stride, stays ? w[at] + change[at] : 0);
}

__global__ void __launch_bounds__(threads) squares_kernel(const double* x, int64_t count, double by, double* sums) {
    __shared__ double room[threads / 32];
    double sum = 0;
    for (int64_t at = thread_of_grid(); at < count; at += static_cast<int64_t>(gridDim.x) * threads) sum = fma(by * x[at], x[at], sum);
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(threads) total_kernel(const double* sums, int64_t count, double* result) {
    __shared__ double room[threads / 32];
    double sum = 0;
    for (int64_t at = threadIdx.x; at < count; at += threads) sum += sums[at];
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) *result = sum;
}

__global__ void __launch_bounds__(threads) log_determinant_kernel(const double* w, int64_t m, int64_t count, double log_shift, double* result) {
    __shared__ double room[threads / 32];
    double sum = 0;
    for (int64_t at = threadIdx.x; at < count; at += threads) sum -= 2 * log(w[(at / m * m + at % m) * m + at % m]) + log_shift;
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) *result = sum;
}

// ---- selection: the threshold digit by digit, from the highest byte of an order-preserving key ------------------------------

constexpr int digits = 256;

struct Selection {
    std::uint64_t prefix;                 // of the threshold, as far as it is known
    unsigned long long left;              // how many of those with the prefix go
    unsigned long long counts[digits];    // of the next byte
};

// Smaller scores have smaller keys, −0 and 0 the same, NaN the largest.
__device__ __forceinline__ std::uint64_t key_of(double score) {
    constexpr std::uint64_t sign = std::uint64_t{1} << 63;
    if (score != score) return ~std::uint64_t{0};
    const double x = score + 0.0;
    const std::uint64_t bits = static_cast<std::uint64_t>(static_cast<unsigned>(__double2hiint(x))) << 32 | static_cast<unsigned>(__double2loint(x));
    return (bits & sign) != 0 ? ~bits : bits | sign;
}

__global__ void __launch_bounds__(digits) begin_kernel(std::int64_t removed, Selection* selection) {
    selection->counts[threadIdx.x] = 0;
    if (threadIdx.x != 0) return;
    selection->prefix = 0;
    selection->left = static_cast<unsigned long long>(removed);
}

// Whole numbers: what is added to them in any order is the same.
__global__ void __launch_bounds__(threads) count_kernel(const double* scores, int64_t groups, int shift, Selection* selection) {
    __shared__ unsigned counts[digits];
    for (int d = static_cast<int>(threadIdx.x); d < digits; d += threads) counts[d] = 0;
    __syncthreads();
    for (int64_t at = thread_of_grid(); at < groups; at += static_cast<int64_t>(gridDim.x) * threads) {
        const std::uint64_t key = key_of(scores[at]);
        if (shift == 56 || key >> (shift + 8) == selection->prefix >> (shift + 8)) atomicAdd(&counts[key >> shift & (digits - 1)], 1u);
    }
    __syncthreads();
    for (int d = static_cast<int>(threadIdx.x); d < digits; d += threads) {
        if (counts[d] != 0) atomicAdd(&selection->counts[d], static_cast<unsigned long long>(counts[d]));
    }
}

__global__ void __launch_bounds__(digits) choose_kernel(int shift, Selection* selection) {
    __shared__ unsigned long long counts[digits];
    counts[threadIdx.x] = selection->counts[threadIdx.x];
    selection->counts[threadIdx.x] = 0;
    __syncthreads();
    if (threadIdx.x != 0) return;
    unsigned long long left = selection->left;
    int d = 0;
    for (; d < digits - 1 && counts[d] < left; ++d) left -= counts[d];
    selection->left = left;
    selection->prefix |= static_cast<std::uint64_t>(d) << shift;
}

// Those at the threshold go in order of their places: how many each block of threads has,
__global__ void __launch_bounds__(threads) ties_kernel(const double* scores, int64_t groups, const Selection* selection, double* ties) {
    __shared__ double room[threads / 32];
    const int64_t at = thread_of_grid();
    const double sum = over_block(at < groups && key_of(scores[at]) == selection->prefix ? 1 : 0, room, Plus());
    if (threadIdx.x == 0) ties[blockIdx.x] = sum;
}
// how many the blocks before it have,
__global__ void __launch_bounds__(threads) ties_before_kernel(double* ties, int64_t blocks) {
    __shared__ double sums[threads];
    const int64_t each = (blocks + threads - 1) / threads, first = each * threadIdx.x, end = first + each < blocks ? first + each : blocks;
    double sum = 0;
    for (int64_t b = first; b < end; ++b) sum += ties[b];
    sums[threadIdx.x] = sum;
    __syncthreads();
    double before = 0;
    for (unsigned other = 0; other < threadIdx.x; ++other) before += sums[other];
    for (int64_t b = first; b < end; ++b) {
        const double here = ties[b];
        ties[b] = before;
        before += here;
    }
}
// and so which of them go.
__global__ void __launch_bounds__(threads) mark_kernel(const double* scores, int64_t groups, int64_t group, const Selection* selection,
                                                       const double* ties_before, std::uint8_t* kept) {
    __shared__ int equal[threads];
    const int64_t at = thread_of_grid();
    const std::uint64_t key = at < groups ? key_of(scores[at]) : 0, threshold = selection->prefix;
    const bool ties = at < groups && key == threshold;
    equal[threadIdx.x] = ties ? 1 : 0;
    __syncthreads();
    if (at >= groups) return;
    bool goes = key < threshold;
    if (ties) {
        double before = ties_before[blockIdx.x];
        for (unsigned other = 0; other < threadIdx.x; ++other) before += equal[other];
        goes = before < static_cast<double>(selection->left);
    }
    for (int64_t i = 0; i < group; ++i) kept[at * group + i] = goes ? 0 : 1;
}

}  // namespace

void widen(const CudaView& x, double* to, CudaPlace place) {
    launch("FisherInverse: vector", place, one_each(x.rows * x.columns, "FisherInverse: vector"), widen_kernel, x, to);
}

void pack(const CudaView& x, void* to, CudaPlace place) {
    constexpr const char* name = "FisherInverse: copy";
    const Grid grid = one_each(x.rows * x.columns, name);
    switch (itemsize(x.type)) {
        case 8: return launch(name, place, grid, pack_kernel<std::uint64_t>, x, static_cast<std::uint64_t*>(to));
        case 4: return launch(name, place, grid, pack_kernel<std::uint32_t>, x, static_cast<std::uint32_t*>(to));
        default: launch(name, place, grid, pack_kernel<std::uint16_t>, x, static_cast<std::uint16_t*>(to));
    }
}

void single_scores(const double* w, const double* d, int64_t count, double* scores, double* u, CudaPlace place) {
    launch("obs_scores", place, one_each(count, "obs_scores"), single_scores_kernel, w, d, count, scores, u);
}

void group_scores(const double* w, const double* u, int64_t groups, int64_t group, double* scores, CudaPlace place) {
    launch("obs_scores", place, one_each(32 * groups, "obs_scores"), group_scores_kernel, w, u, groups, group, scores);
}

void masked(const double* x, const std::uint8_t* kept, bool which, double by, int64_t count, double* to, CudaPlace place) {
    launch("obs_prune", place, one_each(count, "obs_prune"), masked_kernel, x, kept, which, by, count, to);
}

void apply_change(const double* w, const std::uint8_t* kept, double* change, const CudaView& out, CudaPlace place) {
    launch("obs_prune", place, one_each(out.rows, "obs_prune"), apply_change_kernel, w, kept, change, out);
}

void energy(const double* change, int64_t count, const double* y, int64_t y_count, double damping, double m, double* result, Scratch& scratch) {
    constexpr const char* name = "obs_prune: loss";
    const auto blocks_of = [](int64_t numbers) { return std::clamp<int64_t>(ceil_div(numbers, 16 * threads), 1, most_blocks); };
    const int64_t blocks = blocks_of(count), y_blocks = blocks_of(y_count);
    auto* const sums = scratch.take_array<double>(blocks + y_blocks);
    launch(name, scratch.place(), {block_count(blocks, name), threads}, squares_kernel, change, count, 0.5 * damping, sums);
    launch(name, scratch.place(), {block_count(y_blocks, name), threads}, squares_kernel, y, y_count, 0.5 / m, sums + blocks);
    launch(name, scratch.place(), {dim3(1), threads}, total_kernel, sums, blocks + y_blocks, result);
}

void log_determinant(const double* w, int64_t m, int64_t batch, double log_shift, double* result, CudaPlace place) {
    launch("FisherInverse: logdet", place, {dim3(1), threads}, log_determinant_kernel, w, m, batch * m, log_shift, result);
}

void keep_all_but(const double* scores, int64_t groups, int64_t removed, int64_t group, std::uint8_t* kept, Scratch& scratch) {
    constexpr const char* name = "obs_prune: selection";
    const CudaPlace place = scratch.place();
    if (removed == 0) {
        check(cudaMemsetAsync(kept, 1, static_cast<std::size_t>(groups * group), stream(place)), name);
        return;
    }
    auto* const selection = scratch.take_array<Selection>(1);
    launch(name, place, {dim3(1), digits}, begin_kernel, removed, selection);
    const Grid counting{block_count(std::clamp<int64_t>(ceil_div(groups, 16 * threads), 1, most_blocks), name), threads};
    for (int shift = 56; shift >= 0; shift -= 8) {
        launch(name, place, counting, count_kernel, scores, groups, shift, selection);
        launch(name, place, {dim3(1), digits}, choose_kernel, shift, selection);
    }
    const Grid all = one_each(groups, name);
    auto* const ties = scratch.take_array<double>(all.blocks.x);
    launch(name, place, all, ties_kernel, scores, groups, selection, ties);
    launch(name, place, {dim3(1), threads}, ties_before_kernel, ties, static_cast<int64_t>(all.blocks.x));
    launch(name, place, all, mark_kernel, scores, groups, group, selection, ties, kept);
}

}  // namespace raphson::cuda
