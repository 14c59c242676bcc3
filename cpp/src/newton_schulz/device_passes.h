// The passes of the matrix iterations on a CUDA device: the function list of passes.h for batches, with the norms left on
// the device, so that nothing waits for them.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "newton_schulz/orthogonalize.h"

namespace raphson::cuda {

// The matrices of an array, the wide way round; leading axes that step evenly are one.
struct DeviceBatch {
    static constexpr int most_axes = 6;

    char* data;
    DType dtype;
    int64_t rows, cols, row_stride, col_stride;  // strides in elements
    int axes;
    int64_t shape[most_axes], strides[most_axes];
    int64_t count;

    // std::invalid_argument for more than six leading axes that cannot be joined.
    DeviceBatch(const BatchRef& x, bool transposed, const char* function = "orthogonalize");
    __host__ __device__ char* matrix(int64_t index) const {
        int64_t offset = 0;
        for (int i = axes - 1; i >= 0; --i) {
            offset += index % shape[i] * strides[i];
            index /= shape[i];
        }
        return data + offset * itemsize(dtype);
    }
};

// A batch of contiguous matrices of the iteration: `ld` elements from row to row, `step` from matrix to matrix.
struct Working {
    void* data;
    DType type;
    int64_t rows, cols, ld, step, count;

    Working part(int64_t first, int64_t matrices) const {
        return {static_cast<char*>(data) + first * step * itemsize(type), type, rows, cols, ld, step, matrices};
    }
};

// What a matrix is divided by, and what it held.
struct DeviceNorm {
    double inverse_unit, scale;  // x · inverse_unit · scale is the normalised matrix; 0 for a zero matrix
    double sum_squares;          // in units of 1/inverse_unit²; NaN or Inf if any entry is
};

// norms[i] of matrix first + i: scale = 1 / max(factor·‖x‖_F, eps·max|x|). Two kernels, in a fixed order of additions.
void scan(const DeviceBatch& x, int64_t first, int64_t count, double factor, double eps, DeviceNorm* norms, Scratch& scratch);
// to ← (x · inverse_unit) · scale of the matrices from `first` on, multiplied in float64 and rounded (to 16 bits by way of float32).
void load(const DeviceBatch& x, int64_t first, const DeviceNorm* norms, const Working& to, CudaPlace place);
// out ← from, rounded where out is narrower; the matrices of `out` from `first` on.
void store(const Working& from, const DeviceBatch& out, int64_t first, CudaPlace place);
// The factors of `gram` (one number for all rows) or `aol` normalisation from the Gram matrices a, then x ← diag(f)·x and
// a ← diag(f)·a·diag(f).
void rescale(const Working& x, const Working& a, bool aol, double norm_factor, double eps, Scratch& scratch);
// to ← from + diagonal·I, square.
void add_diagonal(const Working& from, double diagonal, const Working& to, CudaPlace place);

// All of orthogonalize in one launch, a block of threads for each matrix; false, and nothing done, where the plan, the
// types or the size do not fit: 16-bit arithmetic, standard method, Frobenius norm, up to 128 rows and what shared memory
// holds of columns (about 500).
bool resident(const DeviceBatch& x, const DeviceBatch& out, const OrthogonalizePlan& plan, double eps, CudaPlace place);

}  // namespace raphson::cuda
