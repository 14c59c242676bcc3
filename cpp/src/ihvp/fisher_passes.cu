// Tiled products of gradients that lie where the caller keeps them, widened on the way: Gram matrices, products with many
// vectors, and V = W·G. Long sums are cut into parts by shape alone and added in order.
#include <algorithm>

#include "cuda/parts.h"
#include "gemm/product.h"
#include "ihvp/device_fisher_passes.h"
#include "ihvp/double_tiles.h"

namespace raphson::cuda {
namespace {

constexpr const char* gram_name = "FisherInverse: Gram matrix";
constexpr const char* cross_name = "FisherInverse: products";
constexpr const char* whiten_name = "FisherInverse: L⁻¹G";
constexpr int threads = 256;  // of the kernels without tiles
constexpr int64_t blocks_wanted = 528;  // four for each processor of the largest GPUs
constexpr int64_t least_part = 2048;    // columns

// Large matrices in tiles of 128, which read half of what tiles of 64 do; small ones in tiles that they fill.
template <class F>
void for_side(int64_t rows, F&& f) {
    if (rows > 128) return f(DoubleTile<4>{});
    f(DoubleTile<2>{});
}

struct Parts {
    int64_t count, slices;  // slices of `depth` columns, the last may be short

    Parts(int64_t tiles, int64_t width, int64_t depth)
        : count(std::max<int64_t>(1, std::min(blocks_wanted / std::max<int64_t>(tiles, 1), width / least_part))), slices(ceil_div(width, depth)) {}
    __device__ int64_t begin(int64_t part) const { return slices * part / count; }
};

template <class S>
struct KeptRows {
    using Number = S;
    static constexpr bool by_rows = true;
    RowOperand<S> rows;
    const std::uint8_t* kept;

