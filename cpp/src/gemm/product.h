// Products of matrices on a CUDA device: batches of equal shape, row major, contiguous within a row.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "raphson/view.h"

namespace raphson::cuda {

// D = alpha·A·B + beta·C, every matrix of `type`, sums and scalars in float (double for float64). A is m×k, C and D are
// m×n, B is k×n or, b_transposed, n×k. D overlaps nothing, or is C where not `symmetric`. ld counts elements from row to
// row, step from matrix to matrix.
struct ProductJob {
    struct Operand {
        const void* data = nullptr;
        int64_t ld = 0, step = 0;
    };

    DType type = DType::float32;
    int64_t m = 0, n = 0, k = 0, batch = 1;
    double alpha = 1;
    Operand a, b;
    bool b_transposed = false;
    double beta = 0;
    Operand c;  // null data: none
    void* d = nullptr;
    int64_t ldd = 0, step_d = 0;
    bool symmetric = false;  // m = n, b_transposed, a result that is symmetric by what it is: one triangle is computed and mirrored
};

// Picks between the kernels below.
void product(const ProductJob& job, Scratch& scratch);

// On the ordinary cores, any shape and type. `name` is for errors.
void simt_product(const ProductJob& job, CudaPlace place);
// Symmetric products of 16-bit matrices on Hopper's wgmma; b_transposed, k and the leading dimensions multiples of 8.
bool wgmma_takes(const ProductJob& job, CudaPlace place);
void wgmma_symmetric(const ProductJob& job, CudaPlace place);
// cuBLASLt, where it is to be found; false when it is not, or has nothing for this shape. Not symmetric to the last bit.
bool blas_product(const ProductJob& job, Scratch& scratch);

// Tile t of a triangle of `ratio` tile rows to a tile column: rows from 0 on, each with the columns that reach the
// diagonal. p(p + 1)/2 · ratio tiles lie before row p · ratio.
struct TriangleTile {
    int64_t row, col;
};
__host__ __device__ inline TriangleTile triangle_tile(int64_t t, int64_t ratio) {
    auto p = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(t / ratio) + 1) - 1) / 2);
    while (p * (p + 1) / 2 * ratio > t) --p;
    while ((p + 1) * (p + 2) / 2 * ratio <= t) ++p;
    const int64_t rest = t - p * (p + 1) / 2 * ratio;
    return {p * ratio + rest / (p + 1), rest % (p + 1)};
}
// Of a matrix with `rows` tile rows.
__host__ __device__ inline int64_t triangle_tiles(int64_t rows, int64_t ratio) {
    const int64_t p = rows / ratio;
    return p * (p + 1) / 2 * ratio + rows % ratio * (p + 1);
}

}  // namespace raphson::cuda
