// Saddle-point (KKT) systems [[B, Gᵀ], [G, 0]] x = rhs, B symmetric: direct, Krylov, and sketch-and-project solvers.
#pragma once

#include <cstdint>
#include <vector>

#include "raphson/rows.h"
#include "raphson/status.h"

namespace raphson {

enum class KktMethod {
    ldlt,      // factored: Bunch–Kaufman for dense matrices, multifrontal for sparse ones
    minres,    // MINRES, preconditioned by diag(B) and the Schur complement G diag(B)⁻¹ Gᵀ, factored
    kaczmarz,  // one random row a step
    gaussian,  // one random combination of all rows a step
    block,     // a random block of rows a step, of a fixed partition, each factored once
};
const char* to_string(KktMethod method);

enum class RowSampling {
    equilibrated,  // uniform, after rows and columns were scaled alike
    uniform,
    row_norm,  // rows by their squared norms (Strohmer and Vershynin 2009)
};

struct Inertia {
    std::int64_t positive = 0, negative = 0, zero = 0;
};

struct KktOptions {
    KktMethod method = KktMethod::ldlt;
    double tol = 1e-12;         // of ‖K x − rhs‖ / ‖rhs‖
    std::int64_t max_iter = 0;  // 0: minres 5·size + 50, sketch-and-project 1000·size
    std::uint64_t seed = 0;
    RowSampling sampling = RowSampling::equilibrated;
    std::int64_t block_size = 32;
    const double* init = nullptr;  // where sketch-and-project starts; null: 0
};

struct KktSolution {
    std::vector<double> x;  // n + m
    double residual = 0;    // ‖K x − rhs‖ / ‖rhs‖ (of 0 rhs: ‖K x‖), measured on x
    Status status = Status::max_iter;
    std::int64_t iterations = 0;  // ldlt: refinements
    bool factored = false;        // whether `inertia` is known
    Inertia inertia;
};

// B (n×n; its upper triangle is read) and G (m×n; m may be 0), float64, both dense or both compressed with ascending columns.
// std::invalid_argument: shapes, types, columns out of order.
KktSolution solve_kkt(const RowBlock& b, const RowBlock& g, const double* rhs, const KktOptions& options = {});

}  // namespace raphson
