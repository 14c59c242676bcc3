// Strided views of dense arrays: what every entry point of the library takes. Nothing here owns memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <type_traits>

namespace raphson {

// bfloat16 as it lies in memory: the upper half of a float32.
struct bfloat16 {
    std::uint16_t bits;
};
static_assert(sizeof(bfloat16) == 2 && std::is_trivial_v<bfloat16>);

enum class DType : std::uint8_t { float64, float32, bfloat16, float16 };

constexpr std::int64_t itemsize(DType dtype) {
    return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}
constexpr const char* to_string(DType dtype) {
    return dtype == DType::float64    ? "float64"
           : dtype == DType::float32  ? "float32"
           : dtype == DType::bfloat16 ? "bfloat16"
                                      : "float16";
}

template <class T>
constexpr DType dtype_of() {
    using V = std::remove_cv_t<T>;
    static_assert(std::is_same_v<V, double> || std::is_same_v<V, float> || std::is_same_v<V, bfloat16>,
                  "raphson takes double, float and raphson::bfloat16");
    return std::is_same_v<V, double> ? DType::float64 : std::is_same_v<V, float> ? DType::float32 : DType::bfloat16;
}

// Pointer, shape and strides (counted in elements, may be negative or zero). C-contiguous when no strides are given.
template <class T>
struct TensorView {
    static constexpr int max_dims = 8;

    T* data = nullptr;
    int ndim = 0;
    std::array<std::int64_t, max_dims> shape{};
    std::array<std::int64_t, max_dims> strides{};

    TensorView() = default;
    TensorView(T* data_, std::initializer_list<std::int64_t> shape_) : data(data_) {
        set_shape(shape_.begin(), shape_.size());
        std::int64_t step = 1;
        for (int i = ndim - 1; i >= 0; --i) {
            strides[static_cast<std::size_t>(i)] = step;
            step *= std::max<std::int64_t>(shape[static_cast<std::size_t>(i)], 1);
        }
    }
    TensorView(T* data_, std::initializer_list<std::int64_t> shape_, std::initializer_list<std::int64_t> strides_)
        : data(data_) {
        if (shape_.size() != strides_.size()) throw std::invalid_argument("TensorView: shape and strides differ in length");
        set_shape(shape_.begin(), shape_.size());
        std::copy(strides_.begin(), strides_.end(), strides.begin());
    }
    template <class U, class = std::enable_if_t<std::is_same_v<const U, T> && !std::is_same_v<U, T>>>
    TensorView(const TensorView<U>& other)
        : data(other.data), ndim(other.ndim), shape(other.shape), strides(other.strides) {}

    std::int64_t size() const {
        std::int64_t n = 1;
        for (int i = 0; i < ndim; ++i) n *= shape[static_cast<std::size_t>(i)];
        return n;
    }

private:
    void set_shape(const std::int64_t* first, std::size_t count) {
        if (count > static_cast<std::size_t>(max_dims)) throw std::invalid_argument("TensorView: more than 8 axes");
        ndim = static_cast<int>(count);
        for (std::size_t i = 0; i < count; ++i) {
            if (first[i] < 0) throw std::invalid_argument("TensorView: negative extent");
            shape[i] = first[i];
        }
    }
};

}  // namespace raphson
