#include "sketch/lstsq_methods.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/threads.h"
#include "dense/dense.h"
#include "sketch/triangle.h"

namespace raphson {
namespace {

using std::int64_t;
using Vector = std::vector<double>;

// Of A with its columns at norm 1. Rounding of AᵀA moves the preconditioned problem by some ε·condition²: a step of the
// refinement gains at least three digits.
constexpr double most_condition = 1e6;
// A sketch costs some 25 reads of A, worth the products of this many columns, and QR of 12 rows a column, as dear as the
// products of this many rows a column.
constexpr double reads_in_columns = 1000, factor_in_rows = 50;
constexpr double sparse_updates = 100;  // of AᵀA for an entry of CSR rows: still cheaper than a sketch of them
constexpr int64_t least_rows = 2;       // a column
constexpr double least_flops = 2.5e4;   // below, QR of A is as fast
constexpr int64_t sampled_rows = 4;      // a column, for a first look at the condition …
constexpr int64_t worth_a_sample = 16;   // … where A has so many more rows
constexpr int64_t columns_at_once = 16;  // of b in one read of A
constexpr int most_steps = 8;

double squared(double x) { return x * x; }

// A Gram matrix (n×n) with a ridge becomes its Cholesky factor, of columns at norm 1, whose lengths are set aside. False where
// a square is out of range, or where a pivot is so small that the condition is certainly beyond the method. A column that a
// sample has nothing of says nothing.
bool factor(Vector& gram, int64_t n, double ridge, bool of_a_sample, Vector& length) {
    length.resize(static_cast<std::size_t>(n));
    for (int64_t j = 0; j < n; ++j) {
        double& square = gram[j * n + j];
        square += ridge;
        if (square == 0 && of_a_sample) square = 1;
        if (!(square > 1e-140 && square < 1e140)) return false;
        length[j] = std::sqrt(square);
    }
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) gram[i * n + j] /= length[i] * length[j];
        gram[i * n + i] = 1;
    }
    return cholesky(gram.data(), n, n, squared(1 / most_condition)) == 0;
}

// False where the condition is beyond the method after all, or a cut was asked for.
bool accept(const Vector& gram, const Vector& length, int64_t n, double rcond, Triangle& triangle) {
    triangle.frobenius = norm(length.data(), n);
    triangle.upper.assign(static_cast<std::size_t>(n * n), 0.0);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j <= i; ++j) triangle.upper[j * n + i] = gram[i * n + j] * length[i];
    }
    return triangle.has_full_rank(rcond) && triangle.scaled_cond() <= most_condition;
}

// One or several right-hand sides side by side, so that every step reads A once for all of them.
class Refinement {
public:
    Refinement(const LstsqRows& passes, Triangle triangle, int64_t n, const Returned& returned, const LstsqOptions& options, double tol)
        : passes_(passes), triangle_(std::move(triangle)), n_(n), returned_(returned), options_(options), tol_(tol) {}

    // x (count × n) for columns first … of b; false where one does not get to tol.
    bool run(int64_t first, int64_t count, LstsqResult& result);
    const double* x(int64_t c) const { return best_.data() + c * n_; }

private:
    void step(int64_t c);
    double error(int64_t c);

    const LstsqRows& passes_;
    Triangle triangle_;
    int64_t n_;
    const Returned& returned_;
    const LstsqOptions& options_;
    double tol_;
    Vector x_, z_, norms_, best_;  // z = Aᵀ(b − A x) − ridge·x
};

void Refinement::step(int64_t c) {
    double* const x = x_.data() + c * n_;
    Vector y, dx(static_cast<std::size_t>(n_));
    triangle_.to_y(z_.data() + c * n_, y);
    triangle_.to_x(y, dx.data());
    for (int64_t j = 0; j < n_; ++j) {
        x[j] = returned_.rounded(x[j] + dx[j]);
    }
}

double Refinement::error(int64_t c) {
    const double* const x = x_.data() + c * n_;
    triangle_.prepare_error(x, norms_[c]);
    return triangle_.backward_error(Vector(z_.begin() + c * n_, z_.begin() + (c + 1) * n_), x, norms_[c]);
}

