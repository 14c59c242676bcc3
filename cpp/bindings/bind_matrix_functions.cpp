#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "cuda_views.h"
#include "newton_schulz/device_functions.h"
#include "newton_schulz/functions.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

MatrixFunction function_of(const std::string& name) {
    if (name == "polar") return MatrixFunction::polar;
    if (name == "sign") return MatrixFunction::sign;
    if (name == "sqrt") return MatrixFunction::sqrt;
    if (name == "inverse") return MatrixFunction::inverse;
    if (name == "inverse_root") return MatrixFunction::inverse_root;
    throw std::invalid_argument("unknown matrix function " + name);
}

// One array of a call, its results, and a report for each of its matrices.
struct Argument {
    Tensor a;
    NewArray value;
    std::optional<NewArray> second;
    std::vector<MatrixReport> reports;

    // A shape that the check refuses gets results of its own shape, so that there is something to refuse.
    Argument(py::handle given, const char* name, MatrixFunction function)
        : a(given, {name, function == MatrixFunction::polar ? "x" : "a"}, float64_float32_cuda),
          value(a, a.dtype(), a.ndim(), a.shape()) {
        require_real(a);
        if (a.ndim() < 2) return;
        if (function == MatrixFunction::polar || function == MatrixFunction::sqrt) {
            std::vector<std::int64_t> shape(a.shape(), a.shape() + a.ndim());
            const auto axes = shape.size();
            shape[axes - 1] = shape[axes - 2] = std::min(shape[axes - 1], shape[axes - 2]);
            second.emplace(a, a.dtype(), a.ndim(), shape.data());
        }
        reports.resize(static_cast<std::size_t>(a.batch().count()));
    }
    FunctionItem item() { return {a.batch(), value.batch(), second ? second->batch() : BatchRef{}, reports.data()}; }

    template <class Field>
    py::object field(Field&& get) const {
        using Value = decltype(get(reports.front()));
        if (a.ndim() == 2) return py::cast(get(reports.front()));
        std::vector<py::ssize_t> shape(a.shape(), a.shape() + a.ndim() - 2);
        py::array_t<Value> out(shape);
        for (std::size_t i = 0; i < reports.size(); ++i) out.mutable_data()[i] = get(reports[i]);
        return out;
    }
    py::dict finish() {
        py::dict out;
        out["value"] = value.finish();
        out["second"] = second ? second->finish() : py::object(py::none());
        out["status"] = field([](const MatrixReport& r) { return static_cast<int>(r.status); });
        out["iterations"] = field([](const MatrixReport& r) { return r.iterations; });
        out["residual"] = field([](const MatrixReport& r) { return r.residual; });
        out["tol"] = field([](const MatrixReport& r) { return r.tol; });
        out["cond"] = field([](const MatrixReport& r) { return r.cond; });
        out["orthogonality"] = field([](const MatrixReport& r) { return r.orthogonality; });
        out["inverse_residual"] = field([](const MatrixReport& r) { return r.inverse_residual; });
        return out;
    }
};

py::list matrix_function(const std::string& name, const py::sequence& arrays, std::int64_t p, std::optional<double> tol,
                         std::int64_t max_steps, double ridge, double relative_ridge) {
    const MatrixFunction function = function_of(name);
    if (tol && !(*tol >= 0)) throw std::invalid_argument(name + ": tol must not be negative, got " + std::to_string(*tol));
    const MatrixFunctionOptions options{tol ? *tol : -1.0, max_steps, ridge, relative_ridge};
    std::vector<std::unique_ptr<Argument>> arguments;
    std::vector<FunctionItem> items;
    double flops = 0;
    for (const py::handle given : arrays) {
        arguments.push_back(std::make_unique<Argument>(given, name.c_str(), function));
        Argument& argument = *arguments.back();
        require_same(arguments.front()->a, argument.a);
        items.push_back(argument.item());
        check_function(function, items.back(), p, options);
        const BatchRef a = argument.a.batch();
        flops += static_cast<double>(a.count()) * function_flops(function, a.rows(), a.cols());
    }
    const CudaPlace* const place = arguments.empty() ? nullptr : arguments.front()->a.cuda();
    if (flops >= worth_releasing || place != nullptr) {
        for (const auto& argument : arguments) argument->a.hold();
    }
    if (place == nullptr) {
        run_released(flops, [&] { evaluate(function, p, items.data(), items.size(), options); });
    } else {
        const CudaTable& table = cuda(name.c_str(), function == MatrixFunction::polar ? "x" : "a");
        const py::gil_scoped_release released;
        evaluate_on_device(function, p, items.data(), items.size(), options, *table.functions, *place);
    }
    py::list results;
    for (const auto& argument : arguments) results.append(argument->finish());
    return results;
}

py::object matrix_function_vjp(const std::string& name, py::handle given_value, py::handle given_second, py::handle given_bar,
                               py::handle given_second_bar, std::int64_t p, double relative_ridge) {
    const MatrixFunction function = function_of(name);
    const std::string called = name + "_vjp";
    const bool polar = function == MatrixFunction::polar;
    const auto read = [&](py::handle given, const char* argument, std::optional<Tensor>& to) {
        if (given.is_none()) return;
        to.emplace(given, Where{called.c_str(), argument}, float64_float32_cuda);
        require_real(*to);
    };
    std::optional<Tensor> value, second, bar, second_bar;
    read(given_value, polar ? "unitary" : "value", value);
    read(given_second, "hermitian", second);
    read(given_bar, polar ? "unitary_bar" : "value_bar", bar);
    read(given_second_bar, "hermitian_bar", second_bar);
    if (!value || (polar ? !second : !bar)) throw std::invalid_argument(called + ": an argument is missing");
    for (const std::optional<Tensor>* other : {&second, &bar, &second_bar}) {
        if (*other) require_same(*value, **other);
    }
    NewArray out(*value, value->dtype(), value->ndim(), value->shape());
    const auto batch = [](const std::optional<Tensor>& t) { return t ? t->batch() : BatchRef{}; };
    const DerivativeItem item{value->batch(), batch(second), batch(bar), batch(second_bar), out.batch(), p, relative_ridge};
    check_derivative(function, item);
    const double flops = static_cast<double>(item.value.count()) * function_flops(function, item.value.rows(), item.value.cols());
    const CudaPlace* const place = value->cuda();
    if (flops >= worth_releasing || place != nullptr) {
        for (std::optional<Tensor>* tensor : {&value, &second, &bar, &second_bar}) {
            if (*tensor) (*tensor)->hold();
        }
    }
    if (place == nullptr) {
        run_released(flops, [&] { derivative(function, item); });
    } else {
        const CudaTable& table = cuda(called.c_str(), polar ? "unitary" : "value");
        const py::gil_scoped_release released;
        derivative_on_device(function, item, *table.functions, *place);
    }
    return out.finish();
}

}  // namespace

void bind_matrix_functions(py::module_& m) {
    m.def("matrix_function", matrix_function);
    m.def("matrix_function_vjp", matrix_function_vjp);
}

}  // namespace raphson::bindings
