// The passes over stored rows: products with a vector, linear combinations, and storing.
#include "ihvp/passes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ihvp/factor.h"
#include "ihvp/stored.h"
#include "isa.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

// Calls fn with a null pointer of the element type.
template <class Fn>
void with_type(Stored type, Fn&& fn) {
    switch (type) {
        case Stored::float64: return fn(static_cast<const double*>(nullptr));
        case Stored::float32: return fn(static_cast<const float*>(nullptr));
        case Stored::bfloat16: return fn(static_cast<const bfloat16*>(nullptr));
        case Stored::float16: return fn(static_cast<const half*>(nullptr));
        case Stored::int8: return fn(static_cast<const std::int8_t*>(nullptr));
    }
}

// ---- products --------------------------------------------------------------------------------------------------------

constexpr int64_t ahead = 1024;  // bytes: prefetchers of the hardware stop at the ends of pages

template <int N, class S>
RAPHSON_FORCE_INLINE void dot_rows(const S* first, int64_t stride, int64_t width, const double* x, double* sums) {
    Vec<double> even[N], odd[N];
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) even[r] = odd[r] = zero<double>();
    int64_t k = 0;
    for (; k + 2 * pd <= width; k += 2 * pd) {
        const Vec<double> x0 = load(x + k), x1 = load(x + k + pd);
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) {
            const S* row = first + r * stride + k;
            prefetch(reinterpret_cast<const char*>(row) + ahead);
            even[r] = fma(load_wide(row), x0, even[r]);
            odd[r] = fma(load_wide(row + pd), x1, odd[r]);
        }
    }
    for (; k < width; k += pd) {
        const int here = static_cast<int>(std::min<int64_t>(pd, width - k));
        const Vec<double> x0 = load_part(x + k, here);
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) even[r] = fma(load_wide_part(first + r * stride + k, here), x0, even[r]);
    }
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) sums[r] += sum_lanes(add(even[r], odd[r]));
}

template <class S>
void dot_all(const S* rows, int64_t stride, int64_t count, int64_t width, const double* x, double* sums) {
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) dot_rows<4>(rows + j * stride, stride, width, x, sums + j);
    for (; j < count; ++j) dot_rows<1>(rows + j * stride, stride, width, x, sums + j);
}

// int8 with general x: block by block, each with the scale of its row.
void dot_int8(const Rows& rows, int64_t width, const double* x, double* sums) {
    const auto* data = static_cast<const std::int8_t*>(rows.data);
    for (int64_t j = 0; j < rows.count; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < width; k += int8_block) {
            double block = 0;
            dot_rows<1>(data + j * rows.stride + k, rows.stride, std::min(int8_block, width - k), x + k, &block);
            sum += block * static_cast<double>(rows.scales[j * rows.scale_stride + k / int8_block]);
        }
        sums[j] += sum;
    }
}

void products(const Rows& rows, int64_t width, const double* x, double* sums) {
    if (rows.type == Stored::int8) return dot_int8(rows, width, x, sums);
    with_type(rows.type, [&](auto* type) {
        using S = std::decay_t<decltype(*type)>;
        if constexpr (!std::is_same_v<S, std::int8_t>) {
            dot_all(static_cast<const S*>(rows.data), rows.stride, rows.count, width, x, sums);
        }
    });
}

// Exact: 256 products of at most 127² fit into 32 bits.
RAPHSON_FORCE_INLINE std::int32_t dot_block(const std::int8_t* a, const std::int8_t* b, int64_t width) {
    int64_t k = 0;
    std::int32_t sum = 0;
#if defined(RAPHSON_SIMD_AVX512)
    __m512i sums = _mm512_setzero_si512();
    for (; k + 32 <= width; k += 32) {
        const __m512i wide_a = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + k)));
        const __m512i wide_b = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + k)));
        sums = _mm512_add_epi32(sums, _mm512_madd_epi16(wide_a, wide_b));
    }
    sum = _mm512_reduce_add_epi32(sums);
#elif defined(RAPHSON_SIMD_AVX2)
    __m256i sums = _mm256_setzero_si256();
    for (; k + 16 <= width; k += 16) {
        const __m256i wide_a = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + k)));
        const __m256i wide_b = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + k)));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(wide_a, wide_b));
    }
    std::int32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), sums);
    for (const std::int32_t lane : lanes) sum += lane;
#endif
    for (; k < width; ++k) sum += static_cast<std::int32_t>(a[k]) * b[k];
    return sum;
}

