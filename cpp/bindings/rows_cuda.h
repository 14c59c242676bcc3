// Tall matrices on a CUDA device, from Python.
#pragma once

#include <memory>
#include <string>

#include "cuda_views.h"
#include "sketch/device_rows.h"

namespace raphson::bindings {

// Keeps the caller's array and not its memory: every call asks anew for that and the stream. raphson._rows sees to shapes.
class PyCudaRows {
public:
    PyCudaRows(std::string function, std::string name, py::object array)
        : function_(std::move(function)), name_(std::move(name)), array_(std::move(array)) {}

    // The array where it lies now, for as long as this lives. Needs the GIL.
    class Here {
    public:
        explicit Here(const PyCudaRows& self);
        const Tensor& array() const { return array_; }
        std::int64_t columns() const { return array_.shape()[1]; }
        // Another array of the call, on the same device.
        void hold(Tensor& beside) const;
        std::unique_ptr<CudaRows> rows() const;  // for use without the GIL

    private:
        Tensor array_;
        const CudaTable& table_;
    };
    Here here() const { return Here(*this); }

private:
    std::string function_, name_;
    py::object array_;
};

}  // namespace raphson::bindings
