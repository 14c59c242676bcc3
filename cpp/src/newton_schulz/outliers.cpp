#include "newton_schulz/outliers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "common/threads.h"
#include "common/workspace.h"
#include "newton_schulz/device_functions.h"
#include "raphson/runtime.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

double elements(const BatchRef& x) {
    return static_cast<double>(x.count()) * static_cast<double>(x.rows()) * static_cast<double>(x.cols());
}

bool empty(const BatchRef& x) { return x.count() == 0 || x.rows() == 0 || x.cols() == 0; }

// Few large matrices are shared by all threads one after the other, many are spread over them. Neither changes a
// result.
template <class Work>
void for_matrices(const BatchRef& x, Work work) {
    const int64_t count = x.count();
    const bool large = x.rows() * x.cols() >= int64_t{1} << 16;
    if (count == 1 || (large && count < 2 * get_num_threads())) {
        for (int64_t i = 0; i < count && !poll_cancelled(); ++i) work(i);
    } else {
        parallel_for(count, [](void* context, int64_t i) { (*static_cast<Work*>(context))(i); }, &work);
    }
    throw_if_cancelled();
}

[[noreturn]] void refuse_not_finite(const char* function, const BatchRef& x, int64_t index) {
    throw std::invalid_argument(std::string(function) + ": x contains NaN or Inf" +
                                which_matrix(index, x.count()));
}

// ---- the quantile --------------------------------------------------------------------------------------------------

constexpr MagnitudeKey infinite_key(DType dtype) {
    return dtype == DType::float64 ? 0x7ff0000000000000 : dtype == DType::float32 ? 0x7f800000 : 0x7f80;
}

double magnitude(DType dtype, MagnitudeKey key) {
    if (dtype == DType::float64) {
        double x;
        std::memcpy(&x, &key, sizeof x);
        return x;
    }
    const auto bits = static_cast<std::uint32_t>(dtype == DType::float32 ? key : key << 16);
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return static_cast<double>(x);
}

struct Range {
    MagnitudeKey low, high;
};

// Two keys between which the key of this rank lies in all but one of 10⁴ cases: four standard deviations of the rank
// around its place in a sample.
Range guess_range(const ElementwiseTable& passes, const MatrixRef& x, int64_t rank, MagnitudeKey highest) {
    constexpr int64_t worth_sampling = 8192, smallest = 512, largest = 32768;
    const int64_t total = x.rows * x.cols;
    if (total < worth_sampling) return {0, highest};
    // total^⅔ balances the sample against what it leaves to select from.
    const double root = std::cbrt(static_cast<double>(total));
    const int64_t size = std::clamp(static_cast<int64_t>(root * root / 3), smallest, largest);
    Workspace scratch;
    auto* keys = static_cast<MagnitudeKey*>(scratch.take(static_cast<std::size_t>(size) * sizeof(MagnitudeKey)));
    passes.sample(x, size, keys);
    const double share = static_cast<double>(rank) / static_cast<double>(total - 1), count = static_cast<double>(size);
    const double reach = 4 * std::sqrt(count * share * (1 - share)) + 1;
    const auto first = static_cast<int64_t>(std::floor(share * count - reach));
    const auto last = static_cast<int64_t>(std::ceil(share * count + reach));
    Range range{0, highest};
    if (first > 0) {
        std::nth_element(keys, keys + first, keys + size);
        range.low = keys[first];
    }
    if (last < size) {
        MagnitudeKey* const from = keys + std::max<int64_t>(first, 0);
        std::nth_element(from, keys + last, keys + size);
        range.high = keys[last];
    }
    return range;
}

struct Pair {
    MagnitudeKey first, second;
};

template <class Key>
Pair select(Key* keys, int64_t count, int64_t first, int64_t second) {
    std::nth_element(keys, keys + first, keys + count);
    return {keys[first], second == first ? keys[first] : *std::min_element(keys + second, keys + count)};
}

