#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/threads.h"
#include "common/workspace.h"
#include "raphson/sketch.h"
#include "sketch/streams.h"
#include "table.h"

namespace raphson {
namespace {

constexpr std::int64_t rows_at_a_time = 1 << 18;          // whose places are kept at once
constexpr std::int64_t place_chunk = 4096;
constexpr std::int64_t cache_bytes = 768 << 10;  // of sums
constexpr std::int64_t narrowest_tile = 64, fewest_tasks = 4;

template <class T>
void check_shape(const char* name, const TensorView<T>& view, std::int64_t n, const char* what) {
    if (view.ndim != 2 || view.shape[0] != n) {
        throw std::invalid_argument(std::string("SparseSign: ") + name + " must have " + std::to_string(n) + " rows (" + what +
                                    "), got " + std::to_string(view.ndim == 2 ? view.shape[0] : -1));
    }
    if (view.shape[1] > 1 && view.strides[1] != 1) {
        throw std::invalid_argument(std::string("SparseSign: ") + name + " must be contiguous along its columns");
    }
}

}  // namespace

SparseSign::SparseSign(std::int64_t rows, std::int64_t cols, int nnz, std::uint64_t seed)
    : rows_(rows), cols_(cols), nnz_(nnz), seed_(seed) {
    if (rows < 1 || rows >= (std::int64_t(1) << 31)) {
        throw std::invalid_argument("SparseSign: rows must be at least 1 and below 2**31, got " + std::to_string(rows));
    }
    if (cols < 0) throw std::invalid_argument("SparseSign: cols must not be negative, got " + std::to_string(cols));
    if (nnz < 1 || nnz > rows) {
        throw std::invalid_argument("SparseSign: nnz must be from 1 to rows (" + std::to_string(rows) + "), got " + std::to_string(nnz));
    }
}

void SparseSign::places(std::int64_t first, std::int64_t n, std::uint32_t* place) const {
    parallel_for((n + place_chunk - 1) / place_chunk, [&](std::int64_t task) {
        const std::int64_t begin = task * place_chunk, count = std::min(place_chunk, n - begin);
        kernels().sketch.places(seed_, sparse_sign_stream, first + begin, count, rows_, nnz_, place + begin * nnz_);
    });
    throw_if_cancelled();
}

template <class T>
void SparseSign::add(TensorView<const T> a, std::int64_t first, const double* weights, double* out) const {
    if (a.ndim != 2 || first < 0 || first + a.shape[0] > cols_) {
        throw std::invalid_argument("SparseSign: rows " + std::to_string(first) + " to " +
                                    std::to_string(first + (a.ndim == 2 ? a.shape[0] : 0)) + " lie beyond its " +
                                    std::to_string(cols_) + " columns");
    }
    check_shape("a", a, a.shape[0], "one a column of S");
    const std::int64_t n = a.shape[0], d = a.shape[1];
    std::vector<std::uint32_t> place(static_cast<std::size_t>(std::min(n, rows_at_a_time) * nnz_));
    for (std::int64_t begin = 0; begin < n; begin += rows_at_a_time) {
        const std::int64_t count = std::min(rows_at_a_time, n - begin);
        const double* const w = weights != nullptr ? weights + begin : nullptr;
        TensorView<const T> part(a.data + begin * a.strides[0], {count, d}, {a.strides[0], 1});
        places(first + begin, count, place.data());
        if (nnz_ == 1) {
            add_by_rows(part, place.data(), w, out);
        } else {
            add_by_tiles(part, place.data(), w, out);
        }
        throw_if_cancelled();
    }
}

// Tiles of columns whose sums stay in cache; where there are few, the rows are shared out as well, and the sums added up
// in the order of the rows.
template <class T>
void SparseSign::add_by_tiles(TensorView<const T> a, const std::uint32_t* place, const double* weights, double* out) const {
    const std::int64_t n = a.shape[0], d = a.shape[1];
    const std::int64_t width = std::min(d, std::max(narrowest_tile, cache_bytes / (8 * rows_) / narrowest_tile * narrowest_tile));
    if (d == 0) return;
    const std::int64_t tiles = (d + width - 1) / width;
    const std::int64_t parts = std::max<std::int64_t>(1, std::min((fewest_tasks + tiles - 1) / tiles, n / (4 * rows_)));
    const std::int64_t rows = (n + parts - 1) / parts;
    const std::int64_t stride = (width + 7) / 8 * 8, size = rows_ * stride;  // whole cache lines
    Workspace shared;
    double* const sums = shared.take_array<double>(parts > 1 ? parts * tiles * size : 0);
    const auto add_tile = [&](const double* from, std::int64_t column, std::int64_t columns) {
        for (std::int64_t r = 0; r < rows_; ++r) {
            for (std::int64_t j = 0; j < columns; ++j) out[r * d + column + j] += from[r * stride + j];
        }
    };
    parallel_for(tiles * parts, [&](std::int64_t task) {
        const std::int64_t tile = task % tiles, part = task / tiles;
        const std::int64_t column = tile * width, columns = std::min(width, d - column), from = std::min(part * rows, n);
        Workspace scratch;
        double* const target = parts > 1 ? sums + task * size : scratch.take_array<double>(size);
        std::fill(target, target + size, 0.0);
        const ScatterTile work{dtype_of<T>(), a.data + from * a.strides[0] + column, a.strides[0], std::min(rows, n - from), columns,
                               place + from * nnz_, nnz_, weights != nullptr ? weights + from : nullptr,
                               1 / std::sqrt(static_cast<double>(nnz_)), target, stride};
        kernels().sketch.scatter(work);
        if (parts == 1) add_tile(target, column, columns);
    });
    if (cancelled() || parts == 1) return;
    for (std::int64_t task = 0; task < tiles * parts; ++task) {
        const std::int64_t column = task % tiles * width;
        add_tile(sums + task * size, column, std::min(width, d - column));
    }
}

// One entry a column and a sketch beyond the cache: rows of A are fetched by where they go, so that sums stay in the
// first-level cache and A is still read once.
template <class T>
void SparseSign::add_by_rows(TensorView<const T> a, const std::uint32_t* place, const double* weights, double* out) const {
    const std::int64_t n = a.shape[0], d = a.shape[1];
    std::vector<std::int64_t> end(static_cast<std::size_t>(rows_ + 1), 0), row(static_cast<std::size_t>(n));
    std::vector<double> factor(row.size());
    for (std::int64_t i = 0; i < n; ++i) ++end[(place[i] >> 1) + 1];
    for (std::int64_t r = 0; r < rows_; ++r) end[r + 1] += end[r];
    std::vector<std::int64_t> at(end.begin(), end.end() - 1);
    for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t to = at[place[i] >> 1]++;
        row[to] = i;
        factor[to] = ((place[i] & 1u) != 0 ? -1.0 : 1.0) * (weights != nullptr ? weights[i] : 1.0);
    }
    const std::int64_t tasks = std::min<std::int64_t>(64, rows_), each = (rows_ + tasks - 1) / tasks;
    parallel_for(tasks, [&](std::int64_t task) {
        for (std::int64_t r = task * each; r < std::min(rows_, (task + 1) * each) && !poll_cancelled(); ++r) {
            kernels().sketch.add_rows({dtype_of<T>(), a.data, a.strides[0], d, row.data() + end[r], factor.data() + end[r],
                                       end[r + 1] - end[r], out + r * d});
        }
    });
}

