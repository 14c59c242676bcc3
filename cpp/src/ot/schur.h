// The Hessian of the semi-dual, S = D₂ − TᵀD₁⁻¹T, and linear systems in it.
#pragma once

#include <vector>

#include "ot/level.h"

namespace raphson {

// T is the plan of the level's last sweep: whole (from the kept kernel or the cost), or its large entries T_Ω, the others
// lumped as p qᵀ/σ with p, q their row and column sums and σ their total. So row and column sums are those of T, S stays
// positive semidefinite with exactly the null vector of T's (the constants, when both marginals are held), and parts of
// the pattern that dropped entries alone connect stay connected.
class Schur {
public:
    // shift is added to D₂.
    Schur(Level& level, const SparsePlan* plan, double shift = 0);

    const std::vector<double>& row_inverse() const { return terms_.d1_inverse; }
    void apply(const double* x, double* y);
    // x ← S⁻¹ rhs by preconditioned conjugate gradients until ‖rhs − S x‖₁ ≤ target. rhs must sum to zero when S is singular.
    CgOutcome solve(const double* rhs, double* x, double target, int most);
    // From now on the preconditioner is the Cholesky factor of S, held in `memory`. False: not possible.
    bool factor(std::vector<double>& memory);
    // Rows of the Newton system given the columns: D₁⁻¹(rhs − T x).
    void rows_for(const double* row_rhs, const double* x, double* rows);

private:
    void precondition(const double* r, double* z) const;

    Level& level_;
    const SparsePlan* plan_;
    SchurTerms terms_;
    const std::vector<double>* factor_ = nullptr;
    std::vector<double> r_, z_, p_, q_;
};

}  // namespace raphson
