#include "newton_schulz/functions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/threads.h"
#include "common/workspace.h"
#include "newton_schulz/batch.h"
#include "raphson/status.h"
#include "table.h"

namespace raphson {

using std::int64_t;

double largest_asymmetry(const double* a, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) most = std::max(most, std::fabs(a[i * n + j] - a[j * n + i]));
    }
    return most;
}

double frobenius(const double* a, int64_t count) {
    double sums[8] = {};  // eight chains: one addition after the other would wait for itself
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        for (int q = 0; q < 8; ++q) sums[q] += a[i + q] * a[i + q];
    }
    for (; i < count; ++i) sums[0] += a[i] * a[i];
    return std::sqrt(((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])));
}

void round_to_float(double* x, int64_t count) {
    for (int64_t i = 0; i < count; ++i) x[i] = static_cast<double>(static_cast<float>(x[i]));
}

double distance_to_identity(const double* x, int64_t n, double* squares) {
    double most = 0, outside = 0, inside = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double* const row = x + i * n;
        const double own = row[i] - 1;
        const double before = frobenius(row, i), after = frobenius(row + i + 1, n - i - 1);
        inside += own * own;
        outside += before * before + after * after;
        double largest = std::fabs(own);
        for (int64_t j = 0; j < n; ++j) largest = std::max(largest, j == i ? 0.0 : std::fabs(row[j]));
        most = std::max(most, largest);
    }
    if (squares != nullptr) *squares = inside + outside;
    return inside + outside == inside + outside ? most : std::numeric_limits<double>::infinity();
}

void judge(const FunctionJob& job, double safe, bool limited, MatrixReport& report) {
    const bool asked = job.options.tol >= 0;
    report.tol = asked ? job.options.tol : safe;
    if (report.status == Status::breakdown) return;
    if (report.residual <= report.tol) {
        report.status = Status::converged;
    } else if (limited) {
        report.status = Status::max_iter;
    } else {
        report.status = report.residual <= safe || safe >= 0.1 ? Status::precision_floor : Status::stalled;
    }
}

const char* name_of(MatrixFunction function) {
    switch (function) {
        case MatrixFunction::polar: return "polar";
        case MatrixFunction::sign: return "sign";
        case MatrixFunction::sqrt: return "sqrt";
        case MatrixFunction::inverse: return "inverse";
        default: return "inverse_root";
    }
}

// The largest entry comes to about 1, by a power of two of which the function is one, too.
FunctionExponents exponents_of(MatrixFunction function, int64_t p, double max_abs, const MatrixFunctionOptions& options) {
    const int unit = function == MatrixFunction::sqrt ? 2 : function == MatrixFunction::inverse_root
                         ? static_cast<int>(std::min<int64_t>(p, 4096)) : 1;
    int exponent = 0;
    if (max_abs > 0) std::frexp(max_abs, &exponent);
    exponent = static_cast<int>(std::lround(static_cast<double>(exponent) / unit)) * unit;
    FunctionExponents result{-exponent, 0, 0, std::ldexp(options.ridge, -exponent)};
    switch (function) {
        case MatrixFunction::polar: result.second = exponent; break;
        case MatrixFunction::sign: break;
        case MatrixFunction::sqrt:
            result.value = exponent / 2;
            result.second = -exponent / 2;
            break;
        case MatrixFunction::inverse: result.value = -exponent; break;
        case MatrixFunction::inverse_root: result.value = static_cast<int>(-exponent / p); break;
    }
    return result;
}

std::string which_matrix(const FunctionItem* items, std::size_t count, const FunctionItem& item, int64_t index) {
    return (count > 1 ? " (array " + std::to_string(&item - items) + " of the list)" : std::string()) +
           (item.a.count() > 1 ? " (matrix " + std::to_string(index) + " of the batch)" : std::string());
}

