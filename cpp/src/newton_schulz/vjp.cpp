#include "newton_schulz/vjp.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "common/threads.h"
#include "common/workspace.h"
#include "raphson/runtime.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

const GemmFunctions<double, double>& products(const GemmTable& gemm, double) { return gemm.f64; }
const GemmFunctions<float, float>& products(const GemmTable& gemm, float) { return gemm.f32; }

template <class P>
P* take(Workspace& scratch, int64_t count) {
    return static_cast<P*>(scratch.take(static_cast<std::size_t>(count) * sizeof(P)));
}

// One wide matrix, m×n with m ≤ n. Every step's X and A = XXᵀ are kept: steps·m(n + m) numbers.
template <class P>
class Derivative {
public:
    Derivative(const KernelTable& table, const OrthogonalizePlan& plan, double eps, int64_t m, int64_t n)
        : gemm_(products(table.gemm, P{})),
          passes_(table.newton_schulz),
          elementwise_(table.elementwise),
          plan_(plan),
          eps_(eps),
          m_(m),
          n_(n),
          steps_(static_cast<int64_t>(plan.steps.size())),
          from_gram_(plan.normalize != Normalize::frobenius),
          x_(take<P>(scratch_, steps_ * m * n)),
          a_(take<P>(scratch_, steps_ * m * m)),
          raw_x_(from_gram_ ? take<P>(scratch_, m * n) : nullptr),
          raw_a_(from_gram_ ? take<P>(scratch_, m * m) : nullptr),
          g_(take<P>(scratch_, m * n)),
          spare_(take<P>(scratch_, m * n)),
          k_(take<P>(scratch_, m * m)),
          s_(take<P>(scratch_, m * m)),
          t_(take<P>(scratch_, m * m)),
          sums_(take<double>(scratch_, m)),
          rows_(take<double>(scratch_, m)),
          dots_(take<double>(scratch_, m)) {}

    P* x() { return from_gram_ ? raw_x_ : x_; }  // to be loaded: X over its Frobenius norm (times the factor)
    P* g() { return g_; }                        // to be loaded: the cotangent

    // False when cancelled. Then g holds the gradient with respect to what was loaded into x, but for the term through
    // the Frobenius norm, which the caller adds.
    bool run() {
        forward();
        for (int64_t t = steps_ - 1; t >= 0 && !poll_cancelled(); --t) backward(t);
        if (from_gram_ && !poll_cancelled()) through_normalisation();
        return !poll_cancelled();
    }

    // ⟨g, x₀⟩ of the current g and the first step's X.
    double inner() {
        elementwise_.row_dots(dtype_of<P>(), g_, x_, m_, n_, dots_);
        double sum = 0;
        for (int64_t i = 0; i < m_; ++i) sum += dots_[i];
        return sum;
    }
    void add_first_x(double alpha) { elementwise_.update(dtype_of<P>(), g_, x_, m_, n_, nullptr, alpha); }
    // g -= amount·sign at the (first) largest entry of X: where the floor eps·max|X| was what X was divided by.
    void subtract_at_largest(double amount) {
        int64_t at = 0;
        for (int64_t i = 1; i < m_ * n_; ++i) {
            if (std::fabs(x_[i]) > std::fabs(x_[at])) at = i;
        }
        g_[at] = static_cast<P>(static_cast<double>(g_[at]) - (x_[at] < 0 ? -amount : amount));
    }

private:
    P* x_at(int64_t t) { return x_ + t * m_ * n_; }
    P* a_at(int64_t t) { return a_ + t * m_ * m_; }

    // All steps but the last one's product: the derivative does not need the result.
    void forward() {
        if (from_gram_) normalize();
        for (int64_t t = 0; t < steps_ && !poll_cancelled(); ++t) {
            gemm_.gram(m_, n_, 1, x_at(t), n_, a_at(t), m_);
            if (t + 1 == steps_ || poll_cancelled()) return;
            const Step& step = plan_.steps[static_cast<std::size_t>(t)];
            polynomial(step, a_at(t));
            if (poll_cancelled()) return;
            gemm_.product(m_, n_, m_, 1, t_, m_, x_at(t), n_, static_cast<P>(step.a), x_at(t), n_, x_at(t + 1), n_);
        }
    }

    // t ← bA + cA²
    void polynomial(const Step& step, const P* a) {
        if (step.c == 0) {
            const double half = step.b / 2;  // A is symmetric
            elementwise_.symmetric_sum(dtype_of<P>(), a, m_, half, nullptr, 0, t_);
        } else {
            gemm_.symmetric(m_, static_cast<P>(step.c), a, m_, a, m_, static_cast<P>(step.b), a, m_, t_, m_);
        }
    }

