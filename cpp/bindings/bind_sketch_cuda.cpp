// Sketches of arrays that lie on a CUDA device.
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "raphson/sketch.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned types = float64_float32 | and_cuda;

[[noreturn]] void refuse(const Where& where, const std::string& what) {
    throw py::value_error(std::string(where.function) + ": " + where.argument + " " + what);
}

// A vector is a matrix of one column.
CudaMatrix matrix(const Tensor& x, std::int64_t rows) {
    const Where where = x.where();
    if (x.ndim() != 1 && x.ndim() != 2) refuse(where, "must have shape (" + std::to_string(rows) + ", d), got " + x.shape_text());
    if (x.shape()[0] != rows) refuse(where, "must have " + std::to_string(rows) + " rows, got shape " + x.shape_text());
    if (x.dtype() == DType::float16) {
        throw py::type_error(std::string(where.function) + ": " + where.argument + " must be float64 or float32, got float16");
    }
    const std::int64_t cols = x.ndim() == 1 ? 1 : x.shape()[1];
    const std::int64_t ld = x.shape()[0] <= 1 ? cols : x.strides()[0];
    if ((x.ndim() == 2 && cols > 1 && x.strides()[1] != 1) || ld < cols) {
        refuse(where, "must be contiguous along its rows on CUDA; pass a contiguous copy");
    }
    return {x.data(), x.dtype(), x.shape()[0], cols, ld};
}

py::object run(const std::string& function, const CudaEmbedding& s, bool adjoint, py::handle given, py::handle given_weights,
               py::handle given_out) {
    const char* const name = adjoint ? "B" : "A";
    Tensor x(given, {function.c_str(), name}, types);
    const CudaMatrix in = matrix(x, adjoint ? s.rows : s.cols);
    const CudaTable& table = cuda(function.c_str(), name);
    std::optional<Tensor> weights, out;
    if (!given_weights.is_none()) {
        weights.emplace(given_weights, Where{function.c_str(), "weights"}, bit(DType::float64) | and_cuda);
        require_same(x, *weights, false);
        const CudaMatrix w = matrix(*weights, s.cols);
        if (w.cols != 1 || w.ld != 1) refuse(weights->where(), "must be a contiguous vector");
    }
    std::vector<std::int64_t> shape{adjoint ? s.cols : s.rows};
    if (x.ndim() == 2) shape.push_back(in.cols);
    std::optional<NewArray> fresh;
    CudaMatrix to{};
    if (given_out.is_none()) {
        fresh.emplace(x, x.dtype(), x.ndim(), shape.data());
        to = {fresh->batch().data, x.dtype(), shape[0], in.cols, in.cols};
    } else {
        out.emplace(given_out, Where{function.c_str(), "out"}, types, Access::write);
        require_same(x, *out);
        out->require_writable(out->where());
        require_no_sharing(*out, out->where());
        require_disjoint(*out, x);
        to = matrix(*out, shape[0]);
        if (out->ndim() != x.ndim() || to.cols != in.cols) refuse(out->where(), "has shape " + out->shape_text());
        out->hold();
    }
    x.hold();
    if (weights) weights->hold();
    {
        const py::gil_scoped_release released;
        if (adjoint) {
            table.sketch_adjoint(s, in, to, *x.cuda());
        } else {
            table.sketch(s, in, weights ? static_cast<const double*>(weights->data()) : nullptr, to, *x.cuda());
        }
    }
    return fresh ? fresh->finish() : py::reinterpret_borrow<py::object>(given_out);
}

}  // namespace

void bind_sketch_cuda(py::module_& m) {
    m.def("_is_cuda", [](py::handle a) {
        if (!py::hasattr(py::type::handle_of(a), "__dlpack_device__")) return false;
        const int type = py::cast<int>(py::cast<py::tuple>(a.attr("__dlpack_device__")())[0]);
        return type == kDLCUDA || type == kDLCUDAManaged;
    });
    // nnz: 0 is an SRHT where one is given, else a Gaussian.
    const auto embedding = [](std::uint64_t seed, std::int64_t rows, std::int64_t cols, int nnz, const SRHT* srht) {
        return CudaEmbedding{seed, rows, cols, nnz, srht == nullptr ? nullptr : srht->picked().data()};
    };
    m.def("_cuda_sketch", [=](const std::string& function, std::uint64_t seed, std::int64_t rows, std::int64_t cols, int nnz, const SRHT* srht,
                              py::handle a, py::handle weights, py::handle out) {
        return run(function, embedding(seed, rows, cols, nnz, srht), false, a, weights, out);
    });
    m.def("_cuda_adjoint", [=](const std::string& function, std::uint64_t seed, std::int64_t rows, std::int64_t cols, int nnz, const SRHT* srht,
                               py::handle b) {
        return run(function, embedding(seed, rows, cols, nnz, srht), true, b, py::none(), py::none());
    });
}

}  // namespace raphson::bindings
