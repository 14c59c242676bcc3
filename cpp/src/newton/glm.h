// A generalized linear model at a point: loss, gradient, Hessian products, each in one read of the data. What reads rows is
// the CPU's (HostGlm) or a CUDA device's (DeviceGlm); what follows from that is the same for both.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/large_memory.h"
#include "raphson/newton.h"
#include "sketch/device_rows.h"
#include "sketch/sweep.h"

namespace raphson {

struct GlmPoint {
    GlmPoint() = default;
    GlmPoint(const GlmPoint&) = delete;  // the device's vectors would be shared
    GlmPoint& operator=(const GlmPoint&) = delete;
    GlmPoint(GlmPoint&&) = default;
    GlmPoint& operator=(GlmPoint&&) = default;

    std::vector<double> w;           // outputs × p
    std::vector<double> gradient;
    std::vector<double> margin;      // rows × outputs, offset included
    std::vector<double> curvature;   // rows; multinomial: probabilities, rows × classes
    double* margin_there = nullptr;  // the same in the place of both, where the rows lie on a device: rows, its model's
    double* curvature_there = nullptr;
    double objective = 0;
    bool separated = false;  // every label lies strictly on its side
};

class Glm {
public:
    virtual ~Glm() = default;

    std::int64_t size() const { return outputs_ * p_; }  // of w
    std::int64_t p() const { return p_; }
    std::int64_t rows() const { return n_; }
    std::int64_t cols() const { return d_; }
    int outputs() const { return static_cast<int>(outputs_); }
    int border() const { return border_; }
    bool quadratic() const { return family_ == GlmFamily::gaussian; }
    virtual const RowBlock* whole() const = 0;  // as RowSource's; of a device without values
    double total() const { return total_; }
    double ridge() const { return ridge_; }
    int sweeps() const { return sweeps_; }

