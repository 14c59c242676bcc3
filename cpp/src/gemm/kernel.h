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

// A packing block asks for rows of B this many steps before it needs them.
constexpr int pack_distance = 16;

struct Unfinished;  // amx.h

// One register block and one block of k.
template <class F>
struct Block {
    std::int64_t steps;
    const typename F::Operand* a;  // a row panel: rows a_stride operands apart, or packed, entry by entry of k
    std::int64_t a_stride;
    std::int64_t a_step;              // where tile registers multiply: operands from step to step
    typename F::Operand* b;           // a packed panel, 64-byte aligned
    const typename F::Store* source;  // what a packing block reads instead, and leaves in the panel; row major
    std::int64_t source_stride;
    const char* ahead;        // what a later block reads: fetched into the second-level cache, in every sweep
    std::int64_t ahead_step;  // this many bytes further
    typename F::Sum* sums;    // between blocks of k, R rows of W vectors, where C cannot hold them; else null
    bool first, last;         // of the blocks of k
    typename F::Sum alpha, beta;
    const typename F::Out* d;
    std::int64_t d_stride;
    typename F::Out* c;
    std::int64_t c_stride;
    int rows, columns;  // of C; at most W vectors
    Unfinished* unfinished;  // where tile registers multiply
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

// C = alpha·sum + beta·D.
template <class F, int R, int W>
RAPHSON_FORCE_INLINE void finish(const Block<F>& t, const Vec<typename F::Sum> (&sum)[R][W]) {
    using V = Vec<typename F::Sum>;
    constexpr int width = V::width;
    if (t.columns < W * width) {
        alignas(64) typename F::Sum local[R * W * width];
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            RAPHSON_UNROLL
            for (int j = 0; j < W; ++j) store(local + (i * W + j) * width, sum[i][j]);
        }
        return finish_narrow<F>(t, R, W, local);
    }
    const V alpha = splat(t.alpha);
    if (t.beta == 0) {
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            RAPHSON_UNROLL
            for (int j = 0; j < W; ++j) store(t.c + i * t.c_stride + j * width, mul(alpha, sum[i][j]));
        }
        return;
    }
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

// Longer sweeps gain nothing: the loop's own instructions fit in beside the multiply-adds.
constexpr int sweep_steps = 2;
constexpr int sweeps_a_round = 4;

// A pointer to every third row, each hidden from the optimiser: left alone, compilers keep an address for every row and
// step, run out of registers and load the addresses again and again.
template <int R>
constexpr int row_groups = (R + 2) / 3;

template <class F, int R>
struct Cursor {
    const typename F::Operand* a[row_groups<R>];
    std::int64_t a_stride;
    typename F::Operand* b;
    const typename F::Store* source;
    std::int64_t source_stride;
};

template <class F, int R, int W, bool Packs, int Steps>
RAPHSON_FORCE_INLINE void sweep(Cursor<F, R>& at, Vec<typename F::Sum> (&sum)[R][W]) {
    constexpr int width = vector_width<F>;
    RAPHSON_UNROLL
    for (int s = 0; s < Steps; ++s) {
        Vec<typename F::Sum> row[W];
        RAPHSON_UNROLL
        for (int j = 0; j < W; ++j) {
            typename F::Operand* b = at.b + s * panel_step<F> + j * width * F::depth;
            if constexpr (Packs) {
                const typename F::Store* source = at.source + s * F::depth * at.source_stride + j * width;
                prefetch(source + pack_distance * F::depth * at.source_stride);
                row[j] = F::step(source, at.source_stride, F::depth, width);
                F::put(b, row[j]);
            } else {
                row[j] = F::row(b);
            }
        }
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            const auto entry = F::entry(at.a[i / 3] + (i % 3) * at.a_stride + s * F::depth);
            RAPHSON_UNROLL
            for (int j = 0; j < W; ++j) sum[i][j] = F::multiply_add(entry, row[j], sum[i][j]);
        }
    }
    RAPHSON_UNROLL
    for (int g = 0; g < row_groups<R>; ++g) {
        at.a[g] += Steps * F::depth;
        RAPHSON_HIDE(at.a[g]);
    }
    at.b += Steps * panel_step<F>;
    if constexpr (Packs) at.source += Steps * F::depth * at.source_stride;
}

// A in rows, one block of k. Packs: reads B where it lies and packs it on the way, beside the multiply-adds, where it
// costs next to nothing.
template <class F, int R, int W, bool Packs>
void run_block(const Block<F>& t) {
    using V = Vec<typename F::Sum>;
    V sum[R][W];
    RAPHSON_UNROLL
    for (int i = 0; i < R; ++i) {
        RAPHSON_UNROLL
        for (int j = 0; j < W; ++j) sum[i][j] = zero<typename F::Sum>();
    }

    Cursor<F, R> at;
    RAPHSON_UNROLL
    for (int g = 0; g < row_groups<R>; ++g) at.a[g] = t.a + 3 * g * t.a_stride;
    at.a_stride = t.a_stride;
    at.b = t.b;
    at.source = t.source;
    at.source_stride = t.source_stride;
    const char* ahead = t.ahead;
    const std::int64_t ahead_step = t.ahead_step, ahead_half = ahead_step / 2;
    // The stores at the end come in a burst: their lines are sent for on the way, one row a round.
    const typename F::Out* c = t.c;
    int c_rows = R;
    std::int64_t left = t.steps;
    for (; left >= sweep_steps * sweeps_a_round; left -= sweep_steps * sweeps_a_round) {
        if (--c_rows >= 0) {
            prefetch_to_write(c);
            prefetch_to_write(c + t.columns - 1);
            c += t.c_stride;
        }
        RAPHSON_NO_UNROLL
        for (int s = 0; s < sweeps_a_round; ++s) {
            prefetch_far(ahead);
            prefetch_far(ahead + ahead_half);
            ahead += ahead_step;
            sweep<F, R, W, Packs, sweep_steps>(at, sum);
        }
    }
    for (; left > 0; --left) sweep<F, R, W, Packs, 1>(at, sum);

    finish<F, R, W>(t, sum);
}

template <class F, int W, bool Packs, int... R>
inline BlockFn<F> pick_block(int rows, std::integer_sequence<int, R...>) {
    static constexpr BlockFn<F> functions[] = {run_block<F, R + 1, W, Packs>...};
    return functions[rows - 1];
}
// The function for blocks of `rows` rows (1 … block_rows) and `vectors` (1 or 2) vectors; those that pack have 2.
template <class F>
inline BlockFn<F> pick_block(int rows, int vectors, bool packs) {
    constexpr std::make_integer_sequence<int, F::block_rows> all{};
    return packs          ? pick_block<F, 2, true>(rows, all)
           : vectors == 1 ? pick_block<F, 1, false>(rows, all)
                          : pick_block<F, 2, false>(rows, all);
}

RAPHSON_ISA_END
