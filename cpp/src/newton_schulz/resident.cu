// Small matrices, from the caller's memory to the caller's memory in one launch: a block of threads keeps one matrix and
// its Gram matrix in shared memory from the norm to the last step. 16-bit arithmetic with sums in float32.
#include "gemm/mma.h"
#include "newton_schulz/resident.h"

namespace raphson::cuda {
namespace {

constexpr int threads = resident_threads, warps = threads / 32;
constexpr int most_rows = 128, panel = 128, strip = 64;  // a panel's strips of 16 rows are two a warp
constexpr int skew = 8;  // numbers: rows of shared memory begin in different banks

struct Shape {
    int m, n;    // of the matrix
    int mp, np;  // the same in whole tiles of 16
    __host__ __device__ int x_pitch() const { return np + skew; }
    __host__ __device__ int a_pitch() const { return mp + skew; }
    __host__ __device__ std::size_t bytes() const {
        return 2 * (static_cast<std::size_t>(mp) * x_pitch() + 2 * static_cast<std::size_t>(mp) * a_pitch());
    }
};

// Sums of two strips of 16 × 64 a warp.
struct Sums {
    float strips[2][strip / 8][4];
};

// Strip s of this warp in a panel: rows 16·row …, columns 64·half_of … of the panel.
__device__ __forceinline__ bool strip_of(int s, int mp, int& row, int& half_of) {
    const int at = static_cast<int>(threadIdx.x) / 32 + s * warps;
    row = at / 2;
    half_of = at % 2;
    return row < mp / 16;
}

// sums ← left (mp × depth, its rows) times right: its rows where `turned` is false (left · rightᵀ), its columns otherwise.
// `columns` of the result exist from the panel's first on; `lower` leaves out what lies above the diagonal.
template <class P, bool turned>
__device__ void multiply(Sums& sums, const P* left, int left_pitch, const P* right, int right_pitch, int depth, int mp, int columns,
                         bool lower) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
#pragma unroll
        for (int j = 0; j < strip / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) sums.strips[s][j][e] = 0;
        }
        int row, half_of;
        if (!strip_of(s, mp, row, half_of) || half_of * strip >= columns || (lower && half_of * strip > 16 * row + 15)) continue;
        for (int k = 0; k < depth; k += 16) {
            std::uint32_t a[4];
            load_tiles<false>(a, left + (16 * row + lane % 16) * left_pitch + k + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < strip / 8; j += 2) {  // 16 columns at a time; the same for every lane
                const int column = half_of * strip + 8 * j;
                if (column >= columns) continue;
                std::uint32_t b[4];
                if constexpr (turned) {
                    load_tiles<true>(b, right + (k + lane % 16) * right_pitch + column + lane / 16 * 8);
                } else {
                    load_tiles<false>(b, right + (column + lane % 8 + lane / 16 * 8) * right_pitch + k + lane / 8 % 2 * 8);
                }
                multiply_tiles(sums.strips[s][j], a, b[0], b[1], P{});
                multiply_tiles(sums.strips[s][j + 1], a, b[2], b[3], P{});
            }
        }
    }
}

// f(row, column in the panel, sum) for every sum of this thread.
template <class F>
__device__ __forceinline__ void for_sums(const Sums& sums, int mp, int columns, F&& f) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        int row, half_of;
        if (!strip_of(s, mp, row, half_of)) continue;
#pragma unroll
        for (int j = 0; j < strip / 8; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int r = 16 * row + lane / 4 + e / 2 * 8, c = half_of * strip + 8 * j + lane % 4 * 2 + e % 2;
                if (c < columns) f(r, c, sums.strips[s][j][e]);
            }
        }
    }
}

template <class T, class P>
__global__ void __launch_bounds__(threads) resident_kernel(const __grid_constant__ ResidentArrays arrays, const Shape shape,
                                                           const ResidentSteps steps, double factor, double eps) {
    __shared__ double room[warps];
    P* const matrix = reinterpret_cast<P*>(dynamic_shared());
    P* const gram = matrix + shape.mp * shape.x_pitch();
    P* const square = gram + shape.mp * shape.a_pitch();
    const int xp = shape.x_pitch(), ap = shape.a_pitch();

    for (int i = static_cast<int>(threadIdx.x); i < shape.mp * xp; i += threads) matrix[i] = Rounded<P>::of(0);
    __syncthreads();
    resident_load<T>(arrays, factor, eps, room, matrix, xp);
    __syncthreads();

    Sums sums;
    for (int t = 0; t < steps.count; ++t) {
        multiply<P, false>(sums, matrix, xp, matrix, xp, shape.np, shape.mp, shape.mp, true);
        for_sums(sums, shape.mp, shape.mp, [&](int r, int c, float value) {
            if (c <= r) gram[r * ap + c] = gram[c * ap + r] = Rounded<P>::of(value);
        });
        __syncthreads();
        const P* by = gram;
        float coefficient = steps.b[t];
        if (steps.c[t] != 0) {
            multiply<P, false>(sums, gram, ap, gram, ap, shape.mp, shape.mp, shape.mp, true);
            for_sums(sums, shape.mp, shape.mp, [&](int r, int c, float value) {
                if (c <= r) square[r * ap + c] = square[c * ap + r] = Rounded<P>::of(fmaf(steps.b[t], widen(gram[r * ap + c]), steps.c[t] * value));
            });
            __syncthreads();
            by = square;
            coefficient = 1;
        }
        for (int first = 0; first < shape.np; first += panel) {  // a panel of X needs no other
            const int columns = shape.np - first < panel ? shape.np - first : panel;
            multiply<P, true>(sums, by, ap, matrix + first, xp, shape.mp, shape.mp, columns, false);
            __syncthreads();
            for_sums(sums, shape.mp, columns, [&](int r, int c, float value) {
                P& entry = matrix[r * xp + first + c];
                entry = Rounded<P>::of(fmaf(steps.a[t], widen(entry), coefficient * value));
            });
        }
        __syncthreads();
    }
    resident_store<T>(matrix, xp, arrays);
}

template <class T, class P>
void run(const ResidentArrays& arrays, const Shape& shape, const OrthogonalizePlan& plan, double eps, CudaPlace place) {
    launch(resident_name(arrays).c_str(), place, {arrays.blocks(), threads, shape.bytes()}, resident_kernel<T, P>, arrays, shape,
           ResidentSteps(plan), plan.norm_factor, eps);
}

}  // namespace

bool resident(const ResidentArrays& arrays, const OrthogonalizePlan& plan, double eps, CudaPlace place) {
    const DeviceBatch& x = arrays.x;
    const bool narrow = plan.precision == DType::bfloat16 || plan.precision == DType::float16;
    if (!resident_takes(arrays, plan) || !narrow || plan.method != Method::standard || x.rows > most_rows) return false;
    const auto whole = [](int64_t n) { return static_cast<int>(ceil_div(n, 16) * 16); };
    const Shape shape{static_cast<int>(x.rows), static_cast<int>(x.cols), whole(x.rows), whole(x.cols)};
    if (shape.bytes() + resident_static_bytes > traits(place.device).shared_bytes) return false;
    const auto with_type = [&](auto like) {
        using T = decltype(like);
        plan.precision == DType::bfloat16 ? run<T, bfloat16>(arrays, shape, plan, eps, place) : run<T, float16>(arrays, shape, plan, eps, place);
    };
    if (x.dtype == DType::float32) with_type(float{});
    if (x.dtype == DType::bfloat16) with_type(bfloat16{});
    if (x.dtype == DType::float16) with_type(float16{});
    return true;
}

}  // namespace raphson::cuda
