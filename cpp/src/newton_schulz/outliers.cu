// ROOT's outlier split and AuON's scaling on a CUDA device: what outliers.cpp does on the CPU, for batches, without a look at
// any number in between. NaN or Inf in a matrix makes NaN of all its results.
#include "newton_schulz/outliers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cuda/number.h"
#include "cuda/reduce.h"
#include "newton_schulz/batch_entries.h"

namespace raphson::cuda {
namespace {

constexpr int threads = batch_threads;
constexpr const char *clip_name = "soft_clip", *auon_name = "auon";

using Key = unsigned long long;

// ---- the quantile: of the magnitudes' bits, which sort as the magnitudes do, digit by digit from the highest ---------------------

constexpr int digit_bits = 11, digits = 1 << digit_bits;

template <class T>
__device__ __forceinline__ Key key_of(T x) {
    Key key = 0;
    memcpy(&key, &x, sizeof x);
    return key & ~(Key{1} << (8 * sizeof x - 1));
}
template <class T>
__device__ __forceinline__ double magnitude(Key key) {
    T x;
    memcpy(&x, &key, sizeof x);
    return static_cast<double>(widen(x));
}

// Of one matrix.
struct Selection {
    Key prefix;          // of the key in question, as far as it is known; zeros below
    long long rank;      // its rank among the keys with the prefix
    long long same;      // how many those are
};

// counts[matrix][d]: keys whose bits from `known` on are the prefix's and whose next ones, down to `shift`, are d. Whole numbers:
// what is added to them in any order is the same.
template <class T>
__global__ void __launch_bounds__(threads) count_kernel(const DeviceBatch x, int64_t first, int64_t parts, int known, int shift,
                                                        const Selection* selections, unsigned long long* counts) {
    __shared__ unsigned here[digits];
    for (int d = static_cast<int>(threadIdx.x); d < digits; d += threads) here[d] = 0;
    __syncthreads();
    const int64_t matrix = blockIdx.x / parts;
    const Key prefix = selections[matrix].prefix >> known, mask = (Key{1} << (known - shift)) - 1;
    for_entries<T>(x, first, parts, [&](T value) {
        const Key key = key_of(value);
        if (key >> known == prefix) atomicAdd(&here[key >> shift & mask], 1u);
    });
    __syncthreads();
    for (int d = static_cast<int>(threadIdx.x); d < digits; d += threads) {
        if (here[d] != 0) atomicAdd(&counts[matrix * digits + d], static_cast<unsigned long long>(here[d]));
    }
}

// The digit under the rank; counts are zeros again. A block a matrix.
__global__ void __launch_bounds__(threads) choose_kernel(int shift, Selection* selections, unsigned long long* counts) {
    __shared__ unsigned long long here[digits], sums[threads];
    constexpr int mine = digits / threads;
    unsigned long long sum = 0;
    for (int k = 0; k < mine; ++k) {
        const int d = static_cast<int>(threadIdx.x) * mine + k;
        unsigned long long& count = counts[blockIdx.x * static_cast<int64_t>(digits) + d];
        here[d] = count;
        sum += count;
        count = 0;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    Selection& selection = selections[blockIdx.x];
    auto left = static_cast<unsigned long long>(selection.rank);
    int run = 0;
    for (; run < threads - 1 && sums[run] <= left; ++run) left -= sums[run];
    int d = run * mine;
    for (; d < digits - 1 && here[d] <= left; ++d) left -= here[d];
    selection.prefix |= static_cast<Key>(d) << shift;
    selection.rank = static_cast<long long>(left);
    selection.same = static_cast<long long>(here[d]);
}

__global__ void __launch_bounds__(threads) begin_kernel(int64_t count, int64_t rank, Selection* selections) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i < count) selections[i] = {0, rank, 0};
}

struct Above {
    double next, largest;  // the least magnitude above the one that was selected (infinite: none); NaN stays in the other
};
template <class T>
__global__ void __launch_bounds__(threads) above_kernel(const DeviceBatch x, int64_t first, int64_t parts, const Selection* selections,
                                                        Above* partials) {
    __shared__ double room[threads / 32];
    const double selected = magnitude<T>(selections[blockIdx.x / parts].prefix);
    Above above{INFINITY, 0};
    for_entries<T>(x, first, parts, [&](T value) {
        const double size = fabs(static_cast<double>(widen(value)));
        if (size > selected) above.next = fmin(above.next, size);
        above.largest = LargerOrNaN()(size, above.largest);
    });
    above.next = over_block(above.next, room, Smaller());
    above.largest = over_block(above.largest, room, LargerOrNaN());
    if (threadIdx.x == 0) partials[blockIdx.x] = above;
}

// limits[matrix]: the quantile, rounded to T.
template <class T>
__global__ void __launch_bounds__(threads) limit_kernel(int64_t count, int64_t parts, double share, const Selection* selections,
                                                        const Above* partials, double* limits) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= count) return;
    Above above{INFINITY, 0};
    for (int64_t p = 0; p < parts; ++p) {
        above.next = fmin(above.next, partials[i * parts + p].next);
        above.largest = LargerOrNaN()(partials[i * parts + p].largest, above.largest);
    }
    const Selection selection = selections[i];
    const double a = magnitude<T>(selection.prefix);
    const double b = selection.rank + 1 < selection.same || !(above.next < INFINITY) ? a : above.next;
    const T rounded = Rounded<T>::of(static_cast<Sum<T>>(QuantilePlace::between(a, b, share)));
    limits[i] = above.largest < INFINITY ? static_cast<double>(widen(rounded)) : NAN;
}

