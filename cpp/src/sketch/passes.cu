// Sparse sign embeddings on a CUDA device. A's rows are cut into chunks; per chunk, one block for every band of the sketch
// sorts that band's entries by sketch row and then by row of A: an inverted index in one fixed order. Sums are then
// gathered, never scattered, in ascending rows of A:
// - by tiles: a block holds sums of up to 2,048 sketch rows × 8 columns in registers, walks down A's chunks in shared
//   memory, and serves all nnz entries of a row with one read of it;
// - by rows: a thread or more for every sketch row fetch their rows of A from memory: nnz reads of A, whole rows of it.
#include <algorithm>
#include <cmath>

#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* sketch_name = "SparseSign";

// ---- the entries --------------------------------------------------------------------------------------------------------

__host__ __device__ inline int64_t band_begin(const SignEntries& s, int64_t band) { return s.rows * band / s.nnz; }

// Entry k of column first + i; one number of Philox chooses row and sign.
__device__ __forceinline__ std::uint32_t place_of(const SignEntries& s, int k, std::uint32_t number) {
    const auto low = static_cast<std::uint64_t>(band_begin(s, k));
    const std::uint64_t height = static_cast<std::uint64_t>(band_begin(s, k + 1)) - low;
    return static_cast<std::uint32_t>((low + ((number >> 1) * height >> 31)) << 1 | (number & 1));
}
__device__ __forceinline__ std::uint32_t place_at(const SignEntries& s, int64_t i, int k) {
    const auto position = static_cast<std::uint64_t>(s.first + i);
    return place_of(s, k, philox(s.seed, s.stream, position, static_cast<std::uint64_t>(k / 4))[k % 4]);
}

constexpr int place_threads = 256;

// One block of Philox, up to four entries, a thread.
__global__ void __launch_bounds__(place_threads) places_kernel(const SignEntries s, int64_t n, std::uint32_t* place) {
    const int64_t fours = ceil_div(s.nnz, 4), at = static_cast<int64_t>(blockIdx.x) * place_threads + threadIdx.x;
    if (at >= n * fours) return;
    const int64_t i = at / fours;
    const int from = static_cast<int>(at % fours) * 4;
    const auto position = static_cast<std::uint64_t>(s.first + i);
    const FourNumbers numbers = philox(s.seed, s.stream, position, static_cast<std::uint64_t>(from / 4));
    for (int k = from; k < s.nnz && k < from + 4; ++k) place[i * s.nnz + k] = place_of(s, k, numbers[k % 4]);
}

// ---- the inverted index -------------------------------------------------------------------------------------------------

// An entry: row within the chunk and, in the lowest bit, the sign (1: minus).
using Entry = std::uint16_t;
constexpr int most_chunk_rows = 1 << 14;  // what 15 bits and a block's shared memory hold
constexpr int most_index_threads = 512;

// Chunk c: entries of sketch row r at entry[c · chunk · nnz + i] for i from first[c · pitch + r] to before the next one's.
struct Index {
    Entry* entry;
    std::uint32_t* first;
    int64_t n, rows, pitch;
    int64_t chunks;
    int chunk, nnz;

    __host__ __device__ int rows_in(int64_t c) const {
        const int64_t left = n - c * chunk;
        return left < chunk ? static_cast<int>(left) : chunk;
    }
    __host__ __device__ const Entry* entries(int64_t c) const { return entry + c * chunk * nnz; }
    __host__ __device__ const std::uint32_t* starts(int64_t c) const { return first + c * pitch; }
};

