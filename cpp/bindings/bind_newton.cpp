#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <vector>

#include "bindings.h"
#include "newton/device_fit.h"
#include "raphson/newton.h"
#include "rows.h"
#include "rows_cuda.h"
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

// Calls with the rows, wherever they lie, without the GIL.
template <class OnHost, class OnDevice>
void with_rows(py::handle x, double times, OnHost&& on_host, OnDevice&& on_device) {
    if (py::isinstance<PyCudaRows>(x)) {
        const PyCudaRows::Here here = py::cast<const PyCudaRows&>(x).here();
        run_released(long_work, [&] { on_device(*here.rows()); });
    } else {
        const Rows& rows = py::cast<const Rows&>(x);
        run_released(times * rows.size(), [&] { on_host(rows.source()); });
    }
}

py::dict fit(py::handle x, const Doubles& y, const std::optional<Doubles>& weight, const std::optional<Doubles>& offset, int classes,
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
    with_rows(
        x, 20, [&](const RowSource& rows) { s = fit_glm(rows, data, options); },
        [&](CudaRows& rows) { s = fit_glm_on_device(rows, data, options); });
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

Doubles information(py::handle x, const Doubles& y, const std::optional<Doubles>& weight, const std::optional<Doubles>& offset,
                    int classes, int family, double ridge, bool intercept, const Doubles& coef) {
    GlmOptions options;
    options.family = static_cast<GlmFamily>(family);
    options.ridge = ridge;
    options.intercept = intercept;
    const GlmData data = make_data(y, weight, offset, classes);
    std::vector<double> found;
    with_rows(
        x, static_cast<double>(coef.size()), [&](const RowSource& rows) { found = glm_information(rows, data, options, coef.data()); },
        [&](CudaRows& rows) { found = glm_information_on_device(rows, data, options, coef.data()); });
    return Doubles({coef.size(), coef.size()}, found.data());
}

// link(x v + offset), float64 in x's framework.
py::object predict(const PyCudaRows& x, const Doubles& v, const py::object& offset, int link) {
    const PyCudaRows::Here here = x.here();
    const std::int64_t rows = here.array().shape()[0];
    NewArray fresh(here.array(), DType::float64, 1, &rows);
    std::optional<Tensor> added;
    if (!offset.is_none()) {
        added.emplace(offset, Where{"GlmResult.predict", "offset"}, float64_float32_cuda);
        here.hold(*added);
    }
    const double* const from = v.data();
    auto* const to = static_cast<double*>(fresh.batch().data);
    const int border = static_cast<int>(v.size() - here.columns());
    {
        const py::gil_scoped_release released;
        const std::unique_ptr<CudaRows> there = here.rows();
        there->predict(from, border, added ? there->columns(view(*added)) : nullptr, static_cast<RowLink>(link), to);
    }
    return fresh.finish();
}

// The same of classes (coefficients classes × p, offset rows × classes of the host): probabilities, or margins.
py::object predict_classes(const PyCudaRows& x, const Doubles& v, int classes, const std::optional<Doubles>& offset, bool probabilities) {
    const PyCudaRows::Here here = x.here();
    const std::int64_t shape[] = {here.array().shape()[0], classes};
    NewArray fresh(here.array(), DType::float64, 2, shape);
    ClassSweep what;
    what.classes = classes;
    what.border = static_cast<int>(v.size() / classes - here.columns());
    what.v = v.data();
    what.margin = static_cast<double*>(fresh.batch().data);
    const double* const added = data_of(offset);
    {
        const py::gil_scoped_release released;
        const std::unique_ptr<CudaRows> there = here.rows();
        if (added != nullptr) what.offset = there->vector(added, shape[0] * classes);
        there->class_means(what, probabilities);
    }
    return fresh.finish();
}

}  // namespace

void bind_newton(py::module_& m) {
    m.def("fit_glm", fit);
    m.def("glm_information", information);
    m.def("glm_predict", predict);
    m.def("glm_predict_classes", predict_classes);
}

}  // namespace raphson::bindings
