#include "cuda_module.h"

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace raphson::bindings {
namespace {

std::string subject(const char* function, const char* argument) {
    return std::string(function) + ": " + argument + " is a CUDA array, but ";
}

}  // namespace

const CudaTable& cuda(const char* function, const char* argument) {
    static const CudaTable* found = nullptr;  // once it works, it goes on to
    if (found != nullptr) return *found;
    int count = 0;
    const CudaTable* table = nullptr;
    try {
        const py::object module = py::module_::import("raphson._cuda");
        table = module.attr("_table").cast<py::capsule>().get_pointer<const CudaTable>();
        count = table->device_count();
    } catch (const py::error_already_set& error) {
        if (error.matches(PyExc_ModuleNotFoundError)) {
            throw std::runtime_error(subject(function, argument) +
                                     "this raphson was built without CUDA (nvcc was not found, or RAPHSON_CUDA=OFF)");
        }
        if (!error.matches(PyExc_ImportError)) throw;
        throw std::runtime_error(subject(function, argument) + "CUDA does not work here: " + std::string(py::str(error.value())));
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(subject(function, argument) + "CUDA does not work here: " + error.what());
    }
    if (table->version != cuda_table_version) {
        throw std::runtime_error(subject(function, argument) + "raphson._cuda is of another version; install raphson anew");
    }
    if (count == 0) throw std::runtime_error(subject(function, argument) + "no CUDA device is to be found here");
    found = table;
    return *found;
}

void throw_no_cuda_kernels(const char* function, const char* argument) {
    (void)cuda(function, argument);
    throw std::runtime_error(subject(function, argument) + "this function has no CUDA kernels yet; copy it to the CPU first");
}

}  // namespace raphson::bindings
