#include "newton/kkt_system.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/workspace.h"
#include "newton/vector.h"
#include "table.h"

namespace raphson {
namespace {

using std::int32_t;
using std::int64_t;

constexpr double epsilon = std::numeric_limits<double>::epsilon();
constexpr int64_t small_system = 48;  // below, dense factors are faster whatever the pattern

// Not std::fmax, which is a call; NaN in x is lost, as there.
inline double larger(double most, double x) { return x > most ? x : most; }

}  // namespace

void times_rows(const RowBlock& a, const double* x, double* y) {
    if (a.starts == nullptr && a.rows > 0) {
        kernels().dense.dot_rows(a.cols, a.rows, static_cast<const double*>(a.values), a.stride, x, y);
        return;
    }
    for (int64_t i = 0; i < a.rows; ++i) {
        double sum = 0;
        each_entry(a, i, [&](int64_t j, double v) { sum += v * x[j]; });
        y[i] = sum;
    }
}

void add_transposed(const RowBlock& a, const double* x, double* y) {
    for (int64_t i = 0; i < a.rows; ++i) {
        if (a.starts == nullptr) {
            const double c = -x[i];
            kernels().dense.subtract_rows(a.cols, 1, &c, static_cast<const double*>(a.values) + i * a.stride, a.stride, y);
        } else {
            each_entry(a, i, [&](int64_t j, double v) { y[j] += v * x[i]; });
        }
    }
}

void OwnedRows::copy(const RowBlock& a) {
    view_ = a;
    const auto* const values = static_cast<const double*>(a.values);
    if (a.starts != nullptr) {
        starts_.assign(a.starts, a.starts + a.rows + 1);
        index_.assign(a.index + starts_.front(), a.index + starts_.back());
        values_.assign(values + starts_.front(), values + starts_.back());
        for (std::int64_t& start : starts_) start -= a.starts[0];
        view_.starts = starts_.data();
        view_.index = index_.data();
    } else {
        values_.resize(static_cast<std::size_t>(a.rows * a.cols));
        for (int64_t i = 0; i < a.rows; ++i) std::copy_n(values + i * a.stride, a.cols, values_.data() + i * a.cols);
        view_.stride = a.cols;
    }
    view_.values = values_.data();
}

void KktSystem::set(const RowBlock& b, const RowBlock& g) {
    b_ = b;
    g_ = g;
    n_ = b.rows;
    m_ = g.rows;
    shift_ = damping_ = 0;
    const bool was_sparse = sparse_;
    sparse_ = size() > small_system && b.starts != nullptr && (m_ == 0 || g.starts != nullptr) &&
              static_cast<double>(b.size() + (m_ == 0 ? 0 : g.size())) < 0.1 * static_cast<double>(size()) * static_cast<double>(size());
    if (sparse_ && !(was_sparse && same_pattern())) make_pattern();
    double squares = 0;
    for (int64_t i = 0; i < n_; ++i) {
        if (b_.starts == nullptr) {
            const double* const row = static_cast<const double*>(b_.values) + i * b_.stride + i;
            double sum = 0;
            kernels().dense.dot_rows(n_ - i, 1, row, b_.stride, row, &sum);
            squares += 2 * sum - row[0] * row[0];
        } else {
            each_entry(b_, i, [&](int64_t j, double v) { squares += j < i ? 0.0 : j == i ? v * v : 2 * v * v; });
        }
    }
    b_norm_ = std::sqrt(squares);
    squares = 0;
    for (int64_t i = 0; i < m_; ++i) each_entry(g_, i, [&](int64_t, double v) { squares += v * v; });
    g_norm_ = std::sqrt(squares);
}

double KktSystem::frobenius() const { return std::sqrt(b_norm_ * b_norm_ + 2 * g_norm_ * g_norm_); }

double KktSystem::frobenius_shifted() const {
    double squares = b_norm_ * b_norm_ + 2 * g_norm_ * g_norm_ + static_cast<double>(n_) * shift_ * shift_;
    for (int64_t i = 0; shift_ != 0 && i < n_; ++i) squares += 2 * shift_ * hessian_diagonal(i);
    return std::sqrt(std::fmax(squares, 0.0));
}

double KktSystem::hessian_diagonal(int64_t i) const {
    if (b_.starts == nullptr) return static_cast<const double*>(b_.values)[i * b_.stride + i];
    const int32_t* const end = b_.index + b_.starts[i + 1];
    const int32_t* const found = std::lower_bound(b_.index + b_.starts[i], end, static_cast<int32_t>(i));
    return found != end && *found == i ? static_cast<const double*>(b_.values)[found - b_.index] : 0.0;
}

bool KktSystem::same_pattern() const {
    if (!patterned_ || static_cast<int64_t>(b_starts_.size()) != n_ + 1 || static_cast<int64_t>(g_starts_.size()) != m_ + 1) return false;
    return std::equal(b_starts_.begin(), b_starts_.end(), b_.starts) && std::equal(b_index_.begin(), b_index_.end(), b_.index) &&
           (m_ == 0 || (std::equal(g_starts_.begin(), g_starts_.end(), g_.starts) && std::equal(g_index_.begin(), g_index_.end(), g_.index)));
}

// A constraint's own diagonal is 0: it is eliminated with the unknown that it depends on most, of those still free.
std::vector<int32_t> KktSystem::pairs() const {
    std::vector<int32_t> partner(static_cast<std::size_t>(size()), -1);
    for (int64_t i = 0; i < m_; ++i) {
        int64_t best = -1;
        double most = 0;
        each_entry(g_, i, [&](int64_t j, double v) {
            const double here = std::fabs(v) * scale_[static_cast<std::size_t>(j)];
            if (here <= most || partner[static_cast<std::size_t>(j)] != -1) return;
            most = here;
            best = j;
        });
        if (best == -1) continue;
        partner[static_cast<std::size_t>(best)] = static_cast<int32_t>(n_ + i);
        partner[static_cast<std::size_t>(n_ + i)] = static_cast<int32_t>(best);
    }
    return partner;
}

// Row i < n of the upper triangle: the diagonal, what B has right of it, then column i of G; below, the damping's diagonal.
void KktSystem::make_pattern() {
    b_starts_.assign(b_.starts, b_.starts + n_ + 1);
    b_index_.assign(b_.index, b_.index + b_.starts[n_]);
    g_starts_.assign(1, 0);
    g_index_.clear();
    if (m_ > 0) {
        g_starts_.assign(g_.starts, g_.starts + m_ + 1);
        g_index_.assign(g_.index, g_.index + g_.starts[m_]);
    }
    starts_.assign(static_cast<std::size_t>(size() + 1), 0);
    for (int64_t i = 0; i < n_; ++i) {
        int64_t count = 1;
        each_entry(b_, i, [&](int64_t j, double) { count += j > i ? 1 : 0; });
        starts_[static_cast<std::size_t>(i) + 1] = count;
    }
    for (int64_t i = 0; i < m_; ++i) {
        starts_[static_cast<std::size_t>(n_ + i) + 1] = 1;
        each_entry(g_, i, [&](int64_t j, double) { ++starts_[static_cast<std::size_t>(j) + 1]; });
    }
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
    // The ordering indexes both triangles and its own room, a fifth more, by 32 bits.
    if (2.4 * static_cast<double>(starts_.back()) + 2.0 * static_cast<double>(size()) >= std::ldexp(1.0, 31)) {
        throw std::invalid_argument("KKT system: " + std::to_string(size()) + " unknowns and " + std::to_string(starts_.back()) +
                                    " entries in a triangle are more than 32-bit indices can order");
    }
    index_.resize(static_cast<std::size_t>(starts_.back()));
    b_to_.assign(b_index_.size(), -1);
    g_to_.assign(g_index_.size(), -1);
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t i = 0; i < size(); ++i) {
        index_[static_cast<std::size_t>(next[static_cast<std::size_t>(i)]++)] = static_cast<int32_t>(i);
        if (i >= n_) continue;
        for (int64_t p = b_.starts[i]; p < b_.starts[i + 1]; ++p) {
            const int32_t j = b_.index[p];
            if (j < i) continue;
            const int64_t to = j == i ? starts_[static_cast<std::size_t>(i)] : next[static_cast<std::size_t>(i)]++;
            index_[static_cast<std::size_t>(to)] = j;
            b_to_[static_cast<std::size_t>(p)] = to;
        }
    }
    for (int64_t i = 0; i < m_; ++i) {
        for (int64_t p = g_.starts[i]; p < g_.starts[i + 1]; ++p) {
            const int64_t to = next[static_cast<std::size_t>(g_.index[p])]++;
            index_[static_cast<std::size_t>(to)] = static_cast<int32_t>(n_ + i);
            g_to_[static_cast<std::size_t>(p)] = to;
        }
    }
    scale_rows();
    fronts_.analyze(size(), starts_.data(), index_.data(), pairs().data());
    patterned_ = true;
}

