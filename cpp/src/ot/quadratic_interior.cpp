#include "ot/quadratic_interior.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/threads.h"
#include "table.h"

namespace raphson {
namespace {

constexpr int most_steps = 80;
constexpr double to_boundary = 0.995;

// p, s > 0 with s = c + reg·p − f − g and ps → 0. Directions: w(df + dg) + h on the pairs, w = p/(reg·p + s).
class InteriorPoint {
public:
    InteriorPoint(const PairList& pairs, const std::vector<double>& a, const std::vector<double>& b, double reg,
                  std::vector<double>& from_f, std::vector<double>& from_g)
        : pairs_(pairs), a_(a), b_(b), reg_(reg), n_(static_cast<std::int64_t>(a.size())),
          m_(static_cast<std::int64_t>(b.size())), f(from_f), g(from_g) {
        const std::size_t count = pairs.index.size();
        for (std::vector<double>* of_pairs : {&p_, &s_, &w_, &h_, &dp_, &ds_, &product_}) of_pairs->assign(count, 0.0);
        for (double x : a) mass_ += x;
        row_inverse_.assign(a.size(), 0.0);
        df_.assign(a.size(), 0.0);
        row_rhs_.assign(a.size(), 0.0);
        for (std::vector<double>* of_columns : {&diagonal_, &dg_, &rhs_, &column_rhs_}) {
            of_columns->assign(b.size(), 0.0);
        }
        begin();
    }

    bool run(double tol, double smallest) {
        double last = std::numeric_limits<double>::infinity();
        for (; steps < most_steps; ++steps) {
            poll_or_throw();
            const double gap = complementarity(), lack = residuals();
            if (!std::isfinite(gap) || !std::isfinite(lack)) return false;
            if (gap <= smallest) return lack <= tol;  // no more is to be had: pairs that the marginals need are missing
            if (steps > 30 && gap > 0.9 * last && lack <= tol) return true;  // as far as rounding lets it
            last = gap;
            if (!factor()) return lack <= tol && gap <= 1e3 * smallest;
            const double mu = gap / static_cast<double>(p_.size());
            for (std::size_t k = 0; k < p_.size(); ++k) product_[k] = -p_[k] * s_[k];
            solve();
            const double affine = longest();
            double ahead = 0;
            for (std::size_t k = 0; k < p_.size(); ++k) ahead += (p_[k] + affine * dp_[k]) * (s_[k] + affine * ds_[k]);
            const double centre = std::pow(ahead / gap, 3) * mu;
            for (std::size_t k = 0; k < p_.size(); ++k) product_[k] = centre - p_[k] * s_[k] - dp_[k] * ds_[k];
            solve();
            const double length = std::min(1.0, to_boundary * longest());
            for (std::size_t k = 0; k < p_.size(); ++k) {
                p_[k] += length * dp_[k];
                s_[k] += length * ds_[k];
            }
            for (std::size_t i = 0; i < f.size(); ++i) f[i] += a_[i] > 0 ? length * df_[i] : 0;
            for (std::size_t j = 0; j < g.size(); ++j) g[j] += diagonal_[j] > 0 ? length * dg_[j] : 0;
            if (length < 1e-10) return lack <= tol;
        }
        return residuals() <= tol;
    }

private:
    template <class Work>
    void each(Work&& work) const {  // (row, pair, column)
        std::int64_t k = 0;
        for (std::int64_t i = 0; i < n_; ++i) {
            for (; k < pairs_.row_end[i]; ++k) work(i, k, pairs_.index[k]);
        }
    }

    // On the central path of the potentials at hand: s = μ/p = reg·p − (f + g − c), so that only marginals are off.
    void begin() {
        const auto [low, high] = std::minmax_element(pairs_.cost.begin(), pairs_.cost.end());
        const double count = static_cast<double>(p_.size()), range = std::max(*high - *low, 1e-12 * std::abs(*high));
        const double mu = std::max(range, 1e-300) * mass_ / count;
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) {
            const double u = f[i] + g[j] - pairs_.cost[k], root = std::sqrt(u * u + 4 * reg_ * mu);
            p_[k] = u > 0 ? (u + root) / (2 * reg_) : 2 * mu / (root - u);
            s_[k] = mu / p_[k];
        });
    }

    double complementarity() const {
        double sum = 0;
        for (std::size_t k = 0; k < p_.size(); ++k) sum += p_[k] * s_[k];
        return sum;
    }

