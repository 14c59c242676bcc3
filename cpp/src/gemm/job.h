// One call's arguments, and how its work is cut: into parts that are under way one after the other, tiles of C that are
// the tasks, and panels of rows. Which terms of a sum go together follows from the shape alone, so the threads, which have
// a say in how tall tiles are, change no bit.
#pragma once

#include <numeric>

#include "format.h"

RAPHSON_ISA_BEGIN

constexpr std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
constexpr std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
constexpr std::int64_t pieces(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }
constexpr std::int64_t round_up(std::int64_t n, std::int64_t to) { return pieces(n, to) * to; }
// n cut evenly into as few pieces as `most` allows, rounded up to a multiple of `unit`.
constexpr std::int64_t even_piece(std::int64_t n, std::int64_t most, std::int64_t unit) {
    return n <= most ? n : round_up(pieces(n, pieces(n, most)), unit);
}

// A task is a tile of C: it packs its own columns of B, one block of k at a time, where its second-level cache keeps
// them. (B packed once for everybody would make a trip through the third level, where a core gets a quarter of the second
// level's bytes in a cycle.) A is read by row panels, the next of which streams in while one is used: small ones where
// they lie, or where they are widened from a copy in rows; others from panels that the threads pack together first.
constexpr std::int64_t in_place_bytes = 2048;   // from row to row of A, at most, for the kernels to read it in place
constexpr std::int64_t row_entries = 256;       // of k, at most, for a copy in rows
constexpr std::int64_t max_tile_rows = 512;     // where A lies in rows
constexpr std::int64_t max_tile_columns = 128;  // where A lies in rows
constexpr std::int64_t min_panel_rows = 128, max_panel_rows = 2048;  // of a tile where A lies in panels
// Entries of k in a block, at most, and what they are a multiple of unless they are all of k.
template <class F>
constexpr std::int64_t max_block = reads_rows<F> ? 512 * F::depth : 512;
template <class F>
constexpr std::int64_t block_unit = reads_rows<F> ? vector_width<F> * F::depth : F::depth;
#if defined(RAPHSON_SIMD_AVX512)
constexpr std::int64_t tile_bytes = std::int64_t{512} << 10;  // of packed B, where A lies in panels
#else
constexpr std::int64_t tile_bytes = std::int64_t{256} << 10;
#endif
// Where tile registers multiply: entries of k in a part, and packed B, all of the part's blocks of k.
constexpr std::int64_t deep_entries = 2048, deep_bytes = std::int64_t{1} << 20;
constexpr std::int64_t deep_serial_work = std::int64_t{1} << 25;  // multiply-adds: some 25 us
constexpr std::int64_t pack_rows_at_once = 32;
constexpr std::int64_t pack_panels_at_once = 4;
constexpr std::int64_t pack_steps_at_once = 64;  // of all panels, from rows of B
constexpr std::int64_t packed_bytes = std::int64_t{24} << 20;  // a copy of A, so that the third level keeps it
constexpr std::int64_t serial_work = 64 * 64 * 64;             // multiply-adds; up to here, one task
constexpr std::int64_t small_bytes = 16 << 10;                 // of packed B that a call keeps on its stack

// Rows from i0 to i1 in panels of nearly the same height, none above the format's, or in full ones and what is left.
struct Panels {
    std::int64_t i0 = 0, i1 = 0, count = 0, height = 0, taller = 0;  // the first `taller` have a row more

    Panels() = default;
    Panels(std::int64_t from, std::int64_t to, int most, bool even)
        : i0(from), i1(to), count(pieces(to - from, most)), height(to - from) {
        if (count == 1) return;  // a small matrix has no time for a division
        taller = even ? height % count : 0;
        height = even ? height / count : most;
    }
    std::int64_t start(std::int64_t p) const { return min_of(i1, i0 + p * height + min_of(p, taller)); }
    int rows(std::int64_t p) const { return static_cast<int>(min_of(i1 - start(p), height + (p < taller ? 1 : 0))); }
};
template <class F>
inline Panels panels_of(std::int64_t from, std::int64_t to) {
    return Panels(from, to, F::block_rows, reads_rows<F>);
}

template <class F>
struct Job {
    using Store = typename F::Store;
    using Out = typename F::Out;
    using Operand = typename F::Operand;
    using Sum = typename F::Sum;

