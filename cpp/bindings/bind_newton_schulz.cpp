#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <chrono>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "newton_schulz/orthogonalize.h"
#include "raphson/newton_schulz.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

using Table = py::array_t<double, py::array::c_style | py::array::forcecast>;

Schedule schedule_from_table(py::handle given, py::handle steps) {
    const auto table = Table::ensure(given);
    if (!table) {
        PyErr_Clear();
        throw py::type_error("orthogonalize: schedule must be a name or a (steps, 3) array of numbers, got " +
                             std::string(Py_TYPE(given.ptr())->tp_name));
    }
    if (table.ndim() != 2 || table.shape(1) != 3) {
        std::string shape;
        for (py::ssize_t i = 0; i < table.ndim(); ++i) shape += (i == 0 ? "" : ", ") + std::to_string(table.shape(i));
        throw py::value_error("orthogonalize: schedule must have shape (steps, 3), got (" + shape + ")");
    }
    std::vector<Step> rows;
    for (py::ssize_t i = 0; i < table.shape(0); ++i) rows.push_back({table.at(i, 0), table.at(i, 1), table.at(i, 2)});
    Schedule schedule(std::move(rows));
    return steps.is_none() ? schedule : schedule.with_steps(py::cast<int>(steps));
}

// Names are looked up by identity first: callers pass the same interned string every time.
struct Named {
    py::object name;
    int steps;
    std::int64_t rows, cols;
    Schedule schedule;
};

// Tables that depend on the shape are kept for the last few hundred shapes.
const Schedule& schedule_by_name(py::handle name, py::handle steps, std::int64_t rows, std::int64_t cols) {
    static auto* const known = new std::vector<std::unique_ptr<Named>>;
    const int count = steps.is_none() ? 0 : py::cast<int>(steps);
    if (!steps.is_none() && count < 1) {
        throw py::value_error("orthogonalize: steps must be at least 1, got " + std::to_string(count));
    }
    const bool by_shape = PyUnicode_CompareWithASCIIString(name.ptr(), "root") == 0;
    if (!by_shape) rows = cols = 0;
    const auto matches = [&](const Named& entry) { return entry.steps == count && entry.rows == rows && entry.cols == cols; };
    for (const auto& entry : *known) {
        if (entry->name.is(name) && matches(*entry)) return entry->schedule;
    }
    for (const auto& entry : *known) {
        if (entry->name.equal(name) && matches(*entry)) return entry->schedule;
    }
    Schedule schedule = Schedule::named(py::cast<std::string>(name), count, rows, cols);
    if (known->size() > 500) known->clear();
    known->push_back(std::make_unique<Named>(
        Named{py::reinterpret_borrow<py::object>(name), count, rows, cols, std::move(schedule)}));
    return known->back()->schedule;
}

// One of the names, or for None the first.
template <class Value>
Value parse_name(const char* argument, py::handle given, std::initializer_list<std::pair<const char*, Value>> known) {
    if (given.is_none()) return known.begin()->second;
    std::string names;
    for (const auto& [name, value] : known) {
        if (name == nullptr) continue;
        if (PyUnicode_Check(given.ptr()) && PyUnicode_CompareWithASCIIString(given.ptr(), name) == 0) return value;
        names += std::string(names.empty() ? "'" : ", '") + name + "'";
    }
    throw py::value_error("orthogonalize: " + std::string(argument) + " must be one of " + names + ", got " +
                          std::string(py::repr(given)));
}

// The arguments that say how, for every function that takes them.
struct How {
    py::handle schedule, steps;
    OrthogonalizeOptions options;
    std::unique_ptr<Schedule> custom;

