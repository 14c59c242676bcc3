// Large entries of a plan on the device, sums over them and systems made of them, against loops over all entries.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_pattern.h"
#include "ot_problem.h"

using namespace support;
using raphson::CgOutcome;
using raphson::cuda::DeviceBalance;
using raphson::cuda::DevicePattern;
using raphson::cuda::DeviceSchur;

namespace {

constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

// A plan with holes, empty rows and columns, and entries of all sizes.
struct Plan {
    Problem p;
    std::vector<double> u, psi;
    std::vector<double> entries;  // n×m
    double at(int64_t i, int64_t j) const { return entries[static_cast<std::size_t>(i * p.m + j)]; }

    template <class T>
    static Plan random(int64_t n, int64_t m, double reg, std::uint64_t seed) {
        Plan plan;
        plan.p = random_problem<T>(n, m, reg, seed);
        Random random{seed + 1};
        Problem& p = plan.p;
        for (std::size_t k = 0; k < p.cost.size(); k += 5) p.cost[k] = infinity;
        if (n > 2) p.a[n / 2] = 0;
        if (m > 2) p.b[m / 3] = 0;
        for (int64_t i = 0; i < n; ++i) plan.u.push_back(1.2 / reg + random.normal());
        plan.psi = logs(p.b);
        for (double& x : plan.psi) x += random.normal();
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j < m; ++j) plan.entries.push_back(p.a[i] * std::exp(plan.u[i] + plan.psi[j] - p.at(i, j) / reg));
        }
        return plan;
    }
};

struct There {
    DeviceCost cost;
    DeviceBalance balance{};
    double *u, *psi;
    template <class T>
    static There put(const Plan& plan, Scratch& scratch) {
        There there;
        there.cost = upload_cost<T>(scratch, plan.p, 3);
        there.balance.inverse_reg = 1 / plan.p.reg;
        there.balance.a = upload(scratch, plan.p.a);
        there.u = upload(scratch, plan.u);
        there.psi = upload(scratch, plan.psi);
        return there;
    }
};

double median(std::vector<double> x) {
    std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
    return x[x.size() / 2];
}

