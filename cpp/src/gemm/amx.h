// bfloat16 products in tile registers: what takes the place of the vector kernels and their packing. A step is 32 entries
// of k: of A up to two tiles of 16 rows, of B two of 16 columns, each tile 1024 bytes in a row, so that a load of one is
// 16 whole cache lines.
#pragma once

#include "format.h"

#if defined(RAPHSON_TILE_REGISTERS)

#include "pack.h"
#include "panel_kernel.h"
#include "tile_registers.h"

RAPHSON_ISA_BEGIN

constexpr std::int64_t tile_operands = 512;  // bfloat16 in a tile

// The first `count` (0 … 32) of 32 entries, zeros after them.
RAPHSON_FORCE_INLINE __m512i load_32(const bfloat16* from, std::int64_t count) {
    if (count >= 32) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi16((__mmask32{1} << count) - 1, from);
}

// To nearest even; the processor makes subnormals zero, as its products do.
RAPHSON_FORCE_INLINE void store_32(bfloat16* to, Vec<float> left, Vec<float> right) {
#if defined(RAPHSON_EMULATE_AMX)
    store(to, left);
    store(to + 16, right);
#else
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(right.v, left.v));
#endif
}

// Rows as they are, 32 entries at a time.
template <>
inline void pack_panel<Bf16>(const bfloat16* a, std::int64_t stride, int rows, std::int64_t entries, bfloat16* out) {
    const int padded = static_cast<int>(round_up(rows, Bf16::row_unit));
    for (int i = 0; i < padded; ++i) {
        bfloat16* to = out + i * Bf16::depth;
        const bfloat16* from = a + i * stride;
        for (std::int64_t k = 0; k < entries; k += Bf16::depth, to += padded * Bf16::depth) {
            _mm512_storeu_si512(to, i < rows ? load_32(from + k, entries - k) : _mm512_setzero_si512());
        }
    }
}

// Two rows of B, 32 columns: pairs of columns 0 … 15, and of 16 … 31.
RAPHSON_FORCE_INLINE void put_pairs(bfloat16* out, __m512i even, __m512i odd) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36,
                                         4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    _mm512_storeu_si512(out, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_storeu_si512(out + tile_operands, _mm512_permutex2var_epi16(even, high, odd));
}

// One step of B where it is not whole.
inline void pack_ragged_step(const bfloat16* b, std::int64_t stride, std::int64_t entries, std::int64_t columns,
                             bfloat16* out) {
    for (std::int64_t k = 0; k < Bf16::depth; k += 2) {
        const auto row = [&](std::int64_t r) { return r < entries ? load_32(b + r * stride, columns) : _mm512_setzero_si512(); };
        put_pairs(out + k / 2 * 32, row(k), row(k + 1));
    }
}

template <>
inline void pack_all_columns<Bf16>(const bfloat16* b, std::int64_t stride, std::int64_t entries, std::int64_t columns,
                                   bfloat16* out) {
    constexpr std::int64_t rows_ahead = 16;
    const std::int64_t steps = pieces(entries, Bf16::depth), whole = columns / 32 * 32;
    for (std::int64_t s = 0; s < steps; ++s, b += Bf16::depth * stride, out += panel_step<Bf16>, entries -= Bf16::depth) {
        bfloat16* to = out;
        std::int64_t j = 0;
        for (; entries >= Bf16::depth && j < whole; j += 32, to += steps * panel_step<Bf16>) {
            for (std::int64_t k = 0; k < Bf16::depth; k += 2) {
                const bfloat16* row = b + k * stride + j;
                prefetch(row + rows_ahead * stride);
                prefetch(row + (rows_ahead + 1) * stride);
                put_pairs(to + k / 2 * 32, _mm512_loadu_si512(row), _mm512_loadu_si512(row + stride));
            }
        }
        for (; j < columns; j += 32, to += steps * panel_step<Bf16>) {
            pack_ragged_step(b + j, stride, entries, columns - j, to);
        }
    }
}

template <>
inline void pack_transposed<Bf16>(const bfloat16* x, std::int64_t stride, std::int64_t entries, std::int64_t columns,
                                  bfloat16* out) {
    for (std::int64_t s = 0; s < entries; s += Bf16::depth, out += panel_step<Bf16>) {
        for (int h = 0; h < 2; ++h) {
            Vec<float> pairs[16];
            RAPHSON_UNROLL
            for (int i = 0; i < 16; ++i) {
                const std::int64_t row = 16 * h + i;
                pairs[i].v = row < columns ? _mm512_castsi512_ps(load_32(x + row * stride + s, entries - s)) : _mm512_setzero_ps();
            }
            transpose(pairs);
            RAPHSON_UNROLL
            for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + h * tile_operands + 32 * i, pairs[i].v);
        }
    }
}

// C's entries in rows i … i+31, columns j … j+31 to the other side of the diagonal: i ≥ j+32.
inline void mirror_32(bfloat16* c, std::int64_t stride, std::int64_t i, std::int64_t j) {
    alignas(64) bfloat16 pairs[1024];
    for (int r = 0; r < 16; ++r) {
        const bfloat16* row = c + (i + 2 * r) * stride + j;
        put_pairs(pairs + 32 * r, _mm512_loadu_si512(row), _mm512_loadu_si512(row + stride));
    }
    for (int h = 0; h < 2; ++h) {
        Vec<float> block[16];
        RAPHSON_UNROLL
        for (int r = 0; r < 16; ++r) block[r].v = _mm512_loadu_ps(pairs + h * tile_operands + 32 * r);
        transpose(block);
        RAPHSON_UNROLL
        for (int r = 0; r < 16; ++r) _mm512_storeu_ps(c + (j + 16 * h + r) * stride + i, block[r].v);
    }
}