void require_symmetric(double asymmetry, double largest, bool narrow, const std::string& which) {
    if (!(asymmetry > 1000 * (narrow ? 0x1p-23 : 0x1p-52) * largest)) return;
    throw std::invalid_argument("inverse_root: a must be symmetric, but max|A - A^T| = " + std::to_string(asymmetry / largest) +
                                " max|A|" + which);
}

bool symmetric_to_rounding(double asymmetry, bool narrow) { return asymmetry <= (narrow ? 0x1p-20 : 16 * 0x1p-52); }

namespace {

struct Task {
    const FunctionItem* item;
    int64_t index;
    double max_abs;
    double flops;
};

// x·2^exponent, exact, also where 2^exponent itself is out of range.
void scale_by(double* x, int64_t count, int exponent) {
    if (exponent == 0) return;
    const double half = std::ldexp(1.0, exponent / 2), rest = std::ldexp(1.0, exponent - exponent / 2);
    for (int64_t i = 0; i < count; ++i) x[i] = x[i] * half * rest;
}

void load_scaled(const MatrixRef& from, int exponent, double* to) {
    kernels().newton_schulz.load(from, std::ldexp(1.0, exponent / 2), std::ldexp(1.0, exponent - exponent / 2), DType::float64, to,
                                 from.cols);
}

bool finite(const double* x, int64_t count) {
    const double size = frobenius(x, count);
    if (std::isfinite(size)) return true;
    for (int64_t i = 0; i < count; ++i) {  // squares may overflow where entries do not
        if (!std::isfinite(x[i])) return false;
    }
    return true;
}

// Values go out at their scale. What leaves the range of the result's dtype is a breakdown, and its entries zeros.
void put(double* x, int64_t rows, int64_t cols, int exponent, const MatrixRef& out, MatrixReport& report) {
    scale_by(x, rows * cols, exponent);
    if (out.dtype == DType::float32) round_to_float(x, rows * cols);
    if (!finite(x, rows * cols)) {
        report.status = Status::breakdown;
        std::fill_n(x, rows * cols, 0.0);
    }
    kernels().newton_schulz.store(DType::float64, x, cols, out);
}

struct Call {
    MatrixFunction function;
    int64_t p;
    const FunctionItem* items;
    std::size_t count;
    const MatrixFunctionOptions* options;
};

void run(const Call& call, const Task& task) {
    const FunctionItem& item = *task.item;
    MatrixRef a = item.a.matrix(task.index), value = item.value.matrix(task.index);
    const bool polar = call.function == MatrixFunction::polar, wide = polar && a.rows < a.cols;
    if (wide) {
        a = a.transposed();
        value = value.transposed();
    }
    const int64_t m = a.rows, n = a.cols;
    const bool two = item.second.data != nullptr;
    Workspace scratch;
    double* const x = scratch.take_array<double>(m * n);
    double* const first = scratch.take_array<double>(m * n);
    double* const second = scratch.take_array<double>(two || polar ? n * n : 0);  // polar measures by its H, wanted or not
    const FunctionExponents exponents = exponents_of(call.function, call.p, task.max_abs, *call.options);
    load_scaled(a, exponents.load, x);

    const FunctionJob job{call.function, call.p, *call.options, a.dtype == DType::float32, exponents.ridge};
    MatrixReport& report = item.reports[task.index];
    report = MatrixReport{};
    switch (call.function) {
        case MatrixFunction::polar: polar_of(job, x, m, n, first, second, report); break;
        case MatrixFunction::sign: sign_of(job, x, n, first, report); break;
        case MatrixFunction::sqrt: sqrt_of(job, x, n, first, two ? second : nullptr, report); break;
        case MatrixFunction::inverse: inverse_of(job, x, n, first, report); break;
        case MatrixFunction::inverse_root:
            require_symmetric(largest_asymmetry(x, n), std::ldexp(task.max_abs, exponents.load), job.narrow,
                              which_matrix(call.items, call.count, item, task.index));
            spectral_of(job, x, n, first, nullptr, report);
            break;
    }
    if (cancelled()) return;
    const PollPause complete;
    put(first, m, n, exponents.value, value, report);
    if (two) {
        if (call.function == MatrixFunction::sqrt && std::isinf(report.inverse_residual)) {
            std::fill_n(second, n * n, std::numeric_limits<double>::quiet_NaN());
            const MatrixRef to = item.second.matrix(task.index);
            kernels().newton_schulz.store(DType::float64, second, to.cols, to);
        } else {
            put(second, n, n, exponents.second, item.second.matrix(task.index), report);
        }
    }
}

}  // namespace

