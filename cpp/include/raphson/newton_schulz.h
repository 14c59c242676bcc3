// Newton–Schulz matrix iterations: orthogonalisation of dense matrices by products alone.
#pragma once

#include "raphson/schedule.h"
#include "raphson/view.h"

namespace raphson {

struct OrthogonalizeOptions {
    Normalize normalize = Normalize::schedule;
    // Arithmetic of the iteration: by default the type of x.
    bool own_precision = true;
    DType precision = DType::float32;  // float64, float32 or bfloat16, when own_precision is false
    double eps = 1e-7;                 // X / (factor·norm + eps·max|X|)
    bool check_finite = true;          // NaN or Inf in x: std::invalid_argument, nothing written
};

// out ← the schedule's approximation of the polar factor U Vᵀ of every matrix x (…, m, n); out may be x itself, any
// other overlap is the caller's fault. A zero matrix gives zeros. 4m²n + 2m³ flops a step at most (m ≤ n), half of the
// symmetric products saved. Throws std::invalid_argument on wrong shapes, parameters or non-finite input; Cancelled.
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
