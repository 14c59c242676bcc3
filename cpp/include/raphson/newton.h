// Newton-type solvers on tall data: generalized linear models.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "raphson/rows.h"
#include "raphson/status.h"

namespace raphson {

enum class GlmFamily : std::uint8_t {
    logistic,     // y in [0, 1]; loss log(1 + e^m) − y m of the margin m = x·w + intercept + offset
    multinomial,  // y = 0 … classes-1; loss log Σ e^{m_c} − m_y
    poisson,      // y ≥ 0; loss e^m − y m
    gaussian,     // loss ½ (y − m)²
};

enum class GlmMethod : std::uint8_t {
    automatic,
    sketch_pcg,     // inexact Newton; conjugate gradients preconditioned by a sketch or sample of the Hessian that is kept
    newton_cg,      // the same with the Hessian's diagonal as preconditioner
    newton,         // the exact Hessian, factored in every step
    newton_sketch,  // the sketched Hessian in its place, a new one in every step: converges linearly, at √(columns/rows)
    quasi_newton,   // L-BFGS in the metric of sketch_pcg's preconditioner: one read of the data a step
};
const char* to_string(GlmMethod method);

struct GlmData {
    const double* y = nullptr;       // rows
    const double* weight = nullptr;  // rows, ≥ 0; null: 1
    const double* offset = nullptr;  // rows × outputs; null: 0
    int classes = 1;                 // multinomial
};

struct GlmRecord {
    double gradient_norm;  // over that at 0
    double objective;
    double seconds;
    int sweeps;  // reads of the data so far
};

struct GlmOptions {
    GlmFamily family = GlmFamily::logistic;
    GlmMethod method = GlmMethod::automatic;
    double ridge = 0;
    bool intercept = true;
    double tol = 1e-8;  // of the gradient's norm over that at 0
    int max_iter = 200;
    std::uint64_t seed = 0;
    const double* init = nullptr;  // as GlmSolution::coef
    DType precision = DType::float64;  // coef is rounded to it before it is measured
    std::function<bool(const GlmRecord&, int iteration)> callback;  // true: stop
};

struct GlmSolution {
    std::vector<double> coef;  // outputs × (columns of x, and 1 with an intercept); outputs: classes, or 1
    Status status = Status::max_iter;
    GlmMethod method = GlmMethod::newton;  // the one that ran
    double objective = 0;                  // Σ weight·loss / Σ weight + ridge/2 ‖w‖², the intercept not penalised
    double gradient_norm = 0;              // of the objective's gradient at coef, over that at 0
    double deviance = 0;                   // 2 Σ weight (loss − loss of the saturated model)
    int iterations = 0, hessian_products = 0, factorisations = 0, sweeps = 0;
    std::vector<GlmRecord> history;
};

// std::invalid_argument: shapes, y outside the family's range, negative weights, NaN or Inf. x: float64 or float32 blocks;
// arithmetic in float64. Status::infeasible: no finite minimiser exists (separable labels without a ridge, one class).
GlmSolution fit_glm(const RowSource& x, const GlmData& data, const GlmOptions& options = {});

// Σ weight · ∇²loss + ridge · Σ weight on the coefficients: (outputs·p)², p = columns of x and 1 with an intercept.
std::vector<double> glm_information(const RowSource& x, const GlmData& data, const GlmOptions& options, const double* coef);

}  // namespace raphson
