// Sweeps on a CUDA device: t = A v, u = f(t) row by row, out = Aᵀ u, in one read of A. A block takes a range of rows, a few
// at a time, which stay where they are, in registers or in shared memory, from the dot product to the combination:
// - up to 512 columns: in the registers of up to a warp, up to four rows at once;
// - up to what a block's shared memory holds: there, the next rows on their way while these are worked on;
// - beyond: A is read twice, u kept in between.
// A block keeps its share of out in registers and stores it once; shares are added up in the order of the blocks.
#include <algorithm>

#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"
#include "sketch/row_loss.h"

namespace raphson::cuda {
namespace {

constexpr const char* sweep_name = "sweep";
constexpr int64_t most_blocks = 528, least_rows_a_block = 64;  // four blocks for each processor of the largest GPUs of today
constexpr int extra_sums = 3;                                  // behind a block's share of out: RowSums

struct SweepWork {
    RowSweep what;
    const void* a;
    int64_t n, d, ld, blocks;
    double* parts;  // blocks × (d + extra_sums)

    __device__ int64_t begin(int64_t block) const { return n * block / blocks; }
    __device__ double* part(int64_t block) const { return parts + block * (d + extra_sums); }
};

// ---- one row's middle (HostGlm::row and its callers on the CPU) ------------------------------------------------------------

struct RowSums {
    double residual = 0, loss = 0, astray = 0;
};

// u of a row from its dot product.
__device__ __forceinline__ double middle(const SweepWork& work, int64_t row, double dot, RowSums& sums) {
    const RowSweep& what = work.what;
    const double t = what.border != 0 ? dot + what.v[work.d] : dot, weight = what.weight != nullptr ? what.weight[row] : 1.0;
    double u = 0;
    if (what.loss == RowLoss::none) {
        if (what.margin != nullptr) what.margin[row] = t;
        const double factor = what.curvature != nullptr ? weight * what.curvature[row] : weight;
        if (factor != 0) u = factor * t;  // not 0 · ∞
    } else {
        const double y = what.y[row], m = what.offset != nullptr ? t + what.offset[row] : t;
        const RowValue value = row_value(what.loss, m, y);
        if (what.margin != nullptr) what.margin[row] = m;
        if (what.second != nullptr) what.second[row] = value.second;
        if (weight > 0) {
            u = weight * value.residual;
            sums.loss += weight * value.loss;
            const bool right = what.loss == RowLoss::logistic && ((y == 1 && t > 0) || (y == 0 && t < 0));
            if (!right) sums.astray += 1;
        }
    }
    sums.residual += u;
    return u;
}

// The sums of the block's threads, in their order.
template <int Threads>
__device__ __forceinline__ void store_sums(const SweepWork& work, const RowSums& mine, double (&room)[Threads / 32][extra_sums]) {
    double value[extra_sums] = {mine.residual, mine.loss, mine.astray};
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < extra_sums; ++i) {
        for (int by = 16; by > 0; by /= 2) value[i] += __shfl_xor_sync(~0u, value[i], by);
        if (lane == 0) room[warp][i] = value[i];
    }
    __syncthreads();
    if (threadIdx.x >= extra_sums) return;
    double sum = 0;
    for (int w = 0; w < Threads / 32; ++w) sum += room[w][threadIdx.x];
    work.part(blockIdx.x)[work.d + threadIdx.x] = sum;
}

// ---- rows in registers --------------------------------------------------------------------------------------------------

constexpr int lane_threads = 256, fewest_lanes = 4;  // no fewer than rows at once, so that every row has a lane for its middle
constexpr int most_lane_columns = 512;

// A thread holds no more than 128 bytes of A: beside its sums that leaves room for two blocks a processor.
template <class T, int Columns>
constexpr int rows_at_once = sizeof(T) * Columns <= 32 ? 4 : sizeof(T) * Columns <= 64 ? 2 : 1;

// Forgets what a number was widened to: kept from the dot product to the combination, that would take twice the registers
// of the numbers themselves, and there are none left for it.
__device__ __forceinline__ void forget_widened(double&) {}
__device__ __forceinline__ void forget_widened(float& x) {
#ifdef __CUDACC__
    asm volatile("" : "+f"(x));
#else
    static_cast<void>(x);
#endif
}

// `lanes` threads side by side take Columns columns each, packs of which lie lanes · pack apart.
template <bool Vector, class T, int Columns>
__global__ void __launch_bounds__(lane_threads, 2) lanes_kernel(const SweepWork work, int lanes) {
    constexpr int size = pack_size<T>, packs = Columns / size, rows = rows_at_once<T, Columns>;
    __shared__ double v[32 * Columns];  // column c of lane l at [c · lanes + l]
    __shared__ double room[lane_threads];
    __shared__ double sums_room[lane_threads / 32][extra_sums];
    const int thread = static_cast<int>(threadIdx.x), lane = thread % lanes;
    const int group = thread / lanes, groups = lane_threads / lanes;
    const int leader = thread % 32 / lanes * lanes;  // the group's first lane of the warp
    const auto column_of = [lanes](int c, int of) { return (c / size * lanes + of) * size + c % size; };
    for (int i = thread; i < Columns * lanes; i += lane_threads) {
        const int column = column_of(i / lanes, i % lanes);
        v[i] = column < work.d ? work.what.v[column] : 0.0;
    }
    __syncthreads();

    double sum[Columns] = {};
    RowSums sums;
    const int64_t end = work.begin(blockIdx.x + 1);
    for (int64_t first = work.begin(blockIdx.x); first < end; first += groups * rows) {  // the same for the whole block: shuffles
        const int64_t row = first + group * rows;
        const T* const a = static_cast<const T*>(work.a) + row * work.ld;
        Pack<T> x[rows][packs];
        double dot[rows];
#pragma unroll
        for (int r = 0; r < rows; ++r) {
#pragma unroll
            for (int p = 0; p < packs; ++p) {
                x[r][p] = load_pack<Vector>(a + r * work.ld, column_of(p * size, lane), row + r < end ? work.d : 0);
            }
        }
#pragma unroll
        for (int r = 0; r < rows; ++r) dot[r] = 0;
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
            const double factor = v[c * lanes + lane];
#pragma unroll
            for (int r = 0; r < rows; ++r) dot[r] += static_cast<double>(x[r][c / size].x[c % size]) * factor;
        }
        double mine = 0;
#pragma unroll
        for (int r = 0; r < rows; ++r) {
            for (int by = lanes / 2; by > 0; by /= 2) dot[r] += __shfl_xor_sync(~0u, dot[r], by);
            if (lane == r) mine = dot[r];
        }
        const double u = lane < rows && row + lane < end ? middle(work, row + lane, mine, sums) : 0.0;
#pragma unroll
        for (int r = 0; r < rows; ++r) {
            const double factor = __shfl_sync(~0u, u, leader + r);
#pragma unroll
            for (int c = 0; c < Columns; ++c) {
                T& number = x[r][c / size].x[c % size];
                if (Columns == 16) forget_widened(number);
                sum[c] += factor * static_cast<double>(number);
            }
        }
    }
    double* const part = work.part(blockIdx.x);
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
        __syncthreads();
        room[thread] = sum[c];
        __syncthreads();
        const int column = column_of(c, thread);
        if (thread >= lanes || column >= work.d) continue;
        double total = 0;
        for (int g = 0; g < groups; ++g) total += room[g * lanes + thread];
        part[column] = total;
    }
    store_sums<lane_threads>(work, sums, sums_room);
}

