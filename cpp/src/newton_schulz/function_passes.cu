// Sums over matrices and changes of their entries, batch by batch.
#include <algorithm>
#include <vector>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "newton_schulz/batch_entries.h"
#include "newton_schulz/each_entry.h"
#include "newton_schulz/function_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr const char* name = "matrix function";

// ---- sums: some rows a block, a warp a row -------------------------------------------------------------------------------------

// to[(matrix·parts + part)·stride] ← of those rows.
template <class Term, class Combine>
__global__ void __launch_bounds__(threads) over_rows_kernel(const Working x, int64_t parts, Term term, Combine combine, double* to,
                                                            int64_t stride) {
    __shared__ double room[threads / 32];
    const int64_t matrix = blockIdx.x / parts, part = blockIdx.x % parts;
    const auto* data = static_cast<const double*>(x.data) + matrix * x.step;
    double value = 0;
    for (int64_t i = x.rows * part / parts + threadIdx.x / 32; i < x.rows * (part + 1) / parts; i += threads / 32) {
        for (int64_t j = threadIdx.x % 32; j < x.cols; j += 32) value = combine(value, term(matrix, i, j, data[i * x.ld + j]));
    }
    value = over_block(value, room, combine);
    if (threadIdx.x == 0) to[blockIdx.x * stride] = value;
}
template <class Combine>
__global__ void __launch_bounds__(threads) over_parts_kernel(const double* from, int64_t parts, int64_t count, Combine combine, double* to) {
    const int64_t matrix = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (matrix >= count) return;
    double value = from[matrix * parts];
    for (int64_t part = 1; part < parts; ++part) value = combine(value, from[matrix * parts + part]);
    to[matrix * function_numbers] = value;
}
struct Square {
    __device__ double operator()(int64_t, int64_t, int64_t, double x) const { return x * x; }
};
struct OffIdentity {
    __device__ double operator()(int64_t, int64_t i, int64_t j, double x) const { return fabs(i == j ? x - 1 : x); }
};
struct SquareOffIdentity {
    __device__ double operator()(int64_t, int64_t i, int64_t j, double x) const {
        const double off = i == j ? x - 1 : x;
        return off * off;
    }
};
struct SquareBetween {
    Working other;
    __device__ double operator()(int64_t matrix, int64_t i, int64_t j, double x) const {
        const double off = x - static_cast<const double*>(other.data)[matrix * other.step + i * other.ld + j];
        return off * off;
    }
};
// A NaN that was met stays.
struct LargestSoFar {
    __device__ double operator()(double a, double b) const { return LargerOrNaN()(b, a); }
};

// By the shape alone: enough blocks for a single matrix.
int64_t parts_of(int64_t rows) {
    constexpr int64_t rows_a_part = 32, most_parts = 128;
    return std::clamp<int64_t>(rows / rows_a_part, 1, most_parts);
}
template <class Term, class Combine>
void over_matrices(const Working& x, Term term, Combine combine, double* to, CudaPlace place) {
    const int64_t parts = parts_of(x.rows);
    Scratch scratch(place);
    double* const partial = parts == 1 ? to : scratch.take_array<double>(parts * x.count);
    launch(name, place, {block_count(x.count * parts, name), threads}, over_rows_kernel<Term, Combine>, x, parts, term, combine, partial,
           parts == 1 ? int64_t{function_numbers} : int64_t{1});
    if (parts == 1) return;
    launch(name, place, {block_count(ceil_div(x.count, threads), name), threads}, over_parts_kernel<Combine>, partial, parts, x.count,
           combine, to);
}

// ---- changes ------------------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ double rounded(double x, bool narrow) { return narrow ? static_cast<double>(static_cast<float>(x)) : x; }

struct Settle {
    Working x;
    bool symmetric, narrow;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        double& here = entry(x, matrix, i, j);
        if (!symmetric) {
            here = rounded(here, narrow);
            return;
        }
        if (j > i) return;  // its mirror image does both
        double& there = entry(x, matrix, j, i);
        here = there = rounded(0.5 * (here + there), narrow);
    }
};
struct Copy {
    Working from, to;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const { entry(to, matrix, i, j) = entry(from, matrix, i, j); }
};
struct TakeWhere {
    Working x, y;
    const int* flags;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        if (flags[matrix] != 0) entry(x, matrix, i, j) = entry(y, matrix, i, j);
    }
};
struct AddToDiagonal {
    Working x;
    const double* by;
    double same;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        if (i == j) entry(x, matrix, i, j) += by == nullptr ? same : by[matrix];
    }
};
struct ScaleColumns {
    Working v, to;
    const double* weights;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        entry(to, matrix, i, j) = entry(v, matrix, i, j) * weights[matrix * v.cols + j];
    }
};
struct SymmetricPart {
    Working from, to;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        const bool inside = i < from.rows && j < from.cols;
        entry(to, matrix, i, j) = inside ? 0.5 * (entry(from, matrix, i, j) + entry(from, matrix, j, i)) : 0.0;
    }
};

__global__ void __launch_bounds__(batch_threads) transpose_kernel(const Working from, int64_t tiles, const Working to) {
    const int64_t matrix = blockIdx.x / tiles;
    copy_tile(static_cast<const double*>(from.data) + matrix * from.step, int64_t{1}, from.ld,
              static_cast<double*>(to.data) + matrix * to.step, to.ld, int64_t{1}, to.rows, to.cols, blockIdx.x % tiles,
              [](double x) { return x; });
}

// x·2^exponent, exact, also where 2^exponent itself is out of range.
__device__ __forceinline__ double times_power(double x, int exponent) {
    return ldexp(ldexp(x, exponent / 2), exponent - exponent / 2);
}

