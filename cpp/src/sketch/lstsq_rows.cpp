#include "sketch/lstsq_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/threads.h"
#include "sketch/sweep.h"

namespace raphson {

using std::int64_t;

// ---- on the CPU ---------------------------------------------------------------------------------------------------------

double HostLstsqRows::residual(int64_t column, const double* x, double* z) const {
    double norm = 0;
    residuals(column, 1, x, z, &norm);
    return norm;
}

int HostLstsqRows::residuals(int64_t first, int64_t count, const double* x, double* z, double* norms) const {
    Sweep what;
    what.v = x;
    what.in = what.outs = what.sums = static_cast<int>(count);
    what.out = z;
    what.stride = a_.cols;
    const std::vector<double> squares = sweep(a_, what, [&](int64_t row, int64_t rows, const double* t, double* u, double* sums) {
        for (int64_t i = 0; i < rows; ++i) {
            const double* const b = b_ + (row + i) * k_ + first;
            for (int64_t c = 0; c < count; ++c) {
                const double r = b[c] - t[i * count + c];
                u[i * count + c] = r;
                sums[c] += r * r;
            }
        }
    });
    for (int64_t c = 0; c < count; ++c) norms[c] = std::sqrt(squares[c]);
    return 1;
}

void HostLstsqRows::normal(const double* q, double* w) const {
    Sweep what;
    what.v = q;
    what.in = what.outs = 1;
    what.out = w;
    what.stride = a_.cols;
    sweep(a_, what, [](int64_t, int64_t rows, const double* t, double* u, double*) { std::copy_n(t, rows, u); });
}

void HostLstsqRows::sketch(const RowSketch& how, double* a, double* b) const {
    const SparseSign s(how.rows, a_.rows, how.nnz, how.seed);
    sketch_rows(s, a_, nullptr, 0, a);
    std::fill_n(b, how.rows * k_, 0.0);
    s.add<double>(TensorView<const double>(b_, {a_.rows, k_}), 0, nullptr, b);
}

void HostLstsqRows::squares(double* diagonal) const { weighted_squares(a_, nullptr, 0, diagonal); }

void HostLstsqRows::gram(double* out) const { weighted_gram(a_, nullptr, 0, out); }

bool HostLstsqRows::thinned_gram(int64_t apart, double* out) const {
    if (a_.whole == nullptr || a_.whole->starts != nullptr) return false;
    const RowBlock thin = a_.whole->thinned(apart);
    weighted_gram(RowSource::of(thin), nullptr, 0, out);
    return true;
}

// ---- on a device --------------------------------------------------------------------------------------------------------

// The sweep's residual is A x − b.
double DeviceLstsqRows::residual(int64_t column, const double* x, double* z) const {
    double totals[2];
    RowSweep what;
    what.loss = RowLoss::gaussian;
    what.v = x;
    what.y = columns_ + column * b_.rows;
    what.out = z;
    what.totals = totals;
    a_.sweep(what);
    for (int64_t j = 0; j < a_.shape().cols; ++j) z[j] = -z[j];
    poll_or_throw();
    return std::sqrt(2 * totals[0]);
}

int DeviceLstsqRows::residuals(int64_t first, int64_t count, const double* x, double* z, double* norms) const {
    const int64_t n = a_.shape().cols;
    for (int64_t c = 0; c < count; ++c) norms[c] = residual(first + c, x + c * n, z + c * n);
    return static_cast<int>(count);
}

void DeviceLstsqRows::normal(const double* q, double* w) const {
    RowSweep what;
    what.v = q;
    what.out = w;
    a_.sweep(what);
    poll_or_throw();
}

void DeviceLstsqRows::sketch(const RowSketch& s, double* a, double* b) const {
    a_.sketch(s, a);
    a_.sketch(s, b_, b);
}

void DeviceLstsqRows::squares(double* diagonal) const { a_.squares(nullptr, 0, diagonal); }

void DeviceLstsqRows::gram(double* out) const { a_.gram(nullptr, 0, out); }

bool DeviceLstsqRows::thinned_gram(int64_t apart, double* out) const {
    a_.thinned_gram(nullptr, 0, apart, out);
    return true;
}

std::vector<double> DeviceLstsqRows::on_host() const {
    const int64_t rows = b_.rows, k = b_.columns;
    std::vector<double> columns(static_cast<std::size_t>(rows * k)), b(columns.size());
    a_.read_vector(columns_, rows * k, columns.data());
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < k; ++c) b[i * k + c] = columns[c * rows + i];
    }
    return b;
}

