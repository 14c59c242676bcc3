// The large entries of a plan on a CUDA device, and systems in the Hessian of the semi-dual made of them: schur.h says what
// it is. Every sum is gathered, in an order that the pattern alone decides; no additions meet in memory.
#pragma once

#include <cstdint>
#include <functional>

#include "ot/device_passes.h"
#include "ot/level.h"

namespace raphson::cuda {

// In both orders, so that products with T and with Tᵀ are gathers.
struct DevicePattern {
    int64_t rows = 0, columns = 0;
    int64_t count = -1;  // -1: not there, or more than there was to be
    const int64_t *row_begin = nullptr, *column_begin = nullptr;  // rows + 1, columns + 1 places
    const std::int32_t *column = nullptr, *row = nullptr;
    const double *by_rows = nullptr, *by_columns = nullptr;
};
// What is positive and not below the threshold; `both`: by columns too. Two reads of the cost, each with an exponential where
// an entry is near the threshold or above, in float64. Waits for the count.
DevicePattern collect(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi, double threshold,
                      int64_t capacity, bool both, Scratch& scratch);
// The k-th largest value; 1 ≤ k ≤ count. Six passes over the values; waits after each.
double kth_largest(const DevicePattern& pattern, int64_t k, Scratch& scratch);

// t ← coefficient ∘ (T x), x null: ones, coefficient null: ones; y ← Tᵀz, z null: ones; squares ← Σᵢ weightᵢ Tᵢⱼ².
void pattern_rows(const DevicePattern& pattern, const double* x, const double* coefficient, double* t, CudaPlace place);
void pattern_columns(const DevicePattern& pattern, const double* z, double* y, CudaPlace place);
void pattern_squares(const DevicePattern& pattern, const double* weight, double* squares, CudaPlace place);
// t ← coefficient ∘ t
void scale(const double* coefficient, int64_t count, double* t, CudaPlace place);

// masses (mass_bins numbers) ← Σ of the plan's entries by their exponents e − 1023, in units of 2^(e − 1023 − 28), every
// entry rounded up; entries below 2^-1022 count as that. The order of additions is no matter: they are of whole numbers.
constexpr int mass_bins = 2048, mass_bits = 28;
void masses_by_size(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi,
                    unsigned long long* masses, CudaPlace place);

// S of SchurTerms, vectors on the device.
struct DeviceSchur {
    int64_t columns;
    const double *d2, *jacobi;
    const double *lump_q, *lump_w;  // null without lumps
    double lump_total, lump_pp;
};
// x ← S⁻¹r from 0 by conjugate gradients with the inverse of S's diagonal, until ‖r‖₁ ≤ target; r is overwritten. `normal`
// puts y = TᵀD₁⁻¹Tx on the stream. Looks at the residual every 8 to 32 steps: what is done beyond the target's is undone by
// not being done, steps of length 0.
CgOutcome conjugate_gradients(const DeviceSchur& system, const std::function<void(const double* x, double* y)>& normal, double* r,
                              double* x, double target, int most, Scratch& scratch);

}  // namespace raphson::cuda
