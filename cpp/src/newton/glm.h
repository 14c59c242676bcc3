// A generalized linear model at a point: loss, gradient, Hessian products, each in one read of the data.
#pragma once

#include <cstdint>
#include <vector>

#include "common/large_memory.h"
#include "raphson/newton.h"
#include "sketch/sweep.h"

namespace raphson {

struct GlmPoint {
    std::vector<double> w;           // outputs × p
    std::vector<double> gradient;
    std::vector<double> margin;      // rows × outputs, offset included
    std::vector<double> curvature;   // rows; multinomial: probabilities, rows × classes
    double objective = 0;
    bool separated = false;  // every label lies strictly on its side
};

class Glm {
public:
    Glm(const RowSource& x, const GlmData& data, const GlmOptions& options);

    std::int64_t size() const { return outputs_ * p_; }  // of w
    std::int64_t p() const { return p_; }
    int outputs() const { return static_cast<int>(outputs_); }
    int border() const { return border_; }
    const RowSource& x() const { return x_; }
    double total() const { return total_; }
    double ridge() const { return ridge_; }
    int sweeps() const { return sweeps_; }
    void count_sweeps(int count) { sweeps_ += count; }

    // Everything at at.w in one read, without the product with w where at.margin holds it; also the gradient at w = 0
    // where asked for.
    void evaluate(GlmPoint& at, bool margins_known = false, std::vector<double>* at_zero = nullptr);
    // The objective along from + t (to − from) and its derivative, on margins alone: no read of the data.
    double along(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const;
    // out = ∇² s in one read.
    void hessian(const GlmPoint& at, const double* s, double* out);
    // Weights (rows) of the block Xᵀ diag(h) X / Σ weight that stands for the Hessian's for every output.
    void block_weights(const GlmPoint& at, double* h) const;
    // The Hessian times Σ weight: all blocks, symmetric.
    std::vector<double> information(const GlmPoint& at);
    double deviance(const GlmPoint& at) const;
    // Rows picked from dense data in memory, as a problem of its own.
    struct Sample {
        LargeMemory values;  // zeroing them first would cost a tenth of a fit
        std::vector<double> y, weight, offset;
        RowBlock block;
        GlmData data;
    };
    Sample sample(std::int64_t rows, std::uint64_t seed) const;

private:
    double row(const double* margin, double y, double* residual, double* curvature) const;
    double saturated(double y) const;
    void check() const;
    template <class Body>
    void for_chunks(std::int64_t chunks, Body&& body) const;

    const RowSource& x_;
    const GlmData& data_;
    GlmFamily family_;
    double ridge_, total_ = 0;
    int border_, sweeps_ = 0;
    std::int64_t n_, d_, p_, outputs_;
    bool binary_ = true;
};

}  // namespace raphson
