// Symmetric eigenvalues on the device by cyclic Jacobi, which is rotations that do not wait for one another: half as many
// at a time as there are rows, in the order of a round-robin tournament. What fits in shared memory is one launch. Larger
// matrices play the tournament with blocks of 32 rows: a block of threads diagonalises each pair's 64×64 matrix, and a
// second launch turns all others by what came out, a tile of 64×64 at a time. Sweeps repeat until one finds nothing to
// rotate: six to ten, for quadratic convergence.
#include <algorithm>
#include <string>
#include <vector>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "newton_schulz/function_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* name = "symmetric eigenvalues";
constexpr int block = 32, pair = 2 * block;
constexpr int inner_sweeps = 2;  // of a pair: what is left meets other rows before it would have to vanish
constexpr int tile_threads = 256, pitch = pair + 1;
constexpr int64_t first_look = 5, look_every = 2;  // sweeps; to look is to wait
// Entries beside the diagonal below these parts of √|aᵢᵢ aⱼⱼ|, or of ‖A‖_F, are zeros.
constexpr double relative_nothing = 0x1p-54, nothing = 0x1p-55;

// Two players of round `round` of `count` (even) players, for every k < count/2: each meets each once in count − 1 rounds.
struct Game {
    int p, q;
};
__device__ __forceinline__ Game game(int round, int k, int count) {
    const int others = count - 1;
    if (k == 0) return {round, others};
    const int p = round + k, q = round - k;
    return {p < others ? p : p - others, q < 0 ? q + others : q};
}

struct Rotation {
    double c, s, t;
};

// Numbers of a matrix while it turns.
struct Turning {
    double floor;  // below it an entry is nothing
    int moved, done, sweeps;
};

// Shared memory: a (order × order, by `order + 1`), v as well, and a rotation for two rows.
constexpr std::size_t shared_for(int64_t order) {
    return static_cast<std::size_t>(2 * order * (order + 1) * 8) + static_cast<std::size_t>(order / 2) * sizeof(Rotation);
}

constexpr std::size_t aside = 2048;  // what the kernel declares itself, and the driver keeps

// a becomes diagonal, v ← v·(its rotations); all threads of the block. Gives the number of sweeps that rotated anything.
__device__ __forceinline__ int diagonalise(double* a, double* v, Rotation* rotations, int* moved, int order, int most_sweeps, double floor) {
    const int ld = order + 1, half = order / 2, me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    int sweeps = 0;
    for (; sweeps < most_sweeps; ++sweeps) {
        bool any = false;
        for (int round = 0; round < order - 1; ++round) {
            if (me == 0) *moved = 0;
            __syncthreads();
            for (int k = me; k < half; k += threads) {
                const Game g = game(round, k, order);
                const double left = a[g.p * ld + g.p], right = a[g.q * ld + g.q], beside = a[g.p * ld + g.q];
                Rotation rotation{1, 0, 0};
                if (fabs(beside) > floor && fabs(beside) > relative_nothing * sqrt(fabs(left)) * sqrt(fabs(right))) {
                    const double theta = (right - left) / (2 * beside);
                    rotation.t = (theta < 0 ? -1.0 : 1.0) / (fabs(theta) + sqrt(1 + theta * theta));
                    rotation.c = 1 / sqrt(1 + rotation.t * rotation.t);
                    rotation.s = rotation.t * rotation.c;
                    *moved = 1;
                }
                rotations[k] = rotation;
            }
            __syncthreads();
            if (*moved == 0) {
                __syncthreads();  // before it is set to 0 again
                continue;
            }
            any = true;
            for (int i = me / 32; i < half; i += threads / 32) {  // a warp two rows
                const Game rows = game(round, i, order);
                const Rotation x = rotations[i];
                for (int j = i + me % 32; j < half; j += 32) {  // what is left of j = i is mirrored
                    const Game columns = game(round, j, order);
                    const Rotation y = rotations[j];
                    double &pp = a[rows.p * ld + columns.p], &pq = a[rows.p * ld + columns.q];
                    double &qp = a[rows.q * ld + columns.p], &qq = a[rows.q * ld + columns.q];
                    if (i == j) {
                        if (x.s == 0) continue;
                        pp -= x.t * pq;
                        qq += x.t * pq;
                        pq = qp = 0;
                        continue;
                    }
                    const double up_p = x.c * pp - x.s * qp, down_p = x.s * pp + x.c * qp;
                    const double up_q = x.c * pq - x.s * qq, down_q = x.s * pq + x.c * qq;
                    a[columns.p * ld + rows.p] = pp = y.c * up_p - y.s * up_q;
                    a[columns.q * ld + rows.p] = pq = y.s * up_p + y.c * up_q;
                    a[columns.p * ld + rows.q] = qp = y.c * down_p - y.s * down_q;
                    a[columns.q * ld + rows.q] = qq = y.s * down_p + y.c * down_q;
                }
            }
            for (int row = me / 32; row < order; row += threads / 32) {
                for (int j = me % 32; j < half; j += 32) {
                    const Game columns = game(round, j, order);
                    const Rotation y = rotations[j];
                    double &p = v[row * ld + columns.p], &q = v[row * ld + columns.q];
                    const double before = p;
                    p = y.c * before - y.s * q;
                    q = y.s * before + y.c * q;
                }
            }
            __syncthreads();
        }
        if (!any) break;
    }
    return sweeps;
}

