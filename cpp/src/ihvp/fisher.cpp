// Static inverse Fisher products: one Gram matrix and factor a block, then passes over the gradients where they lie.
#include "ihvp/fisher.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "common/threads.h"
#include "common/workspace.h"
#include "ihvp/columns.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t few = 8;           // right-hand sides that are streamed one by one
constexpr int64_t narrow_tile = 512;  // columns whose L⁻¹G stays in cache

Rows rows_of(const RowMatrix& a, int64_t first) {
    return {stored_of(a.dtype), static_cast<const char*>(a.data) + first * itemsize(a.dtype), a.stride, nullptr, 0, a.rows};
}

const void* at(const RowMatrix& a, int64_t row, int64_t column) {
    return static_cast<const char*>(a.data) + (row * a.stride + column) * itemsize(a.dtype);
}

}  // namespace

RowMatrix Fisher::columns(int64_t block) const {
    RowMatrix part = gradients_;
    part.data = at(gradients_, 0, block * width_);
    part.cols = std::min(width_, gradients_.cols - block * width_);
    return part;
}

const double* Fisher::factor(int64_t block) const { return factors_.data() + block * count() * count(); }

Fisher::Fisher(const RowMatrix& gradients, double damping, int64_t block_size)
    : gradients_(gradients), damping_(damping), width_(block_size == 0 ? gradients.cols : std::min(block_size, gradients.cols)) {
    const int64_t m = count();
    const double shift = static_cast<double>(m) * damping_;
    factors_.resize(static_cast<std::size_t>(blocks() * m * m));
    parallel_for(blocks(), [&](int64_t b) {
        double* const k = factors_.data() + b * m * m;
        gram(columns(b), nullptr, k);
        if (cancelled()) return;
        for (int64_t i = 0; i < m; ++i) {
            if (!std::isfinite(k[i * m + i])) return;
            k[i * m + i] += shift;
        }
        cholesky(k, m, m, shift);
    });
    throw_if_cancelled();
    for (int64_t b = 0; b < blocks(); ++b) {  // what is not finite shows in its row's square
        for (int64_t i = 0; i < m; ++i) {
            if (std::isfinite(factor(b)[i * m + i])) continue;
            throw std::invalid_argument("FisherInverse: grads has NaN or Inf, or a row whose square leaves float64");
        }
    }
}

// out (m × width) = L⁻¹G of some columns of a block.
void Fisher::whitened(int64_t block, int64_t first, int64_t width, double* out) const {
    const RowMatrix part = columns(block);
    for (int64_t i = 0; i < count(); ++i) {
        kernels().ihvp.widen(stored_of(part.dtype), at(part, i, first), width, out + i * width);
    }
    solve_lower(factor(block), count(), count(), out, width, width);
}

void Fisher::solve(const RowMatrix& x, DType to, void* out) const {
    const IhvpTable& pass = kernels().ihvp;
    const int64_t m = count();
    Workspace scratch;
    const int64_t most = std::min<int64_t>(x.rows, 256);
    double* const z = scratch.take_array<double>(m * most);
    double* const y = scratch.take_array<double>(m * most);
    for (int64_t begin = 0; begin < x.rows; begin += most) {
        const int64_t here = std::min(most, x.rows - begin);
        for (int64_t b = 0; b < blocks(); ++b) {
            const RowMatrix g = columns(b);
            Workspace inner;
            RowMatrix part = x;
            part.data = at(x, begin, b * width_);
            part.rows = here;
            part.cols = g.cols;
            const Tiles tiles(g.cols);
            if (here < few) {
                double* const partials = inner.take_array<double>(tiles.tasks * here * m);
                parallel_for(tiles.tasks, [&](int64_t task) {
                    Workspace room;
                    double* const wide = room.take_array<double>(tile);
                    double* const sums = partials + task * here * m;
                    std::fill_n(sums, here * m, 0.0);
                    for (int64_t i = tiles.begin(task); i < tiles.end(task); ++i) {
                        const int64_t first = i * tile, width = std::min(tile, g.cols - first);
                        for (int64_t r = 0; r < here; ++r) {
                            pass.widen(stored_of(part.dtype), at(part, r, first), width, wide);
                            pass.products(rows_of(g, first), width, wide, sums + r * m);
                        }
                    }
                });
                for (int64_t r = 0; r < here; ++r) {
                    for (int64_t j = 0; j < m; ++j) {
                        double sum = 0;
                        for (int64_t task = 0; task < tiles.tasks; ++task) sum += partials[(task * here + r) * m + j];
                        z[j * here + r] = sum;
                    }
                }
            } else {
                cross(g, part, z);
            }
            throw_if_cancelled();
            solve_lower(factor(b), m, m, z, here, here);
            solve_lower_transposed(factor(b), m, m, z, here, here);
            for (int64_t r = 0; r < here; ++r) {
                for (int64_t j = 0; j < m; ++j) y[r * m + j] = -z[j * here + r];
            }
            parallel_for(tiles.count, [&](int64_t reversed) {
                const int64_t first = (tiles.count - 1 - reversed) * tile, width = std::min(tile, g.cols - first);
                Workspace room;
                double* const sum = room.take_array<double>(tile);
                double* const wide = room.take_array<double>(tile);
                for (int64_t r = 0; r < here; ++r) {
                    pass.combine(rows_of(g, first), width, y + r * m, sum);
                    pass.widen(stored_of(part.dtype), at(part, r, first), width, wide);
                    for (int64_t k = 0; k < width; ++k) sum[k] = (sum[k] + wide[k]) / damping_;
                    pass.narrow(stored_of(to), sum, width,
                                static_cast<char*>(out) + ((begin + r) * dim() + b * width_ + first) * itemsize(to));
                }
            });
            throw_if_cancelled();
        }
    }
}

