// Small dense problems on a CUDA device, a block of threads each, by the method `sinkhorn`.
#pragma once

#include <cstddef>

#include "cuda/runtime.h"
#include "ot/device_transport.h"

namespace raphson::cuda {

// Whether a block holds the problem, and is not slower than the whole device: by its shape and the device alone.
bool is_small(const CudaTransport& given, CudaPlace place);

// As solve_transport with the method `sinkhorn`, of problems that are small, all side by side; each is bit for bit what it is
// alone. Callbacks are heard after every launch: `watched`, of one look; else of many, whose ends they then come too late for.
void solve_small(const CudaTransport* given, const TransportOptions* options, std::size_t count, bool watched,
                 TransportSolution* solutions, CudaPlace place);

}  // namespace raphson::cuda
