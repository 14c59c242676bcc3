// The inverse of F = λI + (1/m) GᵀG for fixed gradients in the caller's memory (static M-FAC), and the dense products of
// long rows that it and its relatives share.
#pragma once

#include <cstdint>
#include <vector>

#include "ihvp/passes.h"
#include "raphson/view.h"

namespace raphson {

// Rows of floating-point numbers in the caller's memory, each contiguous.
struct RowMatrix {
    const void* data;
    DType dtype;
    std::int64_t rows, cols;
    std::int64_t stride;  // elements from row to row
};

// out (a.rows × b.rows) = A Bᵀ, widened to float64 by tiles; the parts of columns where `kept` (cols, or null) is false
// count as zero. gram: A Aᵀ, one triangle computed and mirrored.
void cross(const RowMatrix& a, const RowMatrix& b, double* out);
void gram(const RowMatrix& a, const std::uint8_t* kept, double* out);

// out (a.cols entries of type `to`, contiguous) = Σⱼ coefficients[j]·row j.
void combine_rows(const RowMatrix& a, const double* coefficients, DType to, void* out);

// The inverse of a sum that gains one vector: out (n×n, contiguous, of M's type; may be M) = α·M + β·I − σ·p qᵀ with
// p = αMv + βv, q = αMᵀv + βv and σ = weight/(1 + weight·vᵀp): three reads of M and a write. Returns 1 + weight·vᵀp; when
// that is not positive and finite nothing is written.
double rank_one_inverse(const RowMatrix& inverse, const double* v, double alpha, double beta, double weight, void* out);

class Fisher {
public:
    // One read of G, m²·d flops and a Cholesky factor a block. G must stay as it is.
    Fisher(const RowMatrix& gradients, double damping, std::int64_t block_size);

    // out (x.rows × dim, of type `to`, contiguous) = X F⁻¹.
    void solve(const RowMatrix& x, DType to, void* out) const;
    // diagonal[k] = (F⁻¹)_kk. For every group of `group` neighbouring columns Q, with B = (F⁻¹)_QQ: scores[q] = ½ w_Qᵀ B⁻¹ w_Q
    // and multipliers_Q = B⁻¹ w_Q. Two reads of G at most, m²·d flops.
    void diagonal(double* out) const;
    void scores(const double* w, std::int64_t group, double* scores, double* multipliers) const;
    // out (rows × cols) = F⁻¹[rows, cols].
    void submatrix(const std::int64_t* rows, std::int64_t row_count, const std::int64_t* cols, std::int64_t col_count,
                   double* out) const;
    double logdet() const;
    // change ← the change of w that minimises ½(λ‖δ‖² + ‖Gδ‖²/m) among those that make w zero where kept is false.
    void remove(const double* w, const std::uint8_t* kept, double* change) const;
    // ½(λ‖δ‖² + ‖Gδ‖²/m), block by block.
    double energy(const double* change) const;

    std::int64_t dim() const { return gradients_.cols; }
    std::int64_t count() const { return gradients_.rows; }
    std::int64_t block_width() const { return width_; }

private:
    std::int64_t blocks() const { return (gradients_.cols + width_ - 1) / width_; }
    RowMatrix columns(std::int64_t block) const;
    const double* factor(std::int64_t block) const;
    void whitened(std::int64_t block, std::int64_t first, std::int64_t width, double* out) const;

    RowMatrix gradients_;
    double damping_;
    std::int64_t width_;
    std::vector<double> factors_;
};

}  // namespace raphson
