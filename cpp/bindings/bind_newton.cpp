#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <vector>

#include "bindings.h"
#include "raphson/newton.h"
#include "rows.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

const double* data_of(const std::optional<Doubles>& values) { return values ? values->data() : nullptr; }

GlmData make_data(const Doubles& y, const std::optional<Doubles>& weight, const std::optional<Doubles>& offset, int classes) {
    GlmData data;
    data.y = y.data();
    data.weight = data_of(weight);
    data.offset = data_of(offset);
    data.classes = classes;
    return data;
}

py::dict fit(const Rows& x, const Doubles& y, const std::optional<Doubles>& weight, const std::optional<Doubles>& offset, int classes,
             int family, int method, double ridge, bool intercept, double tol, int max_iter, const std::optional<Doubles>& init,
             std::uint64_t seed, bool single, const py::object& callback) {
    GlmOptions options;
    options.family = static_cast<GlmFamily>(family);
    options.method = static_cast<GlmMethod>(method);
    options.ridge = ridge;
    options.intercept = intercept;
    options.tol = tol;
    options.max_iter = max_iter;
    options.seed = seed;
    options.precision = single ? DType::float32 : DType::float64;
    options.init = data_of(init);
    if (!callback.is_none()) {
        options.callback = [&](const GlmRecord& record, int iteration) {
            const py::gil_scoped_acquire held;
            return py::cast<bool>(callback(iteration, record.gradient_norm, record.objective, record.seconds, record.sweeps));
        };
    }
    const GlmData data = make_data(y, weight, offset, classes);
    GlmSolution s;
    run_released(20 * x.size(), [&] { s = fit_glm(x.source(), data, options); });
    py::dict d;
    d["coef"] = Doubles(static_cast<py::ssize_t>(s.coef.size()), s.coef.data());
    d["status"] = to_string(s.status);
    d["method"] = to_string(s.method);
    d["objective"] = s.objective;
    d["gradient_norm"] = s.gradient_norm;
    d["deviance"] = s.deviance;
    d["iterations"] = s.iterations;
    d["hessian_products"] = s.hessian_products;
    d["factorisations"] = s.factorisations;
    d["sweeps"] = s.sweeps;
    py::list history;
    for (const GlmRecord& r : s.history) history.append(py::make_tuple(r.gradient_norm, r.objective, r.seconds, r.sweeps));
    d["history"] = history;
    return d;
}

Doubles information(const Rows& x, const Doubles& y, const std::optional<Doubles>& weight, const std::optional<Doubles>& offset,
                    int classes, int family, double ridge, bool intercept, const Doubles& coef) {
    GlmOptions options;
    options.family = static_cast<GlmFamily>(family);
    options.ridge = ridge;
    options.intercept = intercept;
    const GlmData data = make_data(y, weight, offset, classes);
    std::vector<double> found;
    run_released(static_cast<double>(coef.size()) * x.size(), [&] { found = glm_information(x.source(), data, options, coef.data()); });
    return Doubles({coef.size(), coef.size()}, found.data());
}

}  // namespace

void bind_newton(py::module_& m) {
    m.def("fit_glm", fit);
    m.def("glm_information", information);
}

}  // namespace raphson::bindings