double function_flops(MatrixFunction function, int64_t rows, int64_t cols) {
    const double k = static_cast<double>(std::min(rows, cols)), l = static_cast<double>(std::max(rows, cols));
    return function == MatrixFunction::inverse ? 4 * k * k * k : 20 * k * k * k + 8 * k * k * (l - k);
}

void evaluate(MatrixFunction function, int64_t p, const FunctionItem* items, std::size_t count,
              const MatrixFunctionOptions& options) {
    std::vector<Task> tasks;
    for (std::size_t i = 0; i < count; ++i) {
        const BatchRef& a = items[i].a;
        for (int64_t k = 0; k < a.count(); ++k) {
            if (a.rows() == 0 || a.cols() == 0) {
                items[i].reports[k] = MatrixReport{};
                items[i].reports[k].tol = options.tol >= 0 ? options.tol : 0;
                continue;
            }
            tasks.push_back({&items[i], k, 0, function_flops(function, a.rows(), a.cols())});
        }
    }
    const auto total = static_cast<int64_t>(tasks.size());
    std::stable_sort(tasks.begin(), tasks.end(), [](const Task& left, const Task& right) { return left.flops > right.flops; });
    parallel_for(total, [&](int64_t i) {
        tasks[i].max_abs = kernels().newton_schulz.scan(tasks[i].item->a.matrix(tasks[i].index)).max_abs;
    });
    throw_if_cancelled();
    for (const Task& task : tasks) {
        if (std::isfinite(task.max_abs)) continue;
        throw std::invalid_argument(std::string(name_of(function)) + ": " + (function == MatrixFunction::polar ? "x" : "a") +
                                    " contains NaN or Inf" + which_matrix(items, count, *task.item, task.index));
    }
    const Call call{function, p, items, count, &options};
    const int64_t shared = count_shared(total, [&](int64_t i) { return tasks[i].flops; });
    for (int64_t i = 0; i < shared && !poll_cancelled(); ++i) run(call, tasks[i]);
    throw_if_cancelled();
    parallel_for(total - shared, [&](int64_t i) { run(call, tasks[shared + i]); });
    throw_if_cancelled();
}

void check_function(MatrixFunction function, const FunctionItem& item, int64_t p, const MatrixFunctionOptions& options) {
    const std::string name = name_of(function);
    const bool polar = function == MatrixFunction::polar;
    if (item.a.ndim < 2) {
        throw std::invalid_argument(name + (polar ? ": x must have at least 2 axes (..., m, n), got shape "
                                                  : ": a must have at least 2 axes (..., n, n), got shape ") +
                                    shape_text(item.a));
    }
    if (!polar && item.a.rows() != item.a.cols()) {
        throw std::invalid_argument(name + ": a must be square (..., n, n), got shape " + shape_text(item.a));
    }
    const auto same_axes = [&](const char* argument, const BatchRef& out, int64_t rows, int64_t cols) {
        bool same = out.ndim == item.a.ndim && out.rows() == rows && out.cols() == cols;
        for (int i = 0; same && i + 2 < out.ndim; ++i) same = out.shape[i] == item.a.shape[i];
        if (!same) {
            throw std::invalid_argument(name + ": " + argument + " has shape " + shape_text(out) + ", the argument has shape " +
                                        shape_text(item.a));
        }
    };
    const int64_t rows = item.a.rows(), cols = item.a.cols(), k = std::min(rows, cols);
    same_axes("value", item.value, rows, cols);
    if (item.second.data != nullptr) same_axes(polar ? "hermitian" : "inverse_sqrt", item.second, k, k);
    if (function == MatrixFunction::inverse_root && p < 1) {
        throw std::invalid_argument("inverse_root: p must be an integer of at least 1, got " + std::to_string(p));
    }
    if (options.tol != options.tol || std::isinf(options.tol)) throw std::invalid_argument(name + ": tol must be finite");
    if (options.max_steps < 1) {
        throw std::invalid_argument(name + ": max_steps must be at least 1, got " + std::to_string(options.max_steps));
    }
    const auto ridge = [&](const char* argument, double value) {
        if (!(value >= 0) || std::isinf(value)) {
            throw std::invalid_argument(name + ": " + argument + " must be finite and not negative, got " + std::to_string(value));
        }
    };
    ridge("ridge", options.ridge);
    ridge("relative_ridge", options.relative_ridge);
}

