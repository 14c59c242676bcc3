// What is to be solved, checked and in float64, the cost apart, which is read where it lies.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ot/passes.h"

namespace raphson {

constexpr double minus_infinity = -std::numeric_limits<double>::infinity();

inline std::int64_t ot_padded(std::int64_t columns) { return (columns + ot_padding - 1) / ot_padding * ot_padding; }

struct TransportCost {
    // dense: rows of float64 or float32, contiguous along the columns; data null for a point cloud
    CostBlock dense{DType::float64, nullptr, 0, 0, 0};
    PointBlock points{Metric::sqeuclidean, 1, nullptr, nullptr, 0, 0, 0, 0, nullptr, 0};
    bool is_dense() const { return dense.data != nullptr; }
};

struct TransportProblem {
    std::int64_t n = 0, m = 0;
    TransportCost cost;
    std::vector<double> a, b;  // weights; zero weights take no part
    double reg = 0;
    double rho_a = std::numeric_limits<double>::infinity(), rho_b = rho_a;  // Inf: the marginal holds exactly
    double lowest_cost = 0, highest_cost = 0;                               // of the finite entries
    bool forbids = false;                                                   // some entry is +Inf
    bool balanced() const { return std::isinf(rho_a) && std::isinf(rho_b); }
};

}  // namespace raphson
