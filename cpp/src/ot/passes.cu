#include <algorithm>

#include "ot/device_entries.h"
#include "ot/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr double far_off_low = 1e-100, far_off_high = 1e100;

// ---- rows: each of rows_at_once by the whole block -----------------------------------------------------------------------

// u ← −exponent·log Σ exp(ψ − C/reg): at the u there is, or, where that is too far off, at the row's largest entry.
template <class Entries>
__global__ void __launch_bounds__(threads) row_update_kernel(const Entries cost, int64_t rows, int64_t columns, const At at,
                                                             double exponent, double* u) {
    __shared__ double room[threads / 32];
    const int64_t first = static_cast<int64_t>(blockIdx.x) * rows_at_once;
    double base[rows_at_once], sum[rows_at_once], high[rows_at_once], c[rows_at_once];
    for (int r = 0; r < rows_at_once; ++r) base[r] = u[first + r < rows ? first + r : rows - 1];
    for (int look = 0; look < 2; ++look) {
        for (int r = 0; r < rows_at_once; ++r) sum[r] = 0;
        for (int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
            const double psi = at.psi[j];
            cost.column(first, rows - 1, j, c);
#pragma unroll
            for (int r = 0; r < rows_at_once; ++r) sum[r] += at.entry(base[r], psi, c[r]);
        }
        bool again = false;
        for (int r = 0; r < rows_at_once; ++r) {
            sum[r] = over_block(sum[r], room, Plus());
            again = again || !(sum[r] > far_off_low && sum[r] < far_off_high);
        }
        if (look == 1 || !again) break;
        for (int r = 0; r < rows_at_once; ++r) high[r] = minus_infinite;
        for (int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
            const double psi = at.psi[j];
            cost.column(first, rows - 1, j, c);
#pragma unroll
            for (int r = 0; r < rows_at_once; ++r) high[r] = fmax(high[r], fma(-c[r], at.inverse_reg, psi));
        }
        for (int r = 0; r < rows_at_once; ++r) {
            high[r] = over_block(high[r], room, Larger());
            if (high[r] > minus_infinite) base[r] = -high[r];
        }
    }
    if (threadIdx.x != 0) return;
    for (int r = 0; r < rows_at_once && first + r < rows; ++r) {
        if (sum[r] > 0) u[first + r] = exponent * (base[r] - log(sum[r]));  // else no column can take this row now
    }
}

// With e = exp(u + ψ − C/reg): sums ← Σ e, products ← a·Σ e·v, costs ← a·Σ e·C, each where it is not null.
template <class Entries>
__global__ void __launch_bounds__(threads) row_sums_kernel(const Entries cost, int64_t rows, int64_t columns, const At at,
                                                           const double* mass, const double* v, double* sums, double* products,
                                                           double* costs) {
    __shared__ double room[threads / 32];
    const int64_t first = static_cast<int64_t>(blockIdx.x) * rows_at_once;
    double u[rows_at_once], sum[rows_at_once], product[rows_at_once], spent[rows_at_once], c[rows_at_once];
    for (int r = 0; r < rows_at_once; ++r) {
        u[r] = at.u[first + r < rows ? first + r : rows - 1];
        sum[r] = product[r] = spent[r] = 0;
    }
    for (int64_t j = threadIdx.x; j < columns; j += blockDim.x) {
        const double psi = at.psi[j], x = v != nullptr ? v[j] : 0;
        cost.column(first, rows - 1, j, c);
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) {
            const double e = at.entry(u[r], psi, c[r]);
            sum[r] += e;
            product[r] = fma(e, x, product[r]);
            if (e > 0) spent[r] = fma(e, c[r], spent[r]);  // 0·Inf counts as 0
        }
    }
    for (int r = 0; r < rows_at_once; ++r) {
        sum[r] = over_block(sum[r], room, Plus());
        product[r] = over_block(product[r], room, Plus());
        spent[r] = over_block(spent[r], room, Plus());
        if (threadIdx.x != 0 || first + r >= rows) continue;
        if (sums != nullptr) sums[first + r] = sum[r];
        if (products != nullptr) products[first + r] = mass[first + r] * product[r];
        if (costs != nullptr) costs[first + r] = mass[first + r] > 0 ? mass[first + r] * spent[r] : 0;
    }
}

