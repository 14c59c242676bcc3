#include "sketch/sweep.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "common/threads.h"
#include "common/workspace.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t task_work = 1 << 16;    // numbers of A at least in a task
constexpr int64_t most_tasks = 64;
constexpr int64_t chunk_bytes = 96 << 10;  // of A between the two halves of a sweep: the second-level cache keeps it
constexpr int64_t most_chunk_rows = 512;

// Tasks of a block, by its shape alone; every task has an accumulator, which must not cost more than its share of A.
int64_t tasks_of(const RowBlock& b, int64_t accumulator) {
    const int64_t work = std::max(task_work, 8 * accumulator);
    return std::max<int64_t>(1, std::min({b.size() / work, most_tasks, b.rows}));
}

int64_t chunk_rows(const RowBlock& b) {
    const int64_t row_bytes = std::max<int64_t>(1, b.size() / std::max<int64_t>(b.rows, 1)) * itemsize(b.type);
    const int64_t rows = std::min(most_chunk_rows, chunk_bytes / row_bytes);
    return std::max<int64_t>(rows / 4 * 4, 4);
}

// Pairwise, so that rounding does not grow with the number of tasks.
void add_up(double* parts, int64_t count, int64_t size) {
    for (int64_t step = 1; step < count; step *= 2) {
        for (int64_t i = 0; i + step < count; i += 2 * step) {
            for (int64_t j = 0; j < size; ++j) parts[i * size + j] += parts[(i + step) * size + j];
        }
    }
}

// What add(begin, end, to) adds to `size` numbers for those rows, over all rows of the block: the first numbers of `parts`.
template <class Add>
void sum_over_rows(const RowBlock& block, int64_t most, int64_t size, std::vector<double>& parts, const Add& add) {
    const int64_t tasks = std::min(tasks_of(block, size), most), rows = (block.rows + tasks - 1) / tasks;
    parts.assign(static_cast<std::size_t>(tasks * size), 0.0);
    parallel_for(tasks, [&](int64_t task) {
        const int64_t begin = std::min(task * rows, block.rows);
        add(begin, std::min(begin + rows, block.rows), parts.data() + task * size);
    });
    throw_if_cancelled();
    add_up(parts.data(), tasks, size);
}

void check_block(const RowSource& a, const RowBlock& b, int64_t first) {
    if (b.cols != a.cols || first + b.rows > a.rows) throw std::invalid_argument("RowSource: a block does not fit the matrix");
}

}  // namespace

std::vector<double> sweep(const RowSource& a, const Sweep& what, const Middle& middle) {
    std::vector<double> totals(static_cast<std::size_t>(what.sums), 0.0), parts;
    if (what.out != nullptr) {
        for (int c = 0; c < what.outs; ++c) std::fill_n(what.out + c * what.stride, a.cols, 0.0);
    }
    int64_t seen = 0;
    a.visit([&](const RowBlock& block, int64_t first) {
        check_block(a, block, first);
        seen += block.rows;
        if (block.rows == 0) return;
        const int64_t each = (what.out != nullptr ? what.outs * a.cols : 0) + what.sums;
        const int64_t chunk = chunk_rows(block);
        sum_over_rows(block, most_tasks, each, parts, [&](int64_t begin, int64_t end, double* out) {
            double* const sums = out + each - what.sums;
            Workspace scratch;
            double* const t = scratch.take_array<double>(chunk * what.in);
            double* const u = scratch.take_array<double>(chunk * what.outs);
            for (int64_t i = begin; i < end && !poll_cancelled(); i += chunk) {
                const RowBlock here = block.part(i, std::min(chunk, end - i));
                if (what.v != nullptr) kernels().sweep.dots(here, what.v, what.stride, what.in, t);
                middle(first + i, here.rows, t, u, sums);
                if (what.out != nullptr) kernels().sweep.combine(here, u, what.outs, out, a.cols);
            }
        });
        if (what.out != nullptr) {
            for (int c = 0; c < what.outs; ++c) {
                for (int64_t j = 0; j < a.cols; ++j) what.out[c * what.stride + j] += parts[c * a.cols + j];
            }
        }
        for (int s = 0; s < what.sums; ++s) totals[s] += parts[each - what.sums + s];
    });
    if (seen != a.rows) throw std::invalid_argument("RowSource: the blocks have " + std::to_string(seen) + " rows, not " + std::to_string(a.rows));
    return totals;
}

