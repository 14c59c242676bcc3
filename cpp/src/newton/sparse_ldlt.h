// Sparse symmetric indefinite matrices, factored by fronts.
#pragma once

#include <cstdint>
#include <vector>

#include "dense/dense.h"

namespace raphson {

// P A Pᵀ = L D Lᵀ, multifrontal (Duff and Reid 1983): minimum degree, fronts of columns with like structure, Bunch–Kaufman
// pivots within a front's own rows; columns without a stable pivot there wait for the front above.
class SparseLdlt {
public:
    // The pattern (CSR) of the upper triangle: columns ≥ row, each diagonal entry among them. partner[i]: the row that is
    // eliminated together with row i, for a pivot of two, or −1.
    void analyze(std::int64_t n, const std::int64_t* starts, const std::int32_t* index, const std::int32_t* partner);
    // Values in that order. A column that is nowhere above zero·(largest value) is counted as zero and left out.
    void factor(const double* values, double zero);
    void solve(double* x) const;
    PivotSigns signs() const { return signs_; }
    double negative_direction(double* p) const;  // as Ldlt's

private:
    void find_order(const std::int64_t* starts, const std::int32_t* index, const std::int32_t* partner);
    void find_tree(const std::int64_t* starts, const std::int32_t* index);
    void find_fronts(const std::int32_t* partner);
    std::int64_t fronts() const { return static_cast<std::int64_t>(first_.size()) - 1; }
    std::int64_t width(std::int64_t s) const { return first_[static_cast<std::size_t>(s) + 1] - first_[static_cast<std::size_t>(s)]; }
    struct Update;
    void backward(double* pivots, double* y) const;

    std::int64_t n_ = 0;
    std::vector<std::int32_t> order_;                    // which row is eliminated k-th
    std::vector<std::int64_t> upper_starts_;             // the permuted upper triangle by columns
    std::vector<std::int32_t> upper_index_;
    std::vector<std::int64_t> lower_starts_;             // the same by rows, and from where values come: what a front's column takes
    std::vector<std::int32_t> lower_index_;
    std::vector<std::int64_t> lower_from_;
    std::vector<std::int32_t> parent_;                   // elimination tree
    std::vector<std::int64_t> counts_;                   // entries of L's columns, the diagonal's included
    std::vector<std::int64_t> first_;                    // of each front's columns
    std::vector<std::int64_t> row_starts_;               // rows of each front, its own first
    std::vector<std::int32_t> rows_;
    std::vector<std::int64_t> front_parent_, children_;  // how many fronts hang on each

    // Of the factors, where columns may have waited:
    std::vector<std::int64_t> pivot_starts_, factor_starts_, panel_starts_;  // of each front's pivots, rows and part of Lᵀ
    std::vector<std::int32_t> factor_rows_;                                  // its pivots' rows first
    std::vector<double> panels_, d_, e_;
    PivotSigns signs_;
};

}  // namespace raphson
