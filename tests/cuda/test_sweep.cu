// Sweeps on the device, u = f(A v) and Aᵀ u: margins, losses, gradients and products against sums in long double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sketch_support.h"

using namespace support;
using raphson::DType;
using raphson::RowLoss;
using raphson::RowSweep;

namespace {

struct Row {
    long double loss, residual, second;
    long double loss_size, residual_size;  // what roundings are relative to
};

Row row_of(RowLoss loss, long double m, long double y) {
    if (loss == RowLoss::none) return {0, m, 1, 0, std::fabs(m)};
    if (loss == RowLoss::gaussian) return {(m - y) * (m - y) / 2, m - y, 1, (m - y) * (m - y), std::fabs(m - y)};
    if (loss == RowLoss::poisson) {
        const long double mean = std::exp(m);
        return {mean - y * m, mean - y, mean, mean + std::fabs(y * m), mean + y};
    }
    const long double p = 1 / (1 + std::exp(-m)), q = 1 / (1 + std::exp(m));
    const long double value = (1 - y) * std::log1p(std::exp(-std::fabs(m))) + (1 - y) * std::fmax(m, 0.0L) +
                              y * std::log1p(std::exp(-std::fabs(m))) + y * std::fmax(-m, 0.0L);
    return {value, (1 - y) * p - y * q, p * q, value, (1 - y) * p + y * q};
}

struct SweepCase {
    RowLoss loss;
    int border = 0;
    bool weighted = false, offset = false, curvature = false;
};

// Roundings of one row: those of its functions (each within 2u) and products.
constexpr double row_roundings = 12 * unit;

template <class T>
void check_sweep(const Matrix<T>& a, const SweepCase& what, const std::vector<double>& v, const std::vector<double>& y) {
    const int64_t n = a.n, d = a.d, outs = d + what.border;
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(static_cast<int>(what.loss));
    const auto weight = [&] {
        auto w = some_weights(n);
        for (double& x : w) x = std::fabs(x);
        return w;
    }();
    const auto offset = normals<double>(n, 5), curvature = normals<double>(n, 6);  // of any sign
    // out, totals, margin and second with a number between that nobody writes
    const int64_t totals_at = outs + 1, margin_at = totals_at + 3, second_at = margin_at + n + 1, all = second_at + n + 1;
    std::vector<double> got;
    for (int run = 0; run < 2; ++run) {
        Scratch scratch(here);
        auto* to = poisoned<double>(scratch, all);
        RowSweep sweep;
        sweep.loss = what.loss;
        sweep.v = upload(scratch, v);
        sweep.border = what.border;
        sweep.y = what.loss != RowLoss::none ? upload(scratch, y) : nullptr;
        sweep.weight = what.weighted ? upload(scratch, weight) : nullptr;
        sweep.offset = what.offset ? upload(scratch, offset) : nullptr;
        sweep.curvature = what.curvature ? upload(scratch, curvature) : nullptr;
        sweep.out = to;
        sweep.totals = what.loss != RowLoss::none ? to + totals_at : nullptr;
        sweep.margin = to + margin_at;
        sweep.second = what.loss != RowLoss::none ? to + second_at : nullptr;
        raphson::cuda::row_sweep(a.on_device(scratch), sweep, scratch);
        const auto now = download(to, all);
        if (run == 0) got = now;
        CHECK(same_bits(now, got));
        shake();
    }
    for (const int64_t gap : {totals_at - 1, margin_at - 1, second_at - 1, all - 1}) CHECK(std::isnan(got[gap]));

    std::vector<long double> sum(static_cast<std::size_t>(outs)), size(sum.size()), carried(sum.size());
    long double loss = 0, loss_size = 0, loss_error = 0;
    double astray = 0;
    Worst margins, seconds, gradient, losses;
    for (int64_t i = 0; i < n; ++i) {
        long double t = what.border != 0 ? v[d] : 0.0, magnitude = std::fabs(t);
        for (int64_t j = 0; j < d; ++j) {
            t += static_cast<long double>(a.at(i, j)) * v[j];
            magnitude += std::fabs(static_cast<long double>(a.at(i, j)) * v[j]);
        }
        const long double m = what.offset ? t + offset[i] : t, error = roundings(d + 1) * magnitude + unit * std::fabs(m);
        const Row row = row_of(what.loss, m, y[i]);
        const double w = what.weighted ? weight[i] : 1.0, factor = what.curvature ? w * curvature[i] : w;
        margins.account(got[margin_at + i], m, error);
        if (what.loss != RowLoss::none) {
            const long double changes = what.loss == RowLoss::gaussian ? 0 : row.second;  // by the margin: no faster
            seconds.account(got[second_at + i], row.second, 2 * changes * error + row_roundings * row.second);
            if (w > 0) astray += what.loss == RowLoss::logistic && ((y[i] == 1 && t > 0) || (y[i] == 0 && t < 0)) ? 0 : 1;
        }
        const long double u = factor * row.residual;
        const long double u_error = std::fabs(factor) * (2 * row.second * error + row_roundings * row.residual_size);
        for (int64_t j = 0; j < outs; ++j) {
            const long double x = j < d ? a.at(i, j) : 1.0;
            sum[j] += u * x;
            size[j] += std::fabs(u * x);
            carried[j] += u_error * std::fabs(x);
        }
        loss += w * row.loss;
        loss_size += w * std::fabs(row.loss);
        loss_error += w * ((2 * std::fabs(row.residual) + row.second * error) * error + row_roundings * row.loss_size);
    }
    for (int64_t j = 0; j < outs; ++j) gradient.account(got[j], sum[j], carried[j] + roundings(n + 1) * size[j]);
    CHECK(margins.ratio == 0);
    CHECK(seconds.ratio == 0);
    CHECK(gradient.ratio == 0);
    if (what.loss == RowLoss::none) {
        CHECK(std::isnan(got[totals_at]));
    } else {
        losses.account(got[totals_at], loss, loss_error + roundings(n + 1) * loss_size);
        CHECK(losses.ratio == 0);
        CHECK(got[totals_at + 1] == astray);
    }
}

template <class T>
void check_sweep(int64_t n, int64_t d, int64_t ld, const SweepCase& what) {
    auto v = normals<double>(d + 1, 8, 1 / std::sqrt(static_cast<double>(d)));
    v.resize(static_cast<std::size_t>(d + what.border));
    auto y = normals<double>(n, 9);
    for (int64_t i = 0; i < n; ++i) {
        if (what.loss == RowLoss::logistic) y[i] = i % 7 == 0 ? 0.3 : y[i] > 0 ? 1.0 : 0.0;
        if (what.loss == RowLoss::poisson) y[i] = std::floor(3 * std::fabs(y[i]));
    }
    check_sweep(Matrix<T>(n, d, ld, static_cast<std::uint64_t>(n + d)), what, v, y);
}

const SweepCase plain{RowLoss::none}, curved{RowLoss::none, 1, true, false, true}, gaussian{RowLoss::gaussian},
    logistic{RowLoss::logistic, 1, true, true}, poisson{RowLoss::poisson, 0, true, true}, bare_logistic{RowLoss::logistic};

}  // namespace

