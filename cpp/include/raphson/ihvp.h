// Inverse-Hessian-vector products with a damped empirical Fisher matrix, F = λI + (1/m) Σ gᵢgᵢᵀ: the M-FAC family.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "raphson/view.h"

namespace raphson {

// λ itself, or relative: λ = value·trace(GGᵀ)/(m·dim).
struct Damping {
    double value;
    bool relative = false;
};

enum class WindowType : std::uint8_t { float64, float32, bfloat16, float16, int8 };
enum class WindowScale : std::uint8_t {
    capacity,  // 1/m with m = capacity, also while the window fills
    count,     // 1/length
};

struct WindowOptions {
    WindowType type = WindowType::float32;
    WindowScale scale = WindowScale::capacity;
    std::int64_t block_size = 0;  // 0: one block; else F is block-diagonal over this many columns each
    bool error_feedback = false;  // what rounding takes from a gradient is added to the next
    // Adds the numbers over all processes that hold a slice of the columns each; may throw. Empty: this one holds all.
    std::function<void(double* values, std::int64_t count)> reduce;
};

// The newest `capacity` gradients of length dim. Every product is with the row as it is stored; products are multiplied
// and accumulated in float64 and rounded once. Every method may be called from several threads: calls wait for each
// other. std::invalid_argument on misuse, the window unchanged. Memory: capacity·dim stored elements and O(dim + m²).
class GradientWindow {
public:
    GradientWindow(std::int64_t dim, std::int64_t capacity, Damping damping, const WindowOptions& options = {});
    ~GradientWindow();
    GradientWindow(GradientWindow&&) noexcept;
    GradientWindow& operator=(GradientWindow&&) noexcept;

    // Stores g in place of the oldest row. One read of the window, and O(m²).
    template <class T>
    void push(TensorView<const T> g);
    // push, then out ← F⁻¹g̃ of the stored row g̃ as m·Gᵀ(GGᵀ + mλI)⁻¹e: two reads of the window, no cancellation.
    template <class T>
    void precondition(TensorView<const T> g, TensorView<T> out);
    // out ← F⁻¹x = (x − Gᵀ(GGᵀ + mλI)⁻¹Gx)/λ: two reads. out may be x.
    template <class T>
    void solve(TensorView<const T> x, TensorView<T> out);
    // xᵀF⁻¹x: one read; of row `index` (0 = oldest): none.
    template <class T>
    double quadratic(TensorView<const T> x);
    double quadratic(std::int64_t index);
    double logdet();
    void influence(TensorView<double> out);  // G F⁻¹ Gᵀ, oldest first; (length, length), contiguous
    void set_damping(Damping damping);
    void clear();
    std::int64_t length() const;

private:
    struct Locked;
    std::unique_ptr<Locked> impl_;
};

}  // namespace raphson
