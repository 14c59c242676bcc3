// raphson._cuda: loaded when the first CUDA array arrives, so that a machine without CUDA never looks for it. The tests
// build it a second time, under another name, from the same kernels compiled for the CPU.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "cuda/table.h"

#ifndef RAPHSON_CUDA_MODULE
#define RAPHSON_CUDA_MODULE _cuda
#endif

PYBIND11_MODULE(RAPHSON_CUDA_MODULE, m) {
    m.doc() = "CUDA side of raphson.";
    m.def("device_count", raphson::cuda_table().device_count);
    m.def("_gram", [](std::uintptr_t x, std::int64_t rows, std::int64_t cols, std::uintptr_t d, int device, std::uintptr_t stream) {
        raphson::cuda_table().gram(reinterpret_cast<const void*>(x), rows, cols, reinterpret_cast<void*>(d),
                                   {device, reinterpret_cast<void*>(stream)});
    });  // for bench/gpu.py
    m.attr("_table") = pybind11::capsule(&raphson::cuda_table(), raphson::cuda_table_name);
}
