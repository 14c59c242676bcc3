// Static inverse Fisher products and their relatives. Shapes and ranges are checked by the Python wrappers that call this.
#include <pybind11/numpy.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "cuda_views.h"
#include "ihvp/check.h"
#include "ihvp/columns.h"
#include "ihvp/device_fisher.h"
#include "ihvp/fisher.h"
#include "ihvp/vector.h"
#include "table.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned any_float = float64_float32_bfloat16 | bit(DType::float16);
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Indices = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using Mask = py::array_t<bool, py::array::c_style | py::array::forcecast>;

// Two axes, rows contiguous: read in place, else copied once. A single axis is one row when `one_row` allows it. On a device
// nothing is copied here.
struct Matrix {
    Tensor tensor;
    std::vector<char> copied;
    RowMatrix rows{};

    Matrix(py::handle object, Where where, bool one_row = false, unsigned types = any_float) : tensor(object, where, types) {
        const bool single = one_row && tensor.ndim() == 1;
        if (tensor.ndim() != 2 && !single) {
            throw py::value_error(std::string(where.function) + ": " + where.argument + " must have two axes, got " +
                                  tensor.shape_text());
        }
        const int last = single ? 0 : 1;
        const std::int64_t m = single ? 1 : tensor.shape()[0], d = tensor.shape()[last];
        const std::int64_t down = single ? d : tensor.strides()[0], along = tensor.strides()[last];
        tensor.hold();
        rows = {tensor.data(), tensor.dtype(), m, d, down};
        if (along == 1 || d <= 1 || tensor.cuda() != nullptr) return;
        const std::int64_t size = itemsize(tensor.dtype());
        copied.resize(static_cast<std::size_t>(m * d * size));
        for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t k = 0; k < d; ++k) {
                std::memcpy(copied.data() + (i * d + k) * size,
                            static_cast<const char*>(tensor.data()) + (i * down + k * along) * size,
                            static_cast<std::size_t>(size));
            }
        }
        rows.data = copied.data();
        rows.stride = d;
    }
    void check_finite() const {
        const Where where = tensor.where();
        for (std::int64_t i = 0; i < rows.rows; ++i) {
            char* row = static_cast<char*>(const_cast<void*>(rows.data)) + i * rows.stride * itemsize(rows.dtype);
            require_finite({row, rows.dtype, rows.cols, 1}, where.function, where.argument);
        }
    }
    double work() const { return static_cast<double>(rows.rows) * static_cast<double>(rows.cols); }
};

class PyFisher {
public:
    PyFisher(py::handle grads, double damping, std::int64_t block_size) : matrix_(grads, {"FisherInverse", "grads"}) {
        run_released(cost() * static_cast<double>(matrix_.rows.rows), [&] {
            fisher_.emplace(matrix_.rows, damping, block_size);
        });
    }
    py::tuple shape() const { return py::make_tuple(matrix_.rows.rows, matrix_.rows.cols); }
    py::object solve(py::handle given) const {
        Matrix x(given, {"solve", "x"}, true);
        if (x.rows.cols != fisher_->dim()) {
            throw py::value_error("solve: x must have shape (" + std::to_string(fisher_->dim()) + ",) or (k, " +
                                  std::to_string(fisher_->dim()) + "), got " + x.tensor.shape_text());
        }
        NewArray out(x.tensor, x.tensor.dtype(), x.tensor.ndim(), x.tensor.shape());
        const BatchRef to = out.batch();
        run_released(4 * cost() * static_cast<double>(x.rows.rows), [&] {
            x.check_finite();
            fisher_->solve(x.rows, to.dtype, to.data);
        });
        return out.finish();
    }
    Doubles diagonal() const {
        Doubles out(static_cast<py::ssize_t>(fisher_->dim()));
        double* data = out.mutable_data();
        run_released(square_cost(), [&] { fisher_->diagonal(data); });
        return out;
    }
    py::tuple scores(const Doubles& w, std::int64_t group) const {
        Doubles scores(static_cast<py::ssize_t>(fisher_->dim() / group)), multipliers(static_cast<py::ssize_t>(fisher_->dim()));
        const double* from = w.data();
        double *to = scores.mutable_data(), *u = multipliers.mutable_data();
        run_released(square_cost(), [&] { fisher_->scores(from, group, to, u); });
        return py::make_tuple(scores, multipliers);
    }
    Doubles submatrix(const Indices& rows, const Indices& cols) const {
        Doubles out(std::vector<py::ssize_t>{rows.size(), cols.size()});
        const std::int64_t *r = rows.data(), *c = cols.data(), nr = rows.size(), nc = cols.size();
        double* data = out.mutable_data();
        const double m = static_cast<double>(fisher_->count());
        run_released(m * (m + static_cast<double>(nr)) * static_cast<double>(nr + nc),
                     [&] { fisher_->submatrix(r, nr, c, nc, data); });
        return out;
    }
    double element(std::int64_t i, std::int64_t j) const {
        double entry = 0;
        fisher_->submatrix(&i, 1, &j, 1, &entry);
        return entry;
    }
    double logdet() const { return fisher_->logdet(); }
    Doubles remove(const Doubles& w, const Mask& kept) const {
        Doubles out(static_cast<py::ssize_t>(fisher_->dim()));
        const double* from = w.data();
        const auto* mask = reinterpret_cast<const std::uint8_t*>(kept.data());
        double* data = out.mutable_data();
        run_released(square_cost(), [&] { fisher_->remove(from, mask, data); });
        return out;
    }
    double energy(const Doubles& change) const {
        const double* from = change.data();
        double result = 0;
        run_released(cost(), [&] { result = fisher_->energy(from); });
        return result;
    }

private:
    double cost() const { return 2 * matrix_.work(); }
    double square_cost() const { return cost() * static_cast<double>(matrix_.rows.rows); }