    double residuals() {  // ‖a − P1‖₁ + ‖b − Pᵀ1‖₁
        lack_a_ = a_;
        lack_b_ = b_;
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) {
            lack_a_[i] -= p_[k];
            lack_b_[j] -= p_[k];
        });
        double sum = 0;
        for (double x : lack_a_) sum += std::abs(x);
        for (double x : lack_b_) sum += std::abs(x);
        return sum;
    }

    bool factor() {
        std::fill(row_inverse_.begin(), row_inverse_.end(), 0.0);
        std::fill(diagonal_.begin(), diagonal_.end(), 0.0);
        double weight = 0;
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) {
            w_[k] = p_[k] / (reg_ * p_[k] + s_[k]);
            row_inverse_[i] += w_[k];
            diagonal_[j] += w_[k];
            weight += w_[k];
        });
        for (double& r : row_inverse_) r = r > 0 ? 1 / r : 0;
        dense_.assign(static_cast<std::size_t>(m_ * m_), 0.0);
        constexpr std::int64_t stripe = 64;
        parallel_for((m_ + stripe - 1) / stripe, [&](std::int64_t task) {
            const std::int64_t begin = task * stripe, end = std::min(begin + stripe, m_);
            for (std::int64_t j = begin; j < end; ++j) {  // the upper triangle by rows, the null vector pinned
                double* row = dense_.data() + j * m_;
                const double pinned = diagonal_[j] / weight;
                for (std::int64_t k = j; k < m_; ++k) row[k] = pinned * diagonal_[k];
                row[j] += diagonal_[j] > 0 ? diagonal_[j] * (1 + 1e-13) : 1;
            }
            const std::int32_t* index = pairs_.index.data();
            std::int64_t first = 0;
            for (std::int64_t i = 0; i < n_; ++i) {
                const std::int64_t last = pairs_.row_end[i];
                std::int64_t p = std::lower_bound(index + first, index + last, begin) - index;
                for (; p < last && index[p] < end; ++p) {
                    double* row = dense_.data() + index[p] * m_;
                    const double c = -w_[p] * row_inverse_[i];
                    for (std::int64_t q = p; q < last; ++q) row[index[q]] += c * w_[q];
                }
                first = last;
            }
        });
        throw_if_cancelled();
        return kernels().ot.cholesky(dense_.data(), m_);
    }

    // The direction that brings marginals to a and b, the duals to feasibility, and ps by product_.
    void solve() {
        row_rhs_ = lack_a_;
        column_rhs_ = lack_b_;
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) {
            const double dual = pairs_.cost[k] + reg_ * p_[k] - f[i] - g[j] - s_[k];
            h_[k] = w_[k] * (product_[k] / p_[k] - dual);
            ds_[k] = dual;
            row_rhs_[i] -= h_[k];
            column_rhs_[j] -= h_[k];
        });
        rhs_ = column_rhs_;
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) { rhs_[j] -= w_[k] * row_inverse_[i] * row_rhs_[i]; });
        dg_ = rhs_;
        for (std::int64_t j = 0; j < m_; ++j) dg_[j] = diagonal_[j] > 0 ? dg_[j] : 0;
        kernels().ot.cholesky_solve(dense_.data(), m_, dg_.data());
        df_ = row_rhs_;
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) { df_[i] -= w_[k] * dg_[j]; });
        for (std::int64_t i = 0; i < n_; ++i) df_[i] *= row_inverse_[i];
        each([&](std::int64_t i, std::int64_t k, std::int32_t j) {
            dp_[k] = w_[k] * (df_[i] + dg_[j]) + h_[k];
            ds_[k] += reg_ * dp_[k] - df_[i] - dg_[j];
        });
    }

    double longest() const {  // at most 1/to_boundary: one length for both, since reg couples them
        double length = 1 / to_boundary;
        for (std::size_t k = 0; k < p_.size(); ++k) {
            if (dp_[k] < 0) length = std::min(length, -p_[k] / dp_[k]);
            if (ds_[k] < 0) length = std::min(length, -s_[k] / ds_[k]);
        }
        return std::min(length, 1 / to_boundary);
    }

    const PairList& pairs_;
    const std::vector<double>&a_, &b_;
    double reg_, mass_ = 0;
    std::int64_t n_, m_;
    std::vector<double> p_, s_, w_, h_, dp_, ds_, product_;
    std::vector<double> row_inverse_, df_, row_rhs_, lack_a_, diagonal_, dg_, rhs_, column_rhs_, lack_b_, dense_;

public:
    std::vector<double> f, g;
    int steps = 0;
};

}  // namespace

int solve_on_pairs(const PairList& pairs, const std::vector<double>& a, const std::vector<double>& b, double reg,
                   double tol, std::vector<double>& f, std::vector<double>& g) {
    if (pairs.index.empty()) return 0;
    InteriorPoint method(pairs, a, b, reg, f, g);
    // What ps has to be well below for an entry as small as the smallest weight to be told from the slack beside it.
    double least = std::numeric_limits<double>::infinity();
    for (const std::vector<double>* weights : {&a, &b}) {
        for (double x : *weights) least = x > 0 ? std::min(least, x) : least;
    }
    const double gap = 1e-6 * reg * least * least * static_cast<double>(a.size() + b.size());
    if (!method.run(tol, std::max(gap, 1e-200))) return 0;
    f = std::move(method.f);
    g = std::move(method.g);
    return method.steps;
}

}  // namespace raphson
