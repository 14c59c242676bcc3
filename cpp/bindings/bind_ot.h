// What both halves of transport, on the CPU and on CUDA devices, hand to Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "ot/queries.h"
#include "raphson/ot.h"

namespace raphson::bindings {

namespace py = pybind11;
using Doubles = py::array_t<double, py::array::c_style>;

inline std::vector<double> numbers(const Doubles& from) { return {from.data(), from.data() + from.size()}; }
Doubles array(const std::vector<double>& from);
py::dict as_dict(const TransportSolution& solution);
py::tuple as_tuple(const SparseResult& result);  // row ends, columns, values, dropped mass
// Takes the GIL.
bool call(const py::object& callback, const TransportRecord& record, int iteration);

}  // namespace raphson::bindings
