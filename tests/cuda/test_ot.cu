// Entropic transport on the device: sweeps and products with the plan against sums in float64 written out here.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ot_problem.h"

using namespace support;
using raphson::DType;
using raphson::cuda::DeviceBalance;
using raphson::cuda::PassRoom;

namespace {

DeviceBalance upload_balance(Scratch& scratch, const Problem& p, bool narrow) {
    DeviceBalance balance;
    balance.inverse_reg = 1 / p.reg;
    balance.kappa_a = p.kappa_a();
    balance.kappa_b = p.kappa_b();
    balance.a = upload(scratch, p.a);
    balance.b = upload(scratch, p.b);
    balance.log_b = upload(scratch, logs(p.b));
    balance.least_column = upload(scratch, std::vector<double>{raphson::cuda::lost_share(narrow)});
    return balance;
}

// What a sweep may be off. float32: an exponential 2^x has the error 2^-24·(1 + |x|)·ln 2 from its argument and 2^-22 from
// the instruction; |x| ≤ 40 for all that counts in a sum, four are added in float32, then 32 in the columns. float64: the
// argument is rounded at the size of C/reg.
struct Bounds {
    double potential, column;  // absolute; relative
};
Bounds bounds_of(const Problem& p, bool narrow) {
    if (narrow) return {41 * 0x1p-24 * 0.7 + 0x1p-22 + 4 * 0x1p-24, 2 * (41 * 0x1p-24 * 0.7 + 0x1p-22) + 40 * 0x1p-24};
    const double argument = (20 + 4 * p.span()) * 0x1p-52;
    return {argument + 1e-14, 4 * argument + 1e-13};
}

template <class T>
void check_sweep(const Problem& p, const std::vector<double>& u, const std::vector<double>& psi, bool resident, int64_t gap,
                 int64_t shift) {
    CAPTURE(p.n);
    CAPTURE(p.m);
    CAPTURE(resident);
    CAPTURE(gap);
    CAPTURE(shift);
    Scratch scratch(here);
    const DeviceCost cost = upload_cost<T>(scratch, p, gap, shift);
    const PassRoom room = raphson::cuda::pass_room(cost, resident, scratch);
    CHECK(room.resident == resident);
    const DeviceBalance balance = upload_balance(scratch, p, room.narrow);
    double* du = upload(scratch, u);
    const double* dpsi = upload(scratch, psi);
    auto* next = poisoned<double>(scratch, p.m);
    auto* columns = poisoned<double>(scratch, p.m);
    auto* error = poisoned<double>(scratch, 1);
    raphson::cuda::sweep(cost, balance, room, du, dpsi, next, columns, here);
    raphson::cuda::total_error(balance, room, p.m, error, here);
    const Sweep truth = reference_sweep(p, u, psi);
    const Bounds bounds = bounds_of(p, room.narrow);
    const auto got_u = download(du, p.n), got_next = download(next, p.m), got_columns = download(columns, p.m);
    double worst_u = 0, worst_next = 0, worst_column = 0, mass = 0;
    for (int64_t i = 0; i < p.n; ++i) worst_u = std::max(worst_u, std::fabs(got_u[i] - truth.u[i]));
    for (int64_t j = 0; j < p.m; ++j) {
        mass += truth.columns[j];
        worst_column = std::max(worst_column, std::fabs(got_columns[j] - truth.columns[j]) / (truth.columns[j] + 1e-17));
        if (p.b[j] > 0) worst_next = std::max(worst_next, std::fabs(got_next[j] - truth.psi_next[j]));
        if (!(p.b[j] > 0)) CHECK(got_next[j] == -infinity);
    }
    CHECK(worst_u <= bounds.potential);
    CHECK(worst_column <= bounds.column);
    CHECK(worst_next <= 2 * bounds.column + bounds.potential);
    CHECK(std::fabs(download(error, 1)[0] - truth.error) <= bounds.column * (mass + 1e-17));
    CHECK(std::all_of(got_u.begin(), got_u.end(), [](double x) { return std::isfinite(x); }));
}

// Potentials near a solution: rows are trusted where they are.
template <class T>
void check_near(Problem p, int64_t gap = 0, int64_t shift = 0, bool both = true) {
    std::vector<double> u, psi = logs(p.b);
    Random random{static_cast<std::uint64_t>(p.n * 1000 + p.m)};
    for (int64_t i = 0; i < p.n; ++i) u.push_back(1 / p.reg + random.uniform());
    for (double& x : psi) x += random.uniform();
    check_sweep<T>(p, u, psi, true, gap, shift);
    if (both) check_sweep<T>(p, u, psi, false, gap, shift);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda ot: one iteration", T, double, float) {
    const int64_t shapes[][2] = {{1, 1}, {1, 5}, {7, 1}, {2, 32}, {33, 65}, {70, 130}, {19, 700}};
    for (const auto& s : shapes) {
        Problem p = random_problem<T>(s[0], s[1], 0.07, static_cast<std::uint64_t>(s[0] + 31 * s[1]));
        check_near<T>(p);
        check_near<T>(p, 4, 1, false);
        p.rho_a = 0.5;
        check_near<T>(p, 3);
        p.rho_b = 2;
        check_near<T>(p, 0, 0, false);
    }
}

TEST_CASE_TEMPLATE("cuda ot: the range of a cost", T, double, float) {
    for (const int64_t n : {1, 7, 600}) {  // more rows than blocks
        Scratch scratch(here);
        Problem p = random_problem<T>(n, 11, 0.1, 9);
        for (double& c : p.cost) c -= 1;
        p.cost[1] = infinity;
        p.cost.back() = to_double(from_double<T>(-4.25));
        double low = infinity, high = -infinity;
        for (const double c : p.cost) low = std::min(low, c), high = std::isinf(c) ? high : std::max(high, c);
        const DeviceCost cost = upload_cost<T>(scratch, p, 2);
        auto* parts = poisoned<double>(scratch, raphson::cuda::cost_range_parts);
        raphson::cuda::cost_range(cost, parts, here);
        const auto found = download(parts, 4);
        CHECK(found[0] == to_double(from_double<T>(low)));
        CHECK(found[1] == to_double(from_double<T>(high)));
        CHECK(found[2] == 1);
        CHECK(found[3] == infinity);
    }
}

TEST_CASE_TEMPLATE("cuda ot: the first entry that is no cost is found", T, double, float) {
    const int64_t n = 1100, m = 70;  // more rows than blocks, more columns than a warp
    for (const double bad : {std::nan(""), -infinity}) {
        for (const int64_t at : {int64_t{0}, 600 * m + 69, n * m - 1}) {
            Scratch scratch(here);
            Problem p = random_problem<T>(n, m, 0.1, 10);
            p.cost[static_cast<std::size_t>(at)] = bad;
            p.cost.back() = bad;
            auto* parts = poisoned<double>(scratch, raphson::cuda::cost_range_parts);
            raphson::cuda::cost_range(upload_cost<T>(scratch, p, 3), parts, here);
            const auto found = download(parts, 4);
            CHECK(std::isfinite(found[0]));
            CHECK(found[2] == 0);
            CHECK(found[3] == static_cast<double>(at));
        }
    }
}

TEST_CASE("cuda ot: one iteration, blocks of every width, and rows too wide for the chip") {
    for (const int64_t m : {1500, 2500, 5000, 9000, 16384}) {
        check_near<float>(random_problem<float>(3, m, 0.1, 5), 0, 0, m < 3000);
    }
    for (const int64_t m : {700, 1500, 2500, 8192}) check_near<double>(random_problem<double>(3, m, 0.1, 5), 0, 0, false);
    const std::vector<double> u(2, 8.0);
    const Problem wide = random_problem<float>(2, 16385, 0.1, 6), wide_64 = random_problem<double>(2, 8193, 0.1, 6);
    check_sweep<float>(wide, u, logs(wide.b), false, 0, 0);
    check_sweep<double>(wide_64, u, logs(wide_64.b), false, 0, 0);
    Scratch scratch(here);
    CHECK(!raphson::cuda::pass_room(upload_cost<float>(scratch, wide), true, scratch).resident);
    CHECK(!raphson::cuda::pass_room(upload_cost<double>(scratch, wide_64), true, scratch).resident);
    // Column sums leave the registers several times a block.
    check_near<float>(random_problem<float>(3200, 3, 0.1, 7), 0, 0, false);
    check_near<double>(random_problem<double>(1700, 2, 0.1, 8), 0, 0, false);
}

TEST_CASE_TEMPLATE("cuda ot: one iteration from potentials that are far off", T, double, float) {
    Problem p = random_problem<T>(23, 41, 2e-4, 11);  // C/reg to 1e4
    p.a[4] = p.b[7] = p.b[40] = 0;
    for (int64_t j = 0; j < p.m; j += 3) p.cost[static_cast<std::size_t>(5 * p.m + j)] = infinity;
    for (int64_t i = 0; i < p.n; ++i) p.cost[static_cast<std::size_t>(i * p.m + 12)] += 1;  // a column that nothing reaches
    for (double& c : p.cost) c = to_double(from_double<T>(c));
    equalize(p);
    for (const bool resident : {true, false}) {
        check_sweep<T>(p, std::vector<double>(23, 0.0), logs(p.b), resident, 0, 0);
        check_sweep<T>(p, std::vector<double>(23, 9e4), logs(p.b), resident, 2, 1);
        Problem relaxed = p;
        relaxed.rho_a = 0.3;
        relaxed.rho_b = 0.01;
        check_sweep<T>(relaxed, std::vector<double>(23, -3.0), logs(p.b), resident, 0, 0);
    }
    // A row that no column can take keeps its potential and gives nothing.
    Problem closed = random_problem<T>(5, 9, 0.1, 12);
    for (int64_t j = 0; j < 9; ++j) closed.cost[static_cast<std::size_t>(18 + j)] = infinity;
    check_sweep<T>(closed, std::vector<double>(5, 1.5), logs(closed.b), true, 0, 0);
    check_sweep<T>(closed, std::vector<double>(5, 1.5), logs(closed.b), false, 0, 0);
}

TEST_CASE_TEMPLATE("cuda ot: the plan and its products", T, double, float) {
    Scratch scratch(here);
    Problem p = random_problem<T>(37, 53, 0.2, 51);
    p.a[1] = p.b[8] = 0;
    p.cost[60] = infinity;
    const DeviceCost cost = upload_cost<T>(scratch, p, 5);
    const PassRoom room = raphson::cuda::pass_room(cost, true, scratch);
    const DeviceBalance balance = upload_balance(scratch, p, room.narrow);
    const std::vector<double> u = normals<double>(p.n, 1), v = normals<double>(p.m, 2), z = normals<double>(p.n, 3);
    std::vector<double> psi = logs(p.b);
    for (double& x : psi) x += 5;
    const double *du = upload(scratch, u), *dpsi = upload(scratch, psi);
    std::vector<double> plan, rows(37, 0.0), columns(53, 0.0), t(37, 0.0), y(53, 0.0);
    double spent = 0;
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) {
            const double e = p.b[j] > 0 ? std::exp(u[i] + psi[j] - p.at(i, j) / p.reg) : 0, entry = p.a[i] * e;
            plan.push_back(entry);
            rows[i] += e;
            columns[j] += entry;
            t[i] += entry * v[j];
            y[j] += entry * z[i];
            if (entry > 0) spent += entry * p.at(i, j);
        }
    }
    const auto near = [](const std::vector<double>& got, const std::vector<double>& truth) {
        double worst = 0, size = 0;
        for (std::size_t k = 0; k < truth.size(); ++k) {
            worst = std::max(worst, got[k] == got[k] ? std::fabs(got[k] - truth[k]) : infinity);
            size = std::max(size, std::fabs(truth[k]));
        }
        CHECK(worst <= 1e-13 * size);
    };
    auto *dt = poisoned<double>(scratch, p.n), *dy = poisoned<double>(scratch, p.m), *numbers = poisoned<double>(scratch, 2);
    raphson::cuda::plan_times(cost, balance, du, dpsi, upload(scratch, v), dt, here);
    raphson::cuda::plan_transposed_times(cost, balance, room, du, dpsi, upload(scratch, z), dy, here);
    near(download(dt, p.n), t);
    near(download(dy, p.m), y);
    auto *dr = poisoned<double>(scratch, p.n), *dc = poisoned<double>(scratch, p.m);
    raphson::cuda::measure(cost, balance, room, du, dpsi, {dr, dc}, numbers, numbers + 1, here);
    near(download(dr, p.n), rows);
    near(download(dc, p.m), columns);
    double error = 0;
    for (int64_t i = 0; i < p.n; ++i) error += p.a[i] > 0 ? std::fabs(p.a[i] * rows[i] - p.a[i]) : 0;
    for (int64_t j = 0; j < p.m; ++j) error += std::fabs(columns[j] - p.b[j]);
    near(download(numbers, 2), {error, spent});
    const int64_t stride = 60, first = 3, count = 30;
    auto* wide = poisoned<double>(scratch, count * stride);
    auto* narrow = poisoned<float>(scratch, count * stride);
    raphson::cuda::plan_rows(cost, balance, du, dpsi, first, count, DType::float64, wide, stride, here);
    raphson::cuda::plan_rows(cost, balance, du, dpsi, first, count, DType::float32, narrow, stride, here);
    const auto got = download(wide, count * stride);
    const auto rounded = download(narrow, count * stride);
    std::vector<double> dense, wanted;
    int64_t written = 0, agree = 0;
    for (int64_t k = 0; k < count * stride; ++k) {
        written += got[k] == got[k];
        agree += rounded[k] == static_cast<float>(got[k]);
        if (k % stride >= p.m) continue;
        dense.push_back(got[k]);
        wanted.push_back(plan[static_cast<std::size_t>((first + k / stride) * p.m + k % stride)]);
    }
    near(dense, wanted);
    CHECK(written == count * p.m);  // and nothing else
    CHECK(agree == count * p.m);
}
