// What the window answers from its small matrices, and what it is made of: its state.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/threads.h"
#include "common/workspace.h"
#include "ihvp/check.h"
#include "dense/dense.h"
#include "ihvp/window.h"
#include "table.h"

namespace raphson {

using std::int64_t;

void Window::solve_recent(const double* weights, int64_t count, const VectorRef& out) {
    check_agreed("solve_recent", [&] {
        check_vector(out, "solve_recent", "out");
        for (int64_t s = 0; s < count; ++s) {
            if (!std::isfinite(weights[s])) throw std::invalid_argument("solve_recent: weights must be finite");
        }
    });
    require_rows("solve_recent");
    if (count > length_) {
        throw std::invalid_argument("solve_recent: " + std::to_string(count) + " weights for a window of " +
                                    std::to_string(length_) + " gradients");
    }
    prepare("solve_recent");
    const PollPause pause;
    parallel_for(block_count(), [&](int64_t b) {
        const Block& block = blocks_[static_cast<std::size_t>(b)];
        Workspace scratch;
        double* const y = scratch.take_array<double>(length_);
        std::fill_n(y, length_, 0.0);
        for (int64_t s = 0; s < count; ++s) y[length_ - 1 - s] = weights[s];
        kernels().ihvp.forward(block.factor, ring_, head_, length_, nullptr, y);
        kernels().ihvp.backward(block.factor, ring_, head_, length_, y);
        combine(block, y, scale(), nullptr, 0, out);
    });
}

double Window::quadratic(const VectorRef& x) {
    check_agreed("quadratic", [&] {
        check_vector(x, "quadratic", "x");
        require_finite(x, "quadratic", "x");
    });
    prepare("quadratic");
    Workspace scratch;
    const int64_t each = length_ + 1;
    double* const z = scratch.take_array<double>(block_count() * each);
    multiply(x, z);
    double sum = 0;
    for (int64_t b = 0; b < block_count(); ++b) {
        double* const y = z + b * each;
        kernels().ihvp.forward(blocks_[static_cast<std::size_t>(b)].factor, ring_, head_, length_, nullptr, y);
        double rest = y[length_];
        for (int64_t t = 0; t < length_; ++t) rest -= y[t] * y[t];
        // Exactly, (1 + ‖G‖²/(mλ))⁻¹‖x‖² at least: what is negative is rounding.
        sum += std::max(rest, 0.0);
    }
    if (block_count() > 1) reduce(&sum, 1);
    return sum / lambda_;
}

double Window::quadratic(int64_t index) {
    require_rows("quadratic");
    if (index < 0 || index >= length_) {
        throw std::out_of_range("quadratic: index " + std::to_string(index) + " is out of range for a window of " +
                                std::to_string(length_) + " gradients");
    }
    prepare("quadratic");
    Workspace scratch;
    double* const y = scratch.take_array<double>(length_);
    double sum = 0;
    for (const Block& block : blocks_) {  // m·K(K + mλI)⁻¹ does not cancel, m − m²λ(K + mλI)⁻¹ does
        for (int64_t t = 0; t < length_; ++t) {
            y[t] = gram_column(block, std::min(t, index))[std::max(t, index) - std::min(t, index)];
        }
        kernels().ihvp.forward(block.factor, ring_, head_, length_, nullptr, y);
        kernels().ihvp.backward(block.factor, ring_, head_, length_, y);
        sum += scale() * y[index];
    }
    if (block_count() > 1) reduce(&sum, 1);
    return sum;
}

double Window::logdet() {
    prepare("logdet");
    double sum = 0;
    for (const Block& block : blocks_) {
        for (int64_t t = 0; t < length_; ++t) sum += 2 * std::log(factor_column(block, t)[0]) - std::log(shift_);
    }
    if (block_count() > 1) reduce(&sum, 1);
    return sum + total_dim_ * std::log(lambda_);
}

void Window::influence(double* out) {
    prepare("influence");
    const int64_t n = length_;
    Workspace scratch;
    double* const factor = scratch.take_array<double>(n * n);
    double* const x = scratch.take_array<double>(n * n);
    double* const sum = scratch.take_array<double>(n * n);
    std::fill_n(sum, n * n, 0.0);
    for (const Block& block : blocks_) {
        dense(block.factor, 0, factor);
        dense(block.gram, 0, x);
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = i + 1; j < n; ++j) x[i * n + j] = x[j * n + i];
        }
        solve_lower(factor, n, n, x, n, n);
        solve_lower_transposed(factor, n, n, x, n, n);
        throw_if_cancelled();
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < n; ++j) sum[i * n + j] += 0.5 * scale() * (x[i * n + j] + x[j * n + i]);
        }
    }
    if (block_count() > 1) reduce(sum, n * n);
    std::copy_n(sum, n * n, out);
}

