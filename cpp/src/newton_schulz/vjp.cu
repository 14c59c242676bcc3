// The derivative of orthogonalize on a CUDA device: what vjp.cpp does on the CPU, for batches, without a look at any number in
// between.
#include <algorithm>
#include <utility>
#include <vector>

#include "cuda/reduce.h"
#include "newton_schulz/device_passes.h"
#include "newton_schulz/vjp.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr const char* name = "orthogonalize_vjp";

template <class P>
__device__ __forceinline__ P* row_of(const Working& x, int64_t line) {
    return static_cast<P*>(x.data) + line / x.rows * x.step + line % x.rows * x.ld;
}

// f(double{}) or f(float{}): the iteration's arithmetic.
template <class F>
void for_precision(DType type, F&& f) {
    type == DType::float64 ? f(double{}) : f(float{});
}

// cotangents: from what was scanned to what brings them to about 1, as the gradient is linear in them. restore: what the
// gradient with respect to the normalised matrix is multiplied by at the end; 0 where the map is not differentiable or nothing
// comes back through it.
__global__ void __launch_bounds__(threads) factors_kernel(int64_t count, const DeviceNorm* norms, DeviceNorm* cotangents,
                                                          DeviceNorm* restore) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (i >= count) return;
    const DeviceNorm norm = norms[i], cotangent = cotangents[i];
    int exponent = 0, scale_exponent = 0, unit_exponent = 0;
    if (cotangent.max_abs < INFINITY) (void)frexp(cotangent.max_abs, &exponent);
    cotangents[i] = as_factors(1, -exponent);
    if (norm.scale == 0 || cotangent.max_abs == 0) {
        restore[i] = as_factors(0 * (norm.sum_squares + cotangent.sum_squares), 0);  // NaN stays
        return;
    }
    const double mantissa = frexp(norm.scale, &scale_exponent);
    (void)frexp(norm.inverse_unit, &unit_exponent);  // inverse_unit is 2^(unit_exponent - 1)
    restore[i] = as_factors(mantissa, exponent + scale_exponent + unit_exponent - 1);
}

// ---- between the products -----------------------------------------------------------------------------------------------------

constexpr int tile = 32;

// out ← alpha (a + aᵀ) + beta base, a tile a block; base may be null. out is neither a nor base.
template <class P>
__global__ void __launch_bounds__(threads) symmetric_sum_kernel(const Working a, int64_t tiles, P alpha, const P* base, P beta,
                                                                const Working out) {
    __shared__ P across[tile][tile + 1];
    const int64_t matrix = blockIdx.x / (tiles * tiles), index = blockIdx.x % (tiles * tiles), m = a.rows;
    const int64_t i0 = index / tiles * tile, j0 = index % tiles * tile, start = matrix * a.step;
    const P* const from = static_cast<const P*>(a.data) + start;
    const int x = static_cast<int>(threadIdx.x) % tile, y = static_cast<int>(threadIdx.x) / tile;
    for (int k = y; k < tile; k += threads / tile) {
        if (j0 + k < m && i0 + x < m) across[k][x] = from[(j0 + k) * a.ld + i0 + x];
    }
    __syncthreads();
    for (int k = y; k < tile; k += threads / tile) {
        const int64_t i = i0 + k, j = j0 + x;
        if (i >= m || j >= m) continue;
        const int64_t at = i * a.ld + j;  // out and base lie as a does
        const P sum = alpha * (from[at] + across[x][k]);
        static_cast<P*>(out.data)[start + at] = base == nullptr ? sum : sum + beta * base[start + at];
    }
}

// dots[line] = ⟨gᵢ, xᵢ⟩ of every row of every matrix; a block each.
template <class P>
__global__ void __launch_bounds__(threads) row_dots_kernel(const Working g, const Working x, double* dots) {
    __shared__ double room[threads / 32];
    const P *a = row_of<P>(g, blockIdx.x), *b = row_of<P>(x, blockIdx.x);
    double sum = 0;
    for (int64_t j = threadIdx.x; j < g.cols; j += threads) sum += static_cast<double>(a[j]) * static_cast<double>(b[j]);
    sum = over_block(sum, room, Plus());
    if (threadIdx.x == 0) dots[blockIdx.x] = sum;
}