// Block: one band of one chunk. Keys are sketch row, row, sign: no two are equal, so that any sort gives the same.
__global__ void __launch_bounds__(most_index_threads) index_kernel(const SignEntries s, const Index index) {
    auto* key = reinterpret_cast<std::uint64_t*>(dynamic_shared());
    const int64_t c = blockIdx.x / s.nnz;
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int band = static_cast<int>(blockIdx.x % s.nnz), chunk = index.chunk, rows = index.rows_in(c);
    for (int i = thread; i < chunk; i += threads) {
        key[i] = ~std::uint64_t{0};  // after the last row: sorted to the end
        if (i >= rows) continue;
        const std::uint32_t place = place_at(s, c * chunk + i, band);
        key[i] = std::uint64_t{place >> 1} << 15 | static_cast<std::uint64_t>(i) << 1 | (place & 1);
    }
    for (int size = 2; size <= chunk; size *= 2) {  // bitonic
        for (int step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int pair = thread; pair < chunk / 2; pair += threads) {
                const int low = (pair & ~(step - 1)) * 2 + (pair & (step - 1));
                const std::uint64_t a = key[low], b = key[low + step];
                if ((a > b) != ((low & size) != 0)) {
                    key[low] = b;
                    key[low + step] = a;
                }
            }
        }
    }
    __syncthreads();
    // Band after band, as rows of the sketch are: every row of the chunk has one entry in each.
    const int64_t before = static_cast<int64_t>(band) * rows;
    Entry* const entry = index.entry + c * chunk * s.nnz + before;
    for (int i = thread; i < rows; i += threads) entry[i] = static_cast<Entry>(key[i] & 0x7fff);
    std::uint32_t* const first = index.first + c * index.pitch;
    const int64_t end = band_begin(s, band + 1);
    for (int64_t r = band_begin(s, band) + thread; r < end; r += threads) {
        int low = 0, high = rows;  // the first key of row r or later
        while (low < high) {
            const int middle = (low + high) / 2;
            if (static_cast<int64_t>(key[middle] >> 15) < r) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        first[r] = static_cast<std::uint32_t>(before + low);
    }
    if (band == s.nnz - 1 && thread == 0) first[s.rows] = static_cast<std::uint32_t>(before + rows);
}

Index make_index(const SignEntries& s, int64_t n, int chunk, Scratch& scratch) {
    Index index{};
    index.n = n;
    index.rows = s.rows;
    index.pitch = ceil_div(s.rows + 1, 4) * 4;  // 16 bytes
    index.chunks = ceil_div(n, chunk);
    index.chunk = chunk;
    index.nnz = s.nnz;
    constexpr int64_t entries_a_pack = 16 / static_cast<int64_t>(sizeof(Entry));  // the last chunk is read in whole packs
    index.entry = scratch.take_array<Entry>(ceil_div(index.chunks * chunk * s.nnz, entries_a_pack) * entries_a_pack);
    index.first = scratch.take_array<std::uint32_t>(index.chunks * index.pitch);
    const char* const name = "SparseSign: index";
    const Grid grid{block_count(index.chunks * s.nnz, name), static_cast<unsigned>(power_of_two(chunk / 2, 32, most_index_threads)),
                    static_cast<std::size_t>(chunk) * sizeof(std::uint64_t)};
    launch(name, scratch.place(), grid, index_kernel, s, index);
    return index;
}

// ---- by tiles -----------------------------------------------------------------------------------------------------------

constexpr int tile_threads = 1024, rows_a_thread = 8, columns_a_thread = 2, most_tiled_nnz = 8;
constexpr int staged_bytes = 32 << 10;  // of A, twice

template <class T>
struct __align__(columns_a_thread * sizeof(T)) Few {  // read from shared memory at once
    T x[columns_a_thread];
};

// Lanes threads side by side hold a row of sums: few for many rows of the sketch.
template <class T, int Lanes>
struct Tile {
    static constexpr int groups = tile_threads / Lanes, columns = Lanes * columns_a_thread, rows = groups * rows_a_thread;
    static constexpr int chunk = staged_bytes / (columns * static_cast<int>(sizeof(T)));
};

// One of the two chunks in shared memory; all pieces are whole packs.
template <class T, int Lanes>
struct Staged {
    T* a;                  // chunk × columns
    double* weight;        // chunk
    std::uint32_t* first;  // rows + 1, rounded up to packs
    Entry* entry;          // chunk × nnz

    static constexpr int starts = Tile<T, Lanes>::rows + 4;
    static constexpr std::size_t bytes(int nnz) {
        using Shape = Tile<T, Lanes>;
        return staged_bytes + sizeof(double) * Shape::chunk + sizeof(std::uint32_t) * starts +
               sizeof(Entry) * Shape::chunk * static_cast<std::size_t>(nnz);
    }
    __device__ __forceinline__ Staged(unsigned char* room) {
        using Shape = Tile<T, Lanes>;
        a = reinterpret_cast<T*>(room);
        weight = reinterpret_cast<double*>(room + staged_bytes);
        first = reinterpret_cast<std::uint32_t*>(weight + Shape::chunk);
        entry = reinterpret_cast<Entry*>(first + starts);
    }
};

struct TileWork {
    const void* a;
    int64_t ld, cols;
    const double* weights;
    int64_t sketch_tiles, column_tiles, parts;
    double* sums;  // parts × sketch rows × cols
};

