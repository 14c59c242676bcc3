// The sliding window: pass → core → pass.
#include "ihvp/window.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "common/threads.h"
#include "common/workspace.h"
#include "ihvp/check.h"
#include "ihvp/columns.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double refresh_relative = 0.1;

Stored stored_of(WindowType type) { return static_cast<Stored>(type); }
static_assert(static_cast<int>(WindowType::int8) == static_cast<int>(Stored::int8) &&
              static_cast<int>(WindowType::bfloat16) == static_cast<int>(Stored::bfloat16));

}  // namespace

Window::Window(int64_t dim, int64_t capacity, Damping damping, const WindowOptions& options)
    : dim_(dim),
      capacity_(capacity),
      ring_(capacity + 1),
      damping_(damping),
      options_(options),
      type_(stored_of(options.type)),
      rows_(nullptr, FreeLarge{64}) {
    check_window(dim, capacity, damping, options);
    const int64_t width = options.block_size == 0 ? dim : std::min(options.block_size, dim);
    for (int64_t first = 0; first < dim; first += width) {
        const int64_t here = std::min(width, dim - first);
        blocks_.push_back({first, here, scales_per_row_, nullptr, nullptr});
        if (type_ == Stored::int8) scales_per_row_ += (here + int8_block - 1) / int8_block;
    }
    rows_ = take_large(static_cast<std::size_t>(ring_ * dim_ * stored_size(type_)));
    scales_.resize(static_cast<std::size_t>(ring_ * scales_per_row_));
    row_scale_.assign(static_cast<std::size_t>(ring_), 1.0);
    if (options.error_feedback) {
        residual_.resize(static_cast<std::size_t>(dim));
        next_residual_.resize(static_cast<std::size_t>(dim));
    }
    const int64_t square = ring_ * ring_;
    cores_.resize(static_cast<std::size_t>(2 * square * block_count()));
    double* core = cores_.data();
    for (Block& block : blocks_) {
        block.gram = core;
        block.factor = core + square;
        core += 2 * square;
    }
    total_dim_ = static_cast<double>(dim);
    reduce(&total_dim_, 1);
}

void Window::reduce(double* values, int64_t count) const {
    if (options_.reduce) options_.reduce(values, count);
}

void* Window::row_at(int64_t slot, int64_t column) const {
    return static_cast<char*>(rows_.get()) + (slot * dim_ + column) * stored_size(type_);
}

template <class Fn>
void Window::for_rows(int64_t column, int64_t scale_column, int64_t from, int64_t to, Fn&& fn) const {
    for (int64_t t = from; t < to;) {
        const int64_t first = slot(t), count = std::min(to - t, ring_ - first);
        const float* scales = scales_per_row_ == 0 ? nullptr : scales_.data() + first * scales_per_row_ + scale_column;
        fn(Rows{type_, row_at(first, column), dim_, scales, scales_per_row_, count}, t);
        t += count;
    }
}

// ---- the passes ---------------------------------------------------------------------------------------------------------

// Rounds g (and what is left of the gradient before) into the free slot, and multiplies all rows with what is stored
// there: sums[t] for t = 0 … length_-1, the new row last.
void Window::store_and_multiply(const Block& block, const VectorRef& g, double* sums) {
    const IhvpTable& pass = kernels().ihvp;
    const int64_t newest = slot(length_ - 1);
    const Tiles tiles(block.width);
    Workspace scratch;
    double* const partials = scratch.take_array<double>(tiles.tasks * length_);
    parallel_for(tiles.tasks, [&](int64_t task) {
        Workspace room;
        double* const y = room.take_array<double>(tile);
        double* const before = room.take_array<double>(tile);
        double* const part = partials + task * length_;
        std::fill_n(part, length_, 0.0);
        for (int64_t i = tiles.begin(task); i < tiles.end(task); ++i) {
            const int64_t first = block.first + i * tile, width = std::min(tile, block.first + block.width - first);
            pass.widen(stored_of(g.dtype), contiguous(g, first, width, before), width, y);
            if (!residual_.empty()) {
                for (int64_t k = 0; k < width; ++k) y[k] += static_cast<double>(residual_[static_cast<std::size_t>(first + k)]);
                std::copy_n(y, width, before);
            }
            const int64_t scale = block.first_scale + i * (tile / int8_block);
            void* const row = row_at(newest, first);
            float* const scales = scales_per_row_ == 0 ? nullptr : scales_.data() + newest * scales_per_row_ + scale;
            pass.store_row(type_, y, width, row_scale_[static_cast<std::size_t>(newest)], row, scales);
            if (!residual_.empty()) {
                for (int64_t k = 0; k < width; ++k) next_residual_[static_cast<std::size_t>(first + k)] = static_cast<float>(before[k] - y[k]);
            }
            for_rows(first, scale, 0, length_, [&](const Rows& rows, int64_t t) {
                if (type_ == Stored::int8) {
                    pass.products_int8(rows, width, static_cast<const std::int8_t*>(row), scales, part + t);
                } else {
                    pass.products(rows, width, y, part + t);
                }
            });
        }
    });
    for (int64_t t = 0; t < length_; ++t) {
        double sum = 0;
        for (int64_t task = 0; task < tiles.tasks; ++task) sum += partials[task * length_ + t];
        sums[t] = sum * row_scale_[static_cast<std::size_t>(slot(t))];
    }
}