// clipped = x limited to ±limit; outliers = x - clipped, rounded once. The second reading of a tile finds it in the cache.
template <class T>
__global__ void __launch_bounds__(threads) split_kernel(const DeviceBatch x, int64_t first, int64_t tiles, const double* limits,
                                                        const DeviceBatch clipped, const DeviceBatch outliers) {
    const int64_t matrix = blockIdx.x / tiles, index = blockIdx.x % tiles;
    const auto limit = static_cast<Sum<T>>(limits[matrix]);
    const auto clip = [limit](Sum<T> v) { return limit != limit ? limit : v > limit ? limit : v < -limit ? -limit : v; };
    const auto write = [&](const DeviceBatch& to, auto part) {
        copy_tile(reinterpret_cast<const T*>(x.matrix(first + matrix)), x.row_stride, x.col_stride,
                  reinterpret_cast<T*>(to.matrix(first + matrix)), to.row_stride, to.col_stride, x.rows, x.cols, index, part);
    };
    write(outliers, [clip](T value) { return Rounded<T>::of(widen(value) - clip(widen(value))); });
    write(clipped, [clip](T value) { return Rounded<T>::of(clip(widen(value))); });
}

// ---- AuON ---------------------------------------------------------------------------------------------------------------------

// Without the digits that 1 would drown: few terms of Σ w²ᵏ/(2k)! reach as far as on the CPU (elementwise.isa.cpp).
__device__ __forceinline__ double cosh_less_one(double w) {
    if (!(fabs(w) <= 0.25)) {
        const double s = sinh(w / 2);
        return 2 * s * s;
    }
    const double y = w * w;
    return y * (1.0 / 2 + y * (1.0 / 24 + y * (1.0 / 720 + y * (1.0 / 40320 + y * (1.0 / 3628800 + y * (1.0 / 479001600))))));
}

// sums[block] = Σ (cosh(2γz) - 1) of the block's part, z over the Frobenius norm.
template <class T>
__global__ void __launch_bounds__(threads) cosh_kernel(const DeviceBatch x, int64_t parts, double gamma, const DeviceNorm* norms,
                                                       double* sums) {
    __shared__ double room[threads / 32];
    const DeviceNorm norm = norms[blockIdx.x / parts];
    const double by = norm.scale * 2 * gamma;
    double sum = 0;
    for_entries<T>(x, 0, parts, [&](T value) {
        sum += cosh_less_one(static_cast<double>(widen(value)) * norm.inverse_unit * by);
    });
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Z / r, r² = mean cosh²(γZ) = 1 + mean(cosh(2γZ) - 1)/2.
__global__ void __launch_bounds__(threads) brake_kernel(int64_t count, int64_t parts, double entries, const double* sums, DeviceNorm* norms) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= count) return;
    double sum = 0;
    for (int64_t p = 0; p < parts; ++p) sum += sums[i * parts + p];
    norms[i].scale /= sqrt(1 + sum / entries / 2);
}

}  // namespace