namespace {

// Rows multiplied at a time: so many that the caches keep their packed copies, or as many as Ctrl-C can wait for.
constexpr int64_t gram_rows(int64_t columns) { return columns <= narrow_size ? 1 << 17 : 2048; }

// gram (n × n) += blockᵀ diag(weights) block and, with a border, its last row the weighted column sums.
void add_dense_gram(const RowBlock& block, const double* weights, int border, double* gram, int64_t n) {
    const auto& gemm = kernels().gemm;
    const int64_t most = std::min(block.rows, gram_rows(block.cols));
    const std::vector<double> ones(weights == nullptr && border != 0 ? static_cast<std::size_t>(most) : 0, 1.0);
    double* const last = gram + block.cols * n;
    for (int64_t begin = 0; begin < block.rows; begin += most) {
        const RowBlock here = block.part(begin, std::min(most, block.rows - begin));
        const double* const w = weights != nullptr ? weights + begin : nullptr;
        if (here.type == DType::float64) {
            gemm.columns_onto(here.cols, here.rows, static_cast<const double*>(here.values), here.stride, w, gram, n);
        } else {
            gemm.columns_widened_onto(here.cols, here.rows, static_cast<const float*>(here.values), here.stride, w, gram, n);
        }
        throw_if_cancelled();
        if (border == 0) continue;
        const double* const u = w != nullptr ? w : ones.data();
        kernels().sweep.combine(here, u, 1, last, n);
        for (int64_t i = 0; i < here.rows; ++i) last[here.cols] += u[i];
    }
}

template <class T>
void add_sparse_gram(const RowBlock& b, const double* weights, int border, double* gram, int64_t n) {
    const T* const values = static_cast<const T*>(b.values);
    for (int64_t i = 0; i < b.rows && !poll_cancelled(); ++i) {
        const double w = weights != nullptr ? weights[i] : 1.0;
        for (int64_t p = b.starts[i]; p < b.starts[i + 1]; ++p) {
            const double left = w * static_cast<double>(values[p]);
            double* const row = gram + b.index[p] * n;
            for (int64_t q = b.starts[i]; q < b.starts[i + 1]; ++q) {
                if (b.index[q] <= b.index[p]) row[b.index[q]] += left * static_cast<double>(values[q]);
            }
            if (border != 0) gram[b.cols * n + b.index[p]] += left;
        }
        if (border != 0) gram[b.cols * n + b.cols] += w;
    }
}

}  // namespace

void weighted_gram(const RowSource& a, const double* weights, int border, double* gram) {
    const int64_t n = a.cols + border;
    std::fill_n(gram, n * n, 0.0);
    std::vector<double> parts;
    a.visit([&](const RowBlock& block, int64_t first) {
        check_block(a, block, first);
        if (block.rows == 0) return;
        const double* w = weights != nullptr ? weights + first : nullptr;
        if (block.starts == nullptr) return add_dense_gram(block, w, border, gram, n);
        sum_over_rows(block, 8, n * n, parts, [&](int64_t begin, int64_t end, double* to) {
            const RowBlock here = block.part(begin, end - begin);
            const double* v = w != nullptr ? w + begin : nullptr;
            block.type == DType::float64 ? add_sparse_gram<double>(here, v, border, to, n) : add_sparse_gram<float>(here, v, border, to, n);
        });
        for (int64_t i = 0; i < n * n; ++i) gram[i] += parts[i];
    });
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = i + 1; j < n; ++j) gram[i * n + j] = gram[j * n + i];
    }
}

