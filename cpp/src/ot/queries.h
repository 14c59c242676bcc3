// What is asked of a solution: everything from the potentials and the cost, without a plan unless one is wanted.
#pragma once

#include <vector>

#include "ot/level.h"

namespace raphson {

struct Potentials {
    const double* f;  // units of the cost
    const double* g;
};

// Rows begin … end-1 of the plan, (end − begin)×m, contiguous.
void plan_rows(const TransportProblem& problem, Potentials at, std::int64_t begin, std::int64_t end, double* out);
// out (n×k) = P v of v (m×k), or out (m×k) = Pᵀ v of v (n×k); k exponentials of the cost in groups of eight vectors.
void plan_apply(const TransportProblem& problem, Potentials at, bool transposed, const double* v, std::int64_t k, double* out);
struct SparseResult {
    std::vector<std::int64_t> row_end;
    std::vector<std::int32_t> index;
    std::vector<double> value;
    double dropped = 0;  // mass that is not in it
};
// The fewest largest entries (up to a factor of two in their size) that leave out at most `most_dropped` of mass.
SparseResult plan_sparse(const TransportProblem& problem, Potentials at, double most_dropped);
// Solves [[diag(P1)(1 + κa), P], [Pᵀ, diag(Pᵀ1)(1 + κb)]] (α, β) = (p, q) in the sense of least squares when singular.
// Returns the L1 residual over the right-hand side's, measured.
double solve_hessian(const TransportProblem& problem, Potentials at, const double* p, const double* q, double* alpha, double* beta);
double solve_hessian(Level& level, Potentials at, const double* p, const double* q, double* alpha, double* beta);

}  // namespace raphson
