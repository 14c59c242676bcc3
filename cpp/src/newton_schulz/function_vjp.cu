// Derivatives of matrix functions on a CUDA device: what function_vjp.cpp does on the CPU, for batches. Products and a basis of
// eigenvectors; the host sees nothing but where a function is not differentiable.
#include <algorithm>
#include <vector>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "newton_schulz/each_entry.h"
#include "newton_schulz/function_passes.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr const char* name = "derivative of a matrix function";
constexpr int64_t most_eigen_steps = 60;

// ---- scales -----------------------------------------------------------------------------------------------------------------------

// A number for the loads and the store of every matrix.
struct Factors {
    DeviceNorm *value;   // brings the matrix that is decomposed to about 1
    DeviceNorm *bar;     // what the cotangent is multiplied by instead: the gradient is homogeneous in the former
    DeviceNorm *as_is;
    DeviceNorm *result;  // NaN where any input is not finite, else 1
};

// scanned: `inputs` times `count`; those of what is decomposed first. power: the gradient's degree.
__global__ void __launch_bounds__(threads) factors_kernel(const DeviceNorm* scanned, int inputs, int64_t count, int64_t power,
                                                          const Factors to) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= count) return;
    bool finite = true;
    for (int k = 0; k < inputs; ++k) finite = finite && scanned[k * count + i].max_abs < INFINITY;
    int exponent = 0;
    if (finite && power != 0) (void)frexp(scanned[i].max_abs, &exponent);
    constexpr int64_t most = 4000;  // the two ends of float64's range are 2,100 apart
    const int64_t beside = power * exponent;
    to.value[i] = as_factors(1, -exponent);
    to.bar[i] = as_factors(1, static_cast<int>(beside < -most ? -most : beside > most ? most : beside));
    to.as_is[i] = as_factors(1, 0);
    to.result[i] = as_factors(finite ? 1 : static_cast<double>(NAN), 0);
}

// ---- in the eigenbasis --------------------------------------------------------------------------------------------------------------

// Eigenvalues: `order` a matrix, of which n are its own.
struct Spectra {
    const double* values;
    int64_t n, order;

    __device__ const double* of(int64_t matrix) const { return values + matrix * order; }
};

// ---- where there is no derivative: a block a matrix; lowest[i]: the place of its smallest eigenvalue

__global__ void __launch_bounds__(threads) judge_kernel(const Spectra spectra, MatrixFunction function, bool tall, double eps,
                                                        const DeviceNorm* results, int* undefined, int* lowest) {
    __shared__ double room[threads / 32];
    const int64_t n = spectra.n;
    const double *const values = spectra.of(blockIdx.x), infinite = __builtin_huge_val();
    double low = infinite, high = -infinite;
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        low = fmin(low, values[i]);
        high = fmax(high, values[i]);
    }
    low = over_block(low, room, Smaller());
    high = over_block(high, room, Larger());
    double first = static_cast<double>(n), next = infinite;
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        if (values[i] == low) first = fmin(first, static_cast<double>(i));
    }
    first = over_block(first, room, Smaller());
    for (int64_t i = threadIdx.x; i < n; i += threads) {
        if (static_cast<double>(i) != first) next = fmin(next, values[i]);
    }
    next = over_block(next, room, Smaller());  // of a single row: infinite
    if (threadIdx.x != 0) return;
    const double nothing = static_cast<double>(n) * eps * high;
    const bool defined = function == MatrixFunction::polar  ? low + next > nothing && (!tall || low > nothing)
                         : function == MatrixFunction::sqrt ? low > nothing
                                                            : low > 0;
    const double poison = results[blockIdx.x].inverse_unit;
    undefined[blockIdx.x] = poison == poison && !defined ? 1 : 0;
    lowest[blockIdx.x] = first < static_cast<double>(n) ? static_cast<int>(first) : 0;
}
__global__ void __launch_bounds__(threads) unsolved_kernel(const int* failed, const DeviceNorm* results, int64_t count, int* undefined) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= count) return;
    const double poison = results[i].inverse_unit;
    undefined[i] = poison == poison ? failed[i] : 0;
}

// ---- factors of its entries

