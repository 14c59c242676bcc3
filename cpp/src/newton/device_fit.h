// Generalized linear models of rows on a CUDA device.
#pragma once

#include <vector>

#include "raphson/newton.h"
#include "sketch/device_rows.h"

namespace raphson {

// As fit_glm and glm_information; y, weights and offsets are the host's. NaN or Inf in x give NaNs and
// Status::breakdown.
GlmSolution fit_glm_on_device(CudaRows& x, const GlmData& data, const GlmOptions& options);
std::vector<double> glm_information_on_device(CudaRows& x, const GlmData& data, const GlmOptions& options, const double* coef);

}  // namespace raphson