// By all threads: rows of A, weights and index of chunk c.
template <bool Vector, class T, int Lanes>
__device__ __forceinline__ void stage_chunk(const TileWork& work, const Index& index, int64_t c, int64_t sketch_row,
                                            int64_t column, const Staged<T, Lanes>& to) {
    using Shape = Tile<T, Lanes>;
    const int rows = index.rows_in(c), thread = static_cast<int>(threadIdx.x);
    const int columns = static_cast<int>(work.cols - column < Shape::columns ? work.cols - column : Shape::columns);
    const T* const a = static_cast<const T*>(work.a) + c * index.chunk * work.ld + column;
    stage_rows<Vector>(a, work.ld, rows, columns, to.a, Shape::columns);
    if (work.weights != nullptr && thread < rows) to.weight[thread] = work.weights[c * index.chunk + thread];
    const int64_t left = index.rows - sketch_row;
    const int starts = static_cast<int>(left < Shape::rows ? left : Shape::rows) + 1;
    for (int i = thread * 4; i < starts; i += tile_threads * 4) copy_ahead(to.first + i, index.starts(c) + sketch_row + i);
    constexpr int pack = 16 / static_cast<int>(sizeof(Entry));
    for (int i = thread * pack; i < rows * index.nnz; i += tile_threads * pack) copy_ahead(to.entry + i, index.entries(c) + i);
}

// sums of one tile over one part of the chunks, rows of A ascending for every sum.
template <bool Vector, class T, int Lanes>
__global__ void __launch_bounds__(tile_threads) tile_kernel(const TileWork work, const Index index) {
    using Shape = Tile<T, Lanes>;
    static_assert(Shape::chunk <= tile_threads);
    const int lane = static_cast<int>(threadIdx.x) % Lanes, group = static_cast<int>(threadIdx.x) / Lanes;
    // Tiles that read the same rows of A are neighbours: their reads meet in the second-level cache.
    const int64_t sketch_row = blockIdx.x % work.sketch_tiles * Shape::rows, block = blockIdx.x / work.sketch_tiles;
    const int64_t column = block % work.column_tiles * Shape::columns, part = block / work.column_tiles;
    const int64_t begin = index.chunks * part / work.parts, end = index.chunks * (part + 1) / work.parts;
    const int here = static_cast<int>(index.rows - sketch_row < Shape::rows ? index.rows - sketch_row : Shape::rows);
    const std::size_t room = Staged<T, Lanes>::bytes(index.nnz);

    double sum[rows_a_thread][columns_a_thread] = {};
    if (begin < end) stage_chunk<Vector>(work, index, begin, sketch_row, column, Staged<T, Lanes>(dynamic_shared()));
    close_copies();
    for (int64_t c = begin; c < end; ++c) {
        if (c + 1 < end) {
            const Staged<T, Lanes> next(dynamic_shared() + ((c + 1 - begin) & 1) * room);
            stage_chunk<Vector>(work, index, c + 1, sketch_row, column, next);
        }
        close_copies();
        await_copies<1>();
        __syncthreads();
        const Staged<T, Lanes> staged(dynamic_shared() + ((c - begin) & 1) * room);
        const T* const a = staged.a + lane * columns_a_thread;
#pragma unroll
        for (int q = 0; q < rows_a_thread; ++q) {
            const int r = q * Shape::groups + group;
            if (r >= here) continue;
            const std::uint32_t last = staged.first[r + 1];
#pragma unroll 2
            for (std::uint32_t p = staged.first[r]; p < last; ++p) {
                const unsigned entry = staged.entry[p], row = entry >> 1;
                const double weight = work.weights != nullptr ? staged.weight[row] : 1.0;
                const double factor = (entry & 1) != 0 ? -weight : weight;
                const Few<T> x = *reinterpret_cast<const Few<T>*>(a + row * Shape::columns);
#pragma unroll
                for (int e = 0; e < columns_a_thread; ++e) sum[q][e] += factor * static_cast<double>(x.x[e]);
            }
        }
        __syncthreads();
    }
    double* const to = work.sums + part * index.rows * work.cols;
#pragma unroll
    for (int q = 0; q < rows_a_thread; ++q) {
        const int r = q * Shape::groups + group;
#pragma unroll
        for (int e = 0; e < columns_a_thread; ++e) {
            const int64_t j = column + lane * columns_a_thread + e;
            if (r < here && j < work.cols) to[(sketch_row + r) * work.cols + j] = sum[q][e];
        }
    }
}