// Both sides of K: B's diagonal, where it says something, to 1, then the largest entry of G's rows. So pivots of B's diagonal
// are stable however G is scaled, and one number says what is zero.
void KktSystem::scale_rows() {
    scale_.assign(static_cast<std::size_t>(size()), 0.0);
    std::vector<double> own(static_cast<std::size_t>(n_), shift_);
    double all = std::fabs(shift_);
    double* const beside = scale_.data();  // the largest entry off the diagonal, first
    for (int64_t i = 0; i < n_; ++i) {
        double most = beside[i];
        const auto see = [&](int64_t j, double v) {
            const double size = std::fabs(v);
            most = larger(most, size);
            beside[j] = larger(beside[j], size);
        };
        if (b_.starts == nullptr) {
            const double* const row = static_cast<const double*>(b_.values) + i * b_.stride;
            own[static_cast<std::size_t>(i)] += row[i];
            all = larger(all, std::fabs(row[i]));
            for (int64_t j = i + 1; j < n_; ++j) see(j, row[j]);
        } else {
            each_entry(b_, i, [&](int64_t j, double v) {
                if (j > i) see(j, v);
                if (j == i) {
                    own[static_cast<std::size_t>(i)] += v;
                    all = larger(all, std::fabs(v));
                }
            });
        }
        beside[i] = most;
        all = larger(all, most);
    }
    const auto root = [](double x) { return x > 0 && std::isfinite(x) ? std::ldexp(1.0, -std::ilogb(x) / 2) : 1.0; };
    for (int64_t i = 0; i < n_; ++i) {
        double& s = scale_[static_cast<std::size_t>(i)];
        s = root(std::fmax(std::fmax(std::fabs(own[static_cast<std::size_t>(i)]), 1e-3 * s), 1e-8 * all));
    }
    for (int64_t i = 0; i < m_; ++i) {
        double most = 0;
        each_entry(g_, i, [&](int64_t j, double v) { most = larger(most, std::fabs(v) * scale_[static_cast<std::size_t>(j)]); });
        scale_[static_cast<std::size_t>(n_ + i)] = most > 0 && std::isfinite(most) ? std::ldexp(1.0, -std::ilogb(most)) : 1.0;
    }
}

