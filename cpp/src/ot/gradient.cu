// What a cost's gradient is made of, and plans that are rounded to their marginals: passes over the plan whose entries carry
// a weight or are wanted one by one.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/copy.h"
#include "cuda/parts.h"
#include "ot/device_entries.h"
#include "ot/device_numbers.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr int together = 8;  // coordinates of a point's gradient that share the exponentials

// W = cost·C + bar.
struct Weight {
    double cost;
    const void* bar;  // null: zeros
    bool narrow;
    int64_t row_stride, column_stride;

    __device__ double at(int64_t i, int64_t j, double c) const {
        const double own = cost != 0 && fabs(c) < -minus_infinite ? cost * c : 0;  // forbidden pairs carry no mass
        if (bar == nullptr) return own;
        const int64_t k = i * row_stride + j * column_stride;
        return own + (narrow ? static_cast<double>(static_cast<const float*>(bar)[k]) : static_cast<const double*>(bar)[k]);
    }
};

// ∂L/∂C, entry by entry.
struct Slope {
    Weight weight;
    double direct, inverse_reg;
    const double *alpha, *beta;  // null: no implicit term

    __device__ double at(int64_t i, int64_t j, double c, double p) const {
        if (!(p > 0)) return 0;
        const double implicit = alpha != nullptr ? (alpha[i] + beta[j] - weight.at(i, j, c)) * inverse_reg : 0;
        return p * (direct + implicit);
    }
};

// ---- W∘P ------------------------------------------------------------------------------------------------------------------

template <class Entries>
__global__ void __launch_bounds__(threads) weighted_rows_kernel(const Entries cost, int64_t columns, const At at,
                                                                const double* mass, const Weight weight, double* rows) {
    __shared__ double room[threads / 32];
    const int64_t i = blockIdx.x;
    const double a = mass[i], u = at.u[i];
    double sum = 0;
    for (int64_t j = threadIdx.x; a > 0 && j < columns; j += threads) {
        const double c = cost.at(i, j);
        sum = fma(at.entry(u, at.psi[j], c), weight.at(i, j, c), sum);
    }
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) rows[i] = a > 0 ? a * sum : 0;
}

template <class Entries>
__global__ void __launch_bounds__(threads) weighted_columns_kernel(const Entries cost, int64_t rows, int64_t columns, const At at,
                                                                   const double* mass, const Weight weight, double* parts) {
    const int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, part = blockIdx.y;
    if (j >= columns) return;
    const double psi = at.psi[j];
    double sum = 0;
    for (int64_t i = rows * part / gridDim.y; i < rows * (part + 1) / gridDim.y; ++i) {
        const double a = mass[i], c = cost.at(i, j);
        if (a > 0) sum = fma(a * at.entry(at.u[i], psi, c), weight.at(i, j, c), sum);
    }
    parts[part * columns + j] = sum;
}

// ---- ∂L/∂C and ∂L/∂points -------------------------------------------------------------------------------------------------

template <class Entries, class T>
__global__ void __launch_bounds__(threads) gradient_kernel(const Entries cost, int64_t columns, const At at, const double* mass,
                                                           const Slope slope, T* out) {
    const int64_t i = blockIdx.x;
    const double a = mass[i], u = at.u[i];
    for (int64_t j = threadIdx.x; j < columns; j += threads) {
        const double c = cost.at(i, j);
        out[i * columns + j] = static_cast<T>(a > 0 ? slope.at(i, j, c, a * at.entry(u, at.psi[j], c)) : 0);
    }
}

// Of the cost c of a pair by a coordinate of its x, `difference` being x − y there.
template <Metric metric>
__device__ double pull(double difference, double c, double scale) {
    if constexpr (metric == Metric::sqeuclidean) return 2 * scale * difference;
    if constexpr (metric == Metric::cityblock) return difference > 0 ? scale : difference < 0 ? -scale : 0;
    return c > 0 ? scale * scale * difference / c : 0;
}

