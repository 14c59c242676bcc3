#include "ot/schur.h"

#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "table.h"

namespace raphson {
namespace {

double dot(const std::vector<double>& x, const std::vector<double>& y) {
    double sums[4] = {};
    std::size_t k = 0;
    for (; k + 4 <= x.size(); k += 4) {
        for (std::size_t l = 0; l < 4; ++l) sums[l] += x[k + l] * y[k + l];
    }
    for (; k < x.size(); ++k) sums[0] += x[k] * y[k];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}
double l1(const std::vector<double>& x) {
    double sums[4] = {};
    std::size_t k = 0;
    for (; k + 4 <= x.size(); k += 4) {
        for (std::size_t l = 0; l < 4; ++l) sums[l] += std::abs(x[k + l]);
    }
    for (; k < x.size(); ++k) sums[0] += std::abs(x[k]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

SparseRows rows_of(const SparsePlan::Piece& piece, std::int64_t columns) {
    return {static_cast<const std::int32_t*>(piece.index.get()), static_cast<const double*>(piece.value.get()),
            piece.row_end.data(), piece.rows, columns};
}

}  // namespace

Schur::Schur(Level& level, const SparsePlan* plan, double shift)
    : level_(level), plan_(plan), singular_(level.kappa_a() == 0 && level.kappa_b() == 0 && shift == 0) {
    const std::size_t rows = level.u.size(), cols = level.psi.size();
    const std::int64_t n = level.n(), m = level.m();
    d1_inverse_.assign(rows, 0.0);
    d2_.assign(cols, 0.0);
    jacobi_.assign(cols, 0.0);
    std::vector<double> row_mass(rows, 0.0);
    for (std::int64_t i = 0; i < n; ++i) {
        if (!(level.problem().a[i] > 0)) continue;
        row_mass[i] = level.row_mass(i);
        const double d1 = row_mass[i] + level.kappa_a() * level.target_row(i);
        if (d1 > 0) d1_inverse_[i] = 1 / d1;
    }
    std::vector<double> diagonal(cols, 0.0);
    for (std::int64_t j = 0; j < m; ++j) {
        if (!(level.problem().b[j] > 0)) continue;
        // a column that gets next to nothing would be sent to infinity
        d2_[j] = std::max(level.columns[j], 1e-6 * level.problem().b[j]) +
                 level.kappa_b() * level.target_column(j) + shift;
        diagonal[j] = d2_[j];
    }
    r_.resize(cols);
    z_.resize(cols);
    p_.resize(cols);
    q_.resize(cols);
    if (plan_ != nullptr) {
        lump_p_ = row_mass;
        lump_q_.assign(cols, 0.0);
        for (std::int64_t j = 0; j < m; ++j) lump_q_[j] = level.columns[j];
        lump_w_.assign(cols, 0.0);
        double total_p = 0, total_q = 0;
        std::int64_t row = 0;
        for (const SparsePlan::Piece& piece : plan_->pieces) {
            const SparseRows part = rows_of(piece, m);
            std::int64_t k = 0;
            for (std::int64_t i = 0; i < part.rows; ++i, ++row) {
                double kept = 0;
                for (; k < part.row_end[i]; ++k) {
                    kept += part.value[k];
                    lump_q_[part.index[k]] -= part.value[k];
                    diagonal[part.index[k]] -= part.value[k] * part.value[k] * d1_inverse_[row];
                }
                lump_p_[row] = std::max(lump_p_[row] - kept, 0.0);
                total_p += lump_p_[row];
            }
        }
        for (double& q : lump_q_) {
            q = std::max(q, 0.0);
            total_q += q;
        }
        lump_total_ = std::max(total_p, total_q);
        if (lump_total_ > 0) {
            for (std::int64_t i = 0; i < n; ++i) lump_pp_ += lump_p_[i] * lump_p_[i] * d1_inverse_[i];
            row = 0;
            for (const SparsePlan::Piece& piece : plan_->pieces) {
                const SparseRows part = rows_of(piece, m);
                std::int64_t k = 0;
                for (std::int64_t i = 0; i < part.rows; ++i, ++row) {
                    const double z = lump_p_[row] * d1_inverse_[row];
                    for (; k < part.row_end[i]; ++k) lump_w_[part.index[k]] += z * part.value[k];
                }
            }
        }
    }
    for (std::size_t j = 0; j < cols; ++j) {
        if (d2_[j] > 0) jacobi_[j] = 1 / std::max(diagonal[j], 1e-14 * d2_[j]);
    }
}

void Schur::apply(const double* x, double* y) {
    if (plan_ == nullptr) {
        level_.normal_dense(x, d1_inverse_.data(), y);
        for (std::size_t j = 0; j < d2_.size(); ++j) y[j] = d2_[j] * x[j] - y[j];
        return;
    }
    level_.normal_sparse(*plan_, x, d1_inverse_.data(), y);
    double qx = 0, wx = 0;
    if (lump_total_ > 0) {
        for (std::size_t j = 0; j < d2_.size(); ++j) {
            qx += lump_q_[j] * x[j];
            wx += lump_w_[j] * x[j];
        }
        qx /= lump_total_;
        wx = (wx + lump_pp_ * qx) / lump_total_;
    }
    for (std::size_t j = 0; j < d2_.size(); ++j) y[j] = d2_[j] * x[j] - y[j] - lump_w_[j] * qx - lump_q_[j] * wx;
}

void Schur::precondition(const double* r, double* z) const {
    if (factor_ == nullptr) {
        for (std::size_t j = 0; j < d2_.size(); ++j) z[j] = jacobi_[j] * r[j];
        return;
    }
    std::copy(r, r + level_.m(), z);
    kernels().ot.cholesky_solve(factor_->data(), level_.m(), z);
}

CgOutcome Schur::solve(const double* rhs, double* x, double target, int most) {
    const std::size_t cols = d2_.size();
    std::fill(x, x + cols, 0.0);
    std::copy(rhs, rhs + cols, r_.begin());
    if (singular_) {
        double sum = 0, weight = 0;
        for (std::size_t j = 0; j < cols; ++j) {
            sum += r_[j];
            weight += d2_[j];
        }
        for (std::size_t j = 0; j < cols; ++j) r_[j] -= d2_[j] * (sum / weight);
    }
    std::fill(z_.begin(), z_.end(), 0.0);
    precondition(r_.data(), z_.data());
    p_ = z_;
    double rz = dot(r_, z_);
    CgOutcome outcome;
    outcome.residual = l1(r_);
    while (outcome.residual > target && outcome.iterations < most) {
        apply(p_.data(), q_.data());
        const double curvature = dot(p_, q_);
        if (!(curvature > 0)) break;
        const double alpha = rz / curvature;
        for (std::size_t j = 0; j < cols; ++j) {
            x[j] += alpha * p_[j];
            r_[j] -= alpha * q_[j];
        }
        ++outcome.iterations;
        outcome.residual = l1(r_);
        precondition(r_.data(), z_.data());
        const double next = dot(r_, z_);
        if (!(next > 0)) break;
        const double beta = next / rz;
        rz = next;
        for (std::size_t j = 0; j < cols; ++j) p_[j] = z_[j] + beta * p_[j];
    }
    return outcome;
}

bool Schur::factor(std::vector<double>& s) {
    const std::int64_t m = level_.m();
    if (plan_ == nullptr) return false;
    s.assign(static_cast<std::size_t>(m) * static_cast<std::size_t>(m), 0.0);
    const double weight = [&] {
        double sum = 0;
        for (double d : d2_) sum += d;
        return sum;
    }();
    constexpr std::int64_t stripe = 64;
    const double scale = lump_total_ > 0 ? 1 / lump_total_ : 0;
    parallel_for((m + stripe - 1) / stripe, [&](std::int64_t task) {
        const std::int64_t begin = task * stripe, end = std::min(begin + stripe, m);
        for (std::int64_t j = begin; j < end; ++j) {  // upper triangle by rows = lower by columns
            double* row = s.data() + j * m;
            const double from_q = -scale * lump_w_[j] - scale * scale * lump_pp_ * lump_q_[j], from_w = -scale * lump_q_[j];
            const double pinned = singular_ ? d2_[j] / weight : 0;  // the null vector gets the eigenvalue of its own
            for (std::int64_t k = j; k < m; ++k) row[k] = from_q * lump_q_[k] + from_w * lump_w_[k] + pinned * d2_[k];
            row[j] += d2_[j] > 0 ? d2_[j] : 1;
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
                    const double c = -part.value[p] * d1_inverse_[i];
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
    for (std::size_t i = 0; i < d1_inverse_.size(); ++i) rows[i] = d1_inverse_[i] * (row_rhs[i] - rows[i]);
}

}  // namespace raphson
