// A level whose cost lies in the host's memory: the passes of passes.h, blocks of rows in parallel.
#pragma once

#include <functional>
#include <vector>

#include "ot/level.h"

namespace raphson {

class HostLevel final : public Level {
public:
    explicit HostLevel(const TransportProblem& problem);

    PassCosts costs() const override;
    void sweep(SparsePlan* sparse = nullptr, bool keep = false) override;
    void measure(double* cost = nullptr, SparsePlan* sparse = nullptr) override;
    void update_columns() override;

    bool has_kernel() const override { return kernel_ready_; }
    bool kernel_allowed() const override;
    bool sweep_kernel() override;
    void drop_kernel() override;
    void refuse_kernel() override {
        kernel_refused_ = true;
        drop_kernel();
    }

    void product_rows(const double* x, double* t) override;
    void product_columns(const double* z, double* y) override;
    void normal(const SparsePlan* plan, const double* x, const double* coefficient, double* y) override;

    void reserve(SparsePlan& plan, std::int64_t capacity) override;
    void keep_largest(SparsePlan& plan, std::int64_t k) override;
    void pattern_sums(const SparsePlan& plan, const double* weight, double* rows, double* columns, double* squares) override;
    void pattern_columns(const SparsePlan& plan, const double* z, double* y) override;
    bool can_factor() const override;

    // Calls work(rows as a cost, first row, block) for tiles of rows; blocks run in parallel, tiles of a block in order.
    using TileWork = std::function<void(const CostBlock& tile, std::int64_t first, std::int64_t block)>;
    void each_tile(const TileWork& work);
    std::int64_t blocks() const { return blocks_; }
    std::int64_t block_begin(std::int64_t block) const;

private:
    void add_partials(double* columns) const;  // sums of the blocks' column vectors, in their order
    double* partial(std::int64_t block) { return partials_.data() + block * padded_; }
    void run_log(bool update, bool keep, double* cost, SparsePlan* sparse);
    void linear_log(const double* x, const double* coefficient, double* t, double* y);
    void linear_kernel(const double* x, const double* coefficient, double* t, double* y);
    void normal_dense(const double* x, const double* coefficient, double* y);
    void normal_sparse(const SparsePlan& plan, const double* x, const double* coefficient, double* y);
    CostBlock kernel_rows(std::int64_t block) const;
    void lost_columns(std::vector<double>& log_columns);

    std::int64_t blocks_, block_rows_;
    bool kernel_refused_ = false;
    std::vector<double> partials_, cost_parts_;
    LargeMemory kernel_;
    std::int64_t kernel_stride_ = 0;
    bool kernel_ready_ = false;
    std::vector<double> kernel_u_, kernel_psi_, log_scale_, multiplier_, offset_;
};

// Rows of a piece for the passes.
SparseRows rows_of(const SparsePlan::Piece& piece, std::int64_t columns);

}  // namespace raphson
