// What matrix functions on a CUDA device are made of: decompositions and measurements of batches of contiguous float64
// matrices. Everything stays on the device; sums have a fixed order. NaN in a matrix ends its iterations.
#pragma once

#include "dense/device_inverse.h"
#include "newton_schulz/device_functions.h"
#include "newton_schulz/device_passes.h"

namespace raphson::cuda {

constexpr double eps64 = 0x1p-52;

// A batch of contiguous float64 matrices out of scratch.
Working take_matrices(Scratch& scratch, int64_t rows, int64_t cols, int64_t count);

// ---- decompositions (numbers: a row of function_numbers a matrix) -------------------------------------------------------------

// x = V diag(values) Vᵀ of the symmetric part of x: cyclic Jacobi with a fixed order of rotations, in one launch what fits in
// shared memory twice (n ≤ 118 on a Hopper), by pairs of 32 rows and columns beyond that. v has eigh_order(n) ≥ n rows and
// columns, values as many; those from n on are no part of it (v is zero there beside its diagonal). Column i of v belongs to
// values[i], which are in no order. Sweeps are noted as iterations, and number_limited. About 6·order³ flops a sweep, as
// many at the end.
int64_t eigh_order(int64_t n, int device);
void eigh(const Working& x, const Working& v, double* values, int64_t most_sweeps, double* numbers, Scratch& scratch);

// As device_inverse.h has it.
inline void invert(const Working& a, const Working& x, int* failed, Scratch& scratch) {
    invert(static_cast<double*>(a.data), static_cast<double*>(x.data), a.cols, a.count, failed, scratch);
}

// Newton's iterations of general.cpp, for matrices that need not be symmetric. value ← sign(a); or the principal square root,
// and second ← its inverse, NaN where there is none. All of `numbers` but the overflow.
void general_sign(const Working& a, const Working& value, bool narrow, int64_t max_steps, double* numbers, Scratch& scratch);
void general_sqrt(const Working& a, const Working& value, const Working& second, bool narrow, int64_t max_steps, double* numbers,
                  Scratch& scratch);

// d ← the solution of x d + d x = r, which d holds on entry, for x whose eigenvalues have positive real parts; failed[i] ← 1
// where they have not, else 0. x is destroyed. As solve_sylvester.
void solve_sylvester(const Working& x, const Working& d, int* failed, Scratch& scratch);

// z ← the matrix with orthonormal rows that is nearest to x (rows ≤ columns), by products alone.
void orthonormal_factor(const Working& x, const Working& z, int64_t max_steps, double* numbers, Scratch& scratch);

// ---- passes -------------------------------------------------------------------------------------------------------------------

// to[i·function_numbers] ← of matrix i: Σx²; the largest |x − I| (a NaN stays); Σ(x − I)²; Σ(x − y)².
void sum_squares(const Working& x, double* to, CudaPlace place);
void largest_off_identity(const Working& x, double* to, CudaPlace place);
void squares_off_identity(const Working& x, double* to, CudaPlace place);
void squares_between(const Working& x, const Working& y, double* to, CudaPlace place);
// x ← ½(x + xᵀ) where `symmetric`, then rounded to float32 where `narrow`.
void settle(const Working& x, bool symmetric, bool narrow, CudaPlace place);
void copy_matrices(const Working& from, const Working& to, CudaPlace place);
void transpose_matrices(const Working& from, const Working& to, CudaPlace place);
// x ← y of matrices whose flag is not 0.
void take_where(const Working& x, const Working& y, const int* flags, CudaPlace place);
// x ← x + by[i]·I of matrix i; by null: `same` for all.
void add_to_diagonal(const Working& x, const double* by, double same, CudaPlace place);
// to (rows×order) ← v diag(weights); the first rows of v.
void scale_columns(const Working& v, const double* weights, const Working& to, CudaPlace place);
// to (order×order) ← the symmetric part of from, zeros around it.
void symmetric_part(const Working& from, const Working& to, CudaPlace place);
// x ← x·2^exponent, rounded once to float32 where `narrow`. A matrix that holds an Inf then becomes zeros and is noted in
// number_overflow; one whose exponent is poisoned_exponent becomes NaN.
void scale_results(const Working& x, const int* exponents, bool narrow, double* numbers, CudaPlace place);
// One a matrix, in C order, on the host; waits.
void matrix_facts(const BatchRef& a, MatrixFacts* facts, CudaPlace place);

}  // namespace raphson::cuda
