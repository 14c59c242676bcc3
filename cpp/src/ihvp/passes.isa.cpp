// The passes over stored rows: products with a vector, linear combinations, and storing.
#include "ihvp/passes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ihvp/bfloat16_rows.h"
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

#if defined(RAPHSON_SIMD_AVX512)
void dot_all(const bfloat16* rows, int64_t stride, int64_t count, int64_t width, const double* x, double* sums) {
    constexpr int64_t chunk = 2048;
    alignas(64) double parted[chunk];
    const int64_t whole = width / bf16_group * bf16_group;
    for (int64_t k = 0; k < whole; k += chunk) {
        const int64_t here = std::min(chunk, whole - k);
        part(x + k, here, parted);
        int64_t j = 0;
        for (; j + 4 <= count; j += 4) dot_parted<4>(rows + j * stride + k, stride, here, parted, sums + j);
        for (; j < count; ++j) dot_parted<1>(rows + j * stride + k, stride, here, parted, sums + j);
    }
    if (whole < width) dot_all<bfloat16>(rows + whole, stride, count, width - whole, x + whole, sums);
}
#endif

// int8 with general x: block by block, each with the scale of its row.
void dot_int8(const Rows& rows, int64_t width, const double* x, double* sums) {
    const auto* data = static_cast<const std::int8_t*>(rows.data);
    for (int64_t j = 0; j < rows.count;) {
        const int64_t here = rows.count - j >= 4 ? 4 : 1;
        for (int64_t k = 0; k < width; k += int8_block) {
            double block[4] = {};
            const std::int8_t* first = data + j * rows.stride + k;
            const int64_t wide = std::min(int8_block, width - k);
            if (here == 4) {
                dot_rows<4>(first, rows.stride, wide, x + k, block);
            } else {
                dot_rows<1>(first, rows.stride, wide, x + k, block);
            }
            for (int64_t r = 0; r < here; ++r) {
                sums[j + r] += block[r] * static_cast<double>(rows.scales[(j + r) * rows.scale_stride + k / int8_block]);
            }
        }
        j += here;
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

// Exact: 256 products of at most 127² fit into 32 bits; the sums of a block are taken apart over lanes and widened, so
// that only whole rows end in a sum over lanes. `rows` rows share the reads of x.
#if defined(RAPHSON_SIMD_AVX512) || defined(RAPHSON_SIMD_AVX2)
#if defined(RAPHSON_SIMD_AVX512)
constexpr int64_t at_once = 32;
using Shorts = __m512i;
RAPHSON_FORCE_INLINE Shorts load_shorts(const std::int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
RAPHSON_FORCE_INLINE Shorts add_products(Shorts a, Shorts b, Shorts c) { return _mm512_add_epi32(c, _mm512_madd_epi16(a, b)); }
RAPHSON_FORCE_INLINE Shorts no_shorts() { return _mm512_setzero_si512(); }
RAPHSON_FORCE_INLINE Vec<double> widen_sums(Shorts x) {  // exact: |sums| < 2²³
    return {_mm512_cvtepi32_pd(_mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64(x, 1)))};
}
#else
constexpr int64_t at_once = 16;
using Shorts = __m256i;
RAPHSON_FORCE_INLINE Shorts load_shorts(const std::int8_t* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
RAPHSON_FORCE_INLINE Shorts add_products(Shorts a, Shorts b, Shorts c) { return _mm256_add_epi32(c, _mm256_madd_epi16(a, b)); }
RAPHSON_FORCE_INLINE Shorts no_shorts() { return _mm256_setzero_si256(); }
RAPHSON_FORCE_INLINE Vec<double> widen_sums(Shorts x) {
    return {_mm256_cvtepi32_pd(_mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)))};
}
#endif

template <int N>
RAPHSON_FORCE_INLINE void dot_rows_int8(const std::int8_t* first, int64_t stride, const float* scales, int64_t scale_stride,
                                        int64_t width, const std::int8_t* x, const float* x_scales, double* sums) {
    Vec<double> total[N];
    double rest[N] = {};
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) total[r] = zero<double>();
    for (int64_t start = 0, q = 0; start < width; start += int8_block, ++q) {
        const int64_t end = std::min(start + int8_block, width);
        Shorts block[N];
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) block[r] = no_shorts();
        int64_t k = start;
        for (; k + at_once <= end; k += at_once) {
            const Shorts shared = load_shorts(x + k);
            RAPHSON_UNROLL
            for (int r = 0; r < N; ++r) {
                const std::int8_t* row = first + r * stride + k;
                prefetch(row + ahead);
                block[r] = add_products(load_shorts(row), shared, block[r]);
            }
        }
        RAPHSON_UNROLL
        for (int r = 0; r < N; ++r) {
            const double scale = static_cast<double>(scales[r * scale_stride + q]) * static_cast<double>(x_scales[q]);
            total[r] = fma(splat(scale), widen_sums(block[r]), total[r]);
            std::int32_t tail = 0;
            for (int64_t i = k; i < end; ++i) tail += static_cast<std::int32_t>(first[r * stride + i]) * x[i];
            if (k < end) rest[r] += scale * static_cast<double>(tail);
        }
    }
    RAPHSON_UNROLL
    for (int r = 0; r < N; ++r) sums[r] += sum_lanes(total[r]) + rest[r];
}
#else
template <int N>
void dot_rows_int8(const std::int8_t* first, int64_t stride, const float* scales, int64_t scale_stride, int64_t width,
                   const std::int8_t* x, const float* x_scales, double* sums) {
    for (int r = 0; r < N; ++r) {
        for (int64_t start = 0, q = 0; start < width; start += int8_block, ++q) {
            const int64_t end = std::min(start + int8_block, width);
            std::int32_t block = 0;
            for (int64_t k = start; k < end; ++k) block += static_cast<std::int32_t>(first[r * stride + k]) * x[k];
            sums[r] += static_cast<double>(block) *
                       (static_cast<double>(scales[r * scale_stride + q]) * static_cast<double>(x_scales[q]));
        }
    }
}
#endif

