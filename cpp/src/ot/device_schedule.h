// The schedule of Sinkhorn's iteration on a CUDA device: the continuation of solve.cpp, by sweeps alone, and when to look.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "raphson/status.h"

namespace raphson::cuda {

constexpr int sweeps_between_looks = 8;
// reg falls by 4 a level, by 2 near the end of a long way.
constexpr double first_reg = 0.05, coarse_factor = 0.25, fine_factor = 0.5, fine_below = 2e-4, level_goal = 1e-2;
constexpr int level_sweeps = 32;
constexpr double goal_share = 0.8;  // of the tolerance: what is returned is rounded, and measured after that
// Where rounding is all that is left of the error: looks without progress in its neighbourhood.
constexpr double near_floor = 20, progress = 0.9;
constexpr int patience_at_floor = 4;

// The regularisations of the levels, the asked one last.
inline std::vector<double> regs_of(double asked, double span) {
    std::vector<double> regs{asked};
    for (double reg = asked; reg < first_reg * span;) {
        reg /= reg < fine_below * span ? fine_factor : coarse_factor;
        regs.push_back(reg);
    }
    std::reverse(regs.begin(), regs.end());
    return regs;
}

// What a run that ended with `status` and then measured this error is called.
inline Status end_of(Status status, double error, double tol) {
    if (error <= tol && status != Status::stopped) return Status::converged;
    if (!std::isfinite(error)) return Status::breakdown;
    return status == Status::converged ? Status::precision_floor : status;
}

}  // namespace raphson::cuda
