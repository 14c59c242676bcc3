#include "how.h"

#include <pybind11/numpy.h>

#include <cstring>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace raphson::bindings {
namespace {

// None is 0: the table's own length.
int parse_steps(const std::string& function, py::handle given) {
    if (given.is_none()) return 0;
    if (PyIndex_Check(given.ptr()) == 0) {
        throw py::type_error(function + ": steps must be an int or None, got " +
                             std::string(Py_TYPE(given.ptr())->tp_name));
    }
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(given.ptr()));
    if (!number) throw py::error_already_set();
    int overflow = 0;
    const long long count = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    if (overflow != 0 || count < 1 || count > 100) {
        throw py::value_error(function + ": steps must be 1 to 100, got " + std::string(py::str(number)));
    }
    return static_cast<int>(count);
}

bool parse_check_finite(const std::string& function, py::handle given) {
    if (given.is_none()) return true;
    if (!PyBool_Check(given.ptr()) && !py::isinstance(given, py::module_::import("numpy").attr("bool_"))) {
        throw py::type_error(function + ": check_finite must be a bool or None, got " +
                             std::string(Py_TYPE(given.ptr())->tp_name));
    }
    return PyObject_IsTrue(given.ptr()) == 1;
}

using Table = py::array_t<double, py::array::c_style | py::array::forcecast>;

Schedule schedule_from_table(const std::string& function, py::handle given, py::handle steps) {
    // forcecast alone would read numbers out of strings and drop imaginary parts
    const auto plain = py::array::ensure(given);
    const bool numbers = plain && std::strchr("fiu", plain.dtype().kind()) != nullptr;
    const auto table = numbers ? Table::ensure(plain) : Table();
    if (!numbers || !table) {
        PyErr_Clear();
        throw py::type_error(function + ": schedule must be a name or a (steps, 3) array of numbers, got " +
                             std::string(Py_TYPE(given.ptr())->tp_name));
    }
    if (table.ndim() != 2 || table.shape(1) != 3) {
        std::string shape;
        for (py::ssize_t i = 0; i < table.ndim(); ++i) shape += (i == 0 ? "" : ", ") + std::to_string(table.shape(i));
        throw py::value_error(function + ": schedule must have shape (steps, 3), got (" + shape + ")");
    }
    std::vector<Step> rows;
    for (py::ssize_t i = 0; i < table.shape(0); ++i) rows.push_back({table.at(i, 0), table.at(i, 1), table.at(i, 2)});
    Schedule schedule(std::move(rows));
    return steps.is_none() ? schedule : schedule.with_steps(parse_steps(function, steps));
}

// Names are looked up by identity first: callers pass the same interned string every time.
struct Named {
    py::object name;
    int steps;
    std::int64_t rows, cols;
    Schedule schedule;
};

// Tables that depend on the shape are kept for the last few hundred shapes.
const Schedule& schedule_by_name(const std::string& function, py::handle name, py::handle steps, std::int64_t rows,
                                 std::int64_t cols) {
    static auto* const known = new std::vector<std::unique_ptr<Named>>;
    const int count = parse_steps(function, steps);
    const bool by_shape = PyUnicode_CompareWithASCIIString(name.ptr(), "root") == 0;
    if (!by_shape) rows = cols = 0;
    const auto matches = [&](const Named& entry) {
        return entry.steps == count && entry.rows == rows && entry.cols == cols;
    };
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
Value parse_name(const std::string& function, const char* argument, py::handle given,
                 std::initializer_list<std::pair<const char*, Value>> known) {
    if (given.is_none()) return known.begin()->second;
    std::string names;
    for (const auto& [name, value] : known) {
        if (name == nullptr) continue;
        if (PyUnicode_Check(given.ptr()) && PyUnicode_CompareWithASCIIString(given.ptr(), name) == 0) return value;
        names += std::string(names.empty() ? "'" : ", '") + name + "'";
    }
    throw py::value_error(function + ": " + argument + " must be one of " + names + ", got " +
                          std::string(py::repr(given)));
}

}  // namespace

How::How(const char* function_, py::handle schedule_, py::handle steps_, py::handle normalize, py::handle method,
         py::handle precision, double eps, py::handle check_finite)
    : function(function_), schedule(schedule_), steps(steps_) {
    options.eps = eps;
    options.check_finite = parse_check_finite(function, check_finite);
    finite_by_default = check_finite.is_none();
    options.normalize = parse_name<Normalize>(function, "normalize", normalize,
                                              {{nullptr, Normalize::schedule},
                                               {"frobenius", Normalize::frobenius},
                                               {"gram", Normalize::gram},
                                               {"aol", Normalize::aol}});
    options.method = parse_name<Method>(
        function, "method", method,
        {{"auto", Method::automatic}, {"standard", Method::standard}, {"gram", Method::gram}});
    if (!precision.is_none()) {
        options.own_precision = false;
        options.precision = parse_name<DType>(function, "precision", precision,
                                              {{"float64", DType::float64},
                                               {"float32", DType::float32},
                                               {"bfloat16", DType::bfloat16}});
    }
    if (!PyUnicode_Check(schedule.ptr())) {
        custom = std::make_unique<Schedule>(schedule_from_table(function, schedule, steps));
    }
}

OrthogonalizeOptions How::options_on(const CudaPlace* place) const {
    OrthogonalizeOptions there = options;
    if (place != nullptr && finite_by_default) there.check_finite = false;
    return there;
}

const Schedule& How::table(std::int64_t rows, std::int64_t cols) const {
    return custom != nullptr ? *custom : schedule_by_name(function, schedule, steps, rows, cols);
}

}  // namespace raphson::bindings
