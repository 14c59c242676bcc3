#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>

#include "bindings.h"
#include "ihvp/window.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned any_float = float64_float32_bfloat16 | bit(DType::float16);

WindowType window_type(const std::string& name) {
    static const char* const names[] = {"float64", "float32", "bfloat16", "float16", "int8"};
    for (int i = 0; i < 5; ++i) {
        if (name == names[i]) return static_cast<WindowType>(i);
    }
    throw py::value_error("GradientWindow: dtype must be one of float64, float32, bfloat16, float16, int8; got '" + name + "'");
}

VectorRef vector(const Tensor& t) {
    if (t.ndim() != 1) {
        throw py::value_error(std::string(t.where().function) + ": " + t.where().argument + " must have shape (dim,), got " +
                              t.shape_text());
    }
    return {t.data(), t.dtype(), t.shape()[0], t.strides()[0]};
}

py::array_t<double> wrapped(double* values, std::int64_t count) {  // no copy: the callee writes in place
    return py::array_t<double>(count, values, py::capsule(values, [](void*) {}));
}

// The window, and the lock that API.md promises. Whoever waits for it lets go of the GIL: the owner may need it.
class PyWindow {
public:
    PyWindow(std::int64_t dim, std::int64_t capacity, double damping, bool relative, const std::string& type, bool count_scale,
             std::int64_t block_size, bool error_feedback, const py::object& reduce)
        : reduce_(reduce), window_(dim, capacity, {damping, relative}, options(type, count_scale, block_size, error_feedback)) {}

    void push(py::handle given) {
        Refusal refusal(reduce_);
        Tensor g(given, {"push", "g"}, gradient_types());
        const VectorRef ref = vector(g);
        refusal.disarm();
        const auto held = lock();
        run(g, nullptr, 2, [&] { window_.push(ref); });
    }
    py::object precondition(py::handle given, py::handle given_out) {
        return map({"precondition", "g"}, gradient_types(), given, given_out,
                   [&](const VectorRef& g, const VectorRef& out) { window_.precondition(g, out); });
    }
    py::object solve(py::handle given, py::handle given_out) {
        return map({"solve", "x"}, any_float, given, given_out,
                   [&](const VectorRef& x, const VectorRef& out) { window_.solve(x, out); });
    }
    // out: float64 or float32 NumPy, contiguous, made by the caller's wrapper.
    void solve_recent(const py::array_t<double, py::array::c_style | py::array::forcecast>& weights, py::handle out_array) {
        Tensor out(out_array, {"solve_recent", "out"}, float64_float32, Access::write);
        const VectorRef ref = vector(out);
        const double* values = weights.data();
        const auto count = static_cast<std::int64_t>(weights.size());
        const auto held = lock();
        run_released(flops(2), [&] { window_.solve_recent(values, count, ref); });
    }
    double quadratic_vector(py::handle given) {
        Refusal refusal(reduce_);
        Tensor x(given, {"quadratic", "x"}, any_float);
        const VectorRef ref = vector(x);
        refusal.disarm();
        const auto held = lock();
        double result = 0;
        run(x, nullptr, 2, [&] { result = window_.quadratic(ref); });
        return result;
    }
    double quadratic_index(std::int64_t index) {
        const auto held = lock();
        double result = 0;
        run_released(core_flops(2), [&] { result = window_.quadratic(index); });
        return result;
    }
    double logdet() {
        const auto held = lock();
        double result = 0;
        run_released(core_flops(3), [&] { result = window_.logdet(); });
        return result;
    }
    py::array_t<double> influence() {
        const auto held = lock();
        const auto n = static_cast<py::ssize_t>(window_.length());
        py::array_t<double> out({n, n});
        double* data = out.mutable_data();
        run_released(core_flops(3), [&] { window_.influence(data); });
        return out;
    }
    void set_damping(double value, bool relative) {
        const auto held = lock();
        window_.set_damping({value, relative});
    }
    double damping_in_use() {
        const auto held = lock();
        double result = 0;
        run_released(core_flops(3), [&] { result = window_.damping_in_use(); });
        return result;
    }
    void clear() {
        const auto held = lock();
        window_.clear();
    }
    std::int64_t length() {
        const auto held = lock();
        return window_.length();
    }
    std::int64_t nbytes() const { return window_.nbytes(); }

