// Transport where the cost lies on a CUDA device.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind_ot.h"
#include "bindings.h"
#include "common/threads.h"
#include "cuda_module.h"
#include "cuda_views.h"
#include "ot/device_solve.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned types = float64_float32_cuda;

// The twin of Transport. It keeps the caller's array and not its memory: every call asks anew for that and the stream.
class PyCudaTransport {
public:
    PyCudaTransport(std::string function, const Doubles& a, const Doubles& b, py::object cost, const py::object& points,
                    double reg, double rho_a, double rho_b, double mass_tolerance, bool check_finite, std::int64_t part)
        : function_(std::move(function)), array_(std::move(cost)), part_(part) {
        if (!points.is_none()) {
            const auto given = py::cast<py::tuple>(points);
            x_ = py::cast<Doubles>(given[0]);
            y_ = py::cast<Doubles>(given[1]);
            metric_ = static_cast<Metric>(py::cast<int>(given[2]));
            scale_ = py::cast<double>(given[3]);
        } else {
            const Tensor there(array_, {function_.c_str(), "cost"}, types);
            std::copy_n(there.shape() + there.ndim() - 2, 2, shape_);
        }
        const On on(*this);
        const std::int64_t n = x_ ? x_->shape(0) : shape_[0], m = x_ ? y_->shape(0) : shape_[1];
        std::vector<double> weights_a = numbers(a), weights_b = numbers(b);
        run_released(long_work, [&] {
            made_ = make_device_problem(function_, on.table, on.given, n, m, check_finite, std::move(weights_a), std::move(weights_b),
                                        reg, rho_a, rho_b, mass_tolerance, on.place);
        });
    }

    py::dict solve(int method, double tol, int max_iter, const std::optional<Doubles>& f, const std::optional<Doubles>& g,
                   const py::object& callback) {
        const On on(*this);
        TransportOptions options;
        options.method = static_cast<TransportMethod>(method);
        options.tol = tol;
        options.max_iter = max_iter;
        if (f) options.f = f->data();
        if (g) options.g = g->data();
        options.callback = [&](const TransportRecord& record, int iteration) {
            poll_or_throw();  // Ctrl-C
            return !callback.is_none() && call(callback, record, iteration);
        };
        TransportSolution solution;
        run_released(long_work, [&] { solution = solve_on_device(made_, on.table, on.given, options, on.place); });
        return as_dict(solution);
    }

    // Of problems on one device; Ctrl-C ends all of them.
    static py::list solve_batch(const std::vector<PyCudaTransport*>& problems, int method, double tol, int max_iter,
                                const std::vector<std::pair<std::optional<Doubles>, std::optional<Doubles>>>& starts) {
        if (problems.empty()) return py::list();
        std::vector<std::unique_ptr<const On>> places;
        std::vector<DeviceCall> calls;
        for (std::size_t k = 0; k < problems.size(); ++k) {
            places.push_back(std::make_unique<const On>(*problems[k]));
            require_same(places.front()->array, places.back()->array);
            TransportOptions options;
            options.method = static_cast<TransportMethod>(method);
            options.tol = tol;
            options.max_iter = max_iter;
            if (starts[k].first) options.f = starts[k].first->data();
            if (starts[k].second) options.g = starts[k].second->data();
            options.callback = [](const TransportRecord&, int) {
                poll_or_throw();
                return false;
            };
            calls.push_back({&problems[k]->made_, places.back()->given, std::move(options)});
        }
        std::vector<TransportSolution> solutions;
        run_released(long_work, [&] { solutions = solve_on_device(calls, places.front()->table, places.front()->place); });
        py::list found;
        for (const TransportSolution& solution : solutions) found.append(as_dict(solution));
        return found;
    }

    // P in the cost's dtype.
    py::object plan(const Doubles& f, const Doubles& g) {
        const On on(*this);
        NewArray fresh = like_cost(on);
        {
            const py::gil_scoped_release released;
            on.table.transport->plan(on.given, f.data(), g.data(), fresh.batch().data, on.array.dtype(), on.place);
        }
        return fresh.finish();
    }

    py::object apply(const Doubles& f, const Doubles& g, bool transposed, py::handle vectors) {
        Tensor v(vectors, {"apply", "v"}, types);
        require_real(v);
        const On on(*this);
        require_same(on.array, v, false);
        v.hold();
        std::vector<std::int64_t> shape(v.shape(), v.shape() + v.ndim());
        shape[0] = transposed ? made_.problem.m : made_.problem.n;
        NewArray fresh(v, v.dtype(), v.ndim(), shape.data());
        const CudaView from = view(v);
        const CudaView to{fresh.batch().data, v.dtype(), shape[0], from.columns, from.columns, 1};
        {
            const py::gil_scoped_release released;
            on.table.transport->times(on.given, f.data(), g.data(), transposed, from, to, on.place);
        }
        return fresh.finish();
    }