template <class Entries, class T>
__global__ void __launch_bounds__(threads) plan_kernel(const Entries cost, int64_t columns, const At at, const double* mass,
                                                       int64_t first, T* out, int64_t stride) {
    const int64_t row = first + blockIdx.x;
    const double u = at.u[row], a = mass[row];
    for (int64_t j = threadIdx.x; j < columns; j += threads) {
        out[blockIdx.x * stride + j] = static_cast<T>(a > 0 ? a * at.entry(u, at.psi[j], cost.at(row, j)) : 0);
    }
}

// ---- columns: a thread each, a part of the rows a block ----------------------------------------------------------------

// partials[part] ← Σ a·z·exp(u + ψ − C/reg) over the part's rows; z null: ones.
template <class Entries>
__global__ void __launch_bounds__(threads) column_sums_kernel(const Entries cost, int64_t rows, int64_t columns, const At at,
                                                              const double* mass, const double* z, double* partials,
                                                              int64_t padded) {
    const int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, part = blockIdx.y;
    if (j >= columns) return;
    const int64_t begin = rows * part / gridDim.y, end = rows * (part + 1) / gridDim.y;
    const double psi = at.psi[j];
    double sum = 0, c[rows_at_once];
    for (int64_t i = begin; i < end; i += rows_at_once) {
        cost.column(i, end - 1, j, c);
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) {
            const double weight = i + r < end ? mass[i + r] * (z != nullptr ? z[i + r] : 1) : 0;
            if (weight != 0) sum = fma(weight, at.entry(at.u[i + r], psi, c[r]), sum);
        }
    }
    partials[part * padded + j] = sum;
}

// ---- the columns' half ---------------------------------------------------------------------------------------------------

constexpr int columns_a_block = 32, lanes_a_column = 16;

__device__ double column_target(double b, double log_b, double psi, double kappa) {
    return kappa == 0 || !(b > 0) ? b : b * exp(-kappa * (psi - log_b));
}

// columns ← the slots' sum, in their order; then, where psi_next is not null, ψ's optimum; what is lost is noted for
// lost_kernel. column_errors (or null): the blocks' shares of Σ |column − target|.
template <class P>
__global__ void __launch_bounds__(columns_a_block* lanes_a_column) columns_kernel(const DeviceBalance balance, const P* partials,
                                                                                  int64_t slots, int64_t padded, int64_t columns,
                                                                                  const double* psi, double* psi_next,
                                                                                  double* sums, double* column_errors,
                                                                                  const double* least, int* lost) {
    __shared__ double parts[lanes_a_column][columns_a_block];
    const int at = static_cast<int>(threadIdx.x) % columns_a_block, lane = static_cast<int>(threadIdx.x) / columns_a_block;
    const int64_t j = static_cast<int64_t>(blockIdx.x) * columns_a_block + at;
    double sum = 0;
    if (j < columns) {
#pragma unroll 4
        for (int64_t slot = lane; slot < slots; slot += lanes_a_column) sum += static_cast<double>(partials[slot * padded + j]);
    }
    parts[lane][at] = sum;
    __syncthreads();
    if (lane != 0) return;  // a warp is left
    for (int l = 1; l < lanes_a_column; ++l) sum += parts[l][at];
    double error = 0;
    if (j < columns) {
        sums[j] = sum;
        const double b = balance.b[j], log_b = balance.log_b[j];
        if (column_errors != nullptr) error = fabs(sum - column_target(b, log_b, psi[j], balance.kappa_b));
        if (psi_next != nullptr) {
            psi_next[j] = psi[j];
            if (b > 0 && sum > *least) {
                psi_next[j] = log_b - (log(sum) - psi[j]) / (1 + balance.kappa_b);
            } else if (b > 0) {
                lost[1 + atomicAdd(lost, 1)] = static_cast<int>(j);  // in any order: each is taken for itself
            }
        }
    }
    error = over_warp(error, Plus());
    if (at == 0 && column_errors != nullptr) column_errors[blockIdx.x] = error;
}

