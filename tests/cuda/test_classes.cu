// The multinomial family on the device: losses, gradients and products over classes against sums in long double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sketch_support.h"

using namespace support;
using raphson::ClassSweep;
using raphson::RowLine;
using raphson::cuda::ClassLimits;

namespace {

struct Classes {
    int64_t n, d, k;
    int border;
    std::vector<double> v, s, y, weight, offset;

    Classes(int64_t n_, int64_t d_, int64_t k_, int border_) : n(n_), d(d_), k(k_), border(border_) {
        v = normals<double>(k * p(), 41, 1 / std::sqrt(static_cast<double>(d + 1)));
        s = normals<double>(k * p(), 42);
        offset = normals<double>(n * k, 43, 2);
        weight = some_weights(n);
        for (double& w : weight) w = std::fabs(w);
        for (int64_t i = 0; i < n; ++i) y.push_back(static_cast<double>(i * 7 % k));
    }
    int64_t p() const { return d + border; }

    template <class T>
    std::vector<long double> dots(const Matrix<T>& a, const std::vector<double>& w, int64_t i) const {
        std::vector<long double> t(static_cast<std::size_t>(k));
        for (int64_t c = 0; c < k; ++c) {
            if (border != 0) t[c] = w[c * p() + d];
            for (int64_t j = 0; j < d; ++j) t[c] += static_cast<long double>(a.at(i, j)) * w[c * p() + j];
        }
        return t;
    }
};

std::vector<long double> probabilities(const std::vector<long double>& m, long double* log_sum = nullptr) {
    const long double top = *std::max_element(m.begin(), m.end());
    std::vector<long double> p;
    long double sum = 0;
    for (const long double x : m) {
        p.push_back(std::exp(x - top));
        sum += p.back();
    }
    for (long double& x : p) x /= sum;
    if (log_sum != nullptr) *log_sum = top + std::log(sum);
    return p;
}

bool near(const std::vector<double>& got, const std::vector<long double>& truth, double bound) {
    for (std::size_t i = 0; i < truth.size(); ++i) {
        if (!(std::fabs(got[i] - static_cast<double>(truth[i])) <= bound)) return false;
    }
    return true;
}

template <class T>
void check_classes(int64_t n, int64_t d, int64_t ld, int64_t k, int border, bool weighted, bool with_offset, const ClassLimits& limits) {
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(k);
    CAPTURE(border);
    CAPTURE(limits.panel_rows);
    const Classes c(n, d, k, border);
    const Matrix<T> a(n, d, ld, static_cast<std::uint64_t>(n + d));
    const int64_t p = c.p(), out_at = 2 * n * k + 2, all = out_at + k * p + 3;
    const double bound = 1e-13 * static_cast<double>(n + d + 10);
    std::vector<double> first, product;
    for (int run = 0; run < 2; ++run) {
        Scratch scratch(here);
        auto* const to = poisoned<double>(scratch, all);
        ClassSweep what;
        what.classes = static_cast<int>(k);
        what.border = border;
        what.v = upload(scratch, c.v);
        what.y = upload(scratch, c.y);
        what.weight = weighted ? upload(scratch, c.weight) : nullptr;
        what.offset = with_offset ? upload(scratch, c.offset) : nullptr;
        what.margin = to;
        what.probability = to + n * k + 1;
        what.out = to + out_at;
        what.totals = to + out_at + k * p + 1;
        raphson::cuda::class_sweep(a.on_device(scratch), what, scratch, limits);
        const auto got = download(to, all);
        for (const int64_t gap : {n * k, 2 * n * k + 1, out_at + k * p}) CHECK(std::isnan(got[gap]));
        if (run == 0) first = got;
        CHECK(same_bits(got, first));
        shake();
        what.y = nullptr;
        what.v = upload(scratch, c.s);
        what.offset = nullptr;
        what.out = poisoned<double>(scratch, k * p + 1);
        raphson::cuda::class_sweep(a.on_device(scratch), what, scratch, limits);
        product = download(what.out, k * p + 1);
        CHECK(std::isnan(product[k * p]));
        what.margin = poisoned<double>(scratch, n * k + 1);
        for (const bool means : {false, true}) {
            what.v = upload(scratch, c.v);
            what.offset = with_offset ? upload(scratch, c.offset) : nullptr;
            raphson::cuda::class_means(a.on_device(scratch), what, means, scratch, limits);
            const auto found = download(what.margin, n * k + 1);
            CHECK(std::isnan(found[n * k]));
            const double* const expected = first.data() + (means ? n * k + 1 : 0);
            for (int64_t i = 0; i < n * k; ++i) CHECK(std::fabs(found[i] - expected[i]) <= bound);
        }
    }
    std::vector<long double> margin, probability, gradient(static_cast<std::size_t>(k * p)), hessian(gradient.size());
    long double loss = 0, astray = 0;
    for (int64_t i = 0; i < n; ++i) {
        const auto linear = c.dots(a, c.v, i), t = c.dots(a, c.s, i);
        auto m = linear;
        for (int64_t b = 0; with_offset && b < k; ++b) m[b] += c.offset[i * k + b];
        long double log_sum = 0, mean = 0;
        const auto q = probabilities(m, &log_sum);
        const auto label = static_cast<int64_t>(c.y[i]);
        const long double w = weighted ? c.weight[i] : 1.0;
        bool right = true;
        for (int64_t b = 0; b < k; ++b) {
            mean += q[b] * t[b];
            right = right && (b == label || linear[b] < linear[label]);
        }
        loss += w * (log_sum - m[label]);
        if (w > 0 && !right) astray += 1;
        for (int64_t b = 0; b < k; ++b) {
            for (int64_t j = 0; j < p; ++j) {
                const long double x = j < d ? static_cast<long double>(a.at(i, j)) : 1.0L;
                gradient[b * p + j] += w * (q[b] - (b == label ? 1 : 0)) * x;
                hessian[b * p + j] += w * q[b] * (t[b] - mean) * x;
            }
        }
        margin.insert(margin.end(), m.begin(), m.end());
        probability.insert(probability.end(), q.begin(), q.end());
    }
    CHECK(near(first, margin, bound));
    CHECK(near({first.begin() + n * k + 1, first.end()}, probability, bound));
    CHECK(near({first.begin() + out_at, first.end()}, gradient, bound));
    CHECK(near({first.begin() + out_at + k * p + 1, first.end()}, {loss, astray}, bound * 10));
    CHECK(near(product, hessian, bound * 10));
}

}  // namespace

