#include <pybind11/numpy.h>

#include <cstdint>

#include "bindings.h"
#include "raphson/sketch.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;

template <class T>
TensorView<T> view(const py::array& from) {
    auto* data = static_cast<T*>(const_cast<void*>(from.data()));
    return TensorView<T>(data, {from.shape(0), from.shape(1)}, {from.strides(0) / static_cast<py::ssize_t>(sizeof(T)), 1});
}

// Wrappers in raphson.sketch see to shapes, layouts and dtypes: everything here is contiguous along its columns.
void add(const SparseSign& s, const py::array& a, std::int64_t first, const py::object& weights, Doubles& out) {
    const Doubles values = weights.is_none() ? Doubles() : py::cast<Doubles>(weights);
    const double* w = weights.is_none() ? nullptr : values.data();
    double* to = out.mutable_data();
    const double flops = 2.0 * s.nnz() * static_cast<double>(a.size());
    run_released(flops, [&] {
        a.itemsize() == 8 ? s.add<double>(view<const double>(a), first, w, to) : s.add<float>(view<const float>(a), first, w, to);
    });
}

void adjoint(const SparseSign& s, const py::array& b, std::int64_t first, const py::array& out) {
    const double flops = 2.0 * s.nnz() * static_cast<double>(out.size());
    run_released(flops, [&] {
        b.itemsize() == 8 ? s.adjoint<double>(view<const double>(b), first, view<double>(out))
                          : s.adjoint<float>(view<const float>(b), first, view<float>(out));
    });
}

py::tuple entries(const SparseSign& s, std::int64_t first, std::int64_t n) {
    py::array_t<std::int32_t> row({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(s.nnz())});
    py::array_t<std::int8_t> sign({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(s.nnz())});
    s.entries(first, n, row.mutable_data(), sign.mutable_data());
    return py::make_tuple(row, sign);
}

}  // namespace

void bind_sketch(py::module_& m) {
    py::class_<SparseSign>(m, "SparseSign")
        .def(py::init<std::int64_t, std::int64_t, int, std::uint64_t>())
        .def("add", add)
        .def("adjoint", adjoint)
        .def("entries", entries);
}

}  // namespace raphson::bindings
