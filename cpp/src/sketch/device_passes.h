// The passes of sketches and sweeps on a CUDA device: what passes.h, dense_passes.h and sweep_passes.h do on the CPU, on
// dense rows that lie in the device's memory. float64 sums whatever the numbers' type; the order of additions depends on
// shapes and alignment alone, so that equal calls give equal bits. Nothing waits.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "raphson/view.h"

namespace raphson::cuda {

// A row-major matrix of float64 or float32, `ld` numbers from row to row.
struct DenseRows {
    const void* data;
    DType type;
    int64_t rows, cols, ld;
};
struct DenseResult {  // its shape follows from the call
    void* data;
    DType type;
    int64_t ld;
};

// Columns first, first + 1, … of a SparseSign: nnz entries ±1/√nnz each (sketch.h), by Philox keyed with the seed.
struct SignEntries {
    std::uint64_t seed;
    std::uint32_t stream;
    int64_t rows;
    int nnz;
    int64_t first;
};
// place (n × nnz) as SketchTable::places gives it, bit for bit.
void sign_places(const SignEntries& s, int64_t n, std::uint32_t* place, CudaPlace place_of_work);
// out (s.rows × a.cols) = S diag(weights) A; weights (a.rows) or null. Overwrites. One read of A for every 2,048 rows of S,
// or nnz where that is fewer. Scratch: 2·nnz bytes for every row of A, s.rows · 4 for every 64 to 16,384 of them, and sums.
void sign_sketch(const SignEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch);
// out (n × b.cols) = Sᵀ b of the first n columns; b has s.rows rows.
void sign_adjoint(const SignEntries& s, const DenseRows& b, int64_t n, const DenseResult& out, CudaPlace place);

// Columns first, first + 1, … of a Gaussian: scale · N(0, 1), entry by entry as DenseSketchTable::normals.
struct NormalEntries {
    std::uint64_t seed;
    std::uint32_t stream;
    int64_t rows;
    int64_t first;
    double scale;
};
// out (s.rows × n, leading dimension ld) = S.
void normal_entries(const NormalEntries& s, int64_t n, double* out, int64_t ld, CudaPlace place);
// out (s.rows × a.cols) = S diag(weights) A, S made where it is used; weights (a.rows) or null. Overwrites.
void normal_sketch(const NormalEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch);

// An SRHT of the first columns: signs by Philox keyed with the seed, and the rows of H that were picked, on the device.
struct HadamardEntries {
    std::uint64_t seed;
    std::uint32_t stream;
    int64_t rows;
    const int64_t* picked;
    double scale;
};
// out (s.rows × a.cols) = S diag(weights) A; weights (a.rows) or null. Overwrites. One read of A; scratch: sums.
void hadamard_sketch(const HadamardEntries& s, const DenseRows& a, const double* weights, const DenseResult& out, Scratch& scratch);

// What a sweep makes of t = A v, row by row.
enum class RowLoss : std::uint8_t {
    none,      // u = weight · curvature · t: products with Aᵀ D A
    gaussian,  // loss ½ (m − y)² of the margin m = t + offset; u = weight · (derivative of the loss), here and below
    logistic,  // log(1 + eᵐ) − y m
    poisson,   // eᵐ − y m
};
struct RowSweep {
    RowLoss loss = RowLoss::none;
    const double* v = nullptr;          // a.cols numbers and, with a border, one that is added to every t
    int border = 0;                     // 1: as if A had a last column of ones
    const double* y = nullptr;          // a.rows each, as all below; y with a loss, the others or null
    const double* weight = nullptr;     // null: 1; rows of weight 0 add nothing, whatever they hold
    const double* offset = nullptr;     // null: 0
    const double* curvature = nullptr;  // `none` only; null: 1
    double* out = nullptr;              // Aᵀ u: a.cols + border numbers, overwritten
    double* totals = nullptr;           // with a loss, or null: Σ weight · loss, and how many rows of a positive weight do
                                        // not lie strictly on the side of their label 0 or 1 (other families: all)
    double* margin = nullptr;           // m (t for `none`), or null
    double* second = nullptr;           // the loss's second derivative by the margin, not weighted; or null
};
// One read of A up to 16,384 columns or so (what a block's shared memory holds of a row), two beyond.
void row_sweep(const DenseRows& a, const RowSweep& what, Scratch& scratch);

}  // namespace raphson::cuda
