// The window's small dense triangle in float64: its factor by columns in a ring.
#include "ihvp/factor.h"

#include <algorithm>
#include <cmath>

#include "dense/vectors.h"
#include "ihvp/stored.h"

RAPHSON_ISA_BEGIN

using std::int64_t;

namespace {

constexpr double* column(double* factor, int64_t capacity, int64_t head, int64_t t) {
    const int64_t slot = head + t;
    return factor + (slot < capacity ? slot : slot - capacity) * capacity;
}

// The sums over the lanes of 16 registers: folded in pairs, 28 shuffles where 16 sums of their own would take 112.
#if defined(RAPHSON_SIMD_AVX512)
RAPHSON_FORCE_INLINE void sum_lanes_of_16(const Vec<double>* v, double* out) {
    __m512d two[8], four[4];
    RAPHSON_UNROLL
    for (int q = 0; q < 8; ++q) {  // lanes: v[2q], v[2q+1], alternating
        const __m512d x = v[2 * q].v, y = v[2 * q + 1].v;
        two[q] = _mm512_add_pd(_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y));
    }
    RAPHSON_UNROLL
    for (int q = 0; q < 4; ++q) {  // 128-bit lanes: the first pair twice, then the second twice
        const __m512d x = two[2 * q], y = two[2 * q + 1];
        four[q] = _mm512_add_pd(_mm512_shuffle_f64x2(x, y, 0x88), _mm512_shuffle_f64x2(x, y, 0xdd));
    }
    RAPHSON_UNROLL
    for (int q = 0; q < 2; ++q) {
        const __m512d x = four[2 * q], y = four[2 * q + 1];
        _mm512_storeu_pd(out + 8 * q, _mm512_add_pd(_mm512_shuffle_f64x2(x, y, 0x88), _mm512_shuffle_f64x2(x, y, 0xdd)));
    }
}
#else
inline void sum_lanes_of_16(const Vec<double>*, double*) {}
#endif

// Sums over vectors of columns, R rows by C rows: all operands in registers between loads.
template <int R, int C>
RAPHSON_FORCE_INLINE void syrk_block(const double* a, const double* b, int64_t ld, int64_t width, double* c, int64_t ldc) {
    Vec<double> sums[R][C];
    RAPHSON_UNROLL
    for (int i = 0; i < R; ++i) {
        RAPHSON_UNROLL
        for (int j = 0; j < C; ++j) sums[i][j] = zero<double>();
    }
    int64_t k = 0;
    for (; k + pd <= width; k += pd) {
        Vec<double> right[C];
        RAPHSON_UNROLL
        for (int j = 0; j < C; ++j) right[j] = load(b + j * ld + k);
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            const Vec<double> left = load(a + i * ld + k);
            RAPHSON_UNROLL
            for (int j = 0; j < C; ++j) sums[i][j] = fma(left, right[j], sums[i][j]);
        }
    }
    double totals[R * C];
    if constexpr (R == 4 && C == 4 && pd == 8) {
        sum_lanes_of_16(sums[0], totals);
    } else {
        for (int q = 0; q < R * C; ++q) totals[q] = sum_lanes(sums[q / C][q % C]);
    }
    for (; k < width; ++k) {
        for (int q = 0; q < R * C; ++q) totals[q] += a[q / C * ld + k] * b[q % C * ld + k];
    }
    RAPHSON_UNROLL
    for (int i = 0; i < R; ++i) {
        RAPHSON_UNROLL
        for (int j = 0; j < C; ++j) c[i * ldc + j] += totals[i * C + j];
    }
}

#if defined(RAPHSON_SIMD_AVX512) || defined(RAPHSON_SIMD_NEON)
constexpr int syrk_rows = 4;  // 16 sums and 5 operands in 32 registers
#else
constexpr int syrk_rows = 2;
#endif

}  // namespace

void syrk(const double* x, int64_t ldx, int64_t m, int64_t width, double* c) {
    constexpr int n = syrk_rows;
    constexpr int64_t chunk = 256;  // columns: 2n rows on one side and n on the other stay in the first-level cache
    for (int64_t k = 0; k < width; k += chunk) {
        const int64_t here = std::min(chunk, width - k);
        const double* const strip = x + k;
        const auto block = [&](int64_t i, int64_t j) {
            syrk_block<n, n>(strip + i * ldx, strip + j * ldx, ldx, here, c + i * m + j, m);
        };
        int64_t i = 0;
        for (; i + 2 * n <= m; i += 2 * n) {
            for (int64_t j = 0; j <= i; j += n) {
                block(i, j);
                block(i + n, j);
            }
            block(i + n, i + n);
        }
        for (; i + n <= m; i += n) {
            for (int64_t j = 0; j <= i; j += n) block(i, j);
        }
        for (; i < m; ++i) {
            for (int64_t j = 0; j <= i; ++j) {
                syrk_block<1, 1>(strip + i * ldx, strip + j * ldx, ldx, here, c + i * m + j, m);
            }
        }
    }
}

void factor_forward(double* factor, int64_t capacity, int64_t head, int64_t n, double* v, double* b) {
    for (int64_t t = 0; t < n; ++t) {
        double* const c = column(factor, capacity, head, t);
        const int64_t below = n - t;  // entries of the column, the diagonal first
        if (v == nullptr) {
            b[t] /= c[0];
            subtract(below - 1, b[t], c + 1, b + t + 1);
            continue;
        }
        const double pivot = std::sqrt(c[0] * c[0] + v[t] * v[t]);
        const double cosine = pivot / c[0], sine = v[t] / c[0], inverse = c[0] / pivot;
        c[0] = pivot;
        b[t] /= pivot;
        const Vec<double> vs = splat(sine), vi = splat(inverse), vc = splat(cosine), vm = splat(-sine), vb = splat(-b[t]);
        int64_t i = 1;
        for (; i + pd <= below; i += pd) {
            const Vec<double> old = load(v + t + i);
            const Vec<double> fresh = mul(fma(vs, old, load(c + i)), vi);
            store(c + i, fresh);
            store(v + t + i, fma(vm, fresh, mul(vc, old)));
            store(b + t + i, fma(vb, fresh, load(b + t + i)));
        }
        for (; i < below; ++i) {
            c[i] = (c[i] + sine * v[t + i]) * inverse;
            v[t + i] = cosine * v[t + i] - sine * c[i];
            b[t + i] -= b[t] * c[i];
        }
    }
}

void factor_backward(const double* factor, int64_t capacity, int64_t head, int64_t n, double* b) {
    for (int64_t t = n - 1; t >= 0; --t) {
        const double* const c = column(const_cast<double*>(factor), capacity, head, t);
        b[t] = (b[t] - dot(n - t - 1, c + 1, b + t + 1)) / c[0];
    }
}

RAPHSON_ISA_END
