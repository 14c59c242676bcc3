// The matrix products at the level of raw pointers. Matrices are row major with a leading dimension counted in
// elements. bfloat16 is multiplied exactly, accumulated in float32 and rounded once, to nearest even, when stored.
// Work is spread over the pool by shape only, and every sum over k runs in one fixed order: the number of threads never
// changes a bit. Inside a parallel_for task the same partition runs on that thread alone.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

template <class T, class Scalar>
struct GemmFunctions {
    // C (m×n) = alpha·A (m×k)·B (k×n) + beta·D (m×n). D may be C itself; when beta is 0 it is not read and may be null.
    void (*product)(std::int64_t m, std::int64_t n, std::int64_t k, Scalar alpha, const T* a, std::int64_t lda,
                    const T* b, std::int64_t ldb, Scalar beta, const T* d, std::int64_t ldd, T* c, std::int64_t ldc);
    // C (m×m) = alpha·X Xᵀ of X (m×k): one triangle is computed and mirrored, so C is symmetric to the bit.
    void (*gram)(std::int64_t m, std::int64_t k, Scalar alpha, const T* x, std::int64_t ldx, T* c, std::int64_t ldc);
    // C (m×m) = alpha·A·B + beta·D for symmetric A, B, D whose product is symmetric (A = B, or polynomials of one
    // matrix): one triangle, mirrored. C must not overlap A or B; it may be D.
    void (*symmetric)(std::int64_t m, Scalar alpha, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
                      Scalar beta, const T* d, std::int64_t ldd, T* c, std::int64_t ldc);
};

struct GemmTable {
    GemmFunctions<double, double> f64;
    GemmFunctions<float, float> f32;
    GemmFunctions<bfloat16, float> bf16;
    // C (m×m) = alpha·X Xᵀ + beta·C for symmetric C, in float64; X (m×k) may be float32.
    void (*gram_onto)(std::int64_t m, std::int64_t k, double alpha, const double* x, std::int64_t ldx, double beta,
                      double* c, std::int64_t ldc);
    void (*gram_widened_onto)(std::int64_t m, std::int64_t k, double alpha, const float* x, std::int64_t ldx,
                              double beta, double* c, std::int64_t ldc);
    // C (n×n) += Xᵀ diag(weights) X for symmetric C, in float64; X (k×n) may be float32. Null weights: 1.
    void (*columns_onto)(std::int64_t n, std::int64_t k, const double* x, std::int64_t ldx, const double* weights,
                         double* c, std::int64_t ldc);
    void (*columns_widened_onto)(std::int64_t n, std::int64_t k, const float* x, std::int64_t ldx,
                                 const double* weights, double* c, std::int64_t ldc);
    // C (m×m) += X Xᵀ of X (m×k), m up to some 500, on the calling thread. On and below the diagonal; C has m rounded up
    // to narrow_unit rows and columns.
    void (*narrow_gram)(std::int64_t m, std::int64_t k, const double* x, std::int64_t ldx, double* c, std::int64_t ldc);
};

constexpr std::int64_t narrow_unit = 8;
// Up to so many vectors a Gram matrix in float64 is cut along k, of which it wants much at a time.
constexpr std::int64_t narrow_size = 512;

}  // namespace raphson
