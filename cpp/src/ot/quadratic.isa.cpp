// Rows of quadratically regularised transport: where the threshold of a row lies, and the few entries above it. A row is read
// twice while it is in cache: once for its peaks, which bound the threshold from below, once for what exceeds the bound.
#include <algorithm>
#include <limits>

#include "common/simd_double.h"
#include "ot/passes.h"

#include "isa.h"

RAPHSON_ISA_BEGIN
namespace {

constexpr int lanes = Vec<double>::width;
constexpr int registers = ot_peaks / lanes < 4 ? ot_peaks / lanes : 4;

int ones(unsigned mask) {  // of at most eight
    mask -= mask >> 1 & 0x55u;
    mask = (mask & 0x33u) + (mask >> 2 & 0x33u);
    return static_cast<int>((mask + (mask >> 4)) & 0x0fu);
}

template <class T>
void peaks_typed(const T* c, std::int64_t columns, const double* g, double* peaks) {
    constexpr double lowest = -std::numeric_limits<double>::infinity();
    std::fill(peaks, peaks + ot_peaks, lowest);
    Vec<double> high[registers];
    RAPHSON_UNROLL
    for (int r = 0; r < registers; ++r) high[r] = splat(lowest);
    std::int64_t j = 0;
    for (; j + registers * lanes <= columns; j += registers * lanes) {
        RAPHSON_UNROLL
        for (int r = 0; r < registers; ++r) {
            high[r] = max(high[r], subtract(load(g + j + r * lanes), load_wide(c + j + r * lanes)));
        }
    }
    RAPHSON_UNROLL
    for (int r = 0; r < registers; ++r) store(peaks + r * lanes, high[r]);
    for (int k = 0; j < columns; ++j, ++k) peaks[k] = std::max(peaks[k], g[j] - static_cast<double>(c[j]));
}

template <class T>
std::int64_t above_typed(const T* c, std::int64_t columns, const double* g, double bound, std::int32_t* index, double* value) {
    const Vec<double> limit = splat(bound);
    std::int64_t count = 0, j = 0;
    for (; j + lanes <= columns; j += lanes) {
        const Vec<double> v = subtract(load(g + j), load_wide(c + j));
        const unsigned mask = lanes_at_least(v, limit);
        if (mask == 0) continue;
#if defined(RAPHSON_SIMD_AVX512)
        const auto chosen = static_cast<__mmask8>(mask);
        const __m256i at = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(j)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        _mm512_storeu_pd(value + count, _mm512_maskz_compress_pd(chosen, v.v));  // whole registers: room for them is kept
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(index + count), _mm256_maskz_compress_epi32(chosen, at));
        count += _mm_popcnt_u32(mask);
#else
        double found[lanes];
        store(found, v);
        for (int lane = 0; lane < lanes; ++lane) {
            if ((mask >> lane & 1u) == 0) continue;
            index[count] = static_cast<std::int32_t>(j + lane);
            value[count++] = found[lane];
        }
#endif
    }
    for (; j < columns; ++j) {
        const double v = g[j] - static_cast<double>(c[j]);
        if (!(v >= bound)) continue;
        index[count] = static_cast<std::int32_t>(j);
        value[count++] = v;
    }
    return count;
}

}  // namespace

void ot_row_peaks(const CostBlock& row, const double* g, double* peaks) {
    if (row.type == DType::float64) return peaks_typed(static_cast<const double*>(row.data), row.columns, g, peaks);
    peaks_typed(static_cast<const float*>(row.data), row.columns, g, peaks);
}

std::int64_t ot_row_above(const CostBlock& row, const double* g, double bound, std::int32_t* index, double* value) {
    if (row.type == DType::float64) {
        return above_typed(static_cast<const double*>(row.data), row.columns, g, bound, index, value);
    }
    return above_typed(static_cast<const float*>(row.data), row.columns, g, bound, index, value);
}

// Newton's iteration on a convex piecewise linear function, from the left: monotone, and exact once its piece is found.
double ot_simplex_threshold(const double* v, std::int64_t count, double z, double t) {
    std::int64_t before = -1;
    for (;;) {
        const Vec<double> at = splat(t), none = zero<double>();
        Vec<double> sum[2] = {none, none};
        std::int64_t above = 0, k = 0;
        for (; k + 2 * lanes <= count; k += 2 * lanes) {
            RAPHSON_UNROLL
            for (int r = 0; r < 2; ++r) {
                const Vec<double> over = max(subtract(load(v + k + r * lanes), at), none);
                sum[r] = add(sum[r], over);
                above += ones(lanes_at_least(over, splat(std::numeric_limits<double>::denorm_min())));
            }
        }
        double total = sum_lanes(add(sum[0], sum[1]));
        for (; k < count; ++k) {
            if (!(v[k] > t)) continue;
            total += v[k] - t;
            ++above;
        }
        if (above == 0) return t;
        const double next = t + (total - z) / static_cast<double>(above);
        // from a start too high one step leads back; after it the steps only rise, but for rounding, which must not go on for ever
        if (above == before || (before >= 0 && !(next > t))) return next;
        before = above;
        t = next;
    }
}

RAPHSON_ISA_END
