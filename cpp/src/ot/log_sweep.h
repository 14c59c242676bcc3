// One sweep over rows of the cost in the log domain; see passes.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/simd_exp.h"
#include "ot/passes.h"

RAPHSON_ISA_BEGIN

constexpr int wide = Vec<double>::width;
constexpr std::int64_t prefetched = 256;  // columns ahead
constexpr double far_off_low = 1e-100, far_off_high = 1e100;

// e[r·apart + j] = exp(u[r] + ψ[j] − C[r][j]/reg), and its sum over j, of R rows at once: R independent chains.
// psi2 = ψ·log₂e.
template <int R, class T>
void exponentials(const T* cost, std::int64_t stride, std::int64_t columns, std::int64_t apart, double inverse_reg,
                  const double* psi2, const double* u, double* e, double* sums) {
    const Vec<double> rate = splat(-inverse_reg * log2_e);
    Vec<double> start[R], sum[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) {
        start[r] = splat(u[r] * log2_e);
        sum[r] = zero<double>();
    }
    std::int64_t j = 0;
#if defined(RAPHSON_SIMD_AVX512)
    constexpr int ahead = 2;  // registers of a row at a time: there are enough for eight chains
    for (; j + ahead * wide <= columns; j += ahead * wide) {
        const std::int64_t later = j + prefetched;
        const T* coming = later < columns ? cost + later : cost + R * stride + (later - columns);
        Vec<double> x[R * ahead];
        RAPHSON_UNROLL
        for (int k = 0; k < ahead; ++k) {
            const Vec<double> potential = load(psi2 + j + k * wide);
            RAPHSON_UNROLL
            for (int r = 0; r < R; ++r) {
                prefetch(coming + r * stride + k * wide);
                x[k * R + r] = fma(load_wide(cost + r * stride + j + k * wide), rate, add(potential, start[r]));
            }
        }
        exp2_flushed(x);
        RAPHSON_UNROLL
        for (int k = 0; k < ahead; ++k) {
            RAPHSON_UNROLL
            for (int r = 0; r < R; ++r) {
                store(e + r * apart + j + k * wide, x[k * R + r]);
                sum[r] = add(sum[r], x[k * R + r]);
            }
        }
    }
#endif
    for (; j + wide <= columns; j += wide) {
        const Vec<double> potential = load(psi2 + j);
        // what comes next in these rows, then the rows after them: the arithmetic hides it
        const std::int64_t later = j + prefetched;
        const T* coming = later < columns ? cost + later : cost + R * stride + (later - columns);
        Vec<double> x[R];
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) {
            prefetch(coming + r * stride);
            x[r] = fma(load_wide(cost + r * stride + j), rate, add(potential, start[r]));
        }
        exp2_flushed(x);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) {
            store(e + r * apart + j, x[r]);
            sum[r] = add(sum[r], x[r]);
        }
    }
    if (j < columns) {  // ψ is padded with -Inf
        const Vec<double> potential = load_part(psi2 + j, static_cast<int>(wide));
        const int count = static_cast<int>(columns - j);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) {
            Vec<double> x[1] = {fma(load_wide_part(cost + r * stride + j, count), rate, add(potential, start[r]))};
            exp2_flushed(x);
            store_part(e + r * apart + j, x[0], count);
            sum[r] = add(sum[r], x[0]);
        }
    }
    for (int r = 0; r < R; ++r) sums[r] = sum_lanes(sum[r]);
}

template <class T>
double highest_argument(const T* cost, std::int64_t columns, double inverse_reg, const double* psi) {
    double highest = -std::numeric_limits<double>::infinity();
    for (std::int64_t j = 0; j < columns; ++j) {
        highest = std::max(highest, psi[j] - static_cast<double>(cost[j]) * inverse_reg);
    }
    return highest;
}

// columns[j] += Σᵣ scale[r]·e[r·apart + j]
template <int R>
void add_rows(const double* e, std::int64_t apart, std::int64_t columns, const double* scale, double* sums) {
    Vec<double> s[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) s[r] = splat(scale[r]);
    std::int64_t j = 0;
    for (; j + wide <= columns; j += wide) {
        Vec<double> total = load(sums + j);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) total = fma(load(e + r * apart + j), s[r], total);
        store(sums + j, total);
    }
    for (; j < columns; ++j) {
        double total = sums[j];
        for (int r = 0; r < R; ++r) total += e[r * apart + j] * scale[r];
        sums[j] = total;
    }
}

// Entries scale·e[j] ≥ threshold, appended; false when they do not fit.
inline bool compact(const double* e, std::int64_t columns, double scale, SparseBlock& sparse) {
    if (!(scale > 0)) return true;
    const double least = sparse.threshold / scale;
    const Vec<double> limit = splat(least);
    std::int64_t count = sparse.count;
    const std::int64_t safe = sparse.capacity - wide;
    std::int64_t j = 0;
    for (; j + wide <= columns; j += wide) {
        unsigned mask = lanes_at_least(load(e + j), limit);
        if (mask == 0) continue;
        if (count > safe) return false;
#if defined(RAPHSON_SIMD_AVX512)
        const auto m = static_cast<__mmask8>(mask);
        const __m256i at = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(j)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        const __m512d v = _mm512_mul_pd(_mm512_loadu_pd(e + j), _mm512_set1_pd(scale));
        _mm512_storeu_pd(sparse.value + count, _mm512_maskz_compress_pd(m, v));  // whole registers: room for them is kept
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(sparse.index + count), _mm256_maskz_compress_epi32(m, at));
        count += _mm_popcnt_u32(mask);
#else
        for (int lane = 0; lane < wide; ++lane) {
            if ((mask >> lane & 1u) == 0) continue;
            sparse.index[count] = static_cast<std::int32_t>(j + lane);
            sparse.value[count++] = scale * e[j + lane];
        }
#endif
    }
    for (; j < columns; ++j) {
        if (!(e[j] >= least)) continue;
        if (count >= sparse.capacity) return false;
        sparse.index[count] = static_cast<std::int32_t>(j);
        sparse.value[count++] = scale * e[j];
    }
    sparse.count = count;
    return true;
}

