// The products: what is packed and when, tile by tile, and the table of entry points.
//
// Sums are rounded to bfloat16 once. D is read before C is written and not after, so D may be C.
#include "table.h"

#include "common/threads.h"
#include "common/workspace.h"
#include "deep.h"
#include "narrow.h"
#include "panel_kernel.h"
#include "tile.h"
#include "tiny.h"

RAPHSON_ISA_BEGIN
namespace {

template <class F>
void pack_rows_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    const std::int64_t i = job.i0 + task * pack_rows_at_once;
    pack_rows<F>(job.a + i * job.lda, job.lda, min_of(pack_rows_at_once, job.i1 - i), job.k,
                 job.packed_a + (i - job.i0) * job.a_stride, job.a_stride);
}

// Where the panel that starts at row i lies in block q of k.
template <class F>
typename F::Operand* packed_panel(const Job<F>& job, std::int64_t q, std::int64_t i) {
    const std::int64_t before = (job.i1 - job.i0) * q * pieces(job.block, F::depth);
    return job.packed_a + (before + (i - job.i0) * job.steps(q)) * F::depth;
}

template <class F>
void pack_panels_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    const std::int64_t end = min_of(job.panels.count, (task + 1) * pack_panels_at_once);
    for (std::int64_t p = task * pack_panels_at_once; p < end; ++p) {
        const std::int64_t i = job.panels.start(p);
        for (std::int64_t q = 0; q < job.blocks; ++q) {
            pack_panel<F>(job.a + i * job.lda + job.k0 + q * job.block, job.lda, job.panels.rows(p),
                          job.block_entries(q), packed_panel(job, q, i));
        }
    }
}

template <class F>
void pack_columns_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    const std::int64_t tasks_a_block = pieces(job.block, pack_steps_at_once), q = task / tasks_a_block;
    const std::int64_t begin = task % tasks_a_block * pack_steps_at_once, k = job.k0 + q * job.block;
    pack_panels_of_columns<F>(job.b + k * job.ldb, job.ldb, job.weights != nullptr ? job.weights + k : nullptr, job.panels,
                              begin, min_of(begin + pack_steps_at_once, job.steps(q)),
                              [&](std::int64_t i) { return packed_panel(job, q, i); });
}

// Asks for the bytes behind the panel in use, all of them in `sweeps` sweeps.
template <class F>
void look_ahead(Block<F>& t, std::int64_t bytes, std::int64_t sweeps, bool more) {
    t.ahead = reinterpret_cast<const char*>(t.a) + bytes;
    t.ahead_step = more ? min_of(128, pieces(bytes, max_of(1, sweeps))) : 0;
}

// A tile of a product whose A lies in rows: all of k is one block.
template <class F>
void run_rows(const Job<F>& job, const Tile& tile, typename F::Operand* panels) {
    Block<F> t = first_block(job);
    t.steps = job.steps(0);
    std::int64_t unpacked = tile.j0;  // the first column that is not packed yet
    std::int64_t mirrored = tile.panels.start(tile.p0);
    for (std::int64_t p = tile.p0; p < tile.p1; ++p) {
        const int rows = tile.panels.rows(p);
        const std::int64_t i = tile.panels.start(p);
        const std::int64_t end = job.symmetric ? min_of(tile.j1, i + rows) : tile.j1;
        if (job.packed_a != nullptr) {
            t.a = job.packed_a + (i - job.i0) * job.a_stride;
        } else if constexpr (std::is_same_v<typename F::Operand, typename F::Store>) {
            t.a = job.a + i * job.a_stride;
        }
        look_ahead(t, rows * job.a_stride * static_cast<std::int64_t>(sizeof(typename F::Operand)),
                   pieces(end - tile.j0, panel_width<F>) * (t.steps / sweep_steps), p + 1 < tile.p1);
        for (std::int64_t j = tile.j0; j < end; j += panel_width<F>) {
            t.b = panels + (j - tile.j0) * t.steps * F::depth;
            int vectors = end - j > vector_width<F> ? 2 : 1;
            bool packs = false;
            if (j == unpacked) {
                unpacked += panel_width<F>;
                const std::int64_t columns = min_of(tile.j1 - j, panel_width<F>);
                packs = !job.b_is_a_transposed && columns == panel_width<F> && job.k % F::depth == 0;
                if (packs) {
                    vectors = 2;
                    t.source = job.b + j;
                } else if (job.b_is_a_transposed) {
                    pack_transposed<F>(job.b + j * job.ldb, job.ldb, job.k, columns, t.b);
                } else {
                    pack_columns<F>(job.b + j, job.ldb, job.k, columns, t.b);
                }
            }
            t.columns = static_cast<int>(min_of(tile.j1 - j, vectors * vector_width<F>));
            t.c = job.c + i * job.ldc + j;
            t.d = job.beta == 0 ? nullptr : job.d + i * job.ldd + j;
            pick_block<F>(rows, vectors, packs)(t);
            t.ahead += t.steps / sweep_steps * t.ahead_step;
        }
        if (job.symmetric) mirror_rows_until(job, tile, i + rows, p + 1 == tile.p1, &mirrored);
    }
}

