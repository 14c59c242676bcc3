// The passes of sketches and sweeps on a CUDA device: what passes.h, dense_passes.h and sweep_passes.h do on the CPU, on
// dense rows that lie in the device's memory. float64 sums whatever the numbers' type; the order of additions depends on
// shapes and alignment alone, so that equal calls give equal bits. Nothing waits.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "raphson/view.h"
#include "sketch/device_rows.h"

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
// out (n × b.cols) = Sᵀ b of the first n columns; b has s.rows rows. Scratch: at least n × b.cols doubles.
void normal_adjoint(const NormalEntries& s, const DenseRows& b, int64_t n, const DenseResult& out, Scratch& scratch);

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
// out (n × b.cols) = Sᵀ b; picked: the host's copy. Reads b, s.rows rows, once for every 2,048 of out.
void hadamard_adjoint(const HadamardEntries& s, const int64_t* picked, const DenseRows& b, int64_t n, const DenseResult& out,
                      Scratch& scratch);

// v, out and totals on the device, too. One read of A up to 16,384 columns or so (what a block's shared memory holds of a
// row), two beyond.
void row_sweep(const DenseRows& a, const RowSweep& what, Scratch& scratch);

// out (p × p, p = a.cols + border) = [A 1]ᵀ diag(root²) [A 1], both triangles; root (a.rows) or null. p² flops a row as
// products of float64, and a float64 copy of A, a part at a time.
struct GramLimits {
    int64_t panel_rows = 2048;          // of one product, a multiple of 32
    int64_t panel_numbers = 1 << 25;    // of the copy: 256 MB
    int64_t result_numbers = 1 << 24;   // of sums that run side by side
};
void column_gram(const DenseRows& a, const double* root, int border, double* out, Scratch& scratch, const GramLimits& limits = {});
// out (p): its diagonal.
void column_squares(const DenseRows& a, const double* root, int border, double* out, Scratch& scratch);

// Sweeps of the multinomial family (ClassSweep, all of it on the device): products of float64, two reads of A; float32 rows
// are widened a part at a time.
struct ClassLimits {
    int64_t panel_rows = 2048;        // of a sum of the gradient, up to 64 classes
    int64_t part_numbers = 1 << 25;   // of the widened rows: 256 MB
};
void class_sweep(const DenseRows& a, const ClassSweep& what, Scratch& scratch, const ClassLimits& limits = {});
void class_means(const DenseRows& a, const ClassSweep& what, bool probabilities, Scratch& scratch, const ClassLimits& limits = {});
void class_line(const RowLine& what, int64_t n, int64_t k, double* totals, Scratch& scratch);
void class_roots(const double* weight, const double* probability, int64_t n, int64_t k, int64_t c, int64_t e, double* root,
                 CudaPlace place);

}  // namespace raphson::cuda