inline double product(const double* e, const double* x, std::int64_t columns) {
    Vec<double> sum[2] = {zero<double>(), zero<double>()};
    std::int64_t j = 0;
    for (; j + 2 * wide <= columns; j += 2 * wide) {
        for (int k = 0; k < 2; ++k) sum[k] = fma(load(e + j + k * wide), load(x + j + k * wide), sum[k]);
    }
    double total = sum_lanes(add(sum[0], sum[1]));
    for (; j < columns; ++j) total += e[j] * x[j];
    return total;
}

template <class T>
double weighted_cost(const double* e, const T* cost, std::int64_t columns) {  // Inf·0 counts as 0
    Vec<double> sum[2] = {zero<double>(), zero<double>()};
    const Vec<double> limit = splat(std::numeric_limits<double>::min());
    std::int64_t j = 0;
    for (; j + 2 * wide <= columns; j += 2 * wide) {
        for (int k = 0; k < 2; ++k) {
            const Vec<double> y = load(e + j + k * wide);
            const Vec<double> c = zero_where_below(load_wide(cost + j + k * wide), y, limit);
            sum[k] = fma(y, c, sum[k]);
        }
    }
    double total = sum_lanes(add(sum[0], sum[1]));
    for (; j < columns; ++j) {
        if (e[j] > 0) total += e[j] * static_cast<double>(cost[j]);
    }
    return total;
}

template <int R, class T>
void sweep_group(const LogBlock& b, const double* psi2, std::int64_t row, double& cost_sum) {
    const std::int64_t columns = b.cost.columns, apart = ot_scratch_row(columns);
    const T* cost = static_cast<const T*>(b.cost.data) + row * b.cost.stride;
    double sums[R], scale[R];
    if (b.coefficient != nullptr) {
        exponentials<R>(cost, b.cost.stride, columns, apart, b.inverse_reg, psi2, b.u + row, b.scratch, sums);
        for (int r = 0; r < R; ++r) {
            scale[r] = b.coefficient[row + r];
            if (b.t == nullptr) continue;
            b.t[row + r] = product(b.scratch + r * apart, b.x, columns);
            scale[r] *= b.t[row + r];
        }
        if (b.columns != nullptr) add_rows<R>(b.scratch, apart, columns, scale, b.columns);
        return;
    }
    exponentials<R>(cost, b.cost.stride, columns, apart, b.inverse_reg, psi2, b.u + row, b.scratch, sums);
    for (int r = 0; r < R; ++r) {
        const std::int64_t i = row + r;
        double s = sums[r], base = b.u[i];
        b.row_sum[i] = s;
        scale[r] = b.mass[i];
        if (!b.update) continue;
        if (!(s > far_off_low && s < far_off_high)) {
            b.row_sum[i] = 0;
            const double highest = highest_argument(cost + r * b.cost.stride, columns, b.inverse_reg, b.psi);
            if (!(highest > -std::numeric_limits<double>::infinity())) {  // no column can take this row now
                scale[r] = 0;
                continue;
            }
            base = -highest;
            exponentials<1>(cost + r * b.cost.stride, b.cost.stride, columns, apart, b.inverse_reg, psi2, &base,
                            b.scratch + r * apart, &s);
        }
        const double updated = b.exponent * (base - std::log(s));
        b.u[i] = updated;
        scale[r] = b.exponent == 1 ? b.mass[i] / s : b.mass[i] * std::exp(updated - base);
    }
    add_rows<R>(b.scratch, apart, columns, scale, b.columns);
    for (int r = 0; r < R; ++r) {
        const double* e = b.scratch + r * apart;
        if (b.sparse != nullptr) {
            if (b.sparse->count >= 0 && !compact(e, columns, scale[r], *b.sparse)) b.sparse->count = -1;
            b.sparse->row_end[row + r] = b.sparse->count;
        }
        if (b.cost_sum != nullptr && scale[r] > 0) {
            cost_sum += scale[r] * weighted_cost(e, cost + r * b.cost.stride, columns);
        }
        if (b.plan != nullptr) {
            T* plan = static_cast<T*>(b.plan) + (row + r) * b.plan_stride;
            const double factor = b.mass[row + r] > 0 ? scale[r] / b.mass[row + r] : 0;
            const Vec<double> f = splat(factor);
            std::int64_t j = 0;
            for (; j + wide <= columns; j += wide) store_narrow(plan + j, mul(load(e + j), f));
            if (j < columns) store_narrow_part(plan + j, mul(load_part(e + j, static_cast<int>(columns - j)), f), static_cast<int>(columns - j));
        }
    }
}

template <class T>
void log_sweep_typed(const LogBlock& b) {
    double* psi2 = b.scratch + ot_group * ot_scratch_row(b.cost.columns);
    const std::int64_t padded = (b.cost.columns + ot_padding - 1) / ot_padding * ot_padding;
    for (std::int64_t j = 0; j < padded; ++j) psi2[j] = b.psi[j] * log2_e;
    double cost_sum = 0;
    std::int64_t row = 0;
    for (; row + ot_group <= b.cost.rows; row += ot_group) sweep_group<ot_group, T>(b, psi2, row, cost_sum);
    for (; row < b.cost.rows; ++row) sweep_group<1, T>(b, psi2, row, cost_sum);
    if (b.cost_sum != nullptr) *b.cost_sum += cost_sum;
}

RAPHSON_ISA_END
