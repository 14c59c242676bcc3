// The sweeps over the factor, defined in factor.isa.cpp; what they do is said in passes.h.
#pragma once

#include <cstdint>

#include "isa.h"

RAPHSON_ISA_BEGIN

void factor_forward(double* factor, std::int64_t capacity, std::int64_t head, std::int64_t n, double* v, double* b);
void factor_backward(const double* factor, std::int64_t capacity, std::int64_t head, std::int64_t n, double* b);

RAPHSON_ISA_END
