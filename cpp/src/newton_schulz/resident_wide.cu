// Matrices of up to 256 rows in 16-bit arithmetic with sums in float32, in one launch: X lies in shared memory beside one
// triangle of its Gram matrix, in tiles of 16 × 16. The triangle is updated in place, its sums all in registers, and so are
// X's columns, a panel at a time.
#include "gemm/mma.h"
#include "newton_schulz/resident.h"

namespace raphson::cuda {
namespace {

constexpr int edge = 16, most_blocks = 16;  // blocks of 16 rows
constexpr int groups = 4;                   // block b belongs to group b % 4, so that any number of blocks is even work
constexpr int held = 20;                    // tiles whose sums a warp holds at most
constexpr int panel = 128;                  // columns of X: two halves of four tiles
constexpr int skew = 8;                     // numbers: rows of shared memory begin in different banks

struct Shape {
    int blocks, deep;  // of 16 rows, and of 16 columns
    __host__ __device__ int pitch() const { return edge * deep + skew; }
    __host__ __device__ int numbers() const { return edge * blocks * pitch(); }
    __host__ __device__ std::size_t bytes() const {
        return 2 * (static_cast<std::size_t>(numbers()) + static_cast<std::size_t>(edge) * edge * (blocks * (blocks + 1) / 2));
    }
};

using Sums = float[held][2][4];
template <class P>
struct alignas(4) Pair {
    P first, second;
};

__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

// Where tile (row, col), col ≤ row, of the triangle begins, …
__device__ __forceinline__ int tile_at(int row, int col) { return (row * (row + 1) / 2 + col) * edge * edge; }
// … and in it the numbers 8·half … of a row. Halves change places every four rows: eight rows of one half meet all banks.
__device__ __forceinline__ int in_tile(int row, int half_of) { return row * edge + (half_of ^ (row >> 2 & 1)) * 8; }

// A tile as mma's left operand. As its right one, transposed, the first eight columns are r[0], r[2], the others r[1], r[3].
struct Fragment {
    std::uint32_t r[4];
};
template <class P>
__device__ __forceinline__ void load_rows(Fragment& f, const P* x, int pitch, int row, int col) {
    load_tiles<false>(f.r, x + (edge * row + lane() % 16) * pitch + edge * col + lane() / 16 * 8);
}
// Tile (row, col) of the symmetric matrix whose lower triangle is stored.
template <class P>
__device__ __forceinline__ void load_symmetric(Fragment& f, const P* triangle, int row, int col) {
    if (col <= row) {
        load_tiles<false>(f.r, triangle + tile_at(row, col) + in_tile(lane() % 16, lane() / 16));
    } else {
        load_tiles<true>(f.r, triangle + tile_at(col, row) + in_tile(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2));
    }
}
template <class P>
__device__ __forceinline__ void multiply(float (&sums)[2][4], const Fragment& left, const Fragment& right) {
    multiply_tiles(sums[0], left.r, right.r[0], right.r[2], P{});
    multiply_tiles(sums[1], left.r, right.r[1], right.r[3], P{});
}

__device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (int i = 0; i < held; ++i) {
#pragma unroll
        for (int e = 0; e < 8; ++e) sums[i][e / 4][e % 4] = 0;
    }
}

// The triangle is dealt to eight warps: six have the tiles between two groups of blocks each (16 of 256 rows), two have those
// within two groups (20), whose blocks are either operand with one load.
struct Share {
    bool within;
    int high, low;  // groups
};
__device__ __forceinline__ Share share() {
    const int w = warp(), high = w < 1 ? 1 : w < 3 ? 2 : 3;
    return w < 6 ? Share{false, high, w - high * (high - 1) / 2} : Share{true, w - 4, w - 6};
}

// f(number of the sums, tile row, tile column ≤ row) for every tile of this warp.
template <class F>
__device__ __forceinline__ void for_tiles(int blocks, F&& f) {
    const Share mine = share();
    if (!mine.within) {
#pragma unroll
        for (int i = 0; i < groups; ++i) {
#pragma unroll
            for (int j = 0; j < groups; ++j) {
                const int a = mine.high + groups * i, b = mine.low + groups * j, row = i >= j ? a : b;
                if (row < blocks) f(groups * i + j, row, i >= j ? b : a);
            }
        }
    } else {
#pragma unroll
        for (int which = 0; which < 2; ++which) {
            const int group = which == 0 ? mine.low : mine.high;
#pragma unroll
            for (int i = 0; i < groups; ++i) {
#pragma unroll
                for (int j = 0; j <= i; ++j) {
                    if (group + groups * i < blocks) f(10 * which + i * (i + 1) / 2 + j, group + groups * i, group + groups * j);
                }
            }
        }
    }
}

// sums ← the lower triangle of M·Mᵀ, where load(fragment, row, col) gives M's tiles, `deep` of them in a row.
template <class P, class Load>
__device__ __forceinline__ void multiply_triangle(Sums& sums, int blocks, int deep, Load&& load) {
    const Share mine = share();
    clear(sums);
    if (!mine.within) {
#pragma unroll 1
        for (int k = 0; k < deep; ++k) {
            Fragment a[groups] = {};
#pragma unroll
            for (int i = 0; i < groups; ++i) {
                if (mine.high + groups * i < blocks) load(a[i], mine.high + groups * i, k);
            }
#pragma unroll
            for (int j = 0; j < groups; ++j) {
                if (mine.low + groups * j >= blocks) continue;
                Fragment b;
                load(b, mine.low + groups * j, k);
#pragma unroll
                for (int i = 0; i < groups; ++i) {  // the later block of the two is the row
                    if (i < j) multiply<P>(sums[groups * i + j], b, a[i]);
                    if (i >= j && mine.high + groups * i < blocks) multiply<P>(sums[groups * i + j], a[i], b);
                }
            }
        }
    } else {
#pragma unroll 1
        for (int k = 0; k < deep; ++k) {
#pragma unroll
            for (int which = 0; which < 2; ++which) {
                const int group = which == 0 ? mine.low : mine.high;
                Fragment a[groups] = {};
#pragma unroll
                for (int i = 0; i < groups; ++i) {
                    if (group + groups * i >= blocks) continue;
                    load(a[i], group + groups * i, k);
#pragma unroll
                    for (int j = 0; j <= i; ++j) multiply<P>(sums[10 * which + i * (i + 1) / 2 + j], a[i], a[j]);
                }
            }
        }
    }
}

// The same number, as if unknown: addresses made of it are made where they are used. Those of twenty tiles, made all at once,
// would not fit the registers beside the sums.
__device__ __forceinline__ int anew(int x) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(x));
#endif
    return x;
}

