// One solve under way: what the methods share.
#pragma once

#include <chrono>

#include "ot/level.h"
#include "ot/schur.h"
#include "ot/solve.h"

namespace raphson {

class Run {
public:
    Run(const TransportProblem& problem, const SolveOptions& options);

    void automatic();
    void sinkhorn();
    void sns();
    void ssns();
    TransportSolution finish();

private:
    // Drives the potentials at the level's reg until the error is within goal. False: the run is over.
    bool reach(double goal);
    bool done(TransportStage stage);  // after every sweep: records it; true when the run is over (limit, callback)
    bool newton_step(double goal, bool dense);
    bool advance(bool want_plan, double goal);  // one sweep at the potentials there are
    double newton_cost(double error, double goal, double rate) const;
    void finish_stopped(Status status);

    const TransportProblem& problem_;
    const SolveOptions& options_;
    Level level_;
    SparsePlan plan_;
    std::vector<double> factor_;
    bool factor_fresh_ = false;
    bool plan_fits_ = true, plan_ready_ = false;
    bool over_ = false;
    double floor_;
    int last_cg_ = 0;
    TransportSolution solution_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace raphson
