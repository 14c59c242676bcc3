// Random embeddings: matrices S (rows × cols) with E[SᵀS] = I that shorten tall matrices; least squares by them.
#pragma once

#include <cstdint>
#include <vector>

#include "raphson/rows.h"
#include "raphson/status.h"
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
    template <class T>
    void add_by_tiles(TensorView<const T> a, const std::uint32_t* place, const double* weights, double* out) const;
    template <class T>
    void add_by_rows(TensorView<const T> a, const std::uint32_t* place, const double* weights, double* out) const;

    std::int64_t rows_, cols_;
    int nnz_;
    std::uint64_t seed_;
};

// Entries N(0, 1/rows), made where they are used.
class Gaussian {
public:
    Gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed);  // rows ≥ 1, else std::invalid_argument
    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    // As SparseSign::add; 2·rows flops an entry of a, on the packed products.
    template <class T>
    void add(TensorView<const T> a, std::int64_t first, const double* weights, double* out) const;
    // out (rows × n, leading dimension ld) = S[:, first … first + n-1].
    void entries(std::int64_t first, std::int64_t n, double* out, std::int64_t ld) const;

private:
    std::int64_t rows_, cols_;
    std::uint64_t seed_;
};

// √(N/rows)·(rows of H/√N)·D: signs D, the Hadamard transform H of N = cols rounded up to a power of two, rows picked
// without repetition.
class SRHT {
public:
    SRHT(std::int64_t rows, std::int64_t cols, std::uint64_t seed);  // 1 ≤ rows ≤ N, else std::invalid_argument
    std::int64_t rows() const { return rows_; }
    std::int64_t cols() const { return cols_; }
    // As SparseSign::add; 12 additions or so an entry of a, one read of it.
    template <class T>
    void add(TensorView<const T> a, std::int64_t first, const double* weights, double* out) const;
    void entries(std::int64_t first, std::int64_t n, double* out, std::int64_t ld) const;
    const std::vector<std::int64_t>& picked() const { return picked_; }  // rows of H

private:
    void signs(std::int64_t first, std::int64_t n, double* out) const;

    std::int64_t rows_, cols_, padded_ = 1, chunk_ = 1;
    std::uint64_t seed_;
    std::vector<std::int64_t> picked_;
};

enum class LstsqMethod : std::uint8_t {
    automatic,  // gram where it pays and the condition allows it, else the cheaper of direct and sketch, by the shape; cg for
                // compressed rows too wide for a dense triangle
    direct,     // Householder QR of A
    gram,       // Cholesky factor of AᵀA, refined; beyond conditions of 1e6 (columns at norm 1) the next best
    sketch,     // SPIR: preconditioner and start from a sketch, two or more refinements by conjugate gradients
    fossils,    // the same by heavy-ball steps
    cg,         // conjugate gradients on columns scaled to norm 1
};
const char* to_string(LstsqMethod method);

struct LstsqOptions {
    double ridge = 0;
    double rcond = -1;  // relative cut of singular values; < 0: ε·max(30, columns), of A with its columns at norm 1
    LstsqMethod method = LstsqMethod::automatic;
    double tol = -1;  // of backward_error; < 0: 1e-15, or 1e-6 where x is rounded to float32
    int max_iter = 100;  // steps of one refinement
    std::uint64_t seed = 0;
    std::int64_t sketch_rows = 0;  // 0: chosen
};

struct LstsqResult {
    std::vector<double> x;               // columns of A × columns of b, row major
    std::vector<double> residual_norm;   // ‖b − A x‖ for every column of b, without the ridge
    std::vector<double> backward_error;  // for every column: Karlson and Waldén's estimate over ‖A‖_F, measured on x
    std::int64_t rank = 0;
    double cond = 0;      // an estimate of the condition of A (with the ridge), of its kept part where it was cut
    int iterations = 0;   // steps, all columns and refinements
    int sweeps = 0;       // reads of A
    Status status = Status::converged;
    LstsqMethod method = LstsqMethod::direct;  // the one that ran
};

// min ‖A x − b‖² + ridge‖x‖² for every column of b (rows of A × k, contiguous); the solution of least norm where there are
// several. x is rounded to `precision` before it is measured. std::invalid_argument: shapes, NaN or Inf, ridge < 0.
LstsqResult lstsq(const RowSource& a, const double* b, std::int64_t k, DType precision, const LstsqOptions& options = {});

// b: (rows,) or (rows, k), contiguous.
template <class T>
LstsqResult lstsq(TensorView<const T> a, TensorView<const T> b, const LstsqOptions& options = {});

}  // namespace raphson
