#include "raphson/newton_schulz.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "common/threads.h"
#include "common/workspace.h"
#include "newton_schulz/orthogonalize.h"
#include "raphson/runtime.h"
#include "raphson/status.h"
#include "table.h"

namespace raphson {

std::int64_t BatchRef::count() const {
    std::int64_t n = 1;
    for (int i = 0; i + 2 < ndim; ++i) n *= shape[i];
    return n;
}

MatrixRef BatchRef::matrix(std::int64_t index) const {
    std::int64_t offset = 0;
    for (int i = ndim - 3; i >= 0; --i) {
        offset += index % shape[i] * strides[i];
        index /= shape[i];
    }
    char* first = static_cast<char*>(data) + offset * itemsize(dtype);
    return {first, dtype, rows(), cols(), strides[ndim - 2], strides[ndim - 1]};
}

double orthogonalize_flops(std::int64_t rows, std::int64_t cols, std::int64_t steps) {
    const double m = static_cast<double>(rows < cols ? rows : cols), n = static_cast<double>(rows < cols ? cols : rows);
    return static_cast<double>(steps) * (3 * m * m * n + m * m * m);
}

namespace {

const GemmFunctions<double, double>& products(const GemmTable& gemm, double) { return gemm.f64; }
const GemmFunctions<float, float>& products(const GemmTable& gemm, float) { return gemm.f32; }
const GemmFunctions<bfloat16, float>& products(const GemmTable& gemm, bfloat16) { return gemm.bf16; }

// The iteration on x (m×n, m ≤ n, contiguous) with y a buffer of the same size and a, b of m×m; returns x or y.
template <class P, class Scalar>
P* iterate(const GemmFunctions<P, Scalar>& gemm, const std::vector<Step>& steps, std::int64_t m, std::int64_t n, P* x,
           P* y, P* a, P* b) {
    for (const Step& step : steps) {
        const auto sa = static_cast<Scalar>(step.a), sb = static_cast<Scalar>(step.b), sc = static_cast<Scalar>(step.c);
        gemm.gram(m, n, 1, x, n, a, m);
        if (step.c != 0) {
            gemm.symmetric(m, sc, a, m, a, m, sb, a, m, b, m);
            gemm.product(m, n, m, 1, b, m, x, n, sa, x, n, y, n);
        } else {
            gemm.product(m, n, m, sb, a, m, x, n, sa, x, n, y, n);
        }
        if (cancelled()) break;
        std::swap(x, y);
    }
    return x;
}

struct Job {
    const BatchRef* x;
    const BatchRef* out;
    const Schedule* schedule;
    const OrthogonalizeOptions* options;
    const KernelTable* table;
    MatrixScan* scans;
    DType precision;
};

template <class P>
void orthogonalize_matrix(const Job& job, std::int64_t index) {
    MatrixRef x = job.x->matrix(index), out = job.out->matrix(index);
    if (x.rows > x.cols) {
        x = x.transposed();
        out = out.transposed();
    }
    const auto m = static_cast<std::size_t>(x.rows), n = static_cast<std::size_t>(x.cols);
    Workspace scratch;
    auto* x0 = static_cast<P*>(scratch.take(m * n * sizeof(P)));
    auto* x1 = static_cast<P*>(scratch.take(m * n * sizeof(P)));
    auto* a = static_cast<P*>(scratch.take(m * m * sizeof(P)));
    auto* b = static_cast<P*>(scratch.take(m * m * sizeof(P)));

    const MatrixScan& scan = job.scans[index];
    const double norm = std::sqrt(scan.sum_squares);  // in units of scan.unit, as is everything below
    const double floor = job.options->eps * scan.max_abs / scan.unit;
    const double divisor = std::max(job.schedule->norm_factor() * norm, floor);
    const double scale = divisor == 0 ? 0 : 1 / divisor;  // a zero matrix stays zero
    const NewtonSchulzTable& passes = job.table->newton_schulz;
    passes.load(x, 1 / scan.unit, scale, job.precision, x0);
    const P* result = iterate(products(job.table->gemm, P{}), job.schedule->steps(), x.rows, x.cols, x0, x1, a, b);
    if (cancelled()) return;
    const PollPause complete;  // from here on the matrix is written whole
    passes.store(job.precision, result, out);
}

void matrix_task(void* context, std::int64_t index) {
    const Job& job = *static_cast<const Job*>(context);
    switch (job.precision) {
        case DType::float64: return orthogonalize_matrix<double>(job, index);
        case DType::float32: return orthogonalize_matrix<float>(job, index);
        default: return orthogonalize_matrix<bfloat16>(job, index);
    }
}

void scan_task(void* context, std::int64_t index) {
    const Job& job = *static_cast<const Job*>(context);
    job.scans[index] = job.table->newton_schulz.scan(job.x->matrix(index));
}

void for_each_matrix(std::int64_t count, TaskFn task, Job& job) {
    // As many matrices as divide evenly run one a thread, everything in that core's cache; the rest share all threads.
    const std::int64_t threads = get_num_threads();
    const std::int64_t alone = count < threads ? 0 : count - count % threads;
    parallel_for(alone, task, &job);
    for (std::int64_t i = alone; i < count && !poll_cancelled(); ++i) task(&job, i);
}

template <class T>
BatchRef erase(const TensorView<T>& view) {
    using V = std::remove_cv_t<T>;
    return {const_cast<V*>(view.data), dtype_of<V>(), view.ndim, view.shape.data(), view.strides.data()};
}

}  // namespace

void orthogonalize(const BatchRef& x, const BatchRef& out, const Schedule& schedule, const OrthogonalizeOptions& options) {
    check_orthogonalize(x, out, options);
    const std::int64_t count = x.count();
    if (count == 0 || x.rows() == 0 || x.cols() == 0) return;
    Workspace scratch;
    auto* scans = static_cast<MatrixScan*>(scratch.take(static_cast<std::size_t>(count) * sizeof(MatrixScan)));
    Job job{&x, &out, &schedule, &options, &kernels(), scans, options.own_precision ? x.dtype : options.precision};
    for_each_matrix(count, scan_task, job);
    throw_if_cancelled();
    if (options.check_finite) {
        for (std::int64_t i = 0; i < count; ++i) {
            if (!std::isfinite(scans[i].sum_squares)) {
                throw std::invalid_argument("orthogonalize: x contains NaN or Inf" +
                                            (count > 1 ? " (matrix " + std::to_string(i) + " of the batch)" : ""));
            }
        }
    }
    for_each_matrix(count, matrix_task, job);
    throw_if_cancelled();
}

template <class T>
void orthogonalize(TensorView<const T> x, TensorView<T> out, const Schedule& schedule,
                   const OrthogonalizeOptions& options) {
    orthogonalize(erase(x), erase(out), schedule, options);
}

template void orthogonalize<double>(TensorView<const double>, TensorView<double>, const Schedule&,
                                    const OrthogonalizeOptions&);
template void orthogonalize<float>(TensorView<const float>, TensorView<float>, const Schedule&,
                                   const OrthogonalizeOptions&);
template void orthogonalize<bfloat16>(TensorView<const bfloat16>, TensorView<bfloat16>, const Schedule&,
                                      const OrthogonalizeOptions&);

}  // namespace raphson
