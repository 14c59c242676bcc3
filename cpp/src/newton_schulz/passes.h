// The passes of the matrix iterations over the caller's arrays; the products between them are the gemm table's.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

// One matrix in the caller's memory; strides in elements, of any sign. The transpose is the same with the axes swapped.
struct MatrixRef {
    void* data;
    DType dtype;
    std::int64_t rows, cols;
    std::int64_t row_stride, col_stride;

    MatrixRef transposed() const { return {data, dtype, cols, rows, col_stride, row_stride}; }
};

struct MatrixScan {
    double max_abs;      // NaN or Inf if any entry is
    double sum_squares;  // of x / unit, in float64; NaN or Inf if any entry is
    double unit;         // a power of two: 1 unless squares of the entries would leave float64
};

struct NewtonSchulzTable {
    // One read. Where nothing can go wrong (float32, bfloat16, usual float64) `unit` is 1.
    MatrixScan (*scan)(const MatrixRef& x);
    // dst (rows×cols, `ld` numbers of type `to` from row to row) = (x·scale)·rescale, multiplied in float64, then rounded
    // (to bfloat16 by way of float32).
    void (*load)(const MatrixRef& x, double scale, double rescale, DType to, void* dst, std::int64_t ld);
    // out = src (rows×cols, `ld` numbers of type `from` from row to row), rounded where out is narrower.
    void (*store)(DType from, const void* src, std::int64_t ld, const MatrixRef& out);
    // Σⱼ|Aᵢⱼ| of every row of an m×m matrix, in float64; returns Σ Aᵢⱼ².
    double (*row_sums)(DType dtype, const void* a, std::int64_t m, std::int64_t ld, double* sums);
    // x (rows×cols) ← diag(row) x diag(col), col may be null; multiplied in float64 and rounded once.
    void (*scale)(DType dtype, void* x, std::int64_t rows, std::int64_t cols, std::int64_t ld, const double* row,
                  const double* col);
};

}  // namespace raphson