void Fisher::diagonal(double* out) const {
    const int64_t m = count();
    for (int64_t b = 0; b < blocks(); ++b) {
        const int64_t cols = columns(b).cols;
        parallel_for((cols + narrow_tile - 1) / narrow_tile, [&](int64_t task) {
            const int64_t first = task * narrow_tile, width = std::min(narrow_tile, cols - first);
            Workspace room;
            double* const v = room.take_array<double>(m * width);
            whitened(b, first, width, v);
            double* const to = out + b * width_ + first;
            std::fill_n(to, width, 0.0);
            for (int64_t i = 0; i < m; ++i) {
                for (int64_t k = 0; k < width; ++k) to[k] += v[i * width + k] * v[i * width + k];
            }
            for (int64_t k = 0; k < width; ++k) to[k] = (1 - to[k]) / damping_;
        });
        throw_if_cancelled();
    }
}

void Fisher::scores(const double* w, int64_t group, double* scores, double* multipliers) const {
    const DenseTable& dense = kernels().dense;
    const int64_t m = count(), tile_columns = std::max(group, narrow_tile / group * group);
    for (int64_t b = 0; b < blocks(); ++b) {
        const int64_t cols = columns(b).cols;
        parallel_for((cols + tile_columns - 1) / tile_columns, [&](int64_t task) {
            const int64_t first = task * tile_columns, width = std::min(tile_columns, cols - first);
            Workspace room;
            double* const v = room.take_array<double>(m * width);
            double* const inverse = room.take_array<double>(group * group);
            whitened(b, first, width, v);
            for (int64_t q = 0; q < width; q += group) {
                for (int64_t i = 0; i < group; ++i) {
                    for (int64_t j = 0; j <= i; ++j) {
                        double sum = 0;
                        for (int64_t r = 0; r < m; ++r) sum += v[r * width + q + i] * v[r * width + q + j];
                        inverse[i * group + j] = ((i == j ? 1 : 0) - sum) / damping_;
                    }
                }
                // F ≤ (λ + ‖G‖²/m)I, so its inverse is at least 1/(λ + trace/m); rounding aside it is never singular.
                dense.factor_block(inverse, group, group, 1e-300);
                const int64_t column = b * width_ + first + q;
                double* const u = multipliers + column;
                std::copy_n(w + column, group, u);
                dense.solve_columns(inverse, group, group, false, u, 1, 1);
                dense.solve_columns(inverse, group, group, true, u, 1, 1);
                double score = 0;
                for (int64_t i = 0; i < group; ++i) score += 0.5 * w[column + i] * u[i];
                scores[column / group] = score;
            }
        });
        throw_if_cancelled();
    }
}

