// Eigen as a family's core would use it: a product, a factorisation, a solve, with everything inline that comes along.
#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "isa.h"

RAPHSON_ISA_BEGIN

// The largest error of solving A x = b by Cholesky, A = MMᵀ + n·I, for which x is known.
double wall_probe(int n) {
    Eigen::MatrixXd m(n, n), a(n, n);
    Eigen::VectorXd x(n);
    for (int i = 0; i < n; ++i) {
        x(i) = 1.0 + i;
        for (int j = 0; j < n; ++j) m(i, j) = ((i * 7 + j * 13) % 11 - 5) / 5.0;
    }
    a.noalias() = m * m.transpose();
    a.diagonal().array() += static_cast<double>(n);
    const Eigen::VectorXd b = a * x;
    return (a.llt().solve(b) - x).cwiseAbs().maxCoeff();
}

RAPHSON_ISA_END
