#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/philox.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "raphson/sketch.h"
#include "table.h"

namespace raphson {
namespace {

constexpr std::uint32_t sparse_sign_stream = 0x53534b31;  // of the generator: this family, entries
constexpr std::int64_t rows_at_a_time = 1 << 18;          // whose places are kept at once
constexpr std::int64_t place_chunk = 4096;
constexpr int per_block = 4;  // numbers in a block of the generator

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
    const PhiloxKey key = PhiloxKey::from_seed(seed_);
    parallel_for((n + place_chunk - 1) / place_chunk, [&](std::int64_t task) {
        const std::int64_t begin = task * place_chunk, end = std::min(begin + place_chunk, n);
        for (std::int64_t i = begin; i < end; ++i) {
            for (int k = 0; k < nnz_; k += per_block) {
                const PhiloxBlock block = philox_at(static_cast<std::uint64_t>(first + i), static_cast<std::uint64_t>(k / per_block),
                                                    sparse_sign_stream, key);
                for (int l = 0; l < per_block && k + l < nnz_; ++l) {
                    const std::int64_t low = rows_ * (k + l) / nnz_, high = rows_ * (k + l + 1) / nnz_;
                    const std::uint64_t number = block[static_cast<std::size_t>(l)];  // 31 bits choose the row, one the sign
                    const auto row = low + static_cast<std::int64_t>((number >> 1) * static_cast<std::uint64_t>(high - low) >> 31);
                    place[i * nnz_ + k + l] = sketch_place(static_cast<std::uint32_t>(row), (number & 1u) != 0);
                }
            }
        }
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
    const std::int64_t n = a.shape[0], d = a.shape[1], tiles = (d + sketch_tile - 1) / sketch_tile;
    std::vector<std::uint32_t> place(static_cast<std::size_t>(std::min(n, rows_at_a_time) * nnz_));
    for (std::int64_t begin = 0; begin < n; begin += rows_at_a_time) {
        const std::int64_t count = std::min(rows_at_a_time, n - begin);
        places(first + begin, count, place.data());
        parallel_for(tiles, [&](std::int64_t tile) {
            Workspace scratch;
            double* sums = scratch.take_array<double>(rows_ * sketch_tile);
            std::fill(sums, sums + rows_ * sketch_tile, 0.0);
            const std::int64_t column = tile * sketch_tile, width = std::min(sketch_tile, d - column);
            const ScatterTile work{dtype_of<T>(), a.data + begin * a.strides[0] + column, a.strides[0], count, width, place.data(), nnz_,
                                   weights != nullptr ? weights + begin : nullptr, 1 / std::sqrt(static_cast<double>(nnz_)), sums};
            kernels().sketch.scatter(work);
            for (std::int64_t r = 0; r < rows_; ++r) {
                for (std::int64_t j = 0; j < width; ++j) out[r * d + column + j] += sums[r * sketch_tile + j];
            }
        });
        throw_if_cancelled();
    }
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
