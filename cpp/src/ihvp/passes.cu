#include <algorithm>

#include "cuda/number.h"
#include "cuda/reduce.h"
#include "ihvp/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr int64_t chunk = 16 * threads;  // columns of a block of threads: 16 numbers of x a thread

// Stored numbers as float64. The conversions of 16-bit types would be the limit of a pass that memory should be: their
// bits are put where float64 keeps them instead, which leaves the number 2^-exponent too small, zeros and subnormals
// included; the partner is lifted by 2^lift before, the sum by the rest after. Exact, and far from both ends of float64.
template <class S>
struct Raw {
    static constexpr double lift = 1, rest = 1;
    __device__ static __forceinline__ double of(S x) { return static_cast<double>(x); }
};
__device__ __forceinline__ double from_high_word(unsigned high) {
#ifdef __CUDACC__
    return __hiloint2double(static_cast<int>(high), 0);
#else
    const std::uint64_t bits = static_cast<std::uint64_t>(high) << 32;
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
#endif
}
template <>
struct Raw<bfloat16> {
    static constexpr double lift = 0x1p800, rest = 0x1p96;  // 2^896 in all
    __device__ static __forceinline__ double of(bfloat16 x) {
        const unsigned bits = x.bits;
        return from_high_word((bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13);
    }
};
template <>
struct Raw<float16> {
    static constexpr double lift = 0x1p900, rest = 0x1p108;  // 2^1008 in all
    __device__ static __forceinline__ double of(float16 x) {
        const unsigned bits = x.bits;
        return from_high_word((bits & 0x8000u) << 16 | (bits & 0x7fffu) << 10);
    }
};

template <class S>
constexpr int per_load = 16 / static_cast<int>(sizeof(S));
template <class S>
struct alignas(16) Pack {
    S v[per_load<S>];
};

// Of rows that are not padded, numbers beyond the end are zeros.
template <bool padded, class S>
__device__ __forceinline__ Pack<S> load(const S* from, int64_t left) {
    if constexpr (padded) {
        return *reinterpret_cast<const Pack<S>*>(from);
    } else {
        Pack<S> pack{};
#pragma unroll
        for (int e = 0; e < per_load<S>; ++e) {
            if (e < left) pack.v[e] = from[e];
        }
        return pack;
    }
}

template <class S>
__device__ __forceinline__ const S* row_of(const DeviceRows& rows, int64_t slot) {
    return reinterpret_cast<const S*>(rows.data) + slot * rows.stride;
}

template <class F>
void for_stored(Stored type, F&& f) {
    switch (type) {
        case Stored::float64: return f(double{});
        case Stored::float32: return f(float{});
        case Stored::bfloat16: return f(bfloat16{});
        case Stored::float16: return f(float16{});
        case Stored::int8: return f(std::int8_t{});
    }
}

// Vectors of the caller, of any type and stride.
__device__ __forceinline__ double read(const VectorRef& x, int64_t k) { return read_number(x.data, x.dtype, k * x.stride); }
__device__ __forceinline__ void write(const VectorRef& x, int64_t k, double value) { write_number(x.data, x.dtype, k * x.stride, value); }

// ---- one vector ------------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(threads) scan_kernel(const VectorRef g, const float* residual, double* largest) {
    __shared__ double room[threads / 32];
    double max = 0;
    for (int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; k < g.size; k += static_cast<int64_t>(gridDim.x) * threads) {
        double value = read(g, k);
        if (residual != nullptr && fabs(value) <= 1.7976931348623157e308) value += static_cast<double>(residual[k]);
        max = LargerOrNaN()(fabs(value), max);
    }
    max = over_block(max, room, LargerOrNaN());
    if (threadIdx.x == 0) largest[blockIdx.x] = max;
}

__global__ void __launch_bounds__(threads) judge_kernel(const double* largest, int count, double limit, bool scaled, DeviceScan* found) {
    __shared__ double room[threads / 32];
    double max = 0;
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) max = LargerOrNaN()(largest[i], max);
    max = over_block(max, room, LargerOrNaN());
    if (threadIdx.x != 0) return;
    const bool bad = !(max < limit);
    // A power of two that brings the largest entry to 2^13 … 2^14.
    int exponent = 14;
    if (scaled && !bad && max > 0) (void)frexp(max, &exponent);
    *found = {ldexp(1.0, exponent - 14), bad ? 1 : 0};
}

