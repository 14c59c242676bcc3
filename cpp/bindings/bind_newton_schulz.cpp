#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "how.h"
#include "newton_schulz/orthogonalize.h"
#include "raphson/newton_schulz.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr Where x_where{"orthogonalize", "x"}, out_where{"orthogonalize", "out"};
constexpr unsigned dtypes = float64_float32_bfloat16 | and_cuda;

// One array of a call and where its result goes: a fresh array, the caller's out=, or x itself.
struct Argument {
    py::object given_out;
    Tensor x;
    std::optional<Tensor> out;
    std::optional<NewArray> fresh;
    OrthogonalizePlan plan;

    Argument(py::handle x_object, py::handle out_object, const How& how)
        : given_out(py::reinterpret_borrow<py::object>(out_object)), x(x_object, x_where, dtypes) {
        if (out_object.is_none()) {
            if (x.ndim() >= 2) fresh.emplace(x, x.dtype(), x.ndim(), x.shape());
        } else if (out_object.is(x_object)) {
            x.require_writable(out_where);
            require_no_sharing(x, out_where);
        } else {
            out.emplace(out_object, out_where, dtypes, Access::write);
            require_same(x, *out);
            out->require_writable(out_where);
            require_no_overlap(*out, x);
        }
        check_orthogonalize(x.batch(), target(), how.options);
        const BatchRef matrix = x.batch();
        plan = plan_orthogonalize(matrix.rows(), matrix.cols(), matrix.dtype, how.table(matrix.rows(), matrix.cols()),
                                  how.options);
    }
    BatchRef target() { return fresh ? fresh->batch() : out ? out->batch() : x.batch(); }
    const Tensor& destination() const { return out ? *out : x; }  // of a call with out=
    double flops() const { return plan.flops * static_cast<double>(x.batch().count()); }
    OrthogonalizeItem item() { return {x.batch(), target(), &plan}; }
    void hold() {
        x.hold();
        if (out) out->hold();
    }
    py::object finish() { return fresh ? fresh->finish() : given_out; }
};

// Where the arrays lie. Launching is quick, but the first launch on a device is not.
void run(const OrthogonalizeItem* items, std::size_t count, double flops, const How& how, const CudaPlace* place) {
    if (place == nullptr) return run_released(flops, [&] { orthogonalize(items, count, how.options); });
    const CudaTable& table = cuda("orthogonalize", "x");
    const py::gil_scoped_release released;
    table.orthogonalize(items, count, how.options_on(place), *place);
}

py::object orthogonalize_array(py::handle x, py::handle schedule, py::handle steps, py::handle normalize, py::handle method,
                               py::handle precision, double eps, py::handle check_finite, py::handle out) {
    const How how("orthogonalize", schedule, steps, normalize, method, precision, eps, check_finite);
    Argument argument(x, out, how);
    const double flops = argument.flops();
    if (flops >= worth_releasing || argument.x.cuda() != nullptr) argument.hold();
    const OrthogonalizeItem item = argument.item();
    run(&item, 1, flops, how, argument.x.cuda());
    return argument.finish();
}

py::list orthogonalize_list(const py::sequence& arrays, py::handle schedule, py::handle steps, py::handle normalize,
                            py::handle method, py::handle precision, double eps, py::handle check_finite, py::handle outs) {
    const How how("orthogonalize", schedule, steps, normalize, method, precision, eps, check_finite);
    const std::size_t count = arrays.size();
    if (!outs.is_none() && py::len(outs) != count) {
        throw py::value_error("orthogonalize_many: out has " + std::to_string(py::len(outs)) + " arrays, arrays has " +
                              std::to_string(count));
    }
    std::vector<std::unique_ptr<Argument>> arguments;
    for (std::size_t i = 0; i < count; ++i) {
        const py::object x = arrays[i];
        const py::object out = outs.is_none() ? py::object(py::none()) : py::object(outs[py::int_(i)]);
        arguments.push_back(std::make_unique<Argument>(x, out, how));
        require_same(arguments.front()->x, arguments.back()->x);
    }
    if (!outs.is_none()) {  // what one matrix is written to must not be another's input or output
        std::vector<MemoryUse> uses;
        for (std::size_t i = 0; i < count; ++i) {
            uses.push_back({&arguments[i]->x, i, false});
            if (!arguments[i]->fresh) uses.push_back({&arguments[i]->destination(), i, true});
        }
        require_disjoint(std::move(uses));
    }
    double flops = 0;
    for (const auto& argument : arguments) flops += argument->flops();
    std::vector<OrthogonalizeItem> items;
    for (const auto& argument : arguments) {
        if (flops >= worth_releasing || argument->x.cuda() != nullptr) argument->hold();
        items.push_back(argument->item());
    }
    run(items.data(), count, flops, how, count == 0 ? nullptr : arguments.front()->x.cuda());
    py::list results;
    for (const auto& argument : arguments) results.append(argument->finish());
    return results;
}

py::array_t<double> as_array(const std::vector<Step>& steps) {
    py::array_t<double> table({static_cast<py::ssize_t>(steps.size()), py::ssize_t{3}});
    for (std::size_t i = 0; i < steps.size(); ++i) {
        double* row = table.mutable_data(static_cast<py::ssize_t>(i), 0);
        row[0] = steps[i].a;
        row[1] = steps[i].b;
        row[2] = steps[i].c;
    }
    return table;
}

py::dict plan_shape(std::int64_t rows, std::int64_t cols, const std::string& dtype, py::handle schedule, py::handle steps,
                    py::handle normalize, py::handle method, py::handle precision) {
    const How how("orthogonalize", schedule, steps, normalize, method, precision, 0, py::none());
    const DType type = dtype == "float64" ? DType::float64 : dtype == "float32" ? DType::float32 : DType::bfloat16;
    const OrthogonalizePlan plan = plan_orthogonalize(rows, cols, type, how.table(rows, cols), how.options);
    py::dict d;
    d["method"] = plan.method == Method::gram ? "gram" : "standard";
    d["normalize"] = plan.normalize == Normalize::gram ? "gram" : plan.normalize == Normalize::aol ? "aol" : "frobenius";
    d["norm_factor"] = plan.norm_factor;
    d["precision"] = to_string(plan.precision);
    d["transposed"] = plan.transposed;
    d["steps"] = as_array(plan.steps);
    d["flops"] = plan.flops;
    return d;
}

// Seconds a call of the C++ function alone takes: what bench/overhead.py subtracts.
double time_orthogonalize(py::handle x, py::handle out, std::int64_t repeats) {
    const How how("orthogonalize", py::str("polar_express"), py::none(), py::none(), py::none(), py::none(), 1e-7,
                  py::none());
    Argument argument(x, out, how);
    const OrthogonalizeItem item = argument.item();
    const auto start = std::chrono::steady_clock::now();
    for (std::int64_t i = 0; i < repeats; ++i) orthogonalize(&item, 1, how.options);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(repeats);
}

}  // namespace

void bind_newton_schulz(py::module_& m) {
    m.def("orthogonalize", orthogonalize_array);
    m.def("orthogonalize_many", orthogonalize_list);
    m.def("plan", plan_shape);
    m.def("schedule", [](const std::string& name, int steps, std::int64_t rows, std::int64_t cols) {
        return as_array(Schedule::named(name, steps, rows, cols).steps());
    });
    m.def("minimax_schedule", [](double lower, int steps, int degree, double safety, double cushion) {
        return as_array(minimax_schedule(lower, steps, degree, safety, cushion));
    });
    m.def("_time_orthogonalize", time_orthogonalize);
}

}  // namespace raphson::bindings