void Fisher::submatrix(const int64_t* rows, int64_t row_count, const int64_t* cols, int64_t col_count, double* out) const {
    const int64_t m = count();
    const auto gather = [&](const int64_t* indices, int64_t number, int64_t block, double* v) {  // L⁻¹G, (m × number)
        for (int64_t j = 0; j < number; ++j) {
            const bool here = indices[j] / width_ == block;
            for (int64_t i = 0; i < m; ++i) {
                v[i * number + j] = 0;
                if (here) kernels().ihvp.widen(stored_of(gradients_.dtype), at(gradients_, i, indices[j]), 1, v + i * number + j);
            }
        }
        solve_lower(factor(block), m, m, v, number, number);
    };
    Workspace scratch;
    double* const left = scratch.take_array<double>(m * row_count);
    double* const right = scratch.take_array<double>(m * col_count);
    double* const turned = scratch.take_array<double>(m * row_count);
    for (int64_t i = 0; i < row_count; ++i) {
        for (int64_t j = 0; j < col_count; ++j) out[i * col_count + j] = rows[i] == cols[j] ? 1 / damping_ : 0;
    }
    for (int64_t b = 0; b < blocks(); ++b) {
        const auto touches = [&](const int64_t* first, int64_t number) {
            return std::any_of(first, first + number, [&](int64_t k) { return k / width_ == b; });
        };
        if (!touches(rows, row_count) || !touches(cols, col_count)) continue;
        gather(rows, row_count, b, left);
        gather(cols, col_count, b, right);
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t r = 0; r < row_count; ++r) turned[r * m + i] = left[i * row_count + r];
        }
        kernels().gemm.f64.product(row_count, col_count, m, -1 / damping_, turned, m, right, col_count, 1.0, out, col_count,
                                   out, col_count);
        throw_if_cancelled();
    }
}

double Fisher::logdet() const {
    const int64_t m = count();
    const double log_shift = std::log(static_cast<double>(m) * damping_);
    double sum = 0;
    for (int64_t b = 0; b < blocks(); ++b) {
        for (int64_t i = 0; i < m; ++i) sum += 2 * std::log(factor(b)[i * m + i]) - log_shift;
    }
    return sum + static_cast<double>(dim()) * std::log(damping_);
}

void Fisher::remove(const double* w, const std::uint8_t* kept, double* change) const {
    const IhvpTable& pass = kernels().ihvp;
    const int64_t m = count();
    const double shift = static_cast<double>(m) * damping_;
    Workspace scratch;
    double* const k = scratch.take_array<double>(m * m);
    double* const y = scratch.take_array<double>(m);
    double* const removed = scratch.take_array<double>(dim());
    for (int64_t i = 0; i < dim(); ++i) removed[i] = kept[i] != 0 ? 0 : w[i];
    for (int64_t b = 0; b < blocks(); ++b) {
        const RowMatrix g = columns(b);
        const int64_t start = b * width_;
        gram(g, kept + start, k);
        for (int64_t i = 0; i < m; ++i) k[i * m + i] += shift;
        cholesky(k, m, m, shift);
        cross(g, {removed + start, DType::float64, 1, g.cols, g.cols}, y);
        throw_if_cancelled();
        solve_lower(k, m, m, y, 1, 1);
        solve_lower_transposed(k, m, m, y, 1, 1);
        const Tiles tiles(g.cols);
        parallel_for(tiles.count, [&](int64_t i) {
            const int64_t first = i * tile, width = std::min(tile, g.cols - first);
            double* const to = change + start + first;
            pass.combine(rows_of(g, first), width, y, to);
            for (int64_t c = 0; c < width; ++c) {
                if (kept[start + first + c] == 0) to[c] = -w[start + first + c];
            }
        });
        throw_if_cancelled();
    }
}

double Fisher::energy(const double* change) const {
    const int64_t m = count();
    Workspace scratch;
    double* const y = scratch.take_array<double>(m);
    double total = 0;
    for (int64_t b = 0; b < blocks(); ++b) {
        const RowMatrix g = columns(b);
        cross(g, {change + b * width_, DType::float64, 1, g.cols, g.cols}, y);
        for (int64_t j = 0; j < m; ++j) total += 0.5 * y[j] * y[j] / static_cast<double>(m);
    }
    for (int64_t i = 0; i < dim(); ++i) total += 0.5 * damping_ * change[i] * change[i];
    return total;
}

}  // namespace raphson