template <class T>
void check_pattern(int64_t n, int64_t m, double reg) {
    CAPTURE(n);
    CAPTURE(m);
    const Plan plan = Plan::random<T>(n, m, reg, static_cast<std::uint64_t>(7 * n + m));
    Scratch scratch(here);
    const There there = There::put<T>(plan, scratch);
    for (const double threshold : {0.0, median(plan.entries), *std::max_element(plan.entries.begin(), plan.entries.end()) * 2}) {
        CAPTURE(threshold);
        const auto collect = [&](int64_t capacity) {
            return raphson::cuda::collect(there.cost, there.balance, there.u, there.psi, threshold, capacity, true, scratch);
        };
        const DevicePattern pattern = collect(no_limit);
        const auto begin = download(pattern.row_begin, n + 1), column_begin = download(pattern.column_begin, m + 1);
        const auto column = download(pattern.column, pattern.count), row = download(pattern.row, pattern.count);
        const auto by_rows = download(pattern.by_rows, pattern.count), by_columns = download(pattern.by_columns, pattern.count);
        CHECK(begin[0] == 0);
        CHECK(begin[n] == pattern.count);
        CHECK(column_begin[0] == 0);
        CHECK(column_begin[m] == pattern.count);
        int64_t expected = 0, k = 0;
        double worst = 0;
        bool right = true;
        for (int64_t i = 0; i < n; ++i) {
            right = right && begin[i] == k;
            for (int64_t j = 0; j < m; ++j) {
                const double e = plan.at(i, j);
                const bool sure = std::fabs(e - threshold) > 1e-10 * e;  // else rounding decides
                const bool there_is = k < begin[i + 1] && column[k] == j;
                if (sure) right = right && there_is == (e > 0 && e >= threshold);
                expected += e > 0 && e >= threshold ? 1 : 0;
                if (there_is) worst = std::max(worst, std::fabs(by_rows[k++] - e) / e);
            }
        }
        CHECK(right);
        CHECK(k == pattern.count);
        CHECK(std::abs(expected - pattern.count) <= 1);
        CHECK(worst <= 1e-10);
        // by columns: the same numbers, rows ascending
        std::vector<std::vector<std::pair<int, double>>> of_columns(static_cast<std::size_t>(m));
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t q = begin[i]; q < begin[i + 1]; ++q) of_columns[column[q]].push_back({static_cast<int>(i), by_rows[q]});
        }
        for (int64_t j = 0; j < m; ++j) {
            const auto& one = of_columns[static_cast<std::size_t>(j)];
            right = right && column_begin[j + 1] - column_begin[j] == static_cast<int64_t>(one.size());
            for (std::size_t q = 0; right && q < one.size(); ++q) {
                right = row[column_begin[j] + static_cast<int64_t>(q)] == one[q].first &&
                        by_columns[column_begin[j] + static_cast<int64_t>(q)] == one[q].second;
            }
        }
        CHECK(right);
        // sums
        Random random{5};
        std::vector<double> x, z;
        for (int64_t j = 0; j < m; ++j) x.push_back(random.normal());
        for (int64_t i = 0; i < n; ++i) z.push_back(random.normal());
        const double *dx = upload(scratch, x), *dz = upload(scratch, z);
        auto *t = poisoned<double>(scratch, n), *sums = poisoned<double>(scratch, n), *y = poisoned<double>(scratch, m),
             *ones = poisoned<double>(scratch, m), *squares = poisoned<double>(scratch, m);
        raphson::cuda::pattern_rows(pattern, dx, dz, t, here);
        raphson::cuda::pattern_rows(pattern, nullptr, nullptr, sums, here);
        raphson::cuda::pattern_columns(pattern, dz, y, here);
        raphson::cuda::pattern_columns(pattern, nullptr, ones, here);
        raphson::cuda::pattern_squares(pattern, dz, squares, here);
        std::vector<double> tt(static_cast<std::size_t>(n)), ss(tt), yy(static_cast<std::size_t>(m)), oo(yy), qq(yy);
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t q = begin[i]; q < begin[i + 1]; ++q) {
                const double v = by_rows[q];
                tt[i] += z[i] * v * x[column[q]];
                ss[i] += v;
                yy[column[q]] += v * z[i];
                oo[column[q]] += v;
                qq[column[q]] += v * v * z[i];
            }
        }
        const double size = 1 + *std::max_element(plan.entries.begin(), plan.entries.end());
        const auto near = [&](const double* found, const std::vector<double>& truth) {
            const auto got = download(found, static_cast<int64_t>(truth.size()));
            double off = 0;
            for (std::size_t q = 0; q < truth.size(); ++q) off = std::max(off, std::fabs(got[q] - truth[q]));
            return off <= 1e-13 * size * size * static_cast<double>(n + m);
        };
        CHECK(near(t, tt));
        CHECK(near(sums, ss));
        CHECK(near(y, yy));
        CHECK(near(ones, oo));
        CHECK(near(squares, qq));
        // the k-th largest, to the bit
        auto sorted = by_rows;
        std::sort(sorted.begin(), sorted.end(), std::greater<double>());
        for (const int64_t which : {int64_t{1}, pattern.count / 3, pattern.count}) {
            if (which < 1 || which > pattern.count) continue;
            CHECK(raphson::cuda::kth_largest(pattern, which, scratch) == sorted[static_cast<std::size_t>(which - 1)]);
        }
        if (pattern.count > 0) {
            CHECK(collect(pattern.count - 1).count == -1);
            CHECK(collect(pattern.count).count == pattern.count);
        }
    }
    // masses by size
    auto* masses = poisoned<unsigned long long>(scratch, raphson::cuda::mass_bins);
    raphson::cuda::masses_by_size(there.cost, there.balance, there.u, there.psi, masses, here);
    const auto found = download(masses, raphson::cuda::mass_bins);
    std::vector<double> truth(raphson::cuda::mass_bins);
    for (const double e : plan.entries) {
        if (e >= 0x1p-1000) truth[static_cast<std::size_t>(std::ilogb(e) + 1023)] += e;
    }
    for (int bin = 30; bin < raphson::cuda::mass_bins; ++bin) {
        const double here_is = std::ldexp(static_cast<double>(found[bin]), bin - 1023 - raphson::cuda::mass_bits);
        CHECK(here_is >= truth[bin] * (1 - 1e-10));
        CHECK(here_is <= truth[bin] * (1 + 0x1p-27));
    }
}