template <class T, int Columns>
void sweep_in_lanes(const SweepWork& work, DType type, int lanes, CudaPlace place) {
    launch(sweep_name, place, {block_count(work.blocks, sweep_name), lane_threads},
           packs_fit(work.a, type, work.ld) ? lanes_kernel<true, T, Columns> : lanes_kernel<false, T, Columns>, work, lanes);
}

// ---- rows in shared memory ----------------------------------------------------------------------------------------------

constexpr int shared_threads = 512, shared_warps = shared_threads / 32, most_shared_columns = 32 * shared_threads;

struct SharedPlan {
    int rows, stages, pitch;  // rows at once, a power of two up to the warps; 1 or 2 stages; numbers from row to row
    std::size_t bytes;
};

// Two stages of few bytes, so that a processor holds two blocks; of one row, whatever it takes; else one stage. bytes 0:
// not even that.
template <class T>
SharedPlan plan_shared(int64_t d, std::size_t most_bytes) {
    constexpr std::size_t usual_bytes = 96 << 10, aside = 2 << 10;  // `aside`: the kernel's own arrays
    SharedPlan plan{1, 2, static_cast<int>(ceil_div(d, pack_size<T>) * pack_size<T>), 0};
    const std::size_t row = static_cast<std::size_t>(plan.pitch) * sizeof(T);
    while (plan.rows < shared_warps && 4 * static_cast<std::size_t>(plan.rows) * row <= usual_bytes) plan.rows *= 2;
    if (2 * row + aside > most_bytes) plan.stages = 1;
    plan.bytes = static_cast<std::size_t>(plan.stages * plan.rows) * row;
    if (plan.bytes + aside > most_bytes) plan.bytes = 0;
    return plan;
}

