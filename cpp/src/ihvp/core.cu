// The small matrices of a window on the device: one block of threads for each diagonal block of F. The factor is walked 32
// columns at a time: one warp does the triangle on the diagonal, number by number through shuffles; then every thread
// takes the 32 columns' rotations and sums to rows of its own below. Everything in float64 and in a fixed order.

#include "cuda/reduce.h"
#include "ihvp/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;  // 255 registers each: a panel of 32 numbers takes 64
constexpr int panel = 32;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }

// One diagonal block's matrices: entry (i, t), i ≥ t, of the matrix that `data` holds by columns in a ring.
struct Ring {
    double* data;
    int64_t ring, head, count;

    __device__ double& at(int64_t i, int64_t t) const {
        const int64_t slot = head + t;
        return data[(slot < ring ? slot : slot - ring) * ring + i - t];
    }
};
__device__ __forceinline__ Ring ring_of(double* data, const CoreJob& job, int64_t b) {
    return {data + b * job.ring * job.ring, job.ring, job.head, job.count};
}

// What a column's step does to the rows below it.
struct Rotation {
    double cosine, sine, inverse, x;
};

// L Lᵀ ← L Lᵀ + v vᵀ (turns: else v is not looked at), then b ← L⁻¹ b; v and b in shared memory. See factor_forward.
template <bool turns>
__device__ void forward(const Ring& factor, double* v, double* b) {
    __shared__ Rotation rotations[panel];
    const int64_t n = factor.count;
    for (int64_t t0 = 0; t0 < n; t0 += panel) {
        const int here = static_cast<int>(n - t0 < panel ? n - t0 : panel);
        if (warp() == 0) {
            double row[panel];
#pragma unroll
            for (int j = 0; j < panel; ++j) row[j] = j <= lane() && lane() < here ? factor.at(t0 + lane(), t0 + j) : 0;
            double mine_v = turns && lane() < here ? v[t0 + lane()] : 0, mine_b = lane() < here ? b[t0 + lane()] : 0;
#pragma unroll
            for (int j = 0; j < panel; ++j) {
                if (j >= here) break;
                const double old = __shfl_sync(~0u, row[j], j), with = __shfl_sync(~0u, mine_v, j);
                const double pivot = turns ? sqrt(fma(old, old, with * with)) : old;
                const double cosine = pivot / old, sine = with / old, inverse = old / pivot;
                const double x = __shfl_sync(~0u, mine_b, j) / pivot;
                if (lane() == j) {
                    row[j] = pivot;
                    mine_b = x;
                    rotations[j] = {cosine, sine, inverse, x};
                } else if (lane() > j) {
                    if (turns) {
                        row[j] = fma(sine, mine_v, row[j]) * inverse;
                        mine_v = cosine * mine_v - sine * row[j];
                    }
                    mine_b = fma(-x, row[j], mine_b);
                }
            }
            if (lane() < here) {
                b[t0 + lane()] = mine_b;
#pragma unroll
                for (int j = 0; j < panel; ++j) {
                    if (turns && j <= lane()) factor.at(t0 + lane(), t0 + j) = row[j];
                }
            }
        }
        __syncthreads();
        for (int64_t i = t0 + panel + threadIdx.x; i < n; i += threads) {  // a short panel has nothing below it
            double mine_v = turns ? v[i] : 0, mine_b = b[i];
#pragma unroll 8
            for (int j = 0; j < panel; ++j) {
                const Rotation r = rotations[j];
                double entry = factor.at(i, t0 + j);
                if (turns) {
                    entry = fma(r.sine, mine_v, entry) * r.inverse;
                    mine_v = r.cosine * mine_v - r.sine * entry;
                    factor.at(i, t0 + j) = entry;
                }
                mine_b = fma(-r.x, entry, mine_b);
            }
            if (turns) v[i] = mine_v;
            b[i] = mine_b;
        }
        __syncthreads();
    }
}

