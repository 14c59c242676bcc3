// Threads, build information, error types, and the measured ceilings that benches use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <exception>
#include <new>

#include "bindings.h"
#include "common/philox.h"
#include "raphson/runtime.h"
#include "raphson/status.h"
#include "table.h"

namespace py = pybind11;

namespace raphson::bindings {
namespace {

void translate(std::exception_ptr pointer) {
    try {
        if (pointer) std::rethrow_exception(pointer);
    } catch (const TypeMismatch& error) {
        py::set_error(PyExc_TypeError, error.what());
    } catch (const Breakdown& error) {
        py::set_error(py::module_::import("numpy.linalg").attr("LinAlgError"), error.what());
    }
}

py::dict info() {
    const BuildInfo build = build_info();
    py::dict d;
    d["version"] = build.version;
    d["isa"] = build.isa;
    d["isas"] = build.isas;
    d["threads"] = get_num_threads();
    d["eigen"] = build.eigen;
    return d;
}

// Instructions on one thread for about `seconds`; the best of several stretches, since other processes interfere.
double fma_peak(const std::string& dtype, double seconds) {
    using Clock = std::chrono::steady_clock;
    const DType type = dtype == "float64" ? DType::float64 : dtype == "bfloat16" ? DType::bfloat16 : DType::float32;
    const auto loop = kernels().ceilings.fma_loop;
    double sink = 0, best = 0;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    do {
        const auto start = Clock::now();
        const double flops = loop(type, 100000, &sink);
        best = std::max(best, flops / std::chrono::duration<double>(Clock::now() - start).count());
    } while (Clock::now() < end);
    return best;
}

}  // namespace

void bind_runtime(py::module_& m) {
    py::register_exception_translator(translate);
    // Called at import. Not part of it: what a module's own start throws becomes ImportError, and this is a ValueError.
    m.def("_check_environment", [] {
        (void)kernels();
        (void)get_num_threads();
    });
    m.def("build_info", info);
    m.def("get_num_threads", get_num_threads);
    m.def("set_num_threads", set_num_threads, py::arg("count"));
    m.def("_fma_peak", fma_peak, py::arg("dtype"), py::arg("seconds"), py::call_guard<py::gil_scoped_release>());
    m.def("_read_once", [](const py::buffer& memory) {
        const py::buffer_info view = memory.request();
        const py::gil_scoped_release released;
        return kernels().ceilings.read_loop(view.ptr, view.size * view.itemsize / 1024 * 1024);
    });
    m.def("_philox", [](const PhiloxBlock& counter, std::uint64_t key) {
        return philox4x32(counter, PhiloxKey::from_seed(key));
    });
}

}  // namespace raphson::bindings