// Σ values[i], by all threads of a block.
__device__ __forceinline__ double total_of(const double* values, int64_t count, double* room) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += threads) sum += values[i];
    return over_block(sum, room, Plus());
}

// ---- through the Frobenius norm -------------------------------------------------------------------------------------------------

// X₀ = X/d. d = f‖X‖: (G - f²⟨G, X₀⟩X₀)/d. d = eps·|xₖ|, the largest: (G - eps⟨G, X₀⟩ sign(xₖ)eₖ)/d. The division is the
// caller's. by_x, at_largest: what is subtracted of X₀ and of the sign, a number a matrix.
__global__ void __launch_bounds__(threads) norm_terms_kernel(int64_t rows, const double* dots, const DeviceNorm* norms, double factor,
                                                             double eps, double* by_x, double* at_largest) {
    __shared__ double room[threads / 32];
    const double inner = total_of(dots + blockIdx.x * rows, rows, room);
    if (threadIdx.x != 0) return;
    const bool floored = norms[blockIdx.x].floored;
    by_x[blockIdx.x] = floored ? 0 : inner * factor * factor;
    at_largest[blockIdx.x] = floored ? inner * eps : 0;
}
// g ← g - by_x·x; a block a row.
template <class P>
__global__ void __launch_bounds__(threads) subtract_kernel(const Working g, const Working x, const double* by_x) {
    const double by = by_x[blockIdx.x / g.rows];
    P* to = row_of<P>(g, blockIdx.x);
    const P* from = row_of<P>(x, blockIdx.x);
    for (int64_t j = threadIdx.x; j < g.cols; j += threads) {
        to[j] = static_cast<P>(static_cast<double>(to[j]) - by * static_cast<double>(from[j]));
    }
}
// g -= amount·sign at the (first) largest entry of x; a block a matrix, for floors that no default reaches.
template <class P>
__global__ void __launch_bounds__(threads) at_largest_kernel(const Working g, const Working x, const double* amounts) {
    __shared__ double room[threads / 32];
    const P* data = static_cast<const P*>(x.data) + blockIdx.x * x.step;
    const int64_t size = x.rows * x.cols;
    const auto at = [&](int64_t i) { return i / x.cols * x.ld + i % x.cols; };
    double largest = 0;
    for (int64_t i = threadIdx.x; i < size; i += threads) largest = fmax(largest, fabs(static_cast<double>(data[at(i)])));
    largest = over_block(largest, room, Larger());
    double first = static_cast<double>(size);  // counted exactly: no matrix has 2⁵³ entries
    for (int64_t i = threadIdx.x; i < size; i += threads) {
        if (fabs(static_cast<double>(data[at(i)])) == largest) first = fmin(first, static_cast<double>(i));
    }
    first = over_block(first, room, Smaller());
    if (threadIdx.x != 0 || first >= static_cast<double>(size)) return;
    const int64_t where = at(static_cast<int64_t>(first));
    P& entry = static_cast<P*>(g.data)[blockIdx.x * g.step + where];
    const double amount = amounts[blockIdx.x];
    entry = static_cast<P>(static_cast<double>(entry) - (data[where] < 0 ? -amount : amount));
}

// ---- through a norm of the Gram matrix ------------------------------------------------------------------------------------------

