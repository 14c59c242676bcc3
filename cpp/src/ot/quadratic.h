// Quadratically regularised transport, min ⟨P, C⟩ + reg/2·‖P‖² over couplings, in the semi-dual: for column potentials
// g each row of the plan is a projection onto a scaled simplex, Pᵢ = max(fᵢ + g − Cᵢ, 0)/reg with Σⱼ Pᵢⱼ = aᵢ, and
//   φ(g) = Σᵢ hᵢ(g) − ⟨b, g⟩, hᵢ = max over p ≥ 0, Σp = aᵢ of ⟨p, g − Cᵢ⟩ − reg/2·‖p‖²,
// is convex with gradient Pᵀ1 − b. With a cardinality k the maximum is over p with at most k entries: Pᵢ is the
// projection of the k largest of g − Cᵢ, φ stays convex but has kinks where the k-th and the next are equal. It is then
// minimised through a smooth family above it, whose limit is eased (eased.h), and whose plans, of the convex hull,
// prove how good the minimum is.
#pragma once

#include <limits>
#include <vector>

#include "ot/host_level.h"
#include "ot/quadratic_interior.h"
#include "ot/queries.h"
#include "raphson/ot.h"

namespace raphson {

struct QuadraticSolution {
    std::vector<double> f, g;  // as of TransportSolution
    Status status = Status::max_iter;
    int iterations = 0;  // passes over the cost
    int newton_iterations = 0;
    int cg_iterations = 0;
    double marginal_error = 0, cost = 0, squares = 0;  // of the plan below; squares: ‖P‖²
    // No dual value is above it: the objective of a plan of the convex hull, and what its marginals lack times the
    // potentials' range.
    double bound = std::numeric_limits<double>::infinity();
    SparseResult plan;
    std::vector<TransportRecord> history;
};

// options.method and the relaxations are not read. cardinality 0: none.
QuadraticSolution solve_quadratic(const TransportProblem& problem, std::int64_t cardinality, const TransportOptions& options);

// The plan at given potentials, and linear systems in a smoothed Hessian of the semi-dual.
class QuadraticLevel {
public:
    QuadraticLevel(const TransportProblem& problem, std::int64_t cardinality);

    double reg = 0;
    std::vector<double> g;        // padded, -Inf where there is no weight
    // After a pass at g:
    std::vector<double> f, bar;   // rows; an entry is in the plan when g − C exceeds bar (−f, or the k-th largest)
    std::vector<double> columns;  // padded column sums
    double error = 0, value = 0;  // ‖Pᵀ1 − b‖₁; φ
    double cost = 0, squares = 0; // ⟨P, C⟩, ‖P‖²
    std::int64_t entries = 0;     // of the plan

    // With a limit and ease > 0 all of the above is of the eased rows; error and value of the rows as they are come
    // beside it. penalty: reg/2·Σ P²/ζ, what these plans pay in the problem's hull (reg/2·‖P‖² without easing).
    double ease = 0;
    double penalty = 0, hard_error = 0, hard_value = 0;

    bool constrained() const { return cardinality_ < problem_.m; }
    bool single() const { return cardinality_ == 1; }
    void constrain(bool on) { limit_ = on ? cardinality_ : problem_.m; }

    void pass(SparseResult* plan = nullptr);
    // As pass at ease 0, but of candidates that tie within `tie` (as an ease) those are kept which serve the columns
    // best.
    void settle(double tie, SparseResult& plan);
    // Columns without mass rise until they touch the plan: free, since nothing else changes. One read of their costs.
    void lift();
    // d ← H⁻¹(b − Pᵀ1) to a residual of `forcing`, H the Hessian smoothed to the scale delta. False: too many entries.
    // Weights of H: w = s·exp(min(v − bar, 0)/delta), s = reg·a/Σ exp(min(v − bar, 0)/delta)(max(v + f, 0) + delta):
    // the support's indicator as delta → 0, an entropic plan at the temperature delta where that is wide beside reg·a.
    bool direction(double delta, double forcing, std::vector<double>& d);
    int cg_iterations = 0;
    // Pairs whose v is at most `width` below the bar; at most `most`, else none.
    PairList near(double width, std::int64_t most);

private:
    struct Rows {  // of a block, with room for the candidates of one
        std::vector<std::int32_t> index, candidate;
        std::vector<double> value, v;
        std::vector<std::int64_t> row_end;
        std::vector<std::int32_t> tied_index;  // second rows of the Hessian, and their entries
        std::vector<double> tied_value;
        std::vector<std::int64_t> tied_end;
        std::vector<std::int64_t> order;
        std::vector<double> sorted;
        double value_sum = 0, cost = 0, squares = 0, penalty = 0, hard_sum = 0;
        std::int64_t entries = 0;
    };
    void project_row(const CostBlock& row, std::int64_t i, Rows& rows, double* columns, double* hard, bool keep);
    void project_eased(std::int64_t i, Rows& rows, std::int64_t count, double highest, double t, double* columns,
                       double* hard, bool keep);
    bool collect(double delta);
    double weigh_eased(std::int64_t i, Rows& rows, std::int64_t count, double delta, double* sums);
    void apply(const double* x, double* y);
    bool factor();

    const TransportProblem& problem_;
    HostLevel tiles_;  // cuts the rows
    std::int64_t cardinality_, limit_, padded_;
    std::vector<Rows> blocks_;
    std::vector<double> partials_, hard_partials_, triples_;
    // Of eased rows: where whole entries begin (the bar is where parts do), β, the largest of g − C, and the inverse of
    // the second row's weight, 0 where there is none.
    std::vector<double> top_, beta_, highest_, tied_inverse_;
    std::vector<std::int64_t> whole_;
    // the Hessian: W by blocks, and a rank-one floor that connects what the large weights leave unconnected
    std::vector<double> diagonal_, jacobi_, row_inverse_, scale_, spread_, lump_;
    double floor_ = 0, lump_pp_ = 0;
    std::int64_t weights_ = 0;
    std::vector<double> dense_;
    int last_cg_ = 0;
};

}  // namespace raphson
