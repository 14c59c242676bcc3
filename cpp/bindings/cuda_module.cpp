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

const CudaTable* found = nullptr;  // once it works, it goes on to

// `subject` is called for the words before "but".
template <class Subject>
const CudaTable& table(Subject&& subject) {
    if (found != nullptr) return *found;
    int count = 0;
    const CudaTable* offered = nullptr;
    try {
        const py::object module = py::module_::import("raphson._cuda");
        offered = module.attr("_table").cast<py::capsule>().get_pointer<const CudaTable>();
        count = offered->device_count();
    } catch (const py::error_already_set& error) {
        if (error.matches(PyExc_ModuleNotFoundError)) {
            throw std::runtime_error(subject() + "this raphson was built without CUDA (nvcc was not found, or RAPHSON_CUDA=OFF)");
        }
        if (!error.matches(PyExc_ImportError)) throw;
        throw std::runtime_error(subject() + "CUDA does not work here: " + std::string(py::str(error.value())));
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(subject() + "CUDA does not work here: " + error.what());
    }
    if (offered->version != cuda_table_version) {
        throw std::runtime_error(subject() + "raphson._cuda is of another version; install raphson anew");
    }
    if (count == 0) throw std::runtime_error(subject() + "no CUDA device is to be found here");
    found = offered;
    return *found;
}

}  // namespace

const CudaTable& cuda(const char* function, const char* argument) {
    return table([&] { return subject(function, argument); });
}

const CudaTable& cuda_device(const char* function, int device) {
    const std::string prefix = function + std::string(": CUDA device ") + std::to_string(device) + " was asked for, but ";
    const CudaTable& found = table([&] { return prefix; });
    const int count = found.device_count();
    if (device < 0 || device >= count) throw py::value_error(prefix + "there are " + std::to_string(count));
    return found;
}

void throw_no_cuda_kernels(const char* function, const char* argument) {
    (void)cuda(function, argument);
    throw std::runtime_error(subject(function, argument) + "this function has no CUDA kernels yet; copy it to the CPU first");
}

}  // namespace raphson::bindings
