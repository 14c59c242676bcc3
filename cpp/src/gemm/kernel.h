// The register blocks of C: R×W vectors of sums stay in registers while a block of k is swept.
#pragma once

#include <utility>

#include "format.h"

// Makes a pointer's value unknown to the optimiser, at no cost.
#if defined(__GNUC__)
#define RAPHSON_HIDE(pointer) __asm__("" : "+r"(pointer))
#else
#define RAPHSON_HIDE(pointer) (void)(pointer)
#endif

RAPHSON_ISA_BEGIN

// One register block and one block of k.
template <class F>
struct Block {
    std::int64_t steps;
    const typename F::Operand* a;  // row major, a_stride operands from row to row
    std::int64_t a_stride;
    const typename F::Operand* b;  // in a packed panel, 64-byte aligned
    typename F::Sum* sums;         // between blocks of k: R rows of W vectors
    bool first, last;              // of the blocks of k
    typename F::Sum alpha, beta;
    const typename F::Store* d;
    std::int64_t d_stride;
    typename F::Store* c;
    std::int64_t c_stride;
    int columns;  // of C, at most W vectors
};

template <class F>
using BlockFn = void (*)(const Block<F>& block);

// C = alpha·sums + beta·D where the block is narrower than its vectors.
template <class F>
inline void finish_narrow(const Block<F>& t, int rows, int vectors, const typename F::Sum* sums) {
    constexpr int width = vector_width<F>;
    const auto alpha = splat(t.alpha), beta = splat(t.beta);
    for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < vectors && j * width < t.columns; ++j) {
            const int count = t.columns - j * width < width ? t.columns - j * width : width;
            auto x = mul(alpha, load(sums + (i * vectors + j) * width));
            if (t.beta != 0) x = fma(beta, load_part(t.d + i * t.d_stride + j * width, count), x);
            store_part(t.c + i * t.c_stride + j * width, x, count);
        }
    }
}

// A pointer to every third row, each hidden from the optimiser: left alone, compilers keep an address for every row and
// step, run out of registers and load the addresses again and again.
template <int R>
constexpr int row_groups = (R + 2) / 3;

template <class F, int R, int W, int Steps>
RAPHSON_FORCE_INLINE void sweep(const typename F::Operand* (&a)[row_groups<R>], std::int64_t a_stride,
                                const typename F::Operand*& b, Vec<typename F::Sum> (&sum)[R][W]) {
    RAPHSON_UNROLL
    for (int s = 0; s < Steps; ++s) {
        Vec<typename F::Sum> row[W];
        RAPHSON_UNROLL
        for (int j = 0; j < W; ++j) row[j] = F::row(b + s * panel_step<F> + j * vector_width<F> * F::depth);
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            const auto entry = F::entry(a[i / 3] + (i % 3) * a_stride + s * F::depth);
            RAPHSON_UNROLL
            for (int j = 0; j < W; ++j) sum[i][j] = F::multiply_add(entry, row[j], sum[i][j]);
        }
    }
    RAPHSON_UNROLL
    for (int g = 0; g < row_groups<R>; ++g) {
        a[g] += Steps * F::depth;
        RAPHSON_HIDE(a[g]);
    }
    b += Steps * panel_step<F>;
}

template <class F, int R, int W>
void run_block(const Block<F>& t) {
    using V = Vec<typename F::Sum>;
    constexpr int width = V::width;
    V sum[R][W];
    if (t.first) {
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            RAPHSON_UNROLL
            for (int j = 0; j < W; ++j) sum[i][j] = zero<typename F::Sum>();
        }
    } else {
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            RAPHSON_UNROLL
            for (int j = 0; j < W; ++j) sum[i][j] = load(t.sums + (i * W + j) * width);
        }
    }

    constexpr int groups = row_groups<R>;
    const typename F::Operand* a[groups];
    RAPHSON_UNROLL
    for (int g = 0; g < groups; ++g) a[g] = t.a + 3 * g * t.a_stride;
    const typename F::Operand* b = t.b;
    std::int64_t left = t.steps;
    for (; left >= 4; left -= 4) sweep<F, R, W, 4>(a, t.a_stride, b, sum);
    for (; left > 0; --left) sweep<F, R, W, 1>(a, t.a_stride, b, sum);

    if (t.last && t.columns == W * width) {
        const V alpha = splat(t.alpha);
        if (t.beta == 0) {
            RAPHSON_UNROLL
            for (int i = 0; i < R; ++i) {
                RAPHSON_UNROLL
                for (int j = 0; j < W; ++j) store(t.c + i * t.c_stride + j * width, mul(alpha, sum[i][j]));
            }
        } else {
            const V beta = splat(t.beta);
            RAPHSON_UNROLL
            for (int i = 0; i < R; ++i) {
                RAPHSON_UNROLL
                for (int j = 0; j < W; ++j) {
                    const V d = load(t.d + i * t.d_stride + j * width);
                    store(t.c + i * t.c_stride + j * width, fma(beta, d, mul(alpha, sum[i][j])));
                }
            }
        }
        return;
    }
    alignas(64) typename F::Sum local[R * W * width];
    typename F::Sum* out = t.last ? local : t.sums;
    RAPHSON_UNROLL
    for (int i = 0; i < R; ++i) {
        RAPHSON_UNROLL
        for (int j = 0; j < W; ++j) store(out + (i * W + j) * width, sum[i][j]);
    }
    if (t.last) finish_narrow<F>(t, R, W, local);
}

template <class F, int W, int... R>
inline BlockFn<F> pick_block(int rows, std::integer_sequence<int, R...>) {
    static constexpr BlockFn<F> functions[] = {run_block<F, R + 1, W>...};
    return functions[rows - 1];
}
// The function for blocks of `rows` rows (1 … block_rows) and `vectors` (1 or 2) vectors.
template <class F>
inline BlockFn<F> pick_block(int rows, int vectors) {
    constexpr std::make_integer_sequence<int, block_rows> all{};
    return vectors == 1 ? pick_block<F, 1>(rows, all) : pick_block<F, 2>(rows, all);
}

RAPHSON_ISA_END
