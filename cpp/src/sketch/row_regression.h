// One small regression of matrix completion: the step of a row of one factor, given the other.
#pragma once

#include <cstdint>
#include <vector>

#include "raphson/completion.h"
#include "sketch/completion_passes.h"

namespace raphson {

struct RegressionRule {
    Regression how = Regression::automatic;
    std::int64_t rank = 1;
    double ridge = 0;
    std::uint64_t seed = 0;
};

struct RowStep {
    RowSums sums;
    double gradient = 0;  // ‖Σ r v − ridge u‖² at the u given
    bool orthogonal = false, sketched = false;
};

// step (row.ld) ← argmin Σ (r − v·step)² + ridge ‖u + step‖², r = a − u·v; of several the shortest. `number` keys the sketch.
RowStep regress(const RowEntries& row, const RegressionRule& rule, std::uint64_t number, const double* u, double* step);

// Jacobi's rotations from one side: the n rows of m become orthogonal to one another, and those of v (n×n) go along.
void orthogonal_rows(double* m, double* v, std::int64_t n, std::int64_t length);

}  // namespace raphson
