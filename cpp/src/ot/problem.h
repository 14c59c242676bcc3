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
    std::size_t row_part(std::int64_t i) const { return row_component.empty() ? 0 : static_cast<std::size_t>(row_component[i]); }
    std::size_t column_part(std::int64_t j) const { return column_component.empty() ? 0 : static_cast<std::size_t>(column_component[j]); }
};

// Balanced potentials are free by a constant in every part of the allowed pairs. What the rows' have to gain, and the
// columns' to lose, for ⟨a, f⟩ = ⟨b, g⟩ in each; f(i) and g(j) are asked where the weight is positive.
template <class F, class G>
std::vector<double> gauge_shifts(const TransportProblem& problem, F&& f, G&& g) {
    const auto parts = static_cast<std::size_t>(problem.components);
    std::vector<double> shift(parts, 0.0), mass(parts, 0.0);
    for (std::int64_t i = 0; i < problem.n; ++i) {
        if (!(problem.a[i] > 0)) continue;
        shift[problem.row_part(i)] -= problem.a[i] * f(i);
        mass[problem.row_part(i)] += problem.a[i];
    }
    for (std::int64_t j = 0; j < problem.m; ++j) {
        if (problem.b[j] > 0) shift[problem.column_part(j)] += problem.b[j] * g(j);
    }
    for (std::size_t k = 0; k < parts; ++k) shift[k] /= 2 * mass[k];
    return shift;
}

// A cost once scanned can serve several calls.
struct CostFacts {
    double lowest = 0, highest = 0;  // of the finite entries
    bool forbids = false;
};
// std::invalid_argument: what is wrong with the entry (i, j), which is NaN or −Inf.
[[noreturn]] void refuse_entry(const std::string& function, double entry, std::int64_t i, std::int64_t j);
void require_finite_entry(const std::string& function, const CostFacts& facts);
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
