// Gaussian embeddings on a CUDA device: the entries of S are made in shared memory, slice by slice of a tiled product, from
// the same numbers as on the CPU (dense.isa.cpp), by the same polynomials.
#include <algorithm>
#include <cstring>

#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* gaussian_name = "Gaussian";

__device__ __forceinline__ double double_of(std::uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
__device__ __forceinline__ std::uint64_t bits_of(double x) {
    std::uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

// ---- normal numbers -----------------------------------------------------------------------------------------------------

// Of 32 bits, in (0, 1).
__device__ __forceinline__ double unit(std::uint32_t x) { return (static_cast<double>(x) + 0.5) * 0x1p-32; }

// √(−2 log u): log u = e·log 2 + 2 artanh((m − 1)/(m + 1)), m in [√½, √2).
__device__ __forceinline__ double radius(double u) {
    const std::uint64_t bits = bits_of(u), shifted = bits - 0x3FE6A09E667F3BCDu;  // √½: m becomes at least that
    const std::uint64_t whole = shifted & 0xFFF0000000000000u;
    const double m = double_of(bits - whole), e = static_cast<double>(static_cast<int>(static_cast<std::int64_t>(whole) >> 52));
    const double t = (m - 1) / (m + 1), s = t * t;
    double q = 1.0 / 15;
    q = q * s + 1.0 / 13;
    q = q * s + 1.0 / 11;
    q = q * s + 1.0 / 9;
    q = q * s + 1.0 / 7;
    q = q * s + 1.0 / 5;
    q = q * s + 1.0 / 3;
    return sqrt(-2 * (e * 0.69314718055994530942 + 2 * t * (1 + s * q)));
}

struct Turn {
    double cosine, sine;
};

// Of 2πv, 0 < v < 1, by quarter turns.
__device__ __forceinline__ Turn turn(double v) {
    const double quarters = 4 * v, nearest = (quarters + 6755399441055744.0) - 6755399441055744.0;
    const double a = (quarters - nearest) * 1.57079632679489661923, s = a * a;
    double c = -1.0 / 3628800, d = 1.0 / 6227020800.0;
    c = c * s + 1.0 / 40320;
    c = c * s - 1.0 / 720;
    c = c * s + 1.0 / 24;
    c = c * s - 0.5;
    c = c * s + 1;
    d = d * s - 1.0 / 39916800;
    d = d * s + 1.0 / 362880;
    d = d * s - 1.0 / 5040;
    d = d * s + 1.0 / 120;
    d = d * s - 1.0 / 6;
    d = (d * s + 1) * a;
    const int quarter = static_cast<int>(nearest) & 3;
    const double x = (quarter & 1) != 0 ? d : c, y = (quarter & 1) != 0 ? c : d;
    return {quarter == 1 || quarter == 2 ? -x : x, quarter >= 2 ? -y : y};
}

struct FourNormals {
    double x[4];
};

// Rows 4k … 4k + 3 of a column.
__device__ __forceinline__ FourNormals normals_at(const NormalEntries& s, int64_t column, int64_t k) {
    const FourNumbers n = philox(s.seed, s.stream, static_cast<std::uint64_t>(s.first + column), static_cast<std::uint64_t>(k));
    const double r0 = s.scale * radius(unit(n.a)), r1 = s.scale * radius(unit(n.c));
    const Turn t0 = turn(unit(n.b)), t1 = turn(unit(n.d));
    return {{r0 * t0.cosine, r0 * t0.sine, r1 * t1.cosine, r1 * t1.sine}};
}

constexpr int entry_threads = 256;

__global__ void __launch_bounds__(entry_threads) entries_kernel(const NormalEntries s, int64_t n, double* out, int64_t ld) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * entry_threads + threadIdx.x, row = at / n * 4, column = at % n;
    if (row >= s.rows) return;
    const FourNormals normals = normals_at(s, column, row / 4);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        if (row + r < s.rows) out[(row + r) * ld + column] = normals.x[r];
    }
}

// ---- the product --------------------------------------------------------------------------------------------------------

constexpr int tile_rows = 64, tile_columns = 128, slice = 16;  // of the result; entries of its sums at once
constexpr int product_threads = 256, thread_rows = 4, thread_columns = 8, across = tile_columns / thread_columns;
static_assert(product_threads * thread_rows * thread_columns == tile_rows * tile_columns);
static_assert(product_threads * 4 == tile_rows * slice);  // every thread makes one block of four normal numbers

struct ProductWork {  // S diag(weights) X, or Sᵀ X
    const void* x;
    int64_t height, depth, d, ld;  // height × d of depth × d
    const double* weights;
    int64_t row_tiles, column_tiles, parts;
    double* sums;  // parts × height × d
};