bool Refinement::run(int64_t first, int64_t count, LstsqResult& result) {
    x_.assign(static_cast<std::size_t>(count * n_), 0.0);
    z_ = best_ = x_;
    norms_.assign(static_cast<std::size_t>(count), 0.0);
    Vector errors(norms_.size(), std::numeric_limits<double>::infinity());
    for (int pass = 0;; ++pass) {
        result.sweeps += passes_.residuals(first, count, x_.data(), z_.data(), norms_.data());
        bool all = pass > 0, hopeless = pass == most_steps;
        for (int64_t c = 0; c < count; ++c) {
            if (!std::isfinite(norms_[c])) throw NotFinite("lstsq: b has NaN or Inf");
            for (int64_t j = 0; j < n_; ++j) z_[c * n_ + j] -= options_.ridge * x_[c * n_ + j];
            if (pass == 0 || errors[c] <= tol_) continue;
            const double found = error(c);
            if (found <= tol_) {
                std::copy_n(x_.data() + c * n_, n_, best_.data() + c * n_);
                result.residual_norm[first + c] = norms_[c];
                result.backward_error[first + c] = found;
            } else {
                all = false;
                hopeless = hopeless || found > 0.5 * errors[c];
            }
            errors[c] = found;
        }
        if (all || hopeless) return all;
        for (int64_t c = 0; c < count; ++c) {
            if (errors[c] <= tol_) continue;
            step(c);
            ++result.iterations;
        }
    }
}

bool pays(const RowSource& a) {
    const double m = static_cast<double>(a.rows), n = static_cast<double>(a.cols);
    if (a.rows < least_rows * a.cols) return false;
    if (a.whole == nullptr || a.whole->starts == nullptr) {
        return m * n * n > least_flops && m * (n - reads_in_columns) < factor_in_rows * n * n;
    }
    double updates = n * n;
    for (int64_t i = 0; i < a.rows; ++i) updates += squared(static_cast<double>(a.whole->starts[i + 1] - a.whole->starts[i]));
    return a.cols <= widest_sparse && updates < sparse_updates * static_cast<double>(a.whole->size());
}

}  // namespace

bool gram_first(const RowSource& a, int64_t k, const LstsqOptions& options) {
    if (a.cols == 0 || k == 0) return false;
    if (options.method == LstsqMethod::gram) return a.rows >= a.cols || options.ridge > 0;
    return options.method == LstsqMethod::automatic && pays(a);
}

std::optional<LstsqResult> lstsq_by_gram(const LstsqRows& passes, const RowSource& a, int64_t k, const Returned& returned,
                                         const LstsqOptions& options, double tol, int& sweeps) {
    const int64_t n = a.cols;
    Vector gram(static_cast<std::size_t>(n * n)), length;
    Triangle triangle(n, 0);
    const int64_t apart = a.rows / std::max<int64_t>(1, sampled_rows * n);
    const bool look = options.method == LstsqMethod::automatic && apart * sampled_rows >= worth_a_sample;
    if (look && passes.thinned_gram(apart, gram.data())) {
        // The share of the ridge that these rows would have.
        if (!factor(gram, n, options.ridge / static_cast<double>(apart), true, length)) return std::nullopt;
    }
    passes.gram(gram.data());
    ++sweeps;
    if (!factor(gram, n, options.ridge, false, length) || !accept(gram, length, n, options.rcond, triangle)) return std::nullopt;
    LstsqResult result;
    result.method = LstsqMethod::gram;
    result.rank = n;
    result.cond = triangle.cond;
    result.x.assign(static_cast<std::size_t>(n * k), 0.0);
    result.residual_norm.assign(static_cast<std::size_t>(k), 0.0);
    result.backward_error = result.residual_norm;
    Refinement refinement(passes, std::move(triangle), n, returned, options, tol);
    for (int64_t first = 0; first < k; first += columns_at_once) {
        const int64_t count = std::min(columns_at_once, k - first);
        const bool there = refinement.run(first, count, result);
        for (int64_t c = 0; c < count; ++c) {
            for (int64_t j = 0; j < n; ++j) result.x[j * k + first + c] = refinement.x(c)[j];
        }
        if (there) continue;
        sweeps += result.sweeps;
        return std::nullopt;
    }
    result.sweeps += sweeps;
    return result;
}

}  // namespace raphson