    __device__ S operator()(int64_t row, int64_t k) const {
        if (kept != nullptr && k < rows.depth && kept[k] == 0) return S{};
        return rows(row, k);
    }
};

template <class S>
__device__ __forceinline__ const S* block_of(const BlockedRows& g, int64_t b) {
    return static_cast<const S*>(g.data) + b * g.step;
}

// sums[(block·parts + part)·rows² + …] ← lower triangles of a part's products.
template <class S, int side>
__global__ void __launch_bounds__(DoubleTile<side>::threads) gram_kernel(const BlockedRows g, const std::uint8_t* kept, const Parts parts,
                                                                      int64_t tiles, double* sums) {
    using Tile = DoubleTile<side>;
    __shared__ typename Tile::Room room;
    const int64_t piece = blockIdx.x / tiles, b = piece / parts.count, part = piece % parts.count;
    const TriangleTile at = triangle_tile(blockIdx.x % tiles, 1);
    const int64_t r0 = at.row * Tile::edge, c0 = at.col * Tile::edge;
    const KeptRows<S> rows{{block_of<S>(g, b), g.stride, g.rows, g.width_of(b)}, kept == nullptr ? nullptr : kept + b * g.step};
    Tile tile;
    tile.add(rows, r0, rows, c0, parts.begin(part) * Tile::depth, parts.begin(part + 1) * Tile::depth, room);
    double* const to = sums + piece * g.rows * g.rows;
    tile.for_entries([&](int r, int c, double sum) {
        if (r0 + r < g.rows && c0 + c <= r0 + r) to[(r0 + r) * g.rows + c0 + c] = sum;
    });
}

// k ← alpha·Σ parts + shift·I; k may be the only part.
__global__ void __launch_bounds__(threads) gather_gram_kernel(const double* sums, int64_t parts, int64_t rows, int64_t entries, double alpha,
                                                              double shift, double* k) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, square = rows * rows;
    if (at >= entries) return;
    const int64_t b = at / square, i = at % square / rows, j = at % rows;
    if (j > i) return;
    double sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += sums[(b * parts + p) * square + at % square];
    if (i == j && !(fabs(sum) <= 1.7976931348623157e308)) sum = 0.0 / 0.0;  // an infinite pivot would drop its row in silence
    k[at] = alpha * sum + (i == j ? shift : 0);
}

template <class S>
__global__ void __launch_bounds__(DoubleTile<2>::threads) cross_kernel(const double* x, int64_t x_rows, const BlockedRows g, const Parts parts,
                                                                    int64_t tiles, int64_t tile_columns, double* sums) {
    using Tile = DoubleTile<2>;
    __shared__ Tile::Room room;
    const int64_t piece = blockIdx.x / tiles, b = piece / parts.count, part = piece % parts.count, t = blockIdx.x % tiles;
    const int64_t r0 = t / tile_columns * Tile::edge, c0 = t % tile_columns * Tile::edge;
    const RowOperand<double> left{x + b * g.width, g.columns(), x_rows, g.width_of(b)};
    const RowOperand<S> right{block_of<S>(g, b), g.stride, g.rows, g.width_of(b)};
    Tile tile;
    tile.add(left, r0, right, c0, parts.begin(part) * Tile::depth, parts.begin(part + 1) * Tile::depth, room);
    double* const to = sums + (part * g.blocks + b) * x_rows * g.rows;
    tile.for_entries([&](int r, int c, double sum) {
        if (r0 + r < x_rows && c0 + c < g.rows) to[(r0 + r) * g.rows + c0 + c] = sum;
    });
}

template <class S>
__global__ void __launch_bounds__(DoubleTile<2>::threads) subtract_kernel(const double* x, int64_t x_rows, const double* y, const BlockedRows g,
                                                                       double by, int64_t block_tiles, const CudaView out) {
    using Tile = DoubleTile<2>;
    __shared__ Tile::Room room;
    const int64_t tile_columns = block_tiles * g.blocks, c = blockIdx.x % tile_columns, b = c / block_tiles;
    const int64_t r0 = blockIdx.x / tile_columns * Tile::edge, c0 = c % block_tiles * Tile::edge, width = g.width_of(b);
    if (c0 >= width) return;
    Tile tile;
    tile.add(RowOperand<double>{y + b * x_rows * g.rows, g.rows, x_rows, g.rows}, r0,
             ColumnOperand<S>{block_of<S>(g, b), g.stride, width, g.rows}, c0, 0, g.rows, room);
    tile.for_entries([&](int i, int j, double sum) {
        if (r0 + i >= x_rows || c0 + j >= width) return;
        const int64_t row = r0 + i, column = b * g.width + c0 + j;
        write_number(out.data, out.type, row * out.row_stride + column * out.column_stride, by * (x[row * g.columns() + column] - sum));
    });
}

// A tile of columns, all rows of V one tile of rows after the other; nothing of V is kept but what is asked for.
template <class S, int side>
__global__ void __launch_bounds__(DoubleTile<side>::threads) whiten_kernel(const BlockedRows g, const double* w, int64_t first, int64_t count,
                                                                        int64_t block_tiles, double by, double* diagonal, double* columns) {
    using Tile = DoubleTile<side>;
    __shared__ typename Tile::Room room;
    __shared__ double by_warp[side][Tile::edge];  // sums of squares: a row of warps each
    const int64_t first_block = first / g.width, b = first_block + blockIdx.x / block_tiles;
    const int64_t start = b == first_block ? first % g.width : 0, c0 = start + blockIdx.x % block_tiles * Tile::edge;
    const int64_t rest = first + count - b * g.width, end = rest < g.width_of(b) ? rest : g.width_of(b);
    if (c0 >= end) return;
    const int64_t place = b * g.width + c0 - first;  // of the tile's first column in the results
    const RowOperand<double> left{w + b * g.rows * g.rows, g.rows, g.rows, g.rows};
    const ColumnOperand<S> right{block_of<S>(g, b), g.stride, end, g.rows};
    const int lane = static_cast<int>(threadIdx.x) % 32;
    double* const mine = by_warp[Tile::first_row() / 32] + Tile::first_column();
    for (int64_t r0 = 0; r0 < g.rows; r0 += Tile::edge) {
        Tile tile;
        const int64_t reach = r0 + Tile::edge < g.rows ? r0 + Tile::edge : g.rows;  // W is a lower triangle
        tile.add(left, r0, right, c0, 0, reach, room);
        if (columns != nullptr) {
            tile.for_entries([&](int i, int j, double v) {
                if (r0 + i < g.rows && c0 + j < end) columns[(place + j) * g.rows + r0 + i] = v;
            });
            continue;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {  // of this thread's columns
            double sum = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const double v = tile.sums[i / 2][j / 2][i % 2 * 2 + j % 2];
                sum = fma(v, v, sum);
            }
            for (int over = 16; over >= 4; over /= 2) sum += __shfl_xor_sync(~0u, sum, over);
            if (lane < 4) {
                double& to = mine[j / 2 * 8 + 2 * lane + j % 2];
                to = r0 == 0 ? sum : to + sum;
            }
        }
    }
    if (columns != nullptr) return;
    __syncthreads();
    for (int j = static_cast<int>(threadIdx.x); j < Tile::edge; j += Tile::threads) {
        double sum = 0;
        for (int row = 0; row < side; ++row) sum += by_warp[row][j];
        if (c0 + j < end) diagonal[place + j] = by * (1 - sum);
    }
}

template <class S>
__global__ void __launch_bounds__(threads) gather_columns_kernel(const BlockedRows g, const int64_t* indices, int64_t count, double* to) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= count * g.rows) return;
    to[at] = static_cast<double>(widen(static_cast<const S*>(g.data)[at % g.rows * g.stride + indices[at / g.rows]]));
}

