#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/philox.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "raphson/sketch.h"
#include "sketch/streams.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t columns_at_once = 256;  // of a Gaussian, in cache while they are multiplied
constexpr int64_t rows_a_task = 256;
constexpr int64_t signs_a_task = 1 << 16, fewest_tasks = 4;

template <class T>
void check(const char* name, int64_t cols, const TensorView<T>& a, int64_t first) {
    if (a.ndim != 2 || first < 0 || first + a.shape[0] > cols) {
        throw std::invalid_argument(std::string(name) + ": the rows lie beyond its " + std::to_string(cols) + " columns");
    }
    if (a.shape[1] > 1 && a.strides[1] != 1) throw std::invalid_argument(std::string(name) + ": a must be contiguous along its columns");
}

void check_sizes(const char* name, int64_t rows, int64_t cols) {
    if (rows < 1 || rows >= (int64_t(1) << 31)) {
        throw std::invalid_argument(std::string(name) + ": rows must be at least 1 and below 2**31, got " + std::to_string(rows));
    }
    if (cols < 0) throw std::invalid_argument(std::string(name) + ": cols must not be negative, got " + std::to_string(cols));
}

}  // namespace

Gaussian::Gaussian(int64_t rows, int64_t cols, std::uint64_t seed) : rows_(rows), cols_(cols), seed_(seed) { check_sizes("Gaussian", rows, cols); }

void Gaussian::entries(int64_t first, int64_t n, double* out, int64_t ld) const {
    const double scale = 1 / std::sqrt(static_cast<double>(rows_));
    kernels().dense_sketch.normals(seed_, gaussian_stream, first, n, rows_, scale, out, ld);
}

template <class T>
void Gaussian::add(TensorView<const T> a, int64_t first, const double* weights, double* out) const {
    check("Gaussian", cols_, a, first);
    const int64_t n = a.shape[0], d = a.shape[1];
    Workspace scratch;
    double* const s = scratch.take_array<double>(rows_ * columns_at_once);
    double* const block = scratch.take_array<double>(columns_at_once * d);
    const double scale = 1 / std::sqrt(static_cast<double>(rows_));
    for (int64_t begin = 0; begin < n; begin += columns_at_once) {
        const int64_t count = std::min(columns_at_once, n - begin), tasks = (rows_ + rows_a_task - 1) / rows_a_task;
        constexpr int64_t slice = 64;  // columns of S that a task makes
        parallel_for((count + slice - 1) / slice, [&](int64_t task) {
            const int64_t from = task * slice, width = std::min(slice, count - from);
            kernels().dense_sketch.normals(seed_, gaussian_stream, first + begin + from, width, rows_, scale, s + from, columns_at_once);
            for (int64_t i = from; i < from + width; ++i) {
                const T* const row = a.data + (begin + i) * a.strides[0];
                const double weight = weights != nullptr ? weights[begin + i] : 1.0;
                for (int64_t j = 0; j < d; ++j) block[i * d + j] = weight * static_cast<double>(row[j]);
            }
        });
        throw_if_cancelled();
        parallel_for(tasks, [&](int64_t task) {
            const int64_t row = task * rows_a_task, height = std::min(rows_a_task, rows_ - row);
            double* const to = out + row * d;
            kernels().gemm.f64.product(height, d, count, 1.0, s + row * columns_at_once, columns_at_once, block, d, 1.0, to, d, to, d);
        });
        throw_if_cancelled();
    }
}

SRHT::SRHT(int64_t rows, int64_t cols, std::uint64_t seed) : rows_(rows), cols_(cols), seed_(seed) {
    check_sizes("SRHT", rows, cols);
    while (padded_ < cols) padded_ *= 2;
    if (rows > padded_) {
        throw std::invalid_argument("SRHT: rows must be at most " + std::to_string(padded_) + ", cols rounded up to a power of two, got " +
                                    std::to_string(rows));
    }
    // The first `rows` places of a shuffle of 0 … N-1 (Fisher and Yates); only places that moved are held.
    const PhiloxKey key = PhiloxKey::from_seed(seed);
    std::unordered_map<int64_t, int64_t> moved;
    picked_.resize(static_cast<std::size_t>(rows));
    for (int64_t r = 0; r < rows; ++r) {
        const PhiloxBlock block = philox_at(static_cast<std::uint64_t>(r), 0, srht_row_stream, key);
        const auto left = static_cast<double>(padded_ - r);
        const int64_t other = r + std::min(static_cast<int64_t>(philox_uniform(block[0], block[1]) * left), padded_ - r - 1);
        const auto value = [&](int64_t at) {
            const auto found = moved.find(at);
            return found == moved.end() ? at : found->second;
        };
        picked_[static_cast<std::size_t>(r)] = value(other);
        moved[other] = value(r);
    }
    chunk_ = 1;
    while (chunk_ < padded_ && chunk_ < 2 * rows && chunk_ < 4096) chunk_ *= 2;
}

