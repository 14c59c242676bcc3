// The bridge to raphson._cuda, which is loaded only when a CUDA array arrives.
#pragma once

#include "cuda/table.h"

namespace raphson::bindings {

// What serves CUDA arrays here. std::runtime_error says in one sentence what keeps this installation from computing with
// the array it was given. Needs the GIL.
const CudaTable& cuda(const char* function, const char* argument);

// The same where no array has come yet: `device` is what the caller named.
const CudaTable& cuda_device(const char* function, int device);

// For functions that have no CUDA kernels.
[[noreturn]] void throw_no_cuda_kernels(const char* function, const char* argument);

}  // namespace raphson::bindings
