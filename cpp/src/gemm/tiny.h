// Products so small that packing, blocks and tiles would cost more than the arithmetic: up to a vector of columns and
// 16 rows and terms. bfloat16 is always widened here.
#pragma once

#include "format.h"

RAPHSON_ISA_BEGIN

constexpr std::int64_t tiny_size = 16;

// Entries as sums: bfloat16 as float32, float32 as whichever of the two.
template <class Sum, class T>
RAPHSON_FORCE_INLINE Vec<Sum> splat_entry(T x) {
    if constexpr (std::is_same_v<T, bfloat16>) {
        return splat(widen(x));
    } else {
        return splat(static_cast<Sum>(x));
    }
}
template <class Sum, class T>
RAPHSON_FORCE_INLINE Vec<Sum> load_entries(const T* p, int count) {
    if constexpr (std::is_same_v<Sum, double>) {
        return load_wide_part(p, count);
    } else {
        return load_part(p, count);
    }
}

// `Job` below is the one of gemm.isa.cpp: all of one call's arguments.

// Rows i … i+R-1.
template <int R, class Job>
RAPHSON_FORCE_INLINE void tiny_rows(const Job& t, std::int64_t i) {
    using T = typename Job::Store;
    using Sum = typename Job::Sum;
    const int columns = static_cast<int>(t.n);
    Vec<Sum> sum[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) sum[r] = zero<Sum>();
    const T* a = t.a + i * t.lda;
    const T* b = t.b;
    for (std::int64_t p = 0; p < t.k; ++p, ++a, b += t.ldb) {
        const Vec<Sum> row = load_entries<Sum>(b, columns);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) sum[r] = fma(splat_entry<Sum>(a[r * t.lda]), row, sum[r]);
    }
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) {
        Vec<Sum> x = mul(splat(t.alpha), sum[r]);
        if (t.beta != 0) x = fma(splat(t.beta), load_part(t.d + (i + r) * t.ldd, columns), x);
        store_part(t.c + (i + r) * t.ldc, x, columns);
    }
}

template <class Job>
inline void tiny_product(const Job& t) {
    std::int64_t i = 0;
    for (; i + 4 <= t.m; i += 4) tiny_rows<4>(t, i);
    for (; i < t.m; ++i) tiny_rows<1>(t, i);
}

// B = Xᵀ: both triangles are computed, from the same products in the same order, so they agree to the bit.
template <class Job>
inline void tiny_gram(Job t) {
    typename Job::Store transposed[tiny_size * tiny_size];
    for (std::int64_t j = 0; j < t.n; ++j) {
        for (std::int64_t p = 0; p < t.k; ++p) transposed[p * t.n + j] = t.b[j * t.ldb + p];
    }
    t.b = transposed;
    t.ldb = t.n;
    tiny_product(t);
}

template <class Job>
inline void tiny_symmetric(const Job& t) {
    tiny_product(t);
    for (std::int64_t i = 1; i < t.m; ++i) {
        for (std::int64_t j = 0; j < i; ++j) t.c[j * t.ldc + i] = t.c[i * t.ldc + j];
    }
}

RAPHSON_ISA_END
