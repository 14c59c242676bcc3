// SRHT on a CUDA device: the Hadamard transform of a long vector is that of its chunks, added with the signs of the row's
// high bits (dense_embeddings.cpp). A block of threads transforms a chunk of eight columns in shared memory, four bits of
// the row at a time in registers, and adds what the picked rows want of it to sums of its own. The adjoint scatters B's rows to
// where a chunk's transform takes them from, and transforms that.
#include <algorithm>
#include <numeric>
#include <vector>

#include "cuda/copy.h"

#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* name = "SRHT";
constexpr const char* adjoint_name = "SRHT: adjoint";
constexpr int threads = 512, columns = 8;              // of a block; 32 bytes of a float32 row
constexpr int least_chunk = 128, most_chunk = 2048;    // signs come 128 at a time; 128 KB of shared memory
constexpr int64_t blocks_wanted = 528;

struct Work {
    const void* a;
    int64_t n, d, ld;
    const double* weights;
    int chunk, bits;  // chunk = 2^bits rows
    int64_t chunks, parts, column_tiles;
    double* sums;  // parts × rows of S × d
};

__device__ __forceinline__ bool odd_parity(std::uint64_t x) {
    x ^= x >> 32;
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    return (0x6996 >> (x & 15) & 1) != 0;
}

// Bits low … low+Bits−1 of the row: 2^Bits rows, 2^low apart, of a column to a thread.
template <int Bits>
__device__ __forceinline__ void transform_bits(double* x, int chunk, int low) {
    constexpr int size = 1 << Bits;
    for (int at = static_cast<int>(threadIdx.x); at < (chunk >> Bits) * columns; at += threads) {
        const int q = at / columns, first = (q >> low << (low + Bits)) | (q & ((1 << low) - 1));
        double v[size];
#pragma unroll
        for (int i = 0; i < size; ++i) v[i] = x[(first + (i << low)) * columns + at % columns];
#pragma unroll
        for (int half_of = 1; half_of < size; half_of *= 2) {
#pragma unroll
            for (int i = 0; i < size; ++i) {
                if ((i & half_of) != 0) continue;
                const double sum = v[i] + v[i + half_of];
                v[i + half_of] = v[i] - v[i + half_of];
                v[i] = sum;
            }
        }
#pragma unroll
        for (int i = 0; i < size; ++i) x[(first + (i << low)) * columns + at % columns] = v[i];
    }
    __syncthreads();
}

__device__ __forceinline__ void transform(double* x, int chunk, int bits) {
    int low = 0;
    for (; low + 4 <= bits; low += 4) transform_bits<4>(x, chunk, low);
    if (bits - low == 3) transform_bits<3>(x, chunk, low);
    if (bits - low == 2) transform_bits<2>(x, chunk, low);
    if (bits - low == 1) transform_bits<1>(x, chunk, low);
}

