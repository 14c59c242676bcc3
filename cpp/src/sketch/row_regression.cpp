#include "sketch/row_regression.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/philox.h"
#include "common/vector.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "raphson/rows.h"
#include "sketch/streams.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double epsilon = std::numeric_limits<double>::epsilon();
// Steps are corrections of residuals that were computed as they are, so a normal matrix of condition 1e12 still gives four
// digits of a step, and the fixed point loses none.
constexpr double pivot_floor = 1e-13;
constexpr int64_t sketch_nnz = 4, sketch_rows_a_column = 6, entries_to_sketch = 16, columns_to_sketch = 32;
constexpr int sketch_steps = 60;
constexpr double sketch_accuracy = 1e-12;

}  // namespace

void orthogonal_rows(double* m, double* v, int64_t n, int64_t length) {
    for (int sweep = 0; sweep < 40; ++sweep) {
        bool turned = false;
        for (int64_t p = 0; p < n; ++p) {
            for (int64_t q = p + 1; q < n; ++q) {
                double* const x = m + p * length;
                double* const y = m + q * length;
                const double xx = dot(x, x, length), yy = dot(y, y, length), xy = dot(x, y, length);
                if (std::fabs(xy) <= epsilon * std::sqrt(xx) * std::sqrt(yy) || xy == 0) continue;
                turned = true;
                const double zeta = (yy - xx) / (2 * xy);
                const double t = std::copysign(1.0, zeta) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta));
                const double c = 1 / std::sqrt(1 + t * t), s = c * t;
                const auto turn = [&](double* left, double* right, int64_t count) {
                    for (int64_t i = 0; i < count; ++i) {
                        const double l = left[i], r = right[i];
                        left[i] = c * l - s * r;
                        right[i] = s * l + c * r;
                    }
                };
                turn(x, y, length);
                turn(v + p * n, v + q * n, n);
            }
        }
        if (!turned) return;
    }
}

namespace {

// The stacked matrix [X; √ridge I] and its right-hand side [r; −√ridge u], k columns side by side.
struct Stacked {
    int64_t rows, k;
    double *x, *b;
};

Stacked stack(const RowEntries& row, const RegressionRule& rule, const double* u, Workspace& scratch) {
    const int64_t k = rule.rank, rows = row.count + (rule.ridge > 0 ? k : 0);
    double* const padded = scratch.take_array<double>(row.count * row.ld);
    const Stacked s{rows, k, scratch.take_array<double>(rows * k), scratch.take_array<double>(rows)};
    kernels().completion.gather(row, u, padded, s.b);
    for (int64_t p = 0; p < row.count; ++p) std::copy_n(padded + p * row.ld, k, s.x + p * k);
    if (rule.ridge > 0) {
        const double root = std::sqrt(rule.ridge);
        std::fill_n(s.x + row.count * k, k * k, 0.0);
        for (int64_t j = 0; j < k; ++j) {
            s.x[(row.count + j) * k + j] = root;
            s.b[row.count + j] = -root * u[j];
        }
    }
    return s;
}

// Minimum-norm solution by QR and the singular value decomposition of the triangle.
void orthogonal_step(const RowEntries& row, const RegressionRule& rule, const double* u, double* step) {
    Workspace scratch;
    Stacked s = stack(row, rule, u, scratch);
    const int64_t k = s.k, length = std::min(s.rows, k);
    double* const m = scratch.take_array<double>(k * length);  // row j: column j of the triangle, or of X where it is wide
    double* const v = scratch.take_array<double>(k * k);
    if (s.rows > k) {
        const HouseholderQr qr(s.x, k, s.rows, k);
        qr.apply(true, s.b, 1, 1);
        double* const r = scratch.take_array<double>(k * k);
        qr.upper(r, k);
        transpose(r, k, k, k, m, k);
    } else {
        transpose(s.x, k, s.rows, k, m, length);
    }
    std::fill_n(v, k * k, 0.0);
    for (int64_t j = 0; j < k; ++j) v[j * k + j] = 1;
    orthogonal_rows(m, v, k, length);
    double largest = 0;
    for (int64_t j = 0; j < k; ++j) largest = std::max(largest, dot(m + j * length, m + j * length, length));
    const double cut = epsilon * static_cast<double>(std::max(s.rows, k));
    for (int64_t j = 0; j < k; ++j) {
        const double square = dot(m + j * length, m + j * length, length);
        if (!(square > cut * cut * largest)) continue;
        const double factor = dot(m + j * length, s.b, length) / square;
        for (int64_t i = 0; i < k; ++i) step[i] += factor * v[j * k + i];
    }
}

// Fewer entries than columns, no ridge: the shortest step Xᵀ(XXᵀ)⁻¹ r, by Cholesky's factor.
bool short_step(const RowEntries& row, const RegressionRule& rule, const double* u, double* step) {
    const int64_t n = row.count, ld = row.ld, wide = (n + factor_unit - 1) / factor_unit * factor_unit;
    Workspace scratch;
    double* const x = scratch.take_array<double>(n * ld);
    double* const r = scratch.take_array<double>(wide);
    double* const gram = scratch.take_array<double>(wide * wide);
    std::fill_n(r, wide, 0.0);
    std::fill_n(gram, wide * wide, 0.0);
    kernels().completion.gather(row, u, x, r);
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) {
        kernels().dense.dot_rows(rule.rank, n - i, x + i * ld, ld, x + i * ld, gram + i * wide + i);
        largest = std::max(largest, gram[i * wide + i]);
    }
    if (!kernels().completion.solve(gram, wide, n, 0.0, pivot_floor * largest, r)) return false;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < rule.rank; ++j) step[j] += r[i] * x[i * ld + j];
    }
    return true;
}