template <class T>
void SparseSign::adjoint(TensorView<const T> b, std::int64_t first, TensorView<T> out) const {
    check_shape("b", b, rows_, "as many as S");
    check_shape("out", out, out.ndim == 2 ? out.shape[0] : 0, "");
    if (out.shape[1] != b.shape[1]) throw std::invalid_argument("SparseSign: out must have as many columns as b");
    if (first < 0 || first + out.shape[0] > cols_) throw std::invalid_argument("SparseSign: out has more rows than S has columns");
    const std::int64_t n = out.shape[0];
    parallel_for((n + place_chunk - 1) / place_chunk, [&](std::int64_t task) {
        const std::int64_t begin = task * place_chunk, count = std::min(place_chunk, n - begin);
        std::vector<std::uint32_t> place(static_cast<std::size_t>(count * nnz_));
        places(first + begin, count, place.data());
        const GatherTile work{dtype_of<T>(), b.data, b.strides[0], count, b.shape[1], place.data(), nnz_,
                              1 / std::sqrt(static_cast<double>(nnz_)), out.data + begin * out.strides[0], out.strides[0]};
        kernels().sketch.gather(work);
    });
    throw_if_cancelled();
}

void SparseSign::entries(std::int64_t first, std::int64_t n, std::int32_t* row, std::int8_t* sign) const {
    if (first < 0 || n < 0 || first + n > cols_) throw std::invalid_argument("SparseSign: entries beyond its columns");
    std::vector<std::uint32_t> place(static_cast<std::size_t>(n * nnz_));
    places(first, n, place.data());
    for (std::size_t k = 0; k < place.size(); ++k) {
        row[k] = static_cast<std::int32_t>(place[k] >> 1);
        sign[k] = (place[k] & 1u) != 0 ? -1 : 1;
    }
}

template void SparseSign::add<double>(TensorView<const double>, std::int64_t, const double*, double*) const;
template void SparseSign::add<float>(TensorView<const float>, std::int64_t, const double*, double*) const;
template void SparseSign::adjoint<double>(TensorView<const double>, std::int64_t, TensorView<double>) const;
template void SparseSign::adjoint<float>(TensorView<const float>, std::int64_t, TensorView<float>) const;

}  // namespace raphson
