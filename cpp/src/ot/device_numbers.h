// From the host's numbers to what the passes on the device take, and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_entry.h"
#include "ot/device_passes.h"
#include "ot/device_transport.h"

namespace raphson::cuda {

// Rows that lie whole are read where they are; all else is copied once.
inline DeviceCost dense_cost(const CudaView& given, Scratch& scratch) {
    DeviceCost cost;
    cost.rows = given.rows;
    cost.columns = given.columns;
    cost.type = given.type;
    cost.data = given.data;
    cost.stride = given.rows == 1 ? given.columns : given.row_stride;
    if ((given.column_stride == 1 || given.columns == 1) && cost.stride >= given.columns) return cost;
    void* const copied = scratch.take(static_cast<std::size_t>(given.rows * given.columns * itemsize(given.type)));
    copy(given, contiguous(copied, given.type, given.rows, given.columns), scratch.place());
    cost.data = copied;
    cost.stride = given.columns;
    return cost;
}

inline DeviceCost cost_of(const CudaTransport& given, Scratch& scratch) {
    if (given.is_dense()) return dense_cost(given.cost, scratch);
    DeviceCost cost;
    cost.rows = given.problem->n;
    cost.columns = given.problem->m;
    cost.metric = given.metric;
    cost.scale = given.scale;
    cost.dim = given.dim;
    cost.x = upload(given.x, cost.rows * given.dim, scratch);
    cost.y = upload(given.y, cost.columns * given.dim, scratch);
    return cost;
}

// A problem and potentials on the device, in the convention of the passes.
struct Placed {
    DeviceCost cost;
    DeviceBalance balance{};
    double *u, *psi;

    Placed(const CudaTransport& given, const double* f, const double* g, Scratch& scratch) : cost(cost_of(given, scratch)) {
        const TransportProblem& p = *given.problem;
        std::vector<double> rows(static_cast<std::size_t>(p.n), 0.0), columns, logs;
        for (int64_t i = 0; i < p.n; ++i) {
            if (f != nullptr && p.a[i] > 0) rows[i] = f[i] / p.reg;
        }
        for (int64_t j = 0; j < p.m; ++j) {
            logs.push_back(p.b[j] > 0 ? std::log(p.b[j]) : minus_infinity);
            columns.push_back(p.b[j] > 0 ? logs.back() + g[j] / p.reg : minus_infinity);
        }
        u = upload(rows, scratch);
        psi = upload(columns, scratch);
        const double nothing_is_lost = 0;  // only columns without any mass are taken in logarithms
        balance = {1 / p.reg, p.reg / p.rho_a, p.reg / p.rho_b, upload(p.a, scratch), upload(p.b, scratch), upload(logs, scratch),
                   upload(&nothing_is_lost, 1, scratch)};
    }
};

inline bool has_nan(const double* x, int64_t count) {
    return std::any_of(x, x + count, [](double value) { return std::isnan(value); });
}
inline bool no_plan(const CudaTransport& given, const double* f, const double* g) {
    return has_nan(f, given.problem->n) || has_nan(g, given.problem->m);
}

}  // namespace raphson::cuda
