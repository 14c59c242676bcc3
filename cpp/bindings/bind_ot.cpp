#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bind_ot.h"
#include "bindings.h"
#include "common/threads.h"
#include "cuda_module.h"
#include "ot/problem.h"
#include "ot/quadratic.h"
#include "ot/queries.h"
#include "ot/run.h"
#include "table.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr std::int64_t small_cloud = 1 << 21;  // pairs whose costs are kept: 16 MiB

// A problem and the arrays it reads. Wrappers in raphson.ot see to shapes, layouts and dtypes.
class PyTransport {
public:
    PyTransport(std::string function, const Doubles& a, const Doubles& b, const py::object& cost, const py::object& points,
                double reg, double rho_a, double rho_b, double mass_tolerance, bool check_finite)
        : function_(std::move(function)) {
        TransportCost rows;
        if (!cost.is_none()) {
            cost_ = py::cast<py::array>(cost);
            const DType type = cost_.itemsize() == 8 ? DType::float64 : DType::float32;
            rows.dense = {type, cost_.data(), cost_.shape(1), cost_.shape(0), cost_.shape(1)};
        } else {
            read_points(py::cast<py::tuple>(points), rows);
        }
        std::vector<double> weights_a = numbers(a), weights_b = numbers(b);
        const double entries = static_cast<double>(rows.rows()) * static_cast<double>(rows.columns());
        run_released(entries, [&] {
            if (!rows.is_dense() && rows.rows() * rows.columns() <= small_cloud) keep_costs(rows);
            const CostFacts facts = entries > 0 ? scan_cost(function_, rows, check_finite) : CostFacts{};
            problem_ = make_problem(function_, rows, facts, std::move(weights_a), std::move(weights_b), reg, rho_a, rho_b,
                                    mass_tolerance);
        });
    }

    py::dict solve(int method, double tol, int max_iter, const std::optional<Doubles>& f, const std::optional<Doubles>& g,
                   const py::object& callback) {
        TransportOptions options = make_options(method, tol, max_iter);
        if (f) options.f = f->data();
        if (g) options.g = g->data();
        if (!callback.is_none()) {
            options.callback = [&](const TransportRecord& record, int iteration) { return call(callback, record, iteration); };
        }
        TransportSolution solution;
        run_released(1e9, [&] { solution = solve_transport(problem_, options); });
        return as_dict(solution);
    }

    py::dict quadratic(std::int64_t cardinality, double tol, int max_iter, const std::optional<Doubles>& g,
                       const py::object& callback) {
        TransportOptions options = make_options(0, tol, max_iter);
        if (g) options.g = g->data();
        if (!callback.is_none()) {
            options.callback = [&](const TransportRecord& record, int iteration) { return call(callback, record, iteration); };
        }
        QuadraticSolution solution;
        run_released(1e9, [&] { solution = solve_quadratic(problem_, cardinality, options); });
        TransportSolution common;
        common.f = std::move(solution.f);
        common.g = std::move(solution.g);
        common.status = solution.status;
        common.iterations = solution.iterations;
        common.newton_iterations = solution.newton_iterations;
        common.cg_iterations = solution.cg_iterations;
        common.marginal_error = solution.marginal_error;
        common.cost = solution.cost;
        common.history = std::move(solution.history);
        py::dict d = as_dict(common);
        d["squares"] = solution.squares;
        d["bound"] = solution.bound;
        d["plan"] = as_tuple(solution.plan);
        return d;
    }

