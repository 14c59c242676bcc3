// Matrix functions with a certificate: polar factors, sign, square root, inverse and inverse roots of dense matrices, each
// measured in float64 on what is returned. All cores are float64, float32 input included; results are rounded once.
#pragma once

#include <cstdint>

#include "raphson/status.h"
#include "raphson/view.h"

namespace raphson {

struct MatrixFunctionOptions {
    double tol = -1;  // of the residual; negative: what the precision reaches safely (MatrixReport::tol says)
    std::int64_t max_steps = 100;
    double ridge = 0, relative_ridge = 0;  // inverse_root: of A + (ridge + relative_ridge·λmax) I
};

// How one matrix of a batch ended.
struct MatrixReport {
    Status status = Status::converged;
    std::int64_t iterations = 0;
    double residual = 0;          // as the function says
    double tol = 0;               // that it is judged by
    double cond = 1;              // of the matrix, estimated: at most about √n too large
    double orthogonality = 0;     // polar: ‖UᵀU − I‖_F/√k
    double inverse_residual = 0;  // sqrt: max|A Z² − I| of the inverse square root Z; infinite where there is none
};

// Batches (…, m, n) of the same leading axes; reports: one a matrix, in C order of them. A matrix that breaks down says so
// in its status and leaves the others alone. Outputs must not overlap inputs. std::invalid_argument on wrong shapes or
// parameters, NaN, Inf, and (inverse_root) matrices that are not symmetric to 1000 ulp of their largest entry; Cancelled.

// X = U H with H = (XᵀX)^½ (n×n) for m ≥ n, X = H U with H = (XXᵀ)^½ (m×m) for m < n; for rank-deficient X the partial
// isometry is completed to orthonormal columns or rows. residual = ‖UH − X‖_F/‖X‖_F. Scaled Newton (Higham, "Functions of
// Matrices", 8.6) by Gauss–Jordan inverses, after Householder's QR where m > n, 2k³ flops a step, one to three of them; then
// minimax quintics, 4k³ a step, three to five of them.
template <class T>
void polar(TensorView<const T> x, TensorView<T> unitary, TensorView<T> hermitian, MatrixReport* reports,
           const MatrixFunctionOptions& options = {});

// S with S² = I that commutes with A and has the signs of its eigenvalues' real parts. residual = max|S² − I|. Breakdown:
// eigenvalues on the imaginary axis. Symmetric A: by eigenvalues, at most 7n³ flops; else scaled Newton, 2n³ a step.
template <class T>
void matrix_sign(TensorView<const T> a, TensorView<T> value, MatrixReport* reports, const MatrixFunctionOptions& options = {});

// The principal square root, and its inverse (data may be null; NaN where A is singular). residual = ‖X² − A‖_F/‖A‖_F.
// Breakdown: eigenvalues on the closed negative axis, zero aside where A is symmetric. Symmetric A: by eigenvalues, 11n³ flops; else
// Denman and Beavers' iteration, 4n³ flops a step, its answer corrected by a Sylvester equation.
template <class T>
void matrix_sqrt(TensorView<const T> a, TensorView<T> value, TensorView<T> inverse_sqrt, MatrixReport* reports,
                 const MatrixFunctionOptions& options = {});

// residual = max|A X − I|. Gauss–Jordan elimination, 2n³ flops, and Newton steps where they gain. Breakdown: singular.
template <class T>
void matrix_inverse(TensorView<const T> a, TensorView<T> value, MatrixReport* reports,
                    const MatrixFunctionOptions& options = {});

// (A + (ridge + relative_ridge·λmax) I)^(−1/p) of symmetric positive definite A, p ≥ 1. residual = max|(A + …) Xᵖ − I|.
// By eigenvalues; at most 6n³ flops and 2n³(1 + log₂ p) for the residual.
template <class T>
void inverse_root(TensorView<const T> a, std::int64_t p, TensorView<T> value, MatrixReport* reports,
                  const MatrixFunctionOptions& options = {});

// Derivatives: from a result and the cotangents of it, the cotangent of the argument. Symmetric arguments: Löwner's form
// in the eigenbasis, sums in its denominators where textbooks have differences, so that eigenvalues may repeat.
// Breakdown (std::runtime_error) where the function is not differentiable: polar, fewer than rank k − 1 (rank k unless
// square); sqrt, inverse_root: singular. Null data: a zero cotangent.
template <class T>
void polar_vjp(TensorView<const T> unitary, TensorView<const T> hermitian, TensorView<const T> unitary_bar,
               TensorView<const T> hermitian_bar, TensorView<T> x_bar);
template <class T>
void matrix_sqrt_vjp(TensorView<const T> value, TensorView<const T> value_bar, TensorView<T> a_bar);
template <class T>
void matrix_inverse_vjp(TensorView<const T> value, TensorView<const T> value_bar, TensorView<T> a_bar);
// The gradient is symmetric. relative_ridge·λmax moves with A.
template <class T>
void inverse_root_vjp(TensorView<const T> value, std::int64_t p, TensorView<const T> value_bar, TensorView<T> a_bar,
                      double relative_ridge = 0);

}  // namespace raphson
