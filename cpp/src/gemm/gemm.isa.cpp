// The products: how they are cut into tiles and blocks of k, what is packed, and the table of entry points.
//
// Sums stay apart from C until the last block of k: alpha, beta and the rounding to bfloat16 happen once, and C and D
// are touched once, so D may be C.
#include "table.h"

#include "common/threads.h"
#include "common/workspace.h"
#include "kernel.h"
#include "pack.h"

RAPHSON_ISA_BEGIN
namespace {

constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
constexpr std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
constexpr std::int64_t pieces(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return pieces(n, to) * to; }
// n cut evenly into as few pieces as `most` allows, rounded up to a multiple of `unit`.
constexpr std::int64_t even_piece(std::int64_t n, std::int64_t most, std::int64_t unit) {
    return n <= most ? n : round_up(pieces(n, pieces(n, most)), unit);
}

// Sizes. A block of k is as long as lets a row panel of A and a panel of B stream through the first-level cache; a
// tile's share of A, B and sums stays in half a megabyte of the second level; what is packed at a time, in the third.
template <class F>
constexpr std::int64_t max_steps = sizeof(typename F::Sum) == 4 ? 384 : 256;
template <class F>
constexpr std::int64_t tile_rows = 128;
template <class F>
constexpr std::int64_t tile_columns = 4 * panel_width<F>;
constexpr std::int64_t strip_rows = 256;  // up to here a task is a panel of B and all rows of A
constexpr std::int64_t pack_rows_at_once = 32;
constexpr std::int64_t pack_panels_at_once = 4;
constexpr std::int64_t packed_bytes = std::int64_t{24} << 20;
constexpr std::int64_t serial_work = 64 * 64 * 64;  // multiply-adds; below, one task

template <class F>
struct Job {
    using Store = typename F::Store;
    using Operand = typename F::Operand;
    using Sum = typename F::Sum;

    std::int64_t m, n, k;
    Sum alpha, beta;
    const Store* a;
    std::int64_t lda;
    const Store* b;
    std::int64_t ldb;
    bool b_is_a_transposed;
    const Store* d;
    std::int64_t ldd;
    Store* c;
    std::int64_t ldc;
    bool symmetric;

    // The part of C and of k that is packed and multiplied at a time.
    std::int64_t i0, i1, j0, j1, k0, k1;
    std::int64_t block;  // entries of k in a block
    Operand* packed_a;   // by blocks of k, rows a_stride apart; null: A is read where it is
    std::int64_t a_stride;
    Operand* packed_b;  // by blocks of k, then panels
    Sum* carry;         // sums between parts of k; null where one part is all of it
    std::int64_t rows, columns;
    std::int64_t row_tiles, column_tiles;
    std::int64_t a_tasks, b_tasks;

    std::int64_t blocks() const { return max_of(1, pieces(k1 - k0, block)); }
    std::int64_t block_entries(std::int64_t q) const { return min_of(block, k1 - k0 - q * block); }
    std::int64_t steps(std::int64_t q) const { return pieces(block_entries(q), F::depth); }
    std::int64_t padded_columns() const { return round_up(j1 - j0, panel_width<F>); }
    Operand* a_block(std::int64_t q) const { return packed_a + q * (i1 - i0) * a_stride; }
    // The first of block q's panels; column j's panel lies j·steps·depth further.
    Operand* b_block(std::int64_t q) const { return packed_b + q * pieces(block, F::depth) * F::depth * padded_columns(); }