// From dᵢ = ⟨Gᵢ, X₀ᵢ⟩ to the cotangent of A, which is by_entry·A/2 + wᵢ sign Aᵢⱼ (vjp.cpp): weights[line] = wᵢ, and a number a
// matrix. A block each.
__global__ void __launch_bounds__(threads) norm_weights_kernel(int64_t rows, bool aol, double eps, const RowScales scales,
                                                               const double* dots, double* weights, double* by_entry) {
    __shared__ double room[threads / 32];
    const int64_t start = blockIdx.x * rows;
    const double *sums = scales.sums + start, *d = dots + start;
    double* w = weights + start;
    double largest = 0, first = static_cast<double>(rows);
    for (int64_t i = threadIdx.x; i < rows; i += threads) largest = LargerOrNaN()(sums[i], largest);
    largest = over_block(largest, room, LargerOrNaN());
    for (int64_t i = threadIdx.x; i < rows; i += threads) {
        if (sums[i] == largest) first = fmin(first, static_cast<double>(i));
    }
    first = over_block(first, room, Smaller());  // all rows where there is a NaN
    const auto largest_row = static_cast<int64_t>(first);
    const double frobenius = sqrt(total_of(scales.squares + start, rows, room)), total = total_of(d, rows, room);
    const bool whole = !aol && !(largest <= frobenius);  // √‖A‖_F is the divisor
    const double floor = eps * largest;
    double from_floored = 0;
    for (int64_t i = threadIdx.x; i < rows; i += threads) {
        double weight = 0;
        if (aol) {
            const bool floored = sums[i] < floor;
            const double bound = floored ? floor : sums[i];
            weight = bound > 0 ? -d[i] / (2 * bound) : 0;
            if (floored) {
                from_floored += eps * weight;
                weight = 0;
            }
        } else if (!whole && i == largest_row && largest > 0) {
            weight = -total / (2 * largest);
        }
        w[i] = weight;
    }
    from_floored = over_block(from_floored, room, Plus());
    if (threadIdx.x != 0) return;
    by_entry[blockIdx.x] = whole && frobenius > 0 ? -total / (frobenius * frobenius) : 0;
    if (aol && largest_row < rows) w[largest_row] += from_floored;
}
// out ← by_entry·a + (wᵢ + wⱼ) sign(a), which is the cotangent of A and its transpose; a block a row.
template <class P>
__global__ void __launch_bounds__(threads) gram_cotangent_kernel(const Working a, const double* weights, const double* by_entry,
                                                                 const Working out) {
    const double* w = weights + blockIdx.x / a.rows * a.rows;
    const double by = by_entry[blockIdx.x / a.rows], mine = w[blockIdx.x % a.rows];
    const P* from = row_of<P>(a, blockIdx.x);
    P* to = row_of<P>(out, blockIdx.x);
    for (int64_t j = threadIdx.x; j < a.cols; j += threads) {
        const double value = static_cast<double>(from[j]), sum = mine + w[j];
        to[j] = static_cast<P>(by * value + (value > 0 ? sum : value < 0 ? -sum : 0));
    }
}

// ---- the driver -----------------------------------------------------------------------------------------------------------------

Grid a_block_each(int64_t count) { return {block_count(count, name), threads}; }

// `count` wide matrices, m×n with m ≤ n. Every step's X and A = XXᵀ are kept.
class Derivative {
public:
    Derivative(const OrthogonalizePlan& plan, double eps, int64_t m, int64_t n, int64_t count, Scratch& scratch)
        : plan_(plan), eps_(eps), m_(m), n_(n), count_(count), from_gram_(plan.normalize != Normalize::frobenius), scratch_(scratch) {
        for (std::size_t t = 0; t < plan.steps.size(); ++t) {
            x_.push_back(working(m, n));
            a_.push_back(working(m, m));
        }
        if (from_gram_) {
            raw_x_ = working(m, n);
            raw_a_ = working(m, m);
        }
        g_ = working(m, n);
        spare_ = working(m, n);
        k_ = working(m, m);
        s_ = working(m, m);
        t_ = working(m, m);
        dots_ = scratch.take_array<double>(m * count);
        weights_ = scratch.take_array<double>(m * count);
        numbers_ = scratch.take_array<double>(2 * count);
    }
    static int64_t bytes(const OrthogonalizePlan& plan, int64_t m, int64_t n) {
        const auto kept = static_cast<int64_t>(plan.steps.size()) + 1;
        return ((kept + 2) * m * padded(n) + (kept + 3) * m * padded(m)) * itemsize(plan.precision);
    }

