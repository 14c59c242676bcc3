// A Sinkhorn iteration with one read of a dense cost: rows are taken one after another by a block that is wide enough to
// hold the exponentials of a whole row in its registers until the row's sum is known.
//
// A thread has the same columns in every row: groups of 16 bytes, `groups` of them, a block's width apart. Their potentials
// lie in shared memory and their column sums in registers; nobody else touches either. The cost comes by asynchronous
// copies into as much shared memory as one row takes: a group's place is filled with the next row as soon as it has been
// read, so that the memory is busy while the block waits for its sums. One barrier a row.
#include <algorithm>
#include <type_traits>

#include "ot/device_entry.h"
#include "ot/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr int groups = 8, most_threads = 512;  // 128 registers a thread
// Rows after which the column sums leave the registers. In float32 their error stays below 32·2^-24 of them.
constexpr int rows_a_flush = 32, fewest_rows = 16;
constexpr float negligible = -200.0f;  // 2^-200 is 0 in float32

// ---- asynchronous copies ------------------------------------------------------------------------------------------------

// The first `there` of that many bytes, zeros in place of the rest; both ends aligned to as many.
template <int bytes>
__device__ __forceinline__ void copy_later(void* shared, const void* global, int there) {
#ifdef __CUDACC__
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    if constexpr (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(there) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(bytes), "r"(there) : "memory");
    }
#else
    std::memset(shared, 0, bytes);
    std::memcpy(shared, global, static_cast<std::size_t>(there));
#endif
}
__device__ __forceinline__ void close_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until all of this thread's closed groups of copies are there, but for the last `open`.
template <int open>
__device__ __forceinline__ void await_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
#endif
}

// ---- arithmetic ---------------------------------------------------------------------------------------------------------