struct OverSums {  // 1/(λᵢ + λⱼ)
    Working c;
    Spectra spectra;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        const double* const root = spectra.of(matrix);
        entry(c, matrix, i, j) *= 1 / (root[i] + root[j]);
    }
};
struct OverSumsSkew {
    Working c;
    Spectra spectra;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        const double* const lambda = spectra.of(matrix);
        double& here = entry(c, matrix, i, j);
        here = i == j ? 0 : here * (2 / (lambda[i] + lambda[j]));
    }
};
// Divided differences of λ^(−1/p) from a = λ^(1/p), the inverses of the roots: −1/(aᵢaⱼ Σₖ aᵢᵏ aⱼ^(p−1−k)), a geometric sum.
struct OverPowers {
    Working c;
    Spectra spectra;
    double p;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        const double a = 1 / spectra.of(matrix)[i], b = 1 / spectra.of(matrix)[j];
        const double small = fmin(a, b), large = fmax(a, b), ratio = log1p((small - large) / large);
        const double sum = ratio == 0 ? p : expm1(p * ratio) / expm1(ratio);
        entry(c, matrix, i, j) *= -1 / (a * b * pow(large, p - 1) * sum);
    }
};
// c[k][k] += ridge·tr c at λmax's place, which is the inverse root's smallest: the trace of a gradient is that of its
// coordinates, and λmax's gradient is its eigenvector's square. A block a matrix.
__global__ void __launch_bounds__(threads) ridge_kernel(const Working c, const int* lowest, double ridge) {
    __shared__ double room[threads / 32];
    double trace = 0;
    for (int64_t i = threadIdx.x; i < c.rows; i += threads) trace += entry(c, blockIdx.x, i, i);
    trace = over_block(trace, room, Plus());
    if (threadIdx.x == 0) entry(c, blockIdx.x, lowest[blockIdx.x], lowest[blockIdx.x]) += ridge * trace;
}
struct OverRoots {  // to ← V diag(λ^−½)
    Working v, to;
    Spectra spectra;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        entry(to, matrix, i, j) = entry(v, matrix, i, j) / sqrt(spectra.of(matrix)[j]);
    }
};

struct SkewPart {
    Working from, to;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const {
        entry(to, matrix, i, j) = 0.5 * (entry(from, matrix, i, j) - entry(from, matrix, j, i));
    }
};
struct Add {
    Working to, by;
    __device__ void operator()(int64_t matrix, int64_t i, int64_t j) const { entry(to, matrix, i, j) += entry(by, matrix, i, j); }
};

// ---- the driver ---------------------------------------------------------------------------------------------------------------------

class Derivation {
public:
    Derivation(const CudaDerivativeJob& job, const DerivativeItem& item, int64_t count, Scratch& scratch)
        : job_(job), item_(item), count_(count), scratch_(scratch), place_(scratch.place()), undefined_(scratch.take_array<int>(count)) {
        for (DeviceNorm** to : {&factors_.value, &factors_.bar, &factors_.as_is, &factors_.result}) {
            *to = scratch.take_array<DeviceNorm>(count);
        }
    }

    // Null: inverse.
    const int* run() {
        find_factors();
        switch (job_.function) {
            case MatrixFunction::polar: return polar();
            case MatrixFunction::sqrt: return job_.general ? general_sqrt() : symmetric_sqrt();
            case MatrixFunction::inverse: return inverse();
            default: return inverse_root();
        }
    }

private:
    // V's columns are eigenvectors of a matrix, and vt's rows.
    struct Basis {
        Working v, vt;
        Spectra spectra;
        int* lowest;
    };

    bool polar_function() const { return job_.function == MatrixFunction::polar; }
    Working take(int64_t rows, int64_t cols) const { return take_matrices(scratch_, rows, cols, count_); }
    void times(const Working& a, const Working& b, const Working& d) const { multiply(1, a, b, Right::as_is, 0, nullptr, d, place_); }
    Grid blocks(int64_t count) const { return {block_count(count, name), threads}; }