void products_int8(const Rows& rows, int64_t width, const std::int8_t* x, const float* x_scales, double* sums) {
    const auto* data = static_cast<const std::int8_t*>(rows.data);
    int64_t j = 0;
    for (; j + 4 <= rows.count; j += 4) {
        dot_rows_int8<4>(data + j * rows.stride, rows.stride, rows.scales + j * rows.scale_stride, rows.scale_stride, width, x,
                         x_scales, sums + j);
    }
    for (; j < rows.count; ++j) {
        dot_rows_int8<1>(data + j * rows.stride, rows.stride, rows.scales + j * rows.scale_stride, rows.scale_stride, width, x,
                         x_scales, sums + j);
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

#if defined(RAPHSON_SIMD_AVX512)
void add_all(const bfloat16* rows, int64_t stride, int64_t count, int64_t width, const double* coefficients, double* out) {
    const int64_t whole = width / bf16_group * bf16_group;
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) add_parted<8>(rows + j * stride, stride, whole, coefficients + j, j == 0, out);
    for (; j + 2 <= count; j += 2) add_parted<2>(rows + j * stride, stride, whole, coefficients + j, j == 0, out);
    for (; j < count; ++j) add_parted<1>(rows + j * stride, stride, whole, coefficients + j, j == 0, out);
    unpart(out, whole);
    if (whole < width) add_all<bfloat16>(rows + whole, stride, count, width - whole, coefficients, out + whole);
}
#endif

void combine_int8(const Rows& rows, int64_t width, const double* coefficients, double* out) {
    const auto* data = static_cast<const std::int8_t*>(rows.data);
    constexpr int64_t group = 8;
    for (int64_t j = 0; j < rows.count; j += group) {
        const int64_t here = std::min(group, rows.count - j);
        for (int64_t k = 0; k < width; k += int8_block) {
            double scaled[group];
            for (int64_t r = 0; r < here; ++r) {
                scaled[r] = coefficients[j + r] * static_cast<double>(rows.scales[(j + r) * rows.scale_stride + k / int8_block]);
            }
            const std::int8_t* first = data + j * rows.stride + k;
            const int64_t wide = std::min(int8_block, width - k);
            if (here == group) {
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

// Magnitudes compare as integers do, NaN and Inf above all others: a loop that every compiler vectorises.
template <class Word>
Word largest_magnitude(const void* x, int64_t width) {
    constexpr Word mask = static_cast<Word>(~(Word{1} << (8 * sizeof(Word) - 1)));
    Word max = 0;
    for (int64_t k = 0; k < width; ++k) {
        Word word;
        std::memcpy(&word, static_cast<const char*>(x) + k * static_cast<int64_t>(sizeof word), sizeof word);
        word = static_cast<Word>(word & mask);
        max = word > max ? word : max;
    }
    return max;
}

double largest(const double* x, int64_t width) {
    const auto word = largest_magnitude<std::int64_t>(x, width);
    double value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}
double largest(const float* x, int64_t width) {
    return static_cast<double>(bits_float(static_cast<std::uint32_t>(largest_magnitude<std::int32_t>(x, width))));
}
double largest(const bfloat16* x, int64_t width) {
    return to_double(bfloat16{static_cast<std::uint16_t>(largest_magnitude<std::int16_t>(x, width))});
}
double largest(const half* x, int64_t width) {
    return to_double(half{static_cast<std::uint16_t>(largest_magnitude<std::int16_t>(x, width))});
}
double largest(const std::int8_t*, int64_t) { return 0; }  // no gradient comes so

template <class S>
VectorScan scan_vector(const S* x, int64_t width, const float* residual) {
    double max = largest(x, width);
    bool finite = max <= std::numeric_limits<double>::max();
    for (int64_t k = 0; residual != nullptr && finite && k < width; ++k) {
        max = std::max(max, std::fabs(to_double(x[k]) + static_cast<double>(residual[k])));
    }
    return {max, finite};
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
        float values[int8_block];
        for (int64_t i = 0; i < wide; ++i) values[i] = static_cast<float>(x[k + i]);
        const float max = bits_float(static_cast<std::uint32_t>(largest_magnitude<std::int32_t>(values, wide)));
        float scale = max / 127.0f;
        if (!(scale >= std::numeric_limits<float>::min())) scale = max > 0 ? std::numeric_limits<float>::min() : 0.0f;
        *scales = scale;
        const float divisor = scale > 0 ? scale : 1.0f;
        for (int64_t i = 0; i < wide; ++i) {  // |x/scale| < 127.5
            values[i] = (values[i] / divisor + round_here) - round_here;
        }
        for (int64_t i = 0; i < wide; ++i) row[k + i] = static_cast<std::int8_t>(static_cast<std::int32_t>(values[i]));
        for (int64_t i = 0; i < wide; ++i) x[k + i] = static_cast<double>(values[i]) * static_cast<double>(scale);
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
const IhvpTable ihvp_table{scan,          widen_vector, narrow_vector,  store_row, products,
                           products_int8, combine,      factor_forward, factor_backward};

RAPHSON_ISA_END
