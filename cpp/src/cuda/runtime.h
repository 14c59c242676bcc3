// What every .cu file stands on: errors with names, memory in stream order, launches.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "cuda/table.h"

namespace raphson::cuda {

using std::int64_t;

// std::runtime_error "what: CUDA's words" unless the call went well.
void check(cudaError_t error, const char* what);

inline cudaStream_t stream(CudaPlace place) { return static_cast<cudaStream_t>(place.stream); }

// Makes the place's device current, for as long as it lives.
class DeviceGuard {
public:
    explicit DeviceGuard(int device);
    ~DeviceGuard();
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

private:
    int before_ = -1, device_;
};

// What kernels are cut by; asked once per device.
struct DeviceTraits {
    int processors;
    int major, minor;  // compute capability
    std::size_t shared_bytes;  // a block's most
    bool reads_host_pages;     // pageable memory of the host, through its page tables: a Grace Hopper
};
const DeviceTraits& traits(int device);

// Stream-ordered memory out of a pool of our own that keeps what it has: freed when the scratch ends, in the order of
// the stream, without waiting.
class Scratch {
public:
    explicit Scratch(CudaPlace place) : place_(place) {}
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    CudaPlace place() const { return place_; }
    void* take(std::size_t bytes);
    template <class T>
    T* take_array(int64_t count) {
        return static_cast<T*>(take(static_cast<std::size_t>(count) * sizeof(T)));
    }

private:
    CudaPlace place_;
    std::vector<void*> taken_;
};

#ifdef __CUDACC__
// The block's dynamic shared memory; 1,024-byte alignment is what swizzled tiles need.
__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char raphson_dynamic_shared[];
    return raphson_dynamic_shared;
}
#elif defined(RAPHSON_CUDA_EMULATION)
inline unsigned char* dynamic_shared() { return emulation::shared; }
#endif

// Work put on `later` from now on waits for what `earlier` holds now; one device.
void order(CudaPlace earlier, CudaPlace later);

struct Grid {
    dim3 blocks;
    unsigned threads;
    std::size_t shared_bytes = 0;
};

// Lets a kernel have that much dynamic shared memory on the current device. Never less than before: another thread may be
// about to launch the same kernel with more.
void allow_shared(const void* kernel, std::size_t bytes, CudaPlace place, const char* name);

// std::runtime_error that names the kernel if the device could not count that many.
dim3 block_count(int64_t count, const char* name);

// Names the kernel in the error. A grid without blocks launches nothing.
template <class... P, class... A>
void launch(const char* name, CudaPlace place, const Grid& grid, void (*kernel)(P...), A&&... arguments) {
    if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
    constexpr std::size_t without_asking = 8 * 1024;  // 48 KB with what the kernel declares itself, which is less than 40
    if (grid.shared_bytes > without_asking) allow_shared(reinterpret_cast<const void*>(kernel), grid.shared_bytes, place, name);
    cudaLaunchConfig_t config{};
    config.gridDim = grid.blocks;
    config.blockDim = dim3(grid.threads);
    config.dynamicSmemBytes = grid.shared_bytes;
    config.stream = stream(place);
    check(cudaLaunchKernelEx(&config, kernel, std::forward<A>(arguments)...), name);
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// The least power of two that is at least n, between `least` and `most`, both powers of two.
inline int power_of_two(int64_t n, int least, int most) {
    int p = least;
    while (p < n && p < most) p *= 2;
    return p;
}

}  // namespace raphson::cuda
