// What the products multiply, how, and in which register blocks. A format's kernels advance along k in steps of `depth`
// entries: one, the two that a bfloat16 dot product consumes at a time, or the 32 of a tile register's row.
#pragma once

#include "common/simd_double.h"

#if defined(RAPHSON_AMX) || defined(RAPHSON_EMULATE_AMX)
#define RAPHSON_TILE_REGISTERS 1
#elif defined(__AVX512BF16__) || defined(RAPHSON_EMULATE_BF16_DOT)
#define RAPHSON_BF16_DOT 1
#endif

RAPHSON_ISA_BEGIN

// Rows of a register block. It is two vectors wide; rows·2 accumulators, the two vectors of B and one entry of A
// (SSE: and a product) fill the registers.
#if defined(RAPHSON_SIMD_AVX512)
constexpr int vector_block_rows = 14;
#elif defined(RAPHSON_SIMD_AVX2)
constexpr int vector_block_rows = 6;
#elif defined(RAPHSON_SIMD_NEON)
constexpr int vector_block_rows = 12;
#else
constexpr int vector_block_rows = 4;
#endif

// Store: what A and B are in the caller's memory; Out: what C and D are. Operand: what the kernels read. Sum: what they
// accumulate in. A register block has up to block_rows rows; packed, they are filled up to a multiple of row_unit, and
// where that is more than one, all panels of rows but the last are full.
template <class T>
struct Plain {
    using Store = T;
    using Out = T;
    using Operand = T;
    using Sum = T;
    static constexpr int depth = 1;
    static constexpr int block_rows = vector_block_rows, row_unit = 1;

    // Kernel side: one entry of A in every lane, a vector of B's row, and their product.
    static RAPHSON_FORCE_INLINE Vec<T> entry(const T* a) { return splat(*a); }
    static RAPHSON_FORCE_INLINE Vec<T> row(const T* b) { return load(b); }
    static RAPHSON_FORCE_INLINE Vec<T> multiply_add(Vec<T> a, Vec<T> b, Vec<T> sum) { return fma(a, b, sum); }

    // Packing side: the first `count` entries of a row as one vector of operands, zeros after them; …
    template <class S>
    static RAPHSON_FORCE_INLINE Vec<T> fetch(const S* row, int count) {
        return count >= Vec<T>::width ? load(row) : load_part(row, count);
    }
    static RAPHSON_FORCE_INLINE void put(T* operands, Vec<T> x) { store(operands, x); }
    // … and one step of `columns` columns, of which `rows` (≤ depth) rows exist.
    template <class S>
    static RAPHSON_FORCE_INLINE Vec<T> step(const S* b, std::int64_t, int, int columns) {
        return fetch(b, columns);
    }
};

// float32 widened while it is packed, then multiplied as float64.
struct Widened : Plain<double> {
    using Store = float;
    static RAPHSON_FORCE_INLINE Vec<double> fetch(const float* row, int count) {
        return count >= Vec<double>::width ? load_wide(row) : load_wide_part(row, count);
    }
    static RAPHSON_FORCE_INLINE Vec<double> step(const float* b, std::int64_t, int, int columns) {
        return fetch(b, columns);
    }
};

#if defined(RAPHSON_TILE_REGISTERS)

struct Bf16 {
    using Store = bfloat16;
    using Out = bfloat16;
    using Operand = bfloat16;
    using Sum = float;
    static constexpr int depth = 32;
    static constexpr int block_rows = 32, row_unit = 16;
};

#elif defined(RAPHSON_BF16_DOT)

// Vec<float> here also carries pairs of bfloat16, as bits.
struct Bf16 {
    using Store = bfloat16;
    using Out = bfloat16;
    using Operand = bfloat16;
    using Sum = float;
    static constexpr int depth = 2;
    static constexpr int block_rows = vector_block_rows, row_unit = 1;

    static RAPHSON_FORCE_INLINE Vec<float> entry(const bfloat16* a) {
        std::int32_t pair;
        std::memcpy(&pair, a, sizeof pair);
        return {_mm512_castsi512_ps(_mm512_set1_epi32(pair))};
    }
    static RAPHSON_FORCE_INLINE Vec<float> row(const bfloat16* b) {
        return {_mm512_castsi512_ps(_mm512_loadu_si512(b))};
    }
    static RAPHSON_FORCE_INLINE Vec<float> multiply_add(Vec<float> a, Vec<float> b, Vec<float> sum) {
#if defined(RAPHSON_EMULATE_BF16_DOT)  // lets a CPU without AVX512_BF16 run everything else of this path
        const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
        const __m512i x = _mm512_castps_si512(a.v), y = _mm512_castps_si512(b.v);
        const __m512 odd = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(x, high)),
                                           _mm512_castsi512_ps(_mm512_and_si512(y, high)), sum.v);
        return {_mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                                _mm512_castsi512_ps(_mm512_slli_epi32(y, 16)), odd)};
#else
        return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
#endif
    }
    static RAPHSON_FORCE_INLINE Vec<float> fetch(const bfloat16* row, int count) {
        const auto lanes = count >= 32 ? ~__mmask32{0} : (__mmask32{1} << count) - 1;
        return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(lanes, row))};
    }
    static RAPHSON_FORCE_INLINE void put(bfloat16* operands, Vec<float> x) {
        _mm512_storeu_si512(operands, _mm512_castps_si512(x.v));
    }
    static RAPHSON_FORCE_INLINE Vec<float> step(const bfloat16* b, std::int64_t stride, int rows, int columns) {
        const int count = columns < 16 ? columns : 16;
        const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(load_part(b, count).v), 16);
        if (rows == 1) return {_mm512_castsi512_ps(low)};
        return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(load_part(b + stride, count).v)))};
    }
};

#else

// Widened while it is packed, then multiplied as float32: exact products, float32 sums.
struct Bf16 : Plain<float> {
    using Store = bfloat16;
    using Out = bfloat16;
};

#endif

template <class F>
constexpr int vector_width = Vec<typename F::Sum>::width;
template <class F>
constexpr int panel_width = 2 * vector_width<F>;  // columns of a packed panel of B
template <class F>
constexpr int panel_step = panel_width<F> * F::depth;  // operands of one step of a panel
// The kernels take rows and entries of k one by one: vectors do, tile registers take 16 and 32.
template <class F>
constexpr bool reads_rows = F::row_unit == 1;

RAPHSON_ISA_END