    // X₀ = diag(r) X: r = 1/(f √u), u = min(‖A‖_∞, ‖A‖_F), or rᵢ = 1/(f √Sᵢ), Sᵢ the row sums of |A| with their floor.
    void normalize() {
        gemm_.gram(m_, n_, 1, raw_x_, n_, raw_a_, m_);
        if (poll_cancelled()) return;
        const double frobenius = std::sqrt(passes_.row_sums(dtype_of<P>(), raw_a_, m_, m_, sums_));
        if (cancelled()) return;
        largest_row_ = std::max_element(sums_, sums_ + m_) - sums_;
        const double largest = sums_[largest_row_];
        by_row_sum_ = largest <= frobenius;
        squared_norm_ = by_row_sum_ ? largest : frobenius;
        const bool one = plan_.normalize == Normalize::gram;
        for (int64_t i = 0; i < m_; ++i) {
            const double bound = one ? squared_norm_ : std::max(sums_[i], eps_ * largest);
            rows_[i] = bound > 0 ? 1 / (plan_.norm_factor * std::sqrt(bound)) : one ? 1 : 0;
        }
        std::copy(raw_x_, raw_x_ + m_ * n_, x_);
        passes_.scale(dtype_of<P>(), x_, m_, n_, n_, rows_, nullptr);
    }

    // X' = aX + BX with B = bA + cA², A = XXᵀ. With K = GXᵀ and S = K + Kᵀ the cotangent of A is Ā = bK + c(KA + AK),
    // so
    //   G ← aG + BG + (Ā + Āᵀ)X,   Ā + Āᵀ = bS + c(SA + (SA)ᵀ).
    void backward(int64_t t) {
        const Step& step = plan_.steps[static_cast<std::size_t>(t)];
        const P *x = x_at(t), *a = a_at(t);
        passes_.load({const_cast<P*>(x), dtype_of<P>(), n_, m_, 1, n_}, 1, 1, dtype_of<P>(), spare_, m_);  // Xᵀ
        if (poll_cancelled()) return;
        gemm_.product(m_, m_, n_, 1, g_, n_, spare_, m_, 0, nullptr, 0, k_, m_);
        if (poll_cancelled()) return;
        const P* both = k_;  // Ā + Āᵀ
        if (step.c == 0) {
            elementwise_.symmetric_sum(dtype_of<P>(), k_, m_, step.b, nullptr, 0, s_);
            both = s_;
        } else {
            elementwise_.symmetric_sum(dtype_of<P>(), k_, m_, 1, nullptr, 0, s_);
            gemm_.product(m_, m_, m_, 1, s_, m_, a, m_, 0, nullptr, 0, t_, m_);
            if (poll_cancelled()) return;
            elementwise_.symmetric_sum(dtype_of<P>(), t_, m_, step.c, s_, step.b, k_);
        }
        polynomial(step, a);
        if (poll_cancelled()) return;
        gemm_.product(m_, n_, m_, 1, t_, m_, g_, n_, static_cast<P>(step.a), g_, n_, spare_, n_);
        if (poll_cancelled()) return;
        gemm_.product(m_, n_, m_, 1, both, m_, x, n_, 1, spare_, n_, spare_, n_);
        std::swap(g_, spare_);
    }

    // From the cotangent of X₀ = diag(r) X to that of X: diag(r) G + (W + Wᵀ) X, W the cotangent of A = XXᵀ. With
    // dᵢ = ⟨Gᵢ, X₀ᵢ⟩ that of the row sum Sᵢ is -dᵢ / 2Sᵢ, and ∂Sᵢ/∂Aᵢⱼ = sign Aᵢⱼ. `gram` has one divisor for all rows.
    void through_normalisation() {
        const DType type = dtype_of<P>();
        const double total = inner();
        if (poll_cancelled()) return;
        if (plan_.normalize == Normalize::gram && !by_row_sum_) {
            const double weight = squared_norm_ > 0 ? -total / (squared_norm_ * squared_norm_) : 0;  // ∂u/∂A = A/u
            elementwise_.symmetric_sum(type, raw_a_, m_, weight / 2, nullptr, 0, k_);
        } else {
            double* weights = dots_;
            const double largest = sums_[largest_row_];
            if (plan_.normalize == Normalize::gram) {
                std::fill(weights, weights + m_, 0.0);
                weights[largest_row_] = largest > 0 ? -total / (2 * largest) : 0;
            } else {
                double at_largest = 0;  // from rows whose sum is below the floor eps·(largest sum)
                for (int64_t i = 0; i < m_; ++i) {
                    const bool floored = sums_[i] < eps_ * largest;
                    const double bound = floored ? eps_ * largest : sums_[i];
                    const double weight = bound > 0 ? -weights[i] / (2 * bound) : 0;
                    if (floored) at_largest += eps_ * weight;
                    weights[i] = floored ? 0 : weight;
                }
                weights[largest_row_] += at_largest;
            }
            elementwise_.signed_weights(type, raw_a_, m_, weights, k_);
        }
        passes_.scale(type, g_, m_, n_, n_, rows_, nullptr);
        if (poll_cancelled()) return;
        gemm_.product(m_, n_, m_, 1, k_, m_, raw_x_, n_, 1, g_, n_, g_, n_);
    }

