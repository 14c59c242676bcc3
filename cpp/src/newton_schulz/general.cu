// Sign and square root of matrices that need not be symmetric, as general.cpp: Newton's iteration by Gauss–Jordan inverses,
// every matrix scaled and stopped by itself.
#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cuda/copy.h"
#include "newton_schulz/each_entry.h"
#include "newton_schulz/function_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr const char* name = "matrix function, not symmetric";
constexpr double unscaled = 1e-2;   // change of a step from which on scaling only disturbs
constexpr double converged = 1e-9;  // … and from which on the next step is exact
constexpr int hopeless = 50;        // steps after which a change of more than `unscaled` is chaos: no sign, no root
constexpr int64_t first_look = 8, look_every = 3;  // steps; to look is to wait

// How far one matrix is, or one pair.
struct Newton {
    double mu, change, first_inverse;  // first_inverse: ‖·‖_F² of the first matrix's inverse before the first step
    int iterations, moves, last, done, broken, limited;
};
enum Sum : int { sum_own, sum_inverse, sum_step, sum_next };

// z and what goes with it; of a pair (X, Y) the X come first, then the Y.
struct Steps {
    Working z, inverse, next;
    int64_t count;        // matrices, or pairs
    bool pairs;
    double* sums;         // a row of function_numbers for each of z
    const int* failed;
    Newton* newton;
    int64_t max_steps;

    __device__ double sum(int64_t k, Sum which) const {
        const double own = sums[k * function_numbers + which];
        return pairs ? own + sums[(k + count) * function_numbers + which] : own;
    }
};

// The scale of the next step; of matrices that have come to an end, none.
__global__ void __launch_bounds__(threads) scale_kernel(const Steps job) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= job.count) return;
    Newton& mine = job.newton[k];
    mine.moves = 0;
    if (mine.done != 0) return;
    const double size = job.sum(k, sum_own), inverse = job.sum(k, sum_inverse);
    const bool failed = job.failed[k] != 0 || (job.pairs && job.failed[k + job.count] != 0);
    if (failed || !(inverse - inverse == 0)) {
        mine.done = mine.broken = 1;
        return;
    }
    if (mine.iterations == 0) mine.first_inverse = job.sums[k * function_numbers + sum_inverse];
    mine.last = mine.change < converged ? 1 : 0;
    mine.mu = mine.change < unscaled ? 1 : sqrt(sqrt(inverse) / sqrt(size));
    mine.moves = 1;
}
// next ← ½(μz + μ⁻¹z⁻¹), of pairs with the other's inverse; a block a row.
__global__ void __launch_bounds__(threads) step_kernel(const Steps job) {
    const int64_t n = job.z.rows, line = blockIdx.x, matrix = line / n, row = line % n;
    const Newton& mine = job.newton[matrix % job.count];
    const int64_t other = job.pairs ? (matrix + job.count) % (2 * job.count) : matrix;
    const auto* z = static_cast<const double*>(job.z.data) + matrix * job.z.step + row * n;
    const auto* inverse = static_cast<const double*>(job.inverse.data) + other * job.z.step + row * n;
    auto* to = static_cast<double*>(job.next.data) + matrix * job.z.step + row * n;
    for (int64_t j = threadIdx.x; j < n; j += threads) {
        to[j] = mine.moves != 0 ? 0.5 * (mine.mu * z[j] + inverse[j] / mine.mu) : z[j];
    }
}
// d ← ½(μd + μ⁻¹·both) of matrices that move.
__global__ void __launch_bounds__(threads) follow_kernel(const Working d, const Working both, const Newton* newton) {
    const int64_t line = blockIdx.x, at = line * d.cols;
    const Newton& mine = newton[line / d.rows];
    if (mine.moves == 0) return;
    auto* to = static_cast<double*>(d.data) + at;
    const auto* from = static_cast<const double*>(both.data) + at;
    for (int64_t j = threadIdx.x; j < d.cols; j += threads) to[j] = 0.5 * (mine.mu * to[j] + from[j] / mine.mu);
}
__global__ void __launch_bounds__(threads) advance_kernel(const Steps job) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= job.count) return;
    Newton& mine = job.newton[k];
    if (mine.moves == 0) return;
    const auto change_of = [&](int64_t matrix) {
        const double* const sums = job.sums + matrix * function_numbers;
        return sqrt(sums[sum_step] / sums[sum_next]);
    };
    mine.change = change_of(k);
    if (job.pairs) {
        const double other = change_of(k + job.count);
        if (!(other <= mine.change)) mine.change = other;
    }
    ++mine.iterations;
    if (mine.iterations >= hopeless && !(mine.change <= unscaled)) mine.done = mine.broken = 1;
    if (mine.last != 0) {
        mine.done = 1;
    } else if (mine.done == 0 && mine.iterations >= job.max_steps) {
        mine.done = mine.limited = 1;
    }
}

