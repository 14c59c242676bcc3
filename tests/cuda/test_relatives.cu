// The kernels of FisherInverse's relatives against scalar loops in float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/table.h"
#include "device_support.h"
#include "ihvp/device_fisher.h"

using namespace support;
using raphson::CudaView;
using raphson::DType;

namespace {

const raphson::CudaRelativesTable& table() { return *raphson::cuda_table().relatives; }

// M near 2I, not symmetric, rows `n + 3` apart with NaN between them.
template <class T>
void check_rank_one(int64_t n, double unit) {
    CAPTURE(n);
    Scratch scratch(here);
    const int64_t stride = n + 3;
    const std::vector<double> noise = normals<double>(n * n, 3);
    const std::vector<float> v = normals<float>(2 * n, 4);  // every other one
    std::vector<T> m(static_cast<std::size_t>(n * stride), from_double<T>(NAN));
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            const double entry = (i == j ? 2 : 0) + 0.1 / static_cast<double>(n) * noise[static_cast<std::size_t>(i * n + j)];
            m[static_cast<std::size_t>(i * stride + j)] = from_double<T>(entry);
        }
    }
    constexpr double alpha = 0.75, beta = 0.25, weight = 0.5;
    std::vector<double> p(static_cast<std::size_t>(n)), q(p.size());
    double gain = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
        for (std::size_t j = 0; j < p.size(); ++j) {
            p[i] += alpha * to_double(m[i * static_cast<std::size_t>(stride) + j]) * static_cast<double>(v[2 * j]);
            q[i] += alpha * to_double(m[j * static_cast<std::size_t>(stride) + i]) * static_cast<double>(v[2 * j]);
        }
        p[i] += beta * static_cast<double>(v[2 * i]);
        q[i] += beta * static_cast<double>(v[2 * i]);
        gain += p[i] * static_cast<double>(v[2 * i]);
    }
    const CudaView from{upload(scratch, m), type_of<T>(), n, n, stride, 1}, vector{upload(scratch, v), DType::float32, n, 1, 2, 0};
    T* const out = poisoned<T>(scratch, n * n);
    const double divisor = table().rank_one_inverse(from, vector, alpha, beta, weight, out, here);
    CHECK(divisor == doctest::Approx(1 + weight * gain).epsilon(1e-12));
    const std::vector<T> got = download(out, n * n);
    double worst = 0;
    for (int64_t at = 0; at < n * n; ++at) {
        const auto i = static_cast<std::size_t>(at / n), j = static_cast<std::size_t>(at % n);
        const double value = alpha * to_double(m[i * static_cast<std::size_t>(stride) + j]) + (i == j ? beta : 0) - weight / divisor * p[i] * q[j];
        const double error = std::fabs(to_double(got[static_cast<std::size_t>(at)]) - value) / (std::fabs(value) + 1e-3);
        worst = error <= worst ? worst : error;
    }
    CHECK(worst <= unit);
    for (int time = 0; time < 2; ++time) {  // the emulation runs blocks in another order each time
        (void)table().rank_one_inverse(from, vector, alpha, beta, weight, out, here);
        CHECK(same_bits(download(out, n * n), got));
    }
}

}  // namespace

TEST_CASE("cuda relatives: a rank-one update of every type, of rows longer than a block of threads writes") {
    check_rank_one<double>(1, 1e-13);
    check_rank_one<double>(33, 1e-12);
    check_rank_one<float>(257, 0x1p-23);
    check_rank_one<raphson::bfloat16>(70, 0x1p-7);
    check_rank_one<float16>(70, 0x1p-10);
    check_rank_one<float>(1030, 0x1p-23);
}

TEST_CASE("cuda relatives: what is not positive along v is left alone") {
    Scratch scratch(here);
    const std::vector<double> m = {-1, 0, 0, -1}, v = {3, 4};
    double* const there = upload(scratch, m);
    const CudaView view{there, DType::float64, 2, 2, 2, 1};
    CHECK(table().rank_one_inverse(view, {upload(scratch, v), DType::float64, 2, 1, 1, 0}, 1, 0, 1, there, here) == -24);
    CHECK(same_bits(download(there, 4), m));
}

TEST_CASE("cuda relatives: a Gauss–Newton step leaves the residual of its equations at rounding") {
    for (const bool given : {false, true}) {
        CAPTURE(given);
        Scratch scratch(here);
        constexpr int64_t b = 45, c = 3, d = 61, step = c * d + 5;  // samples apart: rows are copied
        constexpr double damping = 0.2;
        std::vector<double> j = normals<double>(b * step, 1);
        const std::vector<float> r = normals<float>(b * c, 2), s = normals<float>(b * c * c, 3);
        for (int64_t i = 0; i < b; ++i) {
            for (int64_t k = c * d; k < step; ++k) j[static_cast<std::size_t>(i * step + k)] = NAN;
        }
        const raphson::CudaStack jac{{upload(scratch, j), DType::float64, c, d, d, 1}, b, step};
        const raphson::CudaStack root{{upload(scratch, s), DType::float32, c, c, c, 1}, b, c * c};
        double* const out = poisoned<double>(scratch, d);
        table().gauss_newton(jac, {upload(scratch, r), DType::float32, b, c, c, 1}, given ? &root : nullptr, true, damping,
                             {out, DType::float64, d, 1, 1, 1}, here);
        const std::vector<double> x = download(out, d);
        // (JᵀQJ + bλI)x + Jᵀr, which is 0.
        std::vector<double> left(x);
        for (double& entry : left) entry *= static_cast<double>(b) * damping;
        double size = 0;
        for (int64_t i = 0; i < b; ++i) {
            const auto row = [&](int64_t p) { return j.data() + i * step + p * d; };
            double jx[c] = {}, half[c] = {}, full[c] = {};
            for (int64_t p = 0; p < c; ++p) {
                for (int64_t k = 0; k < d; ++k) jx[p] += row(p)[k] * x[static_cast<std::size_t>(k)];
            }
            const auto entry = [&](int64_t p, int64_t k) { return given ? static_cast<double>(s[static_cast<std::size_t>((i * c + p) * c + k)]) : p == k; };
            for (int64_t k = 0; k < c; ++k) {
                for (int64_t p = 0; p < c; ++p) half[k] += entry(p, k) * jx[p];
            }
            for (int64_t p = 0; p < c; ++p) {
                for (int64_t k = 0; k < c; ++k) full[p] += entry(p, k) * half[k];
                full[p] += static_cast<double>(r[static_cast<std::size_t>(i * c + p)]);
                for (int64_t k = 0; k < d; ++k) {
                    left[static_cast<std::size_t>(k)] += row(p)[k] * full[p];
                    size = std::max(size, std::fabs(row(p)[k] * full[p]));
                }
            }
        }
        double worst = 0;
        for (const double entry : left) worst = std::fabs(entry) <= worst ? worst : std::fabs(entry);
        CHECK(worst <= 1e-11 * size);
    }
}