// x of S x = rhs by elimination in double the precision, the last unknown 0 where S is singular.
std::vector<double> eliminated(std::vector<std::vector<long double>> s, std::vector<long double> rhs, bool singular) {
    const std::size_t m = rhs.size() - (singular ? 1 : 0);
    for (std::size_t k = 0; k < m; ++k) {
        for (std::size_t i = k + 1; i < m; ++i) {
            const long double by = s[i][k] / s[k][k];
            for (std::size_t j = k; j < m; ++j) s[i][j] -= by * s[k][j];
            rhs[i] -= by * rhs[k];
        }
    }
    std::vector<double> x(rhs.size(), 0.0);
    for (std::size_t k = m; k-- > 0;) {
        long double sum = rhs[k];
        for (std::size_t j = k + 1; j < m; ++j) sum -= s[k][j] * static_cast<long double>(x[j]);
        x[k] = static_cast<double>(sum / s[k][k]);
    }
    return x;
}

}  // namespace

TEST_CASE_TEMPLATE("cuda ot: the plan's large entries", T, double, float) {
    check_pattern<T>(1, 1, 0.5);
    check_pattern<T>(1, 300, 0.1);
    check_pattern<T>(41, 1, 0.1);
    check_pattern<T>(19, 130, 0.05);
    check_pattern<T>(70, 33, 0.02);
    check_pattern<T>(2, 2500, 0.1);  // more than the scan has threads
    check_pattern<T>(1300, 3, 0.1);
}