// Of the rows begin … begin + chunk − 1, a bit each.
__device__ __forceinline__ void make_signs(const HadamardEntries& s, int64_t begin, int chunk, std::uint32_t* signs) {
    for (int i = static_cast<int>(threadIdx.x); i < chunk / 128; i += threads) {
        const FourNumbers four = philox(s.seed, s.stream, static_cast<std::uint64_t>((begin >> 7) + i), 0);
#pragma unroll
        for (int word = 0; word < 4; ++word) signs[4 * i + word] = four[word];
    }
    __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(threads) hadamard_kernel(const HadamardEntries s, const Work work) {
    double* const x = reinterpret_cast<double*>(dynamic_shared());
    auto* const signs = reinterpret_cast<std::uint32_t*>(x + static_cast<int64_t>(work.chunk) * columns);
    const int64_t part = blockIdx.x / work.column_tiles, column = blockIdx.x % work.column_tiles * columns;
    const int64_t first = work.chunks * part / work.parts, end = work.chunks * (part + 1) / work.parts;
    double* const sums = work.sums + part * s.rows * work.d;
    const T* const a = static_cast<const T*>(work.a);
    for (int64_t c = first; c < end; ++c) {
        const int64_t begin = c * work.chunk;
        make_signs(s, begin, work.chunk, signs);
        for (int at = static_cast<int>(threadIdx.x); at < work.chunk * columns; at += threads) {
            const int row = at / columns;
            const int64_t i = begin + row, j = column + at % columns;
            double value = 0;
            if (i < work.n && j < work.d) {
                value = static_cast<double>(a[i * work.ld + j]);
                if (work.weights != nullptr) value *= work.weights[i];
                if ((signs[row / 32] >> (row % 32) & 1) != 0) value = -value;
            }
            x[at] = value;
        }
        __syncthreads();
        transform(x, work.chunk, work.bits);
        for (int64_t at = threadIdx.x; at < s.rows * columns; at += threads) {
            const int64_t r = at / columns, j = column + at % columns, pick = s.picked[r];
            if (j >= work.d) continue;
            const double value = x[(pick & (work.chunk - 1)) * columns + at % columns];
            double& sum = sums[r * work.d + j];
            const double signed_value = odd_parity(static_cast<std::uint64_t>(begin & pick)) ? -value : value;
            sum = c == first ? signed_value : sum + signed_value;
        }
        __syncthreads();
    }
}

struct AdjointWork {
    const void* b;
    int64_t ld;
    int chunk, bits;
    int64_t n, d, out_ld, column_tiles;
    const int64_t* order;   // the rows of S by the low bits of what they picked
    const int64_t* starts;  // chunk + 1: where in `order` those of each low part begin
};

template <class T, class Out>
__global__ void __launch_bounds__(threads) adjoint_kernel(const HadamardEntries s, const AdjointWork work, Out* out) {
    double* const x = reinterpret_cast<double*>(dynamic_shared());
    auto* const signs = reinterpret_cast<std::uint32_t*>(x + static_cast<int64_t>(work.chunk) * columns);
    const int64_t begin = blockIdx.x / work.column_tiles * work.chunk, column = blockIdx.x % work.column_tiles * columns;
    const T* const b = static_cast<const T*>(work.b);
    make_signs(s, begin, work.chunk, signs);
    for (int at = static_cast<int>(threadIdx.x); at < work.chunk * columns; at += threads) {
        const int64_t low = at / columns, j = column + at % columns;
        double sum = 0;
        for (int64_t k = work.starts[low]; j < work.d && k < work.starts[low + 1]; ++k) {
            const int64_t r = work.order[k];
            const auto value = static_cast<double>(b[r * work.ld + j]);
            sum += odd_parity(static_cast<std::uint64_t>(begin & s.picked[r])) ? -value : value;
        }
        x[at] = sum;
    }
    __syncthreads();
    transform(x, work.chunk, work.bits);
    for (int at = static_cast<int>(threadIdx.x); at < work.chunk * columns; at += threads) {
        const int row = at / columns;
        const int64_t i = begin + row, j = column + at % columns;
        if (i >= work.n || j >= work.d) continue;
        const double value = s.scale * x[at];
        out[i * work.out_ld + j] = static_cast<Out>((signs[row / 32] >> (row % 32) & 1) != 0 ? -value : value);
    }
}

std::size_t shared_for(int chunk) { return static_cast<std::size_t>(chunk) * (columns * sizeof(double) + 1); }

int chunk_for(int64_t rows, CudaPlace place) {
    int chunk = power_of_two(rows, least_chunk, most_chunk);
    while (chunk > least_chunk && shared_for(chunk) > traits(place.device).shared_bytes) chunk /= 2;
    return chunk;
}
int bits_of(int chunk) {
    int bits = 0;
    while (1 << bits < chunk) ++bits;
    return bits;
}

}  // namespace

void hadamard_sketch(const HadamardEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    Work work{a.data, a.rows, a.cols, a.ld, weights, 0, 0, 0, 1, ceil_div(a.cols, columns), nullptr};
    if (work.column_tiles == 0) return;
    work.chunk = chunk_for(std::min(a.rows, 2 * s.rows), place);
    work.bits = bits_of(work.chunk);
    work.chunks = std::max<int64_t>(1, ceil_div(a.rows, work.chunk));
    work.parts = std::clamp<int64_t>(ceil_div(blocks_wanted, work.column_tiles), 1, work.chunks);
    work.sums = scratch.take_array<double>(work.parts * s.rows * a.cols);
    for_real(a.type, name, [&](auto like) {
        const Grid grid{block_count(work.column_tiles * work.parts, name), threads, shared_for(work.chunk)};
        launch(name, place, grid, hadamard_kernel<decltype(like)>, s, work);
    });
    for_real(out.type, name, [&](auto like) {
        using Out = decltype(like);
        const StoreScaled<Out> store{static_cast<Out*>(out.data), out.ld, a.cols, s.scale};
        add_parts(name, work.sums, work.parts, s.rows * a.cols, store, place);
    });
}

void hadamard_adjoint(const HadamardEntries& s, const int64_t* picked, const DenseRows& b, int64_t n, const DenseResult& out,
                      Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const int chunk = chunk_for(n, place);
    const int64_t column_tiles = ceil_div(b.cols, columns);
    if (n == 0 || column_tiles == 0) return;
    std::vector<int64_t> order(static_cast<std::size_t>(s.rows)), starts(static_cast<std::size_t>(chunk) + 1, 0);
    const auto low = [&](int64_t r) { return picked[r] & (chunk - 1); };
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](int64_t r, int64_t t) { return low(r) < low(t); });
    for (const int64_t r : order) ++starts[static_cast<std::size_t>(low(r)) + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    const AdjointWork work{b.data, b.ld, chunk, bits_of(chunk), n, b.cols, out.ld, column_tiles, upload(order, scratch),
                           upload(starts, scratch)};
    const Grid grid{block_count(column_tiles * ceil_div(n, chunk), adjoint_name), threads, shared_for(chunk)};
    for_real(b.type, adjoint_name, [&](auto like) {
        for_real(out.type, adjoint_name, [&](auto result) {
            using Out = decltype(result);
            launch(adjoint_name, place, grid, adjoint_kernel<decltype(like), Out>, s, work, static_cast<Out*>(out.data));
        });
    });
}

}  // namespace raphson::cuda