TEST_CASE_TEMPLATE("cuda classes: sweeps", T, double, float) {
    const ClassLimits usual, narrow{32, 32 * 5 * 3}, alone{1, 1};
    for (const int border : {0, 1}) {
        for (const ClassLimits& limits : {usual, narrow, alone}) {
            check_classes<T>(1, 1, 1, 2, border, false, false, limits);
            check_classes<T>(97, 5, 6, 3, border, true, true, limits);
            check_classes<T>(130, 4, 4, 4, border, false, true, limits);
        }
        check_classes<T>(300, 20, 20, 70, border, true, false, narrow);
        check_classes<T>(64, 0, 3, 3, border, true, true, usual);
        check_classes<T>(50, 3, 3, 1, border, true, true, usual);
    }
}

TEST_CASE("cuda classes: lines and weights") {
    for (const int64_t n : {int64_t{1}, int64_t{300}, int64_t{140000}}) {
        const int64_t k = 3;
        const Classes c(n, 1, k, 0);
        const auto from = normals<double>(n * k, 51, 3), to = normals<double>(n * k, 52, 3);
        for (const bool weighted : {false, true}) {
            Scratch scratch(here);
            RowLine line;
            line.y = upload(scratch, c.y);
            line.weight = weighted ? upload(scratch, c.weight) : nullptr;
            line.from = upload(scratch, from);
            line.to = upload(scratch, to);
            line.at = 0.6;
            auto* const totals = poisoned<double>(scratch, 3);
            raphson::cuda::class_line(line, n, k, totals, scratch);
            const auto got = download(totals, 3);
            CHECK(std::isnan(got[2]));
            long double loss = 0, slope = 0;
            std::vector<long double> all;  // probabilities
            for (int64_t i = 0; i < n; ++i) {
                std::vector<long double> m;
                for (int64_t b = 0; b < k; ++b) m.push_back(from[i * k + b] + line.at * (static_cast<long double>(to[i * k + b]) - from[i * k + b]));
                long double log_sum = 0;
                const auto q = probabilities(m, &log_sum);
                const auto label = static_cast<int64_t>(c.y[i]);
                const long double w = weighted ? c.weight[i] : 1.0;
                loss += w * (log_sum - m[label]);
                for (int64_t b = 0; b < k; ++b) slope += w * (q[b] - (b == label ? 1 : 0)) * (static_cast<long double>(to[i * k + b]) - from[i * k + b]);
                all.insert(all.end(), q.begin(), q.end());
            }
            CHECK(std::fabs(got[0] - static_cast<double>(loss)) <= 1e-14 * static_cast<double>(n + 10) * 10);
            CHECK(std::fabs(got[1] - static_cast<double>(slope)) <= 1e-14 * static_cast<double>(n + 10) * 10);

            std::vector<double> q;
            for (const long double x : all) q.push_back(static_cast<double>(x));
            auto* const root = poisoned<double>(scratch, n + 1);
            for (const auto& [left, right] : {std::pair<int, int>{-1, -1}, {0, 0}, {2, 1}}) {
                raphson::cuda::class_roots(line.weight, upload(scratch, q), n, k, left, right, root, here);
                const auto found = download(root, n + 1);
                CHECK(std::isnan(found[n]));
                double worst = 0;
                for (int64_t i = 0; i < n; ++i) {
                    long double curvature = 0;
                    for (int64_t b = 0; b < k; ++b) curvature += q[i * k + b] * (1 - static_cast<long double>(q[i * k + b])) / (k - 1);
                    if (left >= 0) curvature = left == right ? q[i * k + left] * (1 - static_cast<long double>(q[i * k + left])) : static_cast<long double>(q[i * k + left]) * q[i * k + right];
                    const long double w = weighted ? c.weight[i] : 1.0;
                    worst = std::fmax(worst, std::fabs(found[i] - static_cast<double>(std::sqrt(w * curvature))));
                }
                CHECK(worst <= 1e-14);
            }
        }
    }
}
