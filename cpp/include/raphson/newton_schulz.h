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

}  // namespace raphson
