// The passes of sweeps over a tall matrix: t = A v and out += Aᵀ u on a block of rows, k vectors at once.
#pragma once

#include <cstdint>

#include "raphson/rows.h"

namespace raphson {

struct SweepTable {
    // t (rows × k) = block · v; vector c of v begins at v + c·stride. float64 sums whatever the block's type.
    void (*dots)(const RowBlock& block, const double* v, std::int64_t stride, int k, double* t);
    // out (vector c at out + c·stride) += blockᵀ · u (rows × k).
    void (*combine)(const RowBlock& block, const double* u, int k, double* out, std::int64_t stride);
};

}  // namespace raphson