// A tile of a product whose A lies in packed panels. Between blocks of k, C holds the sums: the first adds beta·D, the
// others C itself. Where its entries are narrower than the sums, `sums` does.
template <class F>
void run_panels(const Job<F>& job, const Tile& tile, typename F::Operand* panels, typename F::Sum* sums) {
    const std::int64_t padded = round_up(tile.j1 - tile.j0, panel_width<F>);
    std::int64_t mirrored = tile.panels.start(tile.p0);
    Block<F> t = first_block(job);
    for (std::int64_t q = 0; q < job.blocks; ++q) {
        pack_b(job, q, tile, panels);
        t.steps = job.steps(q);
        t.first = q == 0 && job.k0 == 0;
        t.last = q == job.blocks - 1 && job.k1 == job.k;
        const auto* d = job.beta == 0 ? nullptr : job.d;
        if (sums == nullptr && !t.first) {
            d = job.c;
            t.d_stride = job.ldc;
            t.beta = 1;
        }
        for (std::int64_t p = tile.p0; p < tile.p1; ++p) {
            const int rows = tile.panels.rows(p);
            const std::int64_t i = tile.panels.start(p);
            const std::int64_t end = job.symmetric ? min_of(tile.j1, i + rows) : tile.j1;
            const std::int64_t sweeps = panel_sweeps<F>(t.steps, rows);
            t.a = packed_panel(job, q, i);
            look_ahead(t, rows * t.steps * F::depth * static_cast<std::int64_t>(sizeof(typename F::Operand)),
                       pieces(end - tile.j0, panel_width<F>) * sweeps, p + 1 < tile.p1);
            const auto run = pick_panel<F>(rows);
            for (std::int64_t j = tile.j0; j < end; j += panel_width<F>) {
                t.b = panels + (j - tile.j0) * t.steps * F::depth;
                t.columns = static_cast<int>(min_of(tile.j1 - j, panel_width<F>));
                if (sums != nullptr) {
                    t.sums = sums + (i - tile.panels.start(tile.p0)) * padded + rows * (j - tile.j0);
                }
                t.c = job.c + i * job.ldc + j;
                t.d = d == nullptr ? nullptr : d + i * t.d_stride + j;
                run(t);
                t.ahead += sweeps * t.ahead_step;
            }
            if (job.symmetric && t.last) mirror_rows_until(job, tile, i + rows, p + 1 == tile.p1, &mirrored);
        }
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
    auto* panels = workspace.take_array<Operand>(padded / panel_width<F> * job.panel_operands());
    if (!job.packs_panels) return run_rows(job, tile, panels);
    Sum* sums = nullptr;
    const std::int64_t i = tile.panels.start(tile.p0);
    if (job.carry != nullptr) {
        sums = job.carry + (tile.column_tile * (job.i1 - job.i0) + i - job.i0) * widest_tile(job);
    } else if (!std::is_same_v<typename F::Out, Sum> && job.blocks > 1) {
        sums = workspace.take_array<Sum>((tile.panels.start(tile.p1) - i) * padded);
    }
    run_panels(job, tile, panels, sums);
}

// Whether the kernels may read A where it lies: a row panel, all of it, must fit in the first-level cache.
template <class F>
bool reads_in_place(const Job<F>& job) {
    return std::is_same_v<typename F::Operand, typename F::Store> && job.k % F::depth == 0 &&
           job.lda * static_cast<std::int64_t>(sizeof(typename F::Store)) <= in_place_bytes;
}

// One tile, no copy of A, and little enough of B: nothing but the arithmetic.
template <class F>
void run_small(const Job<F>& job) {
    alignas(64) typename F::Operand panels[small_bytes / sizeof(typename F::Operand)];
    Tile all;
    all.panels = job.panels;
    all.p1 = job.panels.count;
    all.j1 = job.n;
    run_rows(job, all, panels);
}

// Tasks of a product that is done before another thread would wake are the caller's.
template <class F>
void share(std::int64_t tasks, TaskFn task, Job<F>& job) {
    if (job.m * job.n * job.k > serial_work) return parallel_for(tasks, task, &job);
    for (std::int64_t t = 0; t < tasks; ++t) task(&job, t);
}

// Packs A, unless it is read where it lies.
template <class F>
void pack_a(Job<F>& job) {
    if (job.packed_a == nullptr) return;
    if constexpr (F::depth == 1) {
        if (job.a_is_b_transposed) {
            return share(job.blocks * pieces(job.block, pack_steps_at_once), pack_columns_task<F>, job);
        }
    }
    if (!job.packs_panels) return share(pieces(job.i1 - job.i0, pack_rows_at_once), pack_rows_task<F>, job);
    share(pieces(job.panels.count, pack_panels_at_once), pack_panels_task<F>, job);
}

template <class F>
void run_part(Job<F>& job) {
    job.panels = panels_of<F>(job.i0, job.i1);
    pack_a(job);
    share(tiles(job, -1, static_cast<Tile*>(nullptr)), tile_task<F>, job);
}

// A in rows: all of k at once.
template <class F>
void run_in_rows(Job<F>& job) {
    using Operand = typename F::Operand;
    constexpr std::int64_t chunk = vector_width<F> * F::depth;
    constexpr std::int64_t entry = sizeof(Operand);
    const bool in_place = reads_in_place(job);
    const bool one_task = job.m * job.n * job.k <= serial_work;
    job.packs_panels = false;
    job.tile_panels = pieces(max_tile_rows, F::block_rows);
    job.tile_columns = one_task ? round_up(job.n, panel_width<F>)
                                : max_of(panel_width<F>, job.n <= 256 ? 32 : job.n <= 512 ? 64 : max_tile_columns);
    job.block = max_of(1, job.k);
    if (in_place) {
        const std::int64_t bytes = pieces(job.n, panel_width<F>) * job.panel_operands() * entry;
        job.panels = panels_of<F>(job.i0, job.i1);
        return one_task && bytes <= small_bytes ? run_small(job) : run_part(job);
    }
    // An odd number of cache lines from row to row spreads a panel of rows over all sets of the cache.
    job.a_stride = (pieces(job.block, chunk) | 1) * chunk;
    const std::int64_t part = max_of(max_tile_rows, packed_bytes / (job.a_stride * entry) / max_tile_rows * max_tile_rows);
    Workspace workspace;
    job.packed_a = workspace.take_array<Operand>(min_of(part, job.m) * job.a_stride);
    for (job.i0 = 0; job.i0 < job.m; job.i0 += part) {
        job.i1 = min_of(job.m, job.i0 + part);
        run_part(job);
    }
}

template <class F>
void run_in_panels(Job<F>& job) {
    using Operand = typename F::Operand;
    using Sum = typename F::Sum;
    job.packs_panels = true;
    job.block = even_piece(job.k, max_block<F>, block_unit<F>);
    const std::int64_t most = tile_bytes / (job.panel_operands() * static_cast<std::int64_t>(sizeof(Operand)));
    job.tile_columns = even_piece(round_up(job.n, panel_width<F>), max_of(1, most) * panel_width<F>, panel_width<F>);
    job.tile_panels = pieces(tile_rows(job), F::block_rows);
    // A part's copy of A fits in the third-level cache.
    const std::int64_t row_bytes = round_up(job.k, F::depth) * static_cast<std::int64_t>(sizeof(Operand));
    const std::int64_t part_rows = max_of(max_tile_rows, packed_bytes / row_bytes / F::block_rows * F::block_rows);
    const std::int64_t part_m = min_of(job.m, part_rows);
    const std::int64_t part_blocks = max_of(1, packed_bytes * job.k / (row_bytes * part_m * job.block));
    const std::int64_t part_k = part_blocks * job.block;
    Workspace workspace;
    job.packed_a = workspace.take_array<Operand>(part_m * round_up(min_of(part_k, job.k), F::depth));
    if (part_k < job.k && !std::is_same_v<typename F::Out, Sum>) {
        const std::int64_t column_tiles =
            pieces(job.n, job.tile_columns) + pieces(pieces(part_m, F::block_rows), panels_across(job));
        job.carry = workspace.take_array<Sum>(part_m * column_tiles * widest_tile(job));
    }
    for (job.i0 = 0; job.i0 < job.m; job.i0 += part_m) {
        job.i1 = min_of(job.m, job.i0 + part_m);
        for (job.k0 = 0; job.k0 < job.k; job.k0 += part_k) {
            job.k1 = min_of(job.k, job.k0 + part_k);
            job.blocks = pieces(job.k1 - job.k0, job.block);
            run_part(job);
        }
    }
}

// All of C and of k are one part until a run says otherwise.
template <class F>
void begin(Job<F>& job) {
    job.blocks = 1;
    job.i0 = job.k0 = 0;
    job.i1 = job.m;
    job.k1 = job.k;
    job.packed_a = nullptr;
    job.a_stride = job.lda;
    job.carry = nullptr;
}

// No terms: C = beta·D.
template <class F>
void run_empty(const Job<F>& job) {
    constexpr std::int64_t width = vector_width<F>;
    for (std::int64_t i = 0; i < job.m; ++i) {
        for (std::int64_t j = 0; j < job.n; j += width) {
            const int count = static_cast<int>(min_of(width, job.n - j));
            auto x = zero<typename F::Sum>();
            if (job.beta != 0) x = mul(splat(job.beta), load_part(job.d + i * job.ldd + j, count));
            store_part(job.c + i * job.ldc + j, x, count);
        }
    }
}

template <class F>
void run(Job<F>& job) {
    if (job.m == 0 || job.n == 0) return;
    if (job.k == 0) return run_empty(job);
    if (job.n <= vector_width<F> && job.m <= tiny_size && job.k <= tiny_size) {
        return job.b_is_a_transposed ? tiny_gram(job) : job.symmetric ? tiny_symmetric(job) : tiny_product(job);
    }
    begin(job);
    if constexpr (!reads_rows<F>) {
        run_in_tile_registers(job);
    } else {
        job.k <= row_entries || reads_in_place(job) ? run_in_rows(job) : run_in_panels(job);
    }
}

template <class F>
void product(std::int64_t m, std::int64_t n, std::int64_t k, typename F::Sum alpha, const typename F::Store* a,
             std::int64_t lda, const typename F::Store* b, std::int64_t ldb, typename F::Sum beta,
             const typename F::Store* d, std::int64_t ldd, typename F::Store* c, std::int64_t ldc) {
    Job<F> job(m, n, k, alpha, a, lda, b, ldb, beta, d, ldd, c, ldc);
    run(job);
}

template <class F>
void gram_onto(std::int64_t m, std::int64_t k, typename F::Sum alpha, const typename F::Store* x, std::int64_t ldx,
               typename F::Sum beta, typename F::Out* c, std::int64_t ldc) {
    if constexpr (std::is_same_v<typename F::Out, double>) {
        NarrowJob<F> narrow{m, k, x, ldx, false, nullptr};
        if (narrow.pays()) return run_narrow(narrow, alpha, beta, c, ldc);
    }
    Job<F> job(m, m, k, alpha, x, ldx, x, ldx, beta, c, ldc, c, ldc);
    job.symmetric = job.b_is_a_transposed = true;
    run(job);
}

template <class F>
void gram(std::int64_t m, std::int64_t k, typename F::Sum alpha, const typename F::Store* x, std::int64_t ldx,
          typename F::Out* c, std::int64_t ldc) {
    gram_onto<F>(m, k, alpha, x, ldx, 0, c, ldc);
}

template <class F>
void columns_onto(std::int64_t n, std::int64_t k, const typename F::Store* x, std::int64_t ldx,
                  const typename F::Sum* weights, typename F::Out* c, std::int64_t ldc) {
    if (n == 0 || k == 0) return;
    NarrowJob<F> narrow{n, k, x, ldx, true, weights};
    if (narrow.pays()) return run_narrow(narrow, 1, 1, c, ldc);
    Job<F> job(n, n, k, 1, x, ldx, x, ldx, 1, c, ldc, c, ldc);
    job.symmetric = job.a_is_b_transposed = true;
    job.weights = weights;
    begin(job);
    run_in_panels(job);
}

template <class F>
void symmetric(std::int64_t m, typename F::Sum alpha, const typename F::Store* a, std::int64_t lda,
               const typename F::Store* b, std::int64_t ldb, typename F::Sum beta, const typename F::Store* d,
               std::int64_t ldd, typename F::Store* c, std::int64_t ldc) {
    Job<F> job(m, m, m, alpha, a, lda, b, ldb, beta, d, ldd, c, ldc);
    job.symmetric = true;
    run(job);
}

}  // namespace

extern const GemmTable gemm_table;
const GemmTable gemm_table{{product<Plain<double>>, gram<Plain<double>>, symmetric<Plain<double>>},
                           {product<Plain<float>>, gram<Plain<float>>, symmetric<Plain<float>>},
                           {product<Bf16>, gram<Bf16>, symmetric<Bf16>},
                           gram_onto<Plain<double>>,
                           gram_onto<Widened>,
                           columns_onto<Plain<double>>,
                           columns_onto<Widened>,
                           narrow_gram<Plain<double>>};

RAPHSON_ISA_END
