// Sparse symmetric positive definite systems by successive over-relaxation, alone or as CG's preconditioner.
#pragma once

#include <cstdint>
#include <vector>

#include "raphson/rows.h"
#include "raphson/status.h"

namespace raphson {

enum class Relaxation : std::uint8_t {
    sor,      // forward sweeps
    ssor_cg,  // conjugate gradients preconditioned by a forward and a backward sweep
};

struct RelaxationOptions {
    Relaxation method = Relaxation::ssor_cg;
    double omega = 1;  // between 0 and 2
    double shift = 0;  // the system is A + shift·I
    double tol = 1e-8;  // of ‖b − (A + shift I) x‖ / ‖b‖
    std::int64_t max_iter = 10000;
    const double* init = nullptr;  // null: 0
};

struct RelaxationSolution {
    std::vector<double> x;
    double residual = 0;  // ‖b − (A + shift I) x‖ / ‖b‖ (of 0 b: absolute), measured on x
    Status status = Status::max_iter;
    std::int64_t iterations = 0;
};

// A: CSR with ascending columns and a diagonal that, shifted, is positive; its symmetry is taken on trust. One read of A an
// iteration. std::invalid_argument: shapes, columns out of order, the diagonal, omega.
RelaxationSolution relax(const RowBlock& a, const double* b, const RelaxationOptions& options = {});

}  // namespace raphson