// Threads take columns thread, thread + shared_threads, …: Columns of them.
template <bool Vector, class T, int Columns>
__global__ void __launch_bounds__(shared_threads) shared_kernel(const SweepWork work, const SharedPlan plan) {
    __shared__ double dots[shared_warps], u[shared_warps];
    __shared__ double sums_room[shared_warps][extra_sums];
    T* const staged = reinterpret_cast<T*>(dynamic_shared());
    const T* const a = static_cast<const T*>(work.a);
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, d = static_cast<int>(work.d);
    const int slices = shared_warps / plan.rows;  // warps on one row's dot product
    const int64_t end = work.begin(blockIdx.x + 1);
    const auto stage = [&](int64_t first, int at) {
        const int rows = static_cast<int>(end - first < plan.rows ? end - first : plan.rows);
        stage_rows<Vector>(a + first * work.ld, work.ld, rows, d, staged + at * plan.rows * plan.pitch, plan.pitch);
    };

    double sum[Columns] = {};
    RowSums sums;
    int64_t first = work.begin(blockIdx.x);
    if (plan.stages == 2 && first < end) stage(first, 0);
    close_copies();
    for (int at = 0; first < end; first += plan.rows) {
        const int rows = static_cast<int>(end - first < plan.rows ? end - first : plan.rows);
        if (plan.stages == 1) {
            stage(first, 0);
            close_copies();
            await_copies<0>();
        } else {
            if (first + plan.rows < end) stage(first + plan.rows, at ^ 1);
            close_copies();
            await_copies<1>();
        }
        __syncthreads();
        const T* const here = staged + at * plan.rows * plan.pitch;
        if (warp / slices < rows) {
            const T* const row = here + warp / slices * plan.pitch;
            double dot = 0;
#pragma unroll(Columns < 32 ? 4 : 1)
            for (int j = warp % slices * 32 + lane; j < d; j += slices * 32) dot += static_cast<double>(row[j]) * __ldg(work.what.v + j);
            for (int by = 16; by > 0; by /= 2) dot += __shfl_xor_sync(~0u, dot, by);
            if (lane == 0) dots[warp] = dot;
        }
        __syncthreads();
        if (thread < rows) {
            double dot = 0;
            for (int s = 0; s < slices; ++s) dot += dots[thread * slices + s];
            u[thread] = middle(work, first + thread, dot, sums);
        }
        __syncthreads();
#pragma unroll 1
        for (int r = 0; r < rows; ++r) {
            const double factor = u[r];
#pragma unroll
            for (int c = 0; c < Columns; ++c) {
                const int j = thread + c * shared_threads;
                if (j < d) sum[c] += factor * static_cast<double>(here[r * plan.pitch + j]);
            }
        }
        __syncthreads();
        if (plan.stages == 2) at ^= 1;
    }
    double* const part = work.part(blockIdx.x);
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
        const int j = thread + c * shared_threads;
        if (j < d) part[j] = sum[c];
    }
    store_sums<shared_threads>(work, sums, sums_room);
}

template <class T, int Columns>
void sweep_in_shared(const SweepWork& work, DType type, const SharedPlan& plan, CudaPlace place) {
    launch(sweep_name, place, {block_count(work.blocks, sweep_name), shared_threads, plan.bytes},
           packs_fit(work.a, type, work.ld) ? shared_kernel<true, T, Columns> : shared_kernel<false, T, Columns>, work, plan);
}

// ---- rows too long for either -------------------------------------------------------------------------------------------

constexpr int far_threads = 256, far_warps = far_threads / 32;