void Window::set_damping(Damping damping) {
    check_damping("damping", damping);
    if (damping.relative != damping_.relative || damping.value != damping_.value) shift_ = 0;
    damping_ = damping;
}

double Window::damping_in_use() {
    if (!damping_.relative) return damping_.value;
    if (length_ == 0) return 0;
    if (!factor_serves()) refactor();
    return lambda_;
}

void Window::clear() {
    length_ = head_ = 0;
    shift_ = lambda_ = 0;
    std::fill(residual_.begin(), residual_.end(), 0.0f);
}

int64_t Window::nbytes() const {
    const auto bytes = [](const auto& v) { return static_cast<int64_t>(v.size() * sizeof(v[0])); };
    return ring_ * dim_ * stored_size(type_) + bytes(scales_) + bytes(row_scale_) + bytes(residual_) +
           bytes(next_residual_) + bytes(cores_);
}

Window::State Window::state() const {
    State state;
    const std::size_t row_bytes = static_cast<std::size_t>(dim_ * stored_size(type_));
    state.rows.assign(static_cast<std::size_t>(ring_) * row_bytes, std::byte{0});
    state.scales.assign(scales_.size(), 0.0f);
    state.row_scale.assign(row_scale_.size(), 1.0);
    const int64_t square = ring_ * ring_;
    state.gram.assign(static_cast<std::size_t>(block_count() * square), 0.0);
    state.factor = state.gram;
    for (int64_t t = 0; t < length_; ++t) {  // what holds nothing is zero, whatever lies there
        const int64_t s = slot(t);
        const auto at = static_cast<std::size_t>(s);
        std::memcpy(state.rows.data() + at * row_bytes, row_at(s, 0), row_bytes);
        std::copy_n(scales_.begin() + s * scales_per_row_, scales_per_row_, state.scales.begin() + s * scales_per_row_);
        state.row_scale[at] = row_scale_[at];
        for (int64_t b = 0; b < block_count(); ++b) {
            const Block& block = blocks_[static_cast<std::size_t>(b)];
            std::copy_n(gram_column(block, t), length_ - t, state.gram.begin() + b * square + s * ring_);
            if (shift_ != 0) std::copy_n(factor_column(block, t), length_ - t, state.factor.begin() + b * square + s * ring_);
        }
    }
    state.residual = residual_;
    state.length = length_;
    state.head = head_;
    state.lambda = lambda_;
    state.shift = shift_;
    return state;
}

void Window::load(State&& state, Damping damping) {
    check_damping("load_state_dict", damping);
    const auto same = [](const char* what, std::size_t got, std::size_t expected) {
        if (got == expected) return;
        throw std::invalid_argument("load_state_dict: " + std::string(what) + " has " + std::to_string(got) +
                                    " entries, this window's has " + std::to_string(expected));
    };
    const std::size_t bytes = static_cast<std::size_t>(ring_ * dim_ * stored_size(type_));
    const auto core = static_cast<std::size_t>(block_count() * ring_ * ring_);
    same("rows (in bytes)", state.rows.size(), bytes);
    same("scales", state.scales.size(), scales_.size());
    same("row_scale", state.row_scale.size(), row_scale_.size());
    same("residual", state.residual.size(), residual_.size());
    same("gram", state.gram.size(), core);
    same("factor", state.factor.size(), core);
    check_state(state, capacity_);
    std::memcpy(rows_.get(), state.rows.data(), bytes);
    scales_ = std::move(state.scales);
    row_scale_ = std::move(state.row_scale);
    residual_ = std::move(state.residual);
    for (int64_t b = 0; b < block_count(); ++b) {
        const Block& block = blocks_[static_cast<std::size_t>(b)];
        std::copy_n(state.gram.begin() + b * ring_ * ring_, ring_ * ring_, block.gram);
        std::copy_n(state.factor.begin() + b * ring_ * ring_, ring_ * ring_, block.factor);
    }
    length_ = state.length;
    head_ = state.head;
    lambda_ = state.lambda;
    shift_ = state.shift;
    damping_ = damping;
}

}  // namespace raphson