    // All but rows, columns and k.
    Block<F> block_at(std::int64_t i, std::int64_t j, std::int64_t width) const {
        Block<F> t;
        t.alpha = alpha;
        t.beta = beta;
        t.d = beta == 0 ? nullptr : d + i * ldd + j;
        t.d_stride = ldd;
        t.c = c + i * ldc + j;
        t.c_stride = ldc;
        t.columns = static_cast<int>(width);
        return t;
    }
};

template <class F>
void pack_b_panels(const Job<F>& job, std::int64_t q, std::int64_t j, std::int64_t columns, typename F::Operand* out) {
    const std::int64_t p = job.k0 + q * job.block;
    if (job.b_is_a_transposed) {
        pack_transposed<F>(job.b + j * job.ldb + p, job.ldb, job.block_entries(q), columns, out);
    } else {
        pack_columns<F>(job.b + p * job.ldb + j, job.ldb, job.block_entries(q), columns, out);
    }
}

template <class F>
void pack_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    if (task < job.a_tasks) {
        const std::int64_t i = job.i0 + task * pack_rows_at_once;
        const std::int64_t rows = min_of(pack_rows_at_once, job.i1 - i);
        for (std::int64_t q = 0; q < job.blocks(); ++q) {
            pack_rows<F>(job.a + i * job.lda + job.k0 + q * job.block, job.lda, rows, job.block_entries(q),
                         job.a_block(q) + (i - job.i0) * job.a_stride, job.a_stride);
        }
        return;
    }
    const std::int64_t q = (task - job.a_tasks) % job.blocks(), group = (task - job.a_tasks) / job.blocks();
    const std::int64_t j = group * pack_panels_at_once * panel_width<F>;
    const std::int64_t columns = min_of(pack_panels_at_once * panel_width<F>, job.j1 - job.j0 - j);
    pack_b_panels(job, q, job.j0 + j, columns, job.b_block(q) + j * job.steps(q) * F::depth);
}

// Rows i0 … i1-1 in panels of nearly the same height, none above block_rows.
struct RowPanels {
    std::int64_t i, count, height, taller;

    RowPanels(std::int64_t i0, std::int64_t i1)
        : i(i0), count(pieces(i1 - i0, block_rows)), height((i1 - i0) / count), taller((i1 - i0) % count) {}
    int next() {
        const int rows = static_cast<int>(height + (taller > 0 ? 1 : 0));
        --taller;
        --count;
        return rows;
    }
};

template <class F>
const typename F::Operand* a_rows(const Job<F>& job, std::int64_t q, std::int64_t i, std::int64_t* stride) {
    if constexpr (std::is_same_v<typename F::Operand, typename F::Store>) {
        if (job.packed_a == nullptr) {
            *stride = job.lda;
            return job.a + i * job.lda + job.k0 + q * job.block;
        }
    }
    *stride = job.a_stride;
    return job.a_block(q) + (i - job.i0) * job.a_stride;
}

// Whole columns: packs panels of B, one block of k in all, and runs every row of C that they have.
template <class F>
void strip_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    alignas(64) typename F::Operand panel[max_steps<F> * panel_step<F>];
    const std::int64_t last = min_of(job.j1, job.j0 + (task + 1) * job.columns);
    for (std::int64_t j = job.j0 + task * job.columns; j < last; j += panel_width<F>) {
        const std::int64_t width = min_of(panel_width<F>, last - j);
        const std::int64_t top = job.symmetric ? j : job.i0;
        pack_b_panels(job, 0, j, width, panel);
        for (RowPanels p(top, job.i1); p.count > 0;) {
            const int rows = p.next();
            const std::int64_t needed = job.symmetric ? min_of(width, p.i + rows - j) : width;
            const int vectors = needed > vector_width<F> ? 2 : 1;
            Block<F> t = job.block_at(p.i, j, min_of(width, vectors * vector_width<F>));
            t.steps = job.steps(0);
            t.a = a_rows(job, 0, p.i, &t.a_stride);
            t.b = panel;
            t.sums = nullptr;
            t.first = t.last = true;
            pick_block<F>(rows, vectors)(t);
            p.i += rows;
        }
        if (job.symmetric) {
            mirror<F>(job.c, job.ldc, j, j + width, j, j + width);
            mirror<F>(job.c, job.ldc, j + width, job.i1, j, j + width);
        }
    }
}

