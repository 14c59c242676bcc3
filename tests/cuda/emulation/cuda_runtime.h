// CUDA on the CPU, as far as raphson's kernels use it, so that every one of them runs in the tests of machines without a
// GPU: .cu files are compiled as C++ with this header in the toolkit's place. Device memory is host memory filled with
// NaNs, a stream finishes everything at once, the threads of a block are fibers that change at barriers and shuffles,
// and blocks run one after another: forwards, backwards or shuffled, so that what depends on their order shows.
// It proves indexing, barriers and arithmetic; it proves nothing about speed, or about the hardware's own rules.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

#define RAPHSON_CUDA_EMULATION

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __constant__
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

using std::fabs, std::fma, std::max, std::min, std::sqrt;  // as in CUDA, for every type

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace emulation {

extern uint3 thread, block;
extern dim3 block_size, grid_size;
extern unsigned char* shared;        // dynamic shared memory, 1,024-byte aligned
extern std::size_t launches;         // since the program started

void barrier();                      // of the block
void barrier(int id, int threads);   // a named one
void warp_barrier();
void give_way();                     // in loops that wait for other threads
void run(dim3 grid, dim3 threads, std::size_t shared_bytes, const std::function<void()>& body);
void* warp_slot(int lane);           // 64 bytes a lane, for exchanges

inline int lane() { return static_cast<int>(thread.x % 32); }

template <class T>
T exchange(T value, int from) {
    static_assert(sizeof(T) <= 64 && std::is_trivially_copyable_v<T>);
    std::memcpy(warp_slot(lane()), &value, sizeof value);
    warp_barrier();
    std::memcpy(&value, warp_slot(from), sizeof value);
    warp_barrier();
    return value;
}

}  // namespace emulation

inline const uint3 &threadIdx = emulation::thread, &blockIdx = emulation::block;
inline const dim3 &blockDim = emulation::block_size, &gridDim = emulation::grid_size;

inline void __syncthreads() { emulation::barrier(); }
inline void __syncwarp(unsigned = ~0u) { emulation::warp_barrier(); }
inline void __threadfence() {}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::exchange(value, emulation::lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by) {
    const int from = emulation::lane() + by;
    return emulation::exchange(value, from < 32 ? from : emulation::lane());
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
    return emulation::exchange(value, from % 32);
}
inline unsigned __ballot_sync(unsigned, bool value) {
    unsigned bits = value ? 1u << emulation::lane() : 0;
    for (int by = 16; by > 0; by /= 2) bits |= __shfl_xor_sync(~0u, bits, by);
    return bits;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T __ldg(const T* p) {
    return *p;
}
template <class T>
T atomicAdd(T* to, T value) {
    const T before = *to;
    *to = before + value;
    return before;
}
inline float __uint_as_float(unsigned x) {
    float y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
inline unsigned __float_as_uint(float x) {
    unsigned y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
inline int __double2loint(double x) {
    std::int64_t y;
    std::memcpy(&y, &x, sizeof y);
    return static_cast<int>(static_cast<std::uint32_t>(y));
}
inline int __double2hiint(double x) {
    std::int64_t y;
    std::memcpy(&y, &x, sizeof y);
    return static_cast<int>(y >> 32);
}
inline double __hiloint2double(int high, int low) {
    const std::uint64_t bits = static_cast<std::uint64_t>(static_cast<std::uint32_t>(high)) << 32 | static_cast<std::uint32_t>(low);
    double y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

// ---- the runtime --------------------------------------------------------------------------------------------------------

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorNoDevice = 100 };
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrPageableMemoryAccessUsesHostPageTables = 100
};
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice, cudaMemoryTypeManaged };
struct cudaPointerAttributes {
    cudaMemoryType type;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4 };
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
struct cudaMemPoolProps {
    cudaMemAllocationType allocType;
    struct {
        cudaMemLocationType type;
        int id;
    } location;
};
constexpr unsigned cudaEventDisableTiming = 2;

cudaError_t cudaMallocFromPoolAsync(void** p, std::size_t bytes, cudaMemPool_t, cudaStream_t);
cudaError_t cudaFreeAsync(void* p, cudaStream_t);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
    *pool = nullptr;
    return cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (bytes != 0) std::memcpy(to, from, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
    if (bytes != 0) std::memset(to, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
    attributes->type = cudaMemoryTypeUnregistered;
    return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned = 0) { return cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = nullptr;
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
    return cudaSuccess;
}
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes;
    cudaStream_t stream;
    void* attrs;
    unsigned numAttrs;
};
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
    if (config->gridDim.x == 0 || config->blockDim.x == 0) return cudaErrorInvalidValue;
    emulation::run(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                   [&] { kernel(static_cast<P>(arguments)...); });
    return cudaSuccess;
}
