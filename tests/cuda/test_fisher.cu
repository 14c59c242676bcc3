// The kernels of FisherInverse against scalar loops in float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "device_support.h"
#include "ihvp/device_fisher.h"
#include "ihvp/device_fisher_passes.h"

using namespace support;
using raphson::CudaView;
using raphson::DType;
using namespace raphson::cuda;

namespace {

// A positive definite matrix for every entry of a batch, its condition about 1e4.
std::vector<double> matrices(int64_t m, int64_t batch, std::uint64_t seed) {
    std::vector<double> all(static_cast<std::size_t>(batch * m * m));
    for (int64_t b = 0; b < batch; ++b) {
        const std::vector<double> g = normals<double>(m * (m / 2 + 1), seed + static_cast<std::uint64_t>(b));
        const int64_t d = m / 2 + 1;
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < m; ++j) {
                double sum = i == j ? 1e-3 * static_cast<double>(m) : 0;
                for (int64_t k = 0; k < d; ++k) sum += g[static_cast<std::size_t>(i * d + k)] * g[static_cast<std::size_t>(j * d + k)];
                all[static_cast<std::size_t>((b * m + i) * m + j)] = sum;
            }
        }
    }
    return all;
}

std::vector<double> lower_factor(const double* a, int64_t m) {
    std::vector<double> l(static_cast<std::size_t>(m * m), 0.0);
    const auto at = [&](int64_t i, int64_t j) -> double& { return l[static_cast<std::size_t>(i * m + j)]; };
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
            double sum = a[i * m + j];
            for (int64_t k = 0; k < j; ++k) sum -= at(i, k) * at(j, k);
            at(i, j) = i == j ? std::sqrt(sum) : sum / at(j, j);
        }
    }
    return l;
}

template <class T>
void check_gram(int64_t m, int64_t dim, int64_t block, bool mask) {
    CAPTURE(m);
    CAPTURE(dim);
    CAPTURE(block);
    Scratch scratch(here);
    const int64_t stride = dim + 3, blocks = (dim + block - 1) / block;
    std::vector<T> g = normals<T>(m * stride, 5);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t k = dim; k < stride; ++k) g[static_cast<std::size_t>(i * stride + k)] = from_double<T>(NAN);
    }
    std::vector<std::uint8_t> kept(static_cast<std::size_t>(dim));
    for (std::size_t k = 0; k < kept.size(); ++k) kept[k] = k % 3 == 1 ? 0 : 1;
    const BlockedRows rows{upload(scratch, g), type_of<T>(), stride, m, blocks, block, block, dim - (blocks - 1) * block};
    double* const k = poisoned<double>(scratch, blocks * m * m);
    gram(rows, mask ? upload(scratch, kept) : nullptr, 2, 0.25, k, scratch);
    const std::vector<double> got = download(k, blocks * m * m);
    double worst = 0;
    for (int64_t b = 0; b < blocks; ++b) {
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j <= i; ++j) {
                double sum = i == j ? 0.25 : 0, size = 1;
                for (int64_t c = b * block; c < std::min(dim, (b + 1) * block); ++c) {
                    if (mask && kept[static_cast<std::size_t>(c)] == 0) continue;
                    const double product = to_double(g[static_cast<std::size_t>(i * stride + c)]) * to_double(g[static_cast<std::size_t>(j * stride + c)]);
                    sum += 2 * product;
                    size += std::fabs(product);
                }
                const double error = std::fabs(got[static_cast<std::size_t>((b * m + i) * m + j)] - sum) / size;
                worst = error <= worst ? worst : error;
            }
        }
    }
    CHECK(worst <= 1e-13);
}

}  // namespace

TEST_CASE("cuda fisher: inverse factors of every size, batched") {
    for (const int64_t m : {1, 2, 31, 32, 33, 64, 97, 140}) {
        CAPTURE(m);
        Scratch scratch(here);
        const int64_t batch = 3;
        const std::vector<double> a = matrices(m, batch, 7);
        std::vector<double> lower = a;  // what lies above the diagonal is not to be read
        for (int64_t at = 0; at < batch * m * m; ++at) {
            if (at % m > at / m % m) lower[static_cast<std::size_t>(at)] = NAN;
        }
        double* const w = poisoned<double>(scratch, batch * m * m);
        invert_factor(upload(scratch, lower), w, m, batch, 1e-9, scratch);
        const std::vector<double> got = download(w, batch * m * m);
        for (int64_t b = 0; b < batch; ++b) {
            const std::vector<double> l = lower_factor(a.data() + b * m * m, m);
            double worst = 0, above = 0;
            for (int64_t i = 0; i < m; ++i) {
                for (int64_t j = 0; j < m; ++j) {
                    double sum = i == j ? -1 : 0;
                    for (int64_t k = 0; k < m; ++k) sum += got[static_cast<std::size_t>((b * m + i) * m + k)] * l[static_cast<std::size_t>(k * m + j)];
                    worst = std::fabs(sum) <= worst ? worst : std::fabs(sum);
                    if (j > i) above += std::fabs(got[static_cast<std::size_t>((b * m + i) * m + j)]);
                }
            }
            CHECK(worst <= 1e-10);
            CHECK(above == 0);
        }
    }
}