    py::dict state_dict() {
        const auto held = lock();
        Window::State state;
        run_released(flops(1), [&] { state = window_.state(); });
        py::array rows(row_type(), shape_of_rows());
        std::memcpy(rows.mutable_data(), state.rows.data(), state.rows.size());
        py::dict result;
        result["rows"] = rows;
        result["scales"] = copy(state.scales, shape_of_scales());
        result["row_scale"] = copy(state.row_scale, {window_.ring()});
        result["residual"] = copy(state.residual, shape_of_residual());
        result["gram"] = copy(state.gram, shape_of_core());
        result["factor"] = copy(state.factor, shape_of_core());
        result["length"] = state.length;
        result["head"] = state.head;
        result["lambda"] = state.lambda;
        result["shift"] = state.shift;
        return result;
    }
    void load_state_dict(const py::dict& given, double damping, bool relative) {
        Window::State state;
        const py::array rows = array(given, "rows", row_type(), shape_of_rows());
        state.rows.resize(static_cast<std::size_t>(rows.nbytes()));
        std::memcpy(state.rows.data(), rows.data(), state.rows.size());
        state.scales = values<float>(given, "scales", shape_of_scales());
        state.row_scale = values<double>(given, "row_scale", {window_.ring()});
        state.residual = values<float>(given, "residual", shape_of_residual());
        state.gram = values<double>(given, "gram", shape_of_core());
        state.factor = values<double>(given, "factor", shape_of_core());
        state.length = number<std::int64_t>(given, "length");
        state.head = number<std::int64_t>(given, "head");
        state.lambda = number<double>(given, "lambda");
        state.shift = number<double>(given, "shift");
        const auto held = lock();
        window_.load(std::move(state), {damping, relative});
    }

private:
    using Shape = std::vector<py::ssize_t>;

    WindowOptions options(const std::string& type, bool count_scale, std::int64_t block_size, bool error_feedback) {
        WindowOptions o;
        o.type = window_type(type);
        o.scale = count_scale ? WindowScale::count : WindowScale::capacity;
        o.block_size = block_size;
        o.error_feedback = error_feedback;
        if (!reduce_.is_none()) {
            o.reduce = [this](double* numbers, std::int64_t count) {
                const py::gil_scoped_acquire gil;
                reduce_(wrapped(numbers, count));
            };
        }
        return o;
    }
    std::unique_lock<std::mutex> lock() {
        std::unique_lock<std::mutex> held(mutex_, std::try_to_lock);
        if (!held.owns_lock()) {
            const py::gil_scoped_release released;
            held.lock();
        }
        return held;
    }
    unsigned gradient_types() const {
        static constexpr unsigned own[] = {bit(DType::float64), bit(DType::float32), bit(DType::bfloat16), bit(DType::float16), 0};
        return bit(DType::float32) | own[static_cast<int>(window_.options().type)];
    }
    double core_flops(int power) const {
        const double n = static_cast<double>(window_.capacity());
        return (power == 2 ? n * n : n * n * n) * static_cast<double>(window_.block_count());
    }
    double flops(int passes) const {
        return 2.0 * passes * static_cast<double>(window_.dim()) * static_cast<double>(window_.capacity()) + core_flops(2);
    }
    // Arguments that are refused here never reach the window, which would tell the other processes: then this does.
    class Refusal {
    public:
        explicit Refusal(const py::object& reduce) : reduce_(reduce) {}
        ~Refusal() {
            if (!armed_ || reduce_.is_none()) return;
            double refused = 1;
            try {
                reduce_(wrapped(&refused, 1));
            } catch (py::error_already_set& error) {
                error.discard_as_unraisable("GradientWindow: telling the other processes");
            }
        }
        Refusal(const Refusal&) = delete;
        Refusal& operator=(const Refusal&) = delete;
        void disarm() { armed_ = false; }