// b ← L⁻ᵀ b, in shared memory.
__device__ void backward(const Ring& factor, double* b) {
    __shared__ double below[panel];
    const int64_t n = factor.count;
    for (int64_t t0 = (n - 1) / panel * panel; t0 >= 0; t0 -= panel) {
        const int here = static_cast<int>(n - t0 < panel ? n - t0 : panel);
        for (int j = warp(); j < here; j += threads / 32) {
            double sum = 0;
            for (int64_t i = t0 + panel + lane(); i < n; i += 32) sum = fma(factor.at(i, t0 + j), b[i], sum);
            sum = over_warp(sum, Plus());
            if (lane() == 0) below[j] = sum;
        }
        __syncthreads();
        if (warp() == 0) {
            double column[panel];  // of this lane: entries (t0 + i, t0 + lane)
#pragma unroll
            for (int i = 0; i < panel; ++i) column[i] = i >= lane() && i < here ? factor.at(t0 + i, t0 + lane()) : 1;
            double mine = lane() < here ? b[t0 + lane()] - below[lane()] : 0;
#pragma unroll
            for (int i = panel - 1; i >= 0; --i) {
                if (i >= here) continue;
                const double x = __shfl_sync(~0u, mine / column[i], i);  // lane i's column[i] is its diagonal
                if (lane() == i) mine = x;
                if (lane() < i) mine = fma(-column[i], x, mine);
            }
            if (lane() < here) b[t0 + lane()] = mine;
        }
        __syncthreads();
    }
}

// The factor of gram + shift·I, panel by panel; no pivot below shift, which none is but for rounding.
__device__ __noinline__ void factorize(const Ring& gram, const Ring& factor, double shift) {
    __shared__ double top[panel][panel + 1];  // rows of the panel, of 32 columns before it
    __shared__ double triangle[panel][panel + 1];
    const int64_t n = factor.count;
    for (int64_t t0 = 0; t0 < n; t0 += panel) {
        const int here = static_cast<int>(n - t0 < panel ? n - t0 : panel);
        for (int64_t i0 = t0; i0 < n; i0 += threads) {
            const int64_t i = i0 + threadIdx.x;
            double row[panel];
#pragma unroll
            for (int j = 0; j < panel; ++j) {
                row[j] = j < here && i < n && i >= t0 + j ? gram.at(i, t0 + j) + (i == t0 + j ? shift : 0) : 0;
            }
            for (int64_t k0 = 0; k0 < t0; k0 += panel) {
                __syncthreads();
                for (int at = static_cast<int>(threadIdx.x); at < panel * here; at += threads) {
                    top[at % panel][at / panel] = factor.at(t0 + at / panel, k0 + at % panel);
                }
                __syncthreads();
                if (i >= n) continue;
                for (int k = 0; k < panel; ++k) {
                    const double entry = factor.at(i, k0 + k);
#pragma unroll
                    for (int j = 0; j < panel; ++j) {
                        if (j < here) row[j] = fma(-entry, top[k][j], row[j]);
                    }
                }
            }
            if (i0 == t0) {  // the first warp holds the triangle's rows
                if (warp() == 0) {
#pragma unroll
                    for (int j = 0; j < panel; ++j) {
                        if (j >= here) break;
                        const double square = __shfl_sync(~0u, row[j], j), pivot = sqrt(square > shift ? square : shift);
                        if (lane() == j) row[j] = pivot;
                        if (lane() > j) row[j] /= pivot;
#pragma unroll
                        for (int q = j + 1; q < panel; ++q) {
                            const double other = __shfl_sync(~0u, row[j], q);  // entry (q, j)
                            if (q < here && lane() >= q) row[q] = fma(-row[j], other, row[q]);
                        }
                    }
#pragma unroll
                    for (int j = 0; j < panel; ++j) triangle[lane()][j] = row[j];
                }
                __syncthreads();
            }
            if (i >= t0 + panel && i < n) {
#pragma unroll
                for (int j = 0; j < panel; ++j) {
#pragma unroll
                    for (int q = 0; q < j; ++q) row[j] = fma(-row[q], triangle[j][q], row[j]);
                    row[j] /= triangle[j][j];
                }
            }
#pragma unroll
            for (int j = 0; j < panel; ++j) {
                if (j < here && i < n && i >= t0 + j) factor.at(i, t0 + j) = row[j];
            }
        }
        __syncthreads();
    }
}

__device__ double sum_of_block(double value) {
    __shared__ double room[threads / 32];
    return over_block(value, room, Plus());
}

// ---- kernels -------------------------------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(threads) append_kernel(const CoreJob job, const double* sums) {
    const Ring gram = ring_of(job.gram, job, blockIdx.x);
    for (int64_t t = threadIdx.x; t < job.count; t += threads) gram.at(job.count - 1, t) = sums[blockIdx.x * job.count + t];
}

