// Random embeddings: matrices S (rows × cols) with E[SᵀS] = I that shorten tall matrices.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

// nnz entries ±1/√nnz in every column, one in each of nnz equal bands of rows (nnz = 1: CountSketch). Entry k of column i
// comes from Philox4x32-10 keyed by the seed at position (i, k): it depends on nothing else, so that equal parameters
// give equal sketches, and parts of a matrix can be sketched apart and added.
class SparseSign {
public:
    // 1 ≤ nnz ≤ rows < 2³¹, else std::invalid_argument.
    SparseSign(std::int64_t rows, std::int64_t cols, int nnz, std::uint64_t seed);

    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    int nnz() const { return nnz_; }

    // out (rows × d, row major, contiguous, float64) += S[:, first … first + n-1] diag(weights) a of a (n × d), contiguous
    // along its columns; weights (n) or null. One read of a; sums in float64, in one order for any number of threads.
    template <class T>
    void add(TensorView<const T> a, std::int64_t first, const double* weights, double* out) const;
    // out (n × d) = S[:, first … first + n-1]ᵀ b of b (rows × d).
    template <class T>
    void adjoint(TensorView<const T> b, std::int64_t first, TensorView<T> out) const;
    // Rows and signs of the entries of columns first … first + n-1: n × nnz each.
    void entries(std::int64_t first, std::int64_t n, std::int32_t* row, std::int8_t* sign) const;

private:
    void places(std::int64_t first, std::int64_t n, std::uint32_t* place) const;

    std::int64_t rows_, cols_;
    int nnz_;
    std::uint64_t seed_;
};

}  // namespace raphson