    private:
        const py::object& reduce_;
        bool armed_ = true;
    };
    template <class Work>
    void run(Tensor& x, Tensor* out, int passes, Work&& work) {
        const double cost = flops(passes);
        if (cost >= worth_releasing) {
            x.hold();
            if (out != nullptr) out->hold();
        }
        run_released(cost, std::forward<Work>(work));
    }
    template <class Work>
    py::object map(Where where, unsigned types, py::handle given, py::handle given_out, Work&& work) {
        Refusal refusal(reduce_);
        Tensor x(given, where, types);
        const VectorRef from = vector(x);
        const Where out_where{where.function, "out"};
        std::optional<Tensor> out;
        std::optional<NewArray> fresh;
        if (given_out.is_none()) {
            fresh.emplace(x, x.dtype(), 1, x.shape());
        } else if (given_out.is(given)) {
            x.require_writable(out_where);
            require_no_sharing(x, out_where);
        } else {
            out.emplace(given_out, out_where, types, Access::write);
            require_same(x, *out);
            out->require_writable(out_where);
            require_no_overlap(*out, x);
        }
        const BatchRef target = fresh ? fresh->batch() : out ? out->batch() : x.batch();
        if (target.ndim != 1 || target.shape[0] != from.size) {
            throw py::value_error(std::string(where.function) + ": out must have shape " + x.shape_text() + ", got " +
                                  (out ? out->shape_text() : x.shape_text()));
        }
        const VectorRef to{target.data, target.dtype, target.shape[0], target.strides[0]};
        refusal.disarm();
        const auto held = lock();
        run(x, out ? &*out : nullptr, 4, [&] { work(from, to); });
        return fresh ? fresh->finish() : py::reinterpret_borrow<py::object>(given_out);
    }
    template <class T>
    static py::array_t<T> copy(const std::vector<T>& from, const Shape& shape) {
        py::array_t<T> to(shape);
        std::copy(from.begin(), from.end(), to.mutable_data());
        return to;
    }
    static py::object entry(const py::dict& given, const char* key) {
        if (!given.contains(key)) throw py::value_error("load_state_dict: '" + std::string(key) + "' is missing");
        return given[key];
    }
    // C-contiguous, of exactly this dtype and shape.
    static py::array array(const py::dict& given, const char* key, const py::dtype& type, const Shape& shape) {
        const py::object object = entry(given, key);
        if (!py::isinstance<py::array>(object)) throw py::type_error("load_state_dict: " + std::string(key) + " must be an array");
        const auto from = py::reinterpret_borrow<py::array>(object);
        const bool same = from.dtype().equal(type) && from.ndim() == static_cast<py::ssize_t>(shape.size()) &&
                          std::equal(shape.begin(), shape.end(), from.shape());
        if (!same) {
            throw py::value_error("load_state_dict: " + std::string(key) + " must be " + std::string(py::str(type)) + " " +
                                  std::string(py::str(py::tuple(py::cast(shape)))) + ", got " +
                                  std::string(py::str(from.dtype())) + " " + std::string(py::str(from.attr("shape"))));
        }
        return py::array::ensure(from, py::array::c_style);
    }
    template <class T>
    static std::vector<T> values(const py::dict& given, const char* key, const Shape& shape) {
        const py::array from = array(given, key, py::dtype::of<T>(), shape);
        const T* first = static_cast<const T*>(from.data());
        return {first, first + from.size()};
    }
    template <class T>
    static T number(const py::dict& given, const char* key) {
        try {
            return py::cast<T>(entry(given, key));
        } catch (const py::cast_error&) {
            throw py::type_error("load_state_dict: " + std::string(key) + " must be a number");
        }
    }
    py::dtype row_type() const {
        static const char* const types[] = {"float64", "float32", "uint16", "float16", "int8"};
        return py::dtype(types[static_cast<int>(window_.options().type)]);
    }
    Shape shape_of_rows() const { return {window_.ring(), window_.dim()}; }
    Shape shape_of_scales() const { return {window_.ring(), window_.scales_per_row()}; }
    Shape shape_of_residual() const { return {window_.options().error_feedback ? window_.dim() : 0}; }
    Shape shape_of_core() const { return {window_.block_count(), window_.ring(), window_.ring()}; }

    std::mutex mutex_;
    py::object reduce_;
    Window window_;
};

}  // namespace

void bind_ihvp(py::module_& m) {
    py::class_<PyWindow>(m, "GradientWindow")
        .def(py::init<std::int64_t, std::int64_t, double, bool, const std::string&, bool, std::int64_t, bool, const py::object&>())
        .def("push", &PyWindow::push)
        .def("precondition", &PyWindow::precondition)
        .def("solve", &PyWindow::solve)
        .def("solve_recent", &PyWindow::solve_recent)
        .def("quadratic_vector", &PyWindow::quadratic_vector)
        .def("quadratic_index", &PyWindow::quadratic_index)
        .def("logdet", &PyWindow::logdet)
        .def("influence", &PyWindow::influence)
        .def("set_damping", &PyWindow::set_damping)
        .def("damping_in_use", &PyWindow::damping_in_use)
        .def("clear", &PyWindow::clear)
        .def("__len__", &PyWindow::length)
        .def_property_readonly("nbytes", &PyWindow::nbytes)
        .def("state_dict", &PyWindow::state_dict)
        .def("load_state_dict", &PyWindow::load_state_dict);
}

}  // namespace raphson::bindings