constexpr double refresh_relative = 0.1;  // as the CPU's window

// One block for all: relative damping looks at every diagonal.
__global__ void __launch_bounds__(threads) damping_kernel(const CoreJob job, bool wanted, DeviceCore* core) {
    double lambda = job.damping;
    if (job.relative) {
        double sum = 0;
        for (int64_t at = threadIdx.x; at < job.blocks * job.count; at += threads) {
            const int64_t t = at % job.count;
            sum += ring_of(job.gram, job, at / job.count).at(t, t);
        }
        lambda *= sum_of_block(sum) / (job.scale * job.dim);
    }
    if (threadIdx.x != 0) return;
    const bool moved = job.relative ? !(fabs(lambda / core->lambda - 1) <= refresh_relative) : core->lambda != lambda;
    const bool serves = core->shift != 0 && core->shift == job.scale * core->lambda && !moved;
    core->refactor = !serves && wanted ? 1 : 0;
    if (serves) return;
    core->lambda = wanted ? lambda : 0;
    core->shift = wanted ? job.scale * lambda : 0;  // 0: the next call makes it
}

// The change of one row, or the factor anew.
__global__ void __launch_bounds__(threads) factor_kernel(const CoreJob job, const double* sums, bool drops, int64_t old_head,
                                                         const DeviceCore* core) {
    const double shift = core->shift;
    if (shift == 0) return;  // nor will it be asked for
    const Ring gram = ring_of(job.gram, job, blockIdx.x), factor = ring_of(job.factor, job, blockIdx.x);
    if (core->refactor != 0) return factorize(gram, factor, shift);
    if (sums == nullptr) return;
    double* const v = reinterpret_cast<double*>(dynamic_shared());
    double* const b = v + job.ring;
    const int64_t kept = job.count - 1;
    const double* const dropped = job.factor + (blockIdx.x * job.ring + old_head) * job.ring + 1;
    for (int64_t t = threadIdx.x; t < kept; t += threads) {
        b[t] = sums[blockIdx.x * job.count + t];
        if (drops) v[t] = dropped[t];
    }
    __syncthreads();
    Ring before = factor;
    before.count = kept;
    if (drops) {
        forward<true>(before, v, b);
    } else {
        forward<false>(before, v, b);
    }
    double sum = 0;
    for (int64_t t = threadIdx.x; t < kept; t += threads) sum = fma(b[t], b[t], sum);
    const double pivot = sums[blockIdx.x * job.count + kept] + shift - sum_of_block(sum);
    if (!(pivot >= 0.5 * shift)) return factorize(gram, factor, shift);  // exactly, it is at least shift
    for (int64_t t = threadIdx.x; t < kept; t += threads) factor.at(kept, t) = b[t];
    if (threadIdx.x == 0) factor.at(kept, kept) = sqrt(pivot > shift ? pivot : shift);
}

__global__ void __launch_bounds__(threads) solve_kernel(const CoreJob job, double* y, bool both) {
    double* const b = reinterpret_cast<double*>(dynamic_shared());
    double* const mine = y + blockIdx.x * job.count;
    const Ring factor = ring_of(job.factor, job, blockIdx.x % job.blocks);
    for (int64_t t = threadIdx.x; t < job.count; t += threads) b[t] = mine[t];
    __syncthreads();
    forward<false>(factor, nullptr, b);
    if (both) backward(factor, b);
    for (int64_t t = threadIdx.x; t < job.count; t += threads) mine[t] = b[t];
}

__global__ void __launch_bounds__(threads) newest_kernel(const CoreJob job, const DeviceCore* core, const DeviceScan* found, double* y) {
    double* const b = reinterpret_cast<double*>(dynamic_shared());
    const bool there = core->shift != 0;
    const Ring factor = ring_of(job.factor, job, blockIdx.x);
    const int64_t last = job.count - 1;
    for (int64_t t = threadIdx.x; t <= last; t += threads) b[t] = t == last && there ? 1 / factor.at(last, last) : 0;
    __syncthreads();
    if (there) backward(factor, b);
    const double by = found->bad != 0 ? 0.0 / 0.0 : job.scale;
    for (int64_t t = threadIdx.x; t <= last; t += threads) y[blockIdx.x * job.count + t] = by * b[t];
}

