// Transport on a CUDA device, as raphson._cuda offers it to the rest of the library: the problem's numbers lie on the host,
// where they are checked, and so do potentials; the cost, the plan and the vectors that it meets lie on the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/table.h"
#include "ot/level.h"
#include "ot/problem.h"
#include "ot/queries.h"
#include "raphson/ot.h"

namespace raphson {

struct CudaTransport {
    const TransportProblem* problem;  // its cost is not read
    CudaView cost;                    // no data: points
    Metric metric = Metric::sqeuclidean;
    double scale = 1;
    const double* x = nullptr;  // n × dim, the host's
    const double* y = nullptr;  // m × dim
    std::int64_t dim = 0;

    bool is_dense() const { return cost.data != nullptr; }
};

struct CudaCostFacts {
    CostFacts facts;
    bool bad = false;  // NaN or −Inf is there, first at (row, column)
    double entry = 0;
    std::int64_t row = 0, column = 0;
};

// The passes of one problem, whose cost, large entries and systems stay on the device from call to call, on one stream; for
// DeviceLevel, whose vectors are the host's. Everything waits. u and psi are those of the passes' convention (n, m).
class CudaLevel {
public:
    virtual ~CudaLevel() = default;

    virtual CostFacts range() = 0;
    // Rows to their optimum, from a u that is near, if possible; the columns' sums, and their optimum.
    virtual void sweep(double reg, const double* psi, double* u, double* columns, double* psi_next) = 0;
    virtual void measure(double reg, const double* psi, const double* u, double* row_sum, double* columns, double* cost) = 0;
    // Of the plan that the last of these two left: entries ≥ threshold. How many, or -1 if they are more than `capacity`.
    virtual std::int64_t collect(double threshold, std::int64_t capacity) = 0;
    virtual std::int64_t keep_largest(std::int64_t k) = 0;
    // As Level's.
    virtual void pattern_sums(const double* weight, double* rows, double* columns, double* squares) = 0;
    virtual void pattern_columns(const double* z, double* y) = 0;
    virtual void product_rows(const double* x, double* t) = 0;
    virtual void product_columns(const double* z, double* y) = 0;
    virtual void normal(bool sparse, const double* x, const double* coefficient, double* y) = 0;
    virtual CgOutcome solve(const SchurTerms& system, bool sparse, const double* rhs, double* x, double target, int most) = 0;
};

// What a gradient needs to know: with W = cost_weight·C + plan_bar (0·Inf counts as 0), ∂L/∂C is
// P ∘ (direct + (α⊕β − W)/reg), without the second term where α and β are null.
struct CudaTransportGradient {
    double cost_weight = 0, direct = 0;
    CudaView plan_bar{};  // n×m; without data: zeros
    const double *alpha = nullptr, *beta = nullptr;  // the host's
};

// A plan rounded to its marginals, or why it cannot be.
struct CudaRounding {
    double missing = 0;  // mass that scaling left to be added
    bool forbidden = false;  // it would have to use the pair (row, column)
    std::int64_t row = 0, column = 0;
};

// What a CUDA table has for transport. All of it waits for the stream but plan and times.
struct CudaTransportTable {
    CudaCostFacts (*scan)(const CudaView& cost, CudaPlace place);
    // As solve_transport with the method `sinkhorn`. Balanced potentials have one gauge, even where pairs fall into parts.
    TransportSolution (*solve)(const CudaTransport& given, const TransportOptions& options, CudaPlace place);
    // What a block of threads solves by itself, and many of those side by side, each to the bits of solve(). Callbacks of these
    // come late, and several at a time.
    bool (*is_small)(const CudaTransport& given, CudaPlace place);
    void (*solve_small)(const CudaTransport* given, const TransportOptions* options, std::size_t count, TransportSolution* solutions,
                        CudaPlace place);
    // The solution's error, cost and marginals anew from its f and g.
    void (*measure)(const CudaTransport& given, TransportSolution& solution, CudaPlace place);
    // Who gets it deletes it. narrow: sweeps of a float32 cost may be float32's.
    CudaLevel* (*make_level)(const CudaTransport& given, bool narrow, CudaPlace place);
    // out (n×m, contiguous, float64 or float32) ← the plan with the marginals of the problem: Altschuler et al.
    CudaRounding (*rounded)(const CudaTransport& given, Potentials at, void* out, DType type, CudaPlace place);
    // rows and columns, the host's ← (W∘P)1, (W∘P)ᵀ1.
    void (*weighted_sums)(const CudaTransport& given, Potentials at, const CudaTransportGradient& gradient, double* rows,
                          double* columns, CudaPlace place);
    // out (n×m, contiguous, float64 or float32) ← ∂L/∂C; of points: x (n×dim) and y (m×dim), the host's.
    void (*cost_gradient)(const CudaTransport& given, Potentials at, const CudaTransportGradient& gradient, void* out, DType type,
                          CudaPlace place);
    void (*point_gradient)(const CudaTransport& given, Potentials at, const CudaTransportGradient& gradient, double* x, double* y,
                           CudaPlace place);
    // As plan_sparse; what is dropped is known to 2^-28 of it.
    SparseResult (*sparse)(const CudaTransport& given, Potentials at, double most_dropped, CudaPlace place);
    // out (n×m, contiguous, float64 or float32) ← P. NaN potentials make a plan of NaNs, here and below.
    void (*plan)(const CudaTransport& given, const double* f, const double* g, void* out, DType type, CudaPlace place);
    // out (n×k) ← P v, or out (m×k) ← Pᵀ v; float64 or float32.
    void (*times)(const CudaTransport& given, const double* f, const double* g, bool transposed, const CudaView& v,
                  const CudaView& out, CudaPlace place);
    // Points: out (n×dim, the host's) ← Σⱼ pⱼ yⱼ with pⱼ ∝ bⱼ·exp((gⱼ − C)/reg), for every row of x, weights or not.
    void (*map)(const CudaTransport& given, const double* g, double* out, CudaPlace place);
};

}  // namespace raphson
