#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "raphson/minimize.h"
#include "rows.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

using std::int64_t;
using Converted = py::array_t<double, py::array::c_style | py::array::forcecast>;

std::string shape_text(const py::array& a) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < a.ndim(); ++i) text += (i > 0 ? ", " : "") + std::to_string(a.shape(i));
    return text + (a.ndim() == 1 ? ",)" : ")");
}

// What a user's function gave, as real numbers of any dtype; complex and object results are refused.
Converted numbers(const py::object& given, const char* name) {
    const py::array any = py::array::ensure(given);
    if (!any) {
        PyErr_Clear();
        throw py::type_error(std::string("minimize: ") + name + " must return numbers, got " + std::string(py::str(py::type::of(given))));
    }
    const char kind = any.dtype().kind();
    if (kind != 'f' && kind != 'i' && kind != 'u' && kind != 'b') {
        throw py::type_error(std::string("minimize: ") + name + " must return real numbers, got " + std::string(py::str(any.dtype())));
    }
    return Converted::ensure(any);
}

Converted vector_of(const py::object& given, const char* name, int64_t size) {
    Converted found = numbers(given, name);
    if (found.size() != size || found.ndim() > 2 || (found.ndim() == 2 && found.shape(0) != 1 && found.shape(1) != 1) || (found.ndim() == 0 && size != 1)) {
        throw py::value_error(std::string("minimize: ") + name + " must return shape (" + std::to_string(size) + ",), got " + shape_text(found));
    }
    return found;
}

struct Functions {
    py::object fun;     // (x) -> value, or (value, gradient) where jac is None
    py::object jac;     // (x) -> gradient
    py::object hess;    // (x, factor, multipliers or None) -> array or Rows
    py::object hessp;   // (x, v) -> array
    py::object constraint;           // (x) -> (m,)
    py::object constraint_jacobian;  // (x) -> array or Rows
};

class PythonProblem final : public Problem {
public:
    PythonProblem(Functions f, int64_t n, int64_t m) : f_(std::move(f)), n_(n), m_(m) {}

    int64_t variables() const override { return n_; }
    int64_t constraints() const override { return m_; }
    bool product_only() const override { return f_.hess.is_none(); }

    double value(const double* x) override {
        const py::gil_scoped_acquire held;
        py::object given = f_.fun(array(x, n_));
        if (f_.jac.is_none()) {
            const auto pair = py::reinterpret_borrow<py::object>(given);
            if (!py::isinstance<py::tuple>(pair) || py::len(pair) != 2) {
                throw py::value_error("minimize: with jac=True, fun must return (value, gradient)");
            }
            gradient_ = vector_of(py::object(pair[py::int_(1)]), "jac", n_);
            gradient_at_.assign(x, x + n_);
            given = pair[py::int_(0)];
        }
        if (PyFloat_CheckExact(given.ptr())) return PyFloat_AS_DOUBLE(given.ptr());
        const Converted number = numbers(given, "fun");
        if (number.size() != 1) throw py::value_error("minimize: fun must return one number, got shape " + shape_text(number));
        return number.data()[0];
    }
    void gradient(const double* x, double* g) override {
        const py::gil_scoped_acquire held;
        if (f_.jac.is_none()) {
            if (!std::equal(gradient_at_.begin(), gradient_at_.end(), x, x + n_)) value(x);
        } else {
            gradient_ = vector_of(f_.jac(array(x, n_)), "jac", n_);
        }
        std::copy_n(gradient_.data(), n_, g);
    }
    void constraint_values(const double* x, double* c) override {
        if (m_ == 0) return;
        const py::gil_scoped_acquire held;
        const Converted found = vector_of(f_.constraint(array(x, n_)), "the constraints' fun", m_);
        std::copy_n(found.data(), m_, c);
    }
    RowBlock jacobian(const double* x) override {
        if (m_ == 0) return {};
        const py::gil_scoped_acquire held;
        return matrix(f_.constraint_jacobian(array(x, n_)), jacobian_, "the constraints' jac", m_, n_);
    }
    RowBlock hessian(const double* x, double factor, const double* multipliers) override {
        const py::gil_scoped_acquire held;
        const py::object lambda = multipliers == nullptr ? py::object(py::none()) : py::object(array(multipliers, m_));
        return matrix(f_.hess(array(x, n_), factor, lambda), hessian_, "hess", n_, n_);
    }
    void hessian_product(const double* x, const double* v, double* hv) override {
        const py::gil_scoped_acquire held;
        const Converted found = vector_of(f_.hessp(array(x, n_), array(v, n_)), "hessp", n_);
        std::copy_n(found.data(), n_, hv);
    }

private:
    static py::array_t<double> array(const double* x, int64_t n) { return py::array_t<double>(n, x); }  // a copy: users keep them

