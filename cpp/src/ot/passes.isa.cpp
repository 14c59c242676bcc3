#include "ot/passes.h"

#include "isa.h"
#include "ot/log_sweep.h"

RAPHSON_ISA_BEGIN
namespace {

void log_sweep(const LogBlock& block) {
    if (block.cost.type == DType::float64) return log_sweep_typed<double>(block);
    log_sweep_typed<float>(block);
}

// ---- what a cost holds --------------------------------------------------------------------------------------------------
template <class T>
CostScan scan_typed(const CostBlock& cost) {
    constexpr double infinity = std::numeric_limits<double>::infinity(), largest = std::numeric_limits<double>::max();
    constexpr unsigned all = (1u << wide) - 1u;
    CostScan found{infinity, -infinity, false, false};
    for (std::int64_t i = 0; i < cost.rows; ++i) {
        const T* row = static_cast<const T*>(cost.data) + i * cost.stride;
        Vec<double> low = splat(infinity), high = splat(-infinity);
        unsigned sound = all, infinite = 0;
        std::int64_t j = 0;
        for (; j + wide <= cost.columns; j += wide) {
            const Vec<double> c = load_wide(row + j);
            sound &= lanes_at_least(c, splat(-largest));  // NaN fails
            infinite |= lanes_at_least(c, splat(infinity));
            low = min(low, c);
            high = max(high, c);
        }
        double least[wide], most[wide];
        store(least, low);
        store(most, high);
        if (sound == all && infinite == 0) {
            for (int lane = 0; lane < wide; ++lane) {
                found.lowest = std::min(found.lowest, least[lane]);
                found.highest = std::max(found.highest, most[lane]);
            }
        } else {
            j = 0;  // rare: once more, entry by entry
        }
        for (; j < cost.columns; ++j) {
            const double c = static_cast<double>(row[j]);
            if (c != c || c < -largest) {
                found.bad = true;
            } else if (c > largest) {
                found.forbids = true;
            } else {
                found.lowest = std::min(found.lowest, c);
                found.highest = std::max(found.highest, c);
            }
        }
    }
    return found;
}

CostScan scan(const CostBlock& cost) {
    return cost.type == DType::float64 ? scan_typed<double>(cost) : scan_typed<float>(cost);
}

// ---- the kernel domain -------------------------------------------------------------------------------------------------
// t of R rows of the kernel: their sums with x.
template <int R, class T>
struct RowSums {
    Vec<double> sum[R];
    RowSums() {
        for (Vec<double>& s : sum) s = zero<double>();
    }
    RAPHSON_FORCE_INLINE void add_at(const T* k, std::int64_t stride, Vec<double> x, std::int64_t j) {
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) sum[r] = fma(load_wide(k + r * stride + j), x, sum[r]);
    }
};

// What the sums of R rows become: their share z of the column sums.
template <int R, class T>
void finish_rows(const KernelBlock& b, std::int64_t row, const RowSums<R, T>& sums, std::int64_t from, double* z) {
    const T* k = static_cast<const T*>(b.kernel.data) + row * b.kernel.stride;
    for (int r = 0; r < R; ++r) {
        double t = sum_lanes(sums.sum[r]);
        for (std::int64_t c = from; c < b.kernel.columns; ++c) t += static_cast<double>(k[r * b.kernel.stride + c]) * b.x[c];
        const std::int64_t i = row + r;
        if (b.t != nullptr) b.t[i] = t;
        z[r] = b.coefficient[i];
        if (b.linear) {
            z[r] *= t;
        } else if (z[r] > 0) {
            const double offset = b.offset != nullptr ? b.offset[i] : 0;
            b.log_scale[i] = offset - b.exponent * std::log(t);
            z[r] = b.exponent == 1 && offset == 0 ? z[r] / t : z[r] * std::exp(b.log_scale[i]);
        } else {
            b.log_scale[i] = 0;
        }
    }
}

// The columns take their share of R rows while the sums of the next R (null: there are none) are taken: those come from
// memory, these from cache.
template <int R, class T>
void share_and_sum(const KernelBlock& b, const T* k, const double* z, const T* next, RowSums<R, T>* sums) {
    const std::int64_t columns = b.kernel.columns, stride = b.kernel.stride;
    Vec<double> zv[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) zv[r] = splat(z[r]);
    std::int64_t j = 0;
    if (next != nullptr) {
        RowSums<R, T> own;
        for (; j + wide <= columns; j += wide) {
            Vec<double> total = load(b.columns + j);
            RAPHSON_UNROLL
            for (int r = 0; r < R; ++r) total = fma(load_wide(k + r * stride + j), zv[r], total);
            store(b.columns + j, total);
            const std::int64_t later = j + prefetched;
            const T* coming = later < columns ? next + later : next + R * stride + (later - columns);
            RAPHSON_UNROLL
            for (int r = 0; r < R; ++r) prefetch_far(coming + r * stride);
            own.add_at(next, stride, load(b.x + j), j);
        }
        *sums = own;
    } else {
        for (; j + wide <= columns; j += wide) {
            Vec<double> total = load(b.columns + j);
            RAPHSON_UNROLL
            for (int r = 0; r < R; ++r) total = fma(load_wide(k + r * stride + j), zv[r], total);
            store(b.columns + j, total);
        }
    }
    for (; j < columns; ++j) {
        for (int r = 0; r < R; ++r) b.columns[j] += static_cast<double>(k[r * stride + j]) * z[r];
    }
}