template <>
inline void mirror<Bf16>(bfloat16* c, std::int64_t stride, std::int64_t i0, std::int64_t i1, std::int64_t j0,
                         std::int64_t j1) {
    for (std::int64_t i = i0, end; i < i1; i = end) {
        end = min_of(i1, i + 32);
        std::int64_t j = j0;
        for (; j + 32 <= min_of(j1, i) && i + 32 <= i1; j += 32) mirror_32(c, stride, i, j);
        // What is left of these rows: a narrow end, or up to the diagonal.
        const std::int64_t right = min_of(j1, end);
        if (j < min_of(right, i)) mirror_any<Bf16>(c, stride, i, end, j, min_of(right, i));
        if (i < right) mirror_any<Bf16>(c, stride, i, end, i, right);
    }
}

// C's tiles are registers 0 … 3, A's 4 and 5, B's 6 and 7.
template <int R, int W, class Each>
RAPHSON_FORCE_INLINE void each_sum(Each each) {
    each(std::integral_constant<int, 0>{}, 0, 0);
    if constexpr (W == 2) each(std::integral_constant<int, 1>{}, 0, 16);
    if constexpr (R == 2) each(std::integral_constant<int, 2>{}, 16, 0);
    if constexpr (R == 2 && W == 2) each(std::integral_constant<int, 3>{}, 16, 16);
}

// The sums of a register block that is done but for its way to C. The next block takes it there beside its own products:
// rows a step, while the tile registers multiply.
struct Unfinished {
    alignas(64) float sums[Bf16::block_rows * 32];
    int rows = 0;  // still to go
    const float* x = nullptr;
    const bfloat16* d = nullptr;
    bfloat16* c = nullptr;
};

RAPHSON_FORCE_INLINE void finish_row(const Block<Bf16>& t, Unfinished& u) {
    auto left = mul(splat(t.alpha), load(u.x)), right = mul(splat(t.alpha), load(u.x + 16));
    if (u.d != nullptr) {
        left = fma(splat(t.beta), load(u.d), left);
        right = fma(splat(t.beta), load(u.d + 16), right);
        u.d += t.d_stride;
    }
    store_32(u.c, left, right);
    u.c += t.c_stride;
    u.x += 32;
    --u.rows;
}

inline void finish_all(const Block<Bf16>& t) {
    while (t.unfinished->rows > 0) finish_row(t, *t.unfinished);
}

// R tiles of rows by W of columns.
template <int R, int W>
void run_tiles(const Block<Bf16>& t) {
    constexpr std::int64_t row = tile_row_bytes, sums_row = 2 * tile_row_bytes;
    float* const sums = t.sums;
    if (sums == nullptr || t.first) {
        each_sum<R, W>([](auto c, int, int) { tile_zero<c>(); });
    } else {
        each_sum<R, W>([&](auto c, int i, int j) { tile_load<c>(sums + 32 * i + j, sums_row); });
    }
    const bfloat16* a = t.a;
    const bfloat16* b = t.b;
    const std::int64_t a_row = t.a_stride * 2, a_lower = t.a_stride * tile_height, a_step = t.a_step;
    Unfinished& u = *t.unfinished;
    const int rows_a_step = t.steps >= 16 ? 2 : t.steps >= 8 ? 4 : 8;
    for (std::int64_t s = t.steps; s > 0; --s, a += a_step, b += panel_step<Bf16>) {
        tile_load<4>(a, a_row);
        tile_stream<6>(b, row);
        tile_multiply_add<0, 4, 6>();
        if constexpr (W == 2) {
            tile_stream<7>(b + tile_operands, row);
            tile_multiply_add<1, 4, 7>();
        }
        if constexpr (R == 2) {
            tile_load<5>(a + a_lower, a_row);
            tile_multiply_add<2, 5, 6>();
            if constexpr (W == 2) tile_multiply_add<3, 5, 7>();
        }
        for (int i = 0; i < rows_a_step && u.rows > 0; ++i) finish_row(t, u);
    }
    if (sums != nullptr && !t.last) {
        each_sum<R, W>([&](auto x, int i, int j) { tile_store<x>(sums + 32 * i + j, sums_row); });
        return;
    }
    finish_all(t);
    each_sum<R, W>([&](auto x, int i, int j) { tile_store<x>(u.sums + 32 * i + j, sums_row); });
    if (t.columns < 32) return finish_narrow<Bf16>(t, t.rows, 2, u.sums);
    u.rows = t.rows;
    u.x = u.sums;
    u.d = t.beta != 0 ? t.d : nullptr;
    u.c = t.c;
}

template <>
inline BlockFn<Bf16> pick_panel<Bf16>(int rows) {
    return rows > 16 ? [](const Block<Bf16>& t) { t.columns > 16 ? run_tiles<2, 2>(t) : run_tiles<2, 1>(t); }
                     : [](const Block<Bf16>& t) { t.columns > 16 ? run_tiles<1, 2>(t) : run_tiles<1, 1>(t); };
}

RAPHSON_ISA_END

#endif
