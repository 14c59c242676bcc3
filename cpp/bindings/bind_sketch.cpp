#include <pybind11/numpy.h>

#include <algorithm>
#include <cstdint>

#include "bindings.h"
#include "common/philox.h"
#include "raphson/sketch.h"
#include "rows.h"
#include "rows_cuda.h"
#include "sketch/lstsq_rows.h"
#include "sketch/reflection.h"
#include "sketch/sweep.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr std::uint32_t row_sample_stream = 0x52534d00;

template <class T>
TensorView<T> view(const py::array& from) {
    auto* data = static_cast<T*>(const_cast<void*>(from.data()));
    return TensorView<T>(data, {from.shape(0), from.shape(1)}, {from.strides(0) / static_cast<py::ssize_t>(sizeof(T)), 1});
}

// Asked before the GIL is let go: the dtype is a Python object, and so is what names it.
bool is_double(const py::array& a) { return a.itemsize() == 8; }

// Wrappers in raphson.sketch see to shapes, layouts and dtypes: everything here is contiguous along its columns.
void add(const SparseSign& s, const py::array& a, std::int64_t first, const py::object& weights, Doubles& out) {
    const Doubles values = weights.is_none() ? Doubles() : py::cast<Doubles>(weights);
    const double* w = weights.is_none() ? nullptr : values.data();
    double* to = out.mutable_data();
    const double flops = 2.0 * s.nnz() * static_cast<double>(a.size());
    const bool wide = is_double(a);
    run_released(flops, [&] {
        wide ? s.add<double>(view<const double>(a), first, w, to) : s.add<float>(view<const float>(a), first, w, to);
    });
}

void adjoint(const SparseSign& s, const py::array& b, std::int64_t first, const py::array& out) {
    const double flops = 2.0 * s.nnz() * static_cast<double>(out.size());
    const bool wide = is_double(b);
    run_released(flops, [&] {
        wide ? s.adjoint<double>(view<const double>(b), first, view<double>(out))
             : s.adjoint<float>(view<const float>(b), first, view<float>(out));
    });
}

py::tuple entries(const SparseSign& s, std::int64_t first, std::int64_t n) {
    py::array_t<std::int32_t> row({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(s.nnz())});
    py::array_t<std::int8_t> sign({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(s.nnz())});
    s.entries(first, n, row.mutable_data(), sign.mutable_data());
    return py::make_tuple(row, sign);
}

// x, out: dense, alike, rows packed in out. Gives the mean of x's columns (zeros for row −1).
Doubles reflect_rows(const Rows& x, std::int64_t row, const py::object& weights, double total, py::array& out) {
    const Doubles values = weights.is_none() ? Doubles() : py::cast<Doubles>(weights);
    Doubles mean(x.source().cols);
    std::fill_n(mean.mutable_data(), mean.size(), 0.0);
    const Reflection by{row, weights.is_none() ? nullptr : values.data(), total};
    void* const to = out.mutable_data();
    double* const means = mean.mutable_data();
    run_released(6 * x.size(), [&] { reflect(*x.source().whole, by, to, means); });
    return mean;
}

template <class Embedding>
void add_dense(const Embedding& s, const py::array& a, std::int64_t first, const py::object& weights, Doubles& out) {
    const Doubles values = weights.is_none() ? Doubles() : py::cast<Doubles>(weights);
    const double* w = weights.is_none() ? nullptr : values.data();
    double* to = out.mutable_data();
    const bool wide = is_double(a);
    run_released(2.0 * static_cast<double>(s.rows()) * static_cast<double>(a.size()), [&] {
        wide ? s.template add<double>(view<const double>(a), first, w, to) : s.template add<float>(view<const float>(a), first, w, to);
    });
}

template <class Embedding>
Doubles dense_entries(const Embedding& s, std::int64_t first, std::int64_t n) {
    Doubles out({static_cast<py::ssize_t>(s.rows()), static_cast<py::ssize_t>(n)});
    double* to = out.mutable_data();
    run_released(20.0 * static_cast<double>(out.size()), [&] { s.entries(first, n, to, n); });
    return out;
}

