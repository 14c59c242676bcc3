// The large entries of the plan: found by rows, a warp a row, then put in the columns' order by way of counts per bundle of
// rows. Whole numbers are all that is ever added where two threads meet.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_entries.h"
#include "ot/device_pattern.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256, warps = threads / 32;
constexpr int ahead = 4;               // loads of a warp that are on their way together
constexpr int lanes_a_vector = 8;      // that gather one sum
constexpr int scan_threads = 1024;
constexpr int64_t most_bundles = 512;  // of rows, whose entries one warp puts in the columns' order
constexpr int digit_bits = 11, digits = 1 << digit_bits, value_bits = 63;  // of a positive number; radix selection

// ---- finding them -------------------------------------------------------------------------------------------------------

// Row i's entries: how many → counts[i], or, `fill`, their columns and values from begin[i] on.
template <bool fill, class Entries>
__global__ void __launch_bounds__(threads) pattern_kernel(const Entries cost, int64_t rows, int64_t columns, const At at,
                                                          const double* mass, double threshold, int64_t* counts,
                                                          const int64_t* begin, std::int32_t* index, double* value) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
    if (i >= rows) return;  // the whole warp
    const unsigned lane = threadIdx.x % 32;
    const double a = mass[i], u = at.u[i];
    const double from = a > 0 ? log2(threshold / a) - 1 : -minus_infinite;  // exponents below are not worth an exponential
    int64_t place = fill ? begin[i] : 0;
    for (int64_t first = 0; first < columns; first += 32 * ahead) {
        double x[ahead];
#pragma unroll
        for (int k = 0; k < ahead; ++k) {
            const int64_t j = first + 32 * k + lane;
            x[k] = j < columns ? at.exponent(u, at.psi[j], cost.at(i, j)) : minus_infinite;
        }
#pragma unroll
        for (int k = 0; k < ahead; ++k) {
            double p = 0;
            if (x[k] >= from) p = a * exp2_flushed(x[k]);
            const bool kept = p > 0 && p >= threshold;
            const unsigned taken = __ballot_sync(~0u, kept);
            if (fill && kept) {
                const int64_t to = place + __popc(taken & ((1u << lane) - 1));
                index[to] = static_cast<std::int32_t>(first + 32 * k + lane);
                value[to] = p;
            }
            place += __popc(taken);
        }
    }
    if (!fill && lane == 0) counts[i] = place;
}

// begin[k] ← counts of what is before k; begin[count] the total. One block.
__global__ void __launch_bounds__(scan_threads) scan_kernel(const int64_t* counts, int64_t count, int64_t* begin) {
    __shared__ int64_t sums[scan_threads];
    const int64_t first = count * threadIdx.x / scan_threads, last = count * (threadIdx.x + int64_t{1}) / scan_threads;
    int64_t sum = 0;
    for (int64_t k = first; k < last; ++k) sum += counts[k];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned by = 1; by < scan_threads; by *= 2) {
        const int64_t other = threadIdx.x >= by ? sums[threadIdx.x - by] : 0;
        __syncthreads();
        sums[threadIdx.x] += other;
        __syncthreads();
    }
    int64_t before = sums[threadIdx.x] - sum;
    for (int64_t k = first; k < last; ++k) {
        begin[k] = before;
        before += counts[k];
    }
    if (threadIdx.x == scan_threads - 1) begin[count] = sums[threadIdx.x];
}

// ---- by columns ---------------------------------------------------------------------------------------------------------

