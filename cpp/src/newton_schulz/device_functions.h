// What raphson._cuda offers of the family beside orthogonalize: its derivative, the outlier split, AuON's scaling; and matrix
// functions, whose arrays lie on the device, scales and what was measured on the host, which judges it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/table.h"
#include "newton_schulz/functions.h"

namespace raphson {

// What the host decides by before anything is computed.
struct MatrixFacts {
    double max_abs;    // NaN or Inf if any entry is
    double asymmetry;  // max|A − Aᵀ| of a square matrix, else 0; NaN loses
};

// Matrices first … first+count-1 of an array.
struct FunctionPart {
    const FunctionItem* item;
    std::int64_t first, count;
};

// What was measured on one matrix at its scale, as a row of numbers; flags are 0 or 1.
enum FunctionNumber : int {
    number_cond,              // polar: ‖H⁻¹‖_F²; inverse: ‖A⁻¹‖_F²
    number_norm,              // ‖A‖_F² of the scaled matrix (polar, sqrt, inverse, and sign where `general`)
    number_value,             // ‖·‖_F² of the result, where `general`
    number_residual,          // max|… − I|, or ‖… − A‖_F²
    number_orthogonality,     // ‖UᵀU − I‖_F²
    number_inverse_residual,
    number_iterations,
    number_breakdown,         // polar: H has no inverse
    number_limited,           // the step limit ended the iteration
    number_overflow,          // a result left the range of its dtype, and is zeros
    number_scratch,
    function_numbers
};

// The exponent of results that become NaN, whatever was computed.
constexpr int poisoned_exponent = -0x7fffffff;

struct CudaFunctionJob {
    MatrixFunction function;
    std::int64_t p;
    const MatrixFunctionOptions* options;
    std::int64_t rows, cols;  // of every matrix
    bool narrow;              // float32 results, rounded before they are measured
    bool general;             // sign, sqrt: of matrices that are not symmetric
};

// Matrices of one array, whose derivatives are taken together: `count` from `first` on, run by run.
struct MatrixRun {
    std::int64_t first, count;
};
struct CudaDerivativeJob {
    MatrixFunction function;
    bool general;  // sqrt: of roots that are not symmetric
    std::vector<MatrixRun> runs;
};

struct CudaFunctionTable {
    // As orthogonalize_vjp of the CPU, of float16 too. Looks for NaN and Inf (and waits) only with options.check_finite.
    void (*orthogonalize_vjp)(const BatchRef& x, const BatchRef& cotangent, const BatchRef& out, const OrthogonalizePlan& plan,
                              const OrthogonalizeOptions& options, CudaPlace place);
    // Quantiles of |x| as soft_clip of the CPU, bit for bit; and AuON's scaling alone, out may be x. See outliers.h.
    void (*soft_clip)(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers, CudaPlace place);
    void (*auon)(const BatchRef& x, double gamma, const BatchRef& out, CudaPlace place);
    // facts: one a matrix, in C order. Waits.
    void (*scan)(const BatchRef& a, MatrixFacts* facts, CudaPlace place);
    // Matrices of one shape out of several arrays; inverse_root, and sign and sqrt unless `general`, are of the symmetric
    // part. exponents and numbers (function_numbers each) are in the order of the parts. NaN gives NaN. Waits, and looks at the progress of
    // iterations every few steps.
    void (*evaluate)(const CudaFunctionJob& job, const FunctionPart* parts, std::size_t count, const FunctionExponents* exponents,
                     double* numbers, CudaPlace place);
    // As derivative() of the CPU, for matrices that fit the device together. undefined: 1 a matrix, in the order of the runs, where
    // the function is not differentiable; waits. Of `inverse` it is null, and nothing waits. NaN or Inf in any input makes NaN
    // of a gradient.
    void (*derivative)(const CudaDerivativeJob& job, const DerivativeItem& item, int* undefined, CudaPlace place);
};

// As evaluate(), of arrays on a device; matrices with NaN or Inf end as breakdowns, and NaN.
void evaluate_on_device(MatrixFunction function, std::int64_t p, const FunctionItem* items, std::size_t count,
                        const MatrixFunctionOptions& options, const CudaFunctionTable& table, CudaPlace place);
// As derivative(), of arrays on a device; a matrix with NaN or Inf gets a gradient of NaN.
void derivative_on_device(MatrixFunction function, const DerivativeItem& item, const CudaFunctionTable& table, CudaPlace place);

}  // namespace raphson