template <int R, class T>
std::int64_t kernel_groups(const KernelBlock& b, std::int64_t row) {
    if (row + R > b.kernel.rows) return row;
    const std::int64_t columns = b.kernel.columns, stride = b.kernel.stride, whole = columns / wide * wide;
    const T* k = static_cast<const T*>(b.kernel.data) + row * stride;
    RowSums<R, T> sums;
    for (std::int64_t j = 0; j < whole; j += wide) sums.add_at(k, stride, load(b.x + j), j);
    for (; row + R <= b.kernel.rows; row += R, k += R * stride) {
        double z[R];
        finish_rows<R, T>(b, row, sums, whole, z);
        share_and_sum<R, T>(b, k, z, row + 2 * R <= b.kernel.rows ? k + R * stride : nullptr, &sums);
    }
    return row;
}

template <class T>
void kernel_sweep_typed(const KernelBlock& b) {
    const std::int64_t row = kernel_groups<ot_group, T>(b, 0);
    kernel_groups<1, T>(b, row);
}

void kernel_sweep(const KernelBlock& block) {
    if (block.kernel.type == DType::float64) return kernel_sweep_typed<double>(block);
    kernel_sweep_typed<float>(block);
}

// ---- columns that a sweep lost to underflow ----------------------------------------------------------------------------
template <class T>
void column_max_typed(const CostBlock& cost, double inverse_reg, const double* phi, const std::int64_t* groups,
                      std::int64_t group_count, double* highest) {
    const Vec<double> rate = splat(-inverse_reg);
    for (std::int64_t i = 0; i < cost.rows; ++i) {
        const T* row = static_cast<const T*>(cost.data) + i * cost.stride;
        if (!(phi[i] > -std::numeric_limits<double>::infinity())) continue;
        const Vec<double> base = splat(phi[i]);
        for (std::int64_t g = 0; g < group_count; ++g) {
            const std::int64_t end = std::min(groups[g] + ot_padding, cost.columns);
            std::int64_t j = groups[g];
            for (; j + wide <= end; j += wide) {
                store(highest + j, max(load(highest + j), fma(load_wide(row + j), rate, base)));
            }
            for (; j < end; ++j) highest[j] = std::max(highest[j], phi[i] - static_cast<double>(row[j]) * inverse_reg);
        }
    }
}

template <class T>
void column_sum_typed(const CostBlock& cost, double inverse_reg, const double* phi, const double* shift,
                      const std::int64_t* groups, std::int64_t group_count, double* sum) {
    const Vec<double> rate = splat(-inverse_reg);
    for (std::int64_t i = 0; i < cost.rows; ++i) {
        const T* row = static_cast<const T*>(cost.data) + i * cost.stride;
        if (!(phi[i] > -std::numeric_limits<double>::infinity())) continue;
        const Vec<double> base = splat(phi[i]);
        for (std::int64_t g = 0; g < group_count; ++g) {
            const std::int64_t end = std::min(groups[g] + ot_padding, cost.columns);
            for (std::int64_t j = groups[g]; j < end; j += wide) {
                const int count = static_cast<int>(std::min<std::int64_t>(wide, end - j));
                const Vec<double> from = subtract(base, load_part(shift + j, count));
                Vec<double> x[1] = {mul(fma(load_wide_part(row + j, count), rate, from), splat(log2_e))};
                exp2_flushed(x);
                store_part(sum + j, add(load_part(sum + j, count), x[0]), count);
            }
        }
    }
}

void column_max(const CostBlock& cost, double inverse_reg, const double* phi, const std::int64_t* groups,
                std::int64_t group_count, double* highest) {
    if (cost.type == DType::float64) return column_max_typed<double>(cost, inverse_reg, phi, groups, group_count, highest);
    column_max_typed<float>(cost, inverse_reg, phi, groups, group_count, highest);
}
void column_sum(const CostBlock& cost, double inverse_reg, const double* phi, const double* shift,
                const std::int64_t* groups, std::int64_t group_count, double* sum) {
    if (cost.type == DType::float64) return column_sum_typed<double>(cost, inverse_reg, phi, shift, groups, group_count, sum);
    column_sum_typed<float>(cost, inverse_reg, phi, shift, groups, group_count, sum);
}

// ---- the sparse plan ---------------------------------------------------------------------------------------------------
double gathered(const std::int32_t* index, const double* value, std::int64_t count, const double* x) {
    double lanes[4] = {};
    std::int64_t k = 0;
#if defined(RAPHSON_SIMD_AVX512)
    if (count >= 8) {
        __m512d sum = _mm512_setzero_pd();
        for (; k + 8 <= count; k += 8) {
            const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index + k));
            sum = _mm512_fmadd_pd(_mm512_loadu_pd(value + k), _mm512_i32gather_pd(at, x, 8), sum);
        }
        lanes[0] = sum_lanes({sum});
    }