// sums[t] = ⟨row t, x⟩, and Σx² over the block.
void Window::multiply(const Block& block, const VectorRef& x, double* sums, double* squares) const {
    const IhvpTable& pass = kernels().ihvp;
    const Tiles tiles(block.width);
    const int64_t each = length_ + 1;
    Workspace scratch;
    double* const partials = scratch.take_array<double>(tiles.tasks * each);
    parallel_for(tiles.tasks, [&](int64_t task) {
        Workspace room;
        double* const y = room.take_array<double>(tile);
        double* const copy = room.take_array<double>(tile);
        double* const part = partials + task * each;
        std::fill_n(part, each, 0.0);
        for (int64_t i = tiles.begin(task); i < tiles.end(task); ++i) {
            const int64_t first = block.first + i * tile, width = std::min(tile, block.first + block.width - first);
            pass.widen(stored_of(x.dtype), contiguous(x, first, width, copy), width, y);
            for_rows(first, block.first_scale + i * (tile / int8_block), 0, length_,
                     [&](const Rows& rows, int64_t t) { pass.products(rows, width, y, part + t); });
            pass.products(Rows{Stored::float64, y, width, nullptr, 0, 1}, width, y, part + length_);
        }
    });
    throw_if_cancelled();
    for (int64_t t = 0; t < each; ++t) {
        double sum = 0;
        for (int64_t task = 0; task < tiles.tasks; ++task) sum += partials[task * each + t];
        if (t == length_) {
            *squares = sum;
        } else {
            sums[t] = sum * row_scale_[static_cast<std::size_t>(slot(t))];
        }
    }
}

// The same of every block, length_ + 1 numbers each with Σx² last; over all processes where there is a single block.
void Window::multiply(const VectorRef& x, double* sums) const {
    const int64_t each = length_ + 1;
    parallel_for(block_count(), [&](int64_t b) {
        multiply(blocks_[static_cast<std::size_t>(b)], x, sums + b * each, sums + b * each + length_);
    });
    throw_if_cancelled();
    if (block_count() == 1) reduce(sums, each);
}

