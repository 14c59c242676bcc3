// The passes of gradient windows on a CUDA device. Rows lie `stride` elements apart, every diagonal block of F from a
// multiple of row_alignment columns on and padded with zeros to the next, so that 16-byte loads never meet an end.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "ihvp/passes.h"
#include "ihvp/vector.h"

namespace raphson::cuda {

constexpr int64_t row_alignment(Stored type) { return type == Stored::int8 ? int8_block : 16; }

// A window's rows and how its columns are cut into diagonal blocks.
struct DeviceRows {
    Stored type;
    char* data;            // ring × stride elements
    float* scales;         // int8: ring × stride / int8_block
    double* row_scale;     // float16: ring, else all 1; null: 1
    int64_t stride, ring, dim;
    int64_t block, blocks;         // columns of a diagonal block (the last may be narrower), and how many
    int64_t block_stride;          // columns from block to block as stored
    int64_t head, count;           // the rows in time order: slot (head + t) mod ring
    bool padded = true;            // false: the caller's own rows, which begin and end anywhere

    __host__ __device__ int64_t slot(int64_t t) const { return head + t < ring ? head + t : head + t - ring; }
    __device__ double scale_of(int64_t at) const { return row_scale == nullptr ? 1 : row_scale[at]; }
    __host__ __device__ int64_t width(int64_t b) const { return b + 1 < blocks ? block : dim - b * block; }
};

// What a gradient was found to be.
struct DeviceScan {
    double row_scale;  // of the row it becomes
    int bad;           // NaN, Inf, or more than the row's type holds
};

// found ← a look at g (+ residual, where not null): one read.
void scan(const VectorRef& g, const float* residual, Stored type, DeviceScan* found, Scratch& scratch);
// The row in `slot` ← g rounded, zeros where found->bad; residual, where not null, ← what rounding took.
void store_row(const VectorRef& g, const DeviceScan* found, float* residual, const DeviceRows& rows, int64_t slot, CudaPlace place);
// sums[b·count + t] = ⟨row t, row `slot`⟩ over block b, or with x (of float64, laid out and padded like a row) ⟨row t, x⟩.
void products(const DeviceRows& rows, int64_t slot, const double* x, double* sums, Scratch& scratch);
// to (float64, laid out like a row) ← x; squares[b], where not null, ← Σx² of block b.
void spread(const VectorRef& x, const DeviceRows& rows, double* to, double* squares, CudaPlace place);
// out ← Σ coefficients[b·count + t]·row t + factor[0]·x (x null: without). The pass starts where the one before ended.
void combine(const DeviceRows& rows, const double* coefficients, const VectorRef* x, const double* factor, const VectorRef& out,
             CudaPlace place);

// ---- the core: float64, a block of threads for every diagonal block --------------------------------------------------------

// What the factor is of; in device memory, so that nobody waits for it.
struct DeviceCore {
    double lambda, shift;  // shift = scale·λ; 0: there is no factor
    int refactor;          // between the kernels of one call
};

struct CoreJob {
    double *gram, *factor;  // of every block ring × ring, by columns in a ring (passes.h)
    int64_t ring, head, count, blocks;
    double damping;  // λ, or relative: the multiple of trace / (scale · dim)
    bool relative;
    double scale, dim;
};

// The Gram matrix's newest row ← sums (blocks × count).
void append_gram(const CoreJob& job, const double* sums, CudaPlace place);
// Chooses λ; then the factor: updated by the row that came (sums) and the one that left (`drops`: its column is still at
// `old_head`), or made anew where it must. Without `wanted` it is rather dropped than made anew.
struct RowChange {
    const double* sums;
    bool drops;
    int64_t old_head;
};
void refresh_factor(const CoreJob& job, const RowChange* change, bool wanted, DeviceCore* core, CudaPlace place);
// y (sets × blocks × count) ← (L Lᵀ)⁻¹ y, or L⁻¹ y without `backward`: a block of threads for each.
void solve_core(const CoreJob& job, double* y, int64_t sets, bool backward, CudaPlace place);
// y (blocks × count) ← the coefficients of precondition: scale·(L Lᵀ)⁻¹ e, e the newest row; NaN where found->bad, zeros
// where there is no factor.
void newest_coefficients(const CoreJob& job, const DeviceCore* core, const DeviceScan* found, double* y, CudaPlace place);

// y (count numbers) ← y·by, or with a core −y/λ, and then inverse_lambda[0] ← 1/λ.
void scale_coefficients(double* y, int64_t count, double by, const DeviceCore* core, double* inverse_lambda, CudaPlace place);

// y (count × blocks × job.count) ← the columns first … first+count-1 of every block's Gram matrix.
void gram_columns(const CoreJob& job, int64_t first, int64_t count, double* y, CudaPlace place);
// out[i·count + j] ← by·Σ over blocks of y[i][b][j] + y[j][b][i], y of all columns.
void symmetric_sum(const CoreJob& job, const double* y, double by, double* out, CudaPlace place);
// *result ← log det F, by the factor.
void log_determinant(const CoreJob& job, const DeviceCore* core, double* result, CudaPlace place);

// The most rows whose vectors fit a block's shared memory.
int64_t most_rows(int device);

}  // namespace raphson::cuda