TEST_CASE("cuda ot: conjugate gradients on the device") {
    for (const bool lumps : {false, true}) {
        for (const double shift : {0.0, 0.3}) {
            for (const int64_t m : {1, 7, 300}) {
                CAPTURE(lumps);
                CAPTURE(shift);
                CAPTURE(m);
                const int64_t n = m + 4;
                const bool singular = shift == 0;
                Random random{static_cast<std::uint64_t>(m)};
                const auto uniform = [&] { return std::fabs(random.uniform()); };
                const auto size = static_cast<std::size_t>(m);
                std::vector<double> t(static_cast<std::size_t>(n * m)), p(static_cast<std::size_t>(n)), q(size, 0.0);
                std::vector<double> d1(p.size()), d2(size);
                double lump = 0;
                for (int64_t i = 0; i < n; ++i) {
                    for (int64_t j = 0; j < m; ++j) {
                        const bool there = uniform() < 0.2 || j == i % m || i == j + 1;
                        t[i * m + j] = there ? uniform() + 0.1 : 0;
                    }
                    p[i] = lumps ? uniform() : 0;
                    lump += p[i];
                }
                double left = lump;
                for (int64_t j = 0; lumps && j < m; ++j) left -= q[j] = j + 1 == m ? left : left * uniform() / 3;
                // T with the lumps spelled out
                std::vector<long double> whole(t.begin(), t.end());
                for (int64_t i = 0; lumps && i < n; ++i) {
                    for (int64_t j = 0; j < m; ++j) whole[i * m + j] += static_cast<long double>(p[i]) * q[j] / lump;
                }
                std::vector<double> w(size, 0.0), jacobi(size);
                double pp = 0;
                std::vector<std::vector<long double>> s(size, std::vector<long double>(size, 0));
                for (int64_t i = 0; i < n; ++i) {
                    long double sum = 0;
                    for (int64_t j = 0; j < m; ++j) sum += whole[i * m + j];
                    d1[i] = static_cast<double>(sum);
                    pp += p[i] * p[i] / d1[i];
                    for (int64_t j = 0; j < m; ++j) {
                        d2[j] += static_cast<double>(whole[i * m + j]);
                        w[j] += p[i] / d1[i] * t[i * m + j];
                        for (int64_t k = 0; k < m; ++k) s[j][k] -= whole[i * m + j] * whole[i * m + k] / d1[i];
                    }
                }
                for (int64_t j = 0; j < m; ++j) {
                    d2[j] += shift;
                    s[j][j] += d2[j];
                    jacobi[j] = 1 / std::max(static_cast<double>(s[j][j]), 1e-14 * d2[j]);
                }
                std::vector<double> known, rhs;
                for (int64_t j = 0; j < m; ++j) known.push_back(random.normal());
                std::vector<long double> right(size, 0);
                for (int64_t j = 0; j < m; ++j) {
                    for (int64_t k = 0; k < m; ++k) right[j] += s[j][k] * known[k];
                    rhs.push_back(static_cast<double>(right[j]));
                }
                Scratch scratch(here);
                const DeviceSchur system{m, upload(scratch, d2), upload(scratch, jacobi), lumps ? upload(scratch, q) : nullptr,
                                         lumps ? upload(scratch, w) : nullptr, lumps ? lump : 0, pp};
                int products = 0;
                const auto normal = [&](const double* x, double* y) {
                    ++products;
                    const auto v = download(x, m);
                    std::vector<double> sum(size, 0.0);
                    for (int64_t i = 0; i < n; ++i) {
                        double there = 0;
                        for (int64_t j = 0; j < m; ++j) there += t[i * m + j] * v[j];
                        for (int64_t j = 0; j < m; ++j) sum[j] += t[i * m + j] * there / d1[i];
                    }
                    raphson::cuda::write(sum.data(), y, sum.size() * sizeof(double), here);
                };
                const auto run = [&](double target, int most, std::vector<double>& x) {
                    auto* found = poisoned<double>(scratch, m);
                    products = 0;
                    const CgOutcome outcome =
                        raphson::cuda::conjugate_gradients(system, normal, upload(scratch, rhs), found, target, most, scratch);
                    x = download(found, m);
                    return outcome;
                };
                double scale = 0;
                for (const double r : rhs) scale += std::fabs(r);
                const auto residual = [&](const std::vector<double>& x) {
                    double sum = 0;
                    for (int64_t j = 0; j < m; ++j) {
                        long double r = right[j];
                        for (int64_t k = 0; k < m; ++k) r -= s[j][k] * static_cast<long double>(x[k]);
                        sum += std::fabs(static_cast<double>(r));
                    }
                    return sum;
                };
                std::vector<double> x, rough, none;
                const double rounding = 1e-12 * (scale + 1);
                const CgOutcome fine = run(1e-12 * scale + 1e-15, 2000, x);
                CHECK(fine.iterations <= 600);
                CHECK(fine.residual <= 1e-12 * scale + 1e-15);
                CHECK(residual(x) <= 1e-11 * scale + rounding);
                auto truth = eliminated(s, right, singular);
                double worst = 0;
                for (int64_t j = 0; j < m; ++j) worst = std::max(worst, std::fabs((x[j] - (singular ? x[m - 1] : 0)) - truth[j]));
                CHECK(worst <= 1e-7);
                // where a target is reached the steps end, whatever the host has put on the stream by then
                const CgOutcome loose = run(0.03 * scale + 1e-15, 2000, rough);
                CHECK(loose.residual <= 0.03 * scale + 1e-15);
                CHECK(std::fabs(residual(rough) - loose.residual) <= rounding);
                if (m > 7) CHECK(loose.iterations < fine.iterations);
                if (m > 7) CHECK(loose.residual > 1e-5 * scale);
                const CgOutcome limited = run(0, 2, none);
                CHECK(limited.iterations <= 2);
                CHECK(products <= 2);
                CHECK(std::fabs(residual(none) - limited.residual) <= rounding);
                if (m > 7) {  // that many and one fewer are not the same
                    CHECK(run(0, loose.iterations, none).residual == loose.residual);
                    CHECK(run(0, loose.iterations - 1, none).residual > 0.03 * scale);
                }
            }
        }
    }
}
