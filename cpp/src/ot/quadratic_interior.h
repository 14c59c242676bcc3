// Quadratically regularised transport restricted to a list of pairs, by a primal-dual interior point method: what
// degenerate supports (tied costs, weights of very different sizes, reg next to zero) do to Newton steps on the
// semi-dual they do not do to it.
#pragma once

#include <cstdint>
#include <vector>

namespace raphson {

struct PairList {  // by rows
    std::vector<std::int64_t> row_end;
    std::vector<std::int32_t> index;
    std::vector<double> cost;
};

// Potentials of min ⟨P, C⟩ + reg/2·‖P‖² over couplings on the pairs, f and g being where to begin; those of columns
// without a pair are left alone. Returns the steps, each of which costs a dense factor of order m; 0: it has not come
// to `tol` in what the marginals lack, and nothing is changed. Rows with a[i] = 0 have no pairs.
int solve_on_pairs(const PairList& pairs, const std::vector<double>& a, const std::vector<double>& b, double reg,
                   double tol, std::vector<double>& f, std::vector<double>& g);

}  // namespace raphson
