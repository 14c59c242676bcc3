// A tall matrix in a CUDA device's memory as the drivers of least squares and of generalized linear models read it, as
// raphson._cuda hands it out. Vectors of one number a row stay on the device; the host gets what has the length of a row,
// small matrices and sums. Everything waits for the stream but what only makes vectors of the device.
#pragma once

#include <cstdint>

#include "cuda/table.h"
#include "raphson/rows.h"

namespace raphson {

// What a sweep makes of t = A v, row by row.
enum class RowLoss : std::uint8_t {
    none,      // u = weight · curvature · t: products with Aᵀ D A
    gaussian,  // loss ½ (m − y)² of the margin m = t + offset; u = weight · (derivative of the loss), here and below
    logistic,  // log(1 + eᵐ) − y m
    poisson,   // eᵐ − y m
};
struct RowSweep {
    RowLoss loss = RowLoss::none;
    const double* v = nullptr;          // a.cols numbers and, with a border, one that is added to every t
    int border = 0;                     // 1: as if A had a last column of ones
    const double* y = nullptr;          // a.rows each, as all below; y with a loss, the others or null
    const double* weight = nullptr;     // null: 1; rows of weight 0 add nothing, whatever they hold
    const double* offset = nullptr;     // null: 0
    const double* curvature = nullptr;  // `none` only; null: 1
    double* out = nullptr;              // Aᵀ u: a.cols + border numbers, overwritten
    double* totals = nullptr;           // with a loss, or null: Σ weight · loss, and how many rows of a positive weight do
                                        // not lie strictly on the side of their label 0 or 1 (other families: all)
    double* margin = nullptr;           // m (t for `none`), or null
    double* second = nullptr;           // the loss's second derivative by the margin, not weighted; or null
};

// The loss at margins from + at · (to − from), without a read of A.
struct RowLine {
    RowLoss loss = RowLoss::gaussian;
    const double* y = nullptr;  // a.rows each; weight or null
    const double* weight = nullptr;
    const double* from = nullptr;
    const double* to = nullptr;
    double at = 0;
    bool saturated = false;  // less the loss of a model that has a parameter for every row
};

// The same for the multinomial family: margins of every class, loss log Σ e^{m_c} − m_y.
struct ClassSweep {
    int classes = 0, border = 0;
    const double* v = nullptr;       // classes × (a.cols + border)
    const double* y = nullptr;       // a.rows labels 0 … classes-1; null: the Hessian's product with v at `probability`
    const double* weight = nullptr;  // a.rows; null: 1
    const double* offset = nullptr;  // a.rows × classes; null: 0
    double* margin = nullptr;        // a.rows × classes, as below; written where there are labels
    double* probability = nullptr;   // written where there are labels
    double* out = nullptr;           // classes × (a.cols + border)
    double* totals = nullptr;        // as RowSweep's, where there are labels
};

// What predictions are made of margins by.
enum class RowLink : std::uint8_t { identity, probability, exponential, positive };

// A SparseSign of `rows` rows.
struct RowSketch {
    std::int64_t rows;
    int nnz;
    std::uint64_t seed;
};

class CudaRows {
public:
    virtual ~CudaRows() = default;

    virtual RowBlock shape() const = 0;  // without values

    // Vectors of the device that live as long as these rows: any numbers; the host's; a matrix's columns one after another.
    virtual double* vector(std::int64_t count) = 0;
    virtual double* vector(const double* values, std::int64_t count) = 0;
    virtual double* columns(const CudaView& from) = 0;
    virtual void read_vector(const double* vector, std::int64_t count, double* to) = 0;
    // The largest absolute value; Inf for NaN.
    virtual double largest(const double* vector, std::int64_t count) = 0;

    // v, out and totals are the host's. One read of A.
    virtual void sweep(const RowSweep& what) = 0;
    // Σ weight · loss, and the derivative of that by `at`.
    virtual void along(const RowLine& what, double* totals) = 0;
    // root ← √(weight · curvature); weight may be null.
    virtual void roots(const double* weight, const double* curvature, double* root) = 0;

    // out (s.rows × cols) = S A, and out (s.rows × b.columns) = S b.
    virtual void sketch(const RowSketch& s, double* out) = 0;
    virtual void sketch(const RowSketch& s, const CudaView& b, double* out) = 0;
    // (cols + border)² = [A 1]ᵀ diag(root²) [A 1]; of S diag(root) [A 1] in its place; the diagonal alone. root may be null.
    virtual void gram(const double* root, int border, double* out) = 0;
    virtual void sketched_gram(const RowSketch& s, const double* root, int border, double* out) = 0;
    virtual void squares(const double* root, int border, double* out) = 0;
    // The Gram matrix of the rows 0, apart, 2·apart, … and the share of Σ root² that is theirs; of all rows, and 1, if that is
    // none.
    virtual double thinned_gram(const double* root, int border, std::int64_t apart, double* out) = 0;

    // The multinomial family: vectors are rows × classes. v, out and totals are the host's. A line's loss is not looked at.
    virtual void class_sweep(const ClassSweep& what) = 0;
    virtual void class_along(const RowLine& what, int classes, double* totals) = 0;
    // root² ← weight · |curvature between the classes c and e|; c = -1: weight · the mean over classes of p (1 − p), scaled
    // as on the space of coefficients that sum to 0.
    virtual void class_roots(const double* weight, const double* probability, int classes, int c, int e, double* root) = 0;
    // what.margin ← margins, or probabilities, at v with offsets.
    virtual void class_means(const ClassSweep& what, bool probabilities) = 0;

    // Rows first … first + count - 1, contiguous; and a matrix of those that an array of the host names.
    virtual void read_rows(std::int64_t first, std::int64_t count, void* to) = 0;
    virtual CudaRows* pick(const std::int64_t* rows, std::int64_t count) = 0;

    // out (rows, the device's, contiguous) ← link(A v + offset).
    virtual void predict(const double* v, int border, const double* offset, RowLink link, double* out) = 0;
};

}  // namespace raphson