template <class T, int Lanes>
void sketch_by_tiles(const SignEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch) {
    using Shape = Tile<T, Lanes>;
    constexpr int64_t blocks_wanted = 1056;   // eight waves of the largest GPUs of today
    constexpr int64_t rows_a_sketch_row = 32;  // of A and a part: what its sums cost stays an eighth of a read
    const Index index = make_index(s, a.rows, Shape::chunk, scratch);
    TileWork work{a.data, a.ld, a.cols, weights, ceil_div(s.rows, Shape::rows), ceil_div(a.cols, Shape::columns), 1, nullptr};
    const int64_t tiles = work.sketch_tiles * work.column_tiles;
    const int64_t affordable = a.rows / (rows_a_sketch_row * s.rows);
    work.parts = std::max<int64_t>(1, std::min({ceil_div(blocks_wanted, tiles), index.chunks, affordable}));
    work.sums = scratch.take_array<double>(work.parts * s.rows * a.cols);
    const Grid grid{block_count(tiles * work.parts, sketch_name), tile_threads, 2 * Staged<T, Lanes>::bytes(s.nnz)};
    launch(sketch_name, scratch.place(), grid,
           packs_fit(a.data, a.type, a.ld) ? tile_kernel<true, T, Lanes> : tile_kernel<false, T, Lanes>, work, index);
    for_real(out.type, sketch_name, [&](auto like) {
        using Out = decltype(like);
        const StoreScaled<Out> store{static_cast<Out*>(out.data), out.ld, a.cols, 1 / std::sqrt(static_cast<double>(s.nnz))};
        add_parts(sketch_name, work.sums, work.parts, s.rows * a.cols, store, scratch.place());
    });
}

// ---- by rows ------------------------------------------------------------------------------------------------------------

constexpr int row_threads = 128;

struct RowWork {
    const void* a;
    int64_t ld, cols;
    const double* weights;
    double scale;
    int64_t out_ld, column_tiles;
    int lanes;  // threads side by side on a sketch row, a pack of columns each
};

