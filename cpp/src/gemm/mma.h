// Matrix products of a warp (sm_80 on), one function an instruction. tests/cuda/emulation has their twins in plain C++.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/number.h"

namespace raphson::cuda {

// Four 8×8 tiles of 16-bit numbers out of shared memory: lane i names row i % 8 of tile i / 8, and gets from each tile the
// numbers (lane / 4, 2·(lane % 4)) and the next, in one register; turned, those at (2·(lane % 4), lane / 4) and a row below.
template <bool turned>
__device__ __forceinline__ void load_tiles(std::uint32_t (&r)[4], const void* row);

// c (16×8) += a (16×16) · b (16×8). With g = lane / 4 and t = 2·(lane % 4): a[0], a[1] hold rows g and g + 8, columns t and
// t + 1, a[2], a[3] the same 8 columns on; b[0], b[1] rows t and t + 8 (and the next), column g; c rows g (twice), g + 8,
// columns t, t + 1.
__device__ __forceinline__ void multiply_tiles(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bfloat16);
__device__ __forceinline__ void multiply_tiles(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float16);

// In float64, c (16×8) += a (16×4) · b (4×8): a[0], a[1] hold rows g and g + 8 of column lane % 4, b row lane % 4 of column
// g; c as above.
__device__ __forceinline__ void multiply_tiles(double (&c)[4], const double (&a)[2], double b);

}  // namespace raphson::cuda

#ifdef RAPHSON_CUDA_EMULATION
#include "mma_emulation.h"
#else

namespace raphson::cuda {

template <bool turned>
__device__ __forceinline__ void load_tiles(std::uint32_t (&r)[4], const void* row) {
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (turned) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    }
}

#define RAPHSON_MMA(TYPE)                                                                                                   \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "       \
                 "{%0,%1,%2,%3};"                                                                                            \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
__device__ __forceinline__ void multiply_tiles(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bfloat16) {
    RAPHSON_MMA("bf16");
}
__device__ __forceinline__ void multiply_tiles(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float16) {
    RAPHSON_MMA("f16");
}
#undef RAPHSON_MMA
__device__ __forceinline__ void multiply_tiles(double (&c)[4], const double (&a)[2], double b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("mma.sync.aligned.m16n8k4.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
                 : "d"(a[0]), "d"(a[1]), "d"(b));
#else
#pragma unroll
    for (int half_of = 0; half_of < 2; ++half_of) {
        asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+d"(c[2 * half_of]), "+d"(c[2 * half_of + 1])
                     : "d"(a[half_of]), "d"(b));
    }
#endif
}

}  // namespace raphson::cuda
#endif
