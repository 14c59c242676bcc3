// The passes and cores of FisherInverse on a CUDA device. Gradients lie where the caller keeps them; matrices are float64,
// row major, contiguous, one a diagonal block of F. W = L⁻¹ of K + mλI = L Lᵀ stands for the factor: what a factor does is a
// product with it, and no product here depends on another.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "ihvp/device_fisher.h"
#include "ihvp/device_passes.h"
#include "raphson/view.h"

namespace raphson::cuda {

// Rows of numbers cut into blocks of columns; or, for batches of matrices, any rows `step` apart from block to block.
struct BlockedRows {
    const void* data;
    DType type;
    int64_t stride, rows;           // of one block
    int64_t blocks, step;           // numbers from block to block
    int64_t width, last_width;      // columns of a block, and of the last

    __host__ __device__ int64_t width_of(int64_t b) const { return b + 1 < blocks ? width : last_width; }
    __host__ __device__ int64_t columns() const { return (blocks - 1) * width + last_width; }
};

// k (blocks × rows²) ← alpha·(a block's rows times their transposes) + shift·I, lower triangles; columns where `kept`
// (as many as the columns, or null) is zero count as zero. What is not finite on the diagonal becomes NaN.
void gram(const BlockedRows& g, const std::uint8_t* kept, double alpha, double shift, double* k, Scratch& scratch);

// w ← L⁻¹ of k = L Lᵀ for `batch` matrices of m rows; k's lower triangles are read and used up, w is zero above the
// diagonal. No pivot's square is below `least`; NaN stays. 2/3·m³ flops, 2·m/32 launches.
void invert_factor(double* k, double* w, int64_t m, int64_t batch, double least, Scratch& scratch);

// z (blocks × x_rows × g.rows) ← the rows of x (float64, contiguous, as long as g's) times g's transposed, block by block.
void cross(const double* x, int64_t x_rows, const BlockedRows& g, double* z, Scratch& scratch);
// out (rows × columns, contiguous) ← by·(x − Σⱼ y[b][r][j]·row j of g), x as above.
void subtract_rows(const double* x, int64_t x_rows, const double* y, const BlockedRows& g, double by, const CudaView& out, CudaPlace place);

// The same rows as the window's streaming passes see them.
DeviceRows window_rows(const BlockedRows& g);
// out (batch × vectors × m) ← by·z Wᵀ, or by·z W.
void times_factor(const double* w, int64_t m, int64_t batch, const double* z, int64_t vectors, bool transposed, double by,
                  double* out, Scratch& scratch);
// by·(L Lᵀ)⁻¹z (batch × vectors × m), out of the scratch.
double* inverse_times(const double* w, const double* z, int64_t m, int64_t batch, int64_t vectors, double by, Scratch& scratch);

// V = W·G of the columns first … first+count-1, which end a block or lie within one. Either diagonal[k] ← by·(1 − Σᵢ V²ᵢₖ), or with
// `columns` not null column k's V to columns[k·rows …].
void whiten(const BlockedRows& g, const double* w, int64_t first, int64_t count, double by, double* diagonal, double* columns,
            CudaPlace place);
// to[i·rows + j] ← g[j][indices[i]].
void gather_columns(const BlockedRows& g, const int64_t* indices, int64_t count, double* to, CudaPlace place);
// out (nr × nc) ← by·(δ − ⟨left i, right j⟩) where rows[i] and cols[j] are of one block, else 0; order says which of the
// pair's rows a vector of left or right belongs to.
struct Indexed {
    const int64_t *index, *order;
    const double* vectors;
    int64_t count;
};
void pair_products(const Indexed& left, const Indexed& right, int64_t length, int64_t block, double by, double* out, CudaPlace place);

// ---- vectors ----------------------------------------------------------------------------------------------------------------

// to (rows × columns, contiguous) ← x of any type and strides; and back.
void widen(const CudaView& x, double* to, CudaPlace place);
// The same numbers, contiguous, bits as they are.
void pack(const CudaView& x, void* to, CudaPlace place);
// u ← w/d, scores ← ½w²/d.
void single_scores(const double* w, const double* d, int64_t count, double* scores, double* u, CudaPlace place);
// scores[q] ← ½Σ w·u of every group.
void group_scores(const double* w, const double* u, int64_t groups, int64_t group, double* scores, CudaPlace place);
// kept ← 0 for the groups with the `removed` lowest scores, the first of equals, NaN last; else 1.
void keep_all_but(const double* scores, int64_t groups, int64_t removed, int64_t group, std::uint8_t* kept, Scratch& scratch);
// to ← by·x where kept is `which` (0 or 1), else 0.
void masked(const double* x, const std::uint8_t* kept, bool which, double by, int64_t count, double* to, CudaPlace place);
// out (of any type) ← w + change where kept, else 0; and change ← −w there.
void apply_change(const double* w, const std::uint8_t* kept, double* change, const CudaView& out, CudaPlace place);
// *result ← ½(λΣchange² + Σy²/m).
void energy(const double* change, int64_t count, const double* y, int64_t y_count, double damping, double m, double* result, Scratch& scratch);
// *result ← Σ log of the squared diagonals of L, less log_shift each.
void log_determinant(const double* w, int64_t m, int64_t batch, double log_shift, double* result, CudaPlace place);

// ---- relatives, as device_fisher.h has them --------------------------------------------------------------------------------

double rank_one_inverse(const CudaView& inverse, const CudaView& v, double alpha, double beta, double weight, void* out,
                        CudaPlace place);
void gauss_newton(const CudaStack& jac, const CudaView& residual, const CudaStack* hessian, bool root, double damping,
                  const CudaView& out, CudaPlace place);

}  // namespace raphson::cuda