    Doubles rows(const Doubles& f, const Doubles& g, std::int64_t begin, std::int64_t end) {
        Doubles out({static_cast<py::ssize_t>(end - begin), static_cast<py::ssize_t>(problem_.m)});
        double* to = out.mutable_data();
        run_released(work(), [&] { plan_rows(problem_, {f.data(), g.data()}, begin, end, to); });
        return out;
    }
    Doubles apply(const Doubles& f, const Doubles& g, bool transposed, const Doubles& v) {
        Doubles out({static_cast<py::ssize_t>(transposed ? problem_.m : problem_.n), v.shape(1)});
        double* to = out.mutable_data();
        run_released(work(), [&] { plan_apply(problem_, {f.data(), g.data()}, transposed, v.data(), v.shape(1), to); });
        return out;
    }
    py::tuple sparse(const Doubles& f, const Doubles& g, double most_dropped) {
        SparseResult result;
        run_released(work(), [&] { result = plan_sparse(problem_, {f.data(), g.data()}, most_dropped); });
        return as_tuple(result);
    }
    py::tuple hessian(const Doubles& f, const Doubles& g, const Doubles& p, const Doubles& q) {
        Doubles alpha(static_cast<py::ssize_t>(problem_.n)), beta(static_cast<py::ssize_t>(problem_.m));
        double *to_alpha = alpha.mutable_data(), *to_beta = beta.mutable_data(), residual = 0;
        run_released(1e9, [&] {
            residual = solve_hessian(problem_, {f.data(), g.data()}, p.data(), q.data(), to_alpha, to_beta);
        });
        return py::make_tuple(alpha, beta, residual);
    }
    Doubles weights(bool of_b) const { return array(of_b ? problem_.b : problem_.a); }

    // Small problems run one a thread. `starts`: f and g of each, or None.
    using Start = std::pair<std::optional<Doubles>, std::optional<Doubles>>;
    static py::list solve_batch(const std::vector<PyTransport*>& problems, int method, double tol, int max_iter,
                                const std::vector<Start>& starts) {
        std::vector<TransportOptions> options(problems.size(), make_options(method, tol, max_iter));
        for (std::size_t k = 0; k < problems.size(); ++k) {
            const auto& [f, g] = starts.at(k);
            if (f) options[k].f = f->data();
            if (g) options[k].g = g->data();
        }
        std::vector<TransportSolution> solutions(problems.size());
        run_released(1e9, [&] {
            parallel_for(static_cast<std::int64_t>(problems.size()),
                         [&](std::int64_t k) { solutions[k] = solve_transport(problems[k]->problem_, options[k]); });
            throw_if_cancelled();
        });
        py::list result;
        for (const TransportSolution& solution : solutions) result.append(as_dict(solution));
        return result;
    }

private:
    static TransportOptions make_options(int method, double tol, int max_iter) {
        TransportOptions options;
        options.method = static_cast<TransportMethod>(method);
        options.tol = tol;
        options.max_iter = max_iter;
        return options;
    }
    double work() const { return static_cast<double>(problem_.n) * static_cast<double>(problem_.m); }

    void read_points(const py::tuple& given, TransportCost& rows) {
        x_ = py::cast<Doubles>(given[0]);
        const auto y = py::cast<Doubles>(given[1]);
        PointBlock& p = rows.points;
        p.metric = static_cast<Metric>(py::cast<int>(given[2]));
        p.scale = py::cast<double>(given[3]);
        p.dim = x_.shape(1);
        p.rows = x_.shape(0);
        p.columns = y.shape(0);
        p.y_stride = ot_padded(p.columns);
        y_.assign(static_cast<std::size_t>(p.dim * p.y_stride), 0.0);
        for (std::int64_t j = 0; j < p.columns; ++j) {
            for (std::int64_t k = 0; k < p.dim; ++k) y_[k * p.y_stride + j] = y.data()[j * p.dim + k];
        }
        p.x = x_.data();
        p.y = y_.data();
    }
    void keep_costs(TransportCost& rows) {
        PointBlock p = rows.points;
        p.stride = p.y_stride;
        kept_.resize(static_cast<std::size_t>(p.rows * p.stride));
        p.cost = kept_.data();
        kernels().ot.point_costs(p);
        rows.dense = {DType::float64, kept_.data(), p.stride, p.rows, p.columns};
    }

