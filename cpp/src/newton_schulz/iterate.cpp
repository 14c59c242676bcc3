#include "newton_schulz/iterate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/threads.h"
#include "newton_schulz/orthogonalize.h"

namespace raphson {
namespace {

using std::int64_t;

const GemmFunctions<double, double>& products(const GemmTable& gemm, double) { return gemm.f64; }
const GemmFunctions<float, float>& products(const GemmTable& gemm, float) { return gemm.f32; }
const GemmFunctions<bfloat16, float>& products(const GemmTable& gemm, bfloat16) { return gemm.bf16; }

template <class P>
struct Iteration {
    const KernelTable& table;
    const OrthogonalizePlan& plan;
    double eps;
    int64_t m, n;
    const IterationBuffers& buffers;
    const int64_t lx = buffers.ld, la = buffers.square_ld;

    // The first Gram matrix gives the norms that `gram` and `aol` divide by. Frobenius has been divided by at load, so
    // nothing here leaves the range of P. Returns what is left to do: a factor of X, folded into the first step.
    double normalize(P* x, P* a) const {
        if (plan.normalize == Normalize::frobenius) return 1;
        const NewtonSchulzTable& passes = table.newton_schulz;
        double* sums = buffers.factors;
        const double frobenius = std::sqrt(passes.row_sums(dtype_of<P>(), a, m, la, sums));
        const double largest = *std::max_element(sums, sums + m);
        if (plan.normalize == Normalize::gram) {
            const double divisor = plan.norm_factor * std::sqrt(std::min(largest, frobenius));
            return divisor > 0 ? 1 / divisor : 1;
        }
        for (int64_t i = 0; i < m; ++i) {
            const double sum = std::max(sums[i], eps * largest);
            sums[i] = sum > 0 ? 1 / (plan.norm_factor * std::sqrt(sum)) : 0;
        }
        passes.scale(dtype_of<P>(), x, m, n, lx, sums, nullptr);
        passes.scale(dtype_of<P>(), a, m, m, la, sums, sums);
        return 1;
    }

    static Step scaled(const Step& s, double factor) {
        const double square = factor * factor;
        return {s.a * factor, s.b * factor * square, s.c * factor * square * square};
    }

    template <class Scalar>
    void* standard(const GemmFunctions<P, Scalar>& gemm) const {
        auto *x = static_cast<P*>(buffers.x), *y = static_cast<P*>(buffers.y);
        auto *a = static_cast<P*>(buffers.square[0]), *b = static_cast<P*>(buffers.square[1]);
        for (std::size_t t = 0; t < plan.steps.size(); ++t) {
            gemm.gram(m, n, 1, x, lx, a, la);
            if (poll_cancelled()) break;
            const Step step = t == 0 ? scaled(plan.steps[t], normalize(x, a)) : plan.steps[t];
            const auto sa = static_cast<Scalar>(step.a), sb = static_cast<Scalar>(step.b),
                       sc = static_cast<Scalar>(step.c);
            if (step.c != 0) {
                gemm.symmetric(m, sc, a, la, a, la, sb, a, la, b, la);
                gemm.product(m, n, m, 1, b, la, x, lx, sa, x, lx, y, lx);
            } else {
                gemm.product(m, n, m, sb, a, la, x, lx, sa, x, lx, y, lx);
            }
            if (poll_cancelled()) break;
            std::swap(x, y);
        }
        return x;
    }

    // Gram Newton–Schulz (Dao-AILab/gram-newton-schulz): with Z = bR + cR² and R = XXᵀ a step is X ← (aI + Z)X and
    // R ← (aI + Z) R (aI + Z), so only Q, the product of the factors, and R need to be iterated, m×m both. Rounding makes
    // eigenvalues of R near zero drift, and every step magnifies that; a restart applies Q and forms R anew.
    template <class Scalar>
    void* gram(const GemmFunctions<P, Scalar>& gemm) const {
        auto *x = static_cast<P*>(buffers.x), *y = static_cast<P*>(buffers.y);
        P *r = static_cast<P*>(buffers.square[0]), *z = static_cast<P*>(buffers.square[1]),
          *q = static_cast<P*>(buffers.square[2]), *spare = static_cast<P*>(buffers.square[3]),
          *t = static_cast<P*>(buffers.square[4]);
        const std::size_t count = plan.steps.size();
        for (std::size_t i = 0; i < count; ++i) {
            const bool fresh = gram_restarts_before(i);
            if (fresh && i > 0) {
                gemm.product(m, n, m, 1, q, la, x, lx, 0, nullptr, 0, y, lx);
                std::swap(x, y);
            }
            if (fresh) gemm.gram(m, n, 1, x, lx, r, la);
            if (poll_cancelled()) return x;
            const Step step = i == 0 ? scaled(plan.steps[i], normalize(x, r)) : plan.steps[i];
            const auto sa = static_cast<Scalar>(step.a), sb = static_cast<Scalar>(step.b),
                       sc = static_cast<Scalar>(step.c);
            gemm.symmetric(m, sc, r, la, r, la, sb, r, la, z, la);
            if (fresh) {
                std::memcpy(q, z, static_cast<std::size_t>(m * la) * sizeof(P));
                for (int64_t d = 0; d < m; ++d) q[d * (la + 1)] += sa;
            } else {
                gemm.symmetric(m, 1, q, la, z, la, sa, q, la, spare, la);
                std::swap(q, spare);
            }
            if (i + 1 < count && !gram_restarts_before(i + 1)) {
                gemm.symmetric(m, 1, r, la, z, la, sa, r, la, t, la);
                gemm.symmetric(m, 1, z, la, t, la, sa, t, la, r, la);
            }
            if (poll_cancelled()) return x;
        }
        gemm.product(m, n, m, 1, q, la, x, lx, 0, nullptr, 0, y, lx);
        return y;
    }
};

template <class P>
void* run(const KernelTable& table, const OrthogonalizePlan& plan, double eps, int64_t m, int64_t n,
          const IterationBuffers& buffers) {
    const Iteration<P> iteration{table, plan, eps, m, n, buffers};
    const auto& gemm = products(table.gemm, P{});
    if constexpr (!std::is_same_v<P, bfloat16>) {
        if (plan.method == Method::gram) return iteration.gram(gemm);
    }
    return iteration.standard(gemm);
}

}  // namespace

void* iterate(const KernelTable& table, const OrthogonalizePlan& plan, double eps, int64_t m, int64_t n,
              const IterationBuffers& buffers) {
    switch (plan.precision) {
        case DType::float64: return run<double>(table, plan, eps, m, n, buffers);
        case DType::float32: return run<float>(table, plan, eps, m, n, buffers);
        default: return run<bfloat16>(table, plan, eps, m, n, buffers);
    }
}

}  // namespace raphson
