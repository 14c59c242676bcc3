// What the columns of a tall matrix make of each other on a CUDA device, rows weighted: their Gram matrix, by products of
// float64 panels that hold rows of A as columns, and their squares.
#include <algorithm>

#include "gemm/product.h"
#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* gram_name = "Gram matrix";
constexpr const char* squares_name = "squares of columns";

// [A 1], its rows times root.
struct Weighted {
    const void* a;
    int64_t n, d, p, ld;
    const double* root;

    template <class T>
    __device__ __forceinline__ double at(int64_t row, int64_t column) const {
        const double x = column < d ? static_cast<double>(static_cast<const T*>(a)[row * ld + column]) : 1.0;
        return root != nullptr ? root[row] * x : x;
    }
};

// ---- squares --------------------------------------------------------------------------------------------------------------

constexpr int square_threads = 256;
constexpr int64_t most_square_blocks = 528, least_square_rows = 64;

// `width` threads a column each, groups of them a row each; blocks ranges of rows and of columns.
template <class T>
__global__ void __launch_bounds__(square_threads) squares_kernel(const Weighted x, int64_t blocks, int width, double* parts) {
    __shared__ double room[square_threads];
    const int thread = static_cast<int>(threadIdx.x), groups = square_threads / width;
    const int64_t block = blockIdx.x % blocks, column = blockIdx.x / blocks * width + thread % width;
    const int64_t end = x.n * (block + 1) / blocks;
    double sum = 0;
    if (column < x.p) {
#pragma unroll 4
        for (int64_t row = x.n * block / blocks + thread / width; row < end; row += groups) {
            const double value = x.template at<T>(row, column);
            sum += value * value;
        }
    }
    room[thread] = sum;
    __syncthreads();
    if (thread >= width || column >= x.p) return;
    for (int g = 1; g < groups; ++g) sum += room[g * width + thread];
    parts[block * x.p + column] = sum;
}

// ---- Gram matrices --------------------------------------------------------------------------------------------------------

constexpr int side = 32, panel_threads = 256;

// Panels of `rows` rows of [A 1] each, from row `first` on, transposed (p × rows); zeros beyond the last row. A block turns
// a square of side × side numbers.
template <class T>
__global__ void __launch_bounds__(panel_threads) panel_kernel(const Weighted x, int64_t first, int64_t rows, double* to) {
    __shared__ double square[side][side + 1];
    const int lane = static_cast<int>(threadIdx.x) % side, line = static_cast<int>(threadIdx.x) / side;
    const int64_t across = (x.p + side - 1) / side, down = rows / side;
    const int64_t column = blockIdx.x % across * side, row = blockIdx.x / across % down * side, panel = blockIdx.x / across / down;
#pragma unroll
    for (int i = line; i < side; i += panel_threads / side) {
        const int64_t from = first + panel * rows + row + i;
        square[i][lane] = from < x.n && column + lane < x.p ? x.template at<T>(from, column + lane) : 0.0;
    }
    __syncthreads();
#pragma unroll
    for (int i = line; i < side; i += panel_threads / side) {
        if (column + i < x.p) to[(panel * x.p + column + i) * rows + row + lane] = square[lane][i];
    }
}

Weighted weighted(const DenseRows& a, const double* root, int border) { return {a.data, a.rows, a.cols, a.cols + border, a.ld, root}; }

}  // namespace

void column_squares(const DenseRows& a, const double* root, int border, double* out, Scratch& scratch) {
    const Weighted x = weighted(a, root, border);
    const int64_t blocks = std::clamp<int64_t>(x.n / least_square_rows, 1, most_square_blocks);
    const int width = power_of_two(x.p, 32, square_threads);
    auto* const parts = scratch.take_array<double>(blocks * x.p);
    const Grid grid{block_count(blocks * ceil_div(x.p, width), squares_name), square_threads};
    for_real(a.type, squares_name, [&](auto like) {
        launch(squares_name, scratch.place(), grid, squares_kernel<decltype(like)>, x, blocks, width, parts);
    });
    add_parts(squares_name, parts, blocks, x.p, out, scratch.place());
}

// Several panels at a time, each with a sum of its own, keep the device busy where the result is small; the sums are carried
// from one round to the next and added up at the end.
void column_gram(const DenseRows& a, const double* root, int border, double* out, Scratch& scratch, const GramLimits& limits) {
    const Weighted x = weighted(a, root, border);
    const CudaPlace place = scratch.place();
    const int64_t rows = std::min(limits.panel_rows, ceil_div(std::max<int64_t>(x.n, 1), side) * side);
    const int64_t panels = ceil_div(std::max<int64_t>(x.n, 1), rows);
    const int64_t at_once = std::max<int64_t>(1, std::min(limits.panel_numbers / (rows * x.p), limits.result_numbers / (x.p * x.p)));
    const int64_t rounds = ceil_div(panels, at_once), batch = ceil_div(panels, rounds), size = x.p * x.p;
    auto* const panel = scratch.take_array<double>(batch * x.p * rows);
    double* sums[2] = {scratch.take_array<double>(batch * size), rounds > 1 ? scratch.take_array<double>(batch * size) : nullptr};
    ProductJob job;
    job.type = DType::float64;
    job.m = job.n = x.p;
    job.k = rows;
    job.batch = batch;
    job.a = job.b = {panel, rows, x.p * rows};
    job.b_transposed = job.symmetric = true;
    job.ldd = x.p;
    job.step_d = size;
    const Grid grid{block_count(batch * (rows / side) * ceil_div(x.p, side), gram_name), panel_threads};
    for (int64_t round = 0; round < rounds; ++round) {
        for_real(a.type, gram_name, [&](auto like) {
            launch(gram_name, place, grid, panel_kernel<decltype(like)>, x, round * batch * rows, rows, panel);
        });
        job.d = sums[round % 2];
        product(job, scratch);
        job.c = {job.d, x.p, size};
        job.beta = 1;
    }
    add_parts(gram_name, static_cast<const double*>(job.d), batch, size, out, place);
}

}  // namespace raphson::cuda
