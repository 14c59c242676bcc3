// Transport on a CUDA device, as raphson._cuda offers it to the rest of the library: the problem's numbers lie on the host,
// where they are checked, and so do potentials; the cost, the plan and the vectors that it meets lie on the device.
#pragma once

#include <cstdint>

#include "cuda/table.h"
#include "ot/problem.h"
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

// What a CUDA table has for transport. All of it waits for the stream but plan and times.
struct CudaTransportTable {
    CudaCostFacts (*scan)(const CudaView& cost, CudaPlace place);
    // As solve_transport with the method `sinkhorn`. Balanced potentials have one gauge, even where pairs fall into parts.
    TransportSolution (*solve)(const CudaTransport& given, const TransportOptions& options, CudaPlace place);
    // The solution's error, cost and marginals anew from its f and g.
    void (*measure)(const CudaTransport& given, TransportSolution& solution, CudaPlace place);
    // out (n×m, contiguous, float64 or float32) ← P. NaN potentials make a plan of NaNs, here and below.
    void (*plan)(const CudaTransport& given, const double* f, const double* g, void* out, DType type, CudaPlace place);
    // out (n×k) ← P v, or out (m×k) ← Pᵀ v; float64 or float32.
    void (*times)(const CudaTransport& given, const double* f, const double* g, bool transposed, const CudaView& v,
                  const CudaView& out, CudaPlace place);
    // Points: out (n×dim, the host's) ← Σⱼ pⱼ yⱼ with pⱼ ∝ bⱼ·exp((gⱼ − C)/reg), for every row of x, weights or not.
    void (*map)(const CudaTransport& given, const double* g, double* out, CudaPlace place);
};

}  // namespace raphson