void products_int8(const Rows& rows, int64_t width, const std::int8_t* x, const float* x_scales, double* sums) {
    const auto* data = static_cast<const std::int8_t*>(rows.data);
    for (int64_t j = 0; j < rows.count; ++j) {
        const std::int8_t* row = data + j * rows.stride;
        const float* scales = rows.scales + j * rows.scale_stride;
        double sum = 0;
        for (int64_t k = 0, q = 0; k < width; k += int8_block, ++q) {
            prefetch(row + k + ahead);
            prefetch(row + k + ahead + 64);
            prefetch(row + k + ahead + 128);
            prefetch(row + k + ahead + 192);
            const std::int32_t block = dot_block(row + k, x + k, std::min(int8_block, width - k));
            sum += static_cast<double>(block) * (static_cast<double>(scales[q]) * static_cast<double>(x_scales[q]));
        }
        sums[j] += sum;
    }
}

// ---- combinations ------------------------------------------------------------------------------------------------------

// out += Σ over N rows, or = when they are the first. `scales` of int8 rows are in the coefficients already.
template <int N, class S>
RAPHSON_FORCE_INLINE void add_rows(const S* first, int64_t stride, int64_t width, const double* coefficients, bool begin,
                                   double* out) {
    Vec<double> c[N];
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) c[r] = splat(coefficients[r]);
    int64_t k = 0;
    for (; k + 2 * pd <= width; k += 2 * pd) {
        Vec<double> even = begin ? zero<double>() : load(out + k), odd = begin ? zero<double>() : load(out + k + pd);
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) {
            const S* row = first + r * stride + k;
            prefetch(reinterpret_cast<const char*>(row) + ahead);
            even = fma(load_wide(row), c[r], even);
            odd = fma(load_wide(row + pd), c[r], odd);
        }
        store(out + k, even);
        store(out + k + pd, odd);
    }
    for (; k < width; k += pd) {
        const int here = static_cast<int>(std::min<int64_t>(pd, width - k));
        Vec<double> sum = begin ? zero<double>() : load_part(out + k, here);
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) sum = fma(load_wide_part(first + r * stride + k, here), c[r], sum);
        store_part(out + k, sum, here);
    }
}

template <class S>
void add_all(const S* rows, int64_t stride, int64_t count, int64_t width, const double* coefficients, double* out) {
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) add_rows<8>(rows + j * stride, stride, width, coefficients + j, j == 0, out);
    for (; j + 2 <= count; j += 2) add_rows<2>(rows + j * stride, stride, width, coefficients + j, j == 0, out);
    for (; j < count; ++j) add_rows<1>(rows + j * stride, stride, width, coefficients + j, j == 0, out);
}

void combine_int8(const Rows& rows, int64_t width, const double* coefficients, double* out) {
    const auto* data = static_cast<const std::int8_t*>(rows.data);
    constexpr int64_t at_once = 8;
    for (int64_t j = 0; j < rows.count; j += at_once) {
        const int64_t here = std::min(at_once, rows.count - j);
        for (int64_t k = 0; k < width; k += int8_block) {
            double scaled[at_once];
            for (int64_t r = 0; r < here; ++r) {
                scaled[r] = coefficients[j + r] * static_cast<double>(rows.scales[(j + r) * rows.scale_stride + k / int8_block]);
            }
            const std::int8_t* first = data + j * rows.stride + k;
            const int64_t wide = std::min(int8_block, width - k);
            if (here == at_once) {
                add_rows<8>(first, rows.stride, wide, scaled, j == 0, out + k);
            } else {
                for (int64_t r = 0; r < here; ++r) {
                    add_rows<1>(first + r * rows.stride, rows.stride, wide, scaled + r, j + r == 0, out + k);
                }
            }
        }
    }
}

void combine(const Rows& rows, int64_t width, const double* coefficients, double* out) {
    if (rows.count == 0) {
        for (int64_t k = 0; k < width; ++k) out[k] = 0;
        return;
    }
    if (rows.type == Stored::int8) return combine_int8(rows, width, coefficients, out);
    with_type(rows.type, [&](auto* type) {
        using S = std::decay_t<decltype(*type)>;
        if constexpr (!std::is_same_v<S, std::int8_t>) {
            add_all(static_cast<const S*>(rows.data), rows.stride, rows.count, width, coefficients, out);
        }
    });
}

// ---- one vector ----------------------------------------------------------------------------------------------------------

template <class S>
VectorScan scan_vector(const S* x, int64_t width, const float* residual) {
    constexpr int lanes = 16;
    double max[lanes] = {};
    bool bad = false;
    const auto look = [&](int64_t k, int lane) {
        const double size = std::fabs(to_double(x[k]) + (residual != nullptr ? static_cast<double>(residual[k]) : 0.0));
        bad |= !(size <= std::numeric_limits<double>::max());
        max[lane] = size > max[lane] ? size : max[lane];
    };
    int64_t k = 0;
    for (; k + lanes <= width; k += lanes) {
        for (int l = 0; l < lanes; ++l) look(k + l, l);
    }
    for (; k < width; ++k) look(k, 0);
    return {*std::max_element(max, max + lanes), !bad};
}