namespace {

template <class T>
void add_squares(const RowBlock& b, const double* weights, double* to) {
    const T* const values = static_cast<const T*>(b.values);
    for (int64_t i = 0; i < b.rows; ++i) {
        const double w = weights != nullptr ? weights[i] : 1.0;
        if (b.starts == nullptr) {
            for (int64_t j = 0; j < b.cols; ++j) {
                const double x = static_cast<double>(values[i * b.stride + j]);
                to[j] += w * x * x;
            }
        } else {
            for (int64_t p = b.starts[i]; p < b.starts[i + 1]; ++p) {
                const double x = static_cast<double>(values[p]);
                to[b.index[p]] += w * x * x;
            }
        }
    }
}

template <class T>
void scatter_csr(const SparseSign& s, const RowBlock& b, int64_t first, const double* weights, double* out, int64_t n) {
    constexpr int64_t at_a_time = 4096;
    const T* const values = static_cast<const T*>(b.values);
    const int nnz = s.nnz();
    std::vector<std::int32_t> row(static_cast<std::size_t>(at_a_time * nnz));
    std::vector<std::int8_t> sign(row.size());
    const double scale = 1 / std::sqrt(static_cast<double>(nnz));
    for (int64_t begin = 0; begin < b.rows; begin += at_a_time) {
        poll_or_throw();
        const int64_t count = std::min(at_a_time, b.rows - begin);
        s.entries(first + begin, count, row.data(), sign.data());
        for (int64_t i = 0; i < count; ++i) {
            const double w = weights != nullptr ? scale * weights[begin + i] : scale;
            for (int k = 0; k < nnz; ++k) {
                double* const to = out + static_cast<int64_t>(row[i * nnz + k]) * n;
                const double factor = sign[i * nnz + k] < 0 ? -w : w;
                for (int64_t p = b.starts[begin + i]; p < b.starts[begin + i + 1]; ++p) to[b.index[p]] += factor * static_cast<double>(values[p]);
            }
        }
    }
}

}  // namespace

void weighted_squares(const RowSource& a, const double* weights, int border, double* diagonal) {
    std::fill_n(diagonal, a.cols + border, 0.0);
    std::vector<double> parts;
    a.visit([&](const RowBlock& block, int64_t first) {
        check_block(a, block, first);
        if (block.rows == 0) return;
        const double* w = weights != nullptr ? weights + first : nullptr;
        const int64_t chunk = chunk_rows(block);
        sum_over_rows(block, most_tasks, a.cols, parts, [&](int64_t begin, int64_t end, double* to) {
            for (int64_t i = begin; i < end && !poll_cancelled(); i += chunk) {
                const RowBlock here = block.part(i, std::min(chunk, end - i));
                const double* v = w != nullptr ? w + i : nullptr;
                block.type == DType::float64 ? add_squares<double>(here, v, to) : add_squares<float>(here, v, to);
            }
        });
        for (int64_t j = 0; j < a.cols; ++j) diagonal[j] += parts[j];
        for (int64_t i = 0; border != 0 && i < block.rows; ++i) diagonal[a.cols] += w != nullptr ? w[i] : 1.0;
    });
}

void sketch_rows(const SparseSign& s, const RowSource& a, const double* weights, int border, double* out) {
    const int64_t n = a.cols + border;
    std::vector<double> narrow(border != 0 ? static_cast<std::size_t>(s.rows() * a.cols) : 0);
    double* const to = border != 0 ? narrow.data() : out;
    std::fill_n(out, s.rows() * n, 0.0);
    std::vector<double> ones(border != 0 ? static_cast<std::size_t>(s.rows()) : 0);
    a.visit([&](const RowBlock& block, int64_t first) {
        check_block(a, block, first);
        const double* w = weights != nullptr ? weights + first : nullptr;
        if (block.starts != nullptr) {
            block.type == DType::float64 ? scatter_csr<double>(s, block, first, w, to, a.cols) : scatter_csr<float>(s, block, first, w, to, a.cols);
        } else if (block.type == DType::float64) {
            s.add<double>(TensorView<const double>(static_cast<const double*>(block.values), {block.rows, block.cols}, {block.stride, 1}), first, w, to);
        } else {
            s.add<float>(TensorView<const float>(static_cast<const float*>(block.values), {block.rows, block.cols}, {block.stride, 1}), first, w, to);
        }
        if (border != 0) {
            const std::vector<double> one(static_cast<std::size_t>(block.rows), 1.0);
            s.add<double>(TensorView<const double>(one.data(), {block.rows, 1}), first, w, ones.data());
        }
    });
    for (int64_t i = 0; border != 0 && i < s.rows(); ++i) {
        std::copy_n(to + i * a.cols, a.cols, out + i * n);
        out[i * n + a.cols] = ones[i];
    }
}

}  // namespace raphson
