// Entropic optimal transport: min ⟨P, C⟩ + reg·KL(P | a⊗b) + Σ ρ·KL(marginal | target) over couplings P ≥ 0, with the
// generalised KL. The solution is P = a⊗b·exp((f⊕g − C)/reg).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "raphson/status.h"
#include "raphson/view.h"

namespace raphson {

enum class TransportMethod : std::uint8_t {
    automatic,  // continuation in reg; Sinkhorn, sparse or dense Newton steps, whichever is predicted to be cheaper
    sinkhorn,   // alternating scaling, in the kernel domain once it is safe
    sns,        // Sinkhorn-Newton-Sparse: warm-up, then Newton steps with a fixed number of entries of the plan
    ssns,       // entries chosen by the error, shifted Hessian, trust-region acceptance
    splr,       // the largest entries plus a low-rank (BFGS) correction from the last step
};
enum class TransportStage : std::uint8_t { sinkhorn, kernel, newton, dense_newton };
const char* to_string(TransportStage stage);

struct TransportRecord {  // of one sweep over the cost or the kernel
    TransportStage stage;
    double error;  // L1 error of the marginals
    double reg;    // of the level of the continuation
    double seconds;
};

struct TransportOptions {
    TransportMethod method = TransportMethod::automatic;
    double tol = 1e-9;     // on |P1 − a|₁ + |Pᵀ1 − b|₁, or the L1 optimality residual where a marginal is relaxed
    int max_iter = 10000;  // sweeps
    double rho_a = std::numeric_limits<double>::infinity();  // Inf: the marginal holds exactly
    double rho_b = std::numeric_limits<double>::infinity();
    const double* f = nullptr;  // start (length n, m), or null; what is not finite starts at 0
    const double* g = nullptr;
    std::function<bool(const TransportRecord&, int iteration)> callback;  // true: stop
    bool check_finite = true;
};

struct TransportSolution {
    std::vector<double> f, g;  // units of the cost; −Inf where the weight is zero. Balanced: ⟨a, f⟩ = ⟨b, g⟩
    Status status = Status::max_iter;
    int iterations = 0;  // sweeps
    int newton_iterations = 0;
    int cg_iterations = 0;
    double marginal_error = 0;                       // measured on f and g as returned
    double cost = 0;                                 // ⟨P, C⟩
    std::vector<double> row_marginal, column_marginal;  // of P
    std::vector<TransportRecord> history;
};

// a (n), b (m): weights, contiguous; cost (n, m), double or float, contiguous along the columns, +Inf forbids a pair.
// std::invalid_argument on misuse: negative or non-finite weights, unequal masses (balanced), reg ≤ 0, NaN or −Inf in
// the cost, mass with nowhere to go. Cost: one exponential an entry and sweep; memory: the kernel, as large as the cost.
template <class T>
TransportSolution sinkhorn(TensorView<const double> a, TensorView<const double> b, TensorView<const T> cost, double reg,
                           const TransportOptions& options = {});

}  // namespace raphson
