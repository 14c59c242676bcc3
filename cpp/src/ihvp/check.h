// The rules of the family's arguments, for every driver of it.
#pragma once

#include <cstdint>

#include "raphson/ihvp.h"

namespace raphson {

struct VectorRef;

void check_damping(const char* function, const Damping& damping);
void check_window(std::int64_t dim, std::int64_t capacity, const Damping& damping, const WindowOptions& options);
void require_finite(const VectorRef& x, const char* function, const char* name);

}  // namespace raphson
