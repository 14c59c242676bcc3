#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>

#include "bindings.h"
#include "raphson/completion.h"
#include "raphson/polynomial.h"
#include "raphson/relaxation.h"
#include "rows.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

using Indices = py::array_t<std::int64_t, py::array::c_style>;

py::dict complete(const Indices& rows, const Indices& cols, const py::array& values, std::int64_t m, std::int64_t n, std::int64_t rank,
                  double ridge, double tol, int max_iter, std::uint64_t seed, bool spectral, int regression, const std::optional<Doubles>& init,
                  const py::object& callback) {
    Observations o;
    o.rows_of_matrix = m;
    o.cols_of_matrix = n;
    o.count = rows.size();
    o.rows = rows.data();
    o.cols = cols.data();
    o.values = values.data();
    o.type = values.itemsize() == 8 ? DType::float64 : DType::float32;
    CompletionOptions options;
    options.rank = rank;
    options.ridge = ridge;
    options.tol = tol;
    options.max_iter = max_iter;
    options.seed = seed;
    options.spectral = spectral;
    options.regression = static_cast<Regression>(regression);
    options.precision = o.type;
    options.init = init ? init->data() : nullptr;
    if (!callback.is_none()) {
        options.callback = [&](const CompletionRecord& r) {
            const py::gil_scoped_acquire held;
            return py::cast<bool>(callback(r.iteration, r.residual, r.optimality, r.seconds));
        };
    }
    CompletionResult s;
    const double k = static_cast<double>(rank);
    run_released(100 * (static_cast<double>(o.count) + static_cast<double>(m + n)) * k * k, [&] { s = complete_matrix(o, options); });
    py::dict d;
    d["left"] = Doubles({static_cast<py::ssize_t>(m), static_cast<py::ssize_t>(rank)}, s.left.data());
    d["right"] = Doubles({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(rank)}, s.right.data());
    d["status"] = to_string(s.status);
    d["objective"] = s.objective;
    d["residual"] = s.residual;
    d["optimality"] = s.optimality;
    d["iterations"] = s.iterations;
    d["orthogonal"] = s.orthogonal;
    d["sketched"] = s.sketched;
    py::list history;
    for (const CompletionRecord& r : s.history) history.append(py::make_tuple(r.residual, r.optimality, r.seconds));
    d["history"] = history;
    return d;
}

py::dict run_relax(const Rows& a, const Doubles& b, double omega, double shift, int method, double tol, std::int64_t max_iter,
                   const std::optional<Doubles>& init) {
    RelaxationOptions options;
    options.method = static_cast<Relaxation>(method);
    options.omega = omega;
    options.shift = shift;
    options.tol = tol;
    options.max_iter = max_iter;
    options.init = init ? init->data() : nullptr;
    const double* const right = b.data();
    RelaxationSolution s;
    run_released(100 * a.size(), [&] { s = relax(*a.source().whole, right, options); });
    py::dict d;
    d["x"] = Doubles(static_cast<py::ssize_t>(s.x.size()), s.x.data());
    d["residual"] = s.residual;
    d["status"] = to_string(s.status);
    d["iterations"] = s.iterations;
    return d;
}

// v and the result: columns × n.
Doubles recurrence(const Rows& a, const Doubles& steps, const Doubles& v) {
    Doubles out({v.shape(0), v.shape(1)});
    double* const to = out.mutable_data();
    const double *const c = steps.data(), *const from = v.data();
    const std::int64_t count = steps.shape(0), columns = v.shape(0);
    run_released(2 * a.size() * static_cast<double>(count * columns), [&] { apply_recurrence(*a.source().whole, c, count, from, columns, to); });
    return out;
}

}  // namespace

void bind_completion(py::module_& m) {
    m.def("complete_matrix", complete);
    m.def("relax", run_relax);
    m.def("apply_recurrence", recurrence);
}

}  // namespace raphson::bindings
