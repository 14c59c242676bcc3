// One solve under way: what the methods share.
#pragma once

#include <chrono>

#include "ot/level.h"
#include "ot/problem.h"
#include "ot/schur.h"
#include "raphson/ot.h"

namespace raphson {

TransportSolution solve_transport(const TransportProblem& problem, const TransportOptions& options);
// The same with a level's passes, wherever its cost lies; what no coupling can reach counts as stalled or out of sweeps.
TransportSolution solve_transport(Level& level, const TransportOptions& options);

class Run {
public:
    Run(Level& level, const TransportOptions& options);

    void automatic();
    void sinkhorn();
    void sns();
    void ssns();
    void splr();
    TransportSolution finish();

private:
    enum class Outcome { reached, struggling, over };
    // Drives the potentials at the level's reg until the error is within goal; struggling: not near after that many sweeps.
    Outcome reach(double goal, int patient);
    bool done(TransportStage stage);  // after every sweep: records it; true when the run is over (limit, callback)
    bool newton_step(double goal, bool dense);
    bool advance(bool want_plan, double goal);  // one sweep at the potentials there are
    double newton_cost(double error, double goal, double rate) const;
    bool give_up();              // after a sweep without progress: true when the run is over
    std::int64_t plan_capacity() const;
    void gauge();
    // Newton methods by name: the direction from the pattern in plan_, by CG. Returns its product with the gradient.
    double direction(std::vector<double>& d, double shift, double target);
    // Newton's step in exp(ψ) instead of ψ, where they differ: the same to first order, less rash for starved columns.
    // Returns its product with rhs, 0 when it is not finite.
    double temper(const std::vector<double>& rhs, std::vector<double>& d) const;
    void move(const std::vector<double>& start, const std::vector<double>& d, double alpha);
    bool warm_up(int sweeps);

    const TransportProblem& problem_;
    const TransportOptions& options_;
    Level& level_;
    SparsePlan plan_;
    std::vector<double> factor_;
    bool plan_fits_ = true, plan_ready_ = false;
    bool over_ = false;
    double goal_;  // a little below the tolerance: what is returned is rounded, and measured after that
    double floor_;
    double best_ = 0;
    int idle_ = 0;  // sweeps since the error last fell by a tenth
    int last_cg_ = 0;
    int rescues_ = 0, sweeps_only_ = 0;
    TransportSolution solution_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace raphson