template <class S>
__device__ __forceinline__ double rounded(double x, S& to) {
    if constexpr (sizeof(S) == 8) {
        to = x;
        return x;
    } else {
        to = Rounded<S>::of(static_cast<float>(x));
        return static_cast<double>(widen(to));
    }
}

// A thread for every stored column, padding included; blocks of threads are int8's blocks of columns.
template <class S>
__global__ void __launch_bounds__(threads) store_kernel(const VectorRef g, const DeviceScan* found, float* residual, const DeviceRows rows,
                                                        int64_t slot) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    const int64_t b = at / rows.block_stride, inside = at % rows.block_stride;
    const bool real = at < rows.stride && inside < rows.width(b);
    const int64_t k = b * rows.block + inside;
    const bool bad = found->bad != 0;
    double value = real && !bad ? read(g, k) : 0;
    if (real && !bad && residual != nullptr) value += static_cast<double>(residual[k]);
    S* const row = reinterpret_cast<S*>(rows.data) + slot * rows.stride;
    double kept;
    if constexpr (sizeof(S) == 1) {
        __shared__ double room[threads / 32];
        const auto narrow = static_cast<float>(value);
        const auto max = static_cast<float>(over_block(fabs(static_cast<double>(narrow)), room, LargerOrNaN()));
        constexpr float least = 1.17549435e-38f;  // of normal numbers
        float scale = max / 127.0f;
        if (!(scale >= least)) scale = max > 0 ? least : 0.0f;
        const float whole = rintf(narrow / (scale > 0 ? scale : 1.0f));
        row[at] = static_cast<S>(static_cast<int>(whole));
        if (threadIdx.x == 0) rows.scales[slot * (rows.stride / int8_block) + blockIdx.x] = scale;
        kept = static_cast<double>(whole) * static_cast<double>(scale);
    } else {
        const double row_scale = found->row_scale;
        S narrow;
        kept = rounded(value / row_scale, narrow) * row_scale;
        if (at < rows.stride) row[at] = narrow;
    }
    if (at == 0) rows.row_scale[slot] = found->row_scale;
    if (real && !bad && residual != nullptr) residual[k] = static_cast<float>(value - kept);
}

__global__ void __launch_bounds__(threads) spread_kernel(const VectorRef x, const DeviceRows rows, double* to) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= rows.stride) return;
    const int64_t b = at / rows.block_stride, inside = at % rows.block_stride;
    to[at] = inside < rows.width(b) ? read(x, b * rows.block + inside) : 0;
}

__global__ void __launch_bounds__(threads) squares_kernel(const double* x, int64_t block_stride, double* squares) {
    __shared__ double room[threads / 32];
    double sum = 0;
    for (int64_t k = threadIdx.x; k < block_stride; k += threads) sum += x[blockIdx.x * block_stride + k] * x[blockIdx.x * block_stride + k];
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// ---- products ------------------------------------------------------------------------------------------------------------------

constexpr int rows_at_once = 4;     // loads in flight; more would leave one block of threads a processor
constexpr int rows_kept = 256;      // whose sums wait in shared memory

// Sums of four rows over a warp: halves are exchanged, so that 6 shuffles do what 20 would. Lane l ends with row l / 8.
__device__ __forceinline__ double over_warp(double (&s)[rows_at_once]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int half_of = rows_at_once / 2, by = 16; half_of > 0; half_of /= 2, by /= 2) {
        const bool upper = (lane & by) != 0;
#pragma unroll
        for (int r = 0; r < rows_at_once / 2; ++r) {
            if (r >= half_of) continue;
            const double sent = upper ? s[r] : s[r + half_of], mine = upper ? s[r + half_of] : s[r];
            s[r] = mine + __shfl_xor_sync(~0u, sent, by);
        }
    }
    for (int by = 4; by > 0; by /= 2) s[0] += __shfl_xor_sync(~0u, s[0], by);
    return s[0];
}