// Columns that next to nothing reaches: their sums in logarithms, from the cost.
template <class Entries>
__global__ void __launch_bounds__(threads) lost_kernel(const Entries cost, int64_t rows, const At at, const DeviceBalance balance,
                                                       const int* lost, double* psi_next) {
    __shared__ double room[threads / 32];
    for (int k = static_cast<int>(blockIdx.x); k < lost[0]; k += static_cast<int>(gridDim.x)) {
        const int64_t j = lost[1 + k];
        double high = minus_infinite, sum = 0;
        for (int64_t i = threadIdx.x; i < rows; i += threads) {
            if (balance.a[i] > 0) high = fmax(high, at.u[i] + log(balance.a[i]) - cost.at(i, j) * at.inverse_reg);
        }
        high = over_block(high, room, Larger());
        if (!(high > minus_infinite)) continue;  // no row may serve it
        for (int64_t i = threadIdx.x; i < rows; i += threads) {
            if (balance.a[i] > 0) sum += balance.a[i] * at.entry(at.u[i], -high, cost.at(i, j));
        }
        sum = over_block(sum, room, Plus());
        if (threadIdx.x == 0) psi_next[j] = balance.log_b[j] - (high + log(sum)) / (1 + balance.kappa_b);
    }
}

// *total ← Σ shares, and Σ |a·row_sum − target| where row_sum is not null; one block.
__global__ void __launch_bounds__(threads) error_kernel(const DeviceBalance balance, const double* shares, int64_t count,
                                                        int64_t rows, const double* u, const double* row_sum, double* total) {
    __shared__ double room[threads / 32];
    double sum = 0;
    for (int64_t k = threadIdx.x; k < count; k += threads) sum += shares[k];
    for (int64_t i = threadIdx.x; row_sum != nullptr && i < rows; i += threads) {
        const double a = balance.a[i];
        if (a > 0) sum += fabs(a * row_sum[i] - (balance.kappa_a == 0 ? a : a * exp(-balance.kappa_a * u[i])));
    }
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) *total = sum;
}

template <class Entries>
__global__ void __launch_bounds__(threads) range_kernel(const Entries cost, int64_t rows, int64_t columns, double* parts) {
    __shared__ double room[threads / 32];
    double low = -minus_infinite, high = minus_infinite, forbids = 0, bad = -minus_infinite;
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        for (int64_t j = threadIdx.x; j < columns; j += threads) {
            const double c = cost.at(i, j);
            if (fabs(c) < -minus_infinite) {
                low = fmin(low, c);
                high = fmax(high, c);
            } else if (c > 0) {
                forbids = 1;
            } else {
                bad = fmin(bad, static_cast<double>(i * columns + j));
            }
        }
    }
    low = over_block(low, room, Smaller());
    high = over_block(high, room, Larger());
    forbids = over_block(forbids, room, Larger());
    bad = over_block(bad, room, Smaller());
    if (threadIdx.x != 0) return;
    double* const mine = parts + cost_range_numbers * (1 + blockIdx.x);
    mine[0] = low;
    mine[1] = high;
    mine[2] = forbids;
    mine[3] = bad;
}
__global__ void range_of_parts_kernel(int blocks, double* parts) {
    double low = -minus_infinite, high = minus_infinite, forbids = 0, bad = -minus_infinite;
    for (int k = static_cast<int>(threadIdx.x); k < blocks; k += 32) {
        const double* const part = parts + cost_range_numbers * (1 + k);
        low = fmin(low, part[0]);
        high = fmax(high, part[1]);
        forbids = fmax(forbids, part[2]);
        bad = fmin(bad, part[3]);
    }
    low = over_warp(low, Smaller());
    high = over_warp(high, Larger());
    forbids = over_warp(forbids, Larger());
    bad = over_warp(bad, Smaller());
    if (threadIdx.x != 0) return;
    parts[0] = low;
    parts[1] = high;
    parts[2] = forbids;
    parts[3] = bad;
}

// ---- launches --------------------------------------------------------------------------------------------------------------