    Matrix matrix_;
    std::optional<Fisher> fisher_;
};

// Any floating-point array as a contiguous copy in float64.
Doubles widened(py::handle given, const std::string& function, const std::string& argument) {
    const Tensor x(given, {function.c_str(), argument.c_str()}, any_float);
    const std::int64_t size = itemsize(x.dtype());
    std::vector<char> packed(static_cast<std::size_t>(x.size() * size));
    std::vector<std::int64_t> index(static_cast<std::size_t>(x.ndim()), 0);
    for (std::int64_t i = 0; i < x.size(); ++i) {
        std::int64_t at = 0;
        for (int k = 0; k < x.ndim(); ++k) at += index[static_cast<std::size_t>(k)] * x.strides()[k];
        std::memcpy(packed.data() + i * size, static_cast<const char*>(x.data()) + at * size, static_cast<std::size_t>(size));
        for (int k = x.ndim() - 1; k >= 0 && ++index[static_cast<std::size_t>(k)] == x.shape()[k]; --k) index[static_cast<std::size_t>(k)] = 0;
    }
    Doubles out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
    kernels().ihvp.widen(stored_of(x.dtype()), packed.data(), x.size(), out.mutable_data());
    return out;
}

// float64 values in the framework and dtype of an array.
py::object narrowed(py::handle like, const Doubles& values) {
    const Tensor model(like, {"raphson", "array"}, any_float);
    const std::vector<std::int64_t> shape(values.shape(), values.shape() + values.ndim());
    NewArray fresh(model, model.dtype(), static_cast<int>(shape.size()), shape.data());
    kernels().ihvp.narrow(stored_of(model.dtype()), values.data(), values.size(), fresh.batch().data);
    return fresh.finish();
}

Doubles gram_array(py::handle given, const std::string& function, const std::string& argument) {
    Matrix a(given, {function.c_str(), argument.c_str()});
    const auto m = static_cast<py::ssize_t>(a.rows.rows);
    Doubles out(std::vector<py::ssize_t>{m, m});
    double* data = out.mutable_data();
    run_released(a.work() * static_cast<double>(m), [&] {
        a.check_finite();
        gram(a.rows, nullptr, data);
    });
    return out;
}

Doubles cross_arrays(py::handle given_a, py::handle given_b, const std::string& function, const std::string& name_a,
                     const std::string& name_b) {
    Matrix a(given_a, {function.c_str(), name_a.c_str()}), b(given_b, {function.c_str(), name_b.c_str()});
    require_same(a.tensor, b.tensor);
    if (a.rows.cols != b.rows.cols) {
        throw py::value_error(function + ": " + name_a + " " + a.tensor.shape_text() + " and " + name_b + " " +
                              b.tensor.shape_text() + " must have rows of one length");
    }
    Doubles out(std::vector<py::ssize_t>{a.rows.rows, b.rows.rows});
    double* data = out.mutable_data();
    run_released(2 * a.work() * static_cast<double>(b.rows.rows), [&] {
        a.check_finite();
        b.check_finite();
        cross(a.rows, b.rows, data);
    });
    return out;
}