VectorScan scan(Stored type, const void* x, int64_t width, const float* residual) {
    VectorScan result{};
    with_type(type, [&](auto* element) {
        using S = std::decay_t<decltype(*element)>;
        result = scan_vector(static_cast<const S*>(x), width, residual);
    });
    return result;
}

void widen_vector(Stored type, const void* x, int64_t width, double* out) {
    with_type(type, [&](auto* element) {
        using S = std::decay_t<decltype(*element)>;
        const S* from = static_cast<const S*>(x);
        int64_t k = 0;
        for (; k + pd <= width; k += pd) store(out + k, load_wide(from + k));
        for (; k < width; ++k) out[k] = to_double(from[k]);
    });
}

void narrow_half(const double* x, int64_t width, double scale, std::uint16_t* out) {
    int64_t k = 0;
#if defined(RAPHSON_SIMD_AVX512)
    for (; k + 8 <= width; k += 8) {
        const __m256 values = _mm512_cvtpd_ps(_mm512_mul_pd(_mm512_loadu_pd(x + k), _mm512_set1_pd(scale)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + k),
                         _mm512_castsi512_si128(_mm512_castsi256_si512(_mm512_cvtps_ph(
                             _mm512_castps256_ps512(values), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))));
    }
#elif defined(RAPHSON_HAS_HALF_LOAD)
    for (; k + 4 <= width; k += 4) {
        const __m128 values = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_loadu_pd(x + k), _mm256_set1_pd(scale)));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(out + k), _mm_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    for (; k < width; ++k) out[k] = to_half(static_cast<float>(x[k] * scale)).bits;
}

void narrow_vector(Stored type, const double* x, int64_t width, void* out) {
    switch (type) {
        case Stored::float64: std::copy_n(x, width, static_cast<double*>(out)); return;
        case Stored::float32:
            for (int64_t k = 0; k < width; ++k) static_cast<float*>(out)[k] = static_cast<float>(x[k]);
            return;
        case Stored::bfloat16:
            for (int64_t k = 0; k < width; ++k) static_cast<bfloat16*>(out)[k] = narrow(static_cast<float>(x[k]));
            return;
        default: narrow_half(x, width, 1.0, static_cast<std::uint16_t*>(out)); return;
    }
}

void store_int8(double* x, int64_t width, std::int8_t* row, float* scales) {
    constexpr float round_here = 12582912.0f;  // 1.5·2²³: adding and taking it away rounds to the nearest integer
    for (int64_t k = 0; k < width; k += int8_block, ++scales) {
        const int64_t wide = std::min(int8_block, width - k);
        float max = 0;
        float values[int8_block];
        for (int64_t i = 0; i < wide; ++i) {
            values[i] = static_cast<float>(x[k + i]);
            const float size = std::fabs(values[i]);
            max = size > max ? size : max;
        }
        float scale = max / 127.0f;
        if (!(scale >= std::numeric_limits<float>::min())) scale = max > 0 ? std::numeric_limits<float>::min() : 0.0f;
        *scales = scale;
        const float divisor = scale > 0 ? scale : 1.0f;
        for (int64_t i = 0; i < wide; ++i) {
            const float q = (values[i] / divisor + round_here) - round_here;
            row[k + i] = static_cast<std::int8_t>(static_cast<int>(q > 127 ? 127.0f : q < -127 ? -127.0f : q));
            x[k + i] = static_cast<double>(row[k + i]) * static_cast<double>(scale);
        }
    }
}

void store_row(Stored type, double* x, int64_t width, double row_scale, void* row, float* scales) {
    if (type == Stored::int8) return store_int8(x, width, static_cast<std::int8_t*>(row), scales);
    if (type == Stored::float16) {
        narrow_half(x, width, 1 / row_scale, static_cast<std::uint16_t*>(row));
        widen_vector(type, row, width, x);
        for (int64_t k = 0; k < width; ++k) x[k] *= row_scale;
        return;
    }
    narrow_vector(type, x, width, row);
    if (type != Stored::float64) widen_vector(type, row, width, x);
}

}  // namespace

extern const IhvpTable ihvp_table;
const IhvpTable ihvp_table{scan,    widen_vector, narrow_vector,  store_row,     products,     products_int8,
                           combine, factor_forward, factor_backward, factor_block, solve_rows, solve_columns};

RAPHSON_ISA_END
