// Newton–Schulz matrix iterations: orthogonalisation of dense matrices by products alone.
#pragma once

#include <cstdint>
#include <vector>

#include "raphson/schedule.h"
#include "raphson/view.h"

namespace raphson {

// How the polynomial is evaluated.
enum class Method {
    automatic,  // the faster safe one for the shape and precision
    standard,   // X ← aX + (bA + cA²)X, A = XXᵀ formed in every step
    gram,       // iterated on the m×m Gram matrix, with restarts; float32 or better
};

struct OrthogonalizeOptions {
    Normalize normalize = Normalize::schedule;
    Method method = Method::automatic;
    // Arithmetic of the iteration: by default the type of x.
    bool own_precision = true;
    DType precision = DType::float32;  // float64, float32 or bfloat16, when own_precision is false
    double eps = 1e-7;                 // X is never divided by less than eps·max|X|; aol: rows by eps·(largest row sum)
    bool check_finite = true;          // NaN or Inf in x: std::invalid_argument, nothing written
};

// What orthogonalize does for a shape.
struct OrthogonalizePlan {
    Method method = Method::standard;
    Normalize normalize = Normalize::frobenius;
    double norm_factor = 1;
    DType precision = DType::float32;
    bool transposed = false;  // tall matrices are iterated on their transpose
    std::vector<Step> steps;
    double flops = 0;  // of one matrix, multiply and add counted as two, symmetric products at half
};

OrthogonalizePlan plan_orthogonalize(std::int64_t rows, std::int64_t cols, DType dtype, const Schedule& schedule,
                                     const OrthogonalizeOptions& options = {});

// out ← the schedule's approximation of the polar factor U Vᵀ of every matrix x (…, m, n); out may be x itself, any
// other overlap is the caller's fault. A zero matrix gives zeros. 3m²n + m³ flops a quintic step (m ≤ n), fewer by the
// Gram method. Throws std::invalid_argument on wrong shapes, parameters or non-finite input; Cancelled.
template <class T>
void orthogonalize(TensorView<const T> x, TensorView<T> out, const Schedule& schedule,
                   const OrthogonalizeOptions& options = {});

extern template void orthogonalize<double>(TensorView<const double>, TensorView<double>, const Schedule&,
                                           const OrthogonalizeOptions&);
extern template void orthogonalize<float>(TensorView<const float>, TensorView<float>, const Schedule&,
                                          const OrthogonalizeOptions&);
extern template void orthogonalize<bfloat16>(TensorView<const bfloat16>, TensorView<bfloat16>, const Schedule&,
                                             const OrthogonalizeOptions&);

// out ← the gradient of Σ cotangent·orthogonalize(x) with respect to x, through the steps and the normalisation, as the
// standard method in float64 or float32 computes them; zero for a zero matrix. out may be x or cotangent. 9m²n + 4m³
// flops a quintic step, and memory for steps·m(m + n) numbers a thread. Throws as orthogonalize.
template <class T>
void orthogonalize_vjp(TensorView<const T> x, TensorView<const T> cotangent, TensorView<T> out,
                       const Schedule& schedule, const OrthogonalizeOptions& options = {});

extern template void orthogonalize_vjp<double>(TensorView<const double>, TensorView<const double>, TensorView<double>,
                                               const Schedule&, const OrthogonalizeOptions&);
extern template void orthogonalize_vjp<float>(TensorView<const float>, TensorView<const float>, TensorView<float>,
                                              const Schedule&, const OrthogonalizeOptions&);
extern template void orthogonalize_vjp<bfloat16>(TensorView<const bfloat16>, TensorView<const bfloat16>,
                                                 TensorView<bfloat16>, const Schedule&, const OrthogonalizeOptions&);

// ROOT's outlier split (arXiv 2511.20626) of every matrix: limit = the quantile of |x| with linear interpolation,
// rounded to T; clipped = x limited to ±limit, outliers = x - clipped. clipped may be x itself. Throws
// std::invalid_argument on wrong shapes, a quantile outside [0, 1] or non-finite input; Cancelled.
template <class T>
void soft_clip(TensorView<const T> x, TensorView<T> clipped, TensorView<T> outliers, double quantile = 0.9);

extern template void soft_clip<double>(TensorView<const double>, TensorView<double>, TensorView<double>, double);
extern template void soft_clip<float>(TensorView<const float>, TensorView<float>, TensorView<float>, double);
extern template void soft_clip<bfloat16>(TensorView<const bfloat16>, TensorView<bfloat16>, TensorView<bfloat16>,
                                         double);

// AuON (arXiv 2509.24320) of every matrix: Z / √mean cosh²(gamma·Z) with Z = X / ‖X‖_F, or with hybrid_steps > 0 the
// same of what that many `muon` steps make of X. A zero matrix gives zeros; out may be x itself. 0 ≤ gamma ≤ 300.
// Throws as soft_clip.
template <class T>
void auon(TensorView<const T> x, TensorView<T> out, double gamma = 1.5, int hybrid_steps = 0);

extern template void auon<double>(TensorView<const double>, TensorView<double>, double, int);
extern template void auon<float>(TensorView<const float>, TensorView<float>, double, int);
extern template void auon<bfloat16>(TensorView<const bfloat16>, TensorView<bfloat16>, double, int);

}  // namespace raphson
