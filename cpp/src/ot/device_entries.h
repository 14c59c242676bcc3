// What the passes over a whole cost share on the device: potentials, an entry of the plan, a kernel for each kind of cost.
#pragma once

#include "ot/device_entry.h"
#include "ot/device_passes.h"

namespace raphson::cuda {

// The potentials of one pass, and what the exponentials are taken of.
struct At {
    const double *u, *psi;
    double inverse_reg;

    // log2 of an entry over a: the same bits in every kernel, since the additions are spelled out.
    __device__ double exponent(double row, double column, double cost) const {
        return fma(cost, -inverse_reg * log2_e, (row + column) * log2_e);
    }
    __device__ double entry(double row, double column, double cost) const { return exp2_flushed(exponent(row, column, cost)); }
};

// f(entries) for the points that a cost is made of.
template <class F>
void for_points(const DeviceCost& cost, F&& f) {
    const auto points = [&](auto entries) {
        entries.x = cost.x;
        entries.y = cost.y;
        entries.dim = cost.dim;
        entries.scale = cost.scale;
        f(entries);
    };
    switch (cost.metric) {
        case Metric::sqeuclidean: return points(PointEntries<Metric::sqeuclidean>{});
        case Metric::euclidean: return points(PointEntries<Metric::euclidean>{});
        case Metric::cityblock: return points(PointEntries<Metric::cityblock>{});
    }
}
// f(entries) for any cost.
template <class F>
void for_entries(const DeviceCost& cost, F&& f) {
    if (!cost.is_dense()) return for_points(cost, f);
    if (cost.type == DType::float32) return f(DenseEntries<float>{static_cast<const float*>(cost.data), cost.stride});
    f(DenseEntries<double>{static_cast<const double*>(cost.data), cost.stride});
}

}  // namespace raphson::cuda