__device__ __forceinline__ void load_16(float (&to)[4], const float* from) {
    const float4 v = *reinterpret_cast<const float4*>(from);
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void load_16(double (&to)[2], const double* from) {
    const double2 v = *reinterpret_cast<const double2*>(from);
    to[0] = v.x, to[1] = v.y;
}
__device__ __forceinline__ void store_16(float* to, const float (&from)[4]) {
    *reinterpret_cast<float4*>(to) = {from[0], from[1], from[2], from[3]};
}
__device__ __forceinline__ void store_16(double* to, const double (&from)[2]) {
    *reinterpret_cast<double2*>(to) = {from[0], from[1]};
}

template <class T>
struct Arithmetic;

// Arguments of thousands, whose sum matters to 1e-7, out of float32: every term is a whole number, exact, and a rest of at
// most ½, within 2^-26. The whole numbers add up exactly below 2^24 (C/reg to 1e7); the error of the argument is 2^-24·(1 + |x|).
template <>
struct Arithmetic<float> {
    static constexpr int width = 4, planes = 2;  // entries and arrays of potentials in 16 bytes
    static constexpr double trusted_from = 0x1p-40, trusted_to = 0x1p100;
    struct Number {
        float whole, rest;
    };
    struct Rate {
        float high, low;
    };
    static __device__ Rate rate(double x) {
        const auto high = static_cast<float>(x);
        return {high, static_cast<float>(x - static_cast<double>(high))};
    }
    static __device__ Number split(double x) {
        const double whole = rint(x), rest = x - whole;
        return {static_cast<float>(whole), rest == rest ? static_cast<float>(rest) : 0.0f};  // -Inf has no rest
    }
    static __device__ void store(float* potentials, int64_t plane, int q, double x) {
        const Number number = split(x);
        potentials[q] = number.whole;
        potentials[plane + q] = number.rest;
    }
    static __device__ __forceinline__ float exponential(float cost, Rate rate, Number row, float whole, float rest) {
        constexpr float magic = 12582912.0f;  // 1.5·2^23: adding it rounds to whole numbers
        const float k = fmaf(cost, rate.high, magic) - magic;
        const float r = fmaf(cost, rate.low, fmaf(cost, rate.high, -k));
        const float x = (k + (whole + row.whole)) + (r + (rest + row.rest));
        return exp2_fast(fmaxf(x, negligible));  // also where +Inf has made it NaN
    }
    static __device__ __forceinline__ void exponentials(const float (&cost)[4], const float* potentials, int64_t plane,
                                                        Rate rate, Number row, float (&e)[4]) {
        float whole[4], rest[4];
        load_16(whole, potentials);
        load_16(rest, potentials + plane);
#pragma unroll
        for (int q = 0; q < 4; ++q) e[q] = exponential(cost[q], rate, row, whole[q], rest[q]);
    }
    static __device__ double sum(const float (&e)[4]) { return static_cast<double>((e[0] + e[1]) + (e[2] + e[3])); }
};

template <>
struct Arithmetic<double> {
    static constexpr int width = 2, planes = 1;
    static constexpr double trusted_from = 1e-100, trusted_to = 1e100;
    using Number = double;
    using Rate = double;
    static __device__ Rate rate(double x) { return x; }
    static __device__ Number split(double x) { return x; }
    static __device__ void store(double* potentials, int64_t, int q, double x) { potentials[q] = x; }
    static __device__ __forceinline__ void exponentials(const double (&cost)[2], const double* potentials, int64_t, Rate rate,
                                                        Number row, double (&e)[2]) {
        double psi[2];
        load_16(psi, potentials);
#pragma unroll
        for (int q = 0; q < 2; ++q) e[q] = exp2_flushed(fma(cost[q], rate, psi[q] + row));
    }
    static __device__ double sum(const double (&e)[2]) { return e[0] + e[1]; }
};

// ---- the sweep ----------------------------------------------------------------------------------------------------------

template <class T>
struct ResidentSweep {
    const T* cost;
    int64_t stride, rows;
    int columns, flushes;
    const double *psi, *mass;
    double* u;
    T* partials;
    int64_t padded;
    double inverse_reg, exponent;
};

// Of this thread. aligned: rows begin at 16 bytes.
template <class T, int threads, bool aligned>
struct Columns {
    using A = Arithmetic<T>;
    static constexpr int width = A::width, plane = threads * groups * width;

    const ResidentSweep<T>& s;
    int first, left;  // of group 0; columns from there on
    T *ring, *potentials;

    __device__ explicit Columns(const ResidentSweep<T>& sweep)
        : s(sweep), first(static_cast<int>(threadIdx.x) * width), left(sweep.columns - first) {
        ring = reinterpret_cast<T*>(dynamic_shared()) + first;
        potentials = ring + plane;
    }
    // Eight counts that could be had from one would take eight registers for good if the compiler knew that they stay.
    __device__ __forceinline__ void forget() {
#ifdef __CUDACC__
        asm volatile("" : "+r"(left));
#endif
    }
    static constexpr int apart(int g) { return g * threads * width; }
    __device__ bool any(int g) const { return apart(g) < s.columns; }  // in the whole block
    __device__ __forceinline__ int inside(int g) const {
        return max(0, min(left - apart(g), width));
    }
    __device__ __forceinline__ void fetch(const T* row, bool there, int g) const {
        if (there && aligned) {
            const int count = inside(g);
            if (count > 0) copy_later<16>(ring + apart(g), row + first + apart(g), count * static_cast<int>(sizeof(T)));
        } else if (there) {
#pragma unroll 1  // in registers that unrolling would take from the exponentials
            for (int q = 0; q < width; ++q) {
                if (q < left - apart(g)) copy_later<sizeof(T)>(ring + apart(g) + q, row + first + apart(g) + q, sizeof(T));
            }
        }
        close_copies();
    }
    // What follows is for rows whose potential was too far off: rare.
    __device__ double highest(int64_t row) const {
        double high = minus_infinite;
        for (int g = 0; g < groups; ++g) {
            for (int q = 0, j = first + apart(g); q < inside(g); ++q) {
                const double c = static_cast<double>(s.cost[row * s.stride + j + q]);
                high = fmax(high, fma(-c, s.inverse_reg, s.psi[j + q]));
            }
        }
        return high;
    }
    __device__ __forceinline__ void reread(int64_t row, int g, T (&c)[width]) const {
#pragma unroll
        for (int q = 0; q < width; ++q) c[q] = q < inside(g) ? s.cost[row * s.stride + first + apart(g) + q] : T(0);
    }
};

// over_block with one barrier: `room` has two sides, taken in turn.
template <int threads, class Combine>
__device__ __forceinline__ double in_turn(double value, double (*room)[32], int& side, Combine combine, double neutral) {
    value = over_warp(value, combine);
    if constexpr (threads == 32) return value;
    const unsigned lane = threadIdx.x % 32;
    if (lane == 0) room[side][threadIdx.x / 32] = value;
    __syncthreads();
    value = over_warp(lane < threads / 32 ? room[side][lane] : neutral, combine);
    side = 1 - side;
    return value;
}

template <class T, int threads, bool aligned>
__global__ void __launch_bounds__(threads, most_threads / threads) resident_kernel(const ResidentSweep<T> s) {
    using A = Arithmetic<T>;
    constexpr int width = A::width;
    __shared__ double room[2][32];
    __shared__ double bases[rows_a_flush], row_sums[rows_a_flush], masses[rows_a_flush];
    Columns<T, threads, aligned> mine(s);
    const typename A::Rate rate = A::rate(-s.inverse_reg * log2_e);
    const int64_t first = s.rows * blockIdx.x / gridDim.x, last = s.rows * (blockIdx.x + int64_t{1}) / gridDim.x;
    int side = 0;

    const T* coming = s.cost + first * s.stride;  // the row that is on its way
#pragma unroll
    for (int g = 0; g < groups; ++g) {
        mine.fetch(coming, first < last, g);
        for (int q = 0; q < width; ++q) {
            const double psi = q < mine.inside(g) ? s.psi[mine.first + mine.apart(g) + q] * log2_e : minus_infinite;
            A::store(mine.potentials + mine.apart(g), mine.plane, q, psi);
        }
    }
    int left = static_cast<int>(last - first);
    for (int flush = 0; flush < s.flushes; ++flush) {
        const int64_t begin = min(first + int64_t{flush} * rows_a_flush, last);
        const int count = static_cast<int>(min(last - begin, int64_t{rows_a_flush}));
        const int thread = static_cast<int>(threadIdx.x);
        if (thread < count) {
            bases[thread] = s.u[begin + thread];
            masses[thread] = s.mass[begin + thread];
        }
        __syncthreads();
        T sums[groups][width] = {};
        for (int i = 0; i < count; ++i) {
            const bool more = --left > 0;
            coming += s.stride;
            mine.forget();
            T e[groups][width];
            double total = 0;
            typename A::Number shift = A::split(bases[i] * log2_e);
#pragma unroll
            for (int g = 0; g < groups; ++g) {
                await_copies<groups - 1>();
                if (mine.any(g)) {
                    T c[width];
                    load_16(c, mine.ring + mine.apart(g));
                    A::exponentials(c, mine.potentials + mine.apart(g), mine.plane, rate, shift, e[g]);
                    total += A::sum(e[g]);
                }
                mine.fetch(coming, more, g);
            }
            total = in_turn<threads>(total, room, side, Plus(), 0.0);
            if (!(total > A::trusted_from && total < A::trusted_to)) {
                const double high = in_turn<threads>(mine.highest(begin + i), room, side, Larger(), minus_infinite);
                shift = A::split(-high * log2_e);
                total = 0;
#pragma unroll
                for (int g = 0; g < groups; ++g) {
                    if (!mine.any(g)) continue;
                    T c[width];
                    mine.reread(begin + i, g, c);
                    A::exponentials(c, mine.potentials + mine.apart(g), mine.plane, rate, shift, e[g]);
                    total += A::sum(e[g]);
                }
                total = in_turn<threads>(total, room, side, Plus(), 0.0);
                if (!(high > minus_infinite)) total = 0;  // no column can take this row now
                else if (thread == 0) bases[i] = -high;
                __syncthreads();
            }
            T share = 0;
            if (s.exponent == 1) {
                if (total > 0) share = static_cast<T>(masses[i]) / static_cast<T>(total);
            } else if (total > 0) {
                share = static_cast<T>(masses[i] * exp(s.exponent * (bases[i] - log(total)) - bases[i]));
            }
#pragma unroll
            for (int g = 0; g < groups; ++g) {
                if (!mine.any(g)) continue;
#pragma unroll
                for (int q = 0; q < width; ++q) sums[g][q] += e[g][q] * share;
            }
            if (thread == 0) row_sums[i] = total;  // the logarithm waits until one warp has 32 of them
        }
        __syncthreads();
        if (thread < count && row_sums[thread] > 0) s.u[begin + thread] = s.exponent * (bases[thread] - log(row_sums[thread]));
        T* to = s.partials + (static_cast<int64_t>(blockIdx.x) * s.flushes + flush) * s.padded + mine.first;
#pragma unroll
        for (int g = 0; g < groups; ++g) {
            if (mine.inside(g) > 0) store_16(to + mine.apart(g), sums[g]);
        }
        __syncthreads();
    }
}

template <class T>
void launch_resident(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* psi, double* u,
                     CudaPlace place) {
    ResidentSweep<T> s;
    s.cost = static_cast<const T*>(cost.data);
    s.stride = cost.stride;
    s.rows = cost.rows;
    s.columns = static_cast<int>(cost.columns);
    s.flushes = room.flushes;
    s.psi = psi;
    s.mass = balance.a;
    s.u = u;
    s.partials = static_cast<T*>(room.partials);
    s.padded = room.padded;
    s.inverse_reg = balance.inverse_reg;
    s.exponent = 1 / (1 + balance.kappa_a);
    const bool aligned = reinterpret_cast<std::uintptr_t>(cost.data) % 16 == 0 && cost.stride * itemsize(cost.type) % 16 == 0;
    const std::size_t bytes = static_cast<std::size_t>(room.threads) * groups * 16 * (1 + Arithmetic<T>::planes);
    const Grid grid{dim3(static_cast<unsigned>(room.blocks)), static_cast<unsigned>(room.threads), bytes};
    const auto run = [&](auto threads) {
        constexpr int wide = decltype(threads)::value;
        launch("sinkhorn: sweep", place, grid, aligned ? resident_kernel<T, wide, true> : resident_kernel<T, wide, false>, s);
    };
    switch (room.threads) {  // fixed, so that addresses within a row are too
        case 32: return run(std::integral_constant<int, 32>{});
        case 64: return run(std::integral_constant<int, 64>{});
        case 128: return run(std::integral_constant<int, 128>{});
        case 256: return run(std::integral_constant<int, 256>{});
        default: return run(std::integral_constant<int, most_threads>{});
    }
}

}  // namespace