__device__ __forceinline__ void unit_matrix(double* v, int order) {
    for (int k = static_cast<int>(threadIdx.x); k < order * order; k += static_cast<int>(blockDim.x)) {
        v[k / order * (order + 1) + k % order] = k / order == k % order ? 1 : 0;
    }
}

// A whole matrix a block of threads.
__global__ void __launch_bounds__(512) whole_kernel(const Working given, const Working v_out, int most_sweeps, double* numbers) {
    __shared__ int moved;
    __shared__ double room[512 / 32];
    const int order = static_cast<int>(given.rows), ld = order + 1;
    auto* const a = reinterpret_cast<double*>(dynamic_shared());
    double* const v = a + order * ld;
    auto* const rotations = reinterpret_cast<Rotation*>(v + order * ld);
    const double* const from = static_cast<const double*>(given.data) + blockIdx.x * given.step;
    double* const to = static_cast<double*>(v_out.data) + blockIdx.x * v_out.step;
    double squares = 0;
    for (int k = static_cast<int>(threadIdx.x); k < order * order; k += static_cast<int>(blockDim.x)) {
        a[k / order * ld + k % order] = from[k];
        squares += from[k] * from[k];
    }
    unit_matrix(v, order);
    const double norm = sqrt(over_block(squares, room, Plus()));
    const int sweeps = diagonalise(a, v, rotations, &moved, order, most_sweeps, nothing * norm);
    for (int k = static_cast<int>(threadIdx.x); k < order * order; k += static_cast<int>(blockDim.x)) {
        to[k] = v[k / order * ld + k % order];
    }
    if (threadIdx.x == 0) {
        double* const mine = numbers + int64_t{blockIdx.x} * function_numbers;
        mine[number_iterations] = sweeps;
        mine[number_limited] = sweeps == most_sweeps ? 1 : 0;
    }
}

// ---- by pairs of blocks -------------------------------------------------------------------------------------------------------

// Row or column k of a pair's, in the whole matrix.
__device__ __forceinline__ int64_t place_of(const Game& g, int k) { return (k < block ? g.p : g.q - 1) * block + k; }

__global__ void __launch_bounds__(tile_threads) floor_kernel(const Working a, const double* numbers, Turning* turning) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * tile_threads + threadIdx.x;
    if (k < a.count) turning[k] = {nothing * sqrt(numbers[k * function_numbers + number_scratch]), 0, 0, 0};
}

// What a round does to a pair.
struct Turns {
    double* by;  // 64×64 a pair: its rotations
    int* any;    // whether there are any
};

// The matrix of each pair of blocks becomes diagonal.
__global__ void __launch_bounds__(tile_threads) pair_kernel(const Working a, int round, Turns turns, Turning* turning) {
    __shared__ int moved;
    const int blocks = static_cast<int>(a.rows) / block, pairs = blocks / 2;
    const int64_t matrix = blockIdx.x / pairs;
    if (turning[matrix].done != 0) return;
    auto* const x = reinterpret_cast<double*>(dynamic_shared());
    double* const v = x + pair * pitch;
    auto* const rotations = reinterpret_cast<Rotation*>(v + pair * pitch);
    double* const data = static_cast<double*>(a.data) + matrix * a.step;
    const Game g = game(round, static_cast<int>(blockIdx.x % pairs), blocks);
    for (int k = static_cast<int>(threadIdx.x); k < pair * pair; k += tile_threads) {
        x[k / pair * pitch + k % pair] = data[place_of(g, k / pair) * a.ld + place_of(g, k % pair)];
    }
    unit_matrix(v, pair);
    __syncthreads();
    const int sweeps = diagonalise(x, v, rotations, &moved, pair, inner_sweeps, turning[matrix].floor);
    if (threadIdx.x == 0) turns.any[blockIdx.x] = sweeps;
    if (sweeps == 0) return;
    if (threadIdx.x == 0) turning[matrix].moved = 1;  // by several blocks, the same number
    double* const to = turns.by + int64_t{blockIdx.x} * pair * pair;
    for (int k = static_cast<int>(threadIdx.x); k < pair * pair; k += tile_threads) {
        to[k] = v[k / pair * pitch + k % pair];
        data[place_of(g, k / pair) * a.ld + place_of(g, k % pair)] = x[k / pair * pitch + k % pair];
    }
}