void SRHT::signs(int64_t first, int64_t n, double* out) const {
    const PhiloxKey key = PhiloxKey::from_seed(seed_);
    PhiloxBlock block{};
    for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::uint64_t>(first + i);
        if (i == 0 || (at & 127) == 0) block = philox_at(at >> 7, 0, srht_sign_stream, key);  // 128 signs a block
        out[i] = (block[at >> 5 & 3] >> (at & 31) & 1) != 0 ? -1.0 : 1.0;
    }
}

namespace {

bool odd_parity(std::uint64_t x) {
    x ^= x >> 32;
    x ^= x >> 16;
    x ^= x >> 8;
    x ^= x >> 4;
    return (0x6996 >> (x & 15) & 1) != 0;
}

}  // namespace

// H of a long vector is H of its chunks, added with the signs of the row's high bits: one read of A, nothing kept. Where
// groups of columns are few the chunks are shared out as well, and the parts' sums added in order.
template <class T>
void SRHT::add(TensorView<const T> a, int64_t first, const double* weights, double* out) const {
    check("SRHT", cols_, a, first);
    const int64_t n = a.shape[0], d = a.shape[1], groups = (d + hadamard_columns - 1) / hadamard_columns;
    if (n == 0 || d == 0) return;
    std::vector<double> factor(static_cast<std::size_t>(n));
    const double scale = 1 / std::sqrt(static_cast<double>(rows_));
    parallel_for((n + signs_a_task - 1) / signs_a_task, [&](int64_t task) {
        const int64_t begin = task * signs_a_task, end = std::min(begin + signs_a_task, n);
        signs(first + begin, end - begin, factor.data() + begin);
        for (int64_t i = begin; i < end; ++i) factor[i] *= weights != nullptr ? scale * weights[i] : scale;
    });
    throw_if_cancelled();
    const int64_t chunks = (first + n - 1) / chunk_ - first / chunk_ + 1, size = rows_ * hadamard_columns;
    const int64_t parts = std::min((fewest_tasks + groups - 1) / groups, chunks);
    Workspace shared;
    double* const sums = shared.take_array<double>(parts > 1 ? groups * parts * size : 0);
    const auto add_group = [&](const double* from, int64_t column) {
        for (int64_t r = 0; r < rows_; ++r) {
            for (int64_t j = 0; j < std::min(hadamard_columns, d - column); ++j) out[r * d + column + j] += from[r * hadamard_columns + j];
        }
    };
    parallel_for(groups * parts, [&](int64_t task) {
        const int64_t part = task % parts, column = task / parts * hadamard_columns, width = std::min(hadamard_columns, d - column);
        Workspace scratch;
        double* const x = scratch.take_array<double>(chunk_ * hadamard_columns);
        double* const own = parts > 1 ? sums + task * size : scratch.take_array<double>(size);
        std::fill_n(own, size, 0.0);
        const int64_t start = first / chunk_ + chunks * part / parts, end = first / chunk_ + chunks * (part + 1) / parts;
        for (int64_t begin = start * chunk_; begin < end * chunk_ && !poll_cancelled(); begin += chunk_) {
            std::fill_n(x, chunk_ * hadamard_columns, 0.0);
            for (int64_t i = std::max(begin, first); i < std::min(begin + chunk_, first + n); ++i) {
                const T* const row = a.data + (i - first) * a.strides[0] + column;
                double* const to = x + (i - begin) * hadamard_columns;
                for (int64_t j = 0; j < width; ++j) to[j] = factor[i - first] * static_cast<double>(row[j]);
            }
            kernels().dense_sketch.hadamard(x, chunk_);
            const auto high = static_cast<std::uint64_t>(begin);
            for (int64_t r = 0; r < rows_; ++r) {
                const double* const from = x + (picked_[r] & (chunk_ - 1)) * hadamard_columns;
                double* const to = own + r * hadamard_columns;
                const double sign = odd_parity(high & static_cast<std::uint64_t>(picked_[r])) ? -1.0 : 1.0;
                for (int64_t j = 0; j < hadamard_columns; ++j) to[j] += sign * from[j];
            }
        }
        if (parts == 1) add_group(own, column);
    });
    throw_if_cancelled();
    for (int64_t task = 0; parts > 1 && task < groups * parts; ++task) add_group(sums + task * size, task / parts * hadamard_columns);
}

void SRHT::entries(int64_t first, int64_t n, double* out, int64_t ld) const {
    std::vector<double> sign(static_cast<std::size_t>(n));
    signs(first, n, sign.data());
    const double scale = 1 / std::sqrt(static_cast<double>(rows_));
    for (int64_t r = 0; r < rows_; ++r) {
        for (int64_t i = 0; i < n; ++i) {
            const bool minus = odd_parity(static_cast<std::uint64_t>(picked_[r]) & static_cast<std::uint64_t>(first + i));
            out[r * ld + i] = minus ? -scale * sign[i] : scale * sign[i];
        }
    }
}

template void Gaussian::add<double>(TensorView<const double>, int64_t, const double*, double*) const;
template void Gaussian::add<float>(TensorView<const float>, int64_t, const double*, double*) const;
template void SRHT::add<double>(TensorView<const double>, int64_t, const double*, double*) const;
template void SRHT::add<float>(TensorView<const float>, int64_t, const double*, double*) const;

}  // namespace raphson
