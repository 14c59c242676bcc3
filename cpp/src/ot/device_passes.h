// The passes of entropic transport on a CUDA device: passes.h for whole costs, in the same dimensionless convention. With
// u = f/reg and ψ = g/reg + log b the plan is P = a·exp(u ⊕ ψ − C/reg). Potentials and sums are float64 and stay on the
// device; nothing here waits for it. Sums are added in an order that depends on the shape and the device alone.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cuda/runtime.h"
#include "ot/passes.h"
#include "raphson/ot.h"
#include "raphson/status.h"

namespace raphson::cuda {

// A dense cost, or two clouds of points, whose costs are computed where they are needed and never stored.
struct DeviceCost {
    int64_t rows = 0, columns = 0;
    DType type = DType::float64;  // of a dense cost: float64 or float32. +Inf forbids a pair; NaN counts as +Inf
    const void* data = nullptr;   // null: points
    int64_t stride = 0;
    Metric metric = Metric::sqeuclidean;
    double scale = 1;
    const double* x = nullptr;  // rows × dim, contiguous
    const double* y = nullptr;  // columns × dim
    int64_t dim = 0;

    bool is_dense() const { return data != nullptr; }
};

// A problem at one regularisation; arrays on the device.
struct DeviceBalance {
    double inverse_reg;
    double kappa_a, kappa_b;         // reg/ρ; 0 when the marginal holds exactly
    const double *a, *b, *log_b;     // weights; log b is -Inf where b is 0
    const double* least_column;      // one number: column sums below are taken anew, in logarithms; see lost_share
};
// Of the mass. Row sums are trusted from 2^-40 (float32; 1e-100 in float64), and what has been flushed to zero then weighs
// less than 2^-86 (1e-207) of it: a column's relative error stays below 2^-26.
constexpr double lost_share(bool narrow) { return narrow ? 0x1p-60 : 1e-190; }

// What the passes over one cost write besides their results; taken once.
struct PassRoom {
    void* partials = nullptr;  // sums of columns: vectors of `padded`, float32 where `narrow`
    int64_t slots = 0, padded = 0;
    bool resident = false, narrow = false;  // the sweep keeps rows on the chip; in float32
    int blocks = 0, threads = 0, flushes = 0;  // of the sweep that does
    double* column_errors = nullptr;  // a block's share each
    double* row_parts = nullptr;      // a number a row
    int* lost = nullptr;              // [0]: how many; then which
};
// How many parts rows are cut into where a thread takes a column: enough blocks for the device, not too many vectors.
int64_t row_parts(const DeviceCost& cost, int device);
// `resident` false: two reads of the cost a sweep, in float64; also the choice for rows that do not fit on the chip.
PassRoom pass_room(const DeviceCost& cost, bool resident, Scratch& scratch);

struct DeviceSums {
    double *row_sum, *columns;  // of the plan over a; of the plan
};

// One Sinkhorn iteration: u ← the rows' optimum for ψ (a start that is near saves a second look at the row), then the
// column sums of that plan, and psi_next ← the columns' optimum. Leaves in the room what total_error adds up: the error of
// (u, ψ). One read of the cost where rows fit on the chip (16,384 columns in float32, 8,192 in float64, on a Hopper).
void sweep(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, double* u, const double* psi,
           double* psi_next, double* columns, CudaPlace place);
// Sums of the plan as it is, in float64, into `sums`; also its error, and ⟨P, C⟩ if cost_sum is not null.
void measure(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* u, const double* psi,
             const DeviceSums& sums, double* error, double* cost_sum, CudaPlace place);
// *error ← the L1 optimality residual of the last sweep; rows are at their optimum.
void total_error(const DeviceBalance& balance, const PassRoom& room, int64_t columns, double* error, CudaPlace place);

// out ← rows first … first+count−1 of P, rounded to `type` (float64 or float32).
void plan_rows(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi, int64_t first,
               int64_t count, DType type, void* out, int64_t out_stride, CudaPlace place);
// t ← P v (rows); y ← Pᵀ z (columns).
void plan_times(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi, const double* v,
                double* t, CudaPlace place);
void plan_transposed_times(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* u,
                           const double* psi, const double* z, double* y, CudaPlace place);
// parts[0] ← the lowest, parts[1] ← the highest finite entry; parts[2] ← 1 where there is +Inf, else 0; parts[3] ← where
// the first NaN or −Inf is (row·columns + column), Inf without one. parts has cost_range_parts numbers.
constexpr int cost_range_blocks = 512, cost_range_numbers = 4, cost_range_parts = cost_range_numbers * (1 + cost_range_blocks);
void cost_range(const DeviceCost& cost, double* parts, CudaPlace place);

// The sweep of resident.cu: u, and the partial sums of the columns. 0 threads: rows do not fit.
struct ResidentShape {
    int threads, blocks, flushes;  // partial vectors: blocks·flushes
};
ResidentShape resident_shape(const DeviceCost& cost, int device);
void resident_sweep(const DeviceCost& cost, const DeviceBalance& balance, const PassRoom& room, const double* psi, double* u,
                    CudaPlace place);

// The driver (iterate.cu).
struct DeviceSinkhornOptions {
    double reg;
    double rho_a, rho_b;           // Inf: the marginal holds exactly
    double tol = 1e-9;             // on the L1 optimality residual
    int max_iter = 10000;
    const double* f = nullptr;     // start on the device, or null; what is not finite starts at 0
    const double* g = nullptr;
    bool continuation = true;      // without a start: larger regs first where reg is small
    bool resident = true;          // false: the sweeps that read a dense cost twice
    const double* range = nullptr; // the host's: lowest and highest finite entry, where they are known
    std::function<bool(const TransportRecord&, int iteration)> callback;  // at every look at the error; true: stop
};
struct DeviceSinkhornOutcome {
    Status status;
    int iterations;         // sweeps over the cost
    double marginal_error;  // L1, measured in float64 on f and g as returned
    double cost;            // ⟨P, C⟩
    DeviceSums sums;        // of the plan of f and g; lives as long as the scratch
    std::vector<TransportRecord> history;  // an entry a look
};
// f (rows), g (columns) in units of the cost; −Inf where the weight is zero; balanced: ⟨a, f⟩ = ⟨b, g⟩. Waits for the stream
// every few sweeps, and at the end. The weights are taken as checked; balanced, b is scaled to the mass of a.
DeviceSinkhornOutcome sinkhorn(const DeviceCost& cost, const double* a, const double* b, const DeviceSinkhornOptions& options,
                               double* f, double* g, Scratch& scratch);

}  // namespace raphson::cuda
