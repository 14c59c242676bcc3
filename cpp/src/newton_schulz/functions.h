// The matrix functions below their typed public entries: what bindings of any language call, and the functions of one
// contiguous float64 matrix behind them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "newton_schulz/orthogonalize.h"
#include "raphson/matrix_functions.h"

namespace raphson {

enum class MatrixFunction { polar, sign, sqrt, inverse, inverse_root };

// One array; `second` is polar's H, or sqrt's inverse (null data: not wanted).
struct FunctionItem {
    BatchRef a, value, second;
    MatrixReport* reports;
};

void check_function(MatrixFunction function, const FunctionItem& item, std::int64_t p, const MatrixFunctionOptions& options);
// Several arrays of any shapes in one dispatch, checked by the caller.
void evaluate(MatrixFunction function, std::int64_t p, const FunctionItem* items, std::size_t count,
              const MatrixFunctionOptions& options);
const char* name_of(MatrixFunction function);
double function_flops(MatrixFunction function, std::int64_t rows, std::int64_t cols);

struct DerivativeItem {
    BatchRef value, second, value_bar, second_bar, out;  // null data: absent, or a zero cotangent
    std::int64_t p;
    double relative_ridge;
};
// Shapes and numbers; NaN and Inf in the host's arrays are looked for by derivative().
void check_derivative(MatrixFunction function, const DerivativeItem& item);
void derivative(MatrixFunction function, const DerivativeItem& item);
// Breakdown; `general`: of a square root that is not symmetric.
[[noreturn]] void not_differentiable(MatrixFunction function, bool general, std::int64_t index);
// Of sqrt's value: its derivative by eigenvectors.
bool symmetric_root(double asymmetry, double largest, bool narrow);

// ---- one matrix, contiguous float64, its largest entry between ½ and 2 (0: all zero) ----
struct FunctionJob {
    MatrixFunction function;
    std::int64_t p;
    const MatrixFunctionOptions& options;
    bool narrow;  // results are rounded to float32 before they are measured
    double ridge;  // absolute, in units of the scaled matrix
};

void polar_of(const FunctionJob& job, const double* x, std::int64_t m, std::int64_t n, double* u, double* h,
              MatrixReport& report);
// sign, sqrt and inverse_root of a symmetric matrix.
void spectral_of(const FunctionJob& job, const double* a, std::int64_t n, double* value, double* second, MatrixReport& report);
void sign_of(const FunctionJob& job, const double* a, std::int64_t n, double* value, MatrixReport& report);
void sqrt_of(const FunctionJob& job, const double* a, std::int64_t n, double* value, double* second, MatrixReport& report);
void inverse_of(const FunctionJob& job, const double* a, std::int64_t n, double* value, MatrixReport& report);

// d (n×n) with X d + d X = r for X whose eigenvalues have positive real parts; false where they have not. Roberts' sign
// iteration: 6n³ flops a step.
bool solve_sylvester(const double* x, std::int64_t n, const double* r, double* d);

// ---- shared bits ----
// Powers of two that bring a matrix to its scale, and results back to the caller's.
struct FunctionExponents {
    int load, value, second;
    double ridge;  // absolute, in units of the scaled matrix
};
FunctionExponents exponents_of(MatrixFunction function, std::int64_t p, double max_abs, const MatrixFunctionOptions& options);
// " (array 2 of the list) (matrix 3 of the batch)", as far as there are several.
std::string which_matrix(const FunctionItem* items, std::size_t count, const FunctionItem& item, std::int64_t index);
// inverse_root: std::invalid_argument where max|A − Aᵀ| is more than rounding beside the largest entry.
void require_symmetric(double asymmetry, double largest, bool narrow, const std::string& which);
// Few ulp of asymmetry of a scaled matrix: the eigenvalues of its symmetric part are then as good as the matrix.
bool symmetric_to_rounding(double asymmetry, bool narrow);
double largest_asymmetry(const double* a, std::int64_t n);
double frobenius(const double* a, std::int64_t count);
void round_to_float(double* x, std::int64_t count);
// max|x − I| of a square matrix; `squares`: ‖x − I‖_F² too.
double distance_to_identity(const double* x, std::int64_t n, double* squares = nullptr);
// The level the precision reaches safely: 4(n + 8 + 2p)ε·cond, 0.1 at most; a p-th power multiplies rounding by p.
inline double safe_tolerance(std::int64_t n, double cond, bool narrow, std::int64_t p = 0) {
    const double eps = narrow ? 0x1p-23 : 0x1p-52;
    const double level = 4 * static_cast<double>(n + 8 + 2 * p) * eps * cond;
    return level < 0.1 ? level : 0.1;
}
// What polar reaches.
constexpr double polar_tolerance(bool narrow) { return 64 * (narrow ? 0x1p-23 : 0x1p-52); }
// The status of a residual that was measured; `limited`: the step limit ended the iteration.
void judge(const FunctionJob& job, double safe, bool limited, MatrixReport& report);

}  // namespace raphson
