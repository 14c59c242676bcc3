// The family's entry below the typed public one: what bindings of any language call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "newton_schulz/passes.h"
#include "raphson/newton_schulz.h"

namespace raphson {

// Any number of axes in the caller's memory; the last two are the matrix.
struct BatchRef {
    void* data;
    DType dtype;
    int ndim;
    const std::int64_t* shape;
    const std::int64_t* strides;  // in elements

    std::int64_t rows() const { return shape[ndim - 2]; }
    std::int64_t cols() const { return shape[ndim - 1]; }
    std::int64_t count() const {  // matrices
        std::int64_t n = 1;
        for (int i = 0; i + 2 < ndim; ++i) n *= shape[i];
        return n;
    }
    MatrixRef matrix(std::int64_t index) const;   // in C order of the leading axes
};

template <class T>
BatchRef erase(const TensorView<T>& view) {
    using V = std::remove_cv_t<T>;
    return {const_cast<V*>(view.data), dtype_of<V>(), view.ndim, view.shape.data(), view.strides.data()};
}

template <class T>
BatchRef erase_or_null(const TensorView<T>& view) {
    return view.data == nullptr ? BatchRef{} : erase(view);
}

// For messages: as Python writes a shape, …
inline std::string shape_text(const BatchRef& x) {
    std::string text = "(";
    for (int i = 0; i < x.ndim; ++i) text += (i == 0 ? "" : ", ") + std::to_string(x.shape[i]);
    return text + (x.ndim == 1 ? ",)" : ")");
}
// … and nothing where there is but one matrix.
inline std::string which_matrix(std::int64_t index, std::int64_t count) {
    return count > 1 ? " (matrix " + std::to_string(index) + " of the batch)" : "";
}

// Argument rules of the family; std::invalid_argument names the argument, both shapes and what was expected.
void check_orthogonalize(const BatchRef& x, const BatchRef& out, const OrthogonalizeOptions& options);

void orthogonalize(const BatchRef& x, const BatchRef& out, const Schedule& schedule, const OrthogonalizeOptions& options);

// Several arrays of any shapes in one dispatch, checked by the caller; each with the plan of its shape.
struct OrthogonalizeItem {
    BatchRef x, out;
    const OrthogonalizePlan* plan;
};
void orthogonalize(const OrthogonalizeItem* items, std::size_t count, const OrthogonalizeOptions& options);

// Whether the Gram method applies Q and forms the Gram matrix anew before this step (counted from 0): before the third,
// and before every third one from there on; the first steps of every table magnify most.
constexpr bool gram_restarts_before(std::size_t step) { return step == 0 || (step >= 2 && (step - 2) % 3 == 0); }

// Flops of the standard method, symmetric products at half: 3m²n + m³ a quintic step. Below a threshold of these the
// bindings keep the GIL.
double orthogonalize_flops(std::int64_t rows, std::int64_t cols, std::int64_t steps);

}  // namespace raphson