// partials[piece·count + t] = ⟨row t, x⟩ over one chunk of columns; X is S (a stored row, int8 with its scales) or double.
template <class S, class X, bool padded>
__global__ void __launch_bounds__(threads, 2) products_kernel(const DeviceRows rows, const X* x, const float* x_scales, int64_t chunks,
                                                           double* partials) {
    constexpr int wide = per_load<S>, loads = static_cast<int>(chunk) / (threads * wide);
    constexpr bool bytes = sizeof(S) == 1, both_bytes = bytes && sizeof(X) == 1;
    __shared__ double room[threads / 32][rows_kept];
    const int64_t b = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
    const int64_t base = b * rows.block_stride, end = padded ? rows.block_stride : rows.width(b), scale_stride = rows.stride / int8_block;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;

    // Columns of this thread: `wide` from load to load, `threads` apart; none beyond the block.
    double mine[both_bytes ? 1 : 16];
    Pack<S> mine_bytes{};
    double mine_scale = 0;
    if constexpr (both_bytes) {
        const int64_t column = first + static_cast<int64_t>(threadIdx.x) * wide;
        if (column < end) {
            mine_bytes = *reinterpret_cast<const Pack<S>*>(x + base + column);
            mine_scale = static_cast<double>(x_scales[(base + column) / int8_block]);
        }
    } else {
#pragma unroll
        for (int l = 0; l < loads; ++l) {
            const int64_t column = first + (l * threads + static_cast<int>(threadIdx.x)) * wide;
#pragma unroll
            for (int e = 0; e < wide; ++e) {
                double value = 0;
                if (column + e < end) {
                    if constexpr (sizeof(X) == 8) {
                        value = x[base + column + e] * Raw<S>::lift;
                    } else {
                        value = static_cast<double>(widen(x[base + column + e])) * Raw<S>::lift;
                    }
                }
                mine[l * wide + e] = value;
            }
        }
    }

    for (int64_t t0 = 0; t0 < rows.count; t0 += rows_kept) {
        const int here = static_cast<int>(rows.count - t0 < rows_kept ? rows.count - t0 : rows_kept);
        for (int r0 = 0; r0 < here; r0 += rows_at_once) {
            double sums[rows_at_once] = {};
#pragma unroll
            for (int l = 0; l < loads; ++l) {
                const int64_t column = first + (l * threads + static_cast<int>(threadIdx.x)) * wide;
                const bool inside = column < end;
                Pack<S> pack[rows_at_once];
                [[maybe_unused]] float scale[rows_at_once];
#pragma unroll
                for (int r = 0; r < rows_at_once; ++r) {
                    pack[r] = {};
                    scale[r] = 0;
                    if (!inside || r0 + r >= here) continue;
                    const int64_t slot = rows.slot(t0 + r0 + r);
                    pack[r] = load<padded>(row_of<S>(rows, slot) + base + column, end - column);
                    if constexpr (bytes) scale[r] = rows.scales[slot * scale_stride + (base + column) / int8_block];
                }
#pragma unroll
                for (int r = 0; r < rows_at_once; ++r) {
                    if constexpr (both_bytes) {  // 16 products of bytes are exact in 32 bits
                        int sum = 0;
#pragma unroll
                        for (int e = 0; e < wide; ++e) sum += static_cast<int>(pack[r].v[e]) * static_cast<int>(mine_bytes.v[e]);
                        sums[r] = fma(static_cast<double>(sum), static_cast<double>(scale[r]) * mine_scale, sums[r]);
                    } else if constexpr (bytes) {
                        double sum = 0;
#pragma unroll
                        for (int e = 0; e < wide; ++e) sum = fma(Raw<S>::of(pack[r].v[e]), mine[l * wide + e], sum);
                        sums[r] = fma(sum, static_cast<double>(scale[r]), sums[r]);
                    } else {
#pragma unroll
                        for (int e = 0; e < wide; ++e) sums[r] = fma(Raw<S>::of(pack[r].v[e]), mine[l * wide + e], sums[r]);
                    }
                }
            }
            const double sum = over_warp(sums);
            const int row = lane / 8;  // bits 4 and 3 chose the halves
            if (lane % 8 == 0 && r0 + row < here) room[warp][r0 + row] = sum;
        }
        __syncthreads();
        for (int r = static_cast<int>(threadIdx.x); r < here; r += threads) {
            double sum = 0;
            for (int w = 0; w < threads / 32; ++w) sum += room[w][r];
            partials[blockIdx.x * rows.count + t0 + r] = sum * Raw<S>::rest;
        }
        __syncthreads();
    }
}

