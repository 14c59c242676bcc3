// The register blocks of large products. A row panel is packed entry by entry of k: one stream of addresses that the
// cache's prefetcher follows, where rows of their own miss together at every sixteenth entry.
#pragma once

#include "kernel.h"

RAPHSON_ISA_BEGIN

// B comes from the second-level cache: the lines of the step this many ahead are sent for.
constexpr int b_distance = 4;

// Steps before the end over which C's lines are fetched, one row every fourth: sent for at once they would wait for one
// another, and earlier they would be gone again.
constexpr int steps_a_row = 4;

template <class F, int R, int Steps>
RAPHSON_FORCE_INLINE void panel_steps(const typename F::Operand*& a, const typename F::Operand*& b,
                                      Vec<typename F::Sum> (&sum)[R][2]) {
    constexpr int vector = vector_width<F> * F::depth;
    RAPHSON_UNROLL
    for (int s = 0; s < Steps; ++s) {
        const typename F::Operand* row = b + s * panel_step<F>;
        const auto left = F::row(row), right = F::row(row + vector);
        prefetch(row + b_distance * panel_step<F>);
        prefetch(row + b_distance * panel_step<F> + vector);
        RAPHSON_UNROLL
        for (int i = 0; i < R; ++i) {
            const auto entry = F::entry(a + (s * R + i) * F::depth);
            sum[i][0] = F::multiply_add(entry, left, sum[i][0]);
            sum[i][1] = F::multiply_add(entry, right, sum[i][1]);
        }
    }
    a += Steps * R * F::depth;
    b += Steps * panel_step<F>;
    RAPHSON_HIDE(a);
    RAPHSON_HIDE(b);
}

// Steps that run_panel's main loop takes, each of which moves `ahead` on once.
template <class F>
constexpr std::int64_t panel_sweeps(std::int64_t steps, int rows) {
    const std::int64_t body = steps - steps_a_row * rows;
    return body > 0 ? body / sweep_steps : 0;
}

template <class F, int R>
void run_panel(const Block<F>& t) {
    using Sum = typename F::Sum;
    constexpr int width = vector_width<F>;
    Vec<Sum> sum[R][2];
    RAPHSON_UNROLL
    for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = zero<Sum>();

    const typename F::Operand* a = t.a;
    const typename F::Operand* b = t.b;
    const char* ahead = t.ahead;
    std::int64_t left = t.steps;
    for (std::int64_t s = panel_sweeps<F>(left, R); s > 0; --s, left -= sweep_steps) {
        prefetch_far(ahead);
        ahead += t.ahead_step;
        panel_steps<F, R, sweep_steps>(a, b, sum);
    }
    const typename F::Out* c = t.c;
    const typename F::Out* d = t.d;
    int c_rows = t.last || t.sums == nullptr ? R : 0;
    for (; left >= steps_a_row; left -= steps_a_row) {
        if (--c_rows >= 0) {
            prefetch_to_write(c);
            prefetch_to_write(c + t.columns - 1);
            c += t.c_stride;
            if (d != nullptr) {
                prefetch(d);
                prefetch(d + t.columns - 1);
                d += t.d_stride;
            }
        }
        RAPHSON_NO_UNROLL
        for (int s = 0; s < steps_a_row; ++s) panel_steps<F, R, 1>(a, b, sum);
    }
    for (; left > 0; --left) panel_steps<F, R, 1>(a, b, sum);

    if (t.sums != nullptr) {
        if (!t.first) {
            RAPHSON_UNROLL
            for (int i = 0; i < R; ++i) {
                sum[i][0] = add(sum[i][0], load(t.sums + 2 * i * width));
                sum[i][1] = add(sum[i][1], load(t.sums + (2 * i + 1) * width));
            }
        }
        if (!t.last) {
            RAPHSON_UNROLL
            for (int i = 0; i < R; ++i) {
                store(t.sums + 2 * i * width, sum[i][0]);
                store(t.sums + (2 * i + 1) * width, sum[i][1]);
            }
            return;
        }
    }
    finish<F, R, 2>(t, sum);
}

template <class F, int... R>
inline BlockFn<F> pick_panel(int rows, std::integer_sequence<int, R...>) {
    static constexpr BlockFn<F> functions[] = {run_panel<F, R + 1>...};
    return functions[rows - 1];
}
// The function for packed panels of `rows` rows (1 … block_rows).
template <class F>
inline BlockFn<F> pick_panel(int rows) {
    return pick_panel<F>(rows, std::make_integer_sequence<int, F::block_rows>{});
}

RAPHSON_ISA_END