    template <class F>
    void for_runs(F&& f) const {
        int64_t at = 0;
        for (const MatrixRun& run : job_.runs) {
            f(run, at);
            at += run.count;
        }
    }
    void find_factors() {
        const BatchRef* const pivot = polar_function() ? &item_.second : &item_.value;
        std::vector<const BatchRef*> inputs{pivot};
        for (const BatchRef* input : {&item_.value, &item_.value_bar, &item_.second_bar}) {
            if (input != pivot && input->data != nullptr) inputs.push_back(input);
        }
        Scratch inner(place_);
        auto* const scanned = inner.take_array<DeviceNorm>(static_cast<int64_t>(inputs.size()) * count_);
        for (std::size_t k = 0; k < inputs.size(); ++k) {
            const DeviceBatch batch(*inputs[k], false, name);
            for_runs([&](const MatrixRun& run, int64_t at) {
                scan(batch, run.first, run.count, 1, 0, scanned + static_cast<int64_t>(k) * count_ + at, inner);
            });
        }
        const int64_t power = job_.function == MatrixFunction::inverse        ? 0
                              : job_.function == MatrixFunction::inverse_root ? std::min<int64_t>(item_.p, int64_t{1} << 20) + 1
                                                                              : -1;
        launch(name, place_, blocks(ceil_div(count_, threads)), factors_kernel, scanned, static_cast<int>(inputs.size()), count_, power,
               factors_);
    }
    Working loaded(const BatchRef& from, bool transposed, const DeviceNorm* by) const {
        const DeviceBatch batch(from, transposed, name);
        const Working to = take(batch.rows, batch.cols);
        for_runs([&](const MatrixRun& run, int64_t at) { load(batch, run.first, by + at, to.part(at, run.count), place_); });
        return to;
    }
    void deliver(const Working& from, bool transposed) const {
        const DeviceBatch out(item_.out, transposed, name);
        for_runs([&](const MatrixRun& run, int64_t at) {
            store_scaled(from.part(at, run.count), factors_.result + at, out, run.first, place_);
        });
    }

    Basis basis_of(const Working& x, bool tall) const {
        const int64_t n = x.rows, order = eigh_order(n, place_.device);
        Working v = take(order, order);
        auto* const values = scratch_.take_array<double>(order * count_);
        {
            Scratch inner(place_);
            eigh(x, v, values, most_eigen_steps, inner.take_array<double>(count_ * function_numbers), inner);
        }
        v.rows = v.cols = n;
        const Basis basis{v, take(n, n), {values, n, order}, scratch_.take_array<int>(count_)};
        transpose_matrices(basis.v, basis.vt, place_);
        const double eps = item_.value.dtype == DType::float32 ? 0x1p-23 : 0x1p-52;
        launch(name, place_, blocks(count_), judge_kernel, basis.spectra, job_.function, tall, eps, factors_.result, undefined_,
               basis.lowest);
        return basis;
    }
    // c ← VᵀcV; `symmetric`: c is, which is half of the second product.
    void enter(const Basis& basis, const Working& c, bool symmetric, const Working& work) const {
        times(basis.vt, c, work);
        multiply(1, work, basis.vt, symmetric ? Right::symmetric : Right::transposed, 0, nullptr, c, place_);
    }
    void leave(const Basis& basis, const Working& c, bool symmetric, const Working& work) const {
        times(basis.v, c, work);
        multiply(1, work, basis.v, symmetric ? Right::symmetric : Right::transposed, 0, nullptr, c, place_);
    }