template <bool Vector, class T, class Out>
__global__ void __launch_bounds__(row_threads) rows_kernel(const RowWork work, const Index index, Out* out) {
    constexpr int size = pack_size<T>;
    const int lane = static_cast<int>(threadIdx.x) % work.lanes, rows = row_threads / work.lanes;
    const int64_t r = blockIdx.x / work.column_tiles * rows + static_cast<int>(threadIdx.x) / work.lanes;
    const int64_t column = (blockIdx.x % work.column_tiles * work.lanes + lane) * size;
    if (r >= index.rows || column >= work.cols) return;
    double sum[size] = {};
    for (int64_t c = 0; c < index.chunks; ++c) {
        const std::uint32_t* const first = index.starts(c) + r;
        const Entry* const entries = index.entries(c);
        const T* const a = static_cast<const T*>(work.a) + c * index.chunk * work.ld;
        const std::uint32_t last = first[1];
#pragma unroll 4
        for (std::uint32_t p = first[0]; p < last; ++p) {
            const unsigned entry = entries[p], row = entry >> 1;
            const double weight = work.weights != nullptr ? work.weights[c * index.chunk + row] : 1.0;
            const double factor = (entry & 1) != 0 ? -weight : weight;
            const Pack<T> x = load_pack<Vector>(a + row * work.ld, column, work.cols);
#pragma unroll
            for (int e = 0; e < size; ++e) sum[e] += factor * static_cast<double>(x.x[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < size; ++e) {
        if (column + e < work.cols) out[r * work.out_ld + column + e] = static_cast<Out>(work.scale * sum[e]);
    }
}

template <class T>
void sketch_by_rows(const SignEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch) {
    int most_rows = most_chunk_rows;  // an A100 and a Hopper hold that many, smaller relatives do not
    const std::size_t there = traits(scratch.place().device).shared_bytes;
    while (static_cast<std::size_t>(most_rows) * sizeof(std::uint64_t) > there) most_rows /= 2;
    const Index index = make_index(s, a.rows, power_of_two(a.rows, 32, most_rows), scratch);
    const int lanes = power_of_two(ceil_div(a.cols, pack_size<T>), 1, row_threads);
    const RowWork work{a.data, a.ld, a.cols, weights, 1 / std::sqrt(static_cast<double>(s.nnz)), out.ld,
                       ceil_div(a.cols, int64_t{lanes} * pack_size<T>), lanes};
    const Grid grid{block_count(ceil_div(s.rows, row_threads / lanes) * work.column_tiles, sketch_name), row_threads};
    for_real(out.type, sketch_name, [&](auto like) {
        using Out = decltype(like);
        const auto kernel = packs_fit(a.data, a.type, a.ld) ? rows_kernel<true, T, Out> : rows_kernel<false, T, Out>;
        launch(sketch_name, scratch.place(), grid, kernel, work, index, static_cast<Out*>(out.data));
    });
}

// ---- the adjoint --------------------------------------------------------------------------------------------------------

constexpr int adjoint_threads = 256;

// A warp a row of the result. Its lanes make 32 of the row's places at a time and tell each other.
template <bool Vector, class T, class Out>
__global__ void __launch_bounds__(adjoint_threads) adjoint_kernel(const SignEntries s, const T* b, int64_t ld, int64_t cols,
                                                                  int64_t n, double scale, Out* out, int64_t out_ld) {
    constexpr int size = pack_size<T>;
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * adjoint_threads + threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (i >= n) return;  // a whole warp
    std::uint32_t mine = lane < s.nnz ? place_at(s, i, lane) : 0;
    for (int64_t tile = 0; tile < cols; tile += 32 * size) {
        const int64_t column = tile + lane * size;
        double sum[size] = {};
        for (int from = 0; from < s.nnz; from += 32) {
            if (s.nnz > 32) mine = from + lane < s.nnz ? place_at(s, i, from + lane) : 0;
            const int count = s.nnz - from < 32 ? s.nnz - from : 32;
#pragma unroll 2
            for (int k = 0; k < count; ++k) {
                const std::uint32_t place = __shfl_sync(~0u, mine, k);
                const Pack<T> x = load_pack<Vector>(b + static_cast<int64_t>(place >> 1) * ld, column, cols);
                const double sign = (place & 1) != 0 ? -1.0 : 1.0;
#pragma unroll
                for (int e = 0; e < size; ++e) sum[e] += sign * static_cast<double>(x.x[e]);
            }
        }
#pragma unroll
        for (int e = 0; e < size; ++e) {
            if (column + e < cols) out[i * out_ld + column + e] = static_cast<Out>(scale * sum[e]);
        }
    }
}

}  // namespace

void sign_places(const SignEntries& s, int64_t n, std::uint32_t* place, CudaPlace place_of_work) {
    const int64_t threads = n * ceil_div(s.nnz, 4);
    const char* const name = "SparseSign: places";
    launch(name, place_of_work, {block_count(ceil_div(threads, place_threads), name), place_threads}, places_kernel, s, n, place);
}

void sign_sketch(const SignEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch) {
    constexpr int64_t fewest_rows = 512;  // of a CountSketch, whose rows then keep the device busy
    if (a.cols == 0) return;
    for_real(a.type, sketch_name, [&](auto like) {
        using T = decltype(like);
        const int64_t tiles = ceil_div(s.rows, Tile<T, 4>::rows);
        const bool tiles_fit = 2 * Staged<T, 4>::bytes(s.nnz) <= traits(scratch.place().device).shared_bytes;  // the largest
        const bool by_rows = s.nnz > most_tiled_nnz || !tiles_fit || (s.nnz == 1 ? s.rows >= fewest_rows : tiles >= s.nnz);
        if (by_rows) return sketch_by_rows<T>(s, a, weights, out, scratch);
        if (s.rows <= Tile<T, 32>::rows) return sketch_by_tiles<T, 32>(s, a, weights, out, scratch);
        if (s.rows <= Tile<T, 16>::rows) return sketch_by_tiles<T, 16>(s, a, weights, out, scratch);
        if (s.rows <= Tile<T, 8>::rows) return sketch_by_tiles<T, 8>(s, a, weights, out, scratch);
        sketch_by_tiles<T, 4>(s, a, weights, out, scratch);
    });
}

void sign_adjoint(const SignEntries& s, const DenseRows& b, int64_t n, const DenseResult& out, CudaPlace place) {
    const char* const name = "SparseSign: adjoint";
    const Grid grid{block_count(ceil_div(n, adjoint_threads / 32), name), adjoint_threads};
    const double scale = 1 / std::sqrt(static_cast<double>(s.nnz));
    for_real(b.type, name, [&](auto like) {
        using T = decltype(like);
        for_real(out.type, name, [&](auto result) {
            using Out = decltype(result);
            const auto kernel = packs_fit(b.data, b.type, b.ld) ? adjoint_kernel<true, T, Out> : adjoint_kernel<false, T, Out>;
            launch(name, place, grid, kernel, s, static_cast<const T*>(b.data), b.ld, b.cols, n, scale, static_cast<Out*>(out.data),
                   out.ld);
        });
    });
}

}  // namespace raphson::cuda
