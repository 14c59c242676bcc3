#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <mutex>
#include <string>

#include "bindings.h"
#include "ihvp/window.h"
#include "tensor.h"
#include "window_state.h"

namespace raphson::bindings {
namespace {

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
        return to_dict(state, shape());
    }
    void load_state_dict(const py::dict& given, double damping, bool relative) {
        Window::State state = from_dict(given, shape());
        const auto held = lock();
        window_.load(std::move(state), {damping, relative});
    }

private:
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
    unsigned gradient_types() const { return bindings::gradient_types(window_.options().type); }
    WindowShape shape() const {
        return {window_.options().type, window_.ring(), window_.dim(), window_.scales_per_row(), window_.block_count(),
                window_.options().error_feedback};
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
        VectorMap map(given, given_out, where, types);
        refusal.disarm();
        const auto held = lock();
        run(map.x, map.out ? &*map.out : nullptr, 4, [&] { work(map.from(), map.to()); });
        return map.finish();
    }
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