ResidentShape resident_shape(const DeviceCost& cost, int device) {
    const DeviceTraits& chip = traits(device);
    const bool narrow = cost.type == DType::float32;
    const int width = 16 / static_cast<int>(itemsize(cost.type));
    int64_t threads = 32;
    while (threads * groups * width < cost.columns) threads *= 2;
    const int64_t bytes_a_thread = groups * 16 * (narrow ? 1 + Arithmetic<float>::planes : 1 + Arithmetic<double>::planes);
    constexpr int64_t own_bytes = 2048, reserved_bytes = 1024;  // a block's: the kernel's arrays, the system's
    const int64_t bytes = threads * bytes_a_thread + own_bytes, there = static_cast<int64_t>(chip.shared_bytes);
    if (!cost.is_dense() || threads > most_threads || bytes > there) return {0, 0, 0};
    // One wave of blocks, as many as registers and shared memory hold.
    const int64_t a_processor = std::min(most_threads / threads, (there + reserved_bytes) / (bytes + reserved_bytes));
    const int64_t together = a_processor * chip.processors;
    const int64_t blocks = std::clamp<int64_t>(ceil_div(cost.rows, fewest_rows), 1, together);
    const int64_t flushes = std::max<int64_t>(ceil_div(ceil_div(cost.rows, blocks), rows_a_flush), 1);
    return {static_cast<int>(threads), static_cast<int>(blocks), static_cast<int>(flushes)};
}

void resident_sweep(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* psi, double* u,
                    CudaPlace place) {
    if (cost.type == DType::float32) return launch_resident<float>(cost, balance, room, psi, u, place);
    launch_resident<double>(cost, balance, room, psi, u, place);
}

}  // namespace raphson::cuda