    std::int64_t m, n, k;
    Sum alpha, beta;
    const Store* a;
    std::int64_t lda;
    const Store* b;
    std::int64_t ldb;
    const Out* d;
    std::int64_t ldd;
    Out* c;
    std::int64_t ldc;
    bool symmetric = false;
    bool b_is_a_transposed = false;
    bool a_is_b_transposed = false;  // A = Bᵀ diag(weights): only B is read
    const Sum* weights = nullptr;    // null: 1

    // The part of C and of k that is under way.
    std::int64_t i0, i1, k0, k1;
    std::int64_t block;  // entries of k in a block
    std::int64_t blocks;
    Panels panels;  // of its rows
    bool packs_panels;
    Operand* packed_a;  // panels, or rows a_stride apart, by blocks of k; null: A is read where it is
    std::int64_t a_stride;
    std::int64_t tile_panels, tile_columns;  // at most; the columns a multiple of panel_width
    // Sums between parts of k where C cannot hold them, tile by tile; null where one part is all of k.
    Sum* carry;

    Job(std::int64_t m_, std::int64_t n_, std::int64_t k_, Sum alpha_, const Store* a_, std::int64_t lda_,
        const Store* b_, std::int64_t ldb_, Sum beta_, const Out* d_, std::int64_t ldd_, Out* c_, std::int64_t ldc_)
        : m(m_), n(n_), k(k_), alpha(alpha_), beta(beta_), a(a_), lda(lda_), b(b_), ldb(ldb_), d(d_), ldd(ldd_), c(c_),
          ldc(ldc_) {}

    std::int64_t block_entries(std::int64_t q) const { return min_of(block, k1 - k0 - q * block); }
    std::int64_t steps(std::int64_t q) const { return pieces(block_entries(q), F::depth); }
    std::int64_t panel_operands() const { return pieces(block, F::depth) * panel_step<F>; }
};

// So many row panels are as wide as some register blocks of C.
template <class F>
constexpr std::int64_t panel_unit = panel_width<F> / std::gcd(panel_width<F>, F::block_rows);
// Row panels that a column tile at the diagonal is wide.
template <class F>
inline std::int64_t panels_across(const Job<F>& job) {
    return max_of(1, job.tile_columns / F::block_rows / panel_unit<F>) * panel_unit<F>;
}
// What no column tile is wider than, padded to register blocks.
template <class F>
inline std::int64_t widest_tile(const Job<F>& job) {
    return max_of(job.tile_columns, panels_across(job) * F::block_rows);
}

struct Tile {
    Panels panels;  // of its rows, of which p0 … p1-1 belong to it
    std::int64_t p0 = 0, p1 = 0, j0 = 0, j1 = 0;
    std::int64_t column_tile = 0;
};

// The tiles of the part under way in a fixed order: column tiles from the left, each from the top down. Of a symmetric
// result the rows from the diagonal on, so that the larger tiles come first and the threads end together. Gives the number
// of tiles and the one asked for. Packed panels lie where they lie: columns at the diagonal are cut where one begins.
template <class F>
inline std::int64_t tiles(const Job<F>& job, std::int64_t wanted, Tile* tile) {
    const std::int64_t whole = job.symmetric ? job.i0 : job.n;  // columns that all rows of the part have
    const std::int64_t end = job.symmetric ? job.i1 : job.n;
    std::int64_t count = 0, top = 0;
    Tile at;
    for (; at.j0 < end; at.j0 = at.j1, ++at.column_tile) {
        at.j1 = min_of(at.j0 < whole ? whole : end, at.j0 + job.tile_columns);
        at.panels = job.panels;
        const std::int64_t first = top;
        if (at.j0 >= whole && job.packs_panels) {
            top = min_of(at.panels.count, top + panels_across(job));
            at.j1 = at.panels.start(top);
        } else if (at.j0 >= whole) {
            at.panels = panels_of<F>(at.j0, job.i1);
        }
        // The diagonal's block is one tile's: its register blocks reach over the diagonal, and it is mirrored at once.
        const std::int64_t high = max_of(top - first, even_piece(at.panels.count - first, job.tile_panels, 1));
        const std::int64_t here = pieces(at.panels.count - first, high);
        if (wanted >= count && wanted < count + here) {
            at.p0 = first + (wanted - count) * high;
            at.p1 = min_of(at.panels.count, at.p0 + high);
            *tile = at;
        }
        count += here;
    }
    return count;
}

RAPHSON_ISA_END