// As numpy.quantile(|x|, q) in float64, rounded to x's type; NaN if x holds a NaN or an infinity.
double quantile_of_magnitudes(const ElementwiseTable& passes, const MatrixRef& x, double q) {
    const int64_t total = x.rows * x.cols;
    const QuantilePlace place(total, q);
    const int64_t first = place.first, second = place.second;
    const MagnitudeKey highest = infinite_key(x.dtype) - 1;
    Range range = guess_range(passes, x, first, highest);

    Workspace scratch;
    const int64_t tasks = passes.count_tasks(x);
    const auto task_count = static_cast<std::size_t>(tasks);
    auto* counts = static_cast<MagnitudeCounts*>(scratch.take(task_count * sizeof(MagnitudeCounts)));
    passes.count(x, range.low, range.high, counts);
    if (cancelled()) return 0;
    int64_t below = 0, upto = 0;
    for (int64_t t = 0; t < tasks; ++t) {
        below += counts[t].below;
        upto += counts[t].upto;
        if (counts[t].largest > highest) return std::numeric_limits<double>::quiet_NaN();
    }
    // A wrong guess costs time alone: the counts say on which side the key is, and how many keys there are.
    const bool lower = first < below, higher = second >= upto;
    if (lower) range.low = 0;
    if (higher) range.high = highest;
    Pair found{range.low, range.low};
    if (range.low != range.high) {
        auto* offsets = static_cast<int64_t*>(scratch.take(task_count * sizeof(int64_t)));
        int64_t inside = 0;
        for (int64_t t = 0; t < tasks; ++t) {
            offsets[t] = inside;
            inside += (higher ? counts[t].elements : counts[t].upto) - (lower ? 0 : counts[t].below);
        }
        const int64_t skipped = lower ? 0 : below;
        const bool narrow = x.dtype != DType::float64;
        const std::size_t width = narrow ? sizeof(std::int32_t) : sizeof(MagnitudeKey);
        void* keys = scratch.take(static_cast<std::size_t>(inside) * width);
        passes.gather(x, range.low, range.high, offsets, keys);
        if (cancelled()) return 0;
        found = narrow ? select(static_cast<std::int32_t*>(keys), inside, first - skipped, second - skipped)
                       : select(static_cast<MagnitudeKey*>(keys), inside, first - skipped, second - skipped);
    }
    const double a = magnitude(x.dtype, found.first), b = magnitude(x.dtype, found.second);
    const double value = QuantilePlace::between(a, b, place.share);
    if (x.dtype == DType::float64) return value;
    const auto single = static_cast<float>(value);
    if (x.dtype == DType::float32) return static_cast<double>(single);
    std::uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    float rounded;
    std::memcpy(&rounded, &bits, sizeof rounded);
    return static_cast<double>(rounded);
}

}  // namespace

void soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers) {
    if (empty(x)) return;
    const ElementwiseTable& passes = kernels().elementwise;
    Workspace scratch;
    const int64_t count = x.count();
    auto* limits = static_cast<double*>(scratch.take(static_cast<std::size_t>(count) * sizeof(double)));
    for_matrices(x, [&](int64_t i) { limits[i] = quantile_of_magnitudes(passes, x.matrix(i), quantile); });
    for (int64_t i = 0; i < count; ++i) {
        if (std::isnan(limits[i])) refuse_not_finite("soft_clip", x, i);
    }
    for_matrices(x, [&](int64_t i) { passes.split(x.matrix(i), limits[i], clipped.matrix(i), outliers.matrix(i)); });
}

double soft_clip_flops(const BatchRef& x) { return 8 * elements(x); }

// ---- AuON ----------------------------------------------------------------------------------------------------------

