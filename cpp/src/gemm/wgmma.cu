// Symmetric products of 16-bit matrices on Hopper: a persistent grid over the tiles of one triangle (of all matrices of a
// batch), one thread that feeds the copy engine, two warpgroups that multiply, and a store that mirrors.
#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/number.h"
#include "gemm/hopper.h"
#include "gemm/product.h"

namespace raphson::cuda {
namespace {

template <int columns>
struct Tiling {
    static constexpr int rows = 128, cols = columns, depth = 64;  // 128 bytes of depth: one swizzled line
    static constexpr int stages = columns == 256 ? 4 : 6;
    static constexpr int a_bytes = rows * depth * 2, b_bytes = cols * depth * 2, stage_bytes = a_bytes + b_bytes;
    static constexpr int pitch = 64 + 8;  // elements of a line of the staging area: 64×64 of a warpgroup at a time
    static constexpr int staging_bytes = 2 * 64 * pitch * 2;
    static constexpr int shared_bytes = stages * stage_bytes + staging_bytes + 2 * stages * 8;
    static constexpr int ratio = columns / rows;
};
constexpr int threads = 3 * 128;

template <class T>
struct Arguments {
    const T* c;
    T* d;
    int64_t m, k, ldc, ldd, step_c, step_d;
    int64_t tiles, total;  // of one matrix, of all
    float alpha, beta;
};

// Where an operand lies in shared memory: 128-byte swizzle, eight rows every 1,024 bytes.
[[maybe_unused]] __device__ __forceinline__ std::uint64_t descriptor(const void* tile, int k_bytes) {
    const std::uint64_t address = shared_address(tile) + static_cast<std::uint32_t>(k_bytes);
    return (address & 0x3ffff) >> 4 | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

[[maybe_unused]] __device__ __forceinline__ void multiply(float (&d)[64], std::uint64_t a, std::uint64_t b, bool add, bfloat16) {
    wgmma_64x128x16<true>(d, a, b, add);
}
[[maybe_unused]] __device__ __forceinline__ void multiply(float (&d)[128], std::uint64_t a, std::uint64_t b, bool add, bfloat16) {
    wgmma_64x256x16<true>(d, a, b, add);
}
[[maybe_unused]] __device__ __forceinline__ void multiply(float (&d)[64], std::uint64_t a, std::uint64_t b, bool add, float16) {
    wgmma_64x128x16<false>(d, a, b, add);
}
[[maybe_unused]] __device__ __forceinline__ void multiply(float (&d)[128], std::uint64_t a, std::uint64_t b, bool add, float16) {
    wgmma_64x256x16<false>(d, a, b, add);
}

// Lines of 64 elements, from the staging area to rows of d; `strict` leaves the diagonal itself out. Element (line, e) goes
// to row `line0 + line`, column `col0 + e`; `mirrored` says that lines are columns of the triangle.
template <class T>
__device__ __forceinline__ void store_lines(const T* staged, int pitch, const Arguments<T>& job, T* d, int64_t line0,
                                            int64_t col0, bool mirrored) {
    const int t = static_cast<int>(threadIdx.x) % 128;
    for (int piece = t; piece < 64 * 8; piece += 128) {
        const int line = piece / 8, e = piece % 8 * 8;
        const int64_t row = line0 + line, col = col0 + e;
        if (row >= job.m || col >= job.m) continue;
        const T* from = staged + line * pitch + e;
        T* to = d + row * job.ldd + col;
        const bool whole = col + 8 <= job.m && (mirrored ? col > row : col + 7 <= row);
        if (whole) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
            continue;
        }
        for (int i = 0; i < 8; ++i) {
            if (col + i < job.m && (mirrored ? col + i > row : col + i <= row)) to[i] = from[i];
        }
    }
}

template <class T, int columns>
__device__ __forceinline__ void store_tile(const float* sums, T* staging, const Arguments<T>& job, const T* c, T* d, int64_t r0,
                                           int64_t c0) {
    using F = Tiling<columns>;
    const int group = static_cast<int>(threadIdx.x) / 128, t = static_cast<int>(threadIdx.x) % 128;
    const int row = 16 * (t / 32) + t % 32 / 4, col = t % 4 * 2;
#pragma unroll
    for (int chunk = 0; chunk < columns / 64; ++chunk) {  // unrolled: registers have no run-time index
        const int64_t first = c0 + 64 * chunk;
        if (first >= job.m || first > r0 + 63) break;  // beyond the matrix, or above the diagonal
        T values[32];
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int64_t r = r0 + row + 8 * i, at = first + 8 * j + col + e;
                    float value = job.alpha * sums[32 * chunk + 4 * j + 2 * i + e];
                    if (c != nullptr && r < job.m && at < job.m) value = fmaf(job.beta, widen(c[r * job.ldc + at]), value);
                    values[4 * j + 2 * i + e] = Rounded<T>::of(value);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                staging[(row + 8 * i) * F::pitch + 8 * j + col] = values[4 * j + 2 * i];
                staging[(row + 8 * i) * F::pitch + 8 * j + col + 1] = values[4 * j + 2 * i + 1];
            }
        }
        barrier_of(group, 128);
        store_lines(staging, F::pitch, job, d, r0, first, false);
        barrier_of(group, 128);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                staging[(8 * j + col) * F::pitch + row + 8 * i] = values[4 * j + 2 * i];
                staging[(8 * j + col + 1) * F::pitch + row + 8 * i] = values[4 * j + 2 * i + 1];
            }
        }
        barrier_of(group, 128);
        store_lines(staging, F::pitch, job, d, first, r0, true);
        barrier_of(group, 128);
    }
}