    const GemmFunctions<P, P>& gemm_;
    const NewtonSchulzTable& passes_;
    const ElementwiseTable& elementwise_;
    const OrthogonalizePlan& plan_;
    double eps_;
    int64_t m_, n_, steps_;
    bool from_gram_;
    Workspace scratch_;
    P *x_, *a_, *raw_x_, *raw_a_, *g_, *spare_, *k_, *s_, *t_;
    double *sums_, *rows_, *dots_;
    int64_t largest_row_ = 0;
    bool by_row_sum_ = true;
    double squared_norm_ = 0;  // what `gram` takes the root of
};

struct Job {
    BatchRef x, cotangent, out;
    const OrthogonalizePlan* plan;
    const OrthogonalizeOptions* options;
    const KernelTable* table;
    MatrixScan* scans;  // of x, then of the cotangent, one after the other
};

// m·2^exponent as two factors that stay within float64 wherever their product with the data does.
struct Factors {
    double first, second;
    Factors(double mantissa, int exponent) {
        exponent = std::min(exponent, 2040);  // beyond, infinite in any case, but 0 stays 0
        first = std::ldexp(mantissa, exponent / 2);
        second = std::ldexp(1.0, exponent - exponent / 2);
    }
};

template <class P>
void differentiate(const Job& job, int64_t index) {
    MatrixRef x = job.x.matrix(index), cotangent = job.cotangent.matrix(index), out = job.out.matrix(index);
    const OrthogonalizePlan& plan = *job.plan;
    if (plan.transposed) {
        x = x.transposed();
        cotangent = cotangent.transposed();
        out = out.transposed();
    }
    const NewtonSchulzTable& passes = job.table->newton_schulz;
    const MatrixScan &scan = job.scans[2 * index], &other = job.scans[2 * index + 1];
    const double eps = job.options->eps;
    const bool frobenius = plan.normalize == Normalize::frobenius;
    const double norm = (frobenius ? plan.norm_factor : 1) * std::sqrt(scan.sum_squares);
    const double floor = eps * (scan.max_abs / scan.unit);
    const double divisor = std::max(norm, floor);
    if (divisor == 0 || other.max_abs == 0) {  // where the map is not differentiable, or nothing comes back through it
        const PollPause complete;
        return job.table->elementwise.scaled(x, 0, 0, out);
    }
    // The gradient is linear in the cotangent: brought to about 1, its scale is put back at the end.
    int cotangent_exponent = 0;
    if (std::isfinite(other.max_abs)) (void)std::frexp(other.max_abs, &cotangent_exponent);
    const Factors shrink(1, -cotangent_exponent);

    Derivative<P> derivative(*job.table, plan, eps, x.rows, x.cols);
    passes.load(x, 1 / scan.unit, 1 / divisor, plan.precision, derivative.x(), x.cols);
    passes.load(cotangent, shrink.first, shrink.second, plan.precision, derivative.g(), x.cols);
    if (cancelled() || !derivative.run()) return;
    // X₀ = X/d. d = f‖X‖: (G - f²⟨G, X₀⟩X₀)/d. d = eps·|xₖ|, the largest: (G - eps⟨G, X₀⟩ sign(xₖ)eₖ)/d. Where the norm
    // came from the Gram matrix, what follows does not depend on d, and the second terms vanish.
    if (frobenius) {
        const double inner = derivative.inner();
        if (cancelled()) return;
        if (norm >= floor) {
            derivative.add_first_x(-inner * plan.norm_factor * plan.norm_factor);
        } else {
            derivative.subtract_at_largest(inner * eps);
        }
    }
    if (cancelled()) return;
    int divisor_exponent = 0, unit_exponent = 0;
    const double mantissa = std::frexp(divisor, &divisor_exponent);
    (void)std::frexp(scan.unit, &unit_exponent);  // scan.unit is 2^(unit_exponent - 1)
    const Factors restore(1 / mantissa, cotangent_exponent - divisor_exponent - (unit_exponent - 1));
    const PollPause complete;  // from here on the matrix is written whole
    const MatrixRef result{derivative.g(), plan.precision, x.rows, x.cols, x.cols, 1};
    job.table->elementwise.scaled(result, restore.first, restore.second, out);
}