void soft_clip(const BatchRef& given, double quantile, const BatchRef& given_clipped, const BatchRef& given_outliers, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const DeviceBatch x(given, false, clip_name), clipped(given_clipped, false, clip_name), outliers(given_outliers, false, clip_name);
    if (x.count == 0 || x.rows == 0 || x.cols == 0) return;
    const QuantilePlace at(x.rows * x.cols, quantile);
    const int64_t parts = parts_of(x), tiles = ceil_div(x.rows, tile) * ceil_div(x.cols, tile);
    const int64_t bytes = digits * sizeof(unsigned long long) + sizeof(Selection) + parts * sizeof(Above) + sizeof(double);
    const int64_t at_once = std::clamp<int64_t>(scratch_bytes / bytes, 1, x.count);
    for (int64_t first = 0; first < x.count; first += at_once) {
        const int64_t count = std::min(at_once, x.count - first);
        Scratch scratch(place);
        auto* const selections = scratch.take_array<Selection>(count);
        auto* const counts = scratch.take_array<unsigned long long>(count * digits);
        auto* const partials = scratch.take_array<Above>(count * parts);
        auto* const limits = scratch.take_array<double>(count);
        const Grid of_parts{block_count(count * parts, clip_name), threads}, of_matrices{block_count(count, clip_name), threads};
        const Grid a_thread_each{block_count(ceil_div(count, threads), clip_name), threads};
        check(cudaMemsetAsync(counts, 0, static_cast<std::size_t>(count) * digits * sizeof *counts, stream(place)), clip_name);
        launch(clip_name, place, a_thread_each, begin_kernel, count, at.first, selections);
        for_type(x.dtype, [&](auto like) {
            using T = decltype(like);
            for (int known = 8 * sizeof(T) - 1; known > 0;) {
                const int shift = std::max(known - digit_bits, 0);
                launch(clip_name, place, of_parts, count_kernel<T>, x, first, parts, known, shift, selections, counts);
                launch(clip_name, place, of_matrices, choose_kernel, shift, selections, counts);
                known = shift;
            }
            launch(clip_name, place, of_parts, above_kernel<T>, x, first, parts, selections, partials);
            launch(clip_name, place, a_thread_each, limit_kernel<T>, count, parts, at.share, selections, partials, limits);
            launch(clip_name, place, {block_count(count * tiles, clip_name), threads}, split_kernel<T>, x, first, tiles, limits, clipped,
                   outliers);
        });
    }
}

void auon(const BatchRef& given, double gamma, const BatchRef& out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const DeviceBatch x(given, false, auon_name);
    if (x.count == 0 || x.rows == 0 || x.cols == 0) return;
    const int64_t parts = parts_of(x);
    Scratch scratch(place);
    auto* const norms = scratch.take_array<DeviceNorm>(x.count);
    auto* const sums = scratch.take_array<double>(x.count * parts);
    scan(x, 0, x.count, 1, 0, norms, scratch);
    for_type(x.dtype, [&](auto like) {
        launch(auon_name, place, {block_count(x.count * parts, auon_name), threads}, cosh_kernel<decltype(like)>, x, parts, gamma, norms,
               sums);
    });
    launch(auon_name, place, {block_count(ceil_div(x.count, threads), auon_name), threads}, brake_kernel, x.count, parts,
           static_cast<double>(x.rows * x.cols), sums, norms);
    load(x, 0, norms, {out.data, out.dtype, x.rows, x.cols, x.cols, x.rows * x.cols, x.count}, place);
}

}  // namespace raphson::cuda