template <class T, int columns>
__global__ void __launch_bounds__(threads, 1)
    symmetric_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b, const Arguments<T> job) {
#ifdef RAPHSON_HOPPER
    using F = Tiling<columns>;
    unsigned char* const shared = dynamic_shared();
    T* const staging = reinterpret_cast<T*>(shared + F::stages * F::stage_bytes);
    auto* const full = reinterpret_cast<std::uint64_t*>(shared + F::stages * F::stage_bytes + F::staging_bytes);
    std::uint64_t* const empty = full + F::stages;
    const int group = static_cast<int>(threadIdx.x) / 128;
    if (threadIdx.x == 0) {
        for (int s = 0; s < F::stages; ++s) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, 8);  // a lane of every warp that reads
        }
        barrier_init_fence();
    }
    __syncthreads();
    const int64_t blocks = ceil_div(job.k, F::depth);

    if (group == 0) {
        fewer_registers<40>();
        if (threadIdx.x != 0) return;
        int stage = 0;
        unsigned phase = 0;
        for (int64_t t = blockIdx.x; t < job.total; t += gridDim.x) {
            const int matrix = static_cast<int>(t / job.tiles);
            const TriangleTile tile = triangle_tile(t % job.tiles, F::ratio);
            for (int64_t block = 0; block < blocks; ++block) {
                unsigned char* const a = shared + stage * F::stage_bytes;
                barrier_wait(empty + stage, phase ^ 1);
                barrier_expect(full + stage, F::stage_bytes);
                const int k = static_cast<int>(block * F::depth);
                copy_box(a, &map_a, full + stage, k, static_cast<int>(tile.row * F::rows), matrix);
                copy_box(a + F::a_bytes, &map_b, full + stage, k, static_cast<int>(tile.col * F::cols), matrix);
                if (++stage == F::stages) {
                    stage = 0;
                    phase ^= 1;
                }
            }
        }
        return;
    }

    more_registers<232>();
    const int mine = group - 1;
    int stage = 0;
    unsigned phase = 0;
    for (int64_t t = blockIdx.x; t < job.total; t += gridDim.x) {
        const int64_t matrix = t / job.tiles;
        const TriangleTile tile = triangle_tile(t % job.tiles, F::ratio);
        float sums[columns / 2];
        int before = -1;  // the stage whose products may still run
        for (int64_t block = 0; block < blocks; ++block) {
            barrier_wait(full + stage, phase);
            const unsigned char* const a = shared + stage * F::stage_bytes + mine * 64 * F::depth * 2;
            const unsigned char* const b = shared + stage * F::stage_bytes + F::a_bytes;
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < F::depth; k += 16) multiply(sums, descriptor(a, 2 * k), descriptor(b, 2 * k), block > 0 || k > 0, T{});
            wgmma_commit();
            wgmma_wait<1>();
            if (before >= 0 && threadIdx.x % 32 == 0) barrier_arrive(empty + before);
            before = stage;
            if (++stage == F::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
        wgmma_wait<0>();
#ifndef RAPHSON_CUDA_EMULATION
#pragma unroll
        for (int i = 0; i < columns / 2; ++i) asm volatile("" : "+f"(sums[i])::"memory");  // not read before that
#endif
        if (threadIdx.x % 32 == 0) barrier_arrive(empty + before);
        store_tile<T, columns>(sums, staging + mine * 64 * F::pitch, job, job.c == nullptr ? nullptr : job.c + matrix * job.step_c,
                               job.d + matrix * job.step_d, tile.row * F::rows + mine * 64, tile.col * F::cols);
    }
#endif
}

