// GradientWindow on a CUDA device: the Python class's other half.
#include <pybind11/numpy.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "ihvp/check.h"
#include "ihvp/device_window.h"
#include "window_state.h"

namespace raphson::bindings {
namespace {

class PyCudaWindow {
public:
    PyCudaWindow(std::int64_t dim, std::int64_t capacity, double damping, bool relative, const std::string& type, bool count_scale,
                 std::int64_t block_size, bool error_feedback, int device)
        : dim_(dim), capacity_(capacity) {
        WindowOptions options;
        options.type = window_type(type);
        options.scale = count_scale ? WindowScale::count : WindowScale::capacity;
        options.block_size = block_size;
        options.error_feedback = error_feedback;
        check_window(dim, capacity, {damping, relative}, options);
        const std::int64_t width = block_size == 0 ? dim : std::min(block_size, dim);
        shape_ = {options.type, capacity + 1, dim, 0, (dim + width - 1) / width, error_feedback};
        for (std::int64_t first = 0; first < dim && options.type == WindowType::int8; first += width) {
            shape_.scales_per_row += (std::min(width, dim - first) + int8_block - 1) / int8_block;
        }
        place_ = {device, nullptr};
        table_ = &cuda_device("GradientWindow", device);
        const py::gil_scoped_release released;
        window_.reset(table_->make_window(dim, capacity, {damping, relative}, options, place_));
    }

    void push(py::handle given) {
        Tensor g(given, {"push", "g"}, gradient_types(shape_.type) | and_cuda);
        check_vector(g);
        g.hold();
        const VectorRef ref = vector(g);
        locked([&] { window_->precondition(ref, nullptr, *g.cuda()); });
        remember(g);
    }
    py::object precondition(py::handle given, py::handle out) {
        return map({"precondition", "g"}, gradient_types(shape_.type), given, out, [&](VectorMap& map) {
            const VectorRef to = map.to();
            window_->precondition(map.from(), &to, *map.x.cuda());
        }, true);
    }
    py::object solve(py::handle given, py::handle out) {
        require_rows("solve");
        return map({"solve", "x"}, any_float, given, out,
                   [&](VectorMap& map) { window_->solve(map.from(), map.to(), *map.x.cuda()); });
    }
    py::object solve_recent(const py::array_t<double, py::array::c_style | py::array::forcecast>& weights) {
        require_rows("solve_recent");
        const auto count = static_cast<std::int64_t>(weights.size());
        if (count > length()) {
            throw py::value_error("solve_recent: " + std::to_string(count) + " weights for a window of " + std::to_string(length()) +
                                  " gradients");
        }
        const double* values = weights.data();
        if (!std::all_of(values, values + count, [](double v) { return std::isfinite(v); })) {
            throw py::value_error("solve_recent: weights must be finite");
        }
        const DType type = shape_.type == WindowType::float64 ? DType::float64 : DType::float32;
        return answer(type, {dim_}, [&](void* to, CudaPlace place) {
            window_->solve_recent(values, count, {to, type, dim_, 1}, place);
        });
    }
    double quadratic_vector(py::handle given) {
        require_rows("quadratic");
        Tensor x(given, {"quadratic", "x"}, any_float | and_cuda);
        check_vector(x);
        x.hold();
        const VectorRef ref = vector(x);
        return locked([&] { return window_->quadratic(ref, *x.cuda()); });
    }
    double quadratic_index(std::int64_t index) {
        require_rows("quadratic");
        if (index < 0 || index >= length()) {
            throw py::index_error("quadratic: index " + std::to_string(index) + " is out of range for a window of " +
                                  std::to_string(length()) + " gradients");
        }
        return locked([&] { return window_->quadratic(index, place_); });
    }
    double logdet() {
        require_rows("logdet");
        return locked([&] { return window_->logdet(place_); });
    }
    py::object influence() {
        require_rows("influence");
        const std::int64_t n = length();
        return answer(DType::float64, {n, n}, [&](void* to, CudaPlace place) { window_->influence(static_cast<double*>(to), place); });
    }
    void set_damping(double value, bool relative) {
        check_damping("damping", {value, relative});
        locked([&] { window_->set_damping({value, relative}, place_); });
    }
    double damping_in_use() {
        return locked([&] { return window_->damping_in_use(place_); });
    }
    void clear() {
        locked([&] { window_->clear(place_); });
    }
    std::int64_t length() {
        return locked([&] { return window_->length(); });
    }
    std::int64_t nbytes() const { return window_->nbytes(); }
    py::dict state_dict() {
        return to_dict(locked([&] { return window_->state(place_); }), shape_);
    }
    void load_state_dict(const py::dict& given, double damping, bool relative) {
        check_damping("load_state_dict", {damping, relative});
        const Window::State state = from_dict(given, shape_);
        Window::check_state(state, capacity_);
        locked([&] { window_->load(state, {damping, relative}, place_); });
    }

private:
    // Whoever waits for the window lets go of the GIL.
    template <class Work>
    std::invoke_result_t<Work&> locked(Work&& work) {
        const py::gil_scoped_release released;
        const std::lock_guard<std::mutex> held(mutex_);
        return work();
    }
    template <class Work>
    py::object map(Where where, unsigned types, py::handle given, py::handle out, Work&& work, bool gradient = false) {
        VectorMap map(given, out, where, types | and_cuda);
        check_vector(map.x);
        map.hold();
        locked([&] { work(map); });
        if (gradient) remember(map.x);
        return map.finish();
    }
    // Answers that no array was given for come in the library of the newest gradient, of which one number is kept.
    void remember(const Tensor& g) {
        if (framework_ == g.framework()) return;
        const std::int64_t shape[] = {1};
        like_ = NewArray(g, DType::float32, 1, shape).finish();
        framework_ = g.framework();
    }
    // A fresh array of that library, on its stream of now; NumPy's where no gradient has come since a state was loaded.
    template <class Work>
    py::object answer(DType type, const std::vector<std::int64_t>& shape, Work&& work) {
        if (like_) {
            const Tensor like(like_, {"GradientWindow", "g"}, any_float | and_cuda);
            NewArray fresh(like, type, static_cast<int>(shape.size()), shape.data());
            void* const to = fresh.batch().data;
            locked([&] { work(to, *like.cuda()); });
            return fresh.finish();
        }
        const std::vector<py::ssize_t> dims(shape.begin(), shape.end());
        py::array out(py::dtype(type == DType::float64 ? "float64" : "float32"), dims);
        void* const host = out.mutable_data();
        const auto bytes = static_cast<std::size_t>(out.nbytes());
        locked([&] {
            const auto release = [this](void* there) { table_->release(there, place_); };
            const std::unique_ptr<void, decltype(release)> there(table_->allocate(bytes, place_), release);
            work(there.get(), place_);
            table_->read({there.get(), type, 1, static_cast<std::int64_t>(bytes) / itemsize(type), 0, 1}, host, place_);
        });
        return std::move(out);
    }
    void check_vector(const Tensor& x) const {
        const std::string subject = std::string(x.where().function) + ": " + x.where().argument;
        if (x.cuda() == nullptr || x.cuda()->device != place_.device) {
            throw py::type_error(subject + " must be on the window's device, CUDA device " + std::to_string(place_.device));
        }
        if (vector(x).size == dim_) return;
        throw py::value_error(subject + " must have shape (" + std::to_string(dim_) + ",), got " + x.shape_text());
    }
    void require_rows(const char* function) {
        if (length() == 0) throw py::value_error(std::string(function) + ": the window is empty; push a gradient first");
    }