struct ScaleResult {
    Working x;
    const int* exponents;
    bool narrow;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        double& here = entry(x, matrix, i, j);
        const int exponent = exponents[matrix];
        here = exponent == poisoned_exponent ? static_cast<double>(NAN) : rounded(times_power(here, exponent), narrow);
    }
};
struct Size {
    __device__ double operator()(int64_t, int64_t, int64_t, double x) const { return fabs(x); }
};
struct ZeroWhereInfinite {
    Working x;
    double* numbers;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        double* const mine = numbers + matrix * function_numbers;
        if (mine[number_scratch] != __builtin_huge_val()) return;
        entry(x, matrix, i, j) = 0;
        if (i == 0 && j == 0) mine[number_overflow] = 1;
    }
};

// ---- facts ------------------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(threads) facts_kernel(const DeviceBatch x, int64_t parts, MatrixFacts* facts) {
    __shared__ double room[threads / 32];
    const int64_t matrix = blockIdx.x / parts, part = blockIdx.x % parts;
    const T* const data = reinterpret_cast<const T*>(x.matrix(matrix));
    const bool square = x.rows == x.cols;
    double largest = 0, asymmetry = 0;
    for (int64_t i = x.rows * part / parts + threadIdx.x / 32; i < x.rows * (part + 1) / parts; i += threads / 32) {
        for (int64_t j = threadIdx.x % 32; j < x.cols; j += 32) {
            const auto value = static_cast<double>(data[i * x.row_stride + j * x.col_stride]);
            largest = LargestSoFar()(largest, fabs(value));
            if (square && j < i) {
                asymmetry = fmax(asymmetry, fabs(value - static_cast<double>(data[j * x.row_stride + i * x.col_stride])));
            }
        }
    }
    largest = over_block(largest, room, LargestSoFar());
    asymmetry = over_block(asymmetry, room, Larger());
    if (threadIdx.x == 0) facts[blockIdx.x] = {largest, asymmetry};
}

}  // namespace

Working take_matrices(Scratch& scratch, int64_t rows, int64_t cols, int64_t count) {
    return {scratch.take_array<double>(rows * cols * count), DType::float64, rows, cols, cols, rows * cols, count};
}

void sum_squares(const Working& x, double* to, CudaPlace place) { over_matrices(x, Square(), Plus(), to, place); }
void largest_off_identity(const Working& x, double* to, CudaPlace place) { over_matrices(x, OffIdentity(), LargestSoFar(), to, place); }
void squares_off_identity(const Working& x, double* to, CudaPlace place) { over_matrices(x, SquareOffIdentity(), Plus(), to, place); }
void squares_between(const Working& x, const Working& y, double* to, CudaPlace place) {
    over_matrices(x, SquareBetween{y}, Plus(), to, place);
}
void settle(const Working& x, bool symmetric, bool narrow, CudaPlace place) {
    if (symmetric || narrow) each(name, x, Settle{x, symmetric, narrow}, place);
}
void copy_matrices(const Working& from, const Working& to, CudaPlace place) { each(name, to, Copy{from, to}, place); }
void take_where(const Working& x, const Working& y, const int* flags, CudaPlace place) { each(name, x, TakeWhere{x, y, flags}, place); }
void add_to_diagonal(const Working& x, const double* by, double same, CudaPlace place) { each(name, x, AddToDiagonal{x, by, same}, place); }
void scale_columns(const Working& v, const double* weights, const Working& to, CudaPlace place) {
    each(name, to, ScaleColumns{v, to, weights}, place);
}
void symmetric_part(const Working& from, const Working& to, CudaPlace place) { each(name, to, SymmetricPart{from, to}, place); }
void transpose_matrices(const Working& from, const Working& to, CudaPlace place) {
    const int64_t tiles = ceil_div(to.rows, tile) * ceil_div(to.cols, tile);
    launch(name, place, {block_count(to.count * tiles, name), batch_threads}, transpose_kernel, from, tiles, to);
}
void scale_results(const Working& x, const int* exponents, bool narrow, double* numbers, CudaPlace place) {
    each(name, x, ScaleResult{x, exponents, narrow}, place);
    over_matrices(x, Size(), Larger(), numbers + number_scratch, place);  // NaN loses
    each(name, x, ZeroWhereInfinite{x, numbers}, place);
}

void matrix_facts(const BatchRef& a, MatrixFacts* facts, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const DeviceBatch x(a, false, name);
    if (x.count == 0 || x.rows == 0 || x.cols == 0) return;
    const int64_t parts = parts_of(x.rows);
    Scratch scratch(place);
    auto* const partial = scratch.take_array<MatrixFacts>(x.count * parts);
    launch(name, place, {block_count(x.count * parts, name), threads},
           a.dtype == DType::float64 ? facts_kernel<double> : facts_kernel<float>, x, parts, partial);
    const std::vector<MatrixFacts> here = read(partial, x.count * parts, place, name);
    for (int64_t k = 0; k < x.count; ++k) {
        facts[k] = here[static_cast<std::size_t>(k * parts)];
        for (int64_t part = 1; part < parts; ++part) {
            const MatrixFacts& more = here[static_cast<std::size_t>(k * parts + part)];
            if (!(facts[k].max_abs >= more.max_abs) && facts[k].max_abs == facts[k].max_abs) facts[k].max_abs = more.max_abs;
            facts[k].asymmetry = std::max(facts[k].asymmetry, more.asymmetry);
        }
    }
}

}  // namespace raphson::cuda