TEST_CASE_TEMPLATE("cuda sketch: sweeps of short rows", T, double, float) {
    for (const SweepCase& what : {plain, curved, gaussian, logistic, poisson, bare_logistic}) {
        check_sweep<T>(1, 1, 1, what);
        check_sweep<T>(300, 1, 3, what);
        check_sweep<T>(67, 17, 17, what);  // no row but the first lies on 16 bytes
        check_sweep<T>(131, 60, 64, what);
        check_sweep<T>(50, 200, 200, what);
    }
    for (const int64_t d : {4, 5, 8, 33, 127, 128, 129, 255, 257, 500, 512}) {
        check_sweep<T>(41, d, d, logistic);
        check_sweep<T>(18, d, (d + 7) / 4 * 4, curved);
    }
}

TEST_CASE_TEMPLATE("cuda sketch: sweeps of long rows", T, double, float) {
    for (const int64_t d : {513, 1000, 1030, 2052, 5000, 8300, 16384}) {
        check_sweep<T>(d < 1025 ? 150 : 5, d, d, logistic);
        check_sweep<T>(d < 1025 ? 37 : 3, d, (d + 7) / 4 * 4, curved);
    }
    check_sweep<T>(1, 600, 600, poisson);
    check_sweep<T>(130, 520, 520, gaussian);
}

TEST_CASE_TEMPLATE("cuda sketch: sweeps of rows too long for a block", T, double, float) {
    check_sweep<T>(3, 16385, 16385, logistic);
    check_sweep<T>(130, 16390, 16400, curved);
}

TEST_CASE("cuda sketch: sweeps of nothing") {
    check_sweep<float>(0, 5, 5, logistic);
    check_sweep<float>(0, 600, 600, curved);
}

TEST_CASE("cuda sketch: extreme margins keep their digits") {
    const std::vector<double> margins{-800, -745, -40, -1e-20, 0, 1e-20, 37, 40, 710, 800};
    std::vector<double> v{1}, zero(margins.size(), 0), one(margins.size(), 1);
    Matrix<double> a(static_cast<int64_t>(margins.size()), 1, 1, 1);
    a.x = margins;
    for (const auto& y : {zero, one}) check_sweep(a, bare_logistic, v, y);
    for (int64_t i = 0; i < a.n; ++i) {  // alone, so that no large residual hides a small one
        Matrix<double> row(1, 1, 1, 1);
        row.x = {margins[i]};
        for (const double y : {0.0, 1.0}) check_sweep(row, bare_logistic, v, {y});
        if (margins[i] < 700) check_sweep(row, {RowLoss::poisson}, v, {3.0});
    }
}

TEST_CASE("cuda sketch: rows of weight zero add nothing, whatever they hold") {
    for (const RowLoss loss : {RowLoss::none, RowLoss::poisson, RowLoss::gaussian, RowLoss::logistic}) {
        for (const int64_t d : {2, 600}) {
            Scratch scratch(here);
            std::vector<double> x(static_cast<std::size_t>(2 * d), 0.5);
            x[d] = 1e300;  // a margin beyond every exponential
            RowSweep sweep;
            sweep.loss = loss;
            const double entry = (loss == RowLoss::poisson ? 1 : 1e10) / static_cast<double>(d);  // of v
            sweep.v = upload(scratch, std::vector<double>(static_cast<std::size_t>(d), entry));
            sweep.y = upload(scratch, std::vector<double>{1, 0});
            sweep.weight = upload(scratch, std::vector<double>{1e-300, 0});
            sweep.out = poisoned<double>(scratch, d);
            sweep.totals = poisoned<double>(scratch, 2);
            raphson::cuda::row_sweep({upload(scratch, x), DType::float64, 2, d, d}, sweep, scratch);
            for (const double g : download(sweep.out, d)) CHECK(std::isfinite(g));
            if (loss != RowLoss::none) CHECK(std::isfinite(download(sweep.totals, 2)[0]));
        }
    }
}