// out = factor·Σ by_time[t]·row t + x_factor·x over the block's columns; the last tiles of the pass before come first.
void Window::combine(const Block& block, const double* by_time, double factor, const VectorRef* x, double x_factor,
                     const VectorRef& out) const {
    const IhvpTable& pass = kernels().ihvp;
    const Tiles tiles(block.width);
    Workspace scratch;
    double* const coefficients = scratch.take_array<double>(length_);
    for (int64_t t = 0; t < length_; ++t) coefficients[t] = factor * by_time[t] * row_scale_[static_cast<std::size_t>(slot(t))];
    parallel_for(tiles.tasks, [&](int64_t reversed) {
        const int64_t task = tiles.tasks - 1 - reversed;
        Workspace room;
        double* const sum = room.take_array<double>(tile);
        double* const more = room.take_array<double>(tile);
        double* const copy = room.take_array<double>(tile);
        for (int64_t i = tiles.end(task) - 1; i >= tiles.begin(task); --i) {
            const int64_t first = block.first + i * tile, width = std::min(tile, block.first + block.width - first);
            for_rows(first, block.first_scale + i * (tile / int8_block), 0, length_, [&](const Rows& rows, int64_t t) {
                pass.combine(rows, width, coefficients + t, t == 0 ? sum : more);
                if (t == 0) return;
                for (int64_t k = 0; k < width; ++k) sum[k] += more[k];
            });
            if (x != nullptr) {
                pass.widen(stored_of(x->dtype), contiguous(*x, first, width, copy), width, more);
                for (int64_t k = 0; k < width; ++k) sum[k] += x_factor * more[k];
            }
            const int64_t size = itemsize(out.dtype);
            char* const to = static_cast<char*>(out.data) + first * out.stride * size;
            pass.narrow(stored_of(out.dtype), sum, width, out.stride == 1 ? static_cast<void*>(to) : copy);
            if (out.stride == 1) continue;
            for (int64_t k = 0; k < width; ++k) {
                std::memcpy(to + k * out.stride * size, reinterpret_cast<char*>(copy) + k * size, static_cast<std::size_t>(size));
            }
        }
    });
}

// ---- the core -----------------------------------------------------------------------------------------------------------

double Window::trace() const {
    double sum = 0;
    for (const Block& block : blocks_) {
        for (int64_t t = 0; t < length_; ++t) sum += gram_column(block, t)[0];
    }
    return sum;
}

double Window::target_lambda() const {
    if (!damping_.relative) return damping_.value;
    double sum = trace();
    if (block_count() > 1) reduce(&sum, 1);  // the Gram matrix of a single block is everybody's already
    return damping_.value * sum / (scale() * total_dim_);
}

bool Window::factor_serves() const {
    if (shift_ == 0) return false;
    if (!damping_.relative) return shift_ == scale() * damping_.value;
    return shift_ == scale() * lambda_ && std::fabs(target_lambda() / lambda_ - 1) <= refresh_relative;
}

// The lower triangle of what lies in the ring, row major, with `diagonal` added.
void Window::dense(const double* ring, double diagonal, double* out) const {
    for (int64_t t = 0; t < length_; ++t) {
        const double* column = ring + slot(t) * ring_;
        for (int64_t i = t; i < length_; ++i) out[i * length_ + t] = column[i - t];
        out[t * length_ + t] += diagonal;
    }
}

void Window::refactor(const Block& block) {
    Workspace scratch;
    double* const a = scratch.take_array<double>(length_ * length_);
    dense(block.gram, shift_, a);
    // GGᵀ + shift·I has no eigenvalue below shift, so neither has any Schur complement.
    cholesky(a, length_, length_, shift_);
    for (int64_t t = 0; t < length_; ++t) {
        double* column = factor_column(block, t);
        for (int64_t i = t; i < length_; ++i) column[i - t] = a[i * length_ + t];
    }
}

void Window::refactor() {
    lambda_ = target_lambda();
    shift_ = scale() * lambda_;
    if (shift_ == 0) return;  // relative damping of nothing but zeros
    const PollPause pause;
    parallel_for(block_count(), [&](int64_t b) { refactor(blocks_[static_cast<std::size_t>(b)]); });
}

void Window::prepare(const char* function) {
    require_rows(function);
    if (factor_serves()) return;
    shift_ = 0;
    refactor();
    if (shift_ == 0) {
        throw std::invalid_argument(std::string(function) + ": relative damping needs a gradient that is not zero");
    }
}

// The new row's products into the Gram matrix and, if the factor goes on to serve, into the factor; `dropped` is the
// column of the factor below the pivot of the row that left, or null.
void Window::append(const Block& block, const double* sums, const double* dropped, bool incremental) {
    const int64_t kept = length_ - 1;
    for (int64_t t = 0; t <= kept; ++t) gram_column(block, t)[kept - t] = sums[t];
    if (!incremental) return;
    Workspace scratch;
    double* const b = scratch.take_array<double>(kept);
    double* const v = scratch.take_array<double>(kept);
    std::copy_n(sums, kept, b);
    if (dropped != nullptr) std::copy_n(dropped, kept, v);
    kernels().ihvp.forward(block.factor, ring_, head_, kept, dropped == nullptr ? nullptr : v, b);
    double pivot = sums[kept] + shift_;
    for (int64_t t = 0; t < kept; ++t) pivot -= b[t] * b[t];
    if (!(pivot >= 0.5 * shift_)) return refactor(block);  // exactly, it is at least shift
    for (int64_t t = 0; t < kept; ++t) factor_column(block, t)[kept - t] = b[t];
    factor_column(block, kept)[0] = std::sqrt(std::max(pivot, shift_));
}

