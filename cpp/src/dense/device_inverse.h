// Inverses of general matrices on a CUDA device.
#pragma once

#include <cstdint>

#include "cuda/runtime.h"

namespace raphson::cuda {

// x ← a⁻¹ of `count` contiguous n×n matrices by Gauss–Jordan elimination with partial pivoting, a destroyed: in one launch what
// fits in shared memory (n ≤ 169 on a Hopper), in panels of rows and products beyond that. failed[i] ← 1 where a pivot is 0 or
// not finite, else 0; x[i] is then anything.
void invert(double* a, double* x, int64_t n, int64_t count, int* failed, Scratch& scratch);

}  // namespace raphson::cuda