__global__ void __launch_bounds__(threads) begin_kernel(Newton* newton, int64_t count) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k < count) newton[k] = {1, 1, __builtin_huge_val(), 0, 0, 0, 0, 0, 0};
}

// z → the signs of (0 X; Y 0), or of Z; d, if there is one, follows to (X D + D X)'s solution times two (Roberts). Gives
// where z ended: its own memory or other.
Working newton_sign(const Working& z, bool pairs, const Working* d, int64_t max_steps, Newton* newton, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const int64_t n = z.rows, count = pairs ? z.count / 2 : z.count;
    auto* const failed = scratch.take_array<int>(z.count);
    Steps job{z, take_matrices(scratch, n, n, z.count), take_matrices(scratch, n, n, z.count), count, pairs,
              scratch.take_array<double>(z.count * function_numbers), failed, newton, max_steps};
    const Working work = take_matrices(scratch, n, n, z.count);
    const Grid matrices{block_count(ceil_div(count, threads), name), threads}, lines{block_count(z.count * n, name), threads};
    launch(name, place, matrices, begin_kernel, newton, count);
    int64_t look = first_look;
    for (int64_t step = 1; step <= max_steps; ++step) {
        copy_matrices(job.z, work, place);
        {
            Scratch inner(place);
            invert(work, job.inverse, failed, inner);
        }
        sum_squares(job.z, job.sums + sum_own, place);
        sum_squares(job.inverse, job.sums + sum_inverse, place);
        launch(name, place, matrices, scale_kernel, job);
        launch(name, place, lines, step_kernel, job);
        if (d != nullptr) {
            multiply(1, job.inverse, *d, Right::as_is, 0, nullptr, work, place);
            Scratch inner(place);
            const Working both = take_matrices(inner, n, n, count);
            multiply(1, work, job.inverse, Right::as_is, 0, nullptr, both, place);
            launch(name, place, lines, follow_kernel, *d, both, newton);
        }
        squares_between(job.next, job.z, job.sums + sum_step, place);
        sum_squares(job.next, job.sums + sum_next, place);
        launch(name, place, matrices, advance_kernel, job);
        std::swap(job.z, job.next);
        if (step != look) continue;
        look += look_every;
        const std::vector<Newton> here = read(newton, count, place, name);
        if (std::all_of(here.begin(), here.end(), [](const Newton& one) { return one.done != 0; })) break;
    }
    return job.z;
}

// numbers ← how the iteration ended; number_norm holds ‖A‖_F².
__global__ void __launch_bounds__(threads) note_kernel(const Newton* newton, int64_t count, double* numbers) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= count) return;
    const Newton& one = newton[k];
    double* const mine = numbers + k * function_numbers;
    const double cond = sqrt(mine[number_norm]) * sqrt(one.first_inverse);
    mine[number_cond] = cond;
    mine[number_iterations] = one.iterations;
    mine[number_limited] = one.limited;
    mine[number_breakdown] = one.broken != 0 || !(cond * eps64 <= 1) ? 1 : 0;  // an eigenvalue at 0
}

// off: max|sign − I| of the Sylvester equation's iteration; with a −1 among the signs there is no such solution.
__global__ void __launch_bounds__(threads) solved_kernel(const Newton* newton, const double* off, int64_t count, int* failed) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= count) return;
    failed[k] = newton[k].done != 0 && newton[k].broken == 0 && newton[k].limited == 0 && off[k * function_numbers] < 0.1 ? 0 : 1;
}
struct Halve {
    Working d;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const { entry(d, matrix, i, j) *= 0.5; }
};
// Which corrections are better: of number_scratch and number_residual, squares.
__global__ void __launch_bounds__(threads) choose_kernel(const int* failed, int64_t count, double fine, double* numbers, int* taken) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k >= count) return;
    double* const mine = numbers + k * function_numbers;
    const bool wanted = mine[number_breakdown] == 0 && mine[number_limited] == 0 && mine[number_residual] > fine * fine * mine[number_norm];
    taken[k] = failed[k] == 0 && wanted && mine[number_scratch] < mine[number_residual] ? 1 : 0;
    if (taken[k] != 0) mine[number_residual] = mine[number_scratch];
}
struct Corrected {
    Working x, d, candidate;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        entry(candidate, matrix, i, j) = entry(x, matrix, i, j) + entry(d, matrix, i, j);
    }
};
// x ← NaN, of matrices that broke down or have no inverse.
__global__ void __launch_bounds__(threads) no_inverse_kernel(const Working x, const int* failed, double* numbers) {
    const int64_t line = blockIdx.x, matrix = line / x.rows;
    if (failed[matrix] == 0 && numbers[matrix * function_numbers + number_breakdown] == 0) return;
    auto* row = static_cast<double*>(x.data) + line * x.cols;
    for (int64_t j = threadIdx.x; j < x.cols; j += threads) row[j] = static_cast<double>(NAN);
}

