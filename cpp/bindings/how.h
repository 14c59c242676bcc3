// The arguments that say how to iterate, for every function of the family that takes them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

#include "cuda/table.h"
#include "raphson/newton_schulz.h"

namespace raphson::bindings {

namespace py = pybind11;

struct How {
    const char* function;  // for messages
    py::handle schedule, steps;
    OrthogonalizeOptions options;
    bool finite_by_default = true;  // check_finite was None: yes on the CPU, no on CUDA, where it would have to wait
    std::unique_ptr<Schedule> custom;

    How(const char* function_, py::handle schedule_, py::handle steps_, py::handle normalize, py::handle method,
        py::handle precision, double eps, py::handle check_finite);
    OrthogonalizeOptions options_on(const CudaPlace* place) const;
    const Schedule& table(std::int64_t rows, std::int64_t cols) const;
};

}  // namespace raphson::bindings
