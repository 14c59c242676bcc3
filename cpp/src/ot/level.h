// The problem at one regularisation: potentials, and the sweeps that move and measure them. Vectors are the host's. Who passes
// over the cost, and where it lies, is left to HostLevel (host_level.h) and DeviceLevel (device_level.h).
#pragma once

#include <vector>

#include "common/large_memory.h"
#include "ot/problem.h"

namespace raphson {

// Large entries of the plan by rows, one piece a block of rows. What lies on a device has no pieces here.
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

// S = D₂ − TᵀD₁⁻¹T by its parts; schur.h says what is lumped. Column vectors are padded.
struct SchurTerms {
    bool singular = false;
    std::vector<double> d1_inverse, d2, jacobi;   // 1/D₁, 0 for rows without weight; the inverse of S's diagonal
    std::vector<double> lump_q, lump_w;           // of a plan of large entries: q and T_ΩᵀD₁⁻¹p
    double lump_total = 0, lump_pp = 0;           // σ and pᵀD₁⁻¹p
};

struct CgOutcome {
    int iterations = 0;
    double residual = 0;  // ‖rhs − S x‖₁ by the recurrence
};

// What things cost, in nanoseconds: constants, not measurements, so that a run takes the same path every time.
struct PassCosts {
    double sweep, collecting, kernel, product;  // an entry of the cost; the second also collects large entries
    double sparse, vector;                      // an entry of them in a product with S; a column in it
    double factor_flop;
    double sweep_start, step_start, product_start;  // of a sweep, of a Newton step, of a product, whatever the size
};

class Level {
public:
    explicit Level(const TransportProblem& problem);
    virtual ~Level() = default;
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

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
    std::vector<double> row_sum;  // of a measured plan: row i has the mass aᵢ·row_sumᵢ
    double error() const { return error_; }  // L1 optimality residual; the rows' part is 0 after an update
    double target_column(std::int64_t j) const;  // what column j is to weigh: b, or b·exp(−κv)
    double target_row(std::int64_t i) const;
    double row_mass(std::int64_t i) const;  // of the plan that `columns` describes
    // The semi-dual, minimised: −Σ a·u − Σ b·v for exact marginals, κ → 0 of Σ a(e^(−κu) − 1)/κ + …
    double semi_dual() const;

    virtual PassCosts costs() const = 0;
    // Rows to their optimum, then the columns of the new plan. `sparse`: collects entries ≥ sparse->threshold too.
    // `keep`: stores the plan's rows over a as kernel.
    virtual void sweep(SparsePlan* sparse = nullptr, bool keep = false) = 0;
    // Sums of the plan as it is, potentials untouched; cost: ⟨P, C⟩.
    virtual void measure(double* cost = nullptr, SparsePlan* sparse = nullptr) = 0;
    // ψ to the columns' optimum (Sinkhorn's other half), from the last sweep's column sums.
    virtual void update_columns() = 0;

    // The kernel domain: sweeps that read the kept rows instead of the cost. False: scalings left the safe range, the
    // potentials are back at the last good ones.
    virtual bool has_kernel() const { return false; }
    virtual bool kernel_allowed() const { return false; }
    virtual bool sweep_kernel() { return false; }
    virtual void drop_kernel() {}
    virtual void refuse_kernel() {}  // for good: its rounding is in the way

    // By rows or columns: t = T x; y = Tᵀz, of the plan T of the last sweep.
    virtual void product_rows(const double* x, double* t) = 0;
    virtual void product_columns(const double* z, double* y) = 0;
    // y = Tᵀ(coefficient ∘ (T x)), T by its large entries or, plan null, by the stored kernel or from the cost; x, y padded.
    virtual void normal(const SparsePlan* plan, const double* x, const double* coefficient, double* y) = 0;

    // Makes room for about `capacity` entries, none of it touched yet.
    virtual void reserve(SparsePlan& plan, std::int64_t capacity) = 0;
    // The k largest entries, and what equals the last of them.
    virtual void keep_largest(SparsePlan& plan, std::int64_t k) = 0;
    // Of the large entries: their row and column sums, and Σᵢ weightᵢTᵢⱼ².
    virtual void pattern_sums(const SparsePlan& plan, const double* weight, double* rows, double* columns, double* squares) = 0;
    virtual void pattern_columns(const SparsePlan& plan, const double* z, double* y) = 0;  // y = T_Ωᵀz
    // Whether systems in S can be factored here, and solved where the plan lies: then Schur leaves them to `solve`.
    virtual bool can_factor() const = 0;
    virtual bool solves() const { return false; }
    virtual CgOutcome solve(const SchurTerms& system, const SparsePlan* plan, const double* rhs, double* x, double target,
                            int most);

protected:
    void find_error(bool rows_too);

    const TransportProblem& problem_;
    std::int64_t padded_;
    double reg_, kappa_a_, kappa_b_, exponent_a_, exponent_b_;
    double error_ = 0;
    bool rows_exact_ = true;
    std::vector<double> log_b_;
};

}  // namespace raphson
