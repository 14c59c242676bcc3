#include "newton/schur.h"

#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {
namespace {

using std::int32_t;
using std::int64_t;

}  // namespace

SchurPreconditioner::SchurPreconditioner(const KktSystem& system, const RowBlock& b, const RowBlock& g) : n_(b.rows), m_(g.rows) {
    diagonal_.resize(static_cast<std::size_t>(n_));
    double largest = 0;
    for (int64_t i = 0; i < n_; ++i) largest = std::fmax(largest, std::fabs(system.hessian_diagonal(i)));
    if (largest == 0) largest = 1;
    for (int64_t i = 0; i < n_; ++i) {  // a zero of the diagonal says little about its row
        diagonal_[static_cast<std::size_t>(i)] = std::fmax(std::fabs(system.hessian_diagonal(i)), 1e-3 * largest);
    }
    sparse_ = g.starts != nullptr && m_ > 100;
    if (m_ == 0) return;
    std::vector<std::vector<std::pair<int32_t, double>>> columns(static_cast<std::size_t>(n_));
    double trace = 0;
    for (int64_t i = 0; i < m_; ++i) {
        each_entry(g, i, [&](int64_t j, double v) {
            if (v == 0) return;
            columns[static_cast<std::size_t>(j)].emplace_back(static_cast<int32_t>(i), v);
            trace += v * v / diagonal_[static_cast<std::size_t>(j)];
        });
    }
    const double floor = 1e-10 * std::fmax(trace / static_cast<double>(m_), 1e-300);  // rows of G may depend on one another
    if (!sparse_) dense_.assign(static_cast<std::size_t>(m_ * m_), 0.0);
    std::vector<double> row(static_cast<std::size_t>(m_), 0.0);
    std::vector<int32_t> touched;
    std::vector<char> seen(static_cast<std::size_t>(m_), 0);
    starts_.assign(1, 0);
    for (int64_t i = 0; i < m_; ++i) {  // row i of G D⁻¹ Gᵀ, from the diagonal on
        poll_or_throw();
        touched.assign(1, static_cast<int32_t>(i));
        seen[static_cast<std::size_t>(i)] = 1;
        row[static_cast<std::size_t>(i)] = floor;
        each_entry(g, i, [&](int64_t j, double v) {
            for (const auto& [k, w] : columns[static_cast<std::size_t>(j)]) {
                if (k < i) continue;
                const auto at = static_cast<std::size_t>(k);
                if (seen[at] == 0) {
                    seen[at] = 1;
                    row[at] = 0;
                    touched.push_back(k);
                }
                row[at] += v * w / diagonal_[static_cast<std::size_t>(j)];
            }
        });
        std::sort(touched.begin(), touched.end());
        for (const int32_t k : touched) {
            const double value = row[static_cast<std::size_t>(k)];
            if (sparse_) {
                index_.push_back(k);
                values_.push_back(value);
            } else {
                dense_[static_cast<std::size_t>(k * m_ + i)] = value;  // the lower triangle
            }
            seen[static_cast<std::size_t>(k)] = 0;
        }
        starts_.push_back(static_cast<int64_t>(index_.size()));
    }
    if (!sparse_) {
        cholesky(dense_.data(), m_, m_, floor);
        return;
    }
    RowBlock s;
    s.values = values_.data();
    s.rows = s.cols = m_;
    s.starts = starts_.data();
    s.index = index_.data();
    factored_.set(s, RowBlock{});
    factored_.factor(0, 0);
}

void SchurPreconditioner::apply(const double* x, double* y) const {
    for (int64_t i = 0; i < n_; ++i) y[i] = x[i] / diagonal_[static_cast<std::size_t>(i)];
    if (m_ == 0) return;
    std::copy(x + n_, x + n_ + m_, y + n_);
    if (sparse_) {
        factored_.solve_factored(y + n_);
    } else {
        kernels().dense.solve_triangle(dense_.data(), m_, m_, false, false, y + n_);
        kernels().dense.solve_triangle(dense_.data(), m_, m_, false, true, y + n_);
    }
}

}  // namespace raphson
