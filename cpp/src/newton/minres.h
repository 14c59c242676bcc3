// MINRES (Paige and Saunders 1975) for symmetric, possibly indefinite matrices, with a positive definite preconditioner.
#pragma once

#include <cstdint>
#include <functional>

namespace raphson {

using LinearMap = std::function<void(const double* x, double* y)>;

// x (n), which is read, ← a better solution of A x = rhs; stops where ‖rhs − A x‖, measured, is at most `goal`, or when the
// measured residual no longer falls. precondition: y ← M⁻¹ x; empty: M = I. Gives the number of products with A and the
// measured residual. Memory: 9 vectors.
std::int64_t minres(std::int64_t n, const LinearMap& a, const LinearMap& precondition, const double* rhs, double goal,
                    std::int64_t max_iter, double* x, double* residual);

}  // namespace raphson
