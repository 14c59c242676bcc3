#include "ot/level.h"

#include <cmath>
#include <stdexcept>

namespace raphson {

Level::Level(const TransportProblem& problem)
    : problem_(problem), padded_(ot_padded(problem.m)), reg_(problem.reg) {
    const auto rows = static_cast<std::size_t>(problem.n), cols = static_cast<std::size_t>(padded_);
    u.assign(rows, 0.0);
    row_sum.assign(rows, 0.0);
    psi.assign(cols, minus_infinity);
    columns.assign(cols, 0.0);
    log_b_.assign(cols, minus_infinity);
    for (std::int64_t j = 0; j < problem.m; ++j) {
        log_b_[j] = problem.b[j] > 0 ? std::log(problem.b[j]) : minus_infinity;
        psi[j] = log_b_[j];
    }
    set_reg(problem.reg);
}

void Level::set_reg(double reg) {
    const double ratio = reg_ / reg;
    if (ratio != 1) {
        for (double& value : u) value *= ratio;
        for (std::int64_t j = 0; j < m(); ++j) {
            if (psi[j] > minus_infinity) psi[j] = log_b_[j] + (psi[j] - log_b_[j]) * ratio;
        }
    }
    reg_ = reg;
    kappa_a_ = reg / problem_.rho_a;
    kappa_b_ = reg / problem_.rho_b;
    exponent_a_ = 1 / (1 + kappa_a_);
    exponent_b_ = 1 / (1 + kappa_b_);
    drop_kernel();
}

double Level::target_column(std::int64_t j) const {
    const double b = problem_.b[j];
    return kappa_b_ == 0 || !(b > 0) ? b : b * std::exp(-kappa_b_ * (psi[j] - log_b_[j]));
}
double Level::target_row(std::int64_t i) const {
    const double a = problem_.a[i];
    return kappa_a_ == 0 || !(a > 0) ? a : a * std::exp(-kappa_a_ * u[i]);
}

double Level::row_mass(std::int64_t i) const {
    return rows_exact_ ? target_row(i) : problem_.a[i] * row_sum[i];
}

double Level::semi_dual() const {
    const auto side = [](double weight, double kappa, double x) {
        return kappa == 0 ? -weight * x : weight * std::expm1(-kappa * x) / kappa;
    };
    double rows = 0, cols = 0, mass = 0;
    for (std::int64_t i = 0; i < n(); ++i) {
        if (!(problem_.a[i] > 0)) continue;
        rows += side(problem_.a[i], kappa_a_, u[i]);
        mass += row_mass(i);
    }
    for (std::int64_t j = 0; j < m(); ++j) {
        if (problem_.b[j] > 0) cols += side(problem_.b[j], kappa_b_, psi[j] - log_b_[j]);
    }
    return rows + cols + mass;
}

void Level::find_error(bool rows_too) {
    double sum = 0;
    for (std::int64_t j = 0; j < m(); ++j) sum += std::abs(columns[j] - target_column(j));
    if (rows_too) {
        for (std::int64_t i = 0; i < n(); ++i) {
            if (problem_.a[i] > 0) sum += std::abs(problem_.a[i] * row_sum[i] - target_row(i));
        }
    }
    error_ = sum;
}

CgOutcome Level::solve(const SchurTerms&, const SparsePlan*, const double*, double*, double, int) {
    throw std::logic_error("raphson: a level that does not solve was asked to");
}

}  // namespace raphson