__global__ void __launch_bounds__(DoubleTile<2>::threads) pairs_kernel(const Indexed left, const Indexed right, int64_t length, int64_t block,
                                                                      double by, int64_t tile_columns, double* out) {
    using Tile = DoubleTile<2>;
    __shared__ Tile::Room room;
    const int64_t r0 = blockIdx.x / tile_columns * Tile::edge, c0 = blockIdx.x % tile_columns * Tile::edge;
    Tile tile;
    tile.add(RowOperand<double>{left.vectors, length, left.count, length}, r0, RowOperand<double>{right.vectors, length, right.count, length}, c0, 0,
             length, room);
    tile.for_entries([&](int i, int j, double sum) {
        if (r0 + i >= left.count || c0 + j >= right.count) return;
        const int64_t row = left.index[r0 + i], column = right.index[c0 + j];
        const double entry = row / block == column / block ? by * ((row == column ? 1 : 0) - sum) : 0;
        out[left.order[r0 + i] * right.count + right.order[c0 + j]] = entry;
    });
}

Grid one_each(int64_t count, const char* name) { return {block_count(ceil_div(count, threads), name), threads}; }

}  // namespace

void gram(const BlockedRows& g, const std::uint8_t* kept, double alpha, double shift, double* k, Scratch& scratch) {
    const int64_t entries = g.blocks * g.rows * g.rows;
    for_side(g.rows, [&](auto like) {
        using Tile = decltype(like);
        const int64_t tiles = triangle_tiles(ceil_div(g.rows, Tile::edge), 1);
        const Parts parts(g.blocks * tiles, g.width, Tile::depth);
        double* const sums = parts.count == 1 ? k : scratch.take_array<double>(parts.count * entries);
        for_type(g.type, [&](auto number) {
            launch(gram_name, scratch.place(), {block_count(g.blocks * parts.count * tiles, gram_name), Tile::threads},
                   gram_kernel<decltype(number), Tile::side>, g, kept, parts, tiles, sums);
        });
        launch(gram_name, scratch.place(), one_each(entries, gram_name), gather_gram_kernel, sums, parts.count, g.rows, entries, alpha, shift, k);
    });
}

void cross(const double* x, int64_t x_rows, const BlockedRows& g, double* z, Scratch& scratch) {
    using Tile = DoubleTile<2>;
    const int64_t tile_columns = ceil_div(g.rows, Tile::edge), tiles = ceil_div(x_rows, Tile::edge) * tile_columns;
    const Parts parts(g.blocks * tiles, g.width, Tile::depth);
    const int64_t entries = g.blocks * x_rows * g.rows;
    double* const sums = parts.count == 1 ? z : scratch.take_array<double>(parts.count * entries);
    for_type(g.type, [&](auto number) {
        launch(cross_name, scratch.place(), {block_count(g.blocks * parts.count * tiles, cross_name), Tile::threads}, cross_kernel<decltype(number)>,
               x, x_rows, g, parts, tiles, tile_columns, sums);
    });
    if (parts.count == 1) return;
    add_parts(cross_name, sums, parts.count, entries, z, scratch.place());
}

void subtract_rows(const double* x, int64_t x_rows, const double* y, const BlockedRows& g, double by, const CudaView& out, CudaPlace place) {
    using Tile = DoubleTile<2>;
    constexpr const char* name = "FisherInverse: combination";
    const int64_t block_tiles = ceil_div(g.width, Tile::edge), blocks = block_tiles * g.blocks * ceil_div(x_rows, Tile::edge);
    for_type(g.type, [&](auto number) {
        launch(name, place, {block_count(blocks, name), Tile::threads}, subtract_kernel<decltype(number)>, x, x_rows, y, g, by, block_tiles, out);
    });
}

void whiten(const BlockedRows& g, const double* w, int64_t first, int64_t count, double by, double* diagonal, double* columns,
            CudaPlace place) {
    for_side(g.rows, [&](auto like) {
        using Tile = decltype(like);
        const int64_t blocks = (first + count - 1) / g.width - first / g.width + 1;
        const int64_t block_tiles = ceil_div(std::min(count, g.width), Tile::edge);
        for_type(g.type, [&](auto number) {
            launch(whiten_name, place, {block_count(blocks * block_tiles, whiten_name), Tile::threads}, whiten_kernel<decltype(number), Tile::side>,
                   g, w, first, count, block_tiles, by, diagonal, columns);
        });
    });
}

void gather_columns(const BlockedRows& g, const int64_t* indices, int64_t count, double* to, CudaPlace place) {
    constexpr const char* name = "FisherInverse: columns";
    for_type(g.type, [&](auto number) {
        launch(name, place, one_each(count * g.rows, name), gather_columns_kernel<decltype(number)>, g, indices, count, to);
    });
}

void pair_products(const Indexed& left, const Indexed& right, int64_t length, int64_t block, double by, double* out, CudaPlace place) {
    using Tile = DoubleTile<2>;
    constexpr const char* name = "FisherInverse: submatrix";
    const int64_t tile_columns = ceil_div(right.count, Tile::edge);
    launch(name, place, {block_count(ceil_div(left.count, Tile::edge) * tile_columns, name), Tile::threads}, pairs_kernel, left, right, length, block,
           by, tile_columns, out);
}

}  // namespace raphson::cuda
