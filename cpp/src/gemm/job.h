// One call's arguments, and how its work is cut: into parts that are under way one after the other, tiles of C that are
// the tasks, and panels of rows. By shape alone.
#pragma once

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
// them, and reads A where it lies, or from a copy that the threads make together first. (B packed once for everybody
// would make a trip through the third level, where a core gets a quarter of the second level's bytes in a cycle.) A row
// panel of A streams in while the one before it is used.
template <class F>
constexpr std::int64_t max_steps = sizeof(typename F::Sum) == 4 ? 384 : 256;
constexpr std::int64_t in_place_bytes = 2048;  // from row to row of A, at most, for the kernels to read it in place
constexpr std::int64_t max_tile_rows = 512;
constexpr std::int64_t max_tile_columns = 128;
constexpr std::int64_t pack_rows_at_once = 32;
constexpr std::int64_t packed_bytes = std::int64_t{24} << 20;  // a copy of A, so that the third level keeps it
constexpr std::int64_t serial_work = 64 * 64 * 64;             // multiply-adds; up to here, one task
constexpr std::int64_t small_bytes = 16 << 10;                 // of packed B that a call keeps on its stack

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

    // The part of C and of k that is under way.
    std::int64_t i0, i1, j0, j1, k0, k1;
    std::int64_t block;       // entries of k in a block
    std::int64_t blocks;
    Operand* packed_a;        // by blocks of k, rows a_stride apart; null: A is read where it is
    std::int64_t a_stride;
    Sum* carry;  // sums between parts of k; null where one part is all of it
    std::int64_t rows, columns;  // of a tile, at most

    std::int64_t block_entries(std::int64_t q) const { return min_of(block, k1 - k0 - q * block); }
    std::int64_t steps(std::int64_t q) const { return pieces(block_entries(q), F::depth); }
    std::int64_t panel_operands() const { return pieces(block, F::depth) * panel_step<F>; }
};

struct Tile {
    std::int64_t i0 = 0, i1 = 0, j0 = 0, j1 = 0;
};

// The tiles of the part under way in a fixed order: column tiles from the left, each from the top down; of a symmetric
// result the rows from the diagonal on, so that the larger tiles come first and the threads end together. Gives the
// number of tiles and the one asked for.
template <class F>
inline std::int64_t tiles(const Job<F>& job, std::int64_t wanted, Tile* tile) {
    std::int64_t count = 0;
    for (std::int64_t j = job.j0; j < job.j1; j += job.columns) {
        const std::int64_t top = job.symmetric ? max_of(j, job.i0) : job.i0;
        const bool whole = job.i1 - top <= job.rows;
        const std::int64_t height = whole ? job.i1 - top : even_piece(job.i1 - top, job.rows, 1);
        const std::int64_t here = whole ? 1 : pieces(job.i1 - top, height);
        if (wanted >= count && wanted < count + here) {
            tile->i0 = top + (wanted - count) * height;
            tile->i1 = min_of(job.i1, tile->i0 + height);
            tile->j0 = j;
            tile->j1 = min_of(job.j1, j + job.columns);
        }
        count += here;
    }
    return count;
}

// Rows i0 … i1-1 in panels of nearly the same height, none above block_rows.
struct RowPanels {
    std::int64_t i, count, height, taller;

    RowPanels(std::int64_t i0, std::int64_t i1)
        : i(i0), count(pieces(i1 - i0, block_rows)), height(i1 - i0), taller(0) {
        if (count == 1) return;  // a small matrix has no time for a division
        taller = height % count;
        height /= count;
    }
    int rows() const { return static_cast<int>(height + (taller > 0 ? 1 : 0)); }
    void next() {
        i += rows();
        --taller;
        --count;
    }
};

RAPHSON_ISA_END
