// Dense products of long rows in float64: tiles are widened into memory that the caches keep, then multiplied.
#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "common/workspace.h"
#include "ihvp/columns.h"
#include "ihvp/fisher.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t tile_numbers = int64_t{1} << 20;  // 8 MiB of float64: most of it stays in the third-level cache

int64_t tile_width(int64_t rows, int64_t cols) {
    const int64_t width = std::max<int64_t>(256, tile_numbers / std::max<int64_t>(rows, 1) / 64 * 64);
    return std::min(width, cols);
}

// Columns first … first+width-1, row major and contiguous in float64.
void widen_rows(const RowMatrix& a, int64_t first, int64_t width, const std::uint8_t* kept, double* out) {
    const int64_t size = itemsize(a.dtype);
    parallel_for(a.rows, [&](int64_t i) {
        const char* row = static_cast<const char*>(a.data) + (i * a.stride + first) * size;
        kernels().ihvp.widen(stored_of(a.dtype), row, width, out + i * width);
        for (int64_t k = 0; kept != nullptr && k < width; ++k) {
            if (kept[first + k] == 0) out[i * width + k] = 0;
        }
    });
}

constexpr int64_t few_rows_to_widen = 512;  // up to so many go strip by strip; beyond, packed products win
constexpr int64_t direct_width = 1024;  // columns at a time, so that their packed copy stays in the caches
constexpr int64_t narrow_width = int64_t{1} << 18;   // where they are packed block by block: as many as Ctrl-C can wait for
constexpr int64_t strip_numbers = int64_t{1} << 16;  // 512 KiB of float64: half of a second-level cache
constexpr int64_t most_parts = 16;

// Every task widens and sums over columns of its own; the sums are added in order.
void gram_of_few(const RowMatrix& a, const std::uint8_t* kept, double* out) {
    const IhvpTable& pass = kernels().ihvp;
    const int64_t m = a.rows, size = itemsize(a.dtype), padded = (m + narrow_unit - 1) / narrow_unit * narrow_unit;
    const int64_t width = std::min(a.cols, std::max<int64_t>(256, strip_numbers / m / 64 * 64));
    const int64_t strips = (a.cols + width - 1) / width, tasks = std::min(strips, most_parts);
    const int64_t ld = width + 8;  // rows a whole number of pages apart would fight for the same cache lines
    Workspace scratch;
    double* const parts = scratch.take_array<double>(tasks * padded * padded);
    parallel_for(tasks, [&](int64_t task) {
        Workspace room;
        double* const wide = room.take_array<double>(m * ld);
        double* const part = parts + task * padded * padded;
        std::fill_n(part, padded * padded, 0.0);
        for (int64_t s = strips * task / tasks; s < strips * (task + 1) / tasks; ++s) {
            const int64_t first = s * width, here = std::min(width, a.cols - first);
            for (int64_t i = 0; i < m; ++i) {
                double* const row = wide + i * ld;
                pass.widen(stored_of(a.dtype), static_cast<const char*>(a.data) + (i * a.stride + first) * size, here, row);
                for (int64_t k = 0; kept != nullptr && k < here; ++k) {
                    if (kept[first + k] == 0) row[k] = 0;
                }
            }
            kernels().gemm.narrow_gram(m, here, wide, ld, part, padded);
            if (poll_cancelled()) return;
        }
    });
    throw_if_cancelled();
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
            double sum = 0;
            for (int64_t task = 0; task < tasks; ++task) sum += parts[(task * padded + i) * padded + j];
            out[i * m + j] = out[j * m + i] = sum;
        }
    }
}

}  // namespace

// float32 and float64 are multiplied as they lie, everything else widened first.
void gram(const RowMatrix& a, const std::uint8_t* kept, double* out) {
    const auto& gemm = kernels().gemm;
    const int64_t m = a.rows;
    const bool direct = kept == nullptr && (a.dtype == DType::float64 || a.dtype == DType::float32);
    if (!direct && m <= few_rows_to_widen && a.cols > 0) return gram_of_few(a, kept, out);
    const int64_t width = !direct ? tile_width(m, a.cols) : m <= narrow_size ? narrow_width : direct_width;
    Workspace scratch;
    double* const wide = direct ? nullptr : scratch.take_array<double>(m * width);
    std::fill_n(out, m * m, 0.0);
    for (int64_t first = 0; first < a.cols; first += width) {
        const int64_t here = std::min(width, a.cols - first);
        if (!direct) {
            widen_rows(a, first, here, kept, wide);
            gemm.gram_onto(m, here, 1.0, wide, here, 1.0, out, m);
        } else if (a.dtype == DType::float64) {
            gemm.gram_onto(m, here, 1.0, static_cast<const double*>(a.data) + first, a.stride, 1.0, out, m);
        } else {
            gemm.gram_widened_onto(m, here, 1.0, static_cast<const float*>(a.data) + first, a.stride, 1.0, out, m);
        }
        throw_if_cancelled();
    }
}

