// What is to be solved, checked and in float64, the cost apart, which is read where it lies.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "ot/passes.h"

namespace raphson {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

inline std::int64_t ot_padded(std::int64_t columns) { return (columns + ot_padding - 1) / ot_padding * ot_padding; }

// A dense cost, or two clouds of points; then y lies coordinate by coordinate, padded.
struct TransportCost {
    CostBlock dense{DType::float64, nullptr, 0, 0, 0};
    PointBlock points{Metric::sqeuclidean, 1, nullptr, nullptr, 0, 0, 0, 0, nullptr, 0};
    bool is_dense() const { return dense.data != nullptr; }
    std::int64_t rows() const { return is_dense() ? dense.rows : points.rows; }
    std::int64_t columns() const { return is_dense() ? dense.columns : points.columns; }
};

struct TransportProblem {
    std::int64_t n = 0, m = 0;
    TransportCost cost;
    std::vector<double> a, b;  // zero weights take no part
    double reg = 0;
    double rho_a = std::numeric_limits<double>::infinity(), rho_b = rho_a;  // Inf: the marginal holds exactly
    double lowest_cost = 0, highest_cost = 0;                               // of the finite entries; bounds for points
    // Where entries forbid pairs: connected components of what is allowed. Empty: all one.
    std::vector<std::int32_t> row_component, column_component;
    std::int32_t components = 1;
    bool forbids = false;
    bool balanced() const { return std::isinf(rho_a) && std::isinf(rho_b); }
};

// A cost once scanned can serve several calls.
struct CostFacts {
    double lowest = 0, highest = 0;
    bool forbids = false;
};
CostFacts scan_cost(const std::string& function, const TransportCost& cost, bool check_finite);

// Checks everything but the cost's entries and fills in the rest. `mass_tolerance`: masses that differ by less,
// relatively, are taken for equal and b is scaled to a's.
TransportProblem make_problem(const std::string& function, const TransportCost& cost, const CostFacts& facts,
                              std::vector<double> a, std::vector<double> b, double reg, double rho_a, double rho_b,
                              double mass_tolerance);

// True when some columns carry more mass than all rows that may serve them, or rows more than their columns: judged
// for the sets that the potentials of a run that does not converge point at. The proof that no coupling exists.
bool proves_infeasible(const TransportProblem& problem, const std::vector<double>& f, const std::vector<double>& g);

}  // namespace raphson