namespace {

template <class T>
void call_one(MatrixFunction function, int64_t p, TensorView<const T> a, TensorView<T> value, TensorView<T> second,
              MatrixReport* reports, const MatrixFunctionOptions& options) {
    const FunctionItem item{erase(a), erase(value), erase_or_null(second), reports};
    check_function(function, item, p, options);
    evaluate(function, p, &item, 1, options);
}

}  // namespace

template <class T>
void polar(TensorView<const T> x, TensorView<T> unitary, TensorView<T> hermitian, MatrixReport* reports,
           const MatrixFunctionOptions& options) {
    call_one<T>(MatrixFunction::polar, 1, x, unitary, hermitian, reports, options);
}
template <class T>
void matrix_sign(TensorView<const T> a, TensorView<T> value, MatrixReport* reports, const MatrixFunctionOptions& options) {
    call_one<T>(MatrixFunction::sign, 1, a, value, {}, reports, options);
}
template <class T>
void matrix_sqrt(TensorView<const T> a, TensorView<T> value, TensorView<T> inverse_sqrt, MatrixReport* reports,
                 const MatrixFunctionOptions& options) {
    call_one<T>(MatrixFunction::sqrt, 1, a, value, inverse_sqrt, reports, options);
}
template <class T>
void matrix_inverse(TensorView<const T> a, TensorView<T> value, MatrixReport* reports, const MatrixFunctionOptions& options) {
    call_one<T>(MatrixFunction::inverse, 1, a, value, {}, reports, options);
}
template <class T>
void inverse_root(TensorView<const T> a, int64_t p, TensorView<T> value, MatrixReport* reports,
                  const MatrixFunctionOptions& options) {
    call_one<T>(MatrixFunction::inverse_root, p, a, value, {}, reports, options);
}

#define RAPHSON_INSTANTIATE(T)                                                                                            \
    template void polar<T>(TensorView<const T>, TensorView<T>, TensorView<T>, MatrixReport*, const MatrixFunctionOptions&); \
    template void matrix_sign<T>(TensorView<const T>, TensorView<T>, MatrixReport*, const MatrixFunctionOptions&);          \
    template void matrix_sqrt<T>(TensorView<const T>, TensorView<T>, TensorView<T>, MatrixReport*,                          \
                                 const MatrixFunctionOptions&);                                                             \
    template void matrix_inverse<T>(TensorView<const T>, TensorView<T>, MatrixReport*, const MatrixFunctionOptions&);       \
    template void inverse_root<T>(TensorView<const T>, std::int64_t, TensorView<T>, MatrixReport*,                          \
                                  const MatrixFunctionOptions&);
RAPHSON_INSTANTIATE(double)
RAPHSON_INSTANTIATE(float)
#undef RAPHSON_INSTANTIATE

}  // namespace raphson