#endif
    for (; k + 4 <= count; k += 4) {
        for (int l = 0; l < 4; ++l) lanes[l] += value[k + l] * x[index[k + l]];
    }
    for (; k < count; ++k) lanes[0] += value[k] * x[index[k]];
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

template <class Scatter>
void each_row(const SparseRows& plan, Scatter&& work) {
    std::int64_t first = 0;
    for (std::int64_t i = 0; i < plan.rows; ++i) {
        const std::int64_t end = plan.row_end[i];
        work(i, plan.index + first, plan.value + first, end - first);
        first = end;
    }
}

void scatter(const std::int32_t* index, const double* value, std::int64_t count, double z, double* columns) {
    for (std::int64_t k = 0; k < count; ++k) columns[index[k]] += z * value[k];
}

void sparse_normal(const SparseRows& plan, const double* x, const double* coefficient, double* columns) {
    each_row(plan, [&](std::int64_t i, const std::int32_t* index, const double* value, std::int64_t count) {
        scatter(index, value, count, coefficient[i] * gathered(index, value, count, x), columns);
    });
}

void sparse_columns(const SparseRows& plan, const double* z, double* columns) {
    each_row(plan, [&](std::int64_t i, const std::int32_t* index, const double* value, std::int64_t count) {
        scatter(index, value, count, z[i], columns);
    });
}

// ---- costs of point clouds ---------------------------------------------------------------------------------------------
template <Metric metric>
RAPHSON_FORCE_INLINE Vec<double> accumulate(Vec<double> difference, Vec<double> sum) {
    if constexpr (metric == Metric::cityblock) return add(sum, max(difference, mul(difference, splat(-1.0))));
    return fma(difference, difference, sum);
}

template <Metric metric>
void point_costs_of(const PointBlock& b) {
    for (std::int64_t i = 0; i < b.rows; ++i) {
        const double* x = b.x + i * b.dim;
        double* out = b.cost + i * b.stride;
        for (std::int64_t j = 0; j < b.columns; j += 2 * wide) {
            // whole registers: y and the rows of the cost are padded
            const bool both = j + wide < b.columns;
            Vec<double> s0 = zero<double>(), s1 = zero<double>();
            for (std::int64_t k = 0; k < b.dim; ++k) {
                const Vec<double> at = splat(-x[k]);
                const double* y = b.y + k * b.y_stride + j;
                s0 = accumulate<metric>(add(load(y), at), s0);
                if (both) s1 = accumulate<metric>(add(load(y + wide), at), s1);
            }
            store(out + j, mul(s0, splat(b.scale)));
            if (both) store(out + j + wide, mul(s1, splat(b.scale)));
        }
    }
}

void point_costs(const PointBlock& b) {
    if (b.metric == Metric::sqeuclidean) return point_costs_of<Metric::sqeuclidean>(b);
    if (b.metric == Metric::cityblock) return point_costs_of<Metric::cityblock>(b);
    PointBlock plain = b;  // the root is taken before the scale
    plain.scale = 1;
    point_costs_of<Metric::sqeuclidean>(plain);
    for (std::int64_t i = 0; i < b.rows; ++i) {
        double* out = b.cost + i * b.stride;
        for (std::int64_t j = 0; j < b.columns; ++j) out[j] = b.scale * std::sqrt(out[j]);
    }
}

void exp2_all(const double* x, std::int64_t count, double* out) {
    std::int64_t k = 0;
    for (; k + 4 * wide <= count; k += 4 * wide) {
        Vec<double> y[4];
        RAPHSON_UNROLL
        for (int c = 0; c < 4; ++c) y[c] = load(x + k + c * wide);
        exp2_flushed(y);
        RAPHSON_UNROLL
        for (int c = 0; c < 4; ++c) store(out + k + c * wide, y[c]);
    }
    for (; k < count; k += wide) {
        const int lanes = static_cast<int>(std::min<std::int64_t>(wide, count - k));
        Vec<double> y[1] = {load_part(x + k, lanes)};
        exp2_flushed(y);
        store_part(out + k, y[0], lanes);
    }
}

}  // namespace

bool ot_cholesky(double* s, std::int64_t n);
void ot_cholesky_solve(const double* factor, std::int64_t n, double* x);
void ot_row_peaks(const CostBlock& row, const double* g, double* peaks);
std::int64_t ot_row_above(const CostBlock& row, const double* g, double bound, std::int32_t* index, double* value);
double ot_simplex_threshold(const double* v, std::int64_t count, double z, double t);

extern const OtTable ot_table;
const OtTable ot_table{scan,           log_sweep,    kernel_sweep, column_max,           column_sum,  sparse_normal,
                       sparse_columns, point_costs,  exp2_all,     ot_row_peaks,         ot_row_above, ot_simplex_threshold,
                       ot_cholesky,    ot_cholesky_solve};

RAPHSON_ISA_END
