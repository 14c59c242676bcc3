// The rules of the family's arguments.
#include <cmath>
#include <stdexcept>
#include <string>

#include "ihvp/check.h"
#include "ihvp/columns.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "ihvp/window.h"
#include "table.h"

namespace raphson {

namespace {

constexpr double largest_entry = 1e150;  // its square, and sums of squares, stay within float64

VectorScan scan(const VectorRef& x, const float* residual) {
    const IhvpTable& pass = kernels().ihvp;
    const Tiles tiles(x.size);
    Workspace scratch;
    auto* const scans = scratch.take_array<VectorScan>(tiles.tasks);
    parallel_for(tiles.tasks, [&](int64_t task) {
        Workspace room;
        double* const buffer = room.take_array<double>(tile);
        VectorScan all{0, true};
        for (int64_t i = tiles.begin(task); i < tiles.end(task); ++i) {
            const int64_t first = i * tile, width = std::min(tile, x.size - first);
            const VectorScan here = pass.scan(stored_of(x.dtype), contiguous(x, first, width, buffer), width,
                                              residual == nullptr ? nullptr : residual + first);
            all.finite &= here.finite;
            all.max_abs = std::max(all.max_abs, here.max_abs);
        }
        scans[task] = all;
    });
    throw_if_cancelled();
    VectorScan all{0, true};
    for (int64_t task = 0; task < tiles.tasks; ++task) {
        all.finite &= scans[task].finite;
        all.max_abs = std::max(all.max_abs, scans[task].max_abs);
    }
    return all;
}

}  // namespace

void require_finite(const VectorRef& x, const char* function, const char* name) {
    if (scan(x, nullptr).finite) return;
    throw std::invalid_argument(std::string(function) + ": " + name + " has NaN or Inf");
}

// Finite, of the right length and not too large for the row's type. Returns the scale of a float16 row.
double Window::check_gradient(const VectorRef& g, const char* function) const {
    check_vector(g, function, "g");
    const VectorScan all = scan(g, residual_.empty() ? nullptr : residual_.data());
    if (!all.finite) throw std::invalid_argument(std::string(function) + ": g has NaN or Inf; nothing was stored");
    constexpr double float_limit = 3.4028235677973366e38;  // rounds to Inf in float32
    const double limit = type_ == Stored::float64    ? largest_entry
                         : type_ == Stored::bfloat16 ? 3.3961775292304957e38  // the same in bfloat16
                                                     : float_limit;
    if (all.max_abs >= limit) {
        throw std::invalid_argument(std::string(function) + ": g is too large for the window's dtype (max |g| = " +
                                    std::to_string(all.max_abs) + "); nothing was stored");
    }
    if (type_ != Stored::float16 || all.max_abs == 0) return 1;
    return std::ldexp(1.0, std::ilogb(all.max_abs) - 13);
}

void check_damping(const char* function, const Damping& damping) {
    if (!(damping.value > 0) || !std::isfinite(damping.value)) {
        throw std::invalid_argument(std::string(function) + ": damping must be positive and finite, got " +
                                    std::to_string(damping.value));
    }
}

void check_window(std::int64_t dim, std::int64_t capacity, const Damping& damping, const WindowOptions& options) {
    const auto refuse = [](const std::string& what) { throw std::invalid_argument("GradientWindow: " + what); };
    if (dim < 1) refuse("dim must be at least 1, got " + std::to_string(dim));
    if (capacity < 1) refuse("capacity must be at least 1, got " + std::to_string(capacity));
    if (capacity > 1 << 20) refuse("capacity must be at most 2**20, got " + std::to_string(capacity));
    if (dim > (std::int64_t{1} << 60) / (capacity + 1)) refuse("dim times capacity is too large");
    if (options.block_size < 0) refuse("block_size must be at least 1, got " + std::to_string(options.block_size));
    check_damping("GradientWindow", damping);
}

void Window::check_state(const State& state, std::int64_t capacity) {
    if (state.length < 0 || state.length > capacity || state.head < 0 || state.head > capacity) {
        throw std::invalid_argument("load_state_dict: length or head is out of range");
    }
    if (!(state.shift >= 0) || !(state.lambda >= 0) || !std::isfinite(state.shift) || !std::isfinite(state.lambda)) {
        throw std::invalid_argument("load_state_dict: lambda and shift must be finite and not negative");
    }
}

void Window::check_vector(const VectorRef& x, const char* function, const char* name) const {
    if (x.size == dim_) return;
    throw std::invalid_argument(std::string(function) + ": " + name + " must have shape (" + std::to_string(dim_) +
                                ",), got (" + std::to_string(x.size) + ",)");
}

void Window::require_rows(const char* function) const {
    if (length_ == 0) throw std::invalid_argument(std::string(function) + ": the window is empty; push a gradient first");
}

// Over several processes: if one refuses, all do, and none waits for the others for ever.
void Window::check_agreed(const char* function, const std::function<void()>& check) const {
    if (!options_.reduce) return check();
    std::exception_ptr mine;
    try {
        check();
    } catch (...) {
        mine = std::current_exception();
    }
    double refused = mine ? 1 : 0;
    options_.reduce(&refused, 1);
    if (mine) std::rethrow_exception(mine);
    if (refused > 0) throw std::runtime_error(std::string(function) + ": another process refused its part");
}

}  // namespace raphson
