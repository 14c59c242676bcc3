// The sweeps over the factor, defined in factor.isa.cpp; what they do is said in passes.h.
#pragma once

#include <cstdint>

#include "isa.h"

RAPHSON_ISA_BEGIN

void factor_forward(double* factor, std::int64_t capacity, std::int64_t head, std::int64_t n, double* v, double* b);
void factor_backward(const double* factor, std::int64_t capacity, std::int64_t head, std::int64_t n, double* b);
std::int64_t factor_block(double* a, std::int64_t lda, std::int64_t n, double floor);
void solve_rows(const double* l, std::int64_t ldl, std::int64_t n, double* x, std::int64_t ldx, std::int64_t rows);
void solve_columns(const double* l, std::int64_t ldl, std::int64_t n, bool transposed, double* x, std::int64_t ldx,
                   std::int64_t cols);

void syrk(const double* x, std::int64_t ldx, std::int64_t m, std::int64_t width, double* c);

RAPHSON_ISA_END