    How(py::handle schedule_, py::handle steps_, py::handle normalize, py::handle method, py::handle precision, double eps,
        py::handle check_finite)
        : schedule(schedule_), steps(steps_) {
        options.eps = eps;
        options.check_finite = check_finite.is_none() || py::cast<bool>(check_finite);
        options.normalize = parse_name<Normalize>("normalize", normalize,
                                                  {{nullptr, Normalize::schedule},
                                                   {"frobenius", Normalize::frobenius},
                                                   {"gram", Normalize::gram},
                                                   {"aol", Normalize::aol}});
        options.method = parse_name<Method>(
            "method", method, {{"auto", Method::automatic}, {"standard", Method::standard}, {"gram", Method::gram}});
        if (!precision.is_none()) {
            options.own_precision = false;
            options.precision = parse_name<DType>("precision", precision,
                                                  {{"float64", DType::float64},
                                                   {"float32", DType::float32},
                                                   {"bfloat16", DType::bfloat16}});
        }
        if (!PyUnicode_Check(schedule.ptr())) custom = std::make_unique<Schedule>(schedule_from_table(schedule, steps));
    }
    const Schedule& table(std::int64_t rows, std::int64_t cols) const {
        return custom != nullptr ? *custom : schedule_by_name(schedule, steps, rows, cols);
    }
};

constexpr Where x_where{"orthogonalize", "x"}, out_where{"orthogonalize", "out"};

// One array of a call and where its result goes: a fresh array, the caller's out=, or x itself.
struct Argument {
    py::object given_out;
    Tensor x;
    std::optional<Tensor> out;
    std::optional<NewArray> fresh;
    OrthogonalizePlan plan;

    Argument(py::handle x_object, py::handle out_object, const How& how)
        : given_out(py::reinterpret_borrow<py::object>(out_object)), x(x_object, x_where, float64_float32_bfloat16) {
        if (out_object.is_none()) {
            if (x.ndim() >= 2) fresh.emplace(x, x.dtype(), x.ndim(), x.shape());
        } else if (out_object.is(x_object)) {
            x.require_writable(out_where);
        } else {
            out.emplace(out_object, out_where, float64_float32_bfloat16, Access::write);
            require_same(x, *out);
            require_no_overlap(*out, x);
        }
        check_orthogonalize(x.batch(), target(), how.options);
        const BatchRef matrix = x.batch();
        plan = plan_orthogonalize(matrix.rows(), matrix.cols(), matrix.dtype, how.table(matrix.rows(), matrix.cols()),
                                  how.options);
    }
    BatchRef target() { return fresh ? fresh->batch() : out ? out->batch() : x.batch(); }
    double flops() const { return plan.flops * static_cast<double>(x.batch().count()); }
    OrthogonalizeItem item() { return {x.batch(), target(), &plan}; }
    void hold() {
        x.hold();
        if (out) out->hold();
    }
    py::object finish() { return fresh ? fresh->finish() : given_out; }
};

py::object orthogonalize_array(py::handle x, py::handle schedule, py::handle steps, py::handle normalize, py::handle method,
                               py::handle precision, double eps, py::handle check_finite, py::handle out) {
    const How how(schedule, steps, normalize, method, precision, eps, check_finite);
    Argument argument(x, out, how);
    const double flops = argument.flops();
    if (flops >= worth_releasing) argument.hold();
    const OrthogonalizeItem item = argument.item();
    run_released(flops, [&] { orthogonalize(&item, 1, how.options); });
    return argument.finish();
}

py::list orthogonalize_list(const py::sequence& arrays, py::handle schedule, py::handle steps, py::handle normalize,
                            py::handle method, py::handle precision, double eps, py::handle check_finite, py::handle outs) {
    const How how(schedule, steps, normalize, method, precision, eps, check_finite);
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
    double flops = 0;
    for (const auto& argument : arguments) flops += argument->flops();
    std::vector<OrthogonalizeItem> items;
    for (const auto& argument : arguments) {
        if (flops >= worth_releasing) argument->hold();
        items.push_back(argument->item());
    }
    run_released(flops, [&] { orthogonalize(items.data(), items.size(), how.options); });
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
    const How how(schedule, steps, normalize, method, precision, 0, py::none());
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
    const How how(py::str("polar_express"), py::none(), py::none(), py::none(), py::none(), 1e-7, py::none());
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
    m.def("schedule_names", [] { return Schedule::names(); });
    m.def("schedule", [](const std::string& name, int steps, std::int64_t rows, std::int64_t cols) {
        return as_array(Schedule::named(name, steps, rows, cols).steps());
    });
    m.def("minimax_schedule", [](double lower, int steps, int degree, double safety, double cushion) {
        return as_array(minimax_schedule(lower, steps, degree, safety, cushion));
    });
    m.def("_time_orthogonalize", time_orthogonalize);
}

}  // namespace raphson::bindings
