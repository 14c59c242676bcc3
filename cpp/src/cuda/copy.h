// Matrices from one layout to another, and between the host and the device; float64 or float32.
#pragma once

#include "cuda/runtime.h"

namespace raphson::cuda {

inline CudaView contiguous(void* data, DType type, int64_t rows, int64_t columns) {
    return {data, type, rows, columns, columns, 1};
}

// to ← from, of equal shape, any strides, rounded where `to` is narrower.
void copy(const CudaView& from, const CudaView& to, CudaPlace place);

// to (the host's, contiguous, of the same type) ← from; waits for the stream.
void read(const CudaView& from, void* to, CudaPlace place);
void write(const void* from, void* to, std::size_t bytes, CudaPlace place);

}  // namespace raphson::cuda