// sums[b·count + t] ← the chunks' partials, in order; times the scales of the rows.
__global__ void __launch_bounds__(threads) gather_kernel(const DeviceRows rows, const double* partials, int64_t chunks, int64_t slot,
                                                         double* sums) {
    __shared__ double room[threads / 32];
    const int64_t b = blockIdx.x / rows.count, t = blockIdx.x % rows.count;
    double sum = 0;
    for (int64_t c = threadIdx.x; c < chunks; c += threads) sum += partials[(b * chunks + c) * rows.count + t];
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) sums[blockIdx.x] = sum * rows.scale_of(rows.slot(t)) * (slot < 0 ? 1.0 : rows.scale_of(slot));
}

// ---- combinations ----------------------------------------------------------------------------------------------------------------

template <class S, bool padded>
__global__ void __launch_bounds__(threads, 2) combine_kernel(const DeviceRows rows, const double* coefficients, bool with_x, const VectorRef x,
                                                          const double* factor, const VectorRef out, int64_t pieces) {
    constexpr int wide = per_load<S>;
    constexpr bool bytes = sizeof(S) == 1;
    __shared__ double lifted[rows_kept];
    const int64_t piece = gridDim.x - 1 - blockIdx.x;  // from the end: the pass before left it in the cache
    const int64_t b = piece / pieces, column = (piece % pieces * threads + threadIdx.x) * wide;
    const int64_t base = b * rows.block_stride, end = padded ? rows.block_stride : rows.width(b), scale_stride = rows.stride / int8_block;
    const bool inside = column < end;
    const auto coefficient = [&](int64_t t) { return coefficients[b * rows.count + t] * rows.scale_of(rows.slot(t)); };
    int exponent = 0;  // of the largest coefficient, which must not leave float64 when it is lifted
    if constexpr (Raw<S>::lift != 1) {
        __shared__ double room[threads / 32];
        double largest = 0;
        for (int64_t t = threadIdx.x; t < rows.count; t += threads) largest = LargerOrNaN()(fabs(coefficient(t)), largest);
        largest = over_block(largest, room, LargerOrNaN());
        if (largest > 0 && largest <= 1.7976931348623157e308) (void)frexp(largest, &exponent);
    }
    double sums[wide] = {};
    for (int64_t t0 = 0; t0 < rows.count; t0 += rows_kept) {
        const int here = static_cast<int>(rows.count - t0 < rows_kept ? rows.count - t0 : rows_kept);
        __syncthreads();
        for (int t = static_cast<int>(threadIdx.x); t < here; t += threads) {
            lifted[t] = ldexp(coefficient(t0 + t), -exponent) * Raw<S>::lift;
        }
        __syncthreads();
        if (!inside) continue;
        for (int r0 = 0; r0 < here; r0 += rows_at_once) {
            Pack<S> pack[rows_at_once];
            [[maybe_unused]] float scale[rows_at_once];
#pragma unroll
            for (int r = 0; r < rows_at_once; ++r) {
                if (r0 + r >= here) continue;
                const int64_t slot = rows.slot(t0 + r0 + r);
                pack[r] = load<padded>(row_of<S>(rows, slot) + base + column, end - column);
                if constexpr (bytes) scale[r] = rows.scales[slot * scale_stride + (base + column) / int8_block];
            }
#pragma unroll
            for (int r = 0; r < rows_at_once; ++r) {
                if (r0 + r >= here) continue;
                double by = lifted[r0 + r];
                if constexpr (bytes) by *= static_cast<double>(scale[r]);
#pragma unroll
                for (int e = 0; e < wide; ++e) sums[e] = fma(Raw<S>::of(pack[r].v[e]), by, sums[e]);
            }
        }
    }
    if (!inside) return;
    const double more = with_x ? *factor : 0;
#pragma unroll
    for (int e = 0; e < wide; ++e) {
        if (column + e >= rows.width(b)) continue;
        const int64_t k = b * rows.block + column + e;
        double value = ldexp(sums[e] * Raw<S>::rest, exponent);
        if (with_x) value = fma(more, read(x, k), value);
        write(out, k, value);
    }
}

