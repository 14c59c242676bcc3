// The eigenvalue passes, defined in eigen.isa.cpp and secular.isa.cpp; what they do is said in blocks.h.
#pragma once

#include "dense/blocks.h"
#include "isa.h"

RAPHSON_ISA_BEGIN

void tridiagonal_panel(const double* a, std::int64_t lda, std::int64_t n, std::int64_t count, double* d, double* e, double* tau,
                       double* v, double* w);
void rotate(double* x, std::int64_t n, std::int64_t from, const double* rotations, const RotationSweep* sweeps,
            std::int64_t count, double* rows);
std::int64_t secular_roots(const SecularEquation& problem, std::int64_t first, std::int64_t last, std::int64_t most);
void secular_weights(const SecularEquation& problem, std::int64_t from, double* exact);
void secular_vectors(const SecularEquation& problem, std::int64_t first, std::int64_t last, double* s, std::int64_t lds);

RAPHSON_ISA_END
