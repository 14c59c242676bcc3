// Eigenvalues and vectors of a symmetric tridiagonal matrix, by divide and conquer.
#pragma once

#include <cstdint>

namespace raphson {

// T (d: n, e: n − 1 beside the diagonal; both destroyed) = Qᵀ diag(d) Q, q n×n: row order[i] of q belongs to d[order[i]], which
// ascends with i. The most steps that an eigenvalue took: of QL (leaves) or for a root of a secular equation. More than
// `most_steps` where that was not enough: q is orthogonal all the same. (1 to 4)/3 n³ flops, by how few vectors deflate.
std::int64_t tridiagonal_eigh(double* d, double* e, std::int64_t n, double* q, std::int64_t* order, std::int64_t most_steps);

}  // namespace raphson
