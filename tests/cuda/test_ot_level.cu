// A problem's passes on the device, one by one, against the CPU's: the drivers are one code and need no more than that.
#include <doctest/doctest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "ot/device_level.h"
#include "ot/host_level.h"
#include "ot/schur.h"
#include "ot_problem.h"

namespace raphson::cuda {
const CudaTransportTable& transport_table();
}

using namespace support;
using raphson::CudaLevel;
using raphson::CudaTransport;
using raphson::DeviceLevel;
using raphson::DType;
using raphson::HostLevel;
using raphson::Level;
using raphson::Schur;
using raphson::SparsePlan;
using raphson::TransportCost;
using raphson::TransportProblem;

namespace {

// Of numbers that are compared: Inf where both are.
double apart(const std::vector<double>& x, const std::vector<double>& y, int64_t count) {
    double worst = 0;
    for (int64_t k = 0; k < count; ++k) worst = x[k] == y[k] ? worst : std::max(worst, std::fabs(x[k] - y[k]));
    return worst;
}

struct Pair {
    TransportProblem problem;
    CudaTransport given{};
    std::unique_ptr<HostLevel> host;
    std::unique_ptr<DeviceLevel> device;

    Pair(const Problem& p, const TransportCost& rows, bool narrow) {
        const raphson::CostFacts facts = raphson::scan_cost("test", rows, true);
        problem = raphson::make_problem("test", rows, facts, p.a, p.b, p.reg, p.rho_a, p.rho_b, 1e-9);
        given.problem = &problem;
        narrow_ = narrow;
    }
    void start() {
        host = std::make_unique<HostLevel>(problem);
        device = std::make_unique<DeviceLevel>(
            problem, std::unique_ptr<CudaLevel>(raphson::cuda::transport_table().make_level(given, narrow_, here)), given);
    }
    // work(level, out vectors) on both: how far apart they are, relative to the truth's largest number.
    template <class Work>
    double compare(Work&& work) {
        std::vector<double> found, expected;
        work(static_cast<Level&>(*device), found);
        work(static_cast<Level&>(*host), expected);
        if (found.size() != expected.size()) return infinity;
        double size = 0;
        for (const double x : expected) size = std::isfinite(x) ? std::max(size, std::fabs(x)) : size;
        const double off = apart(found, expected, static_cast<int64_t>(expected.size()));
        return size > 0 ? off / size : off;
    }

private:
    bool narrow_ = false;
};

void append(std::vector<double>& out, const std::vector<double>& x, int64_t count) {
    out.insert(out.end(), x.begin(), x.begin() + count);
}

// bound: relative, of what a sweep finds.
void check_level(Pair& pair, double bound) {
    pair.start();
    const int64_t n = pair.problem.n, m = pair.problem.m;
    CAPTURE(n);
    CAPTURE(m);
    const auto moved = [&](Level& level, std::vector<double>& out) {
        append(out, level.u, n);
        append(out, level.psi, m);
    };
    const auto summed = [&](Level& level, std::vector<double>& out) {
        append(out, level.columns, m);
        out.push_back(level.error());
    };
    for (const double by : {4.0, 1.0}) {
        CHECK(pair.compare([&](Level& level, std::vector<double>& out) {
            level.set_reg(by * pair.problem.reg);
            level.sweep();
            level.update_columns();
            level.sweep();
            moved(level, out);
        }) <= bound);
        CHECK(pair.compare(summed) <= bound);
    }
    pair.device->u = pair.host->u;  // from here on at the same potentials
    pair.device->psi = pair.host->psi;
    for (const double threshold : {1e-4, 3e-3}) {
        SparsePlan there, here_is;
        const auto plan_of = [&](Level& level) -> SparsePlan& { return &level == pair.host.get() ? here_is : there; };
        Random random{3};
        std::vector<double> z(static_cast<std::size_t>(n)), x(static_cast<std::size_t>(pair.host->padded()), 0.0), w(z);
        for (double& v : z) v = random.normal();
        for (double& v : w) v = random.normal();
        for (int64_t j = 0; j < m; ++j) x[j] = random.normal();
        CHECK(pair.compare([&](Level& level, std::vector<double>& out) {
            level.reserve(plan_of(level), n * m);
            plan_of(level).threshold = threshold;
            double cost = 0;
            level.measure(&cost, &plan_of(level));
            summed(level, out);
            append(out, level.row_sum, n);
            for (int64_t i = 0; i < n; ++i) out.push_back(level.row_mass(i));
            out.push_back(cost);
            out.push_back(static_cast<double>(plan_of(level).count));
        }) <= 1e-11);
        CHECK(there.count == here_is.count);
        for (const int64_t k : {n * m, there.count * 2 / 3 + 1}) {
            CHECK(pair.compare([&](Level& level, std::vector<double>& out) {
                level.keep_largest(plan_of(level), k);
                out.push_back(static_cast<double>(plan_of(level).count));
                std::vector<double> rows(z.size()), columns(x.size()), squares(x.size()), y(x.size()), t(z.size());
                level.pattern_sums(plan_of(level), w.data(), rows.data(), columns.data(), squares.data());
                append(out, rows, n);
                append(out, columns, m);
                append(out, squares, m);
                level.pattern_columns(plan_of(level), z.data(), y.data());
                append(out, y, m);
                level.normal(&plan_of(level), x.data(), w.data(), y.data());
                append(out, y, m);
                level.normal(nullptr, x.data(), w.data(), y.data());
                append(out, y, m);
                level.product_rows(x.data(), t.data());
                append(out, t, n);
                level.product_columns(z.data(), y.data());
                append(out, y, m);
            }) <= 1e-11);
        }
        for (const double shift : {0.0, 0.01}) {
            for (const bool sparse : {true, false}) {
                CAPTURE(shift);
                CAPTURE(sparse);
                double scale = 0, residual = 0;
                CHECK(pair.compare([&](Level& level, std::vector<double>& out) {
                    Schur schur(level, sparse ? &plan_of(level) : nullptr, shift);
                    std::vector<double> rhs(x.size()), y(x.size(), 0.0);
                    schur.apply(x.data(), rhs.data());
                    append(out, rhs, m);
                    for (int64_t j = 0; j < m; ++j) scale = std::max(scale, std::fabs(rhs[j]));
                    const raphson::CgOutcome outcome = schur.solve(rhs.data(), y.data(), 1e-13 * scale, 500);
                    CHECK(outcome.residual <= 1e-13 * scale);
                    std::vector<double> back(x.size());
                    schur.apply(y.data(), back.data());
                    for (int64_t j = 0; j < m; ++j) {
                        if (pair.problem.b[j] > 0) residual = std::max(residual, std::fabs(back[j] - rhs[j]));
                    }
                }) <= 1e-11);
                CHECK(residual <= 1e-10 * scale);
            }
        }
    }
}

}  // namespace

