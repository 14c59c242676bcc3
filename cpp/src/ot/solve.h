// From a problem to its potentials.
#pragma once

#include <functional>
#include <vector>

#include "ot/problem.h"
#include "raphson/ot.h"
#include "raphson/status.h"

namespace raphson {

struct TransportRecord {
    TransportStage stage;
    double error, reg, seconds;
};

struct TransportSolution {
    std::vector<double> f, g;  // units of the cost; -Inf where the weight is zero
    Status status = Status::max_iter;
    int iterations = 0;         // sweeps over the cost or the kernel
    int newton_iterations = 0;
    int cg_iterations = 0;
    double marginal_error = 0;  // measured on f and g as they are returned
    double cost = 0;            // ⟨P, C⟩
    double mass = 0;            // Σ P
    std::vector<double> row_marginal, column_marginal;
    std::vector<TransportRecord> history;
};

struct SolveOptions {
    TransportMethod method = TransportMethod::automatic;
    double tol = 1e-9;
    int max_iter = 10000;
    const double* f = nullptr;  // start, or null
    const double* g = nullptr;
    std::function<bool(const TransportRecord&, int iteration)> callback;  // true: stop
};

TransportSolution solve_transport(const TransportProblem& problem, const SolveOptions& options);

}  // namespace raphson
