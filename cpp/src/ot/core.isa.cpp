// Dense factor of the Schur complement of a sparse plan, for problems small enough that it beats conjugate gradients.
#include <Eigen/Cholesky>

#include <cstdint>

#include "isa.h"

RAPHSON_ISA_BEGIN

bool ot_cholesky(double* s, std::int64_t n);
void ot_cholesky_solve(const double* factor, std::int64_t n, double* x);

// Row major lower = column major upper; Eigen factors lower triangles faster, and S is symmetric, so it reads its own.
bool ot_cholesky(double* s, std::int64_t n) {
    Eigen::Map<Eigen::MatrixXd> matrix(s, n, n);
    const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> factor(matrix);
    return factor.info() == Eigen::Success;
}

void ot_cholesky_solve(const double* factor, std::int64_t n, double* x) {
    const Eigen::Map<const Eigen::MatrixXd> matrix(factor, n, n);
    Eigen::Map<Eigen::VectorXd> vector(x, n);
    matrix.triangularView<Eigen::Lower>().solveInPlace(vector);
    matrix.triangularView<Eigen::Lower>().adjoint().solveInPlace(vector);
}

RAPHSON_ISA_END