template <class Fn>
void KktSystem::each_upper(Fn&& fn) const {
    for (int64_t i = 0; i < n_; ++i) {
        fn(i, i, shift_);
        each_entry(b_, i, [&](int64_t j, double v) {
            if (j >= i) fn(i, j, v);
        });
    }
    for (int64_t i = 0; i < m_; ++i) {
        fn(n_ + i, n_ + i, -damping_);
        each_entry(g_, i, [&](int64_t j, double v) { fn(j, n_ + i, v); });
    }
}

void KktSystem::fill_upper(double* k, const double* scale) const {
    const int64_t size = n_ + m_;
    const auto* const b = static_cast<const double*>(b_.values);
    const auto* const g = static_cast<const double*>(g_.values);
    for (int64_t i = 0; i < n_; ++i) {
        const double* const row = b + i * b_.stride;
        double* const out = k + i * size;
        for (int64_t j = i; j < n_; ++j) out[j] = row[j] * (scale[i] * scale[j]);
        out[i] += shift_ * scale[i] * scale[i];
    }
    constexpr int64_t block = 16;  // of columns, so that both sides stay in cache
    for (int64_t first = 0; first < n_; first += block) {
        const int64_t last = std::min(first + block, n_);
        for (int64_t i = 0; i < m_; ++i) {
            for (int64_t j = first; j < last; ++j) k[j * size + n_ + i] = g[i * g_.stride + j] * (scale[n_ + i] * scale[j]);
        }
    }
    for (int64_t i = n_; i < size; ++i) {
        std::fill(k + i * size + i, k + (i + 1) * size, 0.0);
        k[i * size + i] = -damping_ * scale[i] * scale[i];
    }
}

void KktSystem::fill_dense(std::vector<double>& k, const double* scale) const {
    const int64_t size = n_ + m_;
    k.resize(static_cast<std::size_t>(size * size));
    if (scale != nullptr && b_.starts == nullptr && (m_ == 0 || g_.starts == nullptr)) {  // to be factored: the upper triangle
        fill_upper(k.data(), scale);
        return;
    }
    std::fill(k.begin(), k.end(), 0.0);
    each_upper([&](int64_t i, int64_t j, double v) {
        if (scale != nullptr) v *= scale[i] * scale[j];
        k[static_cast<std::size_t>(i * size + j)] += v;
        if (i != j) k[static_cast<std::size_t>(j * size + i)] += v;
    });
}

void KktSystem::full_rows(std::vector<int64_t>& starts, std::vector<int32_t>& index, std::vector<double>& values) const {
    starts.assign(static_cast<std::size_t>(size() + 1), 0);
    each_upper([&](int64_t i, int64_t j, double v) {
        if (v == 0) return;
        ++starts[static_cast<std::size_t>(i) + 1];
        if (i != j) ++starts[static_cast<std::size_t>(j) + 1];
    });
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    index.resize(static_cast<std::size_t>(starts.back()));
    values.resize(index.size());
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    each_upper([&](int64_t i, int64_t j, double v) {
        if (v == 0) return;
        const auto put = [&](int64_t row, int64_t column) {
            const auto at = static_cast<std::size_t>(next[static_cast<std::size_t>(row)]++);
            index[at] = static_cast<int32_t>(column);
            values[at] = v;
        };
        put(i, j);
        if (i != j) put(j, i);
    });
}

