#include "window_state.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace raphson::bindings {

WindowType window_type(const std::string& name) {
    static const char* const names[] = {"float64", "float32", "bfloat16", "float16", "int8"};
    for (int i = 0; i < 5; ++i) {
        if (name == names[i]) return static_cast<WindowType>(i);
    }
    throw py::value_error("GradientWindow: dtype must be one of float64, float32, bfloat16, float16, int8; got '" + name + "'");
}

unsigned gradient_types(WindowType type) {
    static constexpr unsigned own[] = {bit(DType::float64), bit(DType::float32), bit(DType::bfloat16), bit(DType::float16), 0};
    return bit(DType::float32) | own[static_cast<int>(type)];
}

VectorRef vector(const Tensor& t) {
    if (t.ndim() != 1) {
        throw py::value_error(std::string(t.where().function) + ": " + t.where().argument + " must have shape (dim,), got " +
                              t.shape_text());
    }
    return {t.data(), t.dtype(), t.shape()[0], t.strides()[0]};
}

VectorMap::VectorMap(py::handle given, py::handle out_object, Where where, unsigned types)
    : x(given, where, types), given_out(py::reinterpret_borrow<py::object>(out_object)) {
    const VectorRef ref = vector(x);
    const Where out_where{where.function, "out"};
    if (out_object.is_none()) {
        fresh.emplace(x, x.dtype(), 1, x.shape());
    } else if (out_object.is(given)) {
        x.require_writable(out_where);
        require_no_sharing(x, out_where);
    } else {
        out.emplace(out_object, out_where, types, Access::write);
        require_same(x, *out);
        out->require_writable(out_where);
        require_no_overlap(*out, x);
    }
    const BatchRef target = fresh ? fresh->batch() : out ? out->batch() : x.batch();
    if (target.ndim != 1 || target.shape[0] != ref.size) {
        throw py::value_error(std::string(where.function) + ": out must have shape " + x.shape_text() + ", got " +
                              (out ? out->shape_text() : x.shape_text()));
    }
}

VectorRef VectorMap::to() {
    const BatchRef target = fresh ? fresh->batch() : out ? out->batch() : x.batch();
    return {target.data, target.dtype, target.shape[0], target.strides[0]};
}

// ---- states ---------------------------------------------------------------------------------------------------------

namespace {

using Shape = std::vector<py::ssize_t>;

template <class T>
py::array_t<T> copy(const std::vector<T>& from, const Shape& shape) {
    py::array_t<T> to(shape);
    std::copy(from.begin(), from.end(), to.mutable_data());
    return to;
}
py::object entry(const py::dict& given, const char* key) {
    if (!given.contains(key)) throw py::value_error("load_state_dict: '" + std::string(key) + "' is missing");
    return given[key];
}
// C-contiguous, of exactly this dtype and shape.
py::array array(const py::dict& given, const char* key, const py::dtype& type, const Shape& shape) {
    const py::object object = entry(given, key);
    if (!py::isinstance<py::array>(object)) throw py::type_error("load_state_dict: " + std::string(key) + " must be an array");
    const auto from = py::reinterpret_borrow<py::array>(object);
    const bool same = from.dtype().equal(type) && from.ndim() == static_cast<py::ssize_t>(shape.size()) &&
                      std::equal(shape.begin(), shape.end(), from.shape());
    if (!same) {
        throw py::value_error("load_state_dict: " + std::string(key) + " must be " + std::string(py::str(type)) + " " +
                              std::string(py::str(py::tuple(py::cast(shape)))) + ", got " +
                              std::string(py::str(from.dtype())) + " " + std::string(py::str(from.attr("shape"))));
    }
    return py::array::ensure(from, py::array::c_style);
}
template <class T>
std::vector<T> values(const py::dict& given, const char* key, const Shape& shape) {
    const py::array from = array(given, key, py::dtype::of<T>(), shape);
    const T* first = static_cast<const T*>(from.data());
    return {first, first + from.size()};
}
template <class T>
T number(const py::dict& given, const char* key) {
    try {
        return py::cast<T>(entry(given, key));
    } catch (const py::cast_error&) {
        throw py::type_error("load_state_dict: " + std::string(key) + " must be a number");
    }
}

py::dtype row_type(WindowType type) {
    static const char* const types[] = {"float64", "float32", "uint16", "float16", "int8"};
    return py::dtype(types[static_cast<int>(type)]);
}
Shape of_rows(const WindowShape& s) { return {s.ring, s.dim}; }
Shape of_scales(const WindowShape& s) { return {s.ring, s.scales_per_row}; }
Shape of_residual(const WindowShape& s) { return {s.error_feedback ? s.dim : 0}; }
Shape of_core(const WindowShape& s) { return {s.blocks, s.ring, s.ring}; }

}  // namespace

py::dict to_dict(const Window::State& state, const WindowShape& shape) {
    py::array rows(row_type(shape.type), of_rows(shape));
    std::memcpy(rows.mutable_data(), state.rows.data(), state.rows.size());
    py::dict result;
    result["rows"] = rows;
    result["scales"] = copy(state.scales, of_scales(shape));
    result["row_scale"] = copy(state.row_scale, {shape.ring});
    result["residual"] = copy(state.residual, of_residual(shape));
    result["gram"] = copy(state.gram, of_core(shape));
    result["factor"] = copy(state.factor, of_core(shape));
    result["length"] = state.length;
    result["head"] = state.head;
    result["lambda"] = state.lambda;
    result["shift"] = state.shift;
    return result;
}

Window::State from_dict(const py::dict& given, const WindowShape& shape) {
    Window::State state;
    const py::array rows = array(given, "rows", row_type(shape.type), of_rows(shape));
    state.rows.resize(static_cast<std::size_t>(rows.nbytes()));
    std::memcpy(state.rows.data(), rows.data(), state.rows.size());
    state.scales = values<float>(given, "scales", of_scales(shape));
    state.row_scale = values<double>(given, "row_scale", {shape.ring});
    state.residual = values<float>(given, "residual", of_residual(shape));
    state.gram = values<double>(given, "gram", of_core(shape));
    state.factor = values<double>(given, "factor", of_core(shape));
    state.length = number<std::int64_t>(given, "length");
    state.head = number<std::int64_t>(given, "head");
    state.lambda = number<double>(given, "lambda");
    state.shift = number<double>(given, "shift");
    return state;
}

}  // namespace raphson::bindings
