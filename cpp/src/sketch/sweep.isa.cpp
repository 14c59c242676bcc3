#include <algorithm>

#include "common/simd_double.h"
#include "isa.h"
#include "sketch/sweep_passes.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

constexpr int wide = Vec<double>::width;
#if defined(RAPHSON_SIMD_AVX512)
constexpr int row_group = 4, vector_group = 4;
#else
constexpr int row_group = 4, vector_group = 2;
#endif

// While a chunk of rows is in cache, the next one is on its way: each half of a sweep asks for half of its rows, so that
// memory never rests.
template <class T, int R>
RAPHSON_FORCE_INLINE void fetch_ahead(const T* next, int64_t stride, int64_t j) {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    if (next == nullptr || j % line != 0) return;
    RAPHSON_UNROLL
    for (int r = 0; r < (R + 1) / 2; ++r) prefetch_far(next + r * stride + j);
}

// R rows by C vectors in registers. Full: all lanes of the columns exist.
template <bool Full, class T, int R, int C>
RAPHSON_FORCE_INLINE void dots_step(const T* a, int64_t stride, int count, const double* v, int64_t v_stride, Vec<double> (&sum)[R][C]) {
    Vec<double> x[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) x[r] = Full ? load_wide(a + r * stride) : load_wide_part(a + r * stride, count);
    RAPHSON_UNROLL
    for (int c = 0; c < C; ++c) {
        const Vec<double> y = Full ? load(v + c * v_stride) : load_part(v + c * v_stride, count);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) sum[r][c] = fma(x[r], y, sum[r][c]);
    }
}

template <class T, int R, int C>
void dots_group(const T* a, int64_t stride, int64_t cols, const double* v, int64_t v_stride, double* t, int64_t ldt,
                const T* next) {
    Vec<double> sum[R][C];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) {
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) sum[r][c] = zero<double>();
    }
    int64_t j = 0;
    for (; j + wide <= cols; j += wide) {
        fetch_ahead<T, R>(next, stride, j);
        dots_step<true>(a + j, stride, wide, v + j, v_stride, sum);
    }
    if (j < cols) dots_step<false>(a + j, stride, static_cast<int>(cols - j), v + j, v_stride, sum);
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) {
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) t[r * ldt + c] += sum_lanes(sum[r][c]);
    }
}

template <class T, int R>
void dots_rows(const T* a, int64_t stride, int64_t cols, const double* v, int64_t v_stride, int k, double* t, const T* next) {
    int c = 0;
    for (; c + vector_group <= k; c += vector_group) {
        dots_group<T, R, vector_group>(a, stride, cols, v + c * v_stride, v_stride, t + c, k, c == 0 ? next : nullptr);
    }
    for (; c + 2 <= k; c += 2) dots_group<T, R, 2>(a, stride, cols, v + c * v_stride, v_stride, t + c, k, c == 0 ? next : nullptr);
    if (c < k) dots_group<T, R, 1>(a, stride, cols, v + c * v_stride, v_stride, t + c, k, c == 0 ? next : nullptr);
}

// Columns taken at a time, so that their part of the k vectors stays in the first-level cache.
int64_t panel_columns(int64_t cols, int k) {
    constexpr int64_t panel_bytes = 16 << 10;
    return k == 1 ? cols : std::max<int64_t>(64, panel_bytes / (8 * k) / 64 * 64);
}

template <class T>
void dots_dense(const RowBlock& b, const double* v, int64_t v_stride, int k, double* t) {
    const T* const a = static_cast<const T*>(b.values);
    const T* const next = a + b.rows * b.stride;
    const int64_t panel = panel_columns(b.cols, k);
    std::fill_n(t, b.rows * k, 0.0);
    for (int64_t j = 0; j < b.cols; j += panel) {
        const int64_t cols = std::min(panel, b.cols - j);
        int64_t i = 0;
        for (; i + row_group <= b.rows; i += row_group) {
            dots_rows<T, row_group>(a + i * b.stride + j, b.stride, cols, v + j, v_stride, k, t + i * k, next + i / 2 * b.stride + j);
        }
        for (; i < b.rows; ++i) dots_rows<T, 1>(a + i * b.stride + j, b.stride, cols, v + j, v_stride, k, t + i * k, nullptr);
    }
}

