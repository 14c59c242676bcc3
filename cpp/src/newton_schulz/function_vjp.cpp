// Derivatives of the matrix functions, from their results. In the eigenbasis of a symmetric matrix the derivative of f is
// an entrywise product with the divided differences of f; here they are sums, so that nothing cancels.
#include <algorithm>
#include <cmath>
#include <string>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "newton_schulz/functions.h"
#include "raphson/status.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t most_eigen_steps = 60;

// c (m×n) = a (m×k) · b (k×n), contiguous.
void multiply(int64_t m, int64_t n, int64_t k, const double* a, const double* b, double* c) {
    kernels().gemm.f64.product(m, n, k, 1.0, a, k, b, n, 0.0, nullptr, 0, c, n);
}

// A symmetric matrix's eigenvectors, to go into their basis and back.
class Basis {
public:
    Basis(const double* symmetric, int64_t n) : n_(n) {
        v_ = scratch_.take_array<double>(n * n);
        vt_ = scratch_.take_array<double>(n * n);
        work_ = scratch_.take_array<double>(n * n);
        values_ = scratch_.take_array<double>(n);
        std::copy_n(symmetric, n * n, work_);
        eigh(work_, n, values_, v_, most_eigen_steps);
        transpose(v_, n, n, n, vt_, n);
    }
    const double* values() const { return values_; }
    const double* vector(int64_t i) const { return v_ + i * n_; }
    // c ← V c Vᵀ, factor(i, j) times every entry, and back.
    template <class Factor>
    void apply(double* c, Factor&& factor) const {
        multiply(n_, n_, n_, v_, c, work_);
        multiply(n_, n_, n_, work_, vt_, c);
        for (int64_t i = 0; i < n_; ++i) {
            for (int64_t j = 0; j < n_; ++j) c[i * n_ + j] *= factor(i, j);
        }
        multiply(n_, n_, n_, vt_, c, work_);
        multiply(n_, n_, n_, work_, v_, c);
    }

private:
    Workspace scratch_;
    int64_t n_;
    double* v_;
    double* vt_;
    double* work_;
    double* values_;
};

double* load(Workspace& scratch, const BatchRef& batch, int64_t index, bool transposed) {
    if (batch.data == nullptr) return nullptr;
    const MatrixRef whole = batch.matrix(index), matrix = transposed ? whole.transposed() : whole;
    double* const to = scratch.take_array<double>(matrix.rows * matrix.cols);
    kernels().newton_schulz.load(matrix, 1, 1, DType::float64, to, matrix.cols);
    return to;
}

void put(const double* x, const MatrixRef& out) { kernels().newton_schulz.store(DType::float64, x, out.cols, out); }

void symmetrize(double* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) x[i * n + j] = x[j * n + i] = 0.5 * (x[i * n + j] + x[j * n + i]);
    }
}