// Of blocks that take whole rows.
Grid row_grid(const DeviceCost& cost, const char* name) {
    const auto across = static_cast<unsigned>(std::clamp<int64_t>(ceil_div(cost.columns, 32) * 32, 32, threads));
    return {block_count(ceil_div(cost.rows, rows_at_once), name), across};
}

int64_t column_blocks(int64_t columns) { return ceil_div(columns, columns_a_block); }

// The columns' sums over `slots` vectors of the room and, where psi_next is not null, ψ's optimum.
void add_columns(const DeviceBalance& balance, const PassRoom& room, int64_t columns, int64_t slots, bool narrow,
                 const double* psi, double* psi_next, double* sums, double* column_errors, CudaPlace place) {
    const Grid grid{block_count(column_blocks(columns), "sinkhorn: columns"), columns_a_block * lanes_a_column};
    if (narrow) {
        const auto* partials = static_cast<const float*>(room.partials);
        launch("sinkhorn: columns", place, grid, columns_kernel<float>, balance, partials, slots, room.padded, columns,
               psi, psi_next, sums, column_errors, balance.least_column, room.lost);
    } else {
        const auto* partials = static_cast<const double*>(room.partials);
        launch("sinkhorn: columns", place, grid, columns_kernel<double>, balance, partials, slots, room.padded, columns,
               psi, psi_next, sums, column_errors, balance.least_column, room.lost);
    }
}

template <class Entries>
void partial_columns(const Entries& entries, const DeviceCost& cost, const At& at, const double* mass, const double* z,
                     const PassRoom& room, CudaPlace place) {
    dim3 grid = block_count(ceil_div(cost.columns, threads), "sinkhorn: column sums");
    grid.y = static_cast<unsigned>(row_parts(cost, place.device));
    launch("sinkhorn: column sums", place, {grid, threads}, column_sums_kernel<Entries>, entries, cost.rows, cost.columns, at,
           mass, z, static_cast<double*>(room.partials), room.padded);
}

}  // namespace

int64_t row_parts(const DeviceCost& cost, int device) {
    constexpr int64_t blocks_a_processor = 8, fewest_rows = 16, most_parts = 1024;
    const int64_t wanted = ceil_div(blocks_a_processor * traits(device).processors, ceil_div(cost.columns, threads));
    return std::clamp<int64_t>(std::min(wanted, ceil_div(cost.rows, fewest_rows)), 1, most_parts);
}

PassRoom pass_room(const DeviceCost& cost, bool resident, Scratch& scratch) {
    constexpr int64_t padding = 32;
    PassRoom room;
    const int device = scratch.place().device;
    const ResidentShape shape = resident ? resident_shape(cost, device) : ResidentShape{0, 0, 0};
    room.padded = ceil_div(cost.columns, padding) * padding;
    room.slots = row_parts(cost, device);
    auto bytes = static_cast<std::size_t>(room.slots * room.padded) * sizeof(double);
    if (shape.threads > 0) {
        room.resident = true;
        room.narrow = cost.type == DType::float32;
        room.blocks = shape.blocks;
        room.threads = shape.threads;
        room.flushes = shape.flushes;
        room.slots = int64_t{shape.blocks} * shape.flushes;
        bytes = std::max(bytes, static_cast<std::size_t>(room.slots * room.padded * itemsize(cost.type)));
    }
    room.partials = scratch.take(bytes);
    room.column_errors = scratch.take_array<double>(column_blocks(cost.columns));
    room.row_parts = scratch.take_array<double>(cost.rows);
    room.lost = scratch.take_array<int>(cost.columns + 1);
    return room;
}

