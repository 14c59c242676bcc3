// K = [[B + shift I, Gᵀ], [G, −damping I]]: products, factors, solutions.
#pragma once

#include <cstdint>
#include <vector>

#include "newton/sparse_ldlt.h"
#include "raphson/rows.h"

namespace raphson {

// fn(column, value) for the stored entries of row i.
template <class Fn>
void each_entry(const RowBlock& a, std::int64_t i, Fn&& fn) {
    const auto* const values = static_cast<const double*>(a.values);
    if (a.starts == nullptr) {
        for (std::int64_t j = 0; j < a.cols; ++j) fn(j, values[i * a.stride + j]);
    } else {
        for (std::int64_t p = a.starts[i]; p < a.starts[i + 1]; ++p) fn(static_cast<std::int64_t>(a.index[p]), values[p]);
    }
}
// y (rows) ← a x, and y (cols) += aᵀ x.
void times_rows(const RowBlock& a, const double* x, double* y);
void add_transposed(const RowBlock& a, const double* x, double* y);

// A matrix of one's own.
class OwnedRows {
public:
    void copy(const RowBlock& a);
    const RowBlock& view() const { return view_; }

private:
    std::vector<double> values_;
    std::vector<std::int64_t> starts_;
    std::vector<std::int32_t> index_;
    RowBlock view_;
};

class KktSystem {
public:
    // What b and g view must live while this is used; symbolic work is kept where the patterns have not changed. Of b the
    // upper triangle is read.
    void set(const RowBlock& b, const RowBlock& g);
    const RowBlock& hessian() const { return b_; }
    const RowBlock& jacobian() const { return g_; }
    std::int64_t size() const { return n_ + m_; }
    bool sparse() const { return sparse_; }

    void times(const double* x, double* y) const;  // with the shift and damping of the last factor()
    void hessian_times(const double* x, double* y) const;
    double frobenius() const;  // of [[B, Gᵀ], [G, 0]]
    double frobenius_shifted() const;  // with the shift of the last factor()
    double hessian_norm() const { return b_norm_; }  // Frobenius
    double jacobian_norm() const { return g_norm_; }
    double hessian_diagonal(std::int64_t i) const;

    PivotSigns factor(double shift, double damping);
    void solve_factored(double* x) const;  // x ← K⁻¹ x
    // The same, refined; gives the number of refinements. `residual`: ‖K x − rhs‖.
    int solve(const double* rhs, double* x, double* residual) const;
    double negative_direction(double* p) const;  // p (size()), pᵀ K p < 0: of an unconstrained system, a descent of curvature

    // K itself: dense, or, of a sparse system, its rows compressed.
    void full_dense(std::vector<double>& k) const { fill_dense(k, nullptr); }
    void full_rows(std::vector<std::int64_t>& starts, std::vector<std::int32_t>& index, std::vector<double>& values) const;

private:
    void make_pattern();
    std::vector<std::int32_t> pairs() const;
    bool same_pattern() const;
    void scale_rows();
    void fill_upper(double* k, const double* scale) const;
    void fill_dense(std::vector<double>& k, const double* scale) const;
    template <class Fn>
    void each_upper(Fn&& fn) const;  // fn(i, j, value), j ≥ i

    RowBlock b_, g_;
    std::int64_t n_ = 0, m_ = 0;
    bool sparse_ = false, patterned_ = false;
    double shift_ = 0, damping_ = 0, b_norm_ = 0, g_norm_ = 0;
    std::vector<double> scale_;  // powers of two
    std::vector<double> values_;
    Ldlt dense_;
    SparseLdlt fronts_;
    std::vector<std::int64_t> starts_;  // pattern of the upper triangle of K
    std::vector<std::int32_t> index_;
    std::vector<std::int64_t> b_starts_, g_starts_, b_to_, g_to_;  // of which patterns, and where their entries go
    std::vector<std::int32_t> b_index_, g_index_;
};

}  // namespace raphson