// places[bundle][j]: how many entries of column j the bundle's rows have, or, `fill`, where in the column its next one goes.
// A warp a bundle: the columns of one row are distinct, so that no two lanes meet.
template <bool fill>
__global__ void __launch_bounds__(32) bundle_kernel(const DevicePattern pattern, std::int32_t* places, std::int32_t* row,
                                                    double* value) {
    const int64_t first = pattern.rows * blockIdx.x / gridDim.x, last = pattern.rows * (blockIdx.x + int64_t{1}) / gridDim.x;
    std::int32_t* const mine = places + blockIdx.x * pattern.columns;
    for (int64_t i = first; i < last; ++i) {
        const int64_t end = pattern.row_begin[i + 1];
        for (int64_t k = pattern.row_begin[i] + threadIdx.x; k < end; k += 32) {
            const std::int32_t j = pattern.column[k];
            const std::int32_t place = mine[j];
            mine[j] = place + 1;
            if (fill) {
                const int64_t to = pattern.column_begin[j] + place;
                row[to] = static_cast<std::int32_t>(i);
                value[to] = pattern.by_rows[k];
            }
        }
        __syncwarp();
    }
}
__global__ void __launch_bounds__(threads) bundle_places_kernel(int64_t bundles, int64_t columns, std::int32_t* places,
                                                                int64_t* counts) {
    const int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (j >= columns) return;
    std::int32_t before = 0;
    for (int64_t k = 0; k < bundles; ++k) {
        const std::int32_t here = places[k * columns + j];
        places[k * columns + j] = before;
        before += here;
    }
    counts[j] = before;
}

// ---- sums ---------------------------------------------------------------------------------------------------------------

// out[k] ← coefficient[k]·Σ value^power·x[index] over vector k; null pointers: ones.
template <int power>
__global__ void __launch_bounds__(threads) gather_kernel(const int64_t* begin, const std::int32_t* index, const double* value,
                                                         int64_t count, const double* x, const double* coefficient, double* out) {
    const int64_t k = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / lanes_a_vector;
    double sum = 0;
    if (k < count) {
        const int64_t end = begin[k + 1];
        for (int64_t at = begin[k] + threadIdx.x % lanes_a_vector; at < end; at += lanes_a_vector) {
            const double v = value[at];
            sum = fma(power == 2 ? v * v : v, x != nullptr ? x[index[at]] : 1, sum);
        }
    }
#pragma unroll
    for (int by = lanes_a_vector / 2; by > 0; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
    if (k < count && threadIdx.x % lanes_a_vector == 0) out[k] = coefficient != nullptr ? coefficient[k] * sum : sum;
}

__global__ void __launch_bounds__(threads) scale_kernel(const double* coefficient, int64_t count, double* t) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k < count) t[k] *= coefficient[k];
}

Grid gathers(int64_t count) {
    return {block_count(ceil_div(count * lanes_a_vector, threads), "sinkhorn: sparse product"), threads};
}

// ---- sizes --------------------------------------------------------------------------------------------------------------

__device__ unsigned long long bits_of(double x) {
    return static_cast<unsigned long long>(static_cast<unsigned>(__double2hiint(x))) << 32 |
           static_cast<unsigned>(__double2loint(x));
}

// counts[d]: values whose bits above `shift + digit_bits` are `prefix` and whose next ones are d.
__global__ void __launch_bounds__(threads) digit_kernel(const double* value, int64_t count, unsigned long long prefix, int shift,
                                                        unsigned long long* counts) {
    __shared__ unsigned here[digits];
    for (unsigned d = threadIdx.x; d < digits; d += threads) here[d] = 0;
    __syncthreads();
    for (int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; k < count; k += int64_t{threads} * gridDim.x) {
        const unsigned long long bits = bits_of(value[k]) >> shift;
        if (bits >> digit_bits == prefix) atomicAdd(&here[bits & (digits - 1)], 1u);
    }
    __syncthreads();
    for (unsigned d = threadIdx.x; d < digits; d += threads) {
        if (here[d] > 0) atomicAdd(&counts[d], static_cast<unsigned long long>(here[d]));
    }
}

