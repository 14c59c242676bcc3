// Matrix functions on a CUDA device: what functions.cpp, polar.cpp and spectral.cpp do on the CPU, for batches. The host
// looks at the progress of iterations every few steps and at the numbers of all matrices at the end.
#include "newton_schulz/device_functions.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "newton_schulz/function_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr const char* name = "matrix function";

// What eigenvalues say and what becomes of them.
struct Spectrum {
    const double* values;  // `order` a matrix, of which n are its own
    int64_t n, order;
    MatrixFunction function;
    double p, relative_ridge;
    double* ridges;   // a number a matrix: absolute in, with the relative one out
    double* weights;  // square roots of the factors of vᵢvᵢᵀ
    double* inverse_weights;  // sqrt: of the inverse, NaN where there is none
    double* numbers;
};
__global__ void __launch_bounds__(threads) weights_kernel(const Spectrum job) {
    __shared__ double room[threads / 32];
    const int64_t matrix = blockIdx.x, n = job.n;
    const double* const values = job.values + matrix * job.order;
    const double infinite = __builtin_huge_val();
    double low = infinite, high = -infinite;
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        low = fmin(low, values[i]);
        high = fmax(high, values[i]);
    }
    low = over_block(low, room, Smaller());
    high = over_block(high, room, Larger());
    const double zero = static_cast<double>(n) * eps64 * fmax(fabs(low), fabs(high));  // rounding moves eigenvalues by this much
    const double ridge = job.function == MatrixFunction::inverse_root ? job.ridges[matrix] + job.relative_ridge * fmax(high, 0.0) : 0.0;
    double smallest = infinite;
    for (int64_t i = threadIdx.x; i < n; i += threads) smallest = fmin(smallest, fabs(values[i] + ridge));
    smallest = over_block(smallest, room, Smaller());
    low += ridge;
    high += ridge;
    for (int64_t i = threadIdx.x; i < job.order; i += threads) {
        const double value = values[i] + ridge;
        double weight = 0, inverse = 0;
        if (i < n && value > 0) {
            if (job.function == MatrixFunction::sign) weight = sqrt(2.0);
            if (job.function == MatrixFunction::sqrt) weight = sqrt(sqrt(value));
            if (job.function == MatrixFunction::inverse_root) weight = sqrt(pow(value, -1 / job.p));
            inverse = 1 / weight;
        }
        job.weights[matrix * job.order + i] = weight;
        if (job.inverse_weights != nullptr) {
            job.inverse_weights[matrix * job.order + i] = low > zero ? inverse : static_cast<double>(NAN);
        }
    }
    if (threadIdx.x != 0) return;
    double* const mine = job.numbers + matrix * function_numbers;
    mine[number_cond] = smallest > 0 ? fmax(fabs(low), fabs(high)) / smallest : infinite;
    const bool has = job.function == MatrixFunction::sign   ? smallest > zero
                     : job.function == MatrixFunction::sqrt ? low >= -zero
                                                            : low > 0;
    mine[number_breakdown] = has ? 0 : 1;
    job.ridges[matrix] = ridge;
}

// Aᵀ/(‖A‖₁‖A‖_∞), where a Newton iteration would begin, for matrices that turned out to be singular: a block each.
__global__ void __launch_bounds__(threads) fallback_kernel(const Working a, const Working x, double* numbers) {
    __shared__ double room[threads / 32];
    double* const mine = numbers + int64_t{blockIdx.x} * function_numbers;
    const double size = mine[number_cond];
    if (mine[number_breakdown] == 0 && size - size == 0) return;  // finite
    const int64_t n = a.rows;
    const auto* from = static_cast<const double*>(a.data) + blockIdx.x * a.step;
    auto* to = static_cast<double*>(x.data) + blockIdx.x * x.step;
    double one = 0, infinity = 0;
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        double row = 0, column = 0;
        for (int64_t j = 0; j < n; ++j) {
            row += fabs(from[i * a.ld + j]);
            column += fabs(from[j * a.ld + i]);
        }
        infinity = fmax(infinity, row);
        one = fmax(one, column);
    }
    one = over_block(one, room, Larger());
    infinity = over_block(infinity, room, Larger());
    for (int64_t k = threadIdx.x; k < n * n; k += threads) {
        const double value = from[k % n * a.ld + k / n];
        to[k / n * x.ld + k % n] = one > 0 ? value / (one * infinity) : value;
    }
    if (threadIdx.x != 0) return;
    mine[number_breakdown] = 1;
    mine[number_cond] = __builtin_huge_val();
}

