// ROOT's outlier split and AuON's scaling: the two maps of the family that need no products.
#pragma once

#include "newton_schulz/orthogonalize.h"

namespace raphson {

// Argument rules; std::invalid_argument names the argument, both shapes and what was expected.
void check_soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers);
void check_auon(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out);

// Checked arguments; outputs of x's type. Nothing has been written when NaN or Inf in x throws std::invalid_argument.
void soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers);
void auon(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out);

// What a call costs, in the unit of orthogonalize_flops: for the choice to release the GIL.
double soft_clip_flops(const BatchRef& x);
double auon_flops(const BatchRef& x, int hybrid_steps);

}  // namespace raphson
