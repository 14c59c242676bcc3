// What the CUDA kernels of this family share: numbers by position, copies under way while a block computes.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/parts.h"
#include "cuda/runtime.h"
#include "raphson/view.h"

namespace raphson::cuda {

// ---- Philox4x32-10 (common/philox.cpp) ----------------------------------------------------------------------------------

struct FourNumbers {
    std::uint32_t a, b, c, d;

    __device__ __forceinline__ std::uint32_t operator[](int i) const {  // no array: it would lie in local memory
        return (i & 2) != 0 ? ((i & 1) != 0 ? d : c) : ((i & 1) != 0 ? b : a);
    }
};

__device__ __forceinline__ FourNumbers philox(std::uint64_t seed, std::uint32_t stream, std::uint64_t position, std::uint64_t k) {
    FourNumbers x{static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(k),
                  static_cast<std::uint32_t>((position >> 32 & 0xFFFF) | (k >> 32 & 0xFFFF) << 16), stream};
    auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * x.a, p1 = std::uint64_t{0xCD9E8D57u} * x.c;
        x = {static_cast<std::uint32_t>(p1 >> 32) ^ x.b ^ key0, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ x.d ^ key1, static_cast<std::uint32_t>(p0)};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return x;
}

// ---- vectors of 16 bytes ------------------------------------------------------------------------------------------------

template <class T>
constexpr int pack_size = 16 / static_cast<int>(sizeof(T));

template <class T>
struct __align__(16) Pack {
    T x[pack_size<T>];
};

inline bool packs_fit(const void* data, DType type, int64_t ld) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && ld * static_cast<int64_t>(itemsize(type)) % 16 == 0;
}

// Packs of a row from `column` on; zeros beyond `cols`. Vector: whole packs may be loaded as such.
template <bool Vector, class T>
__device__ __forceinline__ Pack<T> load_pack(const T* row, int64_t column, int64_t cols) {
    if (Vector && column + pack_size<T> <= cols) return *reinterpret_cast<const Pack<T>*>(row + column);
    Pack<T> pack;
#pragma unroll
    for (int e = 0; e < pack_size<T>; ++e) pack.x[e] = column + e < cols ? row[column + e] : T(0);
    return pack;
}

// ---- 16 bytes from device to shared memory, past the registers ---------------------------------------------------------

#ifdef __CUDACC__
__device__ __forceinline__ void copy_ahead(void* shared, const void* device) {
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(device) : "memory");
}
__device__ __forceinline__ void close_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until no more than `Open` of the groups that this thread closed are under way.
template <int Open>
__device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Open) : "memory");
}
#else
inline void copy_ahead(void* shared, const void* device) { std::memcpy(shared, device, 16); }
inline void close_copies() {}
template <int Open>
inline void await_copies() {}
#endif

// rows × cols numbers to shared memory, `pitch` (whole packs) numbers from row to row, by all threads of the block.
template <bool Vector, class T>
__device__ __forceinline__ void stage_rows(const T* from, int64_t ld, int rows, int cols, T* to, int pitch) {
    const int packs = pitch / pack_size<T>;
    for (int i = static_cast<int>(threadIdx.x); i < rows * packs; i += static_cast<int>(blockDim.x)) {
        const int row = i / packs, column = i % packs * pack_size<T>;
        const T* const source = from + row * ld;
        T* const target = to + row * pitch + column;
        if (Vector && column + pack_size<T> <= cols) {
            copy_ahead(target, source + column);
        } else {
            *reinterpret_cast<Pack<T>*>(target) = load_pack<false>(source, column, cols);
        }
    }
}

// ---- launches -----------------------------------------------------------------------------------------------------------

template <class F>
void for_real(DType type, const char* what, F&& f) {
    switch (type) {
        case DType::float64: return f(double{});
        case DType::float32: return f(float{});
        default: throw std::invalid_argument(std::string(what) + ": float64 or float32 only");
    }
}

}  // namespace raphson::cuda