// A thread's share of a product of two 64×64 matrices in shared memory: 4×4 sums, of xᵀy or xy.
template <bool x_transposed>
__device__ __forceinline__ void small_product(const double* x, const double* y, double (&sums)[4][4]) {
    const int row = static_cast<int>(threadIdx.x) / 16, col = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = 0;
    }
#pragma unroll 4
    for (int k = 0; k < pair; ++k) {
        double left[4], right[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            left[i] = x_transposed ? x[k * pitch + row + 16 * i] : x[(row + 16 * i) * pitch + k];
            right[i] = y[k * pitch + col + 16 * i];
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][j] = fma(left[i], right[j], sums[i][j]);
        }
    }
}
__device__ __forceinline__ void put(const double (&sums)[4][4], double* to) {
    const int row = static_cast<int>(threadIdx.x) / 16, col = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) to[(row + 16 * i) * pitch + col + 16 * j] = sums[i][j];
    }
}

// What the other entries make of the turns: tiles of a between two different pairs, A ← WₚᵀA W_q and its mirror image, and
// 64 rows of v times a pair's turns.
__global__ void __launch_bounds__(tile_threads) turn_kernel(const Working a, const Working v, int round, Turns turns,
                                                            const Turning* turning) {
    const int blocks = static_cast<int>(a.rows) / block, pairs = blocks / 2, crossings = pairs * (pairs - 1) / 2;
    const int tiles = crossings + pairs * pairs;
    const int64_t matrix = blockIdx.x / tiles;
    if (turning[matrix].done != 0) return;
    auto* const x = reinterpret_cast<double*>(dynamic_shared());
    double* const w = x + pair * pitch;
    const int index = static_cast<int>(blockIdx.x % tiles), me = static_cast<int>(threadIdx.x);
    const bool of_v = index >= crossings;
    int left = of_v ? (index - crossings) / pairs : 0, right = of_v ? (index - crossings) % pairs : 0;
    for (int before = index; !of_v;) {  // row `left` of the triangle above the diagonal, which has pairs − 1 − left tiles
        const int here = pairs - 1 - left;
        if (before < here) {
            right = left + 1 + before;
            break;
        }
        before -= here;
        ++left;
    }
    const int* const any = turns.any + matrix * pairs;
    const bool from_left = !of_v && any[left] != 0, from_right = any[right] != 0;
    if (!from_left && !from_right) return;
    const Game rows = of_v ? Game{2 * left, 2 * left + 1} : game(round, left, blocks), columns = game(round, right, blocks);
    const Working& to = of_v ? v : a;
    double* const data = static_cast<double*>(to.data) + matrix * to.step;
    const auto fetch = [&](int of) {
        const double* const from = turns.by + (matrix * pairs + of) * pair * pair;
        for (int k = me; k < pair * pair; k += tile_threads) w[k / pair * pitch + k % pair] = from[k];
    };
    for (int k = me; k < pair * pair; k += tile_threads) {
        x[k / pair * pitch + k % pair] = data[place_of(rows, k / pair) * to.ld + place_of(columns, k % pair)];
    }
    double sums[4][4];
    if (from_left) {
        fetch(left);
        __syncthreads();
        small_product<true>(w, x, sums);
        __syncthreads();
        put(sums, x);
    }
    if (from_right) {
        fetch(right);
        __syncthreads();
        small_product<false>(x, w, sums);
        __syncthreads();
        put(sums, x);
    }
    __syncthreads();
    for (int k = me; k < pair * pair; k += tile_threads) {
        const int i = k / pair, j = k % pair;
        data[place_of(rows, i) * to.ld + place_of(columns, j)] = x[i * pitch + j];
        if (!of_v) data[place_of(columns, i) * to.ld + place_of(rows, j)] = x[j * pitch + i];
    }
}

__global__ void __launch_bounds__(tile_threads) sweep_kernel(Turning* turning, int64_t count, int64_t most_sweeps, double* numbers) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * tile_threads + threadIdx.x;
    if (k >= count) return;
    Turning& mine = turning[k];
    if (mine.done != 0) return;
    if (mine.moved == 0) {
        mine.done = 1;
    } else {
        mine.moved = 0;
        ++mine.sweeps;
    }
    numbers[k * function_numbers + number_iterations] = mine.sweeps;
    numbers[k * function_numbers + number_limited] = mine.done == 0 && mine.sweeps >= most_sweeps ? 1 : 0;
}