// The stored triangle ← value(what is stored, sum).
template <class P, class F>
__device__ __forceinline__ void store_triangle(const Sums& sums, int blocks, P* triangle, F&& value) {
    for_tiles(blocks, [&](int number, int row, int col) {
        const int me = anew(lane());
        P* const tile = triangle + tile_at(anew(row), col);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            auto& pair = *reinterpret_cast<Pair<P>*>(tile + in_tile(me / 4 + e % 2 * 8, e / 2) + me % 4 * 2);
            const float(&sum)[4] = sums[number][e / 2];
            pair = {Rounded<P>::of(value(pair.first, sum[e % 2 * 2])), Rounded<P>::of(value(pair.second, sum[e % 2 * 2 + 1]))};
        }
    });
}

// matrix ← own · matrix + by · M · matrix, M the symmetric matrix of the triangle. A panel of columns needs no other.
template <class P>
__device__ __forceinline__ void multiply_onto(Sums& sums, const P* triangle, float own, float by, const Shape& shape, P* matrix) {
    const int group = warp() % groups, pitch = shape.pitch(), columns = edge * shape.deep;
    for (int base = 0; base < columns; base += panel) {
        const int first = base + panel / 2 * (warp() / groups);
        clear(sums);
#pragma unroll 1
        for (int k = 0; k < shape.blocks; ++k) {
            Fragment a[groups] = {};
#pragma unroll
            for (int i = 0; i < groups; ++i) {
                if (group + groups * i < shape.blocks) load_symmetric(a[i], triangle, group + groups * i, k);
            }
#pragma unroll
            for (int j = 0; j < groups; ++j) {
                const int column = first + edge * j;
                if (column >= columns) continue;
                std::uint32_t b[4];
                load_tiles<true>(b, matrix + (edge * k + lane() % 16) * pitch + column + lane() / 16 * 8);
#pragma unroll
                for (int i = 0; i < groups; ++i) {
                    if (group + groups * i >= shape.blocks) continue;
                    multiply_tiles(sums[groups * i + j][0], a[i].r, b[0], b[1], P{});
                    multiply_tiles(sums[groups * i + j][1], a[i].r, b[2], b[3], P{});
                }
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < groups; ++i) {
#pragma unroll
            for (int j = 0; j < groups; ++j) {
                const int row = group + groups * i, column = first + edge * j;
                if (row >= shape.blocks || column >= columns) continue;
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int r = edge * row + lane() / 4 + e % 2 * 8, c = column + e / 2 * 8 + lane() % 4 * 2;
                    auto& pair = *reinterpret_cast<Pair<P>*>(matrix + r * pitch + c);
                    const float(&sum)[4] = sums[groups * i + j][e / 2];
                    pair = {Rounded<P>::of(fmaf(own, widen(pair.first), by * sum[e % 2 * 2])),
                            Rounded<P>::of(fmaf(own, widen(pair.second), by * sum[e % 2 * 2 + 1]))};
                }
            }
        }
    }
    __syncthreads();
}

