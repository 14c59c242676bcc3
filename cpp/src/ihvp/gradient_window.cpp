// The public class: a window, its lock, and views checked.
#include <mutex>
#include <stdexcept>
#include <string>

#include "ihvp/window.h"
#include "raphson/ihvp.h"

namespace raphson {

struct GradientWindow::Locked {
    std::mutex mutex;
    Window window;
};

namespace {

template <class T>
VectorRef vector(TensorView<T> x, const char* function, const char* name) {
    if (x.ndim != 1) throw std::invalid_argument(std::string(function) + ": " + name + " must have one axis");
    return {const_cast<std::remove_const_t<T>*>(x.data), dtype_of<T>(), x.shape[0], x.strides[0]};
}

// Gradients come in float32 or in the window's own type.
template <class T>
void require_taken(WindowType type, const char* function) {
    const bool own = (type == WindowType::float64 && std::is_same_v<T, double>) ||
                     (type == WindowType::bfloat16 && std::is_same_v<T, bfloat16>);
    if (own || std::is_same_v<T, float>) return;
    throw std::invalid_argument(std::string(function) + ": g must be float32 or of the window's type");
}

}  // namespace

GradientWindow::GradientWindow(std::int64_t dim, std::int64_t capacity, Damping damping, const WindowOptions& options)
    : impl_(new Locked{{}, Window(dim, capacity, damping, options)}) {}
GradientWindow::~GradientWindow() = default;
GradientWindow::GradientWindow(GradientWindow&&) noexcept = default;
GradientWindow& GradientWindow::operator=(GradientWindow&&) noexcept = default;

template <class T>
void GradientWindow::push(TensorView<const T> g) {
    require_taken<T>(impl_->window.options().type, "push");
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->window.push(vector(g, "push", "g"));
}

template <class T>
void GradientWindow::precondition(TensorView<const T> g, TensorView<T> out) {
    require_taken<T>(impl_->window.options().type, "precondition");
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->window.precondition(vector(g, "precondition", "g"), vector(out, "precondition", "out"));
}

template <class T>
void GradientWindow::solve(TensorView<const T> x, TensorView<T> out) {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->window.solve(vector(x, "solve", "x"), vector(out, "solve", "out"));
}

template <class T>
double GradientWindow::quadratic(TensorView<const T> x) {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    return impl_->window.quadratic(vector(x, "quadratic", "x"));
}

double GradientWindow::quadratic(std::int64_t index) {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    return impl_->window.quadratic(index);
}

double GradientWindow::logdet() {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    return impl_->window.logdet();
}

void GradientWindow::influence(TensorView<double> out) {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    const std::int64_t n = impl_->window.length();
    if (out.ndim != 2 || out.shape[0] != n || out.shape[1] != n || out.strides[1] != 1 || out.strides[0] != n) {
        throw std::invalid_argument("influence: out must be contiguous, (" + std::to_string(n) + ", " + std::to_string(n) +
                                    ")");
    }
    impl_->window.influence(out.data);
}

void GradientWindow::set_damping(Damping damping) {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->window.set_damping(damping);
}

void GradientWindow::clear() {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->window.clear();
}

std::int64_t GradientWindow::length() const {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    return impl_->window.length();
}

#define RAPHSON_WINDOW_OF(T)                                                          \
    template void GradientWindow::push<T>(TensorView<const T>);                       \
    template void GradientWindow::precondition<T>(TensorView<const T>, TensorView<T>); \
    template void GradientWindow::solve<T>(TensorView<const T>, TensorView<T>);       \
    template double GradientWindow::quadratic<T>(TensorView<const T>);
RAPHSON_WINDOW_OF(double)
RAPHSON_WINDOW_OF(float)
RAPHSON_WINDOW_OF(bfloat16)
#undef RAPHSON_WINDOW_OF

}  // namespace raphson