template <class Entries>
__global__ void __launch_bounds__(threads) masses_kernel(const Entries cost, int64_t rows, int64_t columns, const At at,
                                                         const double* mass, unsigned long long* masses) {
    __shared__ unsigned long long here[mass_bins];
    for (unsigned d = threadIdx.x; d < mass_bins; d += threads) here[d] = 0;
    __syncthreads();
    for (int64_t i = blockIdx.x; i < rows; i += gridDim.x) {
        const double a = mass[i], u = at.u[i];
        for (int64_t j = threadIdx.x; a > 0 && j < columns; j += threads) {
            const double p = a * exp2_flushed(at.exponent(u, at.psi[j], cost.at(i, j)));
            if (!(p > 0)) continue;
            constexpr unsigned long long one = 1ull << 52, rounding = (1ull << (52 - mass_bits)) - 1;
            const unsigned long long bits = bits_of(p), fraction = bits & (one - 1);
            const auto bin = static_cast<unsigned>(bits >> 52);
            atomicAdd(&here[bin > 0 ? bin : 1], bin > 0 ? ((fraction | one) + rounding) >> (52 - mass_bits) : 1ull << mass_bits);
        }
    }
    __syncthreads();
    for (unsigned d = threadIdx.x; d < mass_bins; d += threads) {
        if (here[d] > 0) atomicAdd(&masses[d], here[d]);
    }
}

void order_by_columns(DevicePattern& pattern, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    constexpr int64_t fewest_rows = 8;
    const int64_t bundles = std::clamp<int64_t>(pattern.rows / fewest_rows, 1, most_bundles);
    Scratch passing(place);
    auto* const places = passing.take_array<std::int32_t>(bundles * pattern.columns);
    auto* const counts = passing.take_array<int64_t>(pattern.columns);
    auto* const begin = scratch.take_array<int64_t>(pattern.columns + 1);
    auto* const row = scratch.take_array<std::int32_t>(pattern.count);
    auto* const value = scratch.take_array<double>(pattern.count);
    const auto bytes = static_cast<std::size_t>(bundles * pattern.columns) * sizeof(std::int32_t);
    check(cudaMemsetAsync(places, 0, bytes, stream(place)), "sinkhorn: columns of the plan");
    const Grid grid{dim3(static_cast<unsigned>(bundles)), 32};
    launch("sinkhorn: columns of the plan", place, grid, bundle_kernel<false>, pattern, places, nullptr, nullptr);
    launch("sinkhorn: columns of the plan", place,
           {block_count(ceil_div(pattern.columns, threads), "sinkhorn: columns of the plan"), threads}, bundle_places_kernel,
           bundles, pattern.columns, places, counts);
    launch("sinkhorn: columns of the plan", place, {dim3(1), scan_threads}, scan_kernel, counts, pattern.columns, begin);
    pattern.column_begin = begin;
    launch("sinkhorn: columns of the plan", place, grid, bundle_kernel<true>, pattern, places, row, value);
    pattern.row = row;
    pattern.by_columns = value;
}

}  // namespace

DevicePattern collect(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi, double threshold,
                      int64_t capacity, bool both, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const At at{u, psi, balance.inverse_reg};
    DevicePattern pattern;
    pattern.rows = cost.rows;
    pattern.columns = cost.columns;
    auto* const begin = scratch.take_array<int64_t>(cost.rows + 1);
    auto* const counts = scratch.take_array<int64_t>(cost.rows);
    const Grid grid{block_count(ceil_div(cost.rows, warps), "sinkhorn: large entries"), threads};
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: large entries", place, grid, pattern_kernel<false, Entries>, entries, cost.rows, cost.columns, at,
               balance.a, threshold, counts, nullptr, nullptr, nullptr);
    });
    launch("sinkhorn: large entries", place, {dim3(1), scan_threads}, scan_kernel, counts, cost.rows, begin);
    const int64_t count = read(begin + cost.rows, 1, place)[0];
    if (count > capacity) return pattern;
    pattern.count = count;
    auto* const index = scratch.take_array<std::int32_t>(count);
    auto* const value = scratch.take_array<double>(count);
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: large entries", place, grid, pattern_kernel<true, Entries>, entries, cost.rows, cost.columns, at,
               balance.a, threshold, nullptr, begin, index, value);
    });
    pattern.row_begin = begin;
    pattern.column = index;
    pattern.by_rows = value;
    if (both) order_by_columns(pattern, scratch);
    return pattern;
}