template <class P>
__global__ void __launch_bounds__(resident_threads, 1)
    resident_wide_kernel(const __grid_constant__ ResidentArrays arrays, const Shape shape, const ResidentSteps steps,
                         double factor, double eps) {
    __shared__ double room[resident_threads / 32];
    P* const matrix = reinterpret_cast<P*>(dynamic_shared());
    P* const triangle = matrix + shape.numbers();
    const int pitch = shape.pitch();
    for (int i = static_cast<int>(threadIdx.x); i < shape.numbers(); i += resident_threads) matrix[i] = Rounded<P>::of(0);
    __syncthreads();
    resident_load_any(arrays, factor, eps, room, matrix, pitch);
    __syncthreads();

    Sums sums;
    for (int t = 0; t < steps.count; ++t) {
        multiply_triangle<P>(sums, shape.blocks, shape.deep,
                             [&](Fragment& f, int row, int col) { load_rows(f, matrix, pitch, row, col); });
        store_triangle(sums, shape.blocks, triangle, [](P, float sum) { return sum; });
        __syncthreads();
        if (steps.c[t] != 0) {
            multiply_triangle<P>(sums, shape.blocks, shape.blocks,
                                 [&](Fragment& f, int row, int col) { load_symmetric(f, triangle, row, col); });
            __syncthreads();
            store_triangle(sums, shape.blocks, triangle,
                           [&](P stored, float sum) { return fmaf(steps.b[t], widen(stored), steps.c[t] * sum); });
            __syncthreads();
        }
        multiply_onto(sums, triangle, steps.a[t], steps.c[t] != 0 ? 1 : steps.b[t], shape, matrix);
    }
    resident_store_any(matrix, pitch, arrays);
}

}  // namespace

bool resident_wide(const ResidentArrays& arrays, const OrthogonalizePlan& plan, double eps, CudaPlace place) {
    const DeviceBatch& x = arrays.x;
    const bool narrow = plan.precision == DType::bfloat16 || plan.precision == DType::float16;
    if (!resident_takes(arrays, plan) || !narrow || plan.method != Method::standard || x.rows > edge * most_blocks) return false;
    const Shape shape{static_cast<int>(ceil_div(x.rows, edge)), static_cast<int>(ceil_div(x.cols, edge))};
    if (shape.bytes() + resident_static_bytes > traits(place.device).shared_bytes) return false;
    const auto kernel = plan.precision == DType::bfloat16 ? resident_wide_kernel<bfloat16> : resident_wide_kernel<float16>;
    launch(resident_name(arrays).c_str(), place, {arrays.blocks(), resident_threads, shape.bytes()}, kernel, arrays, shape,
           ResidentSteps(plan), plan.norm_factor, eps);
    return true;
}

}  // namespace raphson::cuda
