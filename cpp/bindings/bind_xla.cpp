// Calls from compiled XLA programs (jax.jit) into raphson: one handler of XLA's foreign-function interface that hands XLA's
// own buffers to a Python function as NumPy arrays, arguments read-only, results to be written. Unlike jax.pure_callback it
// makes no arrays of jax's inside a running program, which can deadlock, and copies nothing.
#include <pybind11/numpy.h>

#include <cstring>
#include <string>
#include <vector>

#include "bindings.h"
#include "xla_call.h"

namespace py = pybind11;

namespace raphson::bindings {
namespace {

PyObject* served_by = nullptr;  // function(name, settings, inputs, outputs); kept for ever, as XLA keeps the handler

py::dtype numpy_dtype(xla::Type type) {
    switch (type) {
        case xla::Type::pred: return py::dtype("bool");
        case xla::Type::s32: return py::dtype("int32");
        case xla::Type::s64: return py::dtype("int64");
        case xla::Type::f16: return py::dtype("float16");
        // jax depends on ml_dtypes, which is where NumPy's bfloat16 comes from
        case xla::Type::bf16: return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
        case xla::Type::f32: return py::dtype("float32");
        case xla::Type::f64: return py::dtype("float64");
    }
    throw py::type_error("raphson: XLA's dtype " + std::to_string(static_cast<int>(type)) + " is not served");
}

py::array as_numpy(const xla::Buffer& buffer, bool writable) {
    const std::vector<py::ssize_t> shape(buffer.dims, buffer.dims + buffer.rank);
    static const char nobody = 0;  // an owner, so that NumPy neither copies nor frees: the memory is XLA's
    py::array array(numpy_dtype(buffer.dtype), shape, {}, buffer.data, py::capsule(&nobody, [](void*) {}));
    if (!writable) array.attr("setflags")(false);
    return array;
}

py::list as_list(const xla::Buffers& buffers, bool writable) {
    py::list arrays;
    for (std::int64_t i = 0; i < buffers.size; ++i) arrays.append(as_numpy(*buffers.buffers[i], writable));
    return arrays;
}

py::str attribute(const xla::Attributes& attributes, const char* name) {
    for (std::int64_t i = 0; i < attributes.size; ++i) {
        const xla::Span& found = *attributes.names[i];
        if (found.size != std::strlen(name) || std::memcmp(found.data, name, found.size) != 0) continue;
        if (attributes.kinds[i] != xla::string_attribute) break;
        const auto& value = *static_cast<const xla::Span*>(attributes.values[i]);
        return py::str(value.data, value.size);
    }
    throw py::value_error(std::string("raphson: the call has no string attribute ") + name);
}

xla::Error* failure(const xla::Api* api, xla::Code code, const std::string& message) {
    xla::ErrorArguments arguments{};
    arguments.struct_size = offsetof(xla::ErrorArguments, code) + sizeof(xla::Code);
    arguments.message = message.c_str();  // XLA copies it
    arguments.code = code;
    return api->create_error(&arguments);
}

xla::Code code_of(const py::error_already_set& error) {
    if (error.matches(PyExc_ValueError) || error.matches(PyExc_TypeError)) return xla::Code::invalid_argument;
    if (error.matches(PyExc_MemoryError)) return xla::Code::resource_exhausted;
    if (error.matches(PyExc_KeyboardInterrupt)) return xla::Code::cancelled;
    return xla::Code::internal;
}

// What XLA asks of a handler before it runs one. The call frame is the same in all versions 0.x, so the answer is the
// runtime's own version (of old runtimes, which do not tell, the oldest); another major number is refused by XLA.
void tell_version(const xla::CallFrame& frame) {
    xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(frame.extensions)->metadata;
    const bool told = frame.api != nullptr && frame.api->version.major == xla::major_version;
    metadata.version.major = xla::major_version;
    metadata.version.minor = told ? frame.api->version.minor : xla::oldest_minor_version;
    metadata.traits = 0;
}

xla::Error* handler(const xla::CallFrame* frame) {
    if (frame->extensions != nullptr && frame->extensions->type == xla::metadata_extension) {
        tell_version(*frame);
        return nullptr;
    }
    const py::gil_scoped_acquire gil;
    try {
        const py::handle serve = served_by;
        serve(attribute(frame->attributes, "call"), attribute(frame->attributes, "settings"), as_list(frame->arguments, false),
              as_list(frame->results, true));
        return nullptr;
    } catch (py::error_already_set& error) {
        return failure(frame->api, code_of(error), error.what());
    } catch (const std::exception& error) {
        return failure(frame->api, xla::Code::internal, error.what());
    }
}

}  // namespace

void bind_xla(py::module_& m) {
    m.def(
        "_xla_handler",
        [](const py::function& serve) {
            served_by = serve.inc_ref().ptr();
            return py::capsule(reinterpret_cast<void*>(&handler));
        },
        py::arg("serve"), "The handler to register with jax.ffi, which calls serve(name, settings, inputs, outputs).");
}

}  // namespace raphson::bindings
