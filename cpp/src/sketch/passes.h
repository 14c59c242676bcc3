// The passes of sketches: rows of a tall matrix added, with signs, to the rows of its sketch.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

constexpr std::int64_t sketch_tile = 64;  // columns that are sketched at a time: their accumulators stay in cache

// Where a row of A goes: row `target` of the sketch, times ±1; the sign is the lowest bit (1: minus).
constexpr std::uint32_t sketch_place(std::uint32_t row, bool negative) { return row << 1 | (negative ? 1u : 0u); }

struct ScatterTile {
    DType type;  // of A: float64 or float32
    const void* a;  // first row, first column of the tile
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t columns;        // ≤ sketch_tile
    const std::uint32_t* place;  // rows × nnz
    int nnz;
    const double* weights;  // rows, or null
    double scale;
    double* sums;  // sketch rows × sketch_tile: += scale·weight·(±row)
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

struct SketchTable {
    void (*scatter)(const ScatterTile& tile);
    void (*gather)(const GatherTile& tile);
};

}  // namespace raphson