template <class T>
void dots_sparse(const RowBlock& b, const double* v, int64_t v_stride, int k, double* t) {
    const T* const values = static_cast<const T*>(b.values);
    for (int64_t i = 0; i < b.rows; ++i) {
        for (int c = 0; c < k; ++c) {
            const double* const from = v + c * v_stride;
            double sums[4] = {0, 0, 0, 0};
            int64_t p = b.starts[i];
            const int64_t end = b.starts[i + 1];
            for (; p + 4 <= end; p += 4) {
                for (int q = 0; q < 4; ++q) sums[q] += static_cast<double>(values[p + q]) * from[b.index[p + q]];
            }
            for (; p < end; ++p) sums[0] += static_cast<double>(values[p]) * from[b.index[p]];
            t[i * k + c] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    }
}

void dots(const RowBlock& b, const double* v, int64_t stride, int k, double* t) {
    const bool f64 = b.type == DType::float64;
    if (b.starts != nullptr) return f64 ? dots_sparse<double>(b, v, stride, k, t) : dots_sparse<float>(b, v, stride, k, t);
    f64 ? dots_dense<double>(b, v, stride, k, t) : dots_dense<float>(b, v, stride, k, t);
}

template <bool Full, class T, int R, int C>
RAPHSON_FORCE_INLINE void combine_step(const T* a, int64_t stride, int count, const Vec<double> (&factor)[R][C], double* out, int64_t out_stride) {
    Vec<double> x[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) x[r] = Full ? load_wide(a + r * stride) : load_wide_part(a + r * stride, count);
    RAPHSON_UNROLL
    for (int c = 0; c < C; ++c) {
        double* to = out + c * out_stride;
        Vec<double> sum = Full ? load(to) : load_part(to, count);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) sum = fma(x[r], factor[r][c], sum);
        if (Full) {
            store(to, sum);
        } else {
            store_part(to, sum, count);
        }
    }
}

template <class T, int R, int C>
void combine_group(const T* a, int64_t stride, int64_t cols, const double* u, int64_t ldu, double* out, int64_t out_stride,
                   const T* next) {
    Vec<double> factor[R][C];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) {
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) factor[r][c] = splat(u[r * ldu + c]);
    }
    int64_t j = 0;
    for (; j + wide <= cols; j += wide) {
        fetch_ahead<T, R>(next, stride, j);
        combine_step<true>(a + j, stride, wide, factor, out + j, out_stride);
    }
    if (j < cols) combine_step<false>(a + j, stride, static_cast<int>(cols - j), factor, out + j, out_stride);
}

template <class T, int R>
void combine_rows(const T* a, int64_t stride, int64_t cols, const double* u, int k, double* out, int64_t out_stride, const T* next) {
    int c = 0;
    for (; c + vector_group <= k; c += vector_group) {
        combine_group<T, R, vector_group>(a, stride, cols, u + c, k, out + c * out_stride, out_stride, c == 0 ? next : nullptr);
    }
    for (; c + 2 <= k; c += 2) combine_group<T, R, 2>(a, stride, cols, u + c, k, out + c * out_stride, out_stride, c == 0 ? next : nullptr);
    if (c < k) combine_group<T, R, 1>(a, stride, cols, u + c, k, out + c * out_stride, out_stride, c == 0 ? next : nullptr);
}

template <class T>
void combine_dense(const RowBlock& b, const double* u, int k, double* out, int64_t stride) {
    const T* const a = static_cast<const T*>(b.values);
    const T* const next = a + (b.rows + b.rows / 2) * b.stride;
    const int64_t panel = panel_columns(b.cols, k);
    for (int64_t j = 0; j < b.cols; j += panel) {
        const int64_t cols = std::min(panel, b.cols - j);
        int64_t i = 0;
        for (; i + row_group <= b.rows; i += row_group) {
            combine_rows<T, row_group>(a + i * b.stride + j, b.stride, cols, u + i * k, k, out + j, stride, next + i / 2 * b.stride + j);
        }
        for (; i < b.rows; ++i) combine_rows<T, 1>(a + i * b.stride + j, b.stride, cols, u + i * k, k, out + j, stride, nullptr);
    }
}

template <class T>
void combine_sparse(const RowBlock& b, const double* u, int k, double* out, int64_t stride) {
    const T* const values = static_cast<const T*>(b.values);
    for (int64_t i = 0; i < b.rows; ++i) {
        for (int c = 0; c < k; ++c) {
            const double factor = u[i * k + c];
            double* const to = out + c * stride;
            for (int64_t p = b.starts[i]; p < b.starts[i + 1]; ++p) to[b.index[p]] += factor * static_cast<double>(values[p]);
        }
    }
}

void combine(const RowBlock& b, const double* u, int k, double* out, int64_t stride) {
    const bool f64 = b.type == DType::float64;
    if (b.starts != nullptr) return f64 ? combine_sparse<double>(b, u, k, out, stride) : combine_sparse<float>(b, u, k, out, stride);
    f64 ? combine_dense<double>(b, u, k, out, stride) : combine_dense<float>(b, u, k, out, stride);
}

}  // namespace

extern const SweepTable sweep_table;
const SweepTable sweep_table{dots, combine};

RAPHSON_ISA_END
