// The positive definite preconditioner diag(D, G D⁻¹ Gᵀ) of a saddle-point matrix (Murphy, Golub and Wathen 2000), D = |diag(B)|.
#pragma once

#include <cstdint>
#include <vector>

#include "newton/kkt_system.h"

namespace raphson {

class SchurPreconditioner {
public:
    SchurPreconditioner(const KktSystem& system, const RowBlock& b, const RowBlock& g);
    void apply(const double* x, double* y) const;  // y ← M⁻¹ x

private:
    std::int64_t n_ = 0, m_ = 0;
    std::vector<double> diagonal_;  // D
    bool sparse_ = false;
    std::vector<double> dense_;  // Cholesky factor
    KktSystem factored_;         // sparse: factored as a system without constraints
    std::vector<std::int64_t> starts_;
    std::vector<std::int32_t> index_;
    std::vector<double> values_;
};

}  // namespace raphson