TEST_CASE_TEMPLATE("cuda ot: a level on the device is the host's", T, double, float) {
    for (const double rho : {infinity, 0.5}) {
        CAPTURE(rho);
        Problem p = random_problem<T>(21, 34, 0.1, 17);
        p.rho_a = rho;
        p.rho_b = 2 * rho;
        p.a[4] = p.b[7] = 0;
        equalize(p);
        for (std::size_t k = 3; k < p.cost.size(); k += 11) p.cost[k] = infinity;
        std::vector<T> cost;
        for (const double c : p.cost) cost.push_back(static_cast<T>(c));
        TransportCost rows;
        rows.dense = {raphson::dtype_of<T>(), cost.data(), p.m, p.n, p.m};
        Scratch scratch(here);
        for (const bool narrow : {false, true}) {
            CAPTURE(narrow);
            Pair pair(p, rows, narrow);
            pair.given.cost = {upload(scratch, cost), raphson::dtype_of<T>(), p.n, p.m, p.m, 1};
            check_level(pair, narrow && std::is_same_v<T, float> ? 1e-5 : 1e-11);
        }
    }
}

TEST_CASE("cuda ot: a level of points") {
    Random random{9};
    Problem p = random_problem<double>(19, 26, 0.4, 18);
    constexpr int64_t dim = 3;
    std::vector<double> x, y, costs;
    for (int64_t k = 0; k < p.n * dim; ++k) x.push_back(random.uniform());
    for (int64_t k = 0; k < p.m * dim; ++k) y.push_back(random.uniform());
    double low = infinity, high = 0;
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) {
            double sum = 0;
            for (int64_t k = 0; k < dim; ++k) sum += (x[i * dim + k] - y[j * dim + k]) * (x[i * dim + k] - y[j * dim + k]);
            costs.push_back(0.7 * sum);
            low = std::min(low, costs.back());
            high = std::max(high, costs.back());
        }
    }
    TransportCost rows;
    rows.dense = {DType::float64, costs.data(), p.m, p.n, p.m};
    Pair pair(p, rows, false);
    pair.given.metric = raphson::Metric::sqeuclidean;
    pair.given.scale = 0.7;
    pair.given.x = x.data();
    pair.given.y = y.data();
    pair.given.dim = dim;
    check_level(pair, 1e-11);
    const std::unique_ptr<CudaLevel> passes(raphson::cuda::transport_table().make_level(pair.given, false, here));
    CHECK(std::fabs(passes->range().lowest - low) <= 1e-14);
    CHECK(std::fabs(passes->range().highest - high) <= 1e-14);
}
