// What a tile of C needs, whatever its kernels: the packed columns of B, and its mirror image.
#pragma once

#include "raphson/runtime.h"
#include "job.h"
#include "kernel.h"
#include "pack.h"

RAPHSON_ISA_BEGIN

// Rows of a tile where A lies in panels: as many as keep the threads evenly busy, because every tile packs its columns of
// B for itself. No entry of C depends on how it is cut.
template <class F>
inline std::int64_t tile_rows(const Job<F>& job) {
    const std::int64_t threads = get_num_threads(), across = pieces(job.n, job.tile_columns);
    std::int64_t down = pieces(job.m, max_panel_rows);
    const auto even = [&] { return !job.symmetric && across * down % threads == 0; };
    while (threads > 1 && !even() && across * down < 4 * threads && job.m >= (down + 1) * min_panel_rows) ++down;
    return pieces(job.m, down);
}

// The arguments that all blocks of a call share.
template <class F>
inline Block<F> first_block(const Job<F>& job) {
    Block<F> t;
    t.a_stride = job.a_stride;
    t.source = nullptr;
    t.source_stride = job.ldb;
    t.ahead = nullptr;
    t.ahead_step = 0;
    t.sums = nullptr;
    t.alpha = job.alpha;
    t.beta = job.beta;
    t.d_stride = job.ldd;
    t.c_stride = job.ldc;
    return t;
}

constexpr std::int64_t mirror_rows = 64;  // at least, whenever it is not the last of a tile

// Mirrors a tile's rows while the caches have them: those above row `ready`, from `done` on, which it moves.
template <class F>
inline void mirror_rows_until(const Job<F>& job, const Tile& tile, std::int64_t ready, bool last, std::int64_t* done) {
    if (!last && (ready < tile.j1 || ready - *done < mirror_rows)) return;
    if (*done == tile.j0) {
        mirror<F>(job.c, job.ldc, tile.j0, tile.j1, tile.j0, tile.j1);
        *done = tile.j1;
    }
    const std::int64_t end = last ? ready : ready / vector_width<F> * vector_width<F>;
    if (end <= *done) return;
    mirror<F>(job.c, job.ldc, *done, end, tile.j0, tile.j1);
    *done = end;
}

// Packs the tile's columns of B, block q of k.
template <class F>
inline void pack_b(const Job<F>& job, std::int64_t q, const Tile& tile, typename F::Operand* panels) {
    const std::int64_t k = job.k0 + q * job.block, entries = job.block_entries(q);
    if (!job.b_is_a_transposed) {
        return pack_all_columns<F>(job.b + k * job.ldb + tile.j0, job.ldb, entries, tile.j1 - tile.j0, panels);
    }
    for (std::int64_t j = tile.j0; j < tile.j1; j += panel_width<F>) {
        pack_transposed<F>(job.b + j * job.ldb + k, job.ldb, entries, min_of(tile.j1 - j, panel_width<F>),
                           panels + (j - tile.j0) * job.steps(q) * F::depth);
    }
}

RAPHSON_ISA_END
