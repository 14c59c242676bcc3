#include "gemm/product.h"

#include <string>

#include "cuda/number.h"

namespace raphson::cuda {
namespace {

// A thread keeps Per×Per sums, in two groups of 16 bytes each way; 16×16 threads make a tile.
template <class S>
struct Shape {
    static constexpr int group = 16 / static_cast<int>(sizeof(S)), per = 2 * group, tile = 16 * per, depth = 16;
    static constexpr int pitch = tile + group;  // of a row of shared memory
    static constexpr int fetches = tile * depth / 256;
};

template <class T>
struct Arguments {
    const T *a, *b, *c;
    T* d;
    int64_t m, n, k, lda, ldb, ldc, ldd, step_a, step_b, step_c, step_d;
    int64_t tiles, tile_cols;  // of one matrix
    Sum<T> alpha, beta;
};

// Rows first … first+tile-1 and columns k0 … k0+depth-1 of a row-major matrix, zero outside of it.
template <class T, class S = Sum<T>>
__device__ __forceinline__ void fetch_rows(const T* x, int64_t ld, int64_t rows, int64_t cols, int64_t first, int64_t k0,
                                           S* held) {
    using F = Shape<S>;
    const int k = static_cast<int>(threadIdx.x) % F::depth, row = static_cast<int>(threadIdx.x) / F::depth;
#pragma unroll
    for (int i = 0; i < F::fetches; ++i) {
        const int64_t r = first + row + i * (256 / F::depth);
        held[i] = r < rows && k0 + k < cols ? widen(x[r * ld + k0 + k]) : S(0);
    }
}
template <class S>
__device__ __forceinline__ void put_rows(S (*to)[Shape<S>::pitch], const S* held) {
    using F = Shape<S>;
    const int k = static_cast<int>(threadIdx.x) % F::depth, row = static_cast<int>(threadIdx.x) / F::depth;
#pragma unroll
    for (int i = 0; i < F::fetches; ++i) to[k][row + i * (256 / F::depth)] = held[i];
}
// The same of rows k0 … and columns first … .
template <class T, class S = Sum<T>>
__device__ __forceinline__ void fetch_cols(const T* x, int64_t ld, int64_t rows, int64_t cols, int64_t first, int64_t k0,
                                           S* held) {
    using F = Shape<S>;
#pragma unroll
    for (int i = 0; i < F::fetches; ++i) {
        const int at = static_cast<int>(threadIdx.x) + 256 * i;
        const int64_t k = k0 + at / F::tile, c = first + at % F::tile;
        held[i] = k < rows && c < cols ? widen(x[k * ld + c]) : S(0);
    }
}
template <class S>
__device__ __forceinline__ void put_cols(S (*to)[Shape<S>::pitch], const S* held) {
    using F = Shape<S>;
#pragma unroll
    for (int i = 0; i < F::fetches; ++i) {
        const int at = static_cast<int>(threadIdx.x) + 256 * i;
        to[at / F::tile][at % F::tile] = held[i];
    }
}

template <class S>
struct alignas(16) Group {
    S v[Shape<S>::group];
};
template <class S>
__device__ __forceinline__ void read_groups(const S* row, int first, S* to) {
    constexpr int group = Shape<S>::group;
#pragma unroll
    for (int half_of = 0; half_of < 2; ++half_of) {
        const Group<S> g = *reinterpret_cast<const Group<S>*>(row + first * group + half_of * 16 * group);
#pragma unroll
        for (int i = 0; i < group; ++i) to[half_of * group + i] = g.v[i];
    }
}
// Where sum i of a thread at place `at` of 16 lies in the tile.
template <class S>
__device__ __forceinline__ int place_of(int at, int i) {
    constexpr int group = Shape<S>::group;
    return i / group * 16 * group + at * group + i % group;
}

template <class T, bool b_transposed, bool symmetric>
__global__ void __launch_bounds__(256) simt_kernel(const Arguments<T> job) {
    using S = Sum<T>;
    using F = Shape<S>;
    __shared__ __align__(16) S as[F::depth][F::pitch];
    __shared__ __align__(16) S bs[F::depth][F::pitch];
    const int64_t matrix = blockIdx.x / job.tiles, t = blockIdx.x % job.tiles;
    TriangleTile tile{t / job.tile_cols, t % job.tile_cols};
    if (symmetric) tile = triangle_tile(t, 1);
    const int64_t r0 = tile.row * F::tile, c0 = tile.col * F::tile;
    const T* a = job.a + matrix * job.step_a;
    const T* b = job.b + matrix * job.step_b;
    const int ty = static_cast<int>(threadIdx.x) / 16, tx = static_cast<int>(threadIdx.x) % 16;

    S sums[F::per][F::per] = {};
    S next_a[F::fetches], next_b[F::fetches];
    const auto fetch = [&](int64_t k0) {
        fetch_rows(a, job.lda, job.m, job.k, r0, k0, next_a);
        if (b_transposed) {
            fetch_rows(b, job.ldb, job.n, job.k, c0, k0, next_b);
        } else {
            fetch_cols(b, job.ldb, job.k, job.n, c0, k0, next_b);
        }
    };
    fetch(0);
    for (int64_t k0 = 0; k0 < job.k; k0 += F::depth) {
        put_rows(as, next_a);
        if (b_transposed) {
            put_rows(bs, next_b);
        } else {
            put_cols(bs, next_b);
        }
        __syncthreads();
        if (k0 + F::depth < job.k) fetch(k0 + F::depth);
#pragma unroll
        for (int k = 0; k < F::depth; ++k) {
            S x[F::per], y[F::per];
            read_groups(as[k], ty, x);
            read_groups(bs[k], tx, y);
#pragma unroll
            for (int i = 0; i < F::per; ++i) {
#pragma unroll
                for (int j = 0; j < F::per; ++j) sums[i][j] = fma(x[i], y[j], sums[i][j]);
            }
        }
        __syncthreads();
    }

    const T* c = job.c == nullptr ? nullptr : job.c + matrix * job.step_c;
    T* d = job.d + matrix * job.step_d;
#pragma unroll
    for (int i = 0; i < F::per; ++i) {
        const int64_t row = r0 + place_of<S>(ty, i);
#pragma unroll
        for (int j = 0; j < F::per; ++j) {
            const int64_t col = c0 + place_of<S>(tx, j);
            if (row >= job.m || col >= job.n || (symmetric && col > row)) continue;
            S value = job.alpha * sums[i][j];
            if (c != nullptr) value = fma(job.beta, widen(c[row * job.ldc + col]), value);
            const T rounded = Rounded<T>::of(value);
            d[row * job.ldd + col] = rounded;
            if (symmetric && col < row) d[col * job.ldd + row] = rounded;
        }
    }
}

template <class T>
void simt(const ProductJob& job, CudaPlace place) {
    using S = Sum<T>;
    const int64_t tile = Shape<S>::tile, rows = ceil_div(job.m, tile), cols = ceil_div(job.n, tile);
    Arguments<T> arguments{static_cast<const T*>(job.a.data), static_cast<const T*>(job.b.data),
                           static_cast<const T*>(job.c.data), static_cast<T*>(job.d),
                           job.m, job.n, job.k, job.a.ld, job.b.ld, job.c.ld, job.ldd,
                           job.a.step, job.b.step, job.c.step, job.step_d,
                           job.symmetric ? triangle_tiles(rows, 1) : rows * cols, cols,
                           static_cast<S>(job.alpha), static_cast<S>(job.beta)};
    const auto kernel = job.symmetric      ? simt_kernel<T, true, true>
                        : job.b_transposed ? simt_kernel<T, true, false>
                                           : simt_kernel<T, false, false>;
    const int64_t blocks = arguments.tiles * job.batch;
    const std::string name = "matrix product " + std::to_string(job.m) + "x" + std::to_string(job.k) + "x" + std::to_string(job.n);
    launch(name.c_str(), place, {block_count(blocks, name.c_str()), 256}, kernel, arguments);
}

}  // namespace

void simt_product(const ProductJob& job, CudaPlace place) {
    switch (job.type) {
        case DType::float64: return simt<double>(job, place);
        case DType::float32: return simt<float>(job, place);
        case DType::bfloat16: return simt<bfloat16>(job, place);
        case DType::float16: return simt<float16>(job, place);
    }
}

// Thresholds are what was measured where: docs/gpu.md. float64's tensor cores are cuBLAS's; a symmetric float32 product
// on the ordinary cores does half of what cuBLAS would.
void product(const ProductJob& job, Scratch& scratch) {
    if (job.m == 0 || job.n == 0 || job.batch == 0) return;
    if (job.symmetric && wgmma_takes(job, scratch.place())) return wgmma_symmetric(job, scratch.place());
    const bool half_the_work = job.symmetric && job.type == DType::float32;
    if (!half_the_work && blas_product(job, scratch)) return;
    simt_product(job, scratch.place());
}

}  // namespace raphson::cuda
