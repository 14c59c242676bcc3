// What raphson takes from the driver's header: maps of tensors for the copy engine.
#pragma once

#include <cstdint>

struct alignas(64) CUtensorMap {
    void* base;
    std::uint64_t dims[3], strides[2];
    std::uint32_t box[3];
};