// Coordinates first … of x's gradient.
template <Metric metric>
__global__ void __launch_bounds__(threads) x_gradient_kernel(const PointEntries<metric> cost, int64_t columns, const At at,
                                                             const double* mass, const Slope slope, int first, double* out) {
    __shared__ double room[threads / 32];
    const int64_t i = blockIdx.x, dim = cost.dim;
    const double a = mass[i], u = at.u[i];
    double sums[together] = {};
    for (int64_t j = threadIdx.x; a > 0 && j < columns; j += threads) {
        const double c = cost.at(i, j), s = slope.at(i, j, c, a * at.entry(u, at.psi[j], c));
#pragma unroll
        for (int k = 0; k < together; ++k) {
            if (first + k < dim) {
                sums[k] = fma(s, pull<metric>(cost.x[i * dim + first + k] - cost.y[j * dim + first + k], c, cost.scale), sums[k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < together; ++k) {
        const double sum = over_block(sums[k], room, Plus());
        if (threadIdx.x == 0 && first + k < dim) out[i * dim + first + k] = sum;
    }
}

// parts[part][k][j]: of y's gradient, coordinates first + k.
template <Metric metric>
__global__ void __launch_bounds__(threads) y_gradient_kernel(const PointEntries<metric> cost, int64_t rows, int64_t columns,
                                                             const At at, const double* mass, const Slope slope, int first,
                                                             double* parts) {
    const int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x, part = blockIdx.y, dim = cost.dim;
    if (j >= columns) return;
    const double psi = at.psi[j];
    double sums[together] = {};
    for (int64_t i = rows * part / gridDim.y; i < rows * (part + 1) / gridDim.y; ++i) {
        const double a = mass[i];
        if (!(a > 0)) continue;
        const double c = cost.at(i, j), s = slope.at(i, j, c, a * at.entry(at.u[i], psi, c));
#pragma unroll
        for (int k = 0; k < together; ++k) {
            if (first + k < dim) {
                sums[k] = fma(-s, pull<metric>(cost.x[i * dim + first + k] - cost.y[j * dim + first + k], c, cost.scale), sums[k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < together; ++k) parts[(part * together + k) * columns + j] = sums[k];
}

// ---- rounding -------------------------------------------------------------------------------------------------------------

struct Rounding {
    const double *row_scale, *column_scale, *left, *right;
};

// firsts[block] ← the lowest row·columns + column of a forbidden pair that is to have mass, Inf without one.
template <class Entries>
__global__ void __launch_bounds__(threads) conflict_kernel(const Entries cost, int64_t rows, int64_t columns, const Rounding r,
                                                           double* firsts) {
    __shared__ double room[threads / 32];
    double first = -minus_infinite;
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        for (int64_t j = threadIdx.x; r.left[i] > 0 && j < columns; j += threads) {
            if (r.right[j] > 0 && !(cost.at(i, j) < -minus_infinite)) first = fmin(first, static_cast<double>(i * columns + j));
        }
    }
    first = over_block(first, room, Smaller());
    if (threadIdx.x == 0) firsts[blockIdx.x] = first;
}

template <class Entries, class T>
__global__ void __launch_bounds__(threads) rounded_kernel(const Entries cost, int64_t columns, const At at, const double* mass,
                                                          const Rounding r, T* out) {
    const int64_t i = blockIdx.x;
    const double a = mass[i] * r.row_scale[i], u = at.u[i], left = r.left[i];
    for (int64_t j = threadIdx.x; j < columns; j += threads) {
        const double p = a > 0 ? a * at.entry(u, at.psi[j], cost.at(i, j)) * r.column_scale[j] : 0;
        out[i * columns + j] = static_cast<T>(fma(left, r.right[j], p));
    }
}

Slope slope_of(const CudaTransport& given, const CudaTransportGradient& g, Scratch& scratch) {
    const CudaView& bar = g.plan_bar;
    const Weight weight{g.cost_weight, bar.data, bar.type == DType::float32, bar.row_stride, bar.column_stride};
    return {weight, g.direct, 1 / given.problem->reg, g.alpha != nullptr ? upload(g.alpha, given.problem->n, scratch) : nullptr,
            g.beta != nullptr ? upload(g.beta, given.problem->m, scratch) : nullptr};
}

struct Parts {
    dim3 grid;
    int64_t number;
};
Parts column_parts(const DeviceCost& cost, int device) {
    Parts parts{block_count(ceil_div(cost.columns, threads), "sinkhorn: gradient"), row_parts(cost, device)};
    parts.grid.y = static_cast<unsigned>(parts.number);
    return parts;
}
Grid a_row_each(const DeviceCost& cost) { return {block_count(cost.rows, "sinkhorn: gradient"), threads}; }

}  // namespace

void weighted_sums(const CudaTransport& given, Potentials potentials, const CudaTransportGradient& gradient, double* rows,
                   double* columns, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const Placed placed(given, potentials.f, potentials.g, scratch);
    const DeviceCost& cost = placed.cost;
    const At at{placed.u, placed.psi, placed.balance.inverse_reg};
    const Weight weight = slope_of(given, gradient, scratch).weight;
    const Parts parts = column_parts(cost, place.device);
    auto *const right = scratch.take_array<double>(cost.rows), *const below = scratch.take_array<double>(cost.columns);
    auto* const shares = scratch.take_array<double>(parts.number * cost.columns);
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: gradient", place, a_row_each(cost), weighted_rows_kernel<Entries>, entries, cost.columns, at,
               placed.balance.a, weight, right);
        launch("sinkhorn: gradient", place, {parts.grid, threads}, weighted_columns_kernel<Entries>, entries, cost.rows,
               cost.columns, at, placed.balance.a, weight, shares);
    });
    add_parts("sinkhorn: gradient", shares, parts.number, cost.columns, below, place);
    read(contiguous(right, DType::float64, cost.rows, 1), rows, place);
    read(contiguous(below, DType::float64, cost.columns, 1), columns, place);
}

void cost_gradient(const CudaTransport& given, Potentials potentials, const CudaTransportGradient& gradient, void* out, DType type,
                   CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const Placed placed(given, potentials.f, potentials.g, scratch);
    const At at{placed.u, placed.psi, placed.balance.inverse_reg};
    const Slope slope = slope_of(given, gradient, scratch);
    for_entries(placed.cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        const auto run = [&](auto* to) {
            using T = std::decay_t<decltype(*to)>;
            launch("sinkhorn: gradient", place, a_row_each(placed.cost), gradient_kernel<Entries, T>, entries, placed.cost.columns,
                   at, placed.balance.a, slope, to);
        };
        if (type == DType::float32) return run(static_cast<float*>(out));
        run(static_cast<double*>(out));
    });
}

void point_gradient(const CudaTransport& given, Potentials potentials, const CudaTransportGradient& gradient, double* x, double* y,
                    CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const Placed placed(given, potentials.f, potentials.g, scratch);
    const DeviceCost& cost = placed.cost;
    const At at{placed.u, placed.psi, placed.balance.inverse_reg};
    const Slope slope = slope_of(given, gradient, scratch);
    const Parts parts = column_parts(cost, place.device);
    auto* const shares = scratch.take_array<double>(parts.number * together * cost.columns);
    auto* const to_x = scratch.take_array<double>(cost.rows * cost.dim);
    auto* const to_y = scratch.take_array<double>(together * cost.columns);
    std::vector<double> found;
    for (int first = 0; first < cost.dim; first += together) {
        for_points(cost, [&](const auto& entries) {
            constexpr Metric metric = std::decay_t<decltype(entries)>::kind;
            launch("sinkhorn: gradient", place, a_row_each(cost), x_gradient_kernel<metric>, entries, cost.columns, at,
                   placed.balance.a, slope, first, to_x);
            launch("sinkhorn: gradient", place, {parts.grid, threads}, y_gradient_kernel<metric>, entries, cost.rows, cost.columns,
                   at, placed.balance.a, slope, first, shares);
        });
        add_parts("sinkhorn: gradient", shares, parts.number, together * cost.columns, to_y, place);
        found = read(to_y, together * cost.columns, place);
        for (int64_t k = 0; k < std::min<int64_t>(together, cost.dim - first); ++k) {
            const double* const one = found.data() + k * cost.columns;
            for (int64_t j = 0; j < cost.columns; ++j) y[j * cost.dim + first + k] = one[j];
        }
    }
    read(contiguous(to_x, DType::float64, cost.rows, cost.dim), x, place);
}

CudaRounding rounded(const CudaTransport& given, Potentials potentials, void* out, DType type, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const TransportProblem& p = *given.problem;
    if (no_plan(given, potentials.f, potentials.g)) {
        const auto bytes = static_cast<std::size_t>(p.n * p.m * itemsize(type));
        check(cudaMemsetAsync(out, 0xff, bytes, stream(place)), "sinkhorn: rounded plan");
        return {};
    }
    Scratch scratch(place);
    const Placed placed(given, potentials.f, potentials.g, scratch);
    const DeviceCost& cost = placed.cost;
    const At at{placed.u, placed.psi, placed.balance.inverse_reg};
    const PassRoom room = pass_room(cost, false, scratch);
    auto *const t = scratch.take_array<double>(p.n), *const y = scratch.take_array<double>(p.m);
    const auto row_sums = [&](const std::vector<double>& v) {  // P v
        plan_times(cost, placed.balance, placed.u, placed.psi, upload(v, scratch), t, place);
        return read(t, p.n, place);
    };
    const auto size = [](int64_t count) { return static_cast<std::size_t>(count); };
    std::vector<double> row_scale(size(p.n), 1.0), column_scale(size(p.m), 1.0), left(p.a), right(p.b);
    const std::vector<double> rows = row_sums(column_scale);
    for (std::size_t i = 0; i < rows.size(); ++i) row_scale[i] = rows[i] > p.a[i] ? p.a[i] / rows[i] : 1;
    double* const row_scale_there = upload(row_scale, scratch);
    plan_transposed_times(cost, placed.balance, room, placed.u, placed.psi, row_scale_there, y, place);
    const std::vector<double> columns = read(y, p.m, place);
    double missing = 0, wanted = 0;
    for (std::size_t j = 0; j < columns.size(); ++j) {
        column_scale[j] = columns[j] > p.b[j] ? p.b[j] / columns[j] : 1;
        wanted += right[j] = std::max(p.b[j] - column_scale[j] * columns[j], 0.0);
    }
    const std::vector<double> scaled = row_sums(column_scale);
    for (std::size_t i = 0; i < scaled.size(); ++i) missing += left[i] = std::max(p.a[i] - row_scale[i] * scaled[i], 0.0);
    CudaRounding result;
    if (missing > 0 && wanted > 0) {
        for (double& x : right) x /= wanted;
        result.missing = missing;
    } else {
        std::fill(left.begin(), left.end(), 0.0);
        std::fill(right.begin(), right.end(), 0.0);
    }
    const Rounding r{row_scale_there, upload(column_scale, scratch), upload(left, scratch), upload(right, scratch)};
    if (result.missing > 0 && p.forbids) {
        const int64_t blocks = std::min<int64_t>(p.n, cost_range_blocks);
        auto* const firsts = scratch.take_array<double>(blocks);
        for_entries(cost, [&](const auto& entries) {
            using Entries = std::decay_t<decltype(entries)>;
            launch("sinkhorn: rounded plan", place, {block_count(blocks, "sinkhorn: rounded plan"), threads},
                   conflict_kernel<Entries>, entries, p.n, p.m, r, firsts);
        });
        const std::vector<double> found = read(firsts, blocks, place);
        const double first = *std::min_element(found.begin(), found.end());
        result.forbidden = std::isfinite(first);
        if (result.forbidden) {
            result.row = static_cast<int64_t>(first) / p.m;
            result.column = static_cast<int64_t>(first) % p.m;
            return result;
        }
    }
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        const auto run = [&](auto* to) {
            using T = std::decay_t<decltype(*to)>;
            launch("sinkhorn: rounded plan", place, a_row_each(cost), rounded_kernel<Entries, T>, entries, p.m, at,
                   placed.balance.a, r, to);
        };
        if (type == DType::float32) return run(static_cast<float*>(out));
        run(static_cast<double*>(out));
    });
    return result;
}

}  // namespace raphson::cuda