template <bool Adjoint, class T>
__global__ void __launch_bounds__(product_threads, 2) product_kernel(const NormalEntries s, const ProductWork work) {
    __shared__ double left[slice][tile_rows], right[slice][tile_columns];
    const int thread = static_cast<int>(threadIdx.x), x = thread % across, y = thread / across;
    const int64_t row = blockIdx.x % work.row_tiles * tile_rows, block = blockIdx.x / work.row_tiles;
    const int64_t column = block % work.column_tiles * tile_columns, part = block / work.column_tiles;
    const int64_t slices = ceil_div(work.depth, slice), end = slices * (part + 1) / work.parts;
    const T* const from = static_cast<const T*>(work.x);
    double sum[thread_rows][thread_columns] = {};
    for (int64_t at = slices * part / work.parts; at < end; ++at) {
        const int64_t first = at * slice;
        constexpr int fours = (Adjoint ? slice : tile_rows) / 4;  // down a column of S
        const int column_of_s = thread / fours, rows_of_s = thread % fours * 4;
        const FourNormals normals = normals_at(s, (Adjoint ? row : first) + column_of_s, ((Adjoint ? first : row) + rows_of_s) / 4);
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            if constexpr (Adjoint) {
                left[rows_of_s + r][column_of_s] = normals.x[r];
            } else {
                left[column_of_s][rows_of_s + r] = normals.x[r];
            }
        }
#pragma unroll
        for (int i = thread; i < slice * tile_columns; i += product_threads) {
            const int64_t k = first + i / tile_columns, j = column + i % tile_columns;
            double value = 0;
            if (k < work.depth && j < work.d) {
                value = static_cast<double>(from[k * work.ld + j]);
                if (work.weights != nullptr) value *= work.weights[k];
            }
            right[i / tile_columns][i % tile_columns] = value;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < slice; ++k) {
            double l[thread_rows], r[thread_columns];
#pragma unroll
            for (int i = 0; i < thread_rows; ++i) l[i] = left[k][y * thread_rows + i];
#pragma unroll
            for (int j = 0; j < thread_columns; ++j) r[j] = right[k][x + j * across];
#pragma unroll
            for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
                for (int j = 0; j < thread_columns; ++j) sum[i][j] += l[i] * r[j];
            }
        }
        __syncthreads();
    }
    double* const to = work.sums + part * work.height * work.d;
#pragma unroll
    for (int i = 0; i < thread_rows; ++i) {
#pragma unroll
        for (int j = 0; j < thread_columns; ++j) {
            const int64_t r = row + y * thread_rows + i, c = column + x + j * across;
            if (r < work.height && c < work.d) to[r * work.d + c] = sum[i][j];
        }
    }
}

}  // namespace

void normal_entries(const NormalEntries& s, int64_t n, double* out, int64_t ld, CudaPlace place) {
    const int64_t threads = ceil_div(s.rows, 4) * n;
    const Grid grid{block_count(ceil_div(threads, entry_threads), gaussian_name), entry_threads};
    launch(gaussian_name, place, grid, entries_kernel, s, n, out, ld);
}

namespace {

template <bool Adjoint>
void multiply(const NormalEntries& s, int64_t height, const DenseRows& x, const double* weights, const DenseResult& out, Scratch& scratch) {
    constexpr int64_t blocks_wanted = 528, least_rows_a_part = 256;  // two waves of two for each processor of the largest GPUs
    const int64_t row_tiles = ceil_div(height, tile_rows), column_tiles = ceil_div(x.cols, tile_columns);
    ProductWork work{x.data, height, x.rows, x.cols, x.ld, weights, row_tiles, column_tiles, 1, nullptr};
    const int64_t tiles = row_tiles * column_tiles;
    if (tiles == 0) return;
    work.parts = std::max<int64_t>(1, std::min(ceil_div(blocks_wanted, tiles), x.rows / least_rows_a_part));
    work.sums = scratch.take_array<double>(work.parts * height * x.cols);
    for_real(x.type, gaussian_name, [&](auto like) {
        launch(gaussian_name, scratch.place(), {block_count(tiles * work.parts, gaussian_name), product_threads},
               product_kernel<Adjoint, decltype(like)>, s, work);
    });
    for_real(out.type, gaussian_name, [&](auto like) {
        using Out = decltype(like);
        const StoreScaled<Out> store{static_cast<Out*>(out.data), out.ld, x.cols, 1.0};
        add_parts(gaussian_name, work.sums, work.parts, height * x.cols, store, scratch.place());
    });
}

}  // namespace

void normal_sketch(const NormalEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch) {
    multiply<false>(s, s.rows, a, weights, out, scratch);
}

void normal_adjoint(const NormalEntries& s, const DenseRows& b, int64_t n, const DenseResult& out, Scratch& scratch) {
    multiply<true>(s, n, b, nullptr, out, scratch);
}

}  // namespace raphson::cuda
