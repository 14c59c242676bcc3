// Tall matrices from Python: arrays, compressed rows, iterators of blocks.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>

#include "raphson/rows.h"

namespace raphson::bindings {

namespace py = pybind11;
using Doubles = py::array_t<double, py::array::c_style>;

// Holds what a RowSource reads. Wrappers in raphson._rows see to shapes, layouts and dtypes.
class Rows {
public:
    static std::unique_ptr<Rows> dense(const py::array& values);
    static std::unique_ptr<Rows> compressed(const py::array& values, const py::array_t<std::int64_t>& starts,
                                            const py::array_t<std::int32_t>& index, std::int64_t cols);
    // make() gives a fresh iterator of Rows, each of one kind above.
    static std::unique_ptr<Rows> blocks(py::object make, std::int64_t rows, std::int64_t cols);

    const RowSource& source() const { return source_; }
    double size() const;  // numbers that a sweep reads, or a guess

private:
    Rows() = default;

    py::object values_, starts_, index_, make_;
    RowBlock block_;
    RowSource source_;
};

}  // namespace raphson::bindings