// With dX = dU H + U dH: UᵀdU = K is skew and HK + KH = UᵀdX − dXᵀU, dH = UᵀdX − KH, (I − UUᵀ)dU = (I − UUᵀ)dX H⁻¹.
void polar_matrix(const DerivativeItem& item, int64_t index) {
    const bool wide = item.value.rows() < item.value.cols();
    Workspace scratch;
    const double* const u = load(scratch, item.value, index, wide);
    const double* const h = load(scratch, item.second, index, false);
    const double* const u_bar = load(scratch, item.value_bar, index, wide);
    double* const h_bar = load(scratch, item.second_bar, index, false);
    const int64_t m = std::max(item.value.rows(), item.value.cols()), n = item.second.rows();
    double* const ut = scratch.take_array<double>(m * n);
    double* const z = scratch.take_array<double>(n * n);
    double* const c = scratch.take_array<double>(n * n);
    double* const out = scratch.take_array<double>(m * n);
    double* const part = scratch.take_array<double>(m * n);
    double* const inside = scratch.take_array<double>(n * n);
    transpose(u, n, m, n, ut, m);
    std::fill_n(z, n * n, 0.0);
    if (u_bar != nullptr) multiply(n, n, m, ut, u_bar, z);
    std::copy_n(z, n * n, inside);  // UᵀŪ
    if (h_bar != nullptr) {
        symmetrize(h_bar, n);
        multiply(n, n, n, h_bar, h, c);
        for (int64_t i = 0; i < n * n; ++i) z[i] -= c[i];
    }
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) c[i * n + j] = 0.5 * (z[i * n + j] - z[j * n + i]);
    }
    const Basis basis(h, n);
    const double* const lambda = basis.values();
    const double eps = item.value.dtype == DType::float32 ? 0x1p-23 : 0x1p-52;
    const double nothing = static_cast<double>(n) * eps * lambda[n - 1];
    const bool tall = m > n && u_bar != nullptr;
    if (!((n > 1 ? lambda[0] + lambda[1] : 1.0) > nothing) || (tall && !(lambda[0] > nothing))) {
        not_differentiable(MatrixFunction::polar, false, index);
    }
    basis.apply(c, [&](int64_t i, int64_t j) { return i == j ? 0.0 : 2 / (lambda[i] + lambda[j]); });
    if (h_bar != nullptr) {
        for (int64_t i = 0; i < n * n; ++i) c[i] += h_bar[i];
    }
    multiply(m, n, n, u, c, out);
    if (tall) {
        multiply(m, n, n, u, inside, part);
        for (int64_t i = 0; i < m * n; ++i) part[i] = u_bar[i] - part[i];
        std::fill_n(z, n * n, 0.0);
        for (int64_t i = 0; i < n; ++i) z[i * n + i] = 1;
        basis.apply(z, [&](int64_t i, int64_t j) { return i == j ? 1 / lambda[i] : 0.0; });
        kernels().gemm.f64.product(m, n, n, 1.0, part, n, z, n, 1.0, out, n, out, n);
    }
    const MatrixRef to = item.out.matrix(index);
    put(out, wide ? to.transposed() : to);
}

// A = Y²: dA = dY Y + Y dY.
void sqrt_matrix(const DerivativeItem& item, int64_t index) {
    Workspace scratch;
    const int64_t n = item.value.rows();
    const double* const y = load(scratch, item.value, index, false);
    double* const bar = load(scratch, item.value_bar, index, false);
    double largest = 0;
    for (int64_t i = 0; i < n * n; ++i) largest = std::max(largest, std::fabs(y[i]));
    const bool narrow = item.value.dtype == DType::float32;
    const double eps = narrow ? 0x1p-23 : 0x1p-52;
    if (symmetric_root(largest_asymmetry(y, n), largest, narrow)) {
        const Basis basis(y, n);
        const double* const root = basis.values();
        if (!(root[0] > static_cast<double>(n) * eps * root[n - 1])) not_differentiable(MatrixFunction::sqrt, false, index);
        basis.apply(bar, [&](int64_t i, int64_t j) { return 1 / (root[i] + root[j]); });
        put(bar, item.out.matrix(index));
        return;
    }
    double* const yt = scratch.take_array<double>(n * n);
    double* const out = scratch.take_array<double>(n * n);
    transpose(y, n, n, n, yt, n);
    if (!solve_sylvester(yt, n, bar, out) && !cancelled()) not_differentiable(MatrixFunction::sqrt, true, index);
    put(out, item.out.matrix(index));
}

// dX = −X dA X.
void inverse_matrix(const DerivativeItem& item, int64_t index) {
    Workspace scratch;
    const int64_t n = item.value.rows();
    const double* const xt = load(scratch, item.value, index, true);
    double* const bar = load(scratch, item.value_bar, index, false);
    double* const left = scratch.take_array<double>(n * n);
    multiply(n, n, n, xt, bar, left);
    kernels().gemm.f64.product(n, n, n, -1.0, left, n, xt, n, 0.0, nullptr, 0, bar, n);
    put(bar, item.out.matrix(index));
}