// R of a sketch of the stacked matrix (nnz signs in every column, one in each of nnz bands of rows; the ridge's rows as they
// are); false where it lost a column.
bool sketched_triangle(const RowEntries& row, const RegressionRule& rule, std::uint64_t number, const double* x, double* r) {
    const int64_t k = rule.rank, ld = row.ld, band = (sketch_rows_a_column * k + sketch_nnz - 1) / sketch_nnz;
    const int64_t below = rule.ridge > 0 ? k : 0, rows = band * sketch_nnz + below;
    Workspace scratch;
    double* const s = scratch.take_array<double>(rows * k);
    std::fill_n(s, rows * k, 0.0);
    const PhiloxKey key = PhiloxKey::from_seed(rule.seed);
    const double scale = 1 / std::sqrt(static_cast<double>(sketch_nnz));
    for (int64_t p = 0; p < row.count; ++p) {
        const PhiloxBlock draw = philox_at(static_cast<std::uint64_t>(p), number, completion_row_stream, key);
        for (int64_t q = 0; q < sketch_nnz; ++q) {
            const std::uint32_t bits = draw[static_cast<std::size_t>(q)];
            const int64_t to = q * band + static_cast<int64_t>((static_cast<std::uint64_t>(bits >> 1) * static_cast<std::uint64_t>(band)) >> 31);
            const double sign = (bits & 1u) != 0 ? scale : -scale;
            for (int64_t j = 0; j < k; ++j) s[to * k + j] += sign * x[p * ld + j];
        }
    }
    for (int64_t j = 0; j < below; ++j) s[(rows - k + j) * k + j] = std::sqrt(rule.ridge);
    const HouseholderQr qr(s, k, rows, k);
    qr.upper(r, k);
    double largest = 0, smallest = std::numeric_limits<double>::infinity();
    for (int64_t j = 0; j < k; ++j) {
        largest = std::max(largest, std::fabs(r[j * k + j]));
        smallest = std::min(smallest, std::fabs(r[j * k + j]));
    }
    return smallest > epsilon * static_cast<double>(k) * 100 * largest;
}

