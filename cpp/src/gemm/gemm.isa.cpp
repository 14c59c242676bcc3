// The products: what is packed and when, tile by tile, and the table of entry points.
//
// Sums stay apart from C until the last block of k: alpha, beta and the rounding to bfloat16 happen once, and C and D
// are touched once, so D may be C.
#include "table.h"

#include "common/threads.h"
#include "common/workspace.h"
#include "job.h"
#include "kernel.h"
#include "pack.h"
#include "tiny.h"

RAPHSON_ISA_BEGIN
namespace {

template <class F>
void pack_a_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    const std::int64_t i = job.i0 + task * pack_rows_at_once;
    const std::int64_t rows = min_of(pack_rows_at_once, job.i1 - i);
    for (std::int64_t q = 0; q < job.blocks; ++q) {
        const std::int64_t row = q * (job.i1 - job.i0) + i - job.i0;
        pack_rows<F>(job.a + i * job.lda + job.k0 + q * job.block, job.lda, rows, job.block_entries(q),
                     job.packed_a + row * job.a_stride, job.a_stride);
    }
}

template <class F>
const typename F::Operand* a_rows(const Job<F>& job, std::int64_t q, std::int64_t i) {
    if constexpr (std::is_same_v<typename F::Operand, typename F::Store>) {
        if (job.packed_a == nullptr) return job.a + i * job.a_stride + job.k0 + q * job.block;
    }
    return job.packed_a + (q * (job.i1 - job.i0) + i - job.i0) * job.a_stride;
}

// Packs the panel of B that starts at column j.
template <class F>
void pack_b(const Job<F>& job, std::int64_t q, std::int64_t j, std::int64_t columns, typename F::Operand* panel) {
    const std::int64_t p = job.k0 + q * job.block;
    if (job.b_is_a_transposed) {
        pack_transposed<F>(job.b + j * job.ldb + p, job.ldb, job.block_entries(q), columns, panel);
    } else {
        pack_columns<F>(job.b + p * job.ldb + j, job.ldb, job.block_entries(q), columns, panel);
    }
}

template <class F>
void run_tile(const Job<F>& job, const Tile& tile, typename F::Operand* panels, typename F::Sum* sums) {
    const std::int64_t padded = round_up(tile.j1 - tile.j0, panel_width<F>);
    Block<F> t;
    t.alpha = job.alpha;
    t.beta = job.beta;
    t.a_stride = job.a_stride;
    t.source_stride = job.ldb;
    t.d_stride = job.ldd;
    t.c_stride = job.ldc;
    for (std::int64_t q = 0; q < job.blocks; ++q) {
        t.steps = job.steps(q);
        t.first = q == 0 && job.k0 == 0;
        t.last = q == job.blocks - 1 && job.k1 == job.k;
        std::int64_t unpacked = tile.j0;  // the first column that is not packed yet
        for (RowPanels panel(tile.i0, tile.i1); panel.count > 0; panel.next()) {
            const int rows = panel.rows();
            const std::int64_t end = job.symmetric ? min_of(tile.j1, panel.i + rows) : tile.j1;
            t.a = a_rows(job, q, panel.i);
            // The next row panel follows this one in memory.
            t.ahead = reinterpret_cast<const char*>(t.a + rows * job.a_stride);
            t.ahead_step = 0;
            if (panel.count > 1) {
                const std::int64_t sweeps = pieces(end - tile.j0, panel_width<F>) * (t.steps / sweep_steps);
                const std::int64_t bytes = rows * job.a_stride * static_cast<std::int64_t>(sizeof(typename F::Operand));
                t.ahead_step = min_of(128, pieces(bytes, max_of(1, sweeps)));
            }
            for (std::int64_t j = tile.j0; j < end; j += panel_width<F>) {
                t.b = panels + (j - tile.j0) * t.steps * F::depth;
                int vectors = end - j > vector_width<F> ? 2 : 1;
                bool packs = false;
                if (j == unpacked) {
                    unpacked += panel_width<F>;
                    const bool whole = !job.b_is_a_transposed && tile.j1 - j >= panel_width<F>;
                    if (whole) vectors = 2;  // in every block of k: sums have one layout
                    packs = whole && job.block_entries(q) % F::depth == 0;
                    if (packs) {
                        t.source = job.b + (job.k0 + q * job.block) * job.ldb + j;
                    } else {
                        pack_b(job, q, j, min_of(tile.j1 - j, panel_width<F>), t.b);
                    }
                }
                t.columns = static_cast<int>(min_of(tile.j1 - j, vectors * vector_width<F>));
                t.sums = sums == nullptr ? nullptr : sums + (panel.i - tile.i0) * padded + rows * (j - tile.j0);
                t.c = job.c + panel.i * job.ldc + j;
                t.d = job.beta == 0 ? nullptr : job.d + panel.i * job.ldd + j;
                pick_block<F>(rows, vectors, packs)(t);
                t.ahead += t.steps / sweep_steps * t.ahead_step;
            }
        }
    }
    if (job.symmetric && job.k1 == job.k) {
        if (tile.i0 == tile.j0) mirror<F>(job.c, job.ldc, tile.j0, tile.j1, tile.j0, tile.j1);
        mirror<F>(job.c, job.ldc, max_of(tile.i0, tile.j1), tile.i1, tile.j0, tile.j1);
    }
}

