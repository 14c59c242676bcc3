// The damped Gauss–Newton direction on a CUDA device: −Jᵀ(QJJᵀ + bλI)⁻¹r. Without Q the matrix is symmetric and its factor
// serves; with Q it is not, and is inverted by elimination with pivots.
#include <cmath>

#include "cuda/number.h"
#include "dense/device_inverse.h"
#include "ihvp/device_fisher.h"
#include "ihvp/device_fisher_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* name = "gauss_newton_step";
constexpr int threads = 256;

Grid one_each(int64_t count) { return {block_count(ceil_div(count, threads), name), threads}; }
__device__ __forceinline__ int64_t thread_of_grid() { return static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; }

// q (samples × c × c) ← the Hessians as they are, or S Sᵀ of their square roots.
__global__ void __launch_bounds__(threads) hessians_kernel(const CudaStack s, bool root, double* q) {
    const int64_t at = thread_of_grid(), c = s.first.rows;
    if (at >= s.count * c * c) return;
    const int64_t base = at / (c * c) * s.step, i = at / c % c, j = at % c;
    const auto entry = [&](int64_t row, int64_t k) {
        return read_number(s.first.data, s.first.type, base + row * s.first.row_stride + k * s.first.column_stride);
    };
    double value = 0;
    if (root) {
        for (int64_t k = 0; k < s.first.columns; ++k) value = fma(entry(i, k), entry(j, k), value);
    } else {
        value = entry(i, j);
    }
    q[at] = value;
}

// a (n × n) ← QK + shift·I, of K's lower triangle.
__global__ void __launch_bounds__(threads) system_kernel(const double* q, const double* k, int64_t n, int64_t c, double shift,
                                                         double* a) {
    const int64_t at = thread_of_grid();
    if (at >= n * n) return;
    const int64_t row = at / n, column = at % n, first = row / c * c;
    double sum = row == column ? shift : 0;
    for (int64_t l = 0; l < c; ++l) {
        const int64_t i = first + l;
        sum = fma(q[row * c + l], i >= column ? k[i * n + column] : k[column * n + i], sum);
    }
    a[at] = sum;
}

__global__ void __launch_bounds__(threads) negate_kernel(const double* x, const int* failed, int64_t n, double* to) {
    const int64_t at = thread_of_grid();
    if (at < n) to[at] = *failed != 0 ? 0.0 / 0.0 : -x[at];
}

// y ← −(QK + shift·I)⁻¹r.
void solve_by_inverse(const CudaStack& hessian, bool root, const double* k, const double* r, double shift, double* y,
                      Scratch& scratch) {
    const int64_t c = hessian.first.rows, n = hessian.count * c;
    const CudaPlace place = scratch.place();
    auto* const q = scratch.take_array<double>(n * c);
    auto *const a = scratch.take_array<double>(n * n), *const inverse = scratch.take_array<double>(n * n);
    auto* const x = scratch.take_array<double>(n);
    auto* const failed = scratch.take_array<int>(1);
    launch(name, place, one_each(n * c), hessians_kernel, hessian, root, q);
    launch(name, place, one_each(n * n), system_kernel, q, k, n, c, shift, a);
    invert(a, inverse, n, 1, failed, scratch);
    times_factor(inverse, n, 1, r, 1, true, 1, x, scratch);
    launch(name, place, one_each(n), negate_kernel, x, failed, n, y);
}

// All rows of J one after the other, where they lie if they are contiguous and as far from each other within a sample as
// between samples, else copied.
BlockedRows all_rows(const CudaStack& jac, Scratch& scratch) {
    const int64_t c = jac.first.rows, d = jac.first.columns, n = jac.count * c;
    CudaView all = jac.first;
    all.rows = n;
    if (c == 1) all.row_stride = jac.step;
    const bool even = c == 1 || jac.count == 1 || jac.step == c * jac.first.row_stride;
    const bool in_place = even && (d == 1 || jac.first.column_stride == 1);
    if (!in_place) {
        const int64_t bytes = c * d * itemsize(all.type);
        auto* const to = static_cast<char*>(scratch.take(static_cast<std::size_t>(jac.count * bytes)));
        if (even) pack(all, to, scratch.place());
        for (int64_t i = 0; i < jac.count && !even; ++i) {
            CudaView one = jac.first;
            one.data = static_cast<char*>(one.data) + i * jac.step * itemsize(one.type);
            pack(one, to + i * bytes, scratch.place());
        }
        all.data = to;
        all.row_stride = d;
    }
    return {all.data, all.type, all.row_stride, n, 1, d, d, d};
}

}  // namespace

void gauss_newton(const CudaStack& jac, const CudaView& residual, const CudaStack* hessian, bool root, double damping,
                  const CudaView& out, CudaPlace place) {
    const DeviceGuard guard(place.device);
    Scratch scratch(place);
    const BlockedRows rows = all_rows(jac, scratch);
    const int64_t n = rows.rows;
    const double shift = static_cast<double>(jac.count) * damping;
    auto *const r = scratch.take_array<double>(n), *const k = scratch.take_array<double>(n * n);
    widen(residual, r, place);
    const double* y = nullptr;
    if (hessian == nullptr) {
        auto* const w = scratch.take_array<double>(n * n);
        gram(rows, nullptr, 1, shift, k, scratch);
        invert_factor(k, w, n, 1, shift, scratch);
        y = inverse_times(w, r, n, 1, 1, -1, scratch);
    } else {
        auto* const found = scratch.take_array<double>(n);
        gram(rows, nullptr, 1, 0, k, scratch);
        solve_by_inverse(*hessian, root, k, r, shift, found, scratch);
        y = found;
    }
    combine(window_rows(rows), y, nullptr, nullptr, {out.data, out.type, out.rows, out.row_stride}, place);
}

}  // namespace raphson::cuda