double limit_of(Stored type) {
    constexpr double entry = 1e150, of_float = 3.4028235677973366e38, of_bfloat16 = 3.3961775292304957e38;  // as check.cpp
    return type == Stored::float64 ? entry : type == Stored::bfloat16 ? of_bfloat16 : of_float;
}

}  // namespace

void scan(const VectorRef& g, const float* residual, Stored type, DeviceScan* found, Scratch& scratch) {
    const auto blocks = static_cast<int>(std::clamp<int64_t>(ceil_div(g.size, 16 * threads), 1, 1024));
    auto* largest = scratch.take_array<double>(blocks);
    launch("window: scan", scratch.place(), {dim3(static_cast<unsigned>(blocks)), threads}, scan_kernel, g, residual, largest);
    launch("window: scan", scratch.place(), {dim3(1), threads}, judge_kernel, largest, blocks, limit_of(type), type == Stored::float16, found);
}

void store_row(const VectorRef& g, const DeviceScan* found, float* residual, const DeviceRows& rows, int64_t slot, CudaPlace place) {
    for_stored(rows.type, [&](auto like) {
        launch("window: store", place, {block_count(ceil_div(rows.stride, threads), "window: store"), threads}, store_kernel<decltype(like)>, g, found,
               residual, rows, slot);
    });
}

void spread(const VectorRef& x, const DeviceRows& rows, double* to, double* squares, CudaPlace place) {
    launch("window: vector", place, {block_count(ceil_div(rows.stride, threads), "window: vector"), threads}, spread_kernel, x, rows, to);
    if (squares == nullptr) return;
    launch("window: norm", place, {block_count(rows.blocks, "window: norm"), threads}, squares_kernel, to, rows.block_stride, squares);
}

void products(const DeviceRows& rows, int64_t slot, const double* x, double* sums, Scratch& scratch) {
    const int64_t chunks = ceil_div(rows.block_stride, chunk);
    auto* partials = scratch.take_array<double>(rows.blocks * chunks * rows.count);
    const Grid blocks{block_count(rows.blocks * chunks, "window: products"), threads};
    for_stored(rows.type, [&](auto like) {
        using S = decltype(like);
        if (x != nullptr) {
            const auto kernel = rows.padded ? products_kernel<S, double, true> : products_kernel<S, double, sizeof(S) == 1>;  // no bytes of the caller's
            launch("window: products", scratch.place(), blocks, kernel, rows, x, nullptr, chunks, partials);
            return;
        }
        const S* const row = reinterpret_cast<const S*>(rows.data) + slot * rows.stride;
        const float* const scales = rows.scales == nullptr ? nullptr : rows.scales + slot * (rows.stride / int8_block);
        launch("window: products", scratch.place(), blocks, products_kernel<S, S, true>, rows, row, scales, chunks, partials);
    });
    launch("window: products", scratch.place(), {block_count(rows.blocks * rows.count, "window: products"), threads}, gather_kernel, rows, partials,
           chunks, x != nullptr ? -1 : slot, sums);
}

void combine(const DeviceRows& rows, const double* coefficients, const VectorRef* x, const double* factor, const VectorRef& out,
             CudaPlace place) {
    for_stored(rows.type, [&](auto like) {
        using S = decltype(like);
        const int64_t pieces = ceil_div(rows.block_stride, threads * per_load<S>);
        const auto kernel = rows.padded ? combine_kernel<S, true> : combine_kernel<S, sizeof(S) == 1>;
        launch("window: combination", place, {block_count(rows.blocks * pieces, "window: combination"), threads}, kernel, rows, coefficients,
               x != nullptr, x != nullptr ? *x : VectorRef{}, factor, out, pieces);
    });
}

}  // namespace raphson::cuda