    static RowBlock matrix(const py::object& given, py::object& kept, const char* name, int64_t rows, int64_t cols) {
        if (py::isinstance<Rows>(given)) {
            kept = given;
            const RowBlock& block = *py::cast<const Rows&>(given).source().whole;
            if (block.rows != rows || block.cols != cols) refuse(name, rows, cols, "(" + std::to_string(block.rows) + ", " + std::to_string(block.cols) + ")");
            return block;
        }
        Converted found = numbers(given, name);
        const bool row = rows == 1 && found.ndim() == 1 && found.shape(0) == cols;  // of a single constraint
        if (!row && (found.ndim() != 2 || found.shape(0) != rows || found.shape(1) != cols)) refuse(name, rows, cols, shape_text(found));
        RowBlock block;
        block.values = found.data();
        block.rows = rows;
        block.cols = block.stride = cols;
        kept = std::move(found);
        return block;
    }
    [[noreturn]] static void refuse(const char* name, int64_t rows, int64_t cols, const std::string& got) {
        throw py::value_error(std::string("minimize: ") + name + " must return shape (" + std::to_string(rows) + ", " + std::to_string(cols) + "), got " + got);
    }

    Functions f_;
    int64_t n_, m_;
    Converted gradient_;
    std::vector<double> gradient_at_;
    py::object jacobian_, hessian_;
};

Doubles doubles(const std::vector<double>& v) { return Doubles(static_cast<py::ssize_t>(v.size()), v.data()); }

py::dict described(const MinimizeSolution& s) {
    py::dict d;
    d["x"] = doubles(s.x);
    d["multipliers"] = doubles(s.multipliers);
    d["fun"] = s.value;
    d["optimality"] = s.optimality;
    d["constraint_violation"] = s.constraint_violation;
    d["status"] = to_string(s.status);
    d["method"] = to_string(s.method);
    d["indefinite"] = s.indefinite;
    d["nit"] = s.iterations;
    d["nfev"] = s.evaluations;
    d["njev"] = s.gradients;
    d["nhev"] = s.hessians;
    d["nhvp"] = s.products;
    d["factorisations"] = s.factorisations;
    d["restorations"] = s.restorations;
    d["inner_iterations"] = s.inner_iterations;
    return d;
}

constexpr double unknown_work = 1e9;  // the user's functions: let go of the GIL

py::dict run_minimize(const py::object& fun, const py::object& jac, const py::object& hess, const py::object& hessp, const py::object& constraint,
                      const py::object& constraint_jacobian, int64_t m, const Doubles& x0, int method, int rule, int inner, double tol, int max_iter,
                      int64_t inner_max_iter, std::uint64_t seed, const std::optional<Doubles>& multipliers, int period, double order,
                      const py::object& callback, py::list reached) {
    MinimizeOptions options;
    options.method = static_cast<MinimizeMethod>(method);
    options.rule = static_cast<AccuracyRule>(rule);
    options.inner = static_cast<KktMethod>(inner);
    options.tol = tol;
    options.max_iter = max_iter;
    options.inner_max_iter = inner_max_iter;
    options.seed = seed;
    options.multipliers = multipliers ? multipliers->data() : nullptr;
    options.period = period;
    options.order = order;
    const int64_t n = x0.size();
    if (!callback.is_none()) {
        options.callback = [&](const MinimizeRecord& r) {
            const py::gil_scoped_acquire held;
            return py::cast<bool>(callback(r.iteration, r.value, r.optimality, r.constraint_violation, r.step, py::array_t<double>(n, r.x),
                                           r.multipliers == nullptr ? py::array_t<double>(0) : py::array_t<double>(m, r.multipliers)));
        };
    }
    PythonProblem problem({fun, jac, hess, hessp, constraint, constraint_jacobian}, n, m);
    MinimizeSolution solution;
    try {
        run_released(unknown_work, [&] { minimize(problem, x0.data(), options, solution); });
    } catch (...) {
        reached.append(described(solution));
        throw;
    }
    return described(solution);
}

py::dict run_kkt(const Rows& b, const Rows* g, const Doubles& rhs, int method, double tol, int64_t max_iter, std::uint64_t seed, int sampling, int64_t block_size) {
    KktOptions options;
    options.method = static_cast<KktMethod>(method);
    options.tol = tol;
    options.max_iter = max_iter;
    options.seed = seed;
    options.sampling = static_cast<RowSampling>(sampling);
    options.block_size = block_size;
    const RowBlock& hessian = *b.source().whole;
    const RowBlock none;
    const RowBlock& jacobian = g == nullptr ? none : *g->source().whole;
    const double size = static_cast<double>(rhs.size());
    KktSolution s;
    run_released(size * size * 10, [&] { s = solve_kkt(hessian, jacobian, rhs.data(), options); });
    py::dict d;
    d["x"] = doubles(s.x);
    d["residual"] = s.residual;
    d["status"] = to_string(s.status);
    d["iterations"] = s.iterations;
    d["inertia"] = s.factored ? py::object(py::make_tuple(s.inertia.positive, s.inertia.negative, s.inertia.zero)) : py::object(py::none());
    return d;
}

}  // namespace

void bind_minimize(py::module_& m) {
    m.def("minimize", run_minimize);
    m.def("solve_kkt", run_kkt);
}

}  // namespace raphson::bindings
