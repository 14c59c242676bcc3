// AMX, the eight tile registers of 16 rows by 64 bytes, instruction by instruction. Written as assembly because it tells
// the compiler what a tile load reads; <immintrin.h> does not.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/simd.h"

RAPHSON_ISA_BEGIN

constexpr int tile_height = 16;              // of A and C, and columns of B and C
constexpr std::int64_t tile_row_bytes = 64;  // of a register: 32 entries of A, or 16 pairs of B's, or 16 sums

#if defined(RAPHSON_EMULATE_AMX)  // lets a CPU without AMX run everything else of this path

namespace {
thread_local float emulated_tiles[8][256];
}

struct TileRegisters {};

template <int T>
RAPHSON_FORCE_INLINE void tile_zero() {
    std::memset(emulated_tiles[T], 0, sizeof emulated_tiles[T]);
}
template <int T>
RAPHSON_FORCE_INLINE void tile_load(const void* from, std::int64_t stride) {
    for (int i = 0; i < 16; ++i) {
        std::memcpy(emulated_tiles[T] + 16 * i, static_cast<const char*>(from) + i * stride, tile_row_bytes);
    }
}
template <int T>
RAPHSON_FORCE_INLINE void tile_stream(const void* from, std::int64_t stride) {
    tile_load<T>(from, stride);
}
template <int T>
RAPHSON_FORCE_INLINE void tile_store(void* to, std::int64_t stride) {
    for (int i = 0; i < 16; ++i) {
        std::memcpy(static_cast<char*>(to) + i * stride, emulated_tiles[T] + 16 * i, tile_row_bytes);
    }
}
// The processor's order: even and odd entries of k apart, together at the end.
template <int C, int A, int B>
RAPHSON_FORCE_INLINE void tile_multiply_add() {
    const auto odd = [](float pair) { return bits_float(float_bits(pair) & 0xffff0000u); };
    const auto even = [](float pair) { return bits_float(float_bits(pair) << 16); };
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 16; ++j) {
            float evens = 0, odds = 0;
            for (int p = 0; p < 16; ++p) {
                const float a = emulated_tiles[A][16 * i + p], b = emulated_tiles[B][16 * p + j];
                evens += even(a) * even(b);
                odds += odd(a) * odd(b);
            }
            emulated_tiles[C][16 * i + j] += evens + odds;
        }
    }
}

#else

// The registers are the thread's while this lives. Given back afterwards: the system saves no more of them then.
struct TileRegisters {
    TileRegisters() {
        struct alignas(64) {
            std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } shape;
        for (int t = 0; t < 8; ++t) {
            shape.row_bytes[t] = tile_row_bytes;
            shape.rows[t] = 16;
        }
        __asm__ volatile("ldtilecfg %0" : : "m"(shape));
    }
    ~TileRegisters() { __asm__ volatile("tilerelease"); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

template <int T>
RAPHSON_FORCE_INLINE void tile_zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}
// Sixteen rows, `stride` bytes apart: quick only where none crosses a cache line.
template <int T>
RAPHSON_FORCE_INLINE void tile_load(const void* from, std::int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(from), "r"(stride) : "memory");
}
// The same of what is not needed again soon: leaves the first-level cache to what is.
template <int T>
RAPHSON_FORCE_INLINE void tile_stream(const void* from, std::int64_t stride) {
    __asm__ volatile("tileloaddt1 (%1,%2,1), %%tmm%c0" : : "i"(T), "r"(from), "r"(stride) : "memory");
}
template <int T>
RAPHSON_FORCE_INLINE void tile_store(void* to, std::int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(T), "r"(to), "r"(stride) : "memory");
}
// C += A·B: A 16 rows of 32 bfloat16, B 16 rows of 16 pairs from two rows of the matrix, sums in float32, subnormals zero.
template <int C, int A, int B>
RAPHSON_FORCE_INLINE void tile_multiply_add() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#endif

RAPHSON_ISA_END