__global__ void __launch_bounds__(threads) scale_kernel(double* y, int64_t count, double by, const DeviceCore* core, double* inverse_lambda) {
    if (core != nullptr) by = -1 / core->lambda;
    for (int64_t i = threadIdx.x; i < count; i += threads) y[i] *= by;
    if (core != nullptr && threadIdx.x == 0) *inverse_lambda = -by;
}

__global__ void __launch_bounds__(threads) columns_kernel(const CoreJob job, int64_t first, int64_t entries, double* y) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (at >= entries) return;
    const int64_t t = at % job.count, set = at / job.count, column = first + set / job.blocks;
    const Ring gram = ring_of(job.gram, job, set % job.blocks);
    y[at] = t < column ? gram.at(column, t) : gram.at(t, column);
}

__global__ void __launch_bounds__(threads) symmetric_sum_kernel(const CoreJob job, const double* y, double by, double* out) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, n = job.count;
    if (at >= n * n) return;
    const int64_t i = at / n, j = at % n;
    double sum = 0;
    for (int64_t b = 0; b < job.blocks; ++b) sum += y[(i * job.blocks + b) * n + j] + y[(j * job.blocks + b) * n + i];
    out[at] = by * sum;
}

__global__ void __launch_bounds__(threads) log_determinant_kernel(const CoreJob job, const DeviceCore* core, double* result) {
    double sum = 0;
    const double log_shift = log(core->shift);
    for (int64_t at = threadIdx.x; at < job.blocks * job.count; at += threads) {
        const int64_t t = at % job.count;
        sum += 2 * log(ring_of(job.factor, job, at / job.count).at(t, t)) - log_shift;
    }
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) *result = sum + job.dim * log(core->lambda);
}

Grid one_each(int64_t count, const char* name) { return {block_count(ceil_div(count, threads), name), threads}; }

Grid blocks(int64_t count, const CoreJob& job) {
    return {dim3(static_cast<unsigned>(count)), threads, static_cast<std::size_t>(2 * job.ring) * sizeof(double)};
}

}  // namespace

int64_t most_rows(int device) {
    constexpr int64_t static_shared = 40 * 1024;  // what the kernels above have besides
    return (static_cast<int64_t>(traits(device).shared_bytes) - static_shared) / (2 * static_cast<int64_t>(sizeof(double))) - 1;
}

void append_gram(const CoreJob& job, const double* sums, CudaPlace place) {
    launch("window: Gram matrix", place, {dim3(static_cast<unsigned>(job.blocks)), threads}, append_kernel, job, sums);
}

void refresh_factor(const CoreJob& job, const RowChange* change, bool wanted, DeviceCore* core, CudaPlace place) {
    launch("window: damping", place, {dim3(1), threads}, damping_kernel, job, wanted, core);
    const RowChange none{nullptr, false, 0};
    const RowChange& with = change == nullptr ? none : *change;
    launch("window: factor", place, blocks(job.blocks, job), factor_kernel, job, with.sums, with.drops, with.old_head, core);
}

void solve_core(const CoreJob& job, double* y, int64_t sets, bool backward, CudaPlace place) {
    launch("window: solve", place, blocks(sets * job.blocks, job), solve_kernel, job, y, backward);
}

void scale_coefficients(double* y, int64_t count, double by, const DeviceCore* core, double* inverse_lambda, CudaPlace place) {
    launch("window: coefficients", place, {dim3(1), threads}, scale_kernel, y, count, by, core, inverse_lambda);
}

void gram_columns(const CoreJob& job, int64_t first, int64_t count, double* y, CudaPlace place) {
    const int64_t entries = count * job.blocks * job.count;
    launch("window: columns", place, one_each(entries, "window: columns"), columns_kernel, job, first, entries, y);
}

void symmetric_sum(const CoreJob& job, const double* y, double by, double* out, CudaPlace place) {
    launch("window: influence", place, one_each(job.count * job.count, "window: influence"), symmetric_sum_kernel, job, y, by, out);
}

void log_determinant(const CoreJob& job, const DeviceCore* core, double* result, CudaPlace place) {
    launch("window: logdet", place, {dim3(1), threads}, log_determinant_kernel, job, core, result);
}

void newest_coefficients(const CoreJob& job, const DeviceCore* core, const DeviceScan* found, double* y, CudaPlace place) {
    launch("window: coefficients", place, blocks(job.blocks, job), newest_kernel, job, core, found, y);
}

}  // namespace raphson::cuda
