// Matrices from one layout to another, and between the host and the device; float64 or float32.
#pragma once

#include <cstddef>
#include <vector>

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

// ---- plain memory ----
inline void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, CudaPlace place) {
    if (bytes != 0) check(cudaMemcpyAsync(to, from, bytes, kind, stream(place)), "copy");
}
template <class T>
T* upload(const T* from, int64_t count, Scratch& scratch) {
    T* const to = scratch.take_array<T>(count);
    write(from, to, static_cast<std::size_t>(count) * sizeof(T), scratch.place());
    return to;
}
template <class T>
T* upload(const std::vector<T>& from, Scratch& scratch) {
    return upload(from.data(), static_cast<int64_t>(from.size()), scratch);
}
// Waits; `name`: of what is waited for, in an error.
template <class T>
std::vector<T> read(const T* from, int64_t count, CudaPlace place, const char* name = "copy to the host") {
    std::vector<T> to(static_cast<std::size_t>(count));
    if (count != 0) check(cudaMemcpyAsync(to.data(), from, to.size() * sizeof(T), cudaMemcpyDeviceToHost, stream(place)), name);
    check(cudaStreamSynchronize(stream(place)), name);
    return to;
}

}  // namespace raphson::cuda