__global__ void __launch_bounds__(threads) failures_kernel(const int* failed, int64_t count, double* numbers) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k < count && failed[k] != 0) numbers[k * function_numbers] = 1;
}

class Evaluation {
public:
    Evaluation(const CudaFunctionJob& job, int64_t count, Scratch& scratch)
        : job_(job), count_(count), scratch_(scratch), place_(scratch.place()),
          numbers_(scratch.take_array<double>(count * function_numbers)) {
        check(cudaMemsetAsync(numbers_, 0, static_cast<std::size_t>(count * function_numbers) * sizeof(double), stream(place_)), name);
        const bool polar = job.function == MatrixFunction::polar;
        x_ = take(polar ? std::min(job.rows, job.cols) : job.rows, polar ? std::max(job.rows, job.cols) : job.cols);
    }

    const Working& input() const { return x_; }
    const Working& value() const { return value_; }
    const Working& second() const { return second_; }
    double* numbers() const { return numbers_; }

    void run(double* ridges) {
        switch (job_.function) {
            case MatrixFunction::polar: return polar();
            case MatrixFunction::inverse: return inverse();
            default: return job_.general ? general() : spectral(ridges);
        }
    }

private:
    Working take(int64_t rows, int64_t cols) const { return take_matrices(scratch_, rows, cols, count_); }
    // a·b of square matrices; of symmetric ones that commute (a·a among them) half of it.
    void times(const Working& a, const Working& b, const Working& d) const { multiply(1, a, b, Right::as_is, 0, nullptr, d, place_); }
    void symmetric_times(const Working& a, const Working& b, const Working& d) const {
        multiply(1, a, b, Right::symmetric, 0, nullptr, d, place_);
    }

    // x ← a⁻¹, a destroyed; notes failures.
    void inverted(const Working& a, const Working& x) const {
        auto* const failed = scratch_.take_array<int>(count_);
        invert(a, x, failed, scratch_);
        launch(name, place_, {block_count(ceil_div(count_, threads), name), threads}, failures_kernel, failed, count_,
               numbers_ + number_breakdown);
    }

    // The wide way round: X = H U.
    void polar() {
        const int64_t k = x_.rows;
        value_ = take(k, x_.cols);
        second_ = take(k, k);
        const Working work = take(k, x_.cols), square = take(k, k), other = take(k, k);
        orthonormal_factor(x_, value_, job_.options->max_steps, numbers_, scratch_);
        multiply(1, x_, value_, Right::transposed, 0, nullptr, second_, place_);  // symmetric but for rounding
        settle(second_, true, false, place_);
        copy_matrices(second_, square, place_);
        inverted(square, other);
        sum_squares(other, numbers_ + number_cond, place_);
        settle(second_, false, job_.narrow, place_);
        settle(value_, false, job_.narrow, place_);
        multiply(1, second_, value_, Right::as_is, -1, &x_, work, place_);
        sum_squares(work, numbers_ + number_residual, place_);
        symmetric_times(value_, value_, square);
        squares_off_identity(square, numbers_ + number_orthogonality, place_);
    }

    void inverse() {
        const int64_t n = x_.rows;
        value_ = take(n, n);
        const Working product = take(n, n), better = take(n, n);
        copy_matrices(x_, product, place_);
        inverted(product, value_);
        sum_squares(x_, numbers_ + number_norm, place_);
        sum_squares(value_, numbers_ + number_cond, place_);
        launch(name, place_, {block_count(count_, name), threads}, fallback_kernel, x_, value_, numbers_);
        const auto measure = [&](const Working& x, FunctionNumber to) {
            settle(x, false, job_.narrow, place_);
            times(x_, x, product);
            largest_off_identity(product, numbers_ + to, place_);
        };
        measure(value_, number_residual);
        refine(measure, product, better);
    }

