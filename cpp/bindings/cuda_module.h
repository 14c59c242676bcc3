// The bridge to raphson._cuda, which is loaded only when a CUDA array arrives.
#pragma once

namespace raphson::bindings {

// Says in one sentence what keeps this installation from computing with the CUDA array it was given. Needs the GIL.
[[noreturn]] void throw_cuda_unavailable(const char* function, const char* argument);

}  // namespace raphson::bindings
