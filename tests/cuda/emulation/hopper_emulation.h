// cpp/src/gemm/hopper.h in plain C++, as the PTX manual describes it: barriers count arrivals and bytes, boxes are copied
// at once with the 128-byte swizzle, every thread of a warpgroup computes its own part of a product from the two
// descriptors. Asynchrony, proxies and fences are not modelled.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda.h"
#include "cuda/number.h"
#include "cuda_runtime.h"

#define RAPHSON_HOPPER

namespace raphson::cuda {

inline std::uint32_t shared_address(const void* p) {
    return static_cast<std::uint32_t>(static_cast<const unsigned char*>(p) - emulation::shared);
}

struct EmulatedBarrier {
    std::uint16_t expected, pending;
    std::int32_t bytes_and_phase;  // 2·bytes + phase

    void complete() {
        if (pending != 0 || bytes_and_phase / 2 != 0) return;
        pending = expected;
        bytes_and_phase ^= 1;
    }
};
static_assert(sizeof(EmulatedBarrier) == 8);
inline EmulatedBarrier& emulated(std::uint64_t* barrier) { return *reinterpret_cast<EmulatedBarrier*>(barrier); }

inline void barrier_init(std::uint64_t* barrier, unsigned arrivals) {
    emulated(barrier) = {static_cast<std::uint16_t>(arrivals), static_cast<std::uint16_t>(arrivals), 0};
}
inline void barrier_init_fence() {}
inline void barrier_arrive(std::uint64_t* barrier) {
    --emulated(barrier).pending;
    emulated(barrier).complete();
}
inline void barrier_expect(std::uint64_t* barrier, unsigned bytes) {
    emulated(barrier).bytes_and_phase += static_cast<std::int32_t>(2 * bytes);
    barrier_arrive(barrier);
}
inline void barrier_wait(std::uint64_t* barrier, unsigned parity) {
    while (static_cast<unsigned>(emulated(barrier).bytes_and_phase & 1) == parity) emulation::give_way();
}

inline std::uint32_t swizzled(std::uint32_t address) { return address ^ (address >> 7 & 7u) << 4; }

inline void copy_box(void* to, const CUtensorMap* map, std::uint64_t* barrier, int k, int row, int matrix) {
    const std::uint32_t first = shared_address(to);
    if (first % 1024 != 0) std::abort();  // what the swizzle asks for
    const std::uint64_t start[3] = {static_cast<std::uint64_t>(k), static_cast<std::uint64_t>(row), static_cast<std::uint64_t>(matrix)};
    std::uint32_t bytes = 0;
    for (std::uint32_t r = 0; r < map->box[1]; ++r) {
        for (std::uint32_t c = 0; c < map->box[0]; ++c) {
            std::uint16_t value = 0;
            if (start[0] + c < map->dims[0] && start[1] + r < map->dims[1] && start[2] < map->dims[2]) {
                const char* from = static_cast<const char*>(map->base) + (start[0] + c) * 2 + (start[1] + r) * map->strides[0] +
                                   start[2] * map->strides[1];
                std::memcpy(&value, from, 2);
            }
            std::memcpy(emulation::shared + swizzled(first + bytes), &value, 2);
            bytes += 2;
        }
    }
    emulated(barrier).bytes_and_phase -= static_cast<std::int32_t>(2 * bytes);
    emulated(barrier).complete();
}

inline void barrier_of(int id, int threads) { emulation::barrier(id, threads); }
template <int>
void more_registers() {}
template <int>
void fewer_registers() {}
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int>
void wgmma_wait() {}

// Row r, column k of a tile whose columns run fastest, 128-byte swizzle: eight rows every stride bytes.
template <bool brain>
float wgmma_operand(std::uint64_t descriptor, int row, int k) {
    const auto start = static_cast<std::uint32_t>(descriptor & 0x3fff) << 4;
    const auto stride = static_cast<std::uint32_t>(descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 1) std::abort();  // another swizzle
    const std::uint32_t address = start + static_cast<std::uint32_t>(row / 8) * stride + static_cast<std::uint32_t>(row % 8) * 128 +
                                  static_cast<std::uint32_t>(k) * 2;
    std::uint16_t bits;
    std::memcpy(&bits, emulation::shared + swizzled(address), 2);
    if constexpr (brain) {
        return widen(bfloat16{bits});
    } else {
        return widen(float16{bits});
    }
}

template <bool brain, int cols>
void wgmma_64xNx16(float* d, std::uint64_t a, std::uint64_t b, bool add) {
    const int warp = static_cast<int>(threadIdx.x % 128 / 32), in_warp = static_cast<int>(threadIdx.x % 32);
    float x[2][16];
    for (int i = 0; i < 2; ++i) {
        for (int k = 0; k < 16; ++k) x[i][k] = wgmma_operand<brain>(a, 16 * warp + in_warp / 4 + 8 * i, k);
    }
    for (int j = 0; j < cols / 8; ++j) {
        for (int e = 0; e < 2; ++e) {
            float y[16];
            for (int k = 0; k < 16; ++k) y[k] = wgmma_operand<brain>(b, 8 * j + in_warp % 4 * 2 + e, k);
            for (int i = 0; i < 2; ++i) {
                float sum = add ? d[4 * j + 2 * i + e] : 0;
                for (int k = 0; k < 16; ++k) sum += x[i][k] * y[k];
                d[4 * j + 2 * i + e] = sum;
            }
        }
    }
}
template <bool brain>
void wgmma_64x128x16(float (&d)[64], std::uint64_t a, std::uint64_t b, bool add) {
    wgmma_64xNx16<brain, 128>(d, a, b, add);
}
template <bool brain>
void wgmma_64x256x16(float (&d)[128], std::uint64_t a, std::uint64_t b, bool add) {
    wgmma_64xNx16<brain, 256>(d, a, b, add);
}

}  // namespace raphson::cuda
