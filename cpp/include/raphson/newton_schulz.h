// Newton–Schulz matrix iterations: orthogonalisation of dense matrices by products alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "raphson/view.h"

namespace raphson {

// One step X ← aX + b(XXᵀ)X + c(XXᵀ)²X on the wide side of X.
struct Step {
    double a, b, c;
};

// What X is divided by before the first step.
enum class Normalize {
    schedule,   // the schedule's own choice
    frobenius,  // factor·‖X‖_F
};

// An immutable list of steps with the normalisation it was designed for.
class Schedule {
public:
    // `norm_factor` multiplies the norm: room for rounding above 1. std::invalid_argument when `steps` is empty or holds
    // a number that is not finite, or norm_factor is not positive.
    explicit Schedule(std::vector<Step> steps, Normalize normalize = Normalize::frobenius, double norm_factor = 1.0);

    static Schedule muon(int steps = 5);           // Jordan et al., one fixed quintic; does not converge to 1
    static Schedule you(int steps = 5);            // You Jiacheng's five tuned quintics
    static Schedule polar_express(int steps = 5);  // Amsel et al., minimax quintics with safety 0.02 and cushion 0.02
    // By name; steps = 0 keeps the table's own length, fewer shorten it, more repeat its last row.
    static Schedule named(std::string_view name, int steps = 0);
    static const std::vector<std::string>& names();

    const std::vector<Step>& steps() const { return steps_; }
    Normalize normalize() const { return normalize_; }
    double norm_factor() const { return norm_factor_; }
    Schedule with_steps(int steps) const;

private:
    std::vector<Step> steps_;
    Normalize normalize_;
    double norm_factor_;
};

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