template <class Embedding>
void bind_dense(py::module_& m, const char* name) {
    py::class_<Embedding>(m, name)
        .def(py::init<std::int64_t, std::int64_t, std::uint64_t>())
        .def("add", add_dense<Embedding>)
        .def("entries", dense_entries<Embedding>);
}

LstsqOptions lstsq_options(double ridge, double rcond, int method, double tol, std::uint64_t seed) {
    LstsqOptions options;
    options.ridge = ridge;
    options.rcond = rcond;
    options.method = static_cast<LstsqMethod>(method);
    options.tol = tol;
    options.seed = seed;
    return options;
}

py::dict as_dict(const LstsqResult& r, std::int64_t n, std::int64_t k) {
    py::dict d;
    d["x"] = Doubles({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(k)}, r.x.data());
    d["residual_norm"] = Doubles(static_cast<py::ssize_t>(k), r.residual_norm.data());
    d["backward_error"] = Doubles(static_cast<py::ssize_t>(k), r.backward_error.data());
    d["rank"] = r.rank;
    d["cond"] = r.cond;
    d["iterations"] = r.iterations;
    d["sweeps"] = r.sweeps;
    d["status"] = to_string(r.status);
    d["method"] = to_string(r.method);
    return d;
}

py::dict solve(const Rows& a, const Doubles& b, bool single, double ridge, double rcond, int method, double tol, std::uint64_t seed) {
    const LstsqOptions options = lstsq_options(ridge, rcond, method, tol, seed);
    const double* right = b.data();
    const std::int64_t k = b.shape(1);
    LstsqResult r;
    run_released(20 * a.size(), [&] { r = lstsq(a.source(), right, k, single ? DType::float32 : DType::float64, options); });
    return as_dict(r, a.source().cols, k);
}

py::dict solve_on_device(const PyCudaRows& a, py::handle b, bool single, double ridge, double rcond, int method, double tol,
                         std::uint64_t seed) {
    const LstsqOptions options = lstsq_options(ridge, rcond, method, tol, seed);
    const PyCudaRows::Here here = a.here();
    Tensor right(b, {"lstsq", "b"}, float64_float32_cuda);
    here.hold(right);
    const CudaView columns = view(right);
    LstsqResult r;
    run_released(long_work, [&] { r = lstsq_on_device(*here.rows(), columns, single ? DType::float32 : DType::float64, options); });
    return as_dict(r, here.columns(), columns.columns);
}

}  // namespace

void bind_sketch(py::module_& m) {
    py::class_<SparseSign>(m, "SparseSign")
        .def(py::init<std::int64_t, std::int64_t, int, std::uint64_t>())
        .def("add", add)
        .def("adjoint", adjoint)
        .def("entries", entries);
    bind_dense<Gaussian>(m, "Gaussian");
    bind_dense<SRHT>(m, "SRHT");
    // n numbers on [0, 1), by position.
    m.def("_uniforms", [](std::uint64_t seed, std::uint32_t stream, std::int64_t n) {
        Doubles out(static_cast<py::ssize_t>(n));
        double* const to = out.mutable_data();
        for (std::int64_t i = 0; i < n; ++i) {
            const PhiloxBlock block = philox_at(static_cast<std::uint64_t>(i), 0, row_sample_stream + stream, PhiloxKey::from_seed(seed));
            to[i] = philox_uniform(block[0], block[1]);
        }
        return out;
    });
    m.def("reflect_rows", reflect_rows);
    m.def("lstsq", solve);
    m.def("lstsq", solve_on_device);
    // For the bench and the tests: Aᵀ(A v) for the rows of v (k × cols), in one read.
    m.def("_normal", [](const Rows& a, const Doubles& v) {
        Doubles out({v.shape(0), v.shape(1)});
        Sweep what;
        what.v = v.data();
        what.in = what.outs = static_cast<int>(v.shape(0));
        what.out = out.mutable_data();
        what.stride = v.shape(1);
        run_released(20 * a.size(), [&] {
            sweep(a.source(), what, [&](std::int64_t, std::int64_t rows, const double* t, double* u, double*) { std::copy_n(t, rows * what.in, u); });
        });
        return out;
    });
}

}  // namespace raphson::bindings