    std::string function_;
    py::array cost_;
    Doubles x_;
    std::vector<double> y_, kept_;
    TransportProblem problem_;
};

// Numbers for the bench and the tests: seconds of one log-domain and one kernel-domain pass on one thread, and 2^x.
double time_pass(bool kernel, const py::array& cost, double reg, int repeats) {
    const std::int64_t n = cost.shape(0), m = cost.shape(1), padded = ot_padded(m);
    const auto rows = static_cast<std::size_t>(n), cols = static_cast<std::size_t>(padded);
    std::vector<double> psi(cols, 0.0), u(rows, 0.0), a(rows, 1 / static_cast<double>(n)), sums(rows), columns(cols),
        scratch(static_cast<std::size_t>(ot_scratch(m)));
    const CostBlock block{cost.itemsize() == 8 ? DType::float64 : DType::float32, cost.data(), m, n, m};
    LogBlock log{};
    log.cost = block;
    log.inverse_reg = 1 / reg;
    log.psi = psi.data();
    log.mass = a.data();
    log.exponent = 1;
    log.update = true;
    log.u = u.data();
    log.row_sum = sums.data();
    log.columns = columns.data();
    log.scratch = scratch.data();
    KernelBlock linear{};
    linear.kernel = block;
    std::fill(psi.begin(), psi.begin() + m, kernel ? 1.0 : 0.0);
    linear.x = psi.data();
    linear.coefficient = a.data();
    linear.exponent = 1;
    linear.log_scale = sums.data();
    linear.columns = columns.data();
    const py::gil_scoped_release released;
    const auto start = std::chrono::steady_clock::now();
    for (int r = 0; r < repeats; ++r) kernel ? kernels().ot.kernel_sweep(linear) : kernels().ot.log_sweep(log);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / repeats;
}

}  // namespace

Doubles array(const std::vector<double>& from) {
    Doubles to(static_cast<py::ssize_t>(from.size()));
    std::copy(from.begin(), from.end(), to.mutable_data());
    return to;
}

py::dict as_dict(const TransportSolution& s) {
    py::dict d;
    d["f"] = array(s.f);
    d["g"] = array(s.g);
    d["status"] = to_string(s.status);
    d["iterations"] = s.iterations;
    d["newton_iterations"] = s.newton_iterations;
    d["cg_iterations"] = s.cg_iterations;
    d["marginal_error"] = s.marginal_error;
    d["cost"] = s.cost;
    d["row_marginal"] = array(s.row_marginal);
    d["column_marginal"] = array(s.column_marginal);
    py::list history;
    for (const TransportRecord& r : s.history) history.append(py::make_tuple(to_string(r.stage), r.error, r.reg, r.seconds));
    d["history"] = history;
    return d;
}

py::tuple as_tuple(const SparseResult& result) {
    py::array_t<std::int64_t> ends(static_cast<py::ssize_t>(result.row_end.size()));
    std::copy(result.row_end.begin(), result.row_end.end(), ends.mutable_data());
    py::array_t<std::int32_t> index(static_cast<py::ssize_t>(result.index.size()));
    std::copy(result.index.begin(), result.index.end(), index.mutable_data());
    return py::make_tuple(ends, index, array(result.value), result.dropped);
}

bool call(const py::object& callback, const TransportRecord& record, int iteration) {
    const py::gil_scoped_acquire held;
    return py::cast<bool>(callback(to_string(record.stage), iteration, record.error, record.reg, record.seconds));
}