// Conjugate gradients on (XᵀX + ridge I) step = g in the coordinates R step.
bool sketched_step(const RowEntries& row, const RegressionRule& rule, std::uint64_t number, const double* u, double* step) {
    const int64_t k = rule.rank, ld = row.ld;
    Workspace scratch;
    double* const x = scratch.take_array<double>(row.count * ld);
    double* const t = scratch.take_array<double>(row.count);
    double* const r = scratch.take_array<double>(k * k);
    double* const vectors = scratch.take_array<double>(4 * k + ld);
    double *const y = vectors, *const residual = y + k, *const direction = residual + k, *const product = direction + k, *const p = product + k;
    kernels().completion.gather(row, u, x, t);
    if (!sketched_triangle(row, rule, number, x, r)) return false;
    const DenseTable& dense = kernels().dense;
    const SweepTable& sweep = kernels().sweep;
    RowBlock block;
    block.values = x;
    block.rows = row.count;
    block.cols = k;
    block.stride = ld;
    std::fill_n(residual, k, 0.0);
    sweep.combine(block, t, 1, residual, k);
    for (int64_t j = 0; j < k; ++j) residual[j] -= rule.ridge * u[j];
    dense.solve_triangle(r, k, k, true, true, residual);
    std::copy_n(residual, k, direction);
    std::fill_n(y, k, 0.0);
    double square = dot(residual, residual, k);
    const double goal = sketch_accuracy * sketch_accuracy * square;
    for (int i = 0; i < sketch_steps && square > goal; ++i) {
        std::copy_n(direction, k, p);
        dense.solve_triangle(r, k, k, true, false, p);
        sweep.dots(block, p, k, 1, t);
        std::fill_n(product, k, 0.0);
        sweep.combine(block, t, 1, product, k);
        for (int64_t j = 0; j < k; ++j) product[j] += rule.ridge * p[j];
        dense.solve_triangle(r, k, k, true, true, product);
        const double curvature = dot(direction, product, k);
        if (!(curvature > 0)) break;
        const double alpha = square / curvature;
        for (int64_t j = 0; j < k; ++j) y[j] += alpha * direction[j], residual[j] -= alpha * product[j];
        const double next = dot(residual, residual, k), beta = next / square;
        for (int64_t j = 0; j < k; ++j) direction[j] = residual[j] + beta * direction[j];
        square = next;
    }
    std::copy_n(y, k, step);
    dense.solve_triangle(r, k, k, true, false, step);
    return true;
}

}  // namespace

RowStep regress(const RowEntries& row, const RegressionRule& rule, std::uint64_t number, const double* u, double* step) {
    const CompletionTable& pass = kernels().completion;
    const int64_t k = rule.rank, ld = row.ld;
    const bool normal = rule.how == Regression::automatic || rule.how == Regression::normal;
    RowStep done;
    Workspace scratch;
    double* const gram = normal ? scratch.take_array<double>(ld * ld) : nullptr;
    done.sums = pass.row_pass(row, u, step, gram);
    for (int64_t j = 0; j < k; ++j) step[j] -= rule.ridge * u[j];
    done.gradient = dot(step, step, k);
    if (normal && (row.count >= k || rule.ridge > 0)) {
        double largest = 0;
        for (int64_t j = 0; j < k; ++j) largest = std::max(largest, gram[j * ld + j]);
        if (pass.solve(gram, ld, k, rule.ridge, pivot_floor * (largest + rule.ridge), step)) return done;
    }
    std::fill_n(step, ld, 0.0);
    if (row.count == 0 && rule.ridge == 0) return done;
    const bool many = row.count >= entries_to_sketch * k;
    if ((rule.how == Regression::sketch && many) || (rule.how == Regression::automatic && many && k >= columns_to_sketch)) {
        if (sketched_step(row, rule, number, u, step)) {
            done.sketched = true;
            return done;
        }
        std::fill_n(step, ld, 0.0);
    }
    if (normal && row.count < k && rule.ridge == 0) {
        if (short_step(row, rule, u, step)) return done;
        std::fill_n(step, ld, 0.0);
    }
    orthogonal_step(row, rule, u, step);
    done.orthogonal = true;
    return done;
}

}  // namespace raphson