template <class F>
void tile_task(void* context, std::int64_t task) {
    using Operand = typename F::Operand;
    using Sum = typename F::Sum;
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    Tile tile;
    tiles(job, task, &tile);
    const std::int64_t padded = round_up(tile.j1 - tile.j0, panel_width<F>);
    Workspace workspace;
    auto* panels = static_cast<Operand*>(workspace.take(
        static_cast<std::size_t>(padded / panel_width<F> * job.panel_operands()) * sizeof(Operand)));
    Sum* sums = nullptr;
    if (job.carry != nullptr) {
        sums = job.carry + (tile.i0 - job.i0) * round_up(job.j1 - job.j0, panel_width<F>) +
               (tile.i1 - tile.i0) * (tile.j0 - job.j0);
    } else if (job.blocks > 1) {
        sums = static_cast<Sum*>(
            workspace.take(static_cast<std::size_t>((tile.i1 - tile.i0) * padded) * sizeof(Sum)));
    }
    run_tile(job, tile, panels, sums);
}

// Whether the kernels may read A where it lies: a row panel, all of it, must fit in the first-level cache.
template <class F>
bool reads_in_place(const Job<F>& job) {
    return std::is_same_v<typename F::Operand, typename F::Store> && job.k % F::depth == 0 &&
           job.lda * static_cast<std::int64_t>(sizeof(typename F::Store)) <= in_place_bytes;
}

// One tile, no copy of A, and little enough of B: nothing but the arithmetic.
template <class F>
void run_small(Job<F>& job) {
    alignas(64) typename F::Operand panels[small_bytes / sizeof(typename F::Operand)];
    run_tile(job, Tile{0, job.m, 0, job.n}, panels, static_cast<typename F::Sum*>(nullptr));
}

template <class F>
void run_part(Job<F>& job, bool pack_a) {
    if (pack_a) parallel_for(pieces(job.i1 - job.i0, pack_rows_at_once), pack_a_task<F>, &job);
    Tile none;
    parallel_for(tiles(job, -1, &none), tile_task<F>, &job);
}