    // To be loaded: X over its Frobenius norm (times the factor), where the norm comes from the Gram matrix twice; and the cotangent.
    const Working& first_x() const { return x_.front(); }
    const Working* raw_x() const { return from_gram_ ? &raw_x_ : nullptr; }
    const Working& g() const { return g_; }

    // Then g() is the gradient with respect to what was loaded, times what X was divided by.
    void run(const DeviceNorm* norms) {
        forward();
        for (std::size_t t = plan_.steps.size(); t-- > 0;) backward(t);
        for_precision(plan_.precision, [&](auto like) {
            using P = decltype(like);
            launch(name, place(), a_block_each(count_ * m_), row_dots_kernel<P>, g_, x_[0], dots_);
            from_gram_ ? through_gram_matrix<P>() : through_frobenius_norm<P>(norms);
        });
    }

private:
    CudaPlace place() const { return scratch_.place(); }
    Working working(int64_t rows, int64_t cols) const { return take_padded(scratch_, plan_.precision, rows, cols, count_); }
    void gram_matrix(const Working& x, const Working& a) const { multiply(1, x, x, Right::symmetric, 0, nullptr, a, place()); }
    void apply(double alpha, const Working& q, const Working& x, double beta, const Working& c, const Working& d) const {
        multiply(alpha, q, x, Right::as_is, beta, &c, d, place());
    }
    // d ← (bA + cA²)X + aX of the step, A by its number.
    void step(std::size_t t, const Working& x, const Working& d) const {
        const Step& step = plan_.steps[t];
        if (step.c == 0) return apply(step.b, a_[t], x, step.a, x, d);
        multiply(step.c, a_[t], a_[t], Right::symmetric, step.b, &a_[t], t_, place());
        apply(1, t_, x, step.a, x, d);
    }
    void symmetric_sum(const Working& a, double alpha, const Working* base, double beta, const Working& out) const {
        const int64_t tiles = ceil_div(m_, tile);
        for_precision(plan_.precision, [&](auto like) {
            using P = decltype(like);
            launch(name, place(), a_block_each(count_ * tiles * tiles), symmetric_sum_kernel<P>, a, tiles, static_cast<P>(alpha),
                   base == nullptr ? nullptr : static_cast<const P*>(base->data), static_cast<P>(beta), out);
        });
    }

    // All steps but the last one's product: the derivative does not need the result.
    void forward() {
        if (from_gram_) {
            gram_matrix(raw_x_, raw_a_);
            scales_ = row_scales(raw_a_, plan_.normalize == Normalize::aol, plan_.norm_factor, eps_, scratch_);
            scale_rows(x_[0], scales_.factors, false, place());
        }
        for (std::size_t t = 0; t < plan_.steps.size(); ++t) {
            gram_matrix(x_[t], a_[t]);
            if (t + 1 < plan_.steps.size()) step(t, x_[t], x_[t + 1]);
        }
    }

    // G ← aG + BG + (bS + c(SA + (SA)ᵀ))X with K = GXᵀ, S = K + Kᵀ: see vjp.cpp.
    void backward(std::size_t t) {
        const Step& of = plan_.steps[t];
        multiply(1, g_, x_[t], Right::transposed, 0, nullptr, k_, place());
        symmetric_sum(k_, of.c == 0 ? of.b : 1, nullptr, 0, s_);
        if (of.c != 0) {
            multiply(1, s_, a_[t], Right::as_is, 0, nullptr, t_, place());
            symmetric_sum(t_, of.c, &s_, of.b, k_);
        }
        step(t, g_, spare_);
        apply(1, of.c == 0 ? s_ : k_, x_[t], 1, spare_, spare_);
        std::swap(g_, spare_);
    }