    // X ← X + X(I − AX) where that is needed and halves the residual, which is rare.
    template <class Measure>
    void refine(const Measure& measure, const Working& product, const Working& better) {
        std::vector<double> here(static_cast<std::size_t>(count_ * function_numbers));
        std::vector<int> wanted(static_cast<std::size_t>(count_), 1);
        auto* const taken = scratch_.take_array<int>(count_);
        for (int64_t step = 1; step < job_.options->max_steps; ++step) {
            read_numbers(here.data());
            bool any = false;
            for (int64_t k = 0; k < count_; ++k) {
                const double* const of = here.data() + k * function_numbers;
                const double safe = safe_tolerance(x_.rows, std::sqrt(of[number_norm]) * std::sqrt(of[number_cond]), job_.narrow);
                const double tol = job_.options->tol >= 0 ? job_.options->tol : safe;
                int& mine = wanted[static_cast<std::size_t>(k)];
                mine = mine != 0 && of[number_breakdown] == 0 && of[number_residual] > tol && of[number_residual] < 0.5 ? 1 : 0;
                any = any || mine != 0;
            }
            if (!any) return;
            multiply(-1, x_, value_, Right::as_is, 0, nullptr, product, place_);
            add_to_diagonal(product, nullptr, 1, place_);
            multiply(1, value_, product, Right::as_is, 1, &value_, better, place_);
            measure(better, number_scratch);
            read_numbers(here.data());
            for (int64_t k = 0; k < count_; ++k) {
                double* const of = here.data() + k * function_numbers;
                int& mine = wanted[static_cast<std::size_t>(k)];
                if (mine == 0 || !(of[number_scratch] < 0.5 * of[number_residual])) {
                    mine = 0;
                    continue;
                }
                of[number_residual] = of[number_scratch];
                of[number_iterations] += 1;
            }
            write(wanted.data(), taken, wanted.size() * sizeof(int), place_);
            write(here.data(), numbers_, here.size() * sizeof(double), place_);
            take_where(value_, better, taken, place_);
        }
    }

    void general() {
        const int64_t n = x_.rows, most = job_.options->max_steps;
        value_ = take(n, n);
        if (job_.function == MatrixFunction::sign) return general_sign(x_, value_, job_.narrow, most, numbers_, scratch_);
        second_ = take(n, n);
        general_sqrt(x_, value_, second_, job_.narrow, most, numbers_, scratch_);
    }

    void spectral(double* ridges) {
        const int64_t n = x_.rows, order = eigh_order(n, place_.device);
        const bool root = job_.function == MatrixFunction::inverse_root, two = job_.function == MatrixFunction::sqrt;
        const Working v = take(order, order), columns = take(n, order), work = take(n, n), spare = take(n, n);
        auto* const values = scratch_.take_array<double>(order * count_);
        auto* const weights = scratch_.take_array<double>(order * count_);
        auto* const inverse_weights = two ? scratch_.take_array<double>(order * count_) : nullptr;
        value_ = take(n, n);
        eigh(x_, v, values, job_.options->max_steps, numbers_, scratch_);
        const Spectrum spectrum{values, n, order, job_.function, static_cast<double>(job_.p), job_.options->relative_ridge,
                                ridges, weights, inverse_weights, numbers_};
        launch(name, place_, {block_count(count_, name), threads}, weights_kernel, spectrum);
        const auto compose = [&](const double* with, double beside, const Working& to) {  // Σ wᵢvᵢvᵢᵀ
            scale_columns(v, with, columns, place_);
            symmetric_times(columns, columns, to);
            if (beside != 0) add_to_diagonal(to, nullptr, beside, place_);
            settle(to, true, job_.narrow, place_);
        };
        compose(weights, job_.function == MatrixFunction::sign ? -1 : 0, value_);
        if (root) {
            const Working power = power_of(value_, job_.p);
            copy_matrices(x_, work, place_);
            add_to_diagonal(work, ridges, 0, place_);
            times(work, power, spare);
            largest_off_identity(spare, numbers_ + number_residual, place_);
            return;
        }
        symmetric_times(value_, value_, work);
        if (!two) return largest_off_identity(work, numbers_ + number_residual, place_);
        sum_squares(x_, numbers_ + number_norm, place_);
        squares_between(work, x_, numbers_ + number_residual, place_);
        second_ = take(n, n);
        compose(inverse_weights, 0, second_);
        symmetric_times(second_, second_, work);
        times(x_, work, spare);
        largest_off_identity(spare, numbers_ + number_inverse_residual, place_);
    }

