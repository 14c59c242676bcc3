// Cholesky factors of any size, and their inverses, in one sweep of 32 columns at a time: W starts as the identity, and what
// a panel of L does to the rest of K it does to W as well. Batches of matrices take each step together.
#include "gemm/product.h"
#include "ihvp/device_fisher_passes.h"
#include "ihvp/double_tiles.h"

namespace raphson::cuda {
namespace {

constexpr int panel = 32, threads = 128;
using Tile = DoubleTile<2>;
constexpr const char* name = "FisherInverse: factor";

// The rows of K below the panel, and W's columns up to its end, solved against the triangle on the diagonal: a thread each.
// Every block of threads factors the triangle for itself, from numbers that nobody writes in this launch.
__global__ void __launch_bounds__(threads) panel_kernel(const double* k, double* w, double* below, int64_t m, int64_t t0, int64_t pieces,
                                                        double least) {
    __shared__ double triangle[panel][panel + 1];
    const int64_t matrix = blockIdx.x / pieces;
    k += matrix * m * m;
    w += matrix * m * m;
    below += matrix * m * panel;
    const int here = static_cast<int>(m - t0 < panel ? m - t0 : panel), lane = static_cast<int>(threadIdx.x) % 32;
    if (threadIdx.x < 32) {
        double row[panel];
#pragma unroll
        for (int j = 0; j < panel; ++j) row[j] = j <= lane && lane < here ? k[(t0 + lane) * m + t0 + j] : (j == lane ? 1 : 0);
#pragma unroll
        for (int j = 0; j < panel; ++j) {
            const double square = __shfl_sync(~0u, row[j], j), pivot = sqrt(square < least ? least : square);
            if (lane == j) row[j] = pivot;
            if (lane > j) row[j] /= pivot;
#pragma unroll
            for (int q = j + 1; q < panel; ++q) {
                const double other = __shfl_sync(~0u, row[j], q);  // entry (q, j)
                if (lane >= q) row[q] = fma(-row[j], other, row[q]);
            }
        }
#pragma unroll
        for (int j = 0; j < panel; ++j) triangle[lane][j] = row[j];
    }
    __syncthreads();
    const int64_t line = blockIdx.x % pieces * threads + threadIdx.x, rows = m - t0 - here;
    if (line >= m) return;
    const bool of_k = line < rows;
    const int64_t i = t0 + here + line, c = line - rows;
    double x[panel];
#pragma unroll
    for (int j = 0; j < panel; ++j) {
        x[j] = 0;
        if (j >= here) continue;
        x[j] = of_k ? k[i * m + t0 + j] : c == t0 + j ? 1 : w[(t0 + j) * m + c];
    }
#pragma unroll
    for (int j = 0; j < panel; ++j) {
#pragma unroll
        for (int q = 0; q < j; ++q) x[j] = fma(-x[q], triangle[j][q], x[j]);
        x[j] /= triangle[j][j];
    }
#pragma unroll
    for (int j = 0; j < panel; ++j) {
        if (of_k) {
            below[i * panel + j] = x[j];
        } else if (j < here) {
            w[(t0 + j) * m + c] = x[j];
        }
    }
}

// K and W from row `first` on, less what the panel before it makes of them: tiles of K's triangle, then W's.
__global__ void __launch_bounds__(Tile::threads) update_kernel(double* k, double* w, const double* below, int64_t m, int64_t first,
                                                               int64_t of_k, int64_t tiles, int64_t tile_columns) {
    __shared__ Tile::Room room;
    const int64_t matrix = blockIdx.x / tiles, t = blockIdx.x % tiles;
    k += matrix * m * m;
    w += matrix * m * m;
    const int64_t n = m - first;
    const RowOperand<double> left{below + (matrix * m + first) * panel, panel, n, panel};
    Tile tile;
    if (t < of_k) {
        const TriangleTile at = triangle_tile(t, 1);
        const int64_t r0 = at.row * Tile::edge, c0 = at.col * Tile::edge;
        tile.add(left, r0, left, c0, 0, panel, room);
        tile.for_entries([&](int r, int c, double sum) {
            if (r0 + r < n && c0 + c <= r0 + r) k[(first + r0 + r) * m + first + c0 + c] -= sum;
        });
        return;
    }
    const int64_t r0 = (t - of_k) / tile_columns * Tile::edge, c0 = (t - of_k) % tile_columns * Tile::edge;
    const ColumnOperand<double> right{w + (first - panel) * m, m, first, panel};
    tile.add(left, r0, right, c0, 0, panel, room);
    tile.for_entries([&](int r, int c, double sum) {
        if (r0 + r < n && c0 + c < first) w[(first + r0 + r) * m + c0 + c] -= sum;
    });
}

}  // namespace

void invert_factor(double* k, double* w, int64_t m, int64_t batch, double least, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    auto* const below = scratch.take_array<double>(batch * m * panel);
    check(cudaMemsetAsync(w, 0, static_cast<std::size_t>(batch * m * m) * sizeof(double), stream(place)), name);
    const int64_t pieces = ceil_div(m, threads);
    for (int64_t t0 = 0; t0 < m; t0 += panel) {
        launch(name, place, {block_count(batch * pieces, name), threads}, panel_kernel, k, w, below, m, t0, pieces, least);
        const int64_t first = t0 + panel;
        if (first >= m) break;
        const int64_t rows = ceil_div(m - first, Tile::edge), tile_columns = ceil_div(first, Tile::edge), of_k = triangle_tiles(rows, 1);
        const int64_t tiles = of_k + rows * tile_columns;
        launch(name, place, {block_count(batch * tiles, name), Tile::threads}, update_kernel, k, w, below, m, first, of_k, tiles, tile_columns);
    }
}

}  // namespace raphson::cuda
