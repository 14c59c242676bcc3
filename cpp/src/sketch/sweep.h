// Sweeps over a tall matrix: everything that least squares and generalized linear models read their data for.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "raphson/rows.h"
#include "raphson/sketch.h"

namespace raphson {

// Called for chunks of rows, each row once, from several threads at once: t (rows × in) = A v there; writes u (rows × out);
// adds to sums, which are added up over all rows in a fixed order.
using Middle = std::function<void(std::int64_t first, std::int64_t rows, const double* t, double* u, double* sums)>;

struct Sweep {
    const double* v = nullptr;  // `in` vectors `stride` apart; null: t is not computed
    int in = 0;
    double* out = nullptr;  // Aᵀ u: `outs` vectors `stride` apart, overwritten; null: not computed
    int outs = 0;
    std::int64_t stride = 0;
    int sums = 0;
};
// u = middle(A v), out = Aᵀ u in one read of A: chunks of rows stay in cache between the two. Gives the sums.
std::vector<double> sweep(const RowSource& a, const Sweep& what, const Middle& middle);

// gram (n × n, n = cols + border) = [A 1]ᵀ diag(weights) [A 1], both triangles; border 0 or 1; weights (rows) or null.
// cols² flops a row, on the packed products; CSR: the squares of the rows' lengths.
void weighted_gram(const RowSource& a, const double* weights, int border, double* gram);

// diagonal (cols + border) of the same.
void weighted_squares(const RowSource& a, const double* weights, int border, double* diagonal);

// S diag(weights) [A 1] (rows of S × (cols + border)); overwritten.
void sketch_rows(const SparseSign& s, const RowSource& a, const double* weights, int border, double* out);

}  // namespace raphson
