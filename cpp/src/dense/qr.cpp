#include <algorithm>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;

void transpose(const double* a, int64_t lda, int64_t rows, int64_t cols, double* out, int64_t ldo) {
    constexpr int64_t tile = 16;
    const auto columns = [&](int64_t from, int64_t to) {
        for (int64_t i0 = 0; i0 < rows; i0 += tile) {
            for (int64_t j0 = from; j0 < to; j0 += tile) {
                for (int64_t j = j0; j < std::min(j0 + tile, to); ++j) {
                    for (int64_t i = i0; i < std::min(i0 + tile, rows); ++i) out[j * ldo + i] = a[i * lda + j];
                }
            }
        }
    };
    constexpr int64_t worth_sharing = 1 << 16, strip = 128;
    if (rows * cols < worth_sharing) return columns(0, cols);
    parallel_for((cols + strip - 1) / strip, [&](int64_t i) { columns(i * strip, std::min(cols, (i + 1) * strip)); });
}

void reflector_triangle(const double* tau, const double* s, int64_t width, double* t, int64_t ldt) {
    for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < j; ++i) {
            double sum = 0;
            for (int64_t k = i; k < j; ++k) sum += t[i * ldt + k] * s[k * width + j];
            t[i * ldt + j] = -tau[j] * sum;
        }
        t[j * ldt + j] = tau[j];
        for (int64_t i = j + 1; i < width; ++i) t[i * ldt + j] = 0;
    }
}

namespace {

// w (rows×width) ← w T.
void times_triangle(double* w, int64_t rows, int64_t width, const double* t, int64_t ldt) {
    for (int64_t i = 0; i < rows; ++i) {
        double* const row = w + i * width;
        for (int64_t j = width - 1; j >= 0; --j) {
            double sum = 0;
            for (int64_t k = 0; k <= j; ++k) sum += row[k] * t[k * ldt + j];
            row[j] = sum;
        }
    }
}

}  // namespace

HouseholderQr::HouseholderQr(double* a, int64_t lda, int64_t rows, int64_t n)
    : a_(a), lda_(lda), rows_(rows), n_(n), count_(std::min(rows, n)) {
    t_.assign(static_cast<std::size_t>((count_ + block - 1) / block * block * block), 0.0);
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const v = scratch.take_array<double>(rows * block);
    double* const vt = scratch.take_array<double>(rows * block);
    double* const w = scratch.take_array<double>(block * n);
    double* const tw = scratch.take_array<double>(block * n);
    for (int64_t k = 0; k < count_; k += block) {
        const int64_t width = std::min(block, count_ - k), next = k + width, rest = n - next, h = rows - k;
        double* const t = t_.data() + k * block;
        factor_panel(k, width, v, vt, t);
        if (poll_cancelled()) return;
        if (rest == 0) continue;
        double* const c = a + k * lda + next;
        double tt[block * block];
        for (int64_t i = 0; i < width; ++i) {
            for (int64_t j = 0; j < width; ++j) tt[i * width + j] = t[j * block + i];
        }
        gemm.product(width, rest, h, 1.0, vt, h, c, lda, 0.0, nullptr, 0, w, rest);
        gemm.product(width, rest, width, 1.0, tt, width, w, rest, 0.0, nullptr, 0, tw, rest);
        gemm.product(h, rest, width, -1.0, v, width, tw, rest, 1.0, c, lda, c, lda);
    }
}

// The panel by columns that lie contiguously in vt, in strips of `inner` whose reflectors reach the others as one; then
// back into a, and explicitly into v (h×width) and vt (width×h).
void HouseholderQr::factor_panel(int64_t k, int64_t width, double* v, double* vt, double* t) {
    const KernelTable& table = kernels();
    const GemmFunctions<double, double>& gemm = table.gemm.f64;
    const int64_t h = rows_ - k;
    double* const panel = a_ + k * lda_ + k;
    transpose(panel, lda_, h, width, vt, h);
    double tau[block], s[block * block], w[block * inner], small_t[inner * inner];
    for (int64_t j = 0; j < width; j += inner) {
        const int64_t strip = std::min(inner, width - j), others = width - j - strip, tall = h - j;
        double* const here = vt + j * h + j;
        table.dense.reflect(here, h, strip, tall, tau + j);
        if (others == 0) break;
        double* const flat = v + rows_ * inner;  // Vᵀ of the strip, beside V: the rows of vt hold R as well
        for (int64_t q = 0; q < strip; ++q) {
            for (int64_t i = 0; i < tall; ++i) flat[q * tall + i] = i < q ? 0.0 : i == q ? 1.0 : here[q * h + i];
        }
        transpose(flat, tall, strip, tall, v, strip);
        gemm.product(strip, strip, tall, 1.0, flat, tall, v, strip, 0.0, nullptr, 0, s, strip);
        reflector_triangle(tau + j, s, strip, small_t, strip);
        double* const remaining = here + strip * h;  // others × tall
        gemm.product(others, strip, tall, 1.0, remaining, h, v, strip, 0.0, nullptr, 0, w, strip);
        times_triangle(w, others, strip, small_t, strip);
        gemm.product(others, tall, strip, -1.0, w, strip, flat, tall, 1.0, remaining, h, remaining, h);
    }
    transpose(vt, h, width, h, panel, lda_);
    reflectors(k, width, v, vt);
    gemm.product(width, width, h, 1.0, vt, h, v, width, 0.0, nullptr, 0, s, width);
    reflector_triangle(tau, s, width, t, block);
}

void HouseholderQr::reflectors(int64_t k, int64_t width, double* v, double* vt) const {
    const int64_t h = rows_ - k;
    for (int64_t i = 0; i < h; ++i) {
        const double* const row = a_ + (k + i) * lda_ + k;
        for (int64_t q = 0; q < width; ++q) v[i * width + q] = i < q ? 0.0 : i == q ? 1.0 : row[q];
    }
    transpose(v, width, h, width, vt, h);
}

void HouseholderQr::upper(double* r, int64_t ldr) const {
    for (int64_t i = 0; i < n_; ++i) {
        for (int64_t j = 0; j < n_; ++j) r[i * ldr + j] = i <= j && i < count_ ? a_[i * lda_ + j] : 0.0;
    }
}

void HouseholderQr::apply(bool transposed, double* c, int64_t ldc, int64_t cols) const {
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const v = scratch.take_array<double>(rows_ * block);
    double* const vt = scratch.take_array<double>(rows_ * block);
    double* const w = scratch.take_array<double>(block * cols);
    double* const tw = scratch.take_array<double>(block * cols);
    const int64_t panels = (count_ + block - 1) / block;
    for (int64_t step = 0; step < panels; ++step) {
        const int64_t k = (transposed ? step : panels - 1 - step) * block;
        const int64_t width = std::min(block, count_ - k), h = rows_ - k;
        if (poll_cancelled()) return;
        reflectors(k, width, v, vt);
        double t[block * block];
        for (int64_t i = 0; i < width; ++i) {
            for (int64_t j = 0; j < width; ++j) {
                t[i * width + j] = t_[static_cast<std::size_t>((transposed ? k + j : k + i) * block + (transposed ? i : j))];
            }
        }
        double* const to = c + k * ldc;
        gemm.product(width, cols, h, 1.0, vt, h, to, ldc, 0.0, nullptr, 0, w, cols);
        gemm.product(width, cols, width, 1.0, t, width, w, cols, 0.0, nullptr, 0, tw, cols);
        gemm.product(h, cols, width, -1.0, v, width, tw, cols, 1.0, to, ldc, to, ldc);
    }
}

}  // namespace raphson
