// How long vectors are cut into tiles and tasks, the same for every pass.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ihvp/passes.h"
#include "ihvp/vector.h"
#include "raphson/view.h"

namespace raphson {

// Columns that are widened at once: whole int8 blocks, 64 KB as float64, long enough runs of a row for the prefetchers.
constexpr std::int64_t tile = 8192;
constexpr std::int64_t most_tasks = 64;  // every one has sums of its own

inline Stored stored_of(DType type) {
    return type == DType::float64    ? Stored::float64
           : type == DType::float32  ? Stored::float32
           : type == DType::bfloat16 ? Stored::bfloat16
                                     : Stored::float16;
}

// Tiles of a column range, spread over tasks by the range alone.
struct Tiles {
    std::int64_t count, tasks;
    explicit Tiles(std::int64_t width) : count((width + tile - 1) / tile), tasks(std::min(count, most_tasks)) {}
    std::int64_t begin(std::int64_t task) const { return count * task / tasks; }
    std::int64_t end(std::int64_t task) const { return count * (task + 1) / tasks; }
};

// Columns first … first+width-1 of a vector, contiguous: where it lies, or copied into `room`.
inline const void* contiguous(const VectorRef& x, std::int64_t first, std::int64_t width, void* room) {
    const std::int64_t size = itemsize(x.dtype);
    const char* from = static_cast<const char*>(x.data) + first * x.stride * size;
    if (x.stride == 1) return from;
    for (std::int64_t k = 0; k < width; ++k) {
        std::memcpy(static_cast<char*>(room) + k * size, from + k * x.stride * size, static_cast<std::size_t>(size));
    }
    return room;
}

}  // namespace raphson