    // function_vjp.cpp's, turned: X = H W with W = Uᵀ wide. K comes from W̄Wᵀ − H H̄.
    const int* polar() {
        const bool turned = item_.value.rows() >= item_.value.cols();
        const Working w = loaded(item_.value, turned, factors_.as_is), h = loaded(item_.second, false, factors_.value);
        const int64_t k = w.rows;
        const bool moves = item_.value_bar.data != nullptr, tall = moves && w.cols > k;
        const Working inside = take(k, k), z = take(k, k), c = take(k, k), work = take(k, k), out = take(k, w.cols);
        Working w_bar{}, h_bar{};
        if (moves) {
            w_bar = loaded(item_.value_bar, turned, factors_.bar);
            multiply(1, w_bar, w, Right::transposed, 0, nullptr, inside, place_);
        } else {
            check(cudaMemsetAsync(inside.data, 0, static_cast<std::size_t>(count_ * k * k) * sizeof(double), stream(place_)), name);
        }
        if (item_.second_bar.data != nullptr) {
            h_bar = loaded(item_.second_bar, false, factors_.as_is);
            settle(h_bar, true, false, place_);
            multiply(-1, h, h_bar, Right::as_is, 1, &inside, z, place_);
        }
        each(name, c, SkewPart{h_bar.data != nullptr ? z : inside, c}, place_);
        const Basis basis = basis_of(h, tall);
        enter(basis, c, false, work);
        each(name, c, OverSumsSkew{c, basis.spectra}, place_);
        leave(basis, c, false, work);
        if (h_bar.data != nullptr) each(name, c, Add{c, h_bar}, place_);
        times(c, w, out);
        if (tall) {  // H⁻¹(W̄ − W̄WᵀW)
            each(name, work, OverRoots{basis.v, work, basis.spectra}, place_);
            multiply(1, work, work, Right::symmetric, 0, nullptr, z, place_);
            multiply(-1, inside, w, Right::as_is, 1, &w_bar, w_bar, place_);
            multiply(1, z, w_bar, Right::as_is, 1, &out, out, place_);
        }
        deliver(out, turned);
        return undefined_;
    }

    const int* symmetric_sqrt() {
        const Working y = loaded(item_.value, false, factors_.value), bar = loaded(item_.value_bar, false, factors_.bar);
        const Working work = take(y.rows, y.rows);
        const Basis basis = basis_of(y, false);
        enter(basis, bar, false, work);
        each(name, bar, OverSums{bar, basis.spectra}, place_);
        leave(basis, bar, false, work);
        deliver(bar, false);
        return undefined_;
    }
    const int* general_sqrt() {
        const Working yt = loaded(item_.value, true, factors_.value), bar = loaded(item_.value_bar, false, factors_.bar);
        auto* const failed = scratch_.take_array<int>(count_);
        solve_sylvester(yt, bar, failed, scratch_);
        launch(name, place_, blocks(ceil_div(count_, threads)), unsolved_kernel, failed, factors_.result, count_, undefined_);
        deliver(bar, false);
        return undefined_;
    }

    const int* inverse() {
        const Working xt = loaded(item_.value, true, factors_.as_is), bar = loaded(item_.value_bar, false, factors_.as_is);
        const Working left = take(xt.rows, xt.rows);
        times(xt, bar, left);
        multiply(-1, left, xt, Right::as_is, 0, nullptr, bar, place_);
        deliver(bar, false);
        return nullptr;
    }

    const int* inverse_root() {
        const Working x = loaded(item_.value, false, factors_.value), bar = loaded(item_.value_bar, false, factors_.bar);
        const Working work = take(x.rows, x.rows);
        settle(bar, true, false, place_);
        const Basis basis = basis_of(x, false);
        enter(basis, bar, true, work);
        each(name, bar, OverPowers{bar, basis.spectra, static_cast<double>(item_.p)}, place_);
        if (item_.relative_ridge > 0) launch(name, place_, blocks(count_), ridge_kernel, bar, basis.lowest, item_.relative_ridge);
        leave(basis, bar, true, work);
        settle(bar, true, false, place_);  // cuBLAS's halves differ by rounding
        deliver(bar, false);
        return undefined_;
    }

    const CudaDerivativeJob& job_;
    const DerivativeItem& item_;
    int64_t count_;
    Scratch& scratch_;
    CudaPlace place_;
    int* undefined_;
    Factors factors_{};
};

}  // namespace

void derivative(const CudaDerivativeJob& job, const DerivativeItem& item, int* undefined, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    int64_t count = 0;
    for (const MatrixRun& run : job.runs) count += run.count;
    const int* const flags = Derivation(job, item, count, scratch).run();
    if (flags == nullptr) return;
    const std::vector<int> here = read(flags, count, place, name);
    std::copy(here.begin(), here.end(), undefined);
}

}  // namespace raphson::cuda