__global__ void __launch_bounds__(tile_threads) unit_kernel(const Working v) {
    const int64_t line = blockIdx.x, i = line % v.rows;
    double* const row = static_cast<double*>(v.data) + line / v.rows * v.step + i * v.ld;
    for (int64_t j = threadIdx.x; j < v.cols; j += tile_threads) row[j] = i == j ? 1 : 0;
}

void by_pairs(const Working& a, const Working& v, int64_t most_sweeps, double* numbers, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const int64_t blocks = a.rows / block, pairs = blocks / 2, tiles = pairs * (pairs - 1) / 2 + pairs * pairs;
    const Turns turns{scratch.take_array<double>(pair * pair * pairs * a.count), scratch.take_array<int>(pairs * a.count)};
    auto* const turning = scratch.take_array<Turning>(a.count);
    const Grid matrices{block_count(ceil_div(a.count, tile_threads), name), tile_threads};
    sum_squares(a, numbers + number_scratch, place);
    launch(name, place, matrices, floor_kernel, a, numbers, turning);
    launch(name, place, {block_count(v.count * v.rows, name), tile_threads}, unit_kernel, v);
    int64_t look = first_look;
    for (int64_t sweep = 1; sweep <= most_sweeps; ++sweep) {
        for (int round = 0; round < blocks - 1; ++round) {
            launch(name, place, {block_count(pairs * a.count, name), tile_threads, shared_for(pair)}, pair_kernel, a, round, turns, turning);
            launch(name, place, {block_count(tiles * a.count, name), tile_threads, static_cast<std::size_t>(2 * pair * pitch * 8)},
                   turn_kernel, a, v, round, turns, turning);
        }
        launch(name, place, matrices, sweep_kernel, turning, a.count, most_sweeps, numbers);
        if (sweep != look) continue;
        look += look_every;
        const std::vector<Turning> here = read(turning, a.count, place, name);
        if (std::all_of(here.begin(), here.end(), [](const Turning& t) { return t.done != 0; })) break;
    }
}

// values[j] ← Σᵢ vᵢⱼ wᵢⱼ of the first rows of v; a thread a column.
__global__ void __launch_bounds__(tile_threads) rayleigh_kernel(const Working v, const Working w, double* values) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * tile_threads + threadIdx.x;
    if (k >= w.count * w.cols) return;
    const int64_t matrix = k / w.cols, j = k % w.cols;
    const auto* left = static_cast<const double*>(v.data) + matrix * v.step + j;
    const auto* right = static_cast<const double*>(w.data) + matrix * w.step + j;
    double sum = 0;
    for (int64_t i = 0; i < w.rows; ++i) sum = fma(left[i * v.ld], right[i * w.ld], sum);
    values[k] = sum;
}

}  // namespace

int64_t eigh_order(int64_t n, int device) {
    const int64_t even = ceil_div(n, 2) * 2;
    if (shared_for(even) + aside <= traits(device).shared_bytes) return even;
    return ceil_div(n, pair) * pair;
}

void eigh(const Working& x, const Working& v, double* values, int64_t most_sweeps, double* numbers, Scratch& scratch) {
    constexpr int64_t ever = 60;  // sweeps that no matrix is known to need
    const CudaPlace place = scratch.place();
    const int64_t order = v.rows;
    const Working a = take_matrices(scratch, order, order, x.count), turned = take_matrices(scratch, order, order, x.count);
    const Working moved = take_matrices(scratch, x.rows, order, x.count);
    most_sweeps = std::min(most_sweeps, ever);
    symmetric_part(x, a, place);
    if (shared_for(order) + aside <= traits(place.device).shared_bytes) {
        launch(name, place, {block_count(x.count, name), order <= 32 ? 128u : order <= 64 ? 256u : 512u, shared_for(order)},
               whole_kernel, a, turned, static_cast<int>(most_sweeps), numbers);
    } else {
        by_pairs(a, turned, most_sweeps, numbers, scratch);
    }
    // Hundreds of rotations a column take V some 100 ulp from orthogonal and the diagonal as far from the eigenvalues: one
    // Newton–Schulz step, ½(3I − VVᵀ)V, and Rayleigh's quotients bring both back to a few.
    multiply(-0.5, turned, turned, Right::symmetric, 0, nullptr, a, place);
    add_to_diagonal(a, nullptr, 1.5, place);
    multiply(1, a, turned, Right::as_is, 0, nullptr, v, place);
    Working rows = v;
    rows.rows = x.rows;
    multiply(1, x, rows, Right::as_is, 0, nullptr, moved, place);
    launch(name, place, {block_count(ceil_div(x.count * order, tile_threads), name), tile_threads}, rayleigh_kernel, v, moved, values);
}

}  // namespace raphson::cuda
