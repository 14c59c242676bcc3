// The passes of sketches: rows of a tall matrix added, with signs, to the rows of its sketch.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {


// Where a row of A goes: row `target` of the sketch, times ±1; the sign is the lowest bit (1: minus).
constexpr std::uint32_t sketch_place(std::uint32_t row, bool negative) { return row << 1 | (negative ? 1u : 0u); }

struct ScatterTile {
    DType type;  // of A: float64 or float32
    const void* a;  // first row, first column of the tile
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t columns;
    const std::uint32_t* place;  // rows × nnz
    int nnz;
    const double* weights;  // rows, or null
    double scale;
    double* sums;  // sketch rows × columns, leading dimension sums_stride: += scale·weight·(±row)
    std::int64_t sums_stride;
};

struct GatherTile {  // the adjoint: rows of B, the sketch's side, added up for every row of A's side
    DType type;
    const void* b;
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t columns;
    const std::uint32_t* place;
    int nnz;
    double scale;
    void* out;  // rows × columns
    std::int64_t out_stride;
};

struct RowSum {  // rows of A that meet in one row of the sketch
    DType type;
    const void* a;
    std::int64_t stride;
    std::int64_t columns;
    const std::int64_t* row;
    const double* factor;
    std::int64_t count;
    double* sum;  // columns: += Σ factor·row
};

struct SketchTable {
    // place (n × nnz): entry k of column first + i lies in band k of the sketch's rows, by Philox at (first + i, k / 4).
    void (*places)(std::uint64_t seed, std::uint32_t stream, std::int64_t first, std::int64_t n, std::int64_t rows, int nnz,
                   std::uint32_t* place);
    void (*scatter)(const ScatterTile& tile);
    void (*gather)(const GatherTile& tile);
    void (*add_rows)(const RowSum& sum);
};

}  // namespace raphson
