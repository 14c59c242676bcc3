// The passes of entropic transport over the rows of a cost, of a kernel, and of a sparse plan.
//
// Everything is dimensionless: with u = f/reg and ψ = g/reg + log b, the plan is P = a·exp(u ⊕ ψ − C/reg), so that the
// exponentials of a row sum to about one whatever its weight is. Column vectors (ψ, column sums) are padded to a multiple
// of ot_padding, ψ with -Inf, multipliers with 0. No pass starts threads: drivers cut the rows, and each block of
// rows adds its column sums to a vector of its own, which the driver has cleared.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

constexpr std::int64_t ot_padding = 8;
constexpr std::int64_t ot_peaks = 32;
constexpr int ot_group = 4;  // rows that share the reads of ψ and of the column sums
// Rows of exponentials start at different offsets within a page: stores to one would hold up loads at the same offset.
constexpr std::int64_t ot_scratch_row(std::int64_t columns) { return (columns + ot_padding + 511) / 512 * 512 + 72; }
constexpr std::int64_t ot_scratch(std::int64_t columns) { return (ot_group + 1) * ot_scratch_row(columns); }

struct CostBlock {  // rows of a dense cost or of a kernel, float64 or float32
    DType type;
    const void* data;
    std::int64_t stride;
    std::int64_t rows;
    std::int64_t columns;
};

// The large entries of a block of rows of the plan, by rows.
struct SparseBlock {
    double threshold;      // kept: entries P ≥ threshold
    std::int64_t capacity;
    std::int32_t* index;
    double* value;
    std::int64_t* row_end;  // one a row: where its entries end
    std::int64_t count;     // in: entries so far; -1 when they do not fit
};

struct LogBlock {
    CostBlock cost;
    double inverse_reg;
    const double* psi;
    const double* mass;  // a; a row of weight 0 takes no part
    double exponent;     // of the row update: 1 balanced, ρ/(ρ + reg) unbalanced
    bool update;         // rows first: u ← −exponent·log Σ exp(ψ − C/reg), then the columns of the updated plan
    double* u;
    double* row_sum;     // Σⱼ exp(u + ψ − C/reg) at the u given: row i of the plan had a·row_sum. 0 where u was too far off
    double* columns;     // += column sums of the plan of this block
    double* cost_sum;    // += ⟨P, C⟩ of this block, or null
    SparseBlock* sparse;  // or null
    void* plan;           // P/a as rows of the cost's dtype, plan_stride apart, or null
    std::int64_t plan_stride;
    // Not null: no update but a product with the plan's shape: t = Σⱼ exp(u + ψ − C/reg)·xⱼ, rows add coefficient·t·exp(…)
    // to the columns (t null: coefficient alone). x is padded with 0.
    const double* x;
    const double* coefficient;
    double* t;
    double* scratch;  // ot_scratch(columns) numbers: rows of exponentials, ot_scratch_row apart
};

struct KernelBlock {
    CostBlock kernel;
    const double* x;        // columns
    const double* coefficient;  // rows
    // linear: z = coefficient·t; else the row update: z = coefficient·exp(log_scale), t = Σ K x,
    // log_scale = −exponent·log t + offset.
    bool linear;
    double exponent;
    const double* offset;   // rows or null (zero)
    double* t;              // rows, out, or null
    double* log_scale;      // rows, out (not when linear)
    double* columns;        // += Σᵢ zᵢ Kᵢⱼ
};

struct SparseRows {  // one block of the stored plan
    const std::int32_t* index;
    const double* value;
    const std::int64_t* row_end;
    std::int64_t rows;
    std::int64_t columns;
};

struct CostScan {
    double lowest, highest;  // of the finite entries
    bool forbids;            // +Inf is there
    bool bad;                // NaN or -Inf is there
};

enum class Metric : std::uint8_t { sqeuclidean, euclidean, cityblock };

struct PointBlock {
    Metric metric;
    double scale;
    const double* x;        // rows × dim
    const double* y;        // dim × padded columns: coordinate by coordinate
    std::int64_t y_stride;
    std::int64_t dim;
    std::int64_t rows;
    std::int64_t columns;
    double* cost;           // out: rows × stride
    std::int64_t stride;
};

struct OtTable {
    CostScan (*scan)(const CostBlock& cost);
    void (*log_sweep)(const LogBlock& block);
    void (*kernel_sweep)(const KernelBlock& block);
    // highest[j] ← the larger of it and φ − C/reg over the block's rows, for the columns of `groups` (starts, each ot_padding wide).
    void (*column_max)(const CostBlock& cost, double inverse_reg, const double* phi, const std::int64_t* groups,
                       std::int64_t group_count, double* highest);
    // sum[j] += Σᵢ exp(φᵢ − Cᵢⱼ/reg − shift[j]) for those columns.
    void (*column_sum)(const CostBlock& cost, double inverse_reg, const double* phi, const double* shift,
                       const std::int64_t* groups, std::int64_t group_count, double* sum);
    // columns[j] += Σᵢ coefficientᵢ·(T x)ᵢ·Tᵢⱼ, in one pass.
    void (*sparse_normal)(const SparseRows& plan, const double* x, const double* coefficient, double* columns);
    // columns[j] += Σᵢ zᵢ·Tᵢⱼ.
    void (*sparse_columns)(const SparseRows& plan, const double* z, double* columns);
    void (*point_costs)(const PointBlock& block);
    // out[k] = 2^x[k]: for tests.
    void (*exp2)(const double* x, std::int64_t count, double* out);

    // Of one row, v = g − C: lane-wise maxima (ot_peaks numbers, -Inf where there are fewer columns); the entries v ≥ bound with
    // their columns, in order, for which there must be room for ot_padding more than there are; t with
    // Σ max(v − t, 0) = z, at least `t` given, which must not be too high.
    void (*row_peaks)(const CostBlock& row, const double* g, double* peaks);
    std::int64_t (*row_above)(const CostBlock& row, const double* g, double bound, std::int32_t* index, double* value);
    double (*simplex_threshold)(const double* v, std::int64_t count, double z, double t);

    // S (n×n, row major, symmetric, of which the upper triangle is read) becomes its Cholesky factor; false when a pivot is not positive.
    bool (*cholesky)(double* s, std::int64_t n);
    void (*cholesky_solve)(const double* factor, std::int64_t n, double* x);
};

}  // namespace raphson