// Σⱼ coefficients[j]·rows[j] in the framework and dtype of the rows.
py::object combine_array(py::handle given, const Doubles& coefficients) {
    Matrix a(given, {"gauss_newton_step", "jac"});
    if (coefficients.size() != a.rows.rows) throw py::value_error("one coefficient a row");
    const std::int64_t shape[] = {a.rows.cols};
    NewArray out(a.tensor, a.tensor.dtype(), 1, shape);
    const BatchRef to = out.batch();
    const double* c = coefficients.data();
    run_released(2 * a.work(), [&] { combine_rows(a.rows, c, to.dtype, to.data); });
    return out.finish();
}

// v: float64 on the host, or any type on inv's device.
py::object rank_one_array(py::handle given, py::handle given_v, double alpha, double beta, double weight,
                          py::handle given_out) {
    constexpr const char* name = "rank_one_inverse_update";
    constexpr unsigned types = any_float | and_cuda;
    Matrix inverse(given, {name, "inv"}, false, types);
    const bool on_device = inverse.tensor.cuda() != nullptr;
    Tensor v(given_v, {name, "v"}, types);
    if (on_device) require_same(inverse.tensor, v, false);
    v.hold();
    const std::int64_t n = inverse.rows.rows;
    if (inverse.rows.cols != n || v.ndim() != 1 || v.size() != n) {
        throw py::value_error(std::string(name) + ": inv must be (n, n) and v (n,), got " + inverse.tensor.shape_text() +
                              " and " + v.shape_text());
    }
    std::optional<Tensor> out;
    std::optional<NewArray> fresh;
    void* target = nullptr;
    const auto contiguous = [&](const Tensor& t) {
        if (n > 1 && (t.strides()[1] != 1 || t.strides()[0] != n)) {
            throw py::value_error(std::string(name) + ": out must be C-contiguous");
        }
        return t.data();
    };
    if (given_out.is_none()) {
        fresh.emplace(inverse.tensor, inverse.tensor.dtype(), 2, inverse.tensor.shape());
        target = fresh->batch().data;
    } else if (given_out.is(given)) {
        inverse.tensor.require_writable({name, "out"});
        target = contiguous(inverse.tensor);
    } else {
        out.emplace(given_out, Where{name, "out"}, types, Access::write);
        require_same(inverse.tensor, *out);
        out->require_writable({name, "out"});
        require_no_overlap(*out, inverse.tensor);
        if (out->ndim() != 2 || out->shape()[0] != n || out->shape()[1] != n) {
            throw py::value_error(std::string(name) + ": out must have shape " + inverse.tensor.shape_text() + ", got " +
                                  out->shape_text());
        }
        out->hold();
        target = contiguous(*out);
    }
    double divisor = 1;
    if (on_device) {
        const CudaTable& table = cuda(name, "inv");
        run_released(long_work, [&] {
            const CudaPlace place = *inverse.tensor.cuda();
            divisor = table.relatives->rank_one_inverse(view(inverse.tensor), view(v), alpha, beta, weight, target, place);
        });
    } else {
        const auto* const values = static_cast<const double*>(v.data());
        run_released(6 * inverse.work(), [&] {
            inverse.check_finite();
            require_finite({v.data(), DType::float64, n, 1}, name, "v");
            divisor = rank_one_inverse(inverse.rows, values, alpha, beta, weight, target);
        });
    }
    if (divisor <= 0 || (!on_device && !std::isfinite(divisor))) {
        throw py::value_error(std::string(name) + ": inv is not positive definite along v (1 + vᵀPv = " +
                              std::to_string(divisor) + "); nothing was written");
    }
    return fresh ? fresh->finish() : py::reinterpret_borrow<py::object>(given_out);
}

}  // namespace

void bind_fisher(py::module_& m) {
    py::class_<PyFisher>(m, "FisherInverse")
        .def(py::init<py::handle, double, std::int64_t>())
        .def_property_readonly("shape", &PyFisher::shape)
        .def("solve", &PyFisher::solve)
        .def("diagonal", &PyFisher::diagonal)
        .def("scores", &PyFisher::scores)
        .def("submatrix", &PyFisher::submatrix)
        .def("element", &PyFisher::element)
        .def("logdet", &PyFisher::logdet)
        .def("remove", &PyFisher::remove)
        .def("energy", &PyFisher::energy);
    m.def("_widened", widened);
    m.def("_narrowed", narrowed);
    m.def("gram", gram_array);
    m.def("cross", cross_arrays);
    m.def("combine_rows", combine_array);
    m.def("rank_one_inverse", rank_one_array);
}

}  // namespace raphson::bindings
