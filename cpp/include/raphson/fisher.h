// The inverse of F = λI + (1/m) GᵀG for fixed gradients: static M-FAC, and what optimal brain surgeons ask of it.
#pragma once

#include <cstdint>
#include <memory>

#include "raphson/view.h"

namespace raphson {

// Reads gradients (m, dim) of float64, float32 or bfloat16 where they lie: they must stay, and stay as they are. Products
// are multiplied and accumulated in float64. Any number of threads may ask at once. Views given here have contiguous last
// axes. std::invalid_argument on misuse, NaN and Inf among the gradients and in x included; Cancelled.
class FisherInverse {
public:
    // One read of the gradients and m²·dim flops, m³/3 for a Cholesky factor; with a block_size F is block-diagonal over
    // that many columns, a factor each (0: one block). Memory: 8m² bytes a block.
    template <class T>
    FisherInverse(TensorView<const T> gradients, double damping, std::int64_t block_size = 0);
    ~FisherInverse();
    FisherInverse(FisherInverse&&) noexcept;
    FisherInverse& operator=(FisherInverse&&) noexcept;

    std::int64_t dim() const;
    std::int64_t count() const;  // m

    // out ← F⁻¹x for a vector (dim) or for every row of x (k, dim): two reads of G for each. out may be x.
    template <class T>
    void solve(TensorView<const T> x, TensorView<T> out) const;
    // out (dim) ← the diagonal of F⁻¹. m²·dim flops.
    void diagonal(TensorView<double> out) const;
    // out (rows, cols) ← F⁻¹ at these rows and columns.
    void submatrix(TensorView<const std::int64_t> rows, TensorView<const std::int64_t> cols, TensorView<double> out) const;
    double logdet() const;
    // Scores ½ w_Qᵀ((F⁻¹)_QQ)⁻¹w_Q of removing each group of `group` neighbouring weights alone: scores (dim/group). m²·dim
    // flops.
    void obs_scores(TensorView<const double> w, TensorView<double> scores, std::int64_t group = 1) const;
    // change (dim) ← the change of w that minimises ½(λ‖δ‖² + ‖Gδ‖²/m) among those that make w zero where kept is false:
    // exact for a set of any size. Gives that minimum, the predicted increase of the loss. m²·dim flops.
    double obs_remove(TensorView<const double> w, TensorView<const bool> kept, TensorView<double> change) const;

private:
    struct Core;
    std::unique_ptr<const Core> core_;
};

}  // namespace raphson
