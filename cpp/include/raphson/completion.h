// Low-rank matrix completion from some of a matrix's entries.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "raphson/status.h"
#include "raphson/view.h"

namespace raphson {

// Entries (rows[p], cols[p], values[p]), in any order; one that comes twice counts twice.
struct Observations {
    std::int64_t rows_of_matrix = 0, cols_of_matrix = 0, count = 0;
    const std::int64_t* rows = nullptr;
    const std::int64_t* cols = nullptr;
    const void* values = nullptr;
    DType type = DType::float64;  // or float32; arithmetic is float64
};

enum class Regression : std::uint8_t {
    automatic,  // normal; where a pivot is lost to rounding, sketch for rows with many entries, else orthogonal
    normal,     // Cholesky's factor of the normal matrix; orthogonal where a pivot is lost
    sketch,     // conjugate gradients preconditioned by the triangle of a sparse sign sketch; orthogonal for short rows
    orthogonal, // Householder's QR, then Jacobi's rotations: the least change where there are several minimisers
};

struct CompletionRecord {
    int iteration;
    double residual;    // √(Σ (error)² / count) at the start of the iteration
    double optimality;  // as CompletionResult's, of the left factor alone
    double seconds;
};

struct CompletionOptions {
    std::int64_t rank = 1;
    double ridge = 0;
    double tol = 1e-8;  // of the optimality
    int max_iter = 500;
    std::uint64_t seed = 0;
    bool spectral = true;  // else a random start
    Regression regression = Regression::automatic;
    DType precision = DType::float64;  // the factors are rounded to it before they are measured
    const double* init = nullptr;      // right factor to start from, cols × rank; null: as `spectral` says
    std::function<bool(const CompletionRecord&)> callback;  // true: stop
};

struct CompletionResult {
    std::vector<double> left, right;  // rows × rank, cols × rank
    Status status = Status::max_iter;
    double objective = 0;   // Σ (a − leftᵢ·rightⱼ)² + ridge (‖left‖² + ‖right‖²)
    double residual = 0;    // √(Σ (a − leftᵢ·rightⱼ)² / count)
    double optimality = 0;  // ‖½∇‖ of left over √(Σ‖aᵢ‖²‖Vᵢ‖² + ridge Σa²), Vᵢ the rows of right that meet row i; or of right
    int iterations = 0;
    std::int64_t orthogonal = 0, sketched = 0;  // regressions that were solved so
    std::vector<CompletionRecord> history;
};

// min Σ (a − leftᵢ·rightⱼ)² + ridge (‖left‖² + ‖right‖²) by alternating least squares. std::invalid_argument: ranks, indices
// out of range; NotFinite: values.
CompletionResult complete_matrix(const Observations& observed, const CompletionOptions& options);

}  // namespace raphson
