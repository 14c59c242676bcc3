// raphson._cuda: loaded when the first CUDA array arrives, so that a machine without CUDA never looks for it.
#include <pybind11/pybind11.h>

#include "device.h"

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA side of raphson.";
    m.def("device_count", raphson::cuda::device_count);
}