    // Everything at at.w in one read, without the product with w where at.margin holds it; also the gradient at w = 0
    // where asked for.
    void evaluate(GlmPoint& at, bool margins_known = false, std::vector<double>* at_zero = nullptr);
    // The objective along from + t (to − from) and its derivative, on margins alone: no read of the data.
    double along(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const;
    // Margins of `to` ← those of from + t (to − from).
    virtual void shorten(const GlmPoint& from, GlmPoint& to, double t) const = 0;
    // out = ∇² s in one read.
    void hessian(const GlmPoint& at, const double* s, double* out);
    // The block Xᵀ diag(h) X that stands for the Hessian's for every output, times Σ weight: its diagonal, all of it, or that
    // of a sketch of √h X; or all of it from every so many-th row, which gives the share of Σh that is in those (1, and all
    // rows, if that is none).
    virtual void squares(const GlmPoint& at, double* diagonal) = 0;
    virtual void gram(const GlmPoint& at, double* gram) = 0;
    virtual void sketched_gram(const GlmPoint& at, const RowSketch& s, double* gram) = 0;
    virtual double thinned_gram(const GlmPoint& at, std::int64_t apart, double* gram) = 0;  // dense rows in memory
    // The Hessian times Σ weight: all blocks, symmetric.
    std::vector<double> information(const GlmPoint& at);
    virtual double deviance(const GlmPoint& at) const = 0;
    // Rows picked from dense data in memory, as a problem of its own; no model where all their weights are 0.
    struct Sample {
        std::vector<double> y, weight, offset;
        GlmData data;
        LargeMemory values;  // zeroing them first would cost a tenth of a fit
        RowBlock block;
        RowSource rows;
        std::unique_ptr<CudaRows> there;
        std::unique_ptr<Glm> model;
    };
    std::unique_ptr<Sample> sample(std::int64_t rows, std::uint64_t seed, const GlmOptions& options) const;

protected:
    Glm(std::int64_t rows, std::int64_t cols, const GlmData& data, const GlmOptions& options);

    struct Sums {
        double loss, astray;  // Σ weight · loss; rows of a positive weight not strictly on their side
    };
    // out (outputs × p, twice that with `zero`) = Σ weight · residual · [x 1] / Σ weight, at at.w and at 0.
    virtual Sums read(GlmPoint& at, bool margins_known, double* out, bool zero) = 0;
    // Σ weight · loss / Σ weight and its derivative by t.
    virtual double line(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const = 0;
    // out = Σ weight · [x 1] · second derivative · [x 1]ᵀ s / Σ weight.
    virtual void product(const GlmPoint& at, const double* s, double* out) = 0;
    virtual void block(const GlmPoint& at, std::int64_t c, std::int64_t e, double* gram) = 0;  // of outputs c and e
    virtual void take_rows(const std::vector<std::int64_t>& from, const GlmOptions& options, Sample& s) const = 0;

    const GlmData& data_;
    GlmFamily family_;
    double ridge_, total_ = 0;
    int border_, sweeps_ = 0;
    std::int64_t n_, d_, p_, outputs_;
    bool binary_ = true;

private:
    void check() const;
};

class HostGlm final : public Glm {
public:
    HostGlm(const RowSource& x, const GlmData& data, const GlmOptions& options) : Glm(x.rows, x.cols, data, options), x_(x) {}

    const RowBlock* whole() const override { return x_.whole; }
    void shorten(const GlmPoint& from, GlmPoint& to, double t) const override;
    void squares(const GlmPoint& at, double* diagonal) override;
    void gram(const GlmPoint& at, double* gram) override;
    void sketched_gram(const GlmPoint& at, const RowSketch& s, double* gram) override;
    double thinned_gram(const GlmPoint& at, std::int64_t apart, double* gram) override;
    double deviance(const GlmPoint& at) const override;

private:
    Sums read(GlmPoint& at, bool margins_known, double* out, bool zero) override;
    double line(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const override;
    void product(const GlmPoint& at, const double* s, double* out) override;
    void block(const GlmPoint& at, std::int64_t c, std::int64_t e, double* gram) override;
    void take_rows(const std::vector<std::int64_t>& from, const GlmOptions& options, Sample& s) const override;

    double row(const double* margin, double y, double* residual, double* curvature) const;
    double saturated(double y) const;
    std::vector<double> block_weights(const GlmPoint& at) const;
    template <class Curvature>
    std::vector<double> row_weights(const Curvature& curvature) const;
    template <class Body>
    void for_chunks(std::int64_t chunks, Body&& body) const;

    const RowSource& x_;
};

// y, weights and offsets are copied to the device.
class DeviceGlm final : public Glm {
public:
    DeviceGlm(CudaRows& x, const GlmData& data, const GlmOptions& options);

    const RowBlock* whole() const override { return &shape_; }
    void shorten(const GlmPoint& /*from*/, GlmPoint& /*to*/, double /*t*/) const override {}  // read makes them anew
    void squares(const GlmPoint& at, double* diagonal) override;
    void gram(const GlmPoint& at, double* gram) override;
    void sketched_gram(const GlmPoint& at, const RowSketch& s, double* gram) override;
    double thinned_gram(const GlmPoint& at, std::int64_t apart, double* gram) override;
    double deviance(const GlmPoint& at) const override;

private:
    Sums read(GlmPoint& at, bool margins_known, double* out, bool zero) override;
    double line(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const override;
    void product(const GlmPoint& at, const double* s, double* out) override;
    void block(const GlmPoint& at, std::int64_t c, std::int64_t e, double* gram) override;
    void take_rows(const std::vector<std::int64_t>& from, const GlmOptions& options, Sample& s) const override;

    void sweep(const RowSweep& what);
    void sweep(const ClassSweep& what);
    template <class What>
    void sweep_at(What what, const std::vector<double>& w, double* out, bool zero);
    void along(const RowLine& what, double* totals) const;
    RowLine line_of(const GlmPoint& from, const GlmPoint& to, double t) const;
    bool classes() const { return family_ == GlmFamily::multinomial; }
    const double* roots(const GlmPoint& at);
    const double* roots_between(const GlmPoint& at, std::int64_t c, std::int64_t e);  // classes; -1: as roots
    void finish(double* out);

    CudaRows& x_;
    RowBlock shape_;
    RowLoss loss_;
    double* y_;
    double *weight_ = nullptr, *offset_ = nullptr, *root_ = nullptr;
};

}  // namespace raphson