    // xᵖ of a symmetric x, by squares.
    Working power_of(const Working& x, int64_t p) const {
        Working square = take(x.rows, x.cols), result = take(x.rows, x.cols), free = take(x.rows, x.cols);
        copy_matrices(x, square, place_);
        for (bool started = false;; p /= 2) {
            if (p % 2 == 1 && started) {
                symmetric_times(result, square, free);
                std::swap(result, free);
            } else if (p % 2 == 1) {
                copy_matrices(square, result, place_);
                started = true;
            }
            if (p == 1) return result;
            symmetric_times(square, square, free);
            std::swap(square, free);
        }
    }

    void read_numbers(double* to) const { read(contiguous(numbers_, DType::float64, count_, function_numbers), to, place_); }

    const CudaFunctionJob& job_;
    int64_t count_;
    Scratch& scratch_;
    CudaPlace place_;
    double* numbers_;
    Working x_{}, value_{}, second_{};
};

template <class F>
void for_parts(const FunctionPart* parts, std::size_t count, F&& f) {
    int64_t at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        f(parts[i], at);
        at += parts[i].count;
    }
}

void evaluate(const CudaFunctionJob& job, const FunctionPart* parts, std::size_t count, const FunctionExponents* exponents,
              double* numbers, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    int64_t total = 0;
    for_parts(parts, count, [&](const FunctionPart& part, int64_t) { total += part.count; });
    std::vector<DeviceNorm> units(static_cast<std::size_t>(total));
    std::vector<int> of_value(units.size()), of_second(units.size());
    std::vector<double> ridges(units.size());
    for (std::size_t k = 0; k < units.size(); ++k) {
        const int load = exponents[k].load;
        units[k] = {std::ldexp(1.0, load / 2), std::ldexp(1.0, load - load / 2), 0};
        of_value[k] = exponents[k].value;
        of_second[k] = exponents[k].second;
        ridges[k] = exponents[k].ridge;
    }
    const auto upload = [&](const auto& from) {
        const std::size_t bytes = from.size() * sizeof from[0];
        void* const to = scratch.take(bytes);
        write(from.data(), to, bytes, place);
        return to;
    };
    const auto* const norms = static_cast<const DeviceNorm*>(upload(units));
    const bool transposed = job.function == MatrixFunction::polar && job.rows >= job.cols;  // X = U H
    Evaluation evaluation(job, total, scratch);
    for_parts(parts, count, [&](const FunctionPart& part, int64_t at) {
        load(DeviceBatch(part.item->a, transposed), part.first, norms + at, evaluation.input().part(at, part.count), place);
    });
    evaluation.run(static_cast<double*>(upload(ridges)));
    const auto deliver = [&](const Working& from, const std::vector<int>& by, bool turned, BatchRef FunctionItem::* to) {
        scale_results(from, static_cast<const int*>(upload(by)), job.narrow, evaluation.numbers(), place);
        for_parts(parts, count, [&](const FunctionPart& part, int64_t at) {
            store(from.part(at, part.count), DeviceBatch(part.item->*to, turned), part.first, place);
        });
    };
    deliver(evaluation.value(), of_value, transposed, &FunctionItem::value);
    if (evaluation.second().data != nullptr && parts[0].item->second.data != nullptr) {
        deliver(evaluation.second(), of_second, false, &FunctionItem::second);
    }
    read(contiguous(evaluation.numbers(), DType::float64, total, function_numbers), numbers, place);
}

}  // namespace

void orthogonalize_vjp(const BatchRef& x, const BatchRef& cotangent, const BatchRef& out, const OrthogonalizePlan& plan,
                       const OrthogonalizeOptions& options, CudaPlace place);  // vjp.cu
void soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers, CudaPlace place);  // outliers.cu
void auon(const BatchRef& x, double gamma, const BatchRef& out, CudaPlace place);

void derivative(const CudaDerivativeJob& job, const DerivativeItem& item, int* undefined, CudaPlace place);  // function_vjp.cu

const CudaFunctionTable& function_table() {
    static const CudaFunctionTable table{orthogonalize_vjp, soft_clip, auon, matrix_facts, evaluate, derivative};
    return table;
}

}  // namespace raphson::cuda
