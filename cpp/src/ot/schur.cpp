#include "ot/schur.h"

#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "common/vector.h"
#include "ot/host_level.h"
#include "table.h"

namespace raphson {
namespace {

double l1(const std::vector<double>& x) {
    double sums[4] = {};
    std::size_t k = 0;
    for (; k + 4 <= x.size(); k += 4) {
        for (std::size_t l = 0; l < 4; ++l) sums[l] += std::abs(x[k + l]);
    }
    for (; k < x.size(); ++k) sums[0] += std::abs(x[k]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace

Schur::Schur(Level& level, const SparsePlan* plan, double shift) : level_(level), plan_(plan) {
    const std::size_t rows = level.u.size(), cols = level.psi.size();
    const std::int64_t n = level.n(), m = level.m();
    SchurTerms& t = terms_;
    t.singular = level.kappa_a() == 0 && level.kappa_b() == 0 && shift == 0;
    t.d1_inverse.assign(rows, 0.0);
    t.d2.assign(cols, 0.0);
    t.jacobi.assign(cols, 0.0);
    std::vector<double> row_mass(rows, 0.0);
    for (std::int64_t i = 0; i < n; ++i) {
        if (!(level.problem().a[i] > 0)) continue;
        row_mass[i] = level.row_mass(i);
        const double d1 = row_mass[i] + level.kappa_a() * level.target_row(i);
        if (d1 > 0) t.d1_inverse[i] = 1 / d1;
    }
    for (std::int64_t j = 0; j < m; ++j) {
        if (!(level.problem().b[j] > 0)) continue;
        // a column that gets next to nothing would be sent to infinity
        t.d2[j] = std::max(level.columns[j], 1e-6 * level.problem().b[j]) + level.kappa_b() * level.target_column(j) + shift;
    }
    std::vector<double> squares(cols, 0.0);
    if (plan_ != nullptr) {
        std::vector<double> p(rows), &q = t.lump_q;
        q.assign(cols, 0.0);
        t.lump_w.assign(cols, 0.0);
        level.pattern_sums(*plan_, t.d1_inverse.data(), p.data(), q.data(), squares.data());
        double total_p = 0, total_q = 0;
        for (std::size_t i = 0; i < rows; ++i) {
            p[i] = std::max(row_mass[i] - p[i], 0.0);
            total_p += p[i];
        }
        for (std::int64_t j = 0; j < m; ++j) {
            q[j] = std::max(level.columns[j] - q[j], 0.0);
            total_q += q[j];
        }
        t.lump_total = std::max(total_p, total_q);
        for (std::size_t i = 0; i < rows; ++i) {
            t.lump_pp += p[i] * p[i] * t.d1_inverse[i];
            p[i] *= t.d1_inverse[i];
        }
        if (t.lump_total > 0) level.pattern_columns(*plan_, p.data(), t.lump_w.data());
    }
    for (std::size_t j = 0; j < cols; ++j) {
        if (t.d2[j] > 0) t.jacobi[j] = 1 / std::max(t.d2[j] - squares[j], 1e-14 * t.d2[j]);
    }
    r_.resize(cols);
    z_.resize(cols);
    p_.resize(cols);
    q_.resize(cols);
}

void Schur::apply(const double* x, double* y) {
    const SchurTerms& t = terms_;
    level_.normal(plan_, x, t.d1_inverse.data(), y);
    if (plan_ == nullptr) {
        for (std::size_t j = 0; j < t.d2.size(); ++j) y[j] = t.d2[j] * x[j] - y[j];
        return;
    }
    double qx = 0, wx = 0;
    if (t.lump_total > 0) {
        for (std::size_t j = 0; j < t.d2.size(); ++j) {
            qx += t.lump_q[j] * x[j];
            wx += t.lump_w[j] * x[j];
        }
        qx /= t.lump_total;
        wx = (wx + t.lump_pp * qx) / t.lump_total;
    }
    for (std::size_t j = 0; j < t.d2.size(); ++j) y[j] = t.d2[j] * x[j] - y[j] - t.lump_w[j] * qx - t.lump_q[j] * wx;
}

void Schur::precondition(const double* r, double* z) const {
    if (factor_ == nullptr) {
        for (std::size_t j = 0; j < terms_.d2.size(); ++j) z[j] = terms_.jacobi[j] * r[j];
        return;
    }
    std::copy(r, r + level_.m(), z);
    kernels().ot.cholesky_solve(factor_->data(), level_.m(), z);
}

CgOutcome Schur::solve(const double* rhs, double* x, double target, int most) {
    const std::size_t cols = terms_.d2.size();
    std::fill(x, x + cols, 0.0);
    std::copy(rhs, rhs + cols, r_.begin());
    if (terms_.singular) {
        double sum = 0, weight = 0;
        for (std::size_t j = 0; j < cols; ++j) {
            sum += r_[j];
            weight += terms_.d2[j];
        }
        for (std::size_t j = 0; j < cols; ++j) r_[j] -= terms_.d2[j] * (sum / weight);
    }
    if (level_.solves()) return level_.solve(terms_, plan_, r_.data(), x, target, most);
    std::fill(z_.begin(), z_.end(), 0.0);
    precondition(r_.data(), z_.data());
    p_ = z_;
    double rz = dot_by_four(r_, z_);
    CgOutcome outcome;
    outcome.residual = l1(r_);
    while (outcome.residual > target && outcome.iterations < most) {
        apply(p_.data(), q_.data());
        const double curvature = dot_by_four(p_, q_);
        if (!(curvature > 0)) break;
        const double alpha = rz / curvature;
        for (std::size_t j = 0; j < cols; ++j) {
            x[j] += alpha * p_[j];
            r_[j] -= alpha * q_[j];
        }
        ++outcome.iterations;
        outcome.residual = l1(r_);
        precondition(r_.data(), z_.data());
        const double next = dot_by_four(r_, z_);
        if (!(next > 0)) break;
        const double beta = next / rz;
        rz = next;
        for (std::size_t j = 0; j < cols; ++j) p_[j] = z_[j] + beta * p_[j];
    }
    return outcome;
}

bool Schur::factor(std::vector<double>& s) {
    const std::int64_t m = level_.m();
    const SchurTerms& t = terms_;
    if (plan_ == nullptr || !level_.can_factor()) return false;
    s.assign(static_cast<std::size_t>(m) * static_cast<std::size_t>(m), 0.0);
    const double weight = [&] {
        double sum = 0;
        for (double d : t.d2) sum += d;
        return sum;
    }();
    constexpr std::int64_t stripe = 64;
    const double scale = t.lump_total > 0 ? 1 / t.lump_total : 0;
    parallel_for((m + stripe - 1) / stripe, [&](std::int64_t task) {
        const std::int64_t begin = task * stripe, end = std::min(begin + stripe, m);
        for (std::int64_t j = begin; j < end; ++j) {  // upper triangle by rows = lower by columns
            double* row = s.data() + j * m;
            const double from_q = -scale * t.lump_w[j] - scale * scale * t.lump_pp * t.lump_q[j], from_w = -scale * t.lump_q[j];
            const double pinned = t.singular ? t.d2[j] / weight : 0;  // the null vector gets the eigenvalue of its own
            for (std::int64_t k = j; k < m; ++k) row[k] = from_q * t.lump_q[k] + from_w * t.lump_w[k] + pinned * t.d2[k];
            row[j] += t.d2[j] > 0 ? t.d2[j] : 1;
        }
        std::int64_t i = 0;
        for (const SparsePlan::Piece& piece : plan_->pieces) {
            const SparseRows part = rows_of(piece, m);
            std::int64_t first = 0;
            for (std::int64_t r = 0; r < part.rows; ++r, ++i) {
                const std::int32_t* index = part.index;
                const std::int64_t last = part.row_end[r];
                std::int64_t p = std::lower_bound(index + first, index + last, begin) - index;
                for (; p < last && index[p] < end; ++p) {
                    double* row = s.data() + index[p] * m;
                    const double c = -part.value[p] * t.d1_inverse[i];
                    for (std::int64_t q = p; q < last; ++q) row[index[q]] += c * part.value[q];
                }
                first = last;
            }
        }
    });
    throw_if_cancelled();
    if (!kernels().ot.cholesky(s.data(), m)) return false;
    factor_ = &s;
    return true;
}

void Schur::rows_for(const double* row_rhs, const double* x, double* rows) {
    level_.product_rows(x, rows);
    for (std::size_t i = 0; i < terms_.d1_inverse.size(); ++i) rows[i] = terms_.d1_inverse[i] * (row_rhs[i] - rows[i]);
}

}  // namespace raphson