double kth_largest(const DevicePattern& pattern, int64_t k, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    auto* const counts = scratch.take_array<unsigned long long>(digits);
    constexpr int64_t most = 1024;
    const Grid grid{dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(pattern.count, threads), 1, most))), threads};
    unsigned long long prefix = 0;
    for (int left = value_bits; left > 0;) {
        const int shift = std::max(left - digit_bits, 0);
        // the last digit overlaps the one before: bits that are known count among the prefix's
        const int fresh = left - shift;
        check(cudaMemsetAsync(counts, 0, digits * sizeof(unsigned long long), stream(place)), "sinkhorn: largest entries");
        launch("sinkhorn: largest entries", place, grid, digit_kernel, pattern.by_rows, pattern.count,
               prefix >> (digit_bits - fresh), shift, counts);
        const std::vector<unsigned long long> found = read(counts, digits, place);
        const unsigned long long known = fresh == digit_bits ? 0 : (prefix & ((1ull << (digit_bits - fresh)) - 1)) << fresh;
        unsigned long long digit = known + (1ull << fresh) - 1;
        for (; digit > known && k > static_cast<int64_t>(found[digit]); --digit) k -= static_cast<int64_t>(found[digit]);
        prefix = (prefix >> (digit_bits - fresh)) << digit_bits | digit;
        left = shift;
    }
    double value;
    static_assert(sizeof value == sizeof prefix);
    std::copy_n(reinterpret_cast<const char*>(&prefix), sizeof value, reinterpret_cast<char*>(&value));
    return value;
}

void pattern_rows(const DevicePattern& pattern, const double* x, const double* coefficient, double* t, CudaPlace place) {
    launch("sinkhorn: sparse product", place, gathers(pattern.rows), gather_kernel<1>, pattern.row_begin, pattern.column,
           pattern.by_rows, pattern.rows, x, coefficient, t);
}
void pattern_columns(const DevicePattern& pattern, const double* z, double* y, CudaPlace place) {
    launch("sinkhorn: sparse product", place, gathers(pattern.columns), gather_kernel<1>, pattern.column_begin, pattern.row,
           pattern.by_columns, pattern.columns, z, nullptr, y);
}
void pattern_squares(const DevicePattern& pattern, const double* weight, double* squares, CudaPlace place) {
    launch("sinkhorn: sparse product", place, gathers(pattern.columns), gather_kernel<2>, pattern.column_begin, pattern.row,
           pattern.by_columns, pattern.columns, weight, nullptr, squares);
}
void scale(const double* coefficient, int64_t count, double* t, CudaPlace place) {
    launch("sinkhorn: sparse product", place, {block_count(ceil_div(count, threads), "sinkhorn: sparse product"), threads},
           scale_kernel, coefficient, count, t);
}

void masses_by_size(const DeviceCost& cost, const DeviceBalance& balance, const double* u, const double* psi,
                    unsigned long long* masses, CudaPlace place) {
    check(cudaMemsetAsync(masses, 0, mass_bins * sizeof(unsigned long long), stream(place)), "sinkhorn: sizes");
    constexpr int64_t blocks_a_processor = 4;
    const int64_t blocks = std::min(cost.rows, blocks_a_processor * traits(place.device).processors);
    for_entries(cost, [&](const auto& entries) {
        using Entries = std::decay_t<decltype(entries)>;
        launch("sinkhorn: sizes", place, {block_count(blocks, "sinkhorn: sizes"), threads}, masses_kernel<Entries>, entries,
               cost.rows, cost.columns, At{u, psi, balance.inverse_reg}, balance.a, masses);
    });
}

}  // namespace raphson::cuda
