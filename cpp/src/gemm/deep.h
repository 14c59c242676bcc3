// Products in tile registers, which are done with what the caches give them ten times sooner than vectors are: what is
// packed, and which sums wait where.
#pragma once

#include "amx.h"

#if defined(RAPHSON_TILE_REGISTERS)

#include "common/threads.h"
#include "common/workspace.h"
#include "raphson/runtime.h"
#include "tile.h"

RAPHSON_ISA_BEGIN

// Whether tiles of A may be loaded where they lie: no row crosses a cache line, and a panel's lines spread over the sets of
// the first-level cache (64 of them, all of which powers of two pass over).
template <class F>
inline bool tiles_in_place(const Job<F>& job) {
    constexpr std::int64_t line = 64 / sizeof(typename F::Store);
    if (reinterpret_cast<std::uintptr_t>(job.a) % 64 != 0 || job.lda % line != 0 || job.k % F::depth != 0) return false;
    const std::int64_t lines = job.lda / line % 64, wide = job.block / line;
    std::int64_t used[64] = {}, most = 0;
    for (int i = 0; i < F::block_rows; ++i) {
        for (std::int64_t j = 0; j < wide; ++j) most = max_of(most, ++used[(i * lines + j) % 64]);
    }
    return most <= 10;
}

// A tile where tile registers multiply: they are done with a panel of rows in less time than the second level of the cache
// needs for sums of a whole tile, so all of the part's k is one panel's turn, and of sums there is a panel's worth only. A is
// packed on the way, block by block.
template <class F>
inline void run_deep(const Job<F>& job, const Tile& tile, typename F::Operand* panels, typename F::Operand* a_panel,
              typename F::Sum* sums) {
    const std::int64_t padded = round_up(tile.j1 - tile.j0, panel_width<F>);
    for (std::int64_t q = 0; q < job.blocks; ++q) pack_b(job, q, tile, panels + q * padded * job.block);
    std::int64_t mirrored = tile.panels.start(tile.p0);
    Block<F> t = first_block(job);
    const bool in_place = tiles_in_place(job);
    Unfinished unfinished;
    t.unfinished = &unfinished;
    for (std::int64_t p = tile.p0; p < tile.p1; ++p) {
        t.rows = tile.panels.rows(p);
        const std::int64_t i = tile.panels.start(p), rows = round_up(t.rows, F::row_unit);
        const std::int64_t end = job.symmetric ? min_of(tile.j1, i + t.rows) : tile.j1;
        for (std::int64_t q = 0; q < job.blocks; ++q) {
            const std::int64_t k = job.k0 + q * job.block;
            t.steps = job.steps(q);
            if (in_place && t.rows == F::block_rows) {
                t.a = job.a + i * job.lda + k;
                t.a_stride = job.lda;
                t.a_step = F::depth;
            } else {
                pack_panel<F>(job.a + i * job.lda + k, job.lda, t.rows, job.block_entries(q), a_panel);
                t.a = a_panel;
                t.a_stride = F::depth;
                t.a_step = rows * F::depth;
            }
            t.first = k == 0;
            t.last = q == job.blocks - 1 && job.k1 == job.k;
            const auto run = pick_panel<F>(t.rows);
            for (std::int64_t j = tile.j0; j < end; j += panel_width<F>) {
                t.b = panels + q * padded * job.block + (j - tile.j0) * t.steps * F::depth;
                t.columns = static_cast<int>(min_of(tile.j1 - j, panel_width<F>));
                if (job.carry != nullptr) {
                    t.sums = sums + (i - tile.panels.start(tile.p0)) * padded + rows * (j - tile.j0);
                } else if (sums != nullptr) {
                    t.sums = sums + rows * (j - tile.j0);
                }
                t.c = job.c + i * job.ldc + j;
                t.d = job.beta == 0 ? nullptr : job.d + i * job.ldd + j;
                run(t);
            }
        }
        if (!job.symmetric || !t.last) continue;
        finish_all(t);
        mirror_rows_until(job, tile, i + t.rows, p + 1 == tile.p1, &mirrored);
    }
    finish_all(t);
}

template <class F>
inline void deep_task(void* context, std::int64_t task) {
    using Operand = typename F::Operand;
    using Sum = typename F::Sum;
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    Tile tile;
    tiles(job, task, &tile);
    const std::int64_t padded = round_up(tile.j1 - tile.j0, panel_width<F>);
    Workspace workspace;
    auto* panels = workspace.take_array<Operand>(padded * job.blocks * round_up(job.block, F::depth));
    auto* a_panel = workspace.take_array<Operand>(F::block_rows * round_up(job.block, F::depth));
    Sum* sums = nullptr;
    if (job.carry != nullptr) {
        sums = job.carry + (tile.column_tile * round_up(job.m, F::row_unit) + tile.panels.start(tile.p0)) * widest_tile(job);
    } else if (job.blocks > 1) {
        sums = workspace.take_array<Sum>(F::block_rows * padded);
    }
    [[maybe_unused]] const TileRegisters registers;
    run_deep(job, tile, panels, a_panel, sums);
}

template <class F>
inline void run_in_tile_registers(Job<F>& job) {
    job.packs_panels = true;
    job.block = even_piece(job.k, max_block<F>, block_unit<F>);
    const std::int64_t part_k = max_of(1, deep_entries / job.block) * job.block, threads = get_num_threads();
    const std::int64_t steps = pieces(min_of(part_k, job.k), F::depth);
    const std::int64_t most = deep_bytes / (steps * panel_step<F> * static_cast<std::int64_t>(sizeof(typename F::Operand)));
    // Threads share columns rather than rows: of what both would pack for themselves, A is the cheaper. Of a symmetric
    // result twice as many pieces, from the largest to the smallest.
    const bool one_task = threads == 1 || job.m * job.n * job.k <= deep_serial_work;
    const std::int64_t shares = one_task ? 1 : job.symmetric ? 2 * threads : threads;
    const std::int64_t panels = pieces(job.n, panel_width<F>);
    job.tile_columns = even_piece(panels, max_of(1, min_of(most, pieces(panels, shares))), 1) * panel_width<F>;
    const std::int64_t rows = one_task || pieces(job.n, job.tile_columns) >= shares ? job.m : tile_rows(job);
    job.tile_panels = pieces(rows, F::block_rows);
    Workspace workspace;
    if (part_k < job.k) {
        const std::int64_t column_tiles = pieces(job.n, job.tile_columns) + pieces(pieces(job.m, F::block_rows), panels_across(job));
        job.carry = workspace.take_array<typename F::Sum>(round_up(job.m, F::row_unit) * column_tiles * widest_tile(job));
    }
    job.panels = panels_of<F>(0, job.m);
    for (job.k0 = 0; job.k0 < job.k; job.k0 += part_k) {
        job.k1 = min_of(job.k, job.k0 + part_k);
        job.blocks = pieces(job.k1 - job.k0, job.block);
        parallel_for(tiles(job, -1, static_cast<Tile*>(nullptr)), deep_task<F>, &job);
    }
}

RAPHSON_ISA_END

#endif