// Whether a root is worth a correction; waits.
bool any_rough(const double* numbers, int64_t count, double fine, CudaPlace place) {
    std::vector<double> here(static_cast<std::size_t>(count * function_numbers));
    read(contiguous(const_cast<double*>(numbers), DType::float64, count, function_numbers), here.data(), place);
    for (int64_t k = 0; k < count; ++k) {
        const double* const of = here.data() + k * function_numbers;
        if (of[number_breakdown] == 0 && of[number_limited] == 0 && of[number_residual] > fine * fine * of[number_norm]) return true;
    }
    return false;
}

}  // namespace

void general_sign(const Working& a, const Working& value, bool narrow, int64_t max_steps, double* numbers, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const int64_t n = a.rows, count = a.count;
    auto* const newton = scratch.take_array<Newton>(count);
    const Working z = take_matrices(scratch, n, n, count), square = take_matrices(scratch, n, n, count);
    sum_squares(a, numbers + number_norm, place);
    copy_matrices(a, z, place);
    copy_matrices(newton_sign(z, false, nullptr, max_steps, newton, scratch), value, place);
    launch(name, place, {block_count(ceil_div(count, threads), name), threads}, note_kernel, newton, count, numbers);
    settle(value, false, narrow, place);
    sum_squares(value, numbers + number_value, place);
    multiply(1, value, value, Right::as_is, 0, nullptr, square, place);
    largest_off_identity(square, numbers + number_residual, place);
}

void solve_sylvester(const Working& x, const Working& d, int* failed, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    Scratch inner(place);
    auto* const newton = inner.take_array<Newton>(x.count);
    auto* const off = inner.take_array<double>(x.count * function_numbers);
    largest_off_identity(newton_sign(x, false, &d, hopeless, newton, inner), off, place);
    each(name, d, Halve{d}, place);
    launch(name, place, {block_count(ceil_div(x.count, threads), name), threads}, solved_kernel, newton, off, x.count, failed);
}

void general_sqrt(const Working& a, const Working& value, const Working& second, bool narrow, int64_t max_steps, double* numbers,
                  Scratch& scratch) {
    constexpr int most_corrections = 2;
    const CudaPlace place = scratch.place();
    const int64_t n = a.rows, count = a.count;
    const double fine = 4 * std::sqrt(static_cast<double>(n)) * eps64;
    auto* const newton = scratch.take_array<Newton>(count);
    auto* const flags = scratch.take_array<int>(count);
    auto* const failed = scratch.take_array<int>(count);
    const Grid matrices{block_count(ceil_div(count, threads), name), threads}, lines{block_count(count * n, name), threads};
    const Working pairs = take_matrices(scratch, n, n, 2 * count), difference = take_matrices(scratch, n, n, count);
    const Working d = take_matrices(scratch, n, n, count), candidate = take_matrices(scratch, n, n, count);
    sum_squares(a, numbers + number_norm, place);
    copy_matrices(a, pairs.part(0, count), place);
    check(cudaMemsetAsync(pairs.part(count, count).data, 0, static_cast<std::size_t>(count * n * n) * sizeof(double), stream(place)), name);
    add_to_diagonal(pairs.part(count, count), nullptr, 1, place);
    copy_matrices(newton_sign(pairs, true, nullptr, max_steps, newton, scratch).part(0, count), value, place);
    launch(name, place, matrices, note_kernel, newton, count, numbers);
    const auto measure = [&](const Working& root, FunctionNumber to) {  // A − X²
        multiply(-1, root, root, Right::as_is, 1, &a, difference, place);
        sum_squares(difference, numbers + to, place);
    };
    measure(value, number_residual);
    // The iteration leaves an error of cond·ε; Newton's own correction X D + D X = A − X² takes it away.
    for (int k = 0; k < most_corrections && any_rough(numbers, count, fine, place); ++k) {
        copy_matrices(value, candidate, place);
        copy_matrices(difference, d, place);
        solve_sylvester(candidate, d, failed, scratch);
        each(name, candidate, Corrected{value, d, candidate}, place);
        measure(candidate, number_scratch);
        launch(name, place, matrices, choose_kernel, failed, count, fine, numbers, flags);
        take_where(value, candidate, flags, place);
        multiply(-1, value, value, Right::as_is, 1, &a, difference, place);
    }
    sum_squares(value, numbers + number_value, place);
    copy_matrices(value, candidate, place);
    invert(candidate, second, flags, scratch);
    settle(second, false, narrow, place);
    if (narrow) {
        settle(value, false, true, place);
        measure(value, number_residual);
    }
    launch(name, place, lines, no_inverse_kernel, second, flags, numbers);
    multiply(1, second, second, Right::as_is, 0, nullptr, d, place);
    multiply(1, a, d, Right::as_is, 0, nullptr, candidate, place);
    largest_off_identity(candidate, numbers + number_inverse_residual, place);
}

}  // namespace raphson::cuda