    py::tuple sparse(const Doubles& f, const Doubles& g, double most_dropped) {
        const On on(*this);
        SparseResult result;
        run_released(long_work,
                     [&] { result = on.table.transport->sparse(on.given, {f.data(), g.data()}, most_dropped, on.place); });
        return as_tuple(result);
    }

    // The plan, or None; the mass that scaling left to be added; the forbidden pair that would have to take some.
    py::tuple rounded(const Doubles& f, const Doubles& g) {
        const On on(*this);
        NewArray fresh = like_cost(on);
        CudaRounding found;
        run_released(long_work, [&] {
            found = on.table.transport->rounded(on.given, {f.data(), g.data()}, fresh.batch().data, on.array.dtype(), on.place);
        });
        py::object plan = fresh.finish();
        return py::make_tuple(found.forbidden ? py::object(py::none()) : plan, found.missing, found.row, found.column);
    }

    // (W∘P)1 and (W∘P)ᵀ1 with W = cost_weight·C + plan_bar, an array beside the cost or None.
    py::tuple weighted_sums(const Doubles& f, const Doubles& g, double cost_weight, const py::object& plan_bar) {
        const On on(*this);
        const PlanBar bar(plan_bar, on);
        CudaTransportGradient gradient;
        gradient.cost_weight = cost_weight;
        gradient.plan_bar = bar.view;
        Doubles rows(static_cast<py::ssize_t>(made_.problem.n)), columns(static_cast<py::ssize_t>(made_.problem.m));
        double *const to_rows = rows.mutable_data(), *const to_columns = columns.mutable_data();
        run_released(long_work, [&] {
            if (bar.view.data != nullptr) {
                const CudaCostFacts facts = on.table.transport->scan(bar.view, on.place);
                if (facts.bad || facts.facts.forbids) throw std::invalid_argument("vjp: plan_bar has NaN or Inf");
            }
            on.table.transport->weighted_sums(on.given, {f.data(), g.data()}, gradient, to_rows, to_columns, on.place);
        });
        return py::make_tuple(rows, columns);
    }

    py::tuple hessian(const Doubles& f, const Doubles& g, const Doubles& p, const Doubles& q) {
        const On on(*this);
        Doubles alpha(static_cast<py::ssize_t>(made_.problem.n)), beta(static_cast<py::ssize_t>(made_.problem.m));
        double *to_alpha = alpha.mutable_data(), *to_beta = beta.mutable_data(), residual = 0;
        run_released(long_work, [&] {
            residual = solve_hessian(made_, on.table, on.given, {f.data(), g.data()}, p.data(), q.data(), to_alpha, to_beta,
                                     on.place);
        });
        return py::make_tuple(alpha, beta, residual);
    }

    // ∂L/∂C = P ∘ (direct + (α⊕β − W)/reg), without the second term where α and β are None: an array like the cost, or, of
    // points, (∂L/∂x, ∂L/∂y) of the host.
    py::object gradient(const Doubles& f, const Doubles& g, double cost_weight, double direct, const py::object& plan_bar,
                        const std::optional<Doubles>& alpha, const std::optional<Doubles>& beta) {
        const On on(*this);
        const PlanBar bar(plan_bar, on);
        CudaTransportGradient terms;
        terms.cost_weight = cost_weight;
        terms.direct = direct;
        terms.plan_bar = bar.view;
        if (alpha) terms.alpha = alpha->data();
        if (beta) terms.beta = beta->data();
        if (x_) {
            Doubles x({x_->shape(0), x_->shape(1)}), y({y_->shape(0), y_->shape(1)});
            double *const to_x = x.mutable_data(), *const to_y = y.mutable_data();
            run_released(long_work,
                         [&] { on.table.transport->point_gradient(on.given, {f.data(), g.data()}, terms, to_x, to_y, on.place); });
            return py::make_tuple(x, y);
        }
        NewArray fresh = like_cost(on);
        run_released(long_work, [&] {
            on.table.transport->cost_gradient(on.given, {f.data(), g.data()}, terms, fresh.batch().data, on.array.dtype(), on.place);
        });
        return fresh.finish();
    }

    // Of points (k, dim), the host's; so is the answer.
    Doubles map(const Doubles& g, const Doubles& points) {
        const On on(*this);
        TransportProblem elsewhere = made_.problem;
        elsewhere.n = points.shape(0);
        elsewhere.a.assign(static_cast<std::size_t>(elsewhere.n), 1.0);
        CudaTransport given = on.given;
        given.problem = &elsewhere;
        given.x = points.data();
        Doubles out({points.shape(0), points.shape(1)});
        double* const to = out.mutable_data();
        if (elsewhere.n == 0) return out;
        run_released(long_work, [&] { on.table.transport->map(given, g.data(), to, on.place); });
        return out;
    }