    template <class P>
    void through_frobenius_norm(const DeviceNorm* norms) const {
        double *by_x = numbers_, *at_largest = numbers_ + count_;
        launch(name, place(), a_block_each(count_), norm_terms_kernel, m_, dots_, norms, plan_.norm_factor, eps_, by_x, at_largest);
        launch(name, place(), a_block_each(count_ * m_), subtract_kernel<P>, g_, x_[0], by_x);
        if (2 * eps_ < plan_.norm_factor) return;  // no floor: ‖X‖ is at least the largest entry, but for rounding
        launch(name, place(), a_block_each(count_), at_largest_kernel<P>, g_, x_[0], at_largest);
    }

    // From the cotangent of X₀ = diag(r) X to that of X: diag(r) G + (W + Wᵀ) X, W the cotangent of A = XXᵀ.
    template <class P>
    void through_gram_matrix() const {
        launch(name, place(), a_block_each(count_), norm_weights_kernel, m_, plan_.normalize == Normalize::aol, eps_, scales_, dots_,
               weights_, numbers_);
        launch(name, place(), a_block_each(count_ * m_), gram_cotangent_kernel<P>, raw_a_, weights_, numbers_, k_);
        scale_rows(g_, scales_.factors, false, place());
        apply(1, k_, raw_x_, 1, g_, g_);
    }

    const OrthogonalizePlan& plan_;
    double eps_;
    int64_t m_, n_, count_;
    bool from_gram_;
    Scratch& scratch_;
    std::vector<Working> x_, a_;  // of every step
    Working raw_x_{}, raw_a_{}, g_{}, spare_{}, k_{}, s_{}, t_{};
    RowScales scales_{};
    double *dots_, *weights_, *numbers_;
};

}  // namespace

void orthogonalize_vjp(const BatchRef& given_x, const BatchRef& given_cotangent, const BatchRef& given_out, const OrthogonalizePlan& plan,
                       const OrthogonalizeOptions& options, CudaPlace place) {
    const DeviceGuard guard(place.device);
    const DeviceBatch x(given_x, plan.transposed, name), cotangent(given_cotangent, plan.transposed, name);
    const DeviceBatch out(given_out, plan.transposed, name);
    if (x.count == 0 || x.rows == 0 || x.cols == 0) return;
    if (options.check_finite) {
        const char* const reading = "orthogonalize_vjp: reading the norms";
        const std::vector<DeviceNorm> of_x = read_norms(x, reading, place), of_cotangent = read_norms(cotangent, reading, place);
        for (std::size_t i = 0; i < of_x.size(); ++i) {
            require_finite_vjp(of_x[i].sum_squares, of_cotangent[i].sum_squares, static_cast<int64_t>(i), x.count);
        }
    }
    const int64_t at_once = std::clamp<int64_t>(scratch_bytes / Derivative::bytes(plan, x.rows, x.cols), 1, x.count);
    const double factor = plan.normalize == Normalize::frobenius ? plan.norm_factor : 1;
    for (int64_t first = 0; first < x.count; first += at_once) {
        const int64_t count = std::min(at_once, x.count - first);
        Scratch scratch(place);
        auto* const norms = scratch.take_array<DeviceNorm>(3 * count);
        DeviceNorm *const shrink = norms + count, *const restore = shrink + count;
        scan(x, first, count, factor, options.eps, norms, scratch);
        scan(cotangent, first, count, 1, 0, shrink, scratch);
        launch(name, place, a_block_each(ceil_div(count, threads)), factors_kernel, count, norms, shrink, restore);
        Derivative derivative(plan, options.eps, x.rows, x.cols, count, scratch);
        load(x, first, norms, derivative.first_x(), place);
        if (derivative.raw_x() != nullptr) load(x, first, norms, *derivative.raw_x(), place);
        load(cotangent, first, shrink, derivative.g(), place);
        derivative.run(norms);
        store_scaled(derivative.g(), restore, out, first, place);
    }
}

}  // namespace raphson::cuda