#ifdef RAPHSON_CUDA_EMULATION
CUtensorMap map_of(const ProductJob::Operand& x, const ProductJob& job, std::uint32_t box_rows) {
    return {const_cast<void*>(x.data),
            {static_cast<std::uint64_t>(job.k), static_cast<std::uint64_t>(job.m), static_cast<std::uint64_t>(job.batch)},
            {static_cast<std::uint64_t>(x.ld) * 2, static_cast<std::uint64_t>(x.step) * 2},
            {64, box_rows, 1}};
}
#else
using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's, asked for by name: nothing here links against libcuda.
Encode encoder() {
    static const Encode found = [] {
        void* function = nullptr;
        cudaDriverEntryPointQueryResult result{};
        check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
              "cuTensorMapEncodeTiled");
        if (result != cudaDriverEntryPointSuccess) throw std::runtime_error("cuTensorMapEncodeTiled: this driver has none");
        return reinterpret_cast<Encode>(function);
    }();
    return found;
}

CUtensorMap map_of(const ProductJob::Operand& x, const ProductJob& job, std::uint32_t box_rows) {
    CUtensorMap map;
    const cuuint64_t dims[3] = {static_cast<cuuint64_t>(job.k), static_cast<cuuint64_t>(job.m), static_cast<cuuint64_t>(job.batch)};
    const cuuint64_t strides[2] = {static_cast<cuuint64_t>(x.ld) * 2, static_cast<cuuint64_t>(x.step) * 2};
    const cuuint32_t box[3] = {64, box_rows, 1}, steps[3] = {1, 1, 1};
    const CUresult result =
        encoder()(&map, job.type == DType::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3,
                  const_cast<void*>(x.data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
        throw std::runtime_error("cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(result)) + " for " +
                                 std::to_string(job.batch) + "x" + std::to_string(job.m) + "x" + std::to_string(job.k));
    }
    return map;
}
#endif

template <class T, int columns>
void run(const ProductJob& job, CudaPlace place) {
    using F = Tiling<columns>;
    const int64_t tiles = triangle_tiles(ceil_div(job.m, F::rows), F::ratio), total = tiles * job.batch;
    const Arguments<T> arguments{static_cast<const T*>(job.c.data), static_cast<T*>(job.d), job.m, job.k, job.c.ld, job.ldd,
                                 job.c.step, job.step_d, tiles, total, static_cast<float>(job.alpha), static_cast<float>(job.beta)};
    const std::string name = "symmetric product of " + std::to_string(job.batch) + "x" + std::to_string(job.m) + "x" + std::to_string(job.k);
    const Grid grid{dim3(static_cast<unsigned>(std::min<int64_t>(total, traits(place.device).processors))), threads, F::shared_bytes};
    launch(name.c_str(), place, grid, symmetric_kernel<T, columns>, map_of(job.a, job, F::rows), map_of(job.b, job, F::cols), arguments);
}

// Wide tiles read shared memory less often, narrow ones leave fewer processors idle in the last round.
template <class T>
void run(const ProductJob& job, CudaPlace place) {
    const int64_t wide = triangle_tiles(ceil_div(job.m, 128), 2) * job.batch;
    return wide >= 2 * traits(place.device).processors ? run<T, 256>(job, place) : run<T, 128>(job, place);
}

}  // namespace

bool wgmma_takes(const ProductJob& job, CudaPlace place) {
    const auto aligned = [](const void* p, int64_t ld, int64_t step) {
        return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && ld % 8 == 0 && step % 8 == 0;
    };
    return (job.type == DType::bfloat16 || job.type == DType::float16) && job.symmetric && job.b_transposed && job.k > 0 &&
           aligned(job.a.data, job.a.ld, job.a.step) && aligned(job.b.data, job.b.ld, job.b.step) &&
           aligned(job.d, job.ldd, job.step_d) && job.m < 0x7fffffff && job.k < 0x7fffffff && job.batch < 0x7fffffff &&
           traits(place.device).major == 9;
}

void wgmma_symmetric(const ProductJob& job, CudaPlace place) {
    return job.type == DType::bfloat16 ? run<bfloat16>(job, place) : run<float16>(job, place);
}

}  // namespace raphson::cuda