// With a = λ^(1/p): (λᵢ^(−1/p) − λⱼ^(−1/p))/(λᵢ − λⱼ) = −1/(aᵢaⱼ Σₖ aᵢᵏ aⱼ^(p−1−k)), a geometric sum.
double root_difference(double a, double b, double p) {
    const double small = std::min(a, b), large = std::max(a, b), ratio = std::log1p((small - large) / large);
    const double sum = ratio == 0 ? p : std::expm1(p * ratio) / std::expm1(ratio);
    return -1 / (a * b * std::pow(large, p - 1) * sum);
}

void inverse_root_matrix(const DerivativeItem& item, int64_t index) {
    Workspace scratch;
    const int64_t n = item.value.rows();
    const double* const x = load(scratch, item.value, index, false);
    double* const bar = load(scratch, item.value_bar, index, false);
    symmetrize(bar, n);
    const Basis basis(x, n);
    const double* const root = basis.values();  // λ^(−1/p), from λmax's upwards
    if (!(root[0] > 0)) not_differentiable(MatrixFunction::inverse_root, false, index);
    const auto p = static_cast<double>(item.p);
    basis.apply(bar, [&](int64_t i, int64_t j) { return root_difference(1 / root[i], 1 / root[j], p); });
    symmetrize(bar, n);
    if (item.relative_ridge > 0) {
        double trace = 0;
        for (int64_t i = 0; i < n; ++i) trace += bar[i * n + i];
        const double* const v = basis.vector(0);
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < n; ++j) bar[i * n + j] += item.relative_ridge * trace * (v[i] * v[j]);
        }
    }
    put(bar, item.out.matrix(index));
}

const char* derivative_name(MatrixFunction function) {
    return function == MatrixFunction::polar     ? "polar_vjp"
           : function == MatrixFunction::sqrt    ? "sqrt_vjp"
           : function == MatrixFunction::inverse ? "inverse_vjp"
                                                 : "inverse_root_vjp";
}

void require_finite(MatrixFunction function, const DerivativeItem& item) {
    for (const BatchRef* input : {&item.value, &item.second, &item.value_bar, &item.second_bar}) {
        for (int64_t i = 0; input->data != nullptr && i < input->count(); ++i) {
            const MatrixRef matrix = input->matrix(i);
            if (matrix.rows > 0 && matrix.cols > 0 && !std::isfinite(kernels().newton_schulz.scan(matrix).max_abs)) {
                throw std::invalid_argument(std::string(derivative_name(function)) + ": an argument contains NaN or Inf (matrix " +
                                            std::to_string(i) + ")");
            }
        }
    }
}

void checked(MatrixFunction function, const DerivativeItem& item) {
    check_derivative(function, item);
    derivative(function, item);
}

}  // namespace

void check_derivative(MatrixFunction function, const DerivativeItem& item) {
    const std::string name = derivative_name(function);
    const bool polar = function == MatrixFunction::polar;
    const char* const first = polar ? "unitary" : "value";
    const BatchRef& value = item.value;
    if (value.ndim < 2 || (!polar && value.rows() != value.cols())) {
        throw std::invalid_argument(name + ": " + first + (polar ? " must be (..., m, n)" : " must be (..., n, n)") +
                                    ", got shape " + shape_text(value));
    }
    const int64_t k = std::min(value.rows(), value.cols());
    const auto require = [&](const char* argument, const BatchRef& other, int64_t rows, int64_t cols) {
        if (other.data == nullptr) return;
        bool same = other.ndim == value.ndim && other.rows() == rows && other.cols() == cols;
        for (int i = 0; same && i + 2 < other.ndim; ++i) same = other.shape[i] == value.shape[i];
        if (!same) {
            throw std::invalid_argument(name + ": " + argument + " has shape " + shape_text(other) + ", " + first +
                                        " has shape " + shape_text(value));
        }
    };
    require("hermitian", item.second, k, k);
    require(polar ? "unitary_bar" : "value_bar", item.value_bar, value.rows(), value.cols());
    require("hermitian_bar", item.second_bar, k, k);
    require("out", item.out, value.rows(), value.cols());
    if (item.p < 1) throw std::invalid_argument(name + ": p must be an integer of at least 1, got " + std::to_string(item.p));
    if (!(item.relative_ridge >= 0) || std::isinf(item.relative_ridge)) {
        throw std::invalid_argument(name + ": relative_ridge must be finite and not negative");
    }
}