    Doubles weights(bool of_b) const { return array(of_b ? made_.problem.b : made_.problem.a); }
    // The largest finite cost by size; of points a bound is not known.
    double span() const {
        if (x_) return std::numeric_limits<double>::quiet_NaN();
        return std::max(std::abs(made_.problem.lowest_cost), std::abs(made_.problem.highest_cost));
    }

private:
    // The array where it lies now, and the stream of now.
    struct On {
        explicit On(const PyCudaTransport& self)
            : array(self.array_, {self.function_.c_str(), "cost"}, types), table(cuda(self.function_.c_str(), "cost")) {
            require_real(array);
            if (array.cuda() == nullptr) throw py::type_error(self.function_ + ": cost has left its CUDA device");
            place = *array.cuda();
            given.problem = &self.made_.problem;
            if (self.x_) {
                given.metric = self.metric_;
                given.scale = self.scale_;
                given.x = self.x_->data();
                given.y = self.y_->data();
                given.dim = self.x_->shape(1);
                return;
            }
            const int batch = self.part_ < 0 ? 0 : 1;
            if (array.ndim() != 2 + batch || !std::equal(self.shape_, self.shape_ + 2, array.shape() + batch) ||
                (batch > 0 && self.part_ >= array.shape()[0])) {
                throw py::value_error(self.function_ + ": cost has another shape than when the problem was read: " + array.shape_text());
            }
            array.hold();
            given.cost = {array.data(),         array.dtype(),           array.shape()[batch], array.shape()[batch + 1],
                          array.strides()[batch], array.strides()[batch + 1]};
            if (batch > 0) {
                given.cost.data = static_cast<char*>(array.data()) + self.part_ * array.strides()[0] * itemsize(array.dtype());
            }
        }

        Tensor array;
        const CudaTable& table;
        CudaPlace place{};
        CudaTransport given{};
    };

    // An n×m array beside the cost.
    struct PlanBar {
        PlanBar(const py::object& given, const On& on) {
            if (given.is_none()) return;
            array.emplace(given, Where{"vjp", "plan_bar"}, types);
            require_real(*array);
            require_same(on.array, *array, false);
            array->hold();
            view = bindings::view(*array);
        }
        std::optional<Tensor> array;
        CudaView view{};
    };
    NewArray like_cost(const On& on) const {
        const std::int64_t shape[] = {made_.problem.n, made_.problem.m};
        return NewArray(on.array, on.array.dtype(), 2, shape);
    }

    std::string function_;
    py::object array_;  // the cost, or the cloud's x, for its place and framework
    std::int64_t part_;  // of a batch of costs, or -1
    std::int64_t shape_[2] = {0, 0};
    std::optional<Doubles> x_, y_;
    Metric metric_ = Metric::sqeuclidean;
    double scale_ = 1;
    DeviceProblem made_;
};

}  // namespace

void bind_ot_cuda(py::module_& m) {
    py::class_<PyCudaTransport>(m, "CudaTransport")
        .def(py::init<std::string, const Doubles&, const Doubles&, py::object, const py::object&, double, double, double, double,
                      bool, std::int64_t>())
        .def("solve", &PyCudaTransport::solve)
        .def_static("solve_batch", &PyCudaTransport::solve_batch)
        .def("plan", &PyCudaTransport::plan)
        .def("apply", &PyCudaTransport::apply)
        .def("sparse", &PyCudaTransport::sparse)
        .def("rounded", &PyCudaTransport::rounded)
        .def("weighted_sums", &PyCudaTransport::weighted_sums)
        .def("hessian", &PyCudaTransport::hessian)
        .def("gradient", &PyCudaTransport::gradient)
        .def("map", &PyCudaTransport::map)
        .def("weights", &PyCudaTransport::weights)
        .def("span", &PyCudaTransport::span);
    // The shape and the dtype's name, wherever the array lies.
    m.def("_describe", [](py::handle object, const std::string& function, const std::string& argument) {
        const Tensor x(object, {function.c_str(), argument.c_str()}, types);
        require_real(x);
        py::tuple shape(x.ndim());
        for (int k = 0; k < x.ndim(); ++k) shape[static_cast<std::size_t>(k)] = x.shape()[k];
        return py::make_tuple(shape, to_string(x.dtype()));
    });
    // The numbers of a CUDA array of up to two axes, in NumPy; waits for its stream.
    m.def("_to_host", [](py::handle object, const std::string& function, const std::string& argument) -> py::array {
        Tensor x(object, {function.c_str(), argument.c_str()}, types);
        require_real(x);
        if (x.ndim() > 2) throw py::value_error(function + ": " + argument + " must have one or two axes, got shape " + x.shape_text());
        const std::vector<py::ssize_t> shape(x.shape(), x.shape() + x.ndim());
        py::array out(x.dtype() == DType::float64 ? py::dtype::of<double>() : py::dtype::of<float>(), shape);
        if (x.cuda() == nullptr) throw py::type_error(function + ": " + argument + " is no CUDA array");
        x.hold();
        void* const to = out.mutable_data();
        const CudaTable& table = cuda(function.c_str(), argument.c_str());
        run_released(long_work, [&] { table.read(view(x), to, *x.cuda()); });
        return out;
    });
}

}  // namespace raphson::bindings