namespace {

void check_scans(const BatchRef& x, const MatrixScan* scans) {
    for (int64_t i = 0; i < x.count(); ++i) {
        if (!std::isfinite(scans[i].sum_squares)) refuse_not_finite("auon", x, i);
    }
}

// With Z = X / ‖X‖_F: out = Z / r, r² = mean cosh²(γZ) = 1 + mean(cosh(2γZ) - 1) / 2. The sum of the small differences
// keeps the digits that cosh ≈ 1 would drown.
void scale_by_cosh(const KernelTable& table, const MatrixRef& x, const MatrixScan& scan, double gamma,
                   const MatrixRef& out) {
    const double norm = std::sqrt(scan.sum_squares);  // in units of scan.unit; at least the largest entry
    const double inverse = norm > 0 ? 1 / norm : 0;
    // Rounding may take an entry a few units beyond the bound; the polynomials do not mind.
    const double largest = 2 * gamma * (scan.max_abs / scan.unit * inverse);
    const ElementwiseTable& passes = table.elementwise;
    const double sum = passes.sum_cosh_less_one(x, 1 / scan.unit, inverse * 2 * gamma, largest);
    if (cancelled()) return;
    const double mean = sum / (static_cast<double>(x.rows) * static_cast<double>(x.cols));
    passes.scaled(x, 1 / scan.unit, inverse / std::sqrt(1 + mean / 2), out);
}

OrthogonalizeOptions hybrid_options() {
    OrthogonalizeOptions options;
    options.check_finite = false;  // looked for before, or not at all
    return options;
}

}  // namespace

void auon(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out) {
    if (empty(x)) return;
    const KernelTable& table = kernels();
    Workspace scratch;
    auto* scans = static_cast<MatrixScan*>(scratch.take(static_cast<std::size_t>(x.count()) * sizeof(MatrixScan)));
    const auto scan_all = [&](const BatchRef& of) {
        for_matrices(of, [&](int64_t i) { scans[i] = table.newton_schulz.scan(of.matrix(i)); });
    };
    scan_all(x);
    check_scans(x, scans);
    BatchRef source = x;
    if (hybrid_steps > 0) {
        orthogonalize(x, out, Schedule::muon(hybrid_steps), hybrid_options());
        source = out;
        scan_all(source);
    }
    for_matrices(source, [&](int64_t i) { scale_by_cosh(table, source.matrix(i), scans[i], gamma, out.matrix(i)); });
}

void auon_on_device(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out, const CudaTable& table, CudaPlace place) {
    if (empty(x)) return;
    if (hybrid_steps > 0) {
        const OrthogonalizeOptions options = hybrid_options();
        const OrthogonalizePlan plan = plan_orthogonalize(x.rows(), x.cols(), x.dtype, Schedule::muon(hybrid_steps), options);
        const OrthogonalizeItem item{x, out, &plan};
        table.orthogonalize(&item, 1, options, place);
    }
    table.functions->auon(hybrid_steps > 0 ? out : x, gamma, out, place);
}

double auon_flops(const BatchRef& x, int hybrid_steps) {
    return 16 * elements(x) + static_cast<double>(x.count()) * orthogonalize_flops(x.rows(), x.cols(), hybrid_steps);
}

// ---- typed entries -------------------------------------------------------------------------------------------------

template <class T>
void soft_clip(TensorView<const T> x, TensorView<T> clipped, TensorView<T> outliers, double quantile) {
    check_soft_clip(erase(x), quantile, erase(clipped), erase(outliers));
    soft_clip(erase(x), quantile, erase(clipped), erase(outliers));
}
template <class T>
void auon(TensorView<const T> x, TensorView<T> out, double gamma, int hybrid_steps) {
    check_auon(erase(x), gamma, hybrid_steps, erase(out));
    auon(erase(x), gamma, hybrid_steps, erase(out));
}

template void soft_clip<double>(TensorView<const double>, TensorView<double>, TensorView<double>, double);
template void soft_clip<float>(TensorView<const float>, TensorView<float>, TensorView<float>, double);
template void soft_clip<bfloat16>(TensorView<const bfloat16>, TensorView<bfloat16>, TensorView<bfloat16>, double);
template void auon<double>(TensorView<const double>, TensorView<double>, double, int);
template void auon<float>(TensorView<const float>, TensorView<float>, double, int);
template void auon<bfloat16>(TensorView<const bfloat16>, TensorView<bfloat16>, double, int);

}  // namespace raphson
