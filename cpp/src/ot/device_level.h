// A level whose cost lies on a CUDA device: potentials and sums, n + m numbers, come and go with every sweep.
#pragma once

#include <memory>
#include <vector>

#include "ot/device_transport.h"
#include "ot/level.h"

namespace raphson {

class DeviceLevel final : public Level {
public:
    // `given` tells what passes are taken to cost.
    DeviceLevel(const TransportProblem& problem, std::unique_ptr<CudaLevel> passes, const CudaTransport& given);

    PassCosts costs() const override;
    void sweep(SparsePlan* sparse = nullptr, bool keep = false) override;
    void measure(double* cost = nullptr, SparsePlan* sparse = nullptr) override;
    void update_columns() override;

    void product_rows(const double* x, double* t) override;
    void product_columns(const double* z, double* y) override;
    void normal(const SparsePlan* plan, const double* x, const double* coefficient, double* y) override;

    void reserve(SparsePlan& plan, std::int64_t capacity) override;
    void keep_largest(SparsePlan& plan, std::int64_t k) override;
    void pattern_sums(const SparsePlan& plan, const double* weight, double* rows, double* columns, double* squares) override;
    void pattern_columns(const SparsePlan& plan, const double* z, double* y) override;
    bool can_factor() const override { return false; }
    bool solves() const override { return true; }
    CgOutcome solve(const SchurTerms& system, const SparsePlan* plan, const double* rhs, double* x, double target,
                    int most) override;

private:
    void collect(SparsePlan& plan);

    std::unique_ptr<CudaLevel> passes_;
    double read_;  // nanoseconds an entry that a pass reads
    std::int64_t capacity_ = 0;
    std::vector<double> next_;
};

}  // namespace raphson
