#include "sketch/triangle.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/threads.h"
#include "table.h"

namespace raphson {

using std::int64_t;

constexpr double eps = std::numeric_limits<double>::epsilon();
constexpr int64_t worth_sharing = 64;  // rows
constexpr double negligible_shift = 0.1;  // of the smallest singular value: less moves the backward error by half a per cent

double Triangle::cut(double rcond) const { return rcond >= 0 ? rcond : eps * static_cast<double>(std::max<int64_t>(30, n_)); }

bool Triangle::has_full_rank(double rcond) {
    const SketchCoreTable& core = kernels().sketch_core;
    const DenseTable& dense = kernels().dense;
    const int64_t p = n_ + k_;
    gram_.clear();
    scaled_.assign(static_cast<std::size_t>(n_ * n_), 0.0);
    length_.assign(static_cast<std::size_t>(n_), 0.0);
    std::vector<double> entry(length_.size(), 0.0);  // the largest of a column: squares may not be in range
    for (int64_t i = 0; i < n_; ++i) {
        for (int64_t j = i; j < n_; ++j) entry[j] = std::max(entry[j], std::fabs(upper[i * p + j]));
    }
    for (int64_t i = 0; i < n_; ++i) {
        for (int64_t j = i; j < n_; ++j) {
            const double part = entry[j] > 0 ? upper[i * p + j] / entry[j] : 0.0;
            length_[j] += part * part;
        }
    }
    bool full = true;
    for (int64_t j = 0; j < n_; ++j) {
        length_[j] = entry[j] * std::sqrt(length_[j]);
        full = full && length_[j] > 0;
    }
    for (int64_t i = 0; i < n_; ++i) {
        for (int64_t j = i; j < n_; ++j) scaled_[i * n_ + j] = length_[j] > 0 ? upper[i * p + j] / length_[j] : 0.0;
    }
    double smallest = 0, scaled_smallest = 0, scaled_largest = 0;
    const auto bounds = [&](int64_t task) {
        task == 0 ? core.extremes(dense, upper.data(), p, n_, &largest, &smallest)
                  : core.extremes(dense, scaled_.data(), n_, n_, &scaled_largest, &scaled_smallest);
    };
    const int64_t tasks = full ? 2 : 1;
    if (n_ < worth_sharing) {
        for (int64_t task = 0; task < tasks; ++task) bounds(task);
    } else {
        parallel_for(tasks, bounds);
        throw_if_cancelled();
    }
    rank = n_;
    cond = smallest > 0 ? largest / smallest : std::numeric_limits<double>::infinity();
    if (full) {
        full = rcond >= 0 ? smallest > rcond * largest : scaled_smallest > cut(rcond) * scaled_largest;
        scaled_largest_ = scaled_largest;
        scaled_cond_ = scaled_smallest > 0 ? scaled_largest / scaled_smallest : std::numeric_limits<double>::infinity();
    }
    return full;
}

void Triangle::decide(double rcond) {
    if (has_full_rank(rcond)) return;
    u_.resize(static_cast<std::size_t>(n_ * n_));
    v_.resize(u_.size());
    s_.resize(static_cast<std::size_t>(n_));
    kernels().sketch_core.svd(upper.data(), n_ + k_, n_, u_.data(), s_.data(), v_.data());
    rank = 0;
    while (rank < n_ && s_[rank] > cut(rcond) * s_[0]) ++rank;
    if (rank > 0) cond = s_[0] / s_[rank - 1];
}

void Triangle::to_x(const std::vector<double>& y, double* x) const {
    if (!scale.empty()) {
        for (int64_t j = 0; j < n_; ++j) x[j] = scale[j] * y[j];
    } else if (u_.empty()) {
        std::copy(y.begin(), y.end(), x);
        kernels().dense.solve_triangle(scaled_.data(), n_, n_, true, false, x);
        for (int64_t j = 0; j < n_; ++j) x[j] /= length_[j];
    } else {
        std::fill_n(x, n_, 0.0);
        for (int64_t i = 0; i < rank; ++i) {
            const double part = y[i] / s_[i];
            for (int64_t j = 0; j < n_; ++j) x[j] += part * v_[i * n_ + j];
        }
    }
}

void Triangle::to_y(const double* z, std::vector<double>& y) const {
    y.resize(static_cast<std::size_t>(rank));
    if (!scale.empty()) {
        for (int64_t j = 0; j < n_; ++j) y[j] = scale[j] * z[j];
    } else if (u_.empty()) {
        for (int64_t j = 0; j < n_; ++j) y[j] = z[j] / length_[j];
        kernels().dense.solve_triangle(scaled_.data(), n_, n_, true, true, y.data());
    } else {
        for (int64_t i = 0; i < rank; ++i) {
            double sum = 0;
            for (int64_t j = 0; j < n_; ++j) sum += v_[i * n_ + j] * z[j];
            y[i] = sum / s_[i];
        }
    }
}

void Triangle::from_y(const std::vector<double>& y, double* z) const {
    std::fill_n(z, n_, 0.0);
    if (!scale.empty()) {
        for (int64_t j = 0; j < n_; ++j) z[j] = scale[j] > 0 ? y[j] / scale[j] : 0.0;
    } else if (u_.empty()) {
        for (int64_t i = 0; i < n_; ++i) {
            for (int64_t j = i; j < n_; ++j) z[j] += scaled_[i * n_ + j] * y[i];
        }
        for (int64_t j = 0; j < n_; ++j) z[j] *= length_[j];
    } else {
        for (int64_t i = 0; i < rank; ++i) {
            for (int64_t j = 0; j < n_; ++j) z[j] += s_[i] * y[i] * v_[i * n_ + j];
        }
    }
}

void Triangle::solution(int64_t column, double* x) const {
    std::fill_n(x, n_, 0.0);
    if (!scale.empty()) return;
    const int64_t p = n_ + k_;
    std::vector<double> y(static_cast<std::size_t>(n_));
    for (int64_t i = 0; i < n_; ++i) y[i] = upper[i * p + n_ + column];
    if (!u_.empty()) {
        std::vector<double> inside(static_cast<std::size_t>(rank), 0.0);
        for (int64_t i = 0; i < rank; ++i) {
            for (int64_t j = 0; j < n_; ++j) inside[i] += u_[i * n_ + j] * y[j];
        }
        y = inside;
    }
    to_x(y, x);
}

double Triangle::scaled_norm(const double* x) const {
    if (!u_.empty() || length_.empty()) return norm(x, n_);
    double sum = 0;
    for (int64_t j = 0; j < n_; ++j) sum += (length_[j] * x[j]) * (length_[j] * x[j]);
    return std::sqrt(sum);
}

double Triangle::step_floor(const double* x, double r_norm) const {
    const bool cut = !u_.empty();
    return eps * ((cut ? largest : scaled_largest_) * scaled_norm(x) + 0.04 * (cut ? cond : scaled_cond_) * r_norm);
}

void Triangle::prepare_error(const double* x, double r_norm) {
    if (!scale.empty() || !u_.empty()) return;
    const double x_norm = scaled_norm(x), ratio = x_norm > 0 ? r_norm / x_norm : 0.0;
    shifted_.clear();
    if (ratio <= negligible_shift * scaled_largest_ / scaled_cond_) return;
    shifted_.resize(static_cast<std::size_t>(n_ * n_));
    shifted_triangle(scaled_.data(), n_, n_, ratio * ratio, gram_, shifted_.data());
}

double Triangle::backward_error(const std::vector<double>& z, const double* x, double r_norm) const {
    const double z_norm = norm(z.data(), n_), x_norm = scaled_norm(x);
    if (!(frobenius > 0) || z_norm == 0 || r_norm == 0) return 0;
    if (!scale.empty()) {
        const double whole = std::hypot(r_norm, std::sqrt(ridge) * x_norm);
        const double stewart = z_norm / (whole * std::hypot(frobenius, std::sqrt(ridge * static_cast<double>(n_))));
        if (ridge > 0 || !(x_norm > 0)) return stewart;
        return std::min(stewart, r_norm / (x_norm * frobenius));  // A + r xᵀ/‖x‖²: the better one where b is within reach
    }
    if (!(x_norm > 0)) return z_norm / (r_norm * frobenius);
    if (!u_.empty()) {
        double sum = 0;
        const double shift = (r_norm / x_norm) * (r_norm / x_norm);
        for (int64_t i = 0; i < rank; ++i) {
            double inside = 0;
            for (int64_t j = 0; j < n_; ++j) inside += v_[i * n_ + j] * z[j];
            sum += inside * inside / (s_[i] * s_[i] + shift);
        }
        return std::sqrt(sum) / (x_norm * frobenius);
    }
    std::vector<double> y(static_cast<std::size_t>(n_));
    for (int64_t j = 0; j < n_; ++j) y[j] = z[j] / length_[j];
    kernels().dense.solve_triangle(shifted_.empty() ? scaled_.data() : shifted_.data(), n_, n_, true, true, y.data());
    return norm(y.data(), n_) / (x_norm * std::sqrt(static_cast<double>(n_)));
}

}  // namespace raphson
