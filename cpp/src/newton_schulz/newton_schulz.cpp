#include "raphson/newton_schulz.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "common/threads.h"
#include "common/workspace.h"
#include "newton_schulz/batch.h"
#include "newton_schulz/iterate.h"
#include "newton_schulz/orthogonalize.h"
#include "table.h"

namespace raphson {

MatrixRef BatchRef::matrix(std::int64_t index) const {
    std::int64_t offset = 0;
    for (int i = ndim - 3; i >= 0; --i) {
        offset += index % shape[i] * strides[i];
        index /= shape[i];
    }
    char* first = static_cast<char*>(data) + offset * itemsize(dtype);
    return {first, dtype, rows(), cols(), strides[ndim - 2], strides[ndim - 1]};
}

namespace {

// One matrix of one array.
struct Task {
    const OrthogonalizeItem* item;
    std::int64_t index;
    MatrixScan scan;
};

struct Job {
    Task* tasks;
    const OrthogonalizeOptions* options;
    const KernelTable* table;
};

void orthogonalize_matrix(const Job& job, const Task& task) {
    const OrthogonalizePlan& plan = *task.item->plan;
    MatrixRef x = task.item->x.matrix(task.index), out = task.item->out.matrix(task.index);
    if (plan.transposed) {
        x = x.transposed();
        out = out.transposed();
    }
    const auto m = static_cast<std::size_t>(x.rows);
    const auto size = static_cast<std::size_t>(itemsize(plan.precision));
    Workspace scratch;
    IterationBuffers buffers{};
    buffers.ld = row_length(x.cols, plan.precision);
    buffers.square_ld = row_length(x.rows, plan.precision);
    const std::size_t bytes = m * static_cast<std::size_t>(buffers.ld) * size;
    buffers.x = scratch.take(bytes);
    buffers.y = scratch.take(bytes);
    for (int i = 0; i < square_buffers(plan.method); ++i) {
        buffers.square[i] = scratch.take(m * static_cast<std::size_t>(buffers.square_ld) * size);
    }
    if (plan.normalize != Normalize::frobenius) buffers.factors = static_cast<double*>(scratch.take(m * sizeof(double)));

    const MatrixScan& scan = task.scan;
    const double factor = plan.normalize == Normalize::frobenius ? plan.norm_factor : 1;
    const double norm = factor * std::sqrt(scan.sum_squares);  // in units of scan.unit, as is the floor
    const double divisor = std::max(norm, job.options->eps * (scan.max_abs / scan.unit));
    const double scale = divisor == 0 ? 0 : 1 / divisor;  // a zero matrix stays zero
    const NewtonSchulzTable& passes = job.table->newton_schulz;
    passes.load(x, 1 / scan.unit, scale, plan.precision, buffers.x, buffers.ld);
    if (cancelled()) return;
    const void* result = iterate(*job.table, plan, job.options->eps, x.rows, x.cols, buffers);
    if (cancelled()) return;
    const PollPause complete;  // from here on the matrix is written whole
    passes.store(plan.precision, result, buffers.ld, out);
}

void matrix_task(void* context, std::int64_t index) {
    const Job& job = *static_cast<const Job*>(context);
    orthogonalize_matrix(job, job.tasks[index]);
}

void scan_task(void* context, std::int64_t index) {
    const Job& job = *static_cast<const Job*>(context);
    Task& task = job.tasks[index];
    task.scan = job.table->newton_schulz.scan(task.item->x.matrix(task.index));
}

}  // namespace

void orthogonalize(const OrthogonalizeItem* items, std::size_t count, const OrthogonalizeOptions& options) {
    std::int64_t total = 0;
    for (std::size_t i = 0; i < count; ++i) {
        if (items[i].x.rows() > 0 && items[i].x.cols() > 0) total += items[i].x.count();
    }
    if (total == 0) return;
    Workspace scratch;
    auto* tasks = static_cast<Task*>(scratch.take(static_cast<std::size_t>(total) * sizeof(Task)));
    Task* next = tasks;
    for (std::size_t i = 0; i < count; ++i) {
        if (items[i].x.rows() == 0 || items[i].x.cols() == 0) continue;
        for (std::int64_t k = 0; k < items[i].x.count(); ++k) *next++ = {&items[i], k, {}};
    }
    if (count > 1) {
        std::stable_sort(tasks, next, [](const Task& a, const Task& b) { return a.item->plan->flops > b.item->plan->flops; });
    }
    Job job{tasks, &options, &kernels()};
    parallel_for(total, scan_task, &job);
    throw_if_cancelled();
    if (options.check_finite) {
        for (std::int64_t i = 0; i < total; ++i) {
            if (std::isfinite(tasks[i].scan.sum_squares)) continue;
            const std::int64_t array = tasks[i].item - items;
            throw std::invalid_argument("orthogonalize: x contains NaN or Inf" +
                                        (count > 1 ? " (array " + std::to_string(array) + " of the list)" : "") +
                                        which_matrix(tasks[i].index, tasks[i].item->x.count()));
        }
    }
    const std::int64_t shared = count_shared(total, [&](std::int64_t i) { return tasks[i].item->plan->flops; });
    for (std::int64_t i = 0; i < shared && !poll_cancelled(); ++i) orthogonalize_matrix(job, tasks[i]);
    throw_if_cancelled();
    job.tasks += shared;
    parallel_for(total - shared, matrix_task, &job);
    throw_if_cancelled();
}

void orthogonalize(const BatchRef& x, const BatchRef& out, const Schedule& schedule, const OrthogonalizeOptions& options) {
    check_orthogonalize(x, out, options);
    const OrthogonalizePlan plan = plan_orthogonalize(x.rows(), x.cols(), x.dtype, schedule, options);
    const OrthogonalizeItem item{x, out, &plan};
    orthogonalize(&item, 1, options);
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