    std::mutex mutex_;
    std::int64_t dim_, capacity_;
    WindowShape shape_{};
    const CudaTable* table_ = nullptr;
    py::object like_;
    std::string framework_;
    CudaPlace place_{};  // for what comes without an array: the legacy default stream
    std::unique_ptr<CudaWindow> window_;
};

}  // namespace

void bind_ihvp_cuda(py::module_& m) {
    py::class_<PyCudaWindow>(m, "CudaGradientWindow")
        .def(py::init<std::int64_t, std::int64_t, double, bool, const std::string&, bool, std::int64_t, bool, int>())
        .def("push", &PyCudaWindow::push)
        .def("precondition", &PyCudaWindow::precondition)
        .def("solve", &PyCudaWindow::solve)
        .def("solve_recent", &PyCudaWindow::solve_recent)
        .def("quadratic_vector", &PyCudaWindow::quadratic_vector)
        .def("quadratic_index", &PyCudaWindow::quadratic_index)
        .def("logdet", &PyCudaWindow::logdet)
        .def("influence", &PyCudaWindow::influence)
        .def("set_damping", &PyCudaWindow::set_damping)
        .def("damping_in_use", &PyCudaWindow::damping_in_use)
        .def("clear", &PyCudaWindow::clear)
        .def("__len__", &PyCudaWindow::length)
        .def_property_readonly("nbytes", &PyCudaWindow::nbytes)
        .def("state_dict", &PyCudaWindow::state_dict)
        .def("load_state_dict", &PyCudaWindow::load_state_dict);
}

}  // namespace raphson::bindings