// ---- what users call ------------------------------------------------------------------------------------------------------

void Window::push(const VectorRef& g) { push_and(g, "push", nullptr); }

void Window::precondition(const VectorRef& g, const VectorRef& out) { push_and(g, "precondition", &out); }

void Window::push_and(const VectorRef& g, const char* function, const VectorRef* out) {
    double row_scale = 1;
    check_agreed(function, [&] {
        row_scale = check_gradient(g, function);
        if (out != nullptr) check_vector(*out, function, "out");
    });
    Workspace scratch;
    const int64_t old_length = length_, old_head = head_;
    const bool drops = length_ == capacity_;
    const int64_t length = drops ? capacity_ : length_ + 1;
    double* const sums = scratch.take_array<double>(block_count() * length);
    double* const y = scratch.take_array<double>(block_count() * length);

    // Nothing but the free slot is written until every product is known.
    const bool served = shift_ != 0 && factor_serves();
    head_ = drops ? slot(1) : head_;
    length_ = length;
    const auto dropped = [&](const Block& block) { return drops ? block.factor + old_head * ring_ + 1 : nullptr; };
    const auto use = [&](const Block& block) {
        const int64_t b = &block - blocks_.data();
        double* const here = y + b * length;
        std::fill_n(here, length, 0.0);
        if (shift_ != 0) here[length - 1] = 1 / factor_column(block, length - 1)[0];
        if (shift_ != 0) kernels().ihvp.backward(block.factor, ring_, head_, length, here);
        combine(block, here, scale(), nullptr, 0, *out);
    };
    try {
        const PollPause pause;
        row_scale_[static_cast<std::size_t>(slot(length - 1))] = row_scale;
        // One visit to every block does all of it where nobody has to wait for the others: its tile is still in cache.
        const bool incremental = served && shift_ == scale() * lambda_;
        const bool at_once = block_count() > 1 && !damping_.relative && incremental;
        parallel_for(block_count(), [&](int64_t b) {
            const Block& block = blocks_[static_cast<std::size_t>(b)];
            store_and_multiply(block, g, sums + b * length);
            if (!at_once) return;
            append(block, sums + b * length, dropped(block), true);
            if (out != nullptr) use(block);
        });
        if (block_count() == 1) reduce(sums, length);
        if (!at_once) {
            for (const Block& block : blocks_) {
                const int64_t b = &block - blocks_.data();
                append(block, sums + b * length, dropped(block), incremental);
            }
            if (!incremental || !factor_serves()) {
                shift_ = 0;  // the next query factors the Gram matrix anew
                if (out != nullptr) refactor();
            }
            if (out != nullptr) parallel_for(block_count(), [&](int64_t b) { use(blocks_[static_cast<std::size_t>(b)]); });
        }
        std::swap(residual_, next_residual_);
    } catch (...) {
        length_ = old_length;  // rows and Gram matrix of before are all still there
        head_ = old_head;
        shift_ = 0;
        throw;
    }
}

void Window::solve(const VectorRef& x, const VectorRef& out) {
    check_agreed("solve", [&] {
        check_vector(x, "solve", "x");
        check_vector(out, "solve", "out");
        require_finite(x, "solve", "x");
    });
    prepare("solve");
    Workspace scratch;
    const int64_t each = length_ + 1;
    double* const z = scratch.take_array<double>(block_count() * each);
    multiply(x, z);
    const PollPause pause;
    parallel_for(block_count(), [&](int64_t b) {
        const Block& block = blocks_[static_cast<std::size_t>(b)];
        double* const y = z + b * each;
        kernels().ihvp.forward(block.factor, ring_, head_, length_, nullptr, y);
        kernels().ihvp.backward(block.factor, ring_, head_, length_, y);
        combine(block, y, -1 / lambda_, &x, 1 / lambda_, out);
    });
}

}  // namespace raphson
