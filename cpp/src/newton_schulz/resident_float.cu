// Small matrices in float32 arithmetic, in one launch: X and its squares stay in shared memory, products run on the ordinary
// cores. 256 threads hold a square's sums in registers, so that what is read and what is written may be one buffer.
#include "newton_schulz/resident.h"

namespace raphson::cuda {
namespace {

constexpr int side = 16;  // threads are a square of 16 × 16, and rows and columns go round it
constexpr int most_rows = 160;

struct Shape {
    int m, n;            // of the matrix
    int deep, wide;      // the same in whole float4s; what lies beyond m and n is zero
    int squares;         // m × m each
    int x_pitch, a_pitch;
    __host__ __device__ std::size_t floats() const {
        return static_cast<std::size_t>(deep) * x_pitch + static_cast<std::size_t>(squares) * m * a_pitch;
    }
};

// A warp is four rows of threads by eight columns: eight lanes that read float4s of eight rows, an odd number of float4s
// apart, or of one row, meet all banks once.
struct Seat {
    int row, col;
};
__device__ __forceinline__ Seat seat() {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    return {warp / 2 * 4 + lane / 8, warp % 2 * 8 + lane % 8};
}

__device__ __forceinline__ float4 four(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
__device__ __forceinline__ void add(float4& sum, float by, float4 x) {
    sum.x = fmaf(by, x.x, sum.x);
    sum.y = fmaf(by, x.y, sum.y);
    sum.z = fmaf(by, x.z, sum.z);
    sum.w = fmaf(by, x.w, sum.w);
}

// Entry (row + 16i, column + 16j), i ≥ j, of left · rightᵀ, which is symmetric: every thread has as much to do, and all of
// them little more than half of the product.
template <int N>
struct Triangle {
    float sums[N][N];

    __device__ __forceinline__ Triangle(const float* left, const float* right, int pitch, int depth, int m) {
        const Seat at = seat();
        int a_at[N], b_at[N];  // rows beyond the last are the last: computed, and not kept
#pragma unroll
        for (int i = 0; i < N; ++i) {
            a_at[i] = min(at.row + side * i, m - 1) * pitch;
            b_at[i] = min(at.col + side * i, m - 1) * pitch;
        }
        clear(sums);
        if constexpr (N > 6) {
            add_stretch(sums, left, right, a_at, b_at, 0, depth, m);
        } else {  // long sums are sums of sums: matrices of few rows may have thousands of columns
            constexpr int stretch = 64;
            for (int first = 0; first < depth; first += stretch) {
                float parts[N][N];
                clear(parts);
                add_stretch(parts, left, right, a_at, b_at, first, min(first + stretch, depth), m);
#pragma unroll
                for (int i = 0; i < N; ++i) {
#pragma unroll
                    for (int j = 0; j <= i; ++j) sums[i][j] += parts[i][j];
                }
            }
        }
    }

    __device__ static __forceinline__ void clear(float (&to)[N][N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
#pragma unroll
            for (int j = 0; j <= i; ++j) to[i][j] = 0;
        }
    }
    __device__ static __forceinline__ void add_stretch(float (&to)[N][N], const float* left, const float* right,
                                                       const int (&a_at)[N], const int (&b_at)[N], int first, int end, int m) {
        for (int k = first; k < end; k += 4) {
            float4 b[N];
#pragma unroll
            for (int j = 0; j < N; ++j) b[j] = four(right + b_at[j] + k);
#pragma unroll
            for (int i = 0; i < N; ++i) {
                if (side * i >= m) continue;  // the same for every thread
                const float4 a = four(left + a_at[i] + k);
#pragma unroll
                for (int j = 0; j <= i; ++j) to[i][j] = dot(a, b[j], to[i][j]);
            }
        }
    }

    // to ← value(row, column, sum) below the diagonal, and its mirror above, to the bit: the Gram iteration magnifies what
    // differs. One thread reads and writes an entry, and its mirror.
    template <class F>
    __device__ __forceinline__ void store(float* to, int pitch, int m, F&& value) const {
        const Seat at = seat();
#pragma unroll
        for (int i = 0; i < N; ++i) {
#pragma unroll
            for (int j = 0; j <= i; ++j) {
                const int r = at.row + side * i, c = at.col + side * j;
                if (r >= m || c > r) continue;
                to[r * pitch + c] = to[c * pitch + r] = value(r, c, sums[i][j]);
            }
        }
    }
};

// matrix ← own · matrix + by · square · matrix, a panel of columns at a time: a panel needs no other.
template <int N>
__device__ __forceinline__ void multiply_onto(const float* square, float own, float by, const Shape& s, float* matrix) {
    constexpr int groups = N > 8 ? 1 : 2, panel = 4 * side * groups;
    const Seat at = seat();
    for (int first = 0; first < s.wide; first += panel) {
        float4 sums[N][groups];
        int a_at[N], b_at[groups];
#pragma unroll
        for (int i = 0; i < N; ++i) {
            a_at[i] = min(at.row + side * i, s.m - 1) * s.a_pitch;
#pragma unroll
            for (int g = 0; g < groups; ++g) sums[i][g] = {0, 0, 0, 0};
        }
#pragma unroll
        for (int g = 0; g < groups; ++g) b_at[g] = min(first + 4 * (at.col + side * g), s.wide - 4);
        for (int k = 0; k < s.deep; k += 4) {
            float4 b[4][groups];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
#pragma unroll
                for (int g = 0; g < groups; ++g) b[e][g] = four(matrix + (k + e) * s.x_pitch + b_at[g]);
            }
#pragma unroll
            for (int i = 0; i < N; ++i) {
                if (side * i >= s.m) continue;  // the same for every thread
                const float4 a = four(square + a_at[i] + k);
#pragma unroll
                for (int g = 0; g < groups; ++g) {
                    add(sums[i][g], a.x, b[0][g]);
                    add(sums[i][g], a.y, b[1][g]);
                    add(sums[i][g], a.z, b[2][g]);
                    add(sums[i][g], a.w, b[3][g]);
                }
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < N; ++i) {
#pragma unroll
            for (int g = 0; g < groups; ++g) {
                const int r = at.row + side * i, c = first + 4 * (at.col + side * g);
                if (r >= s.m || c >= s.wide) continue;
                float4& entry = *reinterpret_cast<float4*>(matrix + r * s.x_pitch + c);
                float4 sum{own * entry.x, own * entry.y, own * entry.z, own * entry.w};
                add(sum, by, sums[i][g]);
                entry = sum;
            }
        }
    }
    __syncthreads();
}

template <int N>
__device__ __forceinline__ void standard_steps(const Shape& s, const ResidentSteps& steps, float* matrix, float* gram) {
    for (int t = 0; t < steps.count; ++t) {
        Triangle<N>(matrix, matrix, s.x_pitch, s.wide, s.m).store(gram, s.a_pitch, s.m, [](int, int, float sum) { return sum; });
        __syncthreads();
        if (steps.c[t] != 0) {
            const Triangle<N> square(gram, gram, s.a_pitch, s.deep, s.m);
            __syncthreads();
            square.store(gram, s.a_pitch, s.m,
                         [&](int r, int c, float sum) { return fmaf(steps.b[t], gram[r * s.a_pitch + c], steps.c[t] * sum); });
            __syncthreads();
        }
        multiply_onto<N>(gram, steps.a[t], steps.c[t] != 0 ? 1 : steps.b[t], s, matrix);
    }
}

// See iterate.cpp.
template <int N>
__device__ __forceinline__ void gram_steps(const Shape& s, const ResidentSteps& steps, float* matrix, float* r) {
    float *const z = r + s.m * s.a_pitch, *const q = z + s.m * s.a_pitch;
    // to ← left · right + own · to, of symmetric matrices that commute
    const auto multiply = [&](const float* left, const float* right, float own, float* to) {
        const Triangle<N> product(left, right, s.a_pitch, s.deep, s.m);
        __syncthreads();
        product.store(to, s.a_pitch, s.m, [&](int i, int j, float sum) { return fmaf(own, to[i * s.a_pitch + j], sum); });
        __syncthreads();
    };
    for (int t = 0; t < steps.count; ++t) {
        const auto index = static_cast<std::size_t>(t);
        const bool fresh = gram_restarts_before(index);
        if (fresh && t > 0) multiply_onto<N>(q, 0, 1, s, matrix);
        if (fresh) {
            Triangle<N>(matrix, matrix, s.x_pitch, s.wide, s.m).store(r, s.a_pitch, s.m, [](int, int, float sum) { return sum; });
            __syncthreads();
        }
        {
            const Triangle<N> square(r, r, s.a_pitch, s.deep, s.m);
            const auto value = [&](int i, int j, float sum) { return fmaf(steps.b[t], r[i * s.a_pitch + j], steps.c[t] * sum); };
            square.store(z, s.a_pitch, s.m, value);
            if (fresh) {
                square.store(q, s.a_pitch, s.m,
                             [&](int i, int j, float sum) { return value(i, j, sum) + (i == j ? steps.a[t] : 0.0f); });
            }
        }
        __syncthreads();
        if (!fresh) multiply(q, z, steps.a[t], q);
        if (t + 1 < steps.count && !gram_restarts_before(index + 1)) {
            multiply(r, z, steps.a[t], r);
            multiply(z, r, steps.a[t], r);
        }
    }
    multiply_onto<N>(q, 0, 1, s, matrix);
}

template <int N>
__global__ void __launch_bounds__(resident_threads, N <= 4 ? 2 : 1)
    resident_float_kernel(const __grid_constant__ ResidentArrays arrays, const Shape shape, const ResidentSteps steps,
                          double factor, double eps) {
    __shared__ double room[resident_threads / 32];
    auto* const matrix = reinterpret_cast<float*>(dynamic_shared());
    float* const squares = matrix + shape.deep * shape.x_pitch;
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(shape.floats()); i += resident_threads) matrix[i] = 0;
    __syncthreads();
    resident_load_any(arrays, factor, eps, room, matrix, shape.x_pitch);
    __syncthreads();
    if (shape.squares == 1) {
        standard_steps<N>(shape, steps, matrix, squares);
    } else {
        gram_steps<N>(shape, steps, matrix, squares);
    }
    resident_store_any(matrix, shape.x_pitch, arrays);
}

}  // namespace

bool resident_float(const ResidentArrays& arrays, const OrthogonalizePlan& plan, double eps, CudaPlace place) {
    const DeviceBatch& x = arrays.x;
    if (!resident_takes(arrays, plan) || plan.precision != DType::float32 || x.rows > most_rows) return false;
    const auto fours = [](int64_t n) { return static_cast<int>(ceil_div(n, 4) * 4); };
    const auto pitch = [](int numbers) { return numbers / 4 % 2 == 1 ? numbers : numbers + 4; };
    const int deep = fours(x.rows), wide = fours(x.cols);
    const Shape shape{static_cast<int>(x.rows), static_cast<int>(x.cols), deep, wide, plan.method == Method::gram ? 3 : 1,
                      pitch(wide), pitch(deep)};
    const std::size_t bytes = shape.floats() * sizeof(float);
    if (bytes + resident_static_bytes > traits(place.device).shared_bytes) return false;
    const auto kernel = x.rows <= 2 * side   ? resident_float_kernel<2>
                        : x.rows <= 4 * side ? resident_float_kernel<4>
                        : x.rows <= 6 * side ? resident_float_kernel<6>
                        : x.rows <= 8 * side ? resident_float_kernel<8>
                                             : resident_float_kernel<10>;
    launch(resident_name(arrays).c_str(), place, {arrays.blocks(), resident_threads, bytes}, kernel, arrays, shape,
           ResidentSteps(plan), plan.norm_factor, eps);
    return true;
}

}  // namespace raphson::cuda
