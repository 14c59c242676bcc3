// Losses of generalized linear models row by row, in CUDA kernels (HostGlm::row on the CPU).
#pragma once

#include "cuda/runtime.h"
#include "sketch/device_rows.h"

namespace raphson::cuda {

struct RowValue {
    double loss, residual, second;
};

// p and 1 − p are both formed without cancellation: extreme margins keep their digits.
__device__ __forceinline__ RowValue logistic_row(double m, double y) {
    const double e = exp(-fabs(m)), large = 1 / (1 + e), small = e * large;
    const double p = m >= 0 ? large : small, q = m >= 0 ? small : large;
    return {log1p(e) + (m >= 0 ? (1 - y) * m : -y * m), (1 - y) * p - y * q, p * q};
}

__device__ __forceinline__ RowValue row_value(RowLoss loss, double m, double y) {
    if (loss == RowLoss::logistic) return logistic_row(m, y);
    if (loss == RowLoss::gaussian) return {0.5 * (m - y) * (m - y), m - y, 1};
    const double mean = exp(m);
    return {mean - y * m, mean - y, mean};
}

// The least loss that any margin gives.
__device__ __forceinline__ double saturated_loss(RowLoss loss, double y) {
    const auto entropy = [](double v) { return v > 0 ? v * log(v) : 0.0; };
    if (loss == RowLoss::logistic) return -entropy(y) - entropy(1 - y);
    return loss == RowLoss::poisson ? y - entropy(y) : 0.0;
}

}  // namespace raphson::cuda
