// The derivative of orthogonalize, by way of the iteration itself.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "newton_schulz/orthogonalize.h"

namespace raphson {

// As check_orthogonalize, and cotangent must have the shape of x.
void check_orthogonalize_vjp(const BatchRef& x, const BatchRef& cotangent, const BatchRef& out,
                             const OrthogonalizeOptions& options);

// std::invalid_argument unless a matrix of x and of the cotangent have finite sums of squares.
inline void require_finite_vjp(double of_x, double of_cotangent, std::int64_t index, std::int64_t count) {
    if (std::isfinite(of_x) && std::isfinite(of_cotangent)) return;
    throw std::invalid_argument(std::string("orthogonalize_vjp: ") + (std::isfinite(of_x) ? "cotangent" : "x") +
                                " contains NaN or Inf" + which_matrix(index, count));
}

// The standard method in float64 or float32, whatever method and precision the options name.
OrthogonalizePlan plan_orthogonalize_vjp(std::int64_t rows, std::int64_t cols, DType dtype, const Schedule& schedule,
                                         OrthogonalizeOptions options);

// out ← the gradient of ⟨cotangent, orthogonalize(x)⟩; checked arguments, of one dtype; out may be x or cotangent.
void orthogonalize_vjp(const BatchRef& x, const BatchRef& cotangent, const BatchRef& out, const OrthogonalizePlan& plan,
                       const OrthogonalizeOptions& options);

}  // namespace raphson