// u (n) and the sums: a warp a row.
template <class T>
__global__ void __launch_bounds__(far_threads) far_dots_kernel(const SweepWork work, double* u) {
    __shared__ double sums_room[far_warps][extra_sums];
    const int lane = static_cast<int>(threadIdx.x) % 32;
    RowSums sums;
    const int64_t end = work.begin(blockIdx.x + 1);
    for (int64_t row = work.begin(blockIdx.x) + threadIdx.x / 32; row < end; row += far_warps) {
        const T* const a = static_cast<const T*>(work.a) + row * work.ld;
        double dot = 0;
#pragma unroll 4
        for (int64_t j = lane; j < work.d; j += 32) dot += static_cast<double>(__ldg(a + j)) * __ldg(work.what.v + j);
        for (int by = 16; by > 0; by /= 2) dot += __shfl_xor_sync(~0u, dot, by);
        if (lane == 0) u[row] = middle(work, row, dot, sums);
    }
    store_sums<far_threads>(work, sums, sums_room);
}

template <class T>
__global__ void __launch_bounds__(far_threads) far_combine_kernel(const SweepWork work, const double* u) {
    const int64_t block = blockIdx.x % work.blocks, column = blockIdx.x / work.blocks * far_threads + threadIdx.x;
    if (column >= work.d) return;
    const T* const a = static_cast<const T*>(work.a) + column;
    double sum = 0;
    const int64_t end = work.begin(block + 1);
#pragma unroll 4
    for (int64_t row = work.begin(block); row < end; ++row) sum += u[row] * static_cast<double>(a[row * work.ld]);
    work.part(block)[column] = sum;
}

template <class T>
void sweep_twice(const SweepWork& work, Scratch& scratch) {
    auto* u = scratch.take_array<double>(work.n);
    const dim3 blocks = block_count(work.blocks, sweep_name);
    const dim3 tiled_blocks = block_count(ceil_div(work.d, far_threads) * work.blocks, sweep_name);
    launch(sweep_name, scratch.place(), {blocks, far_threads}, far_dots_kernel<T>, work, u);
    launch(sweep_name, scratch.place(), {tiled_blocks, far_threads}, far_combine_kernel<T>, work, u);
}

// ---- which ----------------------------------------------------------------------------------------------------------------

struct StoreSweep {
    double* out;
    double* totals;
    int64_t d;
    int border;
    __device__ void operator()(int64_t i, double sum) const {
        if (i < d + border) {
            out[i] = sum;
        } else if (i > d && totals != nullptr) {
            totals[i - d - 1] = sum;
        }
    }
};

template <class T>
void sweep_typed(const SweepWork& work, DType type, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    if (work.d <= most_lane_columns) {
        const int lanes = power_of_two(ceil_div(work.d, 4), fewest_lanes, 32);
        const int64_t columns = ceil_div(work.d, lanes);
        if (columns <= 4) return sweep_in_lanes<T, 4>(work, type, lanes, place);
        if (columns <= 8) return sweep_in_lanes<T, 8>(work, type, lanes, place);
        return sweep_in_lanes<T, 16>(work, type, lanes, place);
    }
    if (work.d > most_shared_columns) return sweep_twice<T>(work, scratch);
    const SharedPlan plan = plan_shared<T>(work.d, traits(place.device).shared_bytes);
    if (plan.bytes == 0) return sweep_twice<T>(work, scratch);
    const int64_t columns = ceil_div(work.d, shared_threads);
    if (columns <= 2) return sweep_in_shared<T, 2>(work, type, plan, place);
    if (columns <= 4) return sweep_in_shared<T, 4>(work, type, plan, place);
    if (columns <= 8) return sweep_in_shared<T, 8>(work, type, plan, place);
    if (columns <= 16) return sweep_in_shared<T, 16>(work, type, plan, place);
    sweep_in_shared<T, 32>(work, type, plan, place);
}

}  // namespace

void row_sweep(const DenseRows& a, const RowSweep& what, Scratch& scratch) {
    SweepWork work{what, a.data, a.rows, a.cols, a.ld, std::clamp<int64_t>(a.rows / least_rows_a_block, 1, most_blocks), nullptr};
    const int64_t size = a.cols + extra_sums;
    work.parts = scratch.take_array<double>(work.blocks * size);
    for_real(a.type, sweep_name, [&](auto like) { sweep_typed<decltype(like)>(work, a.type, scratch); });
    add_parts(sweep_name, work.parts, work.blocks, size, StoreSweep{what.out, what.totals, a.cols, what.border}, scratch.place());
}

}  // namespace raphson::cuda
