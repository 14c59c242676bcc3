// What the bindings of gradient windows share, on the CPU and on CUDA: vectors in and out, and states as dictionaries.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <string>

#include "ihvp/window.h"
#include "tensor.h"

namespace raphson::bindings {

constexpr unsigned any_float = float64_float32_bfloat16 | bit(DType::float16);

WindowType window_type(const std::string& name);
// float32, and the window's own type.
unsigned gradient_types(WindowType type);
VectorRef vector(const Tensor& t);  // ValueError unless it has one axis

// A vector in, a vector out: a fresh one, the caller's out=, or the input itself.
struct VectorMap {
    Tensor x;
    std::optional<Tensor> out;
    std::optional<NewArray> fresh;
    py::object given_out;

    VectorMap(py::handle given, py::handle out_object, Where where, unsigned types);
    VectorRef from() const { return vector(x); }
    VectorRef to();
    void hold() {
        x.hold();
        if (out) out->hold();
    }
    py::object finish() { return fresh ? fresh->finish() : given_out; }
};

struct WindowShape {
    WindowType type;
    std::int64_t ring, dim, scales_per_row, blocks;
    bool error_feedback;
};
py::dict to_dict(const Window::State& state, const WindowShape& shape);
// ValueError, TypeError for what does not belong to such a window.
Window::State from_dict(const py::dict& given, const WindowShape& shape);

}  // namespace raphson::bindings