RowSource visiting_rows(CudaRows& a, int64_t at_once) {
    RowSource source;
    const RowBlock shape = a.shape();
    source.rows = shape.rows;
    source.cols = shape.cols;
    source.visit = [&a, at_once](const RowSource::Body& body) {
        RowBlock block = a.shape();
        block.stride = block.cols;
        const int64_t row = std::max<int64_t>(1, block.cols) * itemsize(block.type), all = block.rows;
        const int64_t most = std::max<int64_t>(1, std::min(at_once / row, all));
        std::vector<double> copy(static_cast<std::size_t>((most * row + 7) / 8));
        block.values = copy.data();
        for (int64_t first = 0; first < all; first += most) {
            block.rows = std::min(most, all - first);
            a.read_rows(first, block.rows, copy.data());
            body(block, first);
        }
    };
    return source;
}

// ---- dense copies -------------------------------------------------------------------------------------------------------

namespace {

// Dense copy of rows of a block with b's columns beside them, to `to` (rows × (n + k)).
template <class T>
void densify(const RowBlock& block, const double* b, int64_t k, double* to) {
    const T* const values = static_cast<const T*>(block.values);
    const int64_t n = block.cols, p = n + k;
    for (int64_t i = 0; i < block.rows; ++i) {
        double* const row = to + i * p;
        if (block.starts == nullptr) {
            for (int64_t j = 0; j < n; ++j) row[j] = static_cast<double>(values[i * block.stride + j]);
        } else {
            std::fill_n(row, n, 0.0);
            for (int64_t q = block.starts[i]; q < block.starts[i + 1]; ++q) row[block.index[q]] += static_cast<double>(values[q]);
        }
        for (int64_t j = 0; j < k; ++j) row[n + j] = b[i * k + j];
    }
}

// Inf for NaN.
template <class T>
double largest_of(const T* values, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double size = std::fabs(static_cast<double>(values[i]));
        if (!(size <= most)) most = size == size ? size : std::numeric_limits<double>::infinity();
    }
    return most;
}

}  // namespace

void densify(const RowBlock& block, const double* b, int64_t k, double* to) {
    block.type == DType::float64 ? densify<double>(block, b, k, to) : densify<float>(block, b, k, to);
}

double largest(const double* values, int64_t n) { return largest_of(values, n); }

double largest(const RowSource& a) {
    double most = 0;
    a.visit([&](const RowBlock& block, int64_t) {
        const int64_t count = block.starts != nullptr ? 1 : block.rows;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t from = block.starts != nullptr ? block.starts[0] : i * block.stride;
            const int64_t n = block.starts != nullptr ? block.size() : block.cols;
            most = std::max(most, block.type == DType::float64 ? largest_of(static_cast<const double*>(block.values) + from, n)
                                                               : largest_of(static_cast<const float*>(block.values) + from, n));
        }
    });
    return most;
}

RowSource scaled_rows(const RowSource& a, double factor) {
    RowSource scaled;
    scaled.rows = a.rows;
    scaled.cols = a.cols;
    scaled.visit = [&a, factor](const RowSource::Body& body) {
        a.visit([&](const RowBlock& block, int64_t first) {
            constexpr int64_t at_once = 4096;
            std::vector<double> copy(static_cast<std::size_t>(std::min(at_once, block.rows) * block.cols));
            for (int64_t begin = 0; begin < block.rows; begin += at_once) {
                const int64_t count = std::min(at_once, block.rows - begin);
                densify(block.part(begin, count), nullptr, 0, copy.data());
                for (double& value : copy) value *= factor;
                body(dense_rows(TensorView<const double>(copy.data(), {count, block.cols})), first + begin);
            }
        });
    };
    return scaled;
}

}  // namespace raphson
