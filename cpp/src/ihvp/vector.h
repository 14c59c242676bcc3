#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

// A vector in the caller's memory. bfloat16 and float16 entries are raw 16-bit words.
struct VectorRef {
    void* data;
    DType dtype;
    std::int64_t size;
    std::int64_t stride;  // in elements
};

}  // namespace raphson
