#include "cuda_module.h"

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace raphson::bindings {

void throw_cuda_unavailable(const char* function, const char* argument) {
    const std::string subject = std::string(function) + ": " + argument + " is a CUDA array, but ";
    py::object count;
    try {
        count = py::module_::import("raphson._cuda").attr("device_count")();
    } catch (const py::error_already_set& error) {
        if (error.matches(PyExc_ModuleNotFoundError)) {
            throw std::runtime_error(subject + "this raphson was built without CUDA (nvcc was not found, or RAPHSON_CUDA=OFF)");
        }
        if (!error.matches(PyExc_ImportError) && !error.matches(PyExc_RuntimeError)) throw;
        throw std::runtime_error(subject + "CUDA does not work here: " + std::string(py::str(error.value())));
    }
    if (py::cast<int>(count) == 0) throw std::runtime_error(subject + "no CUDA device is to be found here");
    throw std::runtime_error(subject + "this function has no CUDA kernels yet; copy it to the CPU first");
}

}  // namespace raphson::bindings