bool symmetric_root(double asymmetry, double largest, bool narrow) {
    return asymmetry <= 16 * (narrow ? 0x1p-23 : 0x1p-52) * largest;
}

void not_differentiable(MatrixFunction function, bool general, int64_t index) {
    const char* const why = function == MatrixFunction::polar ? "x is rank-deficient"
                            : function == MatrixFunction::inverse_root ? "a is not positive definite"
                            : general ? "value is no principal root" : "a is singular";
    throw Breakdown(std::string(derivative_name(function)) + ": " + why + " (matrix " + std::to_string(index) +
                    "): the function is not differentiable there");
}

void derivative(MatrixFunction function, const DerivativeItem& item) {
    require_finite(function, item);
    const int64_t count = item.value.rows() > 0 && item.value.cols() > 0 ? item.value.count() : 0;
    const auto one = [&](int64_t index) {
        switch (function) {
            case MatrixFunction::polar: return polar_matrix(item, index);
            case MatrixFunction::sqrt: return sqrt_matrix(item, index);
            case MatrixFunction::inverse: return inverse_matrix(item, index);
            default: return inverse_root_matrix(item, index);
        }
    };
    if (count == 1) {
        one(0);
    } else {
        parallel_for(count, one);
    }
    throw_if_cancelled();
}

template <class T>
void polar_vjp(TensorView<const T> unitary, TensorView<const T> hermitian, TensorView<const T> unitary_bar,
               TensorView<const T> hermitian_bar, TensorView<T> x_bar) {
    checked(MatrixFunction::polar, {erase(unitary), erase(hermitian), erase_or_null(unitary_bar), erase_or_null(hermitian_bar),
                                    erase(x_bar), 1, 0});
}
template <class T>
void matrix_sqrt_vjp(TensorView<const T> value, TensorView<const T> value_bar, TensorView<T> a_bar) {
    checked(MatrixFunction::sqrt, {erase(value), {}, erase(value_bar), {}, erase(a_bar), 1, 0});
}
template <class T>
void matrix_inverse_vjp(TensorView<const T> value, TensorView<const T> value_bar, TensorView<T> a_bar) {
    checked(MatrixFunction::inverse, {erase(value), {}, erase(value_bar), {}, erase(a_bar), 1, 0});
}
template <class T>
void inverse_root_vjp(TensorView<const T> value, int64_t p, TensorView<const T> value_bar, TensorView<T> a_bar,
                      double relative_ridge) {
    checked(MatrixFunction::inverse_root, {erase(value), {}, erase(value_bar), {}, erase(a_bar), p, relative_ridge});
}

#define RAPHSON_INSTANTIATE(T)                                                                                             \
    template void polar_vjp<T>(TensorView<const T>, TensorView<const T>, TensorView<const T>, TensorView<const T>,         \
                               TensorView<T>);                                                                             \
    template void matrix_sqrt_vjp<T>(TensorView<const T>, TensorView<const T>, TensorView<T>);                             \
    template void matrix_inverse_vjp<T>(TensorView<const T>, TensorView<const T>, TensorView<T>);                          \
    template void inverse_root_vjp<T>(TensorView<const T>, std::int64_t, TensorView<const T>, TensorView<T>, double);
RAPHSON_INSTANTIATE(double)
RAPHSON_INSTANTIATE(float)
#undef RAPHSON_INSTANTIATE

}  // namespace raphson