void sweep(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, double* u, const double* psi,
           double* psi_next, double* columns, CudaPlace place) {
    const At at{u, psi, balance.inverse_reg};
    check(cudaMemsetAsync(room.lost, 0, sizeof(int), stream(place)), "sinkhorn: lost columns");
    if (room.resident) {
        resident_sweep(cost, balance, room, psi, u, place);
    } else {
        for_entries(cost, [&](const auto& entries) {
            using Entries = std::decay_t<decltype(entries)>;
            launch("sinkhorn: rows", place, row_grid(cost, "sinkhorn: rows"), row_update_kernel<Entries>, entries, cost.rows,
                   cost.columns, at, 1 / (1 + balance.kappa_a), u);
            partial_columns(entries, cost, at, balance.a, nullptr, room, place);
        });
    }
    add_columns(balance, room, cost.columns, room.slots, room.narrow, psi, psi_next, columns, room.column_errors, place);
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        constexpr int64_t blocks_a_processor = 2;
        const int64_t most = std::min<int64_t>(cost.columns, blocks_a_processor * traits(place.device).processors);
        launch("sinkhorn: lost columns", place, {block_count(most, "sinkhorn: lost columns"), threads}, lost_kernel<Entries>,
               entries, cost.rows, at, balance, room.lost, psi_next);
    });
}

void total_error(const DeviceBalance& balance, const PassRoom& room, int64_t columns, double* error, CudaPlace place) {
    launch("sinkhorn: error", place, {dim3(1), threads}, error_kernel, balance, room.column_errors, column_blocks(columns),
           int64_t{0}, nullptr, nullptr, error);
}

void measure(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* u, const double* psi,
             const DeviceSums& sums, double* error, double* cost_sum, CudaPlace place) {
    const At at{u, psi, balance.inverse_reg};
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: row sums", place, row_grid(cost, "sinkhorn: row sums"), row_sums_kernel<Entries>, entries, cost.rows,
               cost.columns, at, balance.a, nullptr, sums.row_sum, nullptr, cost_sum != nullptr ? room.row_parts : nullptr);
        partial_columns(entries, cost, at, balance.a, nullptr, room, place);
    });
    add_columns(balance, room, cost.columns, row_parts(cost, place.device), false, psi, nullptr, sums.columns, room.column_errors,
                place);
    launch("sinkhorn: error", place, {dim3(1), threads}, error_kernel, balance, room.column_errors, column_blocks(cost.columns),
           cost.rows, u, sums.row_sum, error);
    if (cost_sum == nullptr) return;
    launch("sinkhorn: cost", place, {dim3(1), threads}, error_kernel, balance, room.row_parts, cost.rows, int64_t{0}, nullptr,
           nullptr, cost_sum);
}

void plan_rows(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi, int64_t first,
               int64_t count, DType type, void* out, int64_t out_stride, CudaPlace place) {
    const At at{u, psi, balance.inverse_reg};
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        const Grid grid{block_count(count, "sinkhorn: plan"), threads};
        if (type == DType::float32) {
            launch("sinkhorn: plan", place, grid, plan_kernel<Entries, float>, entries, cost.columns, at, balance.a, first,
                   static_cast<float*>(out), out_stride);
        } else {
            launch("sinkhorn: plan", place, grid, plan_kernel<Entries, double>, entries, cost.columns, at, balance.a, first,
                   static_cast<double*>(out), out_stride);
        }
    });
}

void plan_times(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi, const double* v,
                double* t, CudaPlace place) {
    const At at{u, psi, balance.inverse_reg};
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: plan times vector", place, row_grid(cost, "sinkhorn: plan times vector"), row_sums_kernel<Entries>,
               entries, cost.rows, cost.columns, at, balance.a, v, nullptr, t, nullptr);
    });
}

void plan_transposed_times(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* u,
                           const double* psi, const double* z, double* y, CudaPlace place) {
    const At at{u, psi, balance.inverse_reg};
    for_entries(cost, [&](const auto& entries) { partial_columns(entries, cost, at, balance.a, z, room, place); });
    add_columns(balance, room, cost.columns, row_parts(cost, place.device), false, psi, nullptr, y, nullptr, place);
}

void cost_range(const DeviceCost& cost, double* parts, CudaPlace place) {
    const int count = static_cast<int>(std::min<int64_t>(cost.rows, cost_range_blocks));
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: range", place, {block_count(count, "sinkhorn: range"), threads}, range_kernel<Entries>, entries, cost.rows,
               cost.columns, parts);
    });
    launch("sinkhorn: range", place, {dim3(1), 32}, range_of_parts_kernel, count, parts);
}

}  // namespace raphson::cuda
