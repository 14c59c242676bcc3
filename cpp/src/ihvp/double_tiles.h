// Tiles of products in float64 on the tensor cores: what Fisher matrices and their factors are made of. Operands may be of
// any type and lie any way; they become float64, exactly, on their way into shared memory.
#pragma once

#include "cuda/number.h"
#include "cuda/runtime.h"
#include "gemm/mma.h"

namespace raphson::cuda {

// side×side warps make a tile of 32 rows and columns each.
template <int side_>
struct DoubleTile {
    static constexpr int side = side_, edge = 32 * side, threads = 32 * side * side, depth = 16;
    static constexpr int pitch = depth + 4;  // half a warp reads 4×4 numbers: each from banks of its own
    static constexpr int fetches = edge * depth / threads;

    struct Room {
        double a[edge][pitch], b[edge][pitch];
    };
    double sums[2][4][4] = {};

    // sums += Σₖ a(r0 + i, k)·b(c0 + j, k), k from k0 to k1. Operands give zeros beyond what they are.
    template <class A, class B>
    __device__ void add(const A& a, int64_t r0, const B& b, int64_t c0, int64_t k0, int64_t k1, Room& room) {
        const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
        const int row = first_row(), column = first_column();
        typename A::Number next_a[fetches];  // become float64 when they are put down: nobody waits for them before
        typename B::Number next_b[fetches];
        fetch(a, r0, k0, next_a);
        fetch(b, c0, k0, next_b);
        for (int64_t at = k0; at < k1; at += depth) {
            put<A>(room.a, next_a);
            put<B>(room.b, next_b);
            __syncthreads();
            if (at + depth < k1) {
                fetch(a, r0, at + depth, next_a);
                fetch(b, c0, at + depth, next_b);
            }
#pragma unroll
            for (int k = 0; k < depth; k += 4) {
                double x[2][2], y[4];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
#pragma unroll
                    for (int low = 0; low < 2; ++low) x[i][low] = room.a[row + 16 * i + 8 * low + g][k + t];
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) y[j] = room.b[column + 8 * j + g][k + t];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) multiply_tiles(sums[i][j], x[i], y[j]);
                }
            }
            __syncthreads();
        }
    }

    // f(row, column, sum) of every entry that this thread holds, counted within the tile.
    template <class F>
    __device__ void for_entries(F&& f) const {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    f(first_row() + 16 * i + e / 2 * 8 + lane / 4, first_column() + 8 * j + lane % 4 * 2 + e % 2, sums[i][j][e]);
                }
            }
        }
    }

    static __device__ int first_row() { return static_cast<int>(threadIdx.x) / 32 / side * 32; }
    static __device__ int first_column() { return static_cast<int>(threadIdx.x) / 32 % side * 32; }

private:
    // Neighbouring threads take numbers that are neighbours in memory.
    template <class Operand>
    static __device__ __forceinline__ void fetch(const Operand& x, int64_t row, int64_t k, typename Operand::Number (&held)[fetches]) {
#pragma unroll
        for (int i = 0; i < fetches; ++i) {
            const int at = static_cast<int>(threadIdx.x) + threads * i;
            held[i] = Operand::by_rows ? x(row + at / depth, k + at % depth) : x(row + at % edge, k + at / edge);
        }
    }
    template <class Operand>
    static __device__ __forceinline__ void put(double (*to)[pitch], const typename Operand::Number (&held)[fetches]) {
#pragma unroll
        for (int i = 0; i < fetches; ++i) {
            const int at = static_cast<int>(threadIdx.x) + threads * i;
            (Operand::by_rows ? to[at / depth][at % depth] : to[at % edge][at / edge]) = static_cast<double>(widen(held[i]));
        }
    }
};

// A matrix, each of its rows contiguous: its rows are the operand's where `rows_first`, else its columns are.
template <class S, bool rows_first>
struct MatrixOperand {
    using Number = S;
    static constexpr bool by_rows = rows_first;
    const S* data;
    int64_t ld, rows, depth;

    __device__ S operator()(int64_t row, int64_t k) const {
        return row < rows && k < depth ? data[rows_first ? row * ld + k : k * ld + row] : S{};
    }
};
template <class S>
using RowOperand = MatrixOperand<S, true>;
template <class S>
using ColumnOperand = MatrixOperand<S, false>;

}  // namespace raphson::cuda