// A tile of C, from packed panels of B.
template <class F>
void tile_task(void* context, std::int64_t task) {
    const Job<F>& job = *static_cast<const Job<F>*>(context);
    alignas(64) typename F::Sum local[tile_rows<F> * tile_columns<F>];
    std::int64_t row_tile = task % job.row_tiles, column_tile = task / job.row_tiles;
    if (job.symmetric && job.i0 == job.j0) {
        row_tile = task;
        for (column_tile = 0; row_tile >= job.row_tiles - column_tile; ++column_tile) row_tile -= job.row_tiles - column_tile;
        row_tile += column_tile;
    }
    const std::int64_t i0 = job.i0 + row_tile * job.rows, i1 = min_of(job.i1, i0 + job.rows);
    const std::int64_t j0 = job.j0 + column_tile * job.columns, j1 = min_of(job.j1, j0 + job.columns);
    const std::int64_t padded = round_up(j1 - j0, panel_width<F>);
    typename F::Sum* sums =
        job.carry == nullptr ? local : job.carry + (i0 - job.i0) * job.padded_columns() + (i1 - i0) * (j0 - job.j0);
    for (std::int64_t q = 0; q < job.blocks(); ++q) {
        const typename F::Operand* b = job.b_block(q) + (j0 - job.j0) * job.steps(q) * F::depth;
        for (RowPanels p(i0, i1); p.count > 0;) {
            const int rows = p.next();
            const std::int64_t end = job.symmetric ? min_of(j1, p.i + rows) : j1;
            std::int64_t stride;
            const typename F::Operand* a = a_rows(job, q, p.i, &stride);
            for (std::int64_t j = j0; j < end; j += panel_width<F>) {
                const int vectors = end - j > vector_width<F> ? 2 : 1;
                Block<F> t = job.block_at(p.i, j, min_of(j1 - j, vectors * vector_width<F>));
                t.steps = job.steps(q);
                t.a = a;
                t.a_stride = stride;
                t.b = b + (j - j0) * job.steps(q) * F::depth;
                t.sums = sums + (p.i - i0) * padded + rows * (j - j0);
                t.first = q == 0 && job.k0 == 0;
                t.last = q == job.blocks() - 1 && job.k1 == job.k;
                pick_block<F>(rows, vectors)(t);
            }
            p.i += rows;
        }
    }
    if (job.symmetric && job.k1 == job.k) mirror<F>(job.c, job.ldc, i0, i1, j0, j1);
}

// Whether the kernels may read A in place: a row panel must fit in the first-level cache next to B's panel, however its
// rows fall into the sets, so rows must be short and follow each other closely.
template <class F>
bool reads_in_place(const Job<F>& job) {
    return std::is_same_v<typename F::Operand, typename F::Store> && job.k % F::depth == 0 &&
           job.k <= max_steps<F> * F::depth && job.lda * static_cast<std::int64_t>(sizeof(typename F::Store)) <= 2048;
}

template <class F>
void run_strips(Job<F>& job) {
    job.i0 = job.j0 = job.k0 = 0;
    job.i1 = job.m;
    job.j1 = job.n;
    job.k1 = job.k;
    job.block = max_of(job.k, 1);
    job.columns = job.m * job.n * job.k <= serial_work ? job.n : panel_width<F>;
    job.packed_a = nullptr;
    const std::int64_t tasks = pieces(job.n, job.columns);
    if (reads_in_place(job)) return tasks == 1 ? strip_task<F>(&job, 0) : parallel_for(tasks, strip_task<F>, &job);
    Workspace workspace;
    job.a_stride = round_up(job.k, vector_width<F> * F::depth);
    job.packed_a = static_cast<typename F::Operand*>(
        workspace.take(static_cast<std::size_t>(job.m * job.a_stride) * sizeof(typename F::Operand)));
    job.a_tasks = pieces(job.m, pack_rows_at_once);
    parallel_for(job.a_tasks, pack_task<F>, &job);
    parallel_for(tasks, strip_task<F>, &job);
}

