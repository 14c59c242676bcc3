// The problem at one regularisation: potentials, and the sweeps that move and measure them.
#pragma once

#include <functional>
#include <vector>

#include "common/large_memory.h"
#include "ot/problem.h"

namespace raphson {

// Large entries of the plan by rows, one piece a block of rows.
struct SparsePlan {
    struct Piece {
        LargeMemory index, value;
        std::vector<std::int64_t> row_end;
        std::int64_t rows = 0, count = 0, capacity = 0;
    };
    std::vector<Piece> pieces;
    std::int64_t count = -1;  // -1: not there, or it did not fit
    double threshold = 0;
};

class Level {
public:
    explicit Level(const TransportProblem& problem);

    const TransportProblem& problem() const { return problem_; }
    std::int64_t n() const { return problem_.n; }
    std::int64_t m() const { return problem_.m; }
    std::int64_t padded() const { return padded_; }
    double reg() const { return reg_; }
    double kappa_a() const { return kappa_a_; }  // reg/ρ; 0 when the marginal holds exactly
    double kappa_b() const { return kappa_b_; }
    void set_reg(double reg);  // potentials keep their values in units of the cost

    // u = f/reg, ψ = g/reg + log b (padded).
    std::vector<double> u, psi;
    const std::vector<double>& log_b() const { return log_b_; }
    // Of the plan after the last sweep.
    std::vector<double> columns;  // its column sums (padded)
    std::vector<double> row_sum;  // before the rows were updated: row i had the mass aᵢ·row_sumᵢ
    double error() const { return error_; }  // L1 optimality residual; the rows' part is 0 after an update
    double target_column(std::int64_t j) const;  // what column j is to weigh: b, or b·exp(−κv)
    double target_row(std::int64_t i) const;
    double row_mass(std::int64_t i) const;  // of the plan that `columns` describes
    // The semi-dual, minimised: −Σ a·u − Σ b·v for exact marginals, κ → 0 of Σ a(e^(−κu) − 1)/κ + …
    double semi_dual() const;

    // Rows to their optimum, then the columns of the new plan. `sparse`: collects entries ≥ sparse->threshold too.
    // `keep`: stores the plan's rows over a as kernel.
    void sweep(SparsePlan* sparse = nullptr, bool keep = false);
    // Sums of the plan as it is, potentials untouched; cost: ⟨P, C⟩.
    void measure(double* cost = nullptr, SparsePlan* sparse = nullptr);
    // ψ to the columns' optimum (Sinkhorn's other half), from the last sweep's column sums.
    void update_columns();

    // The kernel domain: sweeps that read the kept rows instead of the cost. False: scalings left the safe range, the
    // potentials are back at the last good ones.
    bool has_kernel() const { return kernel_ready_; }
    bool kernel_allowed() const;
    bool sweep_kernel();
    void drop_kernel();
    void refuse_kernel() {  // for good: its rounding is in the way
        kernel_refused_ = true;
        drop_kernel();
    }

    // y = Tᵀ(coefficient ∘ (T x)), of the plan T of the last sweep, by the stored kernel or from the cost; x, y padded.
    void normal_dense(const double* x, const double* coefficient, double* y);
    // The same by rows or columns alone: t = T x; y = Tᵀz.
    void product_rows(const double* x, double* t);
    void product_columns(const double* z, double* y);
    void normal_sparse(const SparsePlan& plan, const double* x, const double* coefficient, double* y, double* t = nullptr);

    // Calls work(rows as a cost, first row, block) for tiles of rows; blocks run in parallel, tiles of a block in order.
    using TileWork = std::function<void(const CostBlock& tile, std::int64_t first, std::int64_t block)>;
    void each_tile(const TileWork& work);
    // Makes room for about `capacity` entries, none of it touched yet.
    void reserve(SparsePlan& plan, std::int64_t capacity) const;
    std::int64_t blocks() const { return blocks_; }
    std::int64_t block_begin(std::int64_t block) const;
    void add_partials(double* columns) const;  // sums of the blocks' column vectors, in their order
    double* partial(std::int64_t block) { return partials_.data() + block * padded_; }

private:
    void run_log(bool update, bool keep, double* cost, SparsePlan* sparse);
    void linear_log(const double* x, const double* coefficient, double* t, double* y);
    void linear_kernel(const double* x, const double* coefficient, double* t, double* y);
    CostBlock kernel_rows(std::int64_t block) const;
    void find_error(bool rows_too);
    void lost_columns(std::vector<double>& log_columns);

    const TransportProblem& problem_;
    std::int64_t padded_, blocks_, block_rows_;
    double reg_, kappa_a_, kappa_b_, exponent_a_, exponent_b_;
    double error_ = 0;
    bool rows_exact_ = true;
    bool kernel_refused_ = false;
    std::vector<double> log_b_, partials_, cost_parts_;
    LargeMemory kernel_;
    std::int64_t kernel_stride_ = 0;
    bool kernel_ready_ = false;
    std::vector<double> kernel_u_, kernel_psi_, log_scale_, multiplier_, coefficient_, offset_;
};

}  // namespace raphson