TEST_CASE("cuda fisher: pivots are raised to the least there may be, NaN stays") {
    Scratch scratch(here);
    const std::vector<double> singular = {4, 0, 0, 4, 4, 0, 4, 4, 4};  // ones of rank one, lower triangle
    double* const w = poisoned<double>(scratch, 9);
    invert_factor(upload(scratch, singular), w, 3, 1, 0.25, scratch);
    const std::vector<double> got = download(w, 9);
    CHECK(got[0] == doctest::Approx(0.5));
    CHECK(got[4] == doctest::Approx(2));
    CHECK(got[8] == doctest::Approx(2));
    std::vector<double> bad = singular;
    bad[4] = NAN;
    invert_factor(upload(scratch, bad), w, 3, 1, 0.25, scratch);
    CHECK(std::isnan(download(w, 9)[8]));
}

TEST_CASE("cuda fisher: Gram matrices of every type, in parts, in blocks, of some columns") {
    check_gram<float>(5, 40, 40, false);
    check_gram<float>(70, 130, 50, true);
    check_gram<double>(33, 4500, 4500, false);  // two parts, the second short
    check_gram<raphson::bfloat16>(20, 4200, 2100, true);
    check_gram<float16>(130, 70, 70, false);  // tiles of 128
    check_gram<float>(1, 1, 1, false);
}

TEST_CASE("cuda fisher: what is not finite on a Gram matrix's diagonal is NaN") {
    for (const double bad_entry : {static_cast<double>(NAN), static_cast<double>(INFINITY), 1e200}) {
        Scratch scratch(here);
        std::vector<double> g = normals<double>(6 * 40, 3);
        g[100] = bad_entry;
        double* const k = scratch.take_array<double>(36);
        gram({upload(scratch, g), DType::float64, 40, 6, 1, 40, 40, 40}, nullptr, 1, 1, k, scratch);
        const std::vector<double> got = download(k, 36);
        for (std::size_t i = 0; i < 6; ++i) CHECK(std::isnan(got[7 * i]) == (i == 2));
    }
}

TEST_CASE("cuda fisher: the lowest scores, the first of equals, NaN last") {
    for (const int64_t groups : {1, 300, 5000}) {
        Scratch scratch(here);
        std::vector<double> scores = normals<double>(groups, 21);
        for (std::size_t i = 0; i < scores.size(); ++i) {
            if (i % 4 == 1) scores[i] = 0.5;
            if (i % 11 == 2) scores[i] = i % 2 == 0 ? 0.0 : -0.0;
            if (i % 97 == 5) scores[i] = NAN;
            if (i % 31 == 7) scores[i] *= 1e-300;
        }
        std::vector<int64_t> order(scores.size());
        std::iota(order.begin(), order.end(), int64_t{0});
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
            const double x = scores[static_cast<std::size_t>(a)], y = scores[static_cast<std::size_t>(b)];
            return x != x ? false : y != y || x < y;
        });
        for (const int64_t removed : {int64_t{0}, int64_t{1}, groups / 3, groups / 2 + 1, groups}) {
            CAPTURE(removed);
            auto* const kept = poisoned<std::uint8_t>(scratch, 2 * groups);
            keep_all_but(upload(scratch, scores), groups, removed, 2, kept, scratch);
            std::vector<std::uint8_t> expected(static_cast<std::size_t>(2 * groups), 1);
            for (int64_t i = 0; i < removed; ++i) {
                for (int64_t e = 0; e < 2; ++e) expected[static_cast<std::size_t>(2 * order[static_cast<std::size_t>(i)] + e)] = 0;
            }
            CHECK(download(kept, 2 * groups) == expected);
        }
    }
}

TEST_CASE("cuda fisher: equal calls give equal bits") {
    Scratch scratch(here);
    const int64_t m = 40, dim = 5000;
    const std::vector<float> g = normals<float>(m * dim, 1);
    const std::vector<double> x = normals<double>(3 * dim, 2);
    auto* const there = upload(scratch, g);
    auto* const right = upload(scratch, x);
    std::vector<double> first;
    for (int time = 0; time < 3; ++time) {
        const std::unique_ptr<raphson::CudaFisher> f(
            raphson::cuda_table().make_fisher({there, DType::float32, m, dim, dim, 1}, 0.01, 0, here));
        double* const out = poisoned<double>(scratch, 4 * dim);
        f->solve({right, DType::float64, 3, dim, dim, 1}, {out, DType::float64, 3, dim, dim, 1}, here);
        f->diagonal(out + 3 * dim, here);
        const std::vector<double> got = download(out, 4 * dim);
        if (time == 0) first = got;
        CHECK(same_bits(got, first));
    }
}
