// The passes of the matrix iterations on a CUDA device: the function list of passes.h for batches, with the norms left on
// the device, so that nothing waits for them.
#pragma once

#include <cstdint>
#include <vector>

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
    __host__ __device__ char* matrix(int64_t index) const { return data + offset(index); }
    __host__ __device__ int64_t offset(int64_t index) const {  // in bytes
        int64_t elements = 0;
        for (int i = axes - 1; i >= 0; --i) {
            elements += index % shape[i] * strides[i];
            index /= shape[i];
        }
        return elements * itemsize(dtype);
    }
    // Whether all but `data` is the same.
    bool lies_as(const DeviceBatch& other) const;
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

// Matrices iterated at once take no more scratch than this, a single one aside.
constexpr int64_t scratch_bytes = int64_t{4} << 30;

constexpr int64_t padded(int64_t n) { return ceil_div(n, 8) * 8; }  // 16 bytes of 16-bit numbers: what wgmma's loads ask for
Working take_padded(Scratch& scratch, DType type, int64_t rows, int64_t cols, int64_t count);

// d ← alpha·a·b + beta·c, or of bᵀ; c null: none. `symmetric`: a·bᵀ is symmetric by what it is, and d overlaps nothing;
// else c may be d.
enum class Right { as_is, transposed, symmetric };
void multiply(double alpha, const Working& a, const Working& b, Right right, double beta, const Working* c, const Working& d,
              CudaPlace place);

// What a matrix is divided by, and what it held.
struct DeviceNorm {
    double inverse_unit, scale;  // x · inverse_unit · scale is the normalised matrix; 0 for a zero matrix
    double sum_squares;          // in units of 1/inverse_unit²; NaN or Inf if any entry is
    double max_abs = 0;          // NaN or Inf if any entry is
    bool floored = false;        // eps·max|x| is what it is divided by
};

#if defined(__CUDACC__) || defined(RAPHSON_CUDA_EMULATION)
// m·2^exponent as two factors that stay within float64 wherever their product with the data does.
__device__ __forceinline__ DeviceNorm as_factors(double mantissa, int exponent) {
    exponent = exponent < 2040 ? exponent : 2040;  // beyond, infinite in any case, but 0 stays 0
    return {ldexp(mantissa, exponent / 2), ldexp(1.0, exponent - exponent / 2), 0, 0, false};
}
#endif

// norms[i] of matrix first + i: scale = 1 / max(factor·‖x‖_F, eps·max|x|). Two kernels, in a fixed order of additions.
void scan(const DeviceBatch& x, int64_t first, int64_t count, double factor, double eps, DeviceNorm* norms, Scratch& scratch);
// The norms of all matrices, on the host: whoever looks for NaN and Inf. Waits.
std::vector<DeviceNorm> read_norms(const DeviceBatch& x, const char* name, CudaPlace place);
// to ← (x · inverse_unit) · scale of the matrices from `first` on, multiplied in float64 and rounded (to 16 bits by way of float32).
void load(const DeviceBatch& x, int64_t first, const DeviceNorm* norms, const Working& to, CudaPlace place);
// out ← from, rounded where out is narrower; the matrices of `out` from `first` on.
void store(const Working& from, const DeviceBatch& out, int64_t first, CudaPlace place);
// The same of from · inverse_unit · scale, multiplied in float64; zeros where inverse_unit is 0. `from` is float64 or float32.
void store_scaled(const Working& from, const DeviceNorm* by, const DeviceBatch& out, int64_t first, CudaPlace place);
// The numbers of a normalisation by the Gram matrices a, one for every row of every matrix: Σ|a| and Σa² of the row, and what
// X's row is multiplied by (`gram`: one number for all rows).
struct RowScales {
    double *sums, *squares, *factors;
};
RowScales row_scales(const Working& a, bool aol, double norm_factor, double eps, Scratch& scratch);
// x ← diag(f)·x, or `cols_too` diag(f)·x·diag(f).
void scale_rows(const Working& x, const double* factors, bool cols_too, CudaPlace place);
// Both: x ← diag(f)·x and a ← diag(f)·a·diag(f).
void rescale(const Working& x, const Working& a, bool aol, double norm_factor, double eps, Scratch& scratch);
// to ← from + diagonal·I, square.
void add_diagonal(const Working& from, double diagonal, const Working& to, CudaPlace place);

}  // namespace raphson::cuda
