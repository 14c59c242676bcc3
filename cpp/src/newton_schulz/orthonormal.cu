// The orthonormal polar factor by products alone. Steps X ← (aI + bG + cG²)X with G = XXᵀ of two kinds alternate: `growth`
// multiplies small singular values by 3.4 and keeps the others between 0.68 and 1.2, `finish` (Newton–Schulz of fifth
// order) brings those within two steps to 1. So G is near I after a round of both if and only if every singular value has
// grown up: nothing needs to be known about the smallest one. No step diminishes a singular value by more than a third
// against the largest, which makes them backward stable (Nakatsukasa and Higham 2012); inverses and factorisations, the
// weak side of a GPU, do not occur. 9 steps at a condition of 1e2, 30 at 1e12, 44 where X is singular.
#include <algorithm>
#include <utility>
#include <vector>

#include "cuda/copy.h"
#include "newton_schulz/function_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr const char* name = "polar: step";
constexpr int64_t first_look = 9, look_every = 4;  // steps; to look is to wait

constexpr int growths = 5, round_steps = 7;
constexpr double all_grown = 0.25;  // ‖G − I‖_F² from which on `finish` converges for every singular value
constexpr double nearly = 1e-10;    // … and from which on one of them is enough: the error is cubed

struct Progress {
    int position, done, iterations, limited;
};
struct Step {
    double a, b, c;
};

// The next step of a matrix, from ‖G − I‖_F². Where nothing is to be done any more it is X ← I X, which changes no bit.
__device__ __forceinline__ Step decide(double off, int64_t max_steps, Progress& mine) {
    const bool steps_left = mine.iterations < max_steps;
    if (mine.done == 0 && (off != off || !steps_left)) {
        mine.done = 1;
        mine.limited = steps_left ? 0 : 1;
        return {1, 0, 0};
    }
    if (mine.done != 0) return {1, 0, 0};
    const bool grown = off <= all_grown, grows = !grown && mine.position < growths;
    mine.position = grown ? 0 : (mine.position + 1) % round_steps;
    mine.done = off <= nearly ? 1 : 0;
    ++mine.iterations;
    return grows ? Step{3.4445, -4.7750, 2.0315} : Step{15.0 / 8, -10.0 / 8, 3.0 / 8};  // Jordan's of Muon; Newton–Schulz
}

// Uniform in (−½, ½), always the same.
__device__ __forceinline__ double noise(int64_t at) {
    std::uint64_t x = static_cast<std::uint64_t>(at) * 0x9E3779B97F4A7C15u + 0x706f6c6172u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return static_cast<double>((x ^ x >> 31) >> 11) * 0x1p-53 - 0.5;
}

// z ← x/‖x‖_F and half an ulp of noise, which gives null spaces a basis and is below the backward error of any algorithm;
// (I 0) for zeros.
__global__ void __launch_bounds__(threads) begin_kernel(const Working x, const Working z, const double* numbers, Progress* progress) {
    const int64_t line = blockIdx.x, matrix = line / x.rows, i = line % x.rows;
    const double norm = sqrt(numbers[matrix * function_numbers + number_norm]);
    const double size = 0.5 * eps64 * sqrt(12.0 / static_cast<double>(x.rows) / static_cast<double>(x.cols));
    const auto* from = static_cast<const double*>(x.data) + matrix * x.step + i * x.ld;
    auto* to = static_cast<double*>(z.data) + matrix * z.step + i * z.ld;
    for (int64_t j = threadIdx.x; j < x.cols; j += threads) {
        to[j] = norm == 0 ? (i == j ? 1.0 : 0.0) : from[j] / norm + size * noise(i * x.cols + j);
    }
    if (i == 0 && threadIdx.x == 0) progress[matrix] = {};
}

// square ← aI + bG + c·square of the step that is next; square = G². numbers hold ‖G − I‖_F².
__global__ void __launch_bounds__(threads) polynomial_kernel(const Working g, const Working square, int64_t max_steps,
                                                             const double* numbers, const Progress* before, Progress* after) {
    const int64_t line = blockIdx.x, matrix = line / g.rows, i = line % g.rows;
    Progress mine = before[matrix];
    const Step step = decide(numbers[matrix * function_numbers + number_scratch], max_steps, mine);
    if (i == 0 && threadIdx.x == 0) after[matrix] = mine;
    const auto* from = static_cast<const double*>(g.data) + matrix * g.step + i * g.ld;
    auto* to = static_cast<double*>(square.data) + matrix * square.step + i * square.ld;
    const bool idle = step.b == 0;
    for (int64_t j = threadIdx.x; j < g.cols; j += threads) {
        to[j] = idle ? 0.0 : fma(step.c, to[j], step.b * from[j]);
        if (i == j) to[j] += step.a;
    }
}

__global__ void __launch_bounds__(threads) note_kernel(const Progress* progress, int64_t count, double* numbers) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= count) return;
    numbers[k * function_numbers + number_iterations] = progress[k].iterations;
    numbers[k * function_numbers + number_limited] = progress[k].limited;
}

}  // namespace

void orthonormal_factor(const Working& x, const Working& z, int64_t max_steps, double* numbers, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const int64_t n = x.rows, count = x.count;
    const Working g = take_matrices(scratch, n, n, count), square = take_matrices(scratch, n, n, count);
    Working now = z, next = take_matrices(scratch, n, x.cols, count);
    auto *progress = scratch.take_array<Progress>(count), *after = scratch.take_array<Progress>(count);
    sum_squares(x, numbers + number_norm, place);
    const Grid lines{block_count(count * n, name), threads};
    launch(name, place, lines, begin_kernel, x, z, numbers, progress);
    int64_t look = first_look;
    for (int64_t step = 1; step <= max_steps + 1; ++step) {
        multiply(1, now, now, Right::symmetric, 0, nullptr, g, place);
        squares_off_identity(g, numbers + number_scratch, place);
        multiply(1, g, g, Right::symmetric, 0, nullptr, square, place);
        launch(name, place, lines, polynomial_kernel, g, square, max_steps, numbers, progress, after);
        std::swap(progress, after);
        multiply(1, square, now, Right::as_is, 0, nullptr, next, place);
        std::swap(now, next);
        if (step != look) continue;
        look += look_every;
        const std::vector<Progress> here = read(progress, count, place, name);
        if (std::all_of(here.begin(), here.end(), [](const Progress& p) { return p.done != 0; })) break;
    }
    launch(name, place, {block_count(ceil_div(count, threads), name), threads}, note_kernel, progress, count, numbers);
    if (now.data != z.data) copy_matrices(now, z, place);
}

}  // namespace raphson::cuda