PivotSigns KktSystem::factor(double shift, double damping) {
    shift_ = shift;
    damping_ = damping;
    scale_rows();
    const double zero = 4 * epsilon * static_cast<double>(std::min<int64_t>(size(), 1000));
    if (!sparse_) {
        fill_dense(values_, scale_.data());
        dense_.factor(values_.data(), size(), size(), zero);
        return dense_.signs();
    }
    values_.assign(index_.size(), 0.0);
    const auto s = [&](int64_t i) { return scale_[static_cast<std::size_t>(i)]; };
    for (int64_t i = 0; i < size(); ++i) {
        values_[static_cast<std::size_t>(starts_[static_cast<std::size_t>(i)])] = (i < n_ ? shift : -damping) * s(i) * s(i);
    }
    const auto* const b = static_cast<const double*>(b_.values);
    for (int64_t i = 0; i < n_; ++i) {
        for (int64_t p = b_.starts[i]; p < b_.starts[i + 1]; ++p) {
            const int64_t to = b_to_[static_cast<std::size_t>(p)];
            if (to >= 0) values_[static_cast<std::size_t>(to)] += b[p] * s(i) * s(b_.index[p]);
        }
    }
    const auto* const g = static_cast<const double*>(g_.values);
    for (int64_t i = 0; i < m_; ++i) {
        for (int64_t p = g_.starts[i]; p < g_.starts[i + 1]; ++p) {
            values_[static_cast<std::size_t>(g_to_[static_cast<std::size_t>(p)])] += g[p] * s(n_ + i) * s(g_.index[p]);
        }
    }
    fronts_.factor(values_.data(), zero);
    return fronts_.signs();
}

void KktSystem::hessian_times(const double* x, double* y) const {
    std::fill_n(y, n_, 0.0);
    const auto* const values = static_cast<const double*>(b_.values);
    for (int64_t i = 0; i < n_; ++i) {
        if (b_.starts == nullptr) {
            const double* const row = values + i * b_.stride + i;
            const double c = -x[i];
            double sum = 0;
            kernels().dense.dot_rows(n_ - i, 1, row, b_.stride, x + i, &sum);
            kernels().dense.subtract_rows(n_ - i - 1, 1, &c, row + 1, b_.stride, y + i + 1);
            y[i] += sum;
            continue;
        }
        for (int64_t p = b_.starts[i]; p < b_.starts[i + 1]; ++p) {
            const int64_t j = b_.index[p];
            if (j < i) continue;
            y[i] += values[p] * x[j];
            if (j != i) y[j] += values[p] * x[i];
        }
    }
}

void KktSystem::times(const double* x, double* y) const {
    hessian_times(x, y);
    for (int64_t i = 0; i < n_; ++i) y[i] += shift_ * x[i];
    times_rows(g_, x, y + n_);
    for (int64_t i = 0; i < m_; ++i) y[n_ + i] -= damping_ * x[n_ + i];
    add_transposed(g_, x + n_, y);
}

void KktSystem::solve_factored(double* x) const {
    for (int64_t i = 0; i < size(); ++i) x[i] *= scale_[static_cast<std::size_t>(i)];
    sparse_ ? fronts_.solve(x) : dense_.solve(x);
    for (int64_t i = 0; i < size(); ++i) x[i] *= scale_[static_cast<std::size_t>(i)];
}

int KktSystem::solve(const double* rhs, double* x, double* residual) const {
    const int64_t size = n_ + m_;
    Workspace scratch;
    double* const r = scratch.take_array<double>(size);
    double* const better = scratch.take_array<double>(size);
    std::copy(rhs, rhs + size, x);
    solve_factored(x);
    const double goal = norm(rhs, size);
    const auto measure = [&](const double* y) {
        times(y, r);
        for (int64_t i = 0; i < size; ++i) r[i] = rhs[i] - r[i];
        return norm(r, size);
    };
    *residual = measure(x);
    int refinements = 0;
    constexpr int most = 5;
    while (refinements < most && *residual > 4 * epsilon * goal) {
        solve_factored(r);
        for (int64_t i = 0; i < size; ++i) better[i] = x[i] + r[i];
        const double now = measure(better);
        if (!(now < *residual)) break;
        std::copy(better, better + size, x);
        const bool slow = now > 0.3 * *residual;
        *residual = now;
        ++refinements;
        if (slow) break;
    }
    return refinements;
}

double KktSystem::negative_direction(double* p) const {
    const double most = sparse_ ? fronts_.negative_direction(p) : dense_.negative_direction(p);
    for (int64_t i = 0; i < size(); ++i) p[i] *= scale_[static_cast<std::size_t>(i)];
    return most;
}

}  // namespace raphson
