// What functions of CUDA arrays in float64 or float32 share: how such an array is taken.
#pragma once

#include "cuda/table.h"
#include "tensor.h"

namespace raphson::bindings {

constexpr unsigned float64_float32_cuda = float64_float32 | and_cuda;
constexpr double long_work = 1e9;  // for run_released: what waits for a device is worth it

// and_cuda lets float16 in.
inline void require_real(const Tensor& x) {
    if (x.dtype() == DType::float64 || x.dtype() == DType::float32) return;
    throw py::type_error(std::string(x.where().function) + ": " + x.where().argument + " must be float64 or float32, got " +
                         to_string(x.dtype()));
}

// Up to two axes; a vector is a column.
inline CudaView view(const Tensor& x) {
    const bool matrix = x.ndim() == 2;
    return {x.data(), x.dtype(), x.ndim() == 0 ? 1 : x.shape()[0], matrix ? x.shape()[1] : 1, x.ndim() == 0 ? 1 : x.strides()[0],
            matrix ? x.strides()[1] : 1};
}

}  // namespace raphson::bindings