void differentiate_task(void* context, int64_t index) {
    const Job& job = *static_cast<const Job*>(context);
    if (job.plan->precision == DType::float64) {
        differentiate<double>(job, index);
    } else {
        differentiate<float>(job, index);
    }
}

void scan_task(void* context, int64_t index) {
    const Job& job = *static_cast<const Job*>(context);
    const BatchRef& of = index % 2 == 0 ? job.x : job.cotangent;
    job.scans[index] = job.table->newton_schulz.scan(of.matrix(index / 2));
}

}  // namespace

OrthogonalizePlan plan_orthogonalize_vjp(std::int64_t rows, std::int64_t cols, DType dtype, const Schedule& schedule,
                                         OrthogonalizeOptions options) {
    options.method = Method::standard;
    OrthogonalizePlan plan = plan_orthogonalize(rows, cols, dtype, schedule, options);
    if (itemsize(plan.precision) == 2) plan.precision = DType::float32;
    const double m = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));
    plan.flops = static_cast<double>(plan.steps.size()) * (9 * m * m * n + 4 * m * m * m);
    return plan;
}

void orthogonalize_vjp(const BatchRef& x, const BatchRef& cotangent, const BatchRef& out, const OrthogonalizePlan& plan,
                       const OrthogonalizeOptions& options) {
    constexpr double worth_sharing = 2e7;  // flops, as for orthogonalize
    const int64_t count = x.count(), threads = get_num_threads();
    if (count == 0 || x.rows() == 0 || x.cols() == 0) return;
    Workspace scratch;
    Job job{x, cotangent, out, &plan, &options, &kernels(), take<MatrixScan>(scratch, 2 * count)};
    if (count == 1) {
        for (int64_t i = 0; i < 2; ++i) scan_task(&job, i);
    } else {
        parallel_for(2 * count, scan_task, &job);
    }
    throw_if_cancelled();
    for (int64_t i = 0; options.check_finite && i < count; ++i) {
        require_finite_vjp(job.scans[2 * i].sum_squares, job.scans[2 * i + 1].sum_squares, i, count);
    }
    // One matrix a thread, all threads on one where too few are left to keep every thread busy.
    const int64_t shared = threads == 1 || plan.flops < worth_sharing || count >= 4 * threads ? 0 : count % threads;
    for (int64_t i = 0; i < shared && !poll_cancelled(); ++i) differentiate_task(&job, i);
    throw_if_cancelled();
    struct Rest {
        Job* job;
        int64_t from;
    } rest{&job, shared};
    parallel_for(count - shared,
                 [](void* context, int64_t i) {
                     const Rest& r = *static_cast<const Rest*>(context);
                     differentiate_task(r.job, r.from + i);
                 },
                 &rest);
    throw_if_cancelled();
}

template <class T>
void orthogonalize_vjp(TensorView<const T> x, TensorView<const T> cotangent, TensorView<T> out,
                       const Schedule& schedule, const OrthogonalizeOptions& options) {
    const BatchRef from = erase(x);
    check_orthogonalize_vjp(from, erase(cotangent), erase(out), options);
    const OrthogonalizePlan plan = plan_orthogonalize_vjp(from.rows(), from.cols(), from.dtype, schedule, options);
    orthogonalize_vjp(from, erase(cotangent), erase(out), plan, options);
}

template void orthogonalize_vjp<double>(TensorView<const double>, TensorView<const double>, TensorView<double>,
                                        const Schedule&, const OrthogonalizeOptions&);
template void orthogonalize_vjp<float>(TensorView<const float>, TensorView<const float>, TensorView<float>,
                                       const Schedule&, const OrthogonalizeOptions&);
template void orthogonalize_vjp<bfloat16>(TensorView<const bfloat16>, TensorView<const bfloat16>, TensorView<bfloat16>,
                                          const Schedule&, const OrthogonalizeOptions&);

}  // namespace raphson