template <class F>
void run(Job<F>& job) {
    using Operand = typename F::Operand;
    using Sum = typename F::Sum;
    constexpr std::int64_t chunk = vector_width<F> * F::depth;
    constexpr std::int64_t entry = sizeof(Operand);
    if (job.m == 0 || job.n == 0) return;
    if (job.k == 0) job.alpha = 0;
    if (job.n <= vector_width<F> && job.m <= tiny_size && job.k <= tiny_size) {
        return job.b_is_a_transposed ? tiny_gram(job) : job.symmetric ? tiny_symmetric(job) : tiny_product(job);
    }

    const bool in_place = reads_in_place(job);
    const bool one_task = job.m * job.n * job.k <= serial_work;
    job.rows = max_tile_rows;
    job.columns = one_task ? round_up(job.n, panel_width<F>)
                           : max_of(panel_width<F>, job.n <= 256 ? 32 : job.n <= 512 ? 64 : max_tile_columns);
    job.block = max_of(1, in_place ? job.k : even_piece(job.k, max_steps<F> * F::depth, chunk));
    job.blocks = 1;
    job.i0 = job.j0 = job.k0 = 0;
    job.i1 = job.m;
    job.j1 = job.n;
    job.k1 = job.k;
    job.packed_a = nullptr;
    job.a_stride = job.lda;
    job.carry = nullptr;
    if (in_place) {
        const std::int64_t bytes = pieces(job.n, panel_width<F>) * job.panel_operands() * entry;
        if (one_task && bytes <= small_bytes) return run_small(job);
        return run_part(job, false);
    }

    // An odd number of cache lines from row to row spreads a panel of rows over all sets of the cache.
    job.a_stride = (pieces(job.block, chunk) | 1) * chunk;
    const std::int64_t row_bytes = pieces(job.k, job.block) * job.a_stride * entry;
    std::int64_t part_m = job.m, part_n = job.n, part_k = job.k;
    if (job.m * row_bytes > packed_bytes) {
        part_m = max_of(max_tile_rows, packed_bytes / row_bytes / max_tile_rows * max_tile_rows);
        if (part_m * row_bytes > packed_bytes) {
            part_k = packed_bytes / (part_m * job.a_stride * entry) * job.block;
            part_n = 32 * max_tile_columns;
        }
    }
    const std::int64_t most_m = min_of(part_m, job.m), blocks = max_of(1, pieces(min_of(part_k, job.k), job.block));
    Workspace workspace;
    job.packed_a = static_cast<Operand*>(
        workspace.take(static_cast<std::size_t>(most_m * blocks * job.a_stride) * sizeof(Operand)));
    if (part_k < job.k) {
        const std::int64_t size = most_m * round_up(min_of(part_n, job.n), panel_width<F>);
        job.carry = static_cast<Sum*>(workspace.take(static_cast<std::size_t>(size) * sizeof(Sum)));
    }
    for (job.i0 = 0; job.i0 < job.m; job.i0 += part_m) {
        job.i1 = min_of(job.m, job.i0 + part_m);
        const std::int64_t n = job.symmetric ? job.i1 : job.n;
        for (job.j0 = 0; job.j0 < n; job.j0 += part_n) {
            job.j1 = min_of(n, job.j0 + part_n);
            job.k0 = 0;
            do {
                job.k1 = min_of(job.k, job.k0 + part_k);
                job.blocks = max_of(1, pieces(job.k1 - job.k0, job.block));
                run_part(job, job.j0 == 0 || job.carry != nullptr);
                job.k0 = job.k1;
            } while (job.k0 < job.k);
        }
    }
}

template <class F>
void product(std::int64_t m, std::int64_t n, std::int64_t k, typename F::Sum alpha, const typename F::Store* a,
             std::int64_t lda, const typename F::Store* b, std::int64_t ldb, typename F::Sum beta,
             const typename F::Store* d, std::int64_t ldd, typename F::Store* c, std::int64_t ldc) {
    Job<F> job;
    job.m = m;
    job.n = n;
    job.k = k;
    job.alpha = alpha;
    job.a = a;
    job.lda = lda;
    job.b = b;
    job.ldb = ldb;
    job.b_is_a_transposed = false;
    job.beta = beta;
    job.d = d;
    job.ldd = ldd;
    job.c = c;
    job.ldc = ldc;
    job.symmetric = false;
    run(job);
}

template <class F>
void gram(std::int64_t m, std::int64_t k, typename F::Sum alpha, const typename F::Store* x, std::int64_t ldx,
          typename F::Store* c, std::int64_t ldc) {
    Job<F> job;
    job.m = job.n = m;
    job.k = k;
    job.alpha = alpha;
    job.a = job.b = x;
    job.lda = job.ldb = ldx;
    job.b_is_a_transposed = true;
    job.beta = 0;
    job.d = nullptr;
    job.ldd = 0;
    job.c = c;
    job.ldc = ldc;
    job.symmetric = true;
    run(job);
}

template <class F>
void symmetric(std::int64_t m, typename F::Sum alpha, const typename F::Store* a, std::int64_t lda,
               const typename F::Store* b, std::int64_t ldb, typename F::Sum beta, const typename F::Store* d,
               std::int64_t ldd, typename F::Store* c, std::int64_t ldc) {
    Job<F> job;
    job.m = job.n = job.k = m;
    job.alpha = alpha;
    job.a = a;
    job.lda = lda;
    job.b = b;
    job.ldb = ldb;
    job.b_is_a_transposed = false;
    job.beta = beta;
    job.d = d;
    job.ldd = ldd;
    job.c = c;
    job.ldc = ldc;
    job.symmetric = true;
    run(job);
}

}  // namespace

extern const GemmTable gemm_table;
const GemmTable gemm_table{{product<Plain<double>>, gram<Plain<double>>, symmetric<Plain<double>>},
                           {product<Plain<float>>, gram<Plain<float>>, symmetric<Plain<float>>},
                           {product<Bf16>, gram<Bf16>, symmetric<Bf16>}};

RAPHSON_ISA_END
