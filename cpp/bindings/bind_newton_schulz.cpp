#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <memory>
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
    Schedule schedule;
};

const Schedule& schedule_by_name(py::handle name, py::handle steps) {
    static auto* const known = new std::vector<std::unique_ptr<Named>>;
    const int count = steps.is_none() ? 0 : py::cast<int>(steps);
    if (!steps.is_none() && count < 1) throw py::value_error("orthogonalize: steps must be at least 1, got " + std::to_string(count));
    for (const auto& entry : *known) {
        if (entry->steps == count && entry->name.is(name)) return entry->schedule;
    }
    for (const auto& entry : *known) {
        if (entry->steps == count && entry->name.equal(name)) return entry->schedule;
    }
    Schedule schedule = Schedule::named(py::cast<std::string>(name), count);
    known->push_back(std::make_unique<Named>(Named{py::reinterpret_borrow<py::object>(name), count, std::move(schedule)}));
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

py::object orthogonalize_array(py::handle x_object, py::handle schedule, py::handle steps, py::handle normalize,
                               py::handle method, py::handle precision, double eps, py::handle check_finite,
                               py::handle out_object) {
    static constexpr Where x_where{"orthogonalize", "x"}, out_where{"orthogonalize", "out"};
    OrthogonalizeOptions options;
    options.eps = eps;
    options.check_finite = check_finite.is_none() || py::cast<bool>(check_finite);
    options.normalize = parse_name<Normalize>(
        "normalize", normalize,
        {{nullptr, Normalize::schedule}, {"frobenius", Normalize::frobenius}, {"gram", Normalize::gram}, {"aol", Normalize::aol}});
    (void)parse_name<int>("method", method, {{"auto", 0}, {"standard", 0}});
    if (!precision.is_none()) {
        options.own_precision = false;
        options.precision = parse_name<DType>("precision", precision,
                                              {{"float64", DType::float64},
                                               {"float32", DType::float32},
                                               {"bfloat16", DType::bfloat16}});
    }
    std::unique_ptr<Schedule> custom;
    const Schedule* table;
    if (PyUnicode_Check(schedule.ptr())) {
        table = &schedule_by_name(schedule, steps);
    } else {
        custom = std::make_unique<Schedule>(schedule_from_table(schedule, steps));
        table = custom.get();
    }

    Tensor x(x_object, x_where, float64_float32_bfloat16);
    const auto run = [&](Tensor* out, const BatchRef& result) {
        BatchRef input = x.batch();
        check_orthogonalize(input, result, options);
        const double flops = static_cast<double>(input.count()) *
                             orthogonalize_flops(input.rows(), input.cols(), static_cast<std::int64_t>(table->steps().size()));
        BatchRef target = result;
        if (flops >= worth_releasing) {
            x.hold();
            input = x.batch();
            if (out != nullptr) {
                out->hold();
                target = out->batch();
            }
        }
        run_released(flops, [&] { orthogonalize(input, target, *table, options); });
    };
    if (out_object.is_none()) {
        if (x.ndim() < 2) run(nullptr, x.batch());  // throws, before anything is allocated
        NewArray fresh(x, x.dtype(), x.ndim(), x.shape());
        run(nullptr, fresh.batch());
        return fresh.finish();
    }
    if (out_object.is(x_object)) {
        x.require_writable(out_where);
        run(&x, x.batch());
    } else {
        Tensor out(out_object, out_where, float64_float32_bfloat16, Access::write);
        require_same(x, out);
        require_no_overlap(out, x);
        run(&out, out.batch());
    }
    return py::reinterpret_borrow<py::object>(out_object);
}

}  // namespace

void bind_newton_schulz(py::module_& m) {
    m.def("orthogonalize", orthogonalize_array);
}

}  // namespace raphson::bindings