void cross(const RowMatrix& a, const RowMatrix& b, double* out) {
    const auto& gemm = kernels().gemm.f64;
    const int64_t width = tile_width(a.rows + 2 * b.rows, a.cols);
    Workspace scratch;
    double* const left = scratch.take_array<double>(a.rows * width);
    double* const right = scratch.take_array<double>(b.rows * width);
    double* const turned = scratch.take_array<double>(b.rows * width);
    std::fill_n(out, a.rows * b.rows, 0.0);
    for (int64_t first = 0; first < a.cols; first += width) {
        const int64_t here = std::min(width, a.cols - first);
        widen_rows(a, first, here, nullptr, left);
        widen_rows(b, first, here, nullptr, right);
        constexpr int64_t strip = 16;  // of the transposition: whole cache lines on both sides
        parallel_for((here + strip - 1) / strip, [&](int64_t s) {
            const int64_t end = std::min(here, (s + 1) * strip);
            for (int64_t j = 0; j < b.rows; ++j) {
                for (int64_t k = s * strip; k < end; ++k) turned[k * b.rows + j] = right[j * here + k];
            }
        });
        gemm.product(a.rows, b.rows, here, 1.0, left, here, turned, b.rows, 1.0, out, b.rows, out, b.rows);
        throw_if_cancelled();
    }
}

void combine_rows(const RowMatrix& a, const double* coefficients, DType to, void* out) {
    const IhvpTable& pass = kernels().ihvp;
    const Tiles tiles(a.cols);
    parallel_for(tiles.count, [&](int64_t i) {
        const int64_t first = i * tile, width = std::min(tile, a.cols - first);
        Workspace room;
        double* const sum = room.take_array<double>(tile);
        const char* data = static_cast<const char*>(a.data) + first * itemsize(a.dtype);
        pass.combine({stored_of(a.dtype), data, a.stride, nullptr, 0, a.rows}, width, coefficients, sum);
        pass.narrow(stored_of(to), sum, width, static_cast<char*>(out) + first * itemsize(to));
    });
}

double rank_one_inverse(const RowMatrix& inverse, const double* v, double alpha, double beta, double weight, void* out) {
    const IhvpTable& pass = kernels().ihvp;
    const int64_t n = inverse.rows, size = itemsize(inverse.dtype);
    const auto rows_at = [&](int64_t row, int64_t column, int64_t count) {
        const char* data = static_cast<const char*>(inverse.data) + (row * inverse.stride + column) * size;
        return Rows{stored_of(inverse.dtype), data, inverse.stride, nullptr, 0, count};
    };
    Workspace scratch;
    double* const p = scratch.take_array<double>(n);
    double* const q = scratch.take_array<double>(n);
    constexpr int64_t strip = 64;  // rows of a task
    parallel_for((n + strip - 1) / strip, [&](int64_t task) {
        const int64_t first = task * strip, count = std::min(strip, n - first);
        std::fill_n(p + first, count, 0.0);
        pass.products(rows_at(first, 0, count), n, v, p + first);
    });
    parallel_for((n + strip - 1) / strip, [&](int64_t task) {
        const int64_t first = task * strip;
        pass.combine(rows_at(0, first, n), std::min(strip, n - first), v, q + first);
    });
    throw_if_cancelled();
    double gain = 0;
    for (int64_t i = 0; i < n; ++i) {
        p[i] = alpha * p[i] + beta * v[i];
        q[i] = alpha * q[i] + beta * v[i];
        gain += v[i] * p[i];
    }
    const double divisor = 1 + weight * gain;
    if (!(divisor > 0) || !std::isfinite(divisor)) return divisor;
    const double sigma = weight / divisor;
    const PollPause pause;
    parallel_for(n, [&](int64_t i) {
        Workspace room;
        double* const row = room.take_array<double>(n);
        pass.widen(stored_of(inverse.dtype), rows_at(i, 0, 1).data, n, row);
        const double left = sigma * p[i];
        for (int64_t j = 0; j < n; ++j) row[j] = alpha * row[j] - left * q[j];
        row[i] += beta;
        pass.narrow(stored_of(inverse.dtype), row, n, static_cast<char*>(out) + i * n * size);
    });
    return divisor;
}

}  // namespace raphson