template <class F>
void run_part(Job<F>& job, bool pack_a) {
    constexpr std::int64_t chunk = vector_width<F> * F::depth;
    const std::int64_t m = job.i1 - job.i0, n = job.j1 - job.j0;
    job.row_tiles = pieces(m, job.rows);
    job.column_tiles = pieces(n, job.columns);
    // An odd number of cache lines from row to row spreads a panel of rows over all sets of the cache.
    job.a_stride = (pieces(job.block, chunk) | 1) * chunk;
    job.a_tasks = pack_a ? pieces(m, pack_rows_at_once) : 0;
    job.b_tasks = pieces(n, pack_panels_at_once * panel_width<F>) * job.blocks();
    parallel_for(job.a_tasks + job.b_tasks, pack_task<F>, &job);
    const bool triangle = job.symmetric && job.i0 == job.j0;
    const std::int64_t tasks = triangle ? job.row_tiles * (job.row_tiles + 1) / 2 : job.row_tiles * job.column_tiles;
    parallel_for(tasks, tile_task<F>, &job);
}

template <class F>
void run_tiles(Job<F>& job) {
    using Operand = typename F::Operand;
    constexpr std::int64_t chunk = vector_width<F> * F::depth;
    job.columns = min_of(tile_columns<F>, round_up(job.n, panel_width<F>));
    job.rows = job.symmetric ? job.columns : even_piece(job.m, tile_rows<F>, 1);

    // Parts: everything at once if it fits, else at most 1024 rows and columns and as much of k as then fits.
    std::int64_t part_m = job.m, part_n = job.n, part_k = job.k;
    const std::int64_t entry = sizeof(Operand);
    if ((job.m + job.n) * job.k * entry > packed_bytes) {
        const std::int64_t side = 1024;
        part_k = min_of(job.k, round_up(packed_bytes / (2 * side * entry), chunk));
        const std::int64_t room = packed_bytes / (part_k * entry);  // rows and columns together
        part_m = min_of(job.m, max_of(side, room - min_of(job.n, side)));
        part_n = min_of(job.n, max_of(side, room - part_m));
        if (job.symmetric) part_m = part_n = side;
        part_m = job.symmetric ? side : even_piece(job.m, part_m, job.rows);
        part_n = job.symmetric ? side : even_piece(job.n, part_n, job.columns);
        part_k = even_piece(job.k, part_k, chunk);
    }
    job.block = max_of(1, even_piece(part_k, max_steps<F> * F::depth, chunk));
    part_k = max_of(1, part_k);

    const std::int64_t blocks = pieces(part_k, job.block);
    const std::int64_t a_size = min_of(part_m, job.m) * (pieces(job.block, chunk) | 1) * chunk * blocks;
    const std::int64_t b_size = round_up(min_of(part_n, job.n), panel_width<F>) * round_up(job.block, F::depth) * blocks;
    Workspace workspace;
    job.packed_a = static_cast<Operand*>(workspace.take(static_cast<std::size_t>(a_size) * sizeof(Operand)));
    job.packed_b = static_cast<Operand*>(workspace.take(static_cast<std::size_t>(b_size) * sizeof(Operand)));
    job.carry = nullptr;
    if (part_k < job.k) {
        const std::int64_t size = min_of(part_m, job.m) * round_up(min_of(part_n, job.n), panel_width<F>);
        job.carry = static_cast<typename F::Sum*>(workspace.take(static_cast<std::size_t>(size) * sizeof(typename F::Sum)));
    }
    for (job.i0 = 0; job.i0 < job.m; job.i0 += part_m) {
        job.i1 = min_of(job.m, job.i0 + part_m);
        for (job.j0 = 0; job.j0 < (job.symmetric ? job.i1 : job.n); job.j0 += part_n) {
            job.j1 = min_of(job.n, job.j0 + part_n);
            job.k0 = 0;
            do {
                job.k1 = min_of(job.k, job.k0 + part_k);
                run_part(job, job.j0 == 0 || part_k < job.k);
                job.k0 = job.k1;
            } while (job.k0 < job.k);
        }
    }
}

template <class F>
void run(Job<F>& job) {
    if (job.m == 0 || job.n == 0) return;
    if (job.k == 0) job.alpha = 0;
    if (job.m <= strip_rows && job.k <= max_steps<F> * F::depth) return run_strips(job);
    run_tiles(job);
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