void bind_ot(py::module_& m) {
    py::class_<PyTransport>(m, "Transport")
        .def(py::init<std::string, const Doubles&, const Doubles&, const py::object&, const py::object&, double, double, double,
                      double, bool>())
        .def("solve", &PyTransport::solve)
        .def("quadratic", &PyTransport::quadratic)
        .def("rows", &PyTransport::rows)
        .def("apply", &PyTransport::apply)
        .def("sparse", &PyTransport::sparse)
        .def("hessian", &PyTransport::hessian)
        .def("weights", &PyTransport::weights)
        .def_static("solve_batch", &PyTransport::solve_batch);
    m.def("_ot_time", time_pass);
    m.def("_exp2", [](const Doubles& x) {
        Doubles out(x.size());
        kernels().ot.exp2(x.data(), x.size(), out.mutable_data());
        return out;
    });
    // An array's memory as NumPy sees it, float64 or float32; and back: a copy in the framework of `like`.
    const auto as_numpy = [](py::handle object, std::string function, std::string argument, bool write) -> py::object {
        struct Held {
            std::string function, argument;
            std::optional<Tensor> tensor;
        };
        auto held = std::make_unique<Held>();
        held->function = std::move(function);
        held->argument = std::move(argument);
        held->tensor.emplace(object, Where{held->function.c_str(), held->argument.c_str()}, float64_float32,
                             write ? Access::write : Access::read);
        held->tensor->hold();
        if (write) {
            held->tensor->require_writable(held->tensor->where());
            require_no_sharing(*held->tensor, held->tensor->where());
        }
        const Tensor& t = *held->tensor;
        std::vector<py::ssize_t> shape(t.shape(), t.shape() + t.ndim()), strides;
        for (int k = 0; k < t.ndim(); ++k) strides.push_back(static_cast<py::ssize_t>(t.strides()[k] * itemsize(t.dtype())));
        const py::dtype type = t.dtype() == DType::float64 ? py::dtype::of<double>() : py::dtype::of<float>();
        const void* data = t.data();
        const py::capsule owner(held.release(), [](void* p) { delete static_cast<Held*>(p); });
        py::array view(type, shape, strides, data, owner);
        if (!write) view.attr("setflags")(py::arg("write") = false);
        return view;
    };
    m.def("_as_numpy", as_numpy, py::arg("array"), py::arg("function"), py::arg("argument"), py::arg("write") = false);
    // TypeError naming both unless they share a framework and a device, and the dtype if that is asked.
    const auto require_both = [](py::handle a, py::handle b, const std::string& function, const std::string& name_a,
                                 const std::string& name_b, bool same_dtype) {
        const Tensor left(a, {function.c_str(), name_a.c_str()}, float64_float32 | and_cuda);
        const Tensor right(b, {function.c_str(), name_b.c_str()}, float64_float32 | and_cuda);
        require_same(left, right, same_dtype);
    };
    m.def("_require_same", require_both, py::arg("a"), py::arg("b"), py::arg("function"), py::arg("name_a"), py::arg("name_b"),
          py::arg("same_dtype") = false);
    m.def("_is_numpy", [](py::handle a) {
        const Tensor tensor(a, {"raphson", "array"}, float64_float32_bfloat16 | bit(DType::float16) | and_cuda);
        return std::strcmp(tensor.framework(), "numpy") == 0;
    });
    m.def("_like", [](py::handle like, const py::array& from) {
        const Tensor model(like, {"raphson", "array"}, float64_float32_bfloat16 | bit(DType::float16) | and_cuda);
        const py::array plain = py::array::ensure(from, py::array::c_style);
        const DType type = plain.itemsize() == 8 ? DType::float64 : DType::float32;
        std::vector<std::int64_t> shape(plain.shape(), plain.shape() + plain.ndim());
        NewArray fresh(model, type, static_cast<int>(shape.size()), shape.data());
        const auto bytes = static_cast<std::size_t>(plain.nbytes());
        if (model.cuda() != nullptr) {
            cuda("raphson", "array").write(plain.data(), fresh.batch().data, bytes, *model.cuda());
        } else {
            std::memcpy(fresh.batch().data, plain.data(), bytes);
        }
        return fresh.finish();
    });
}

}  // namespace raphson::bindings
