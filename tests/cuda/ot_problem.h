// A problem of entropic transport on the host, and its cost on the device.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "device_support.h"
#include "ot/device_passes.h"

namespace support {

using raphson::cuda::DeviceCost;

constexpr double infinity = std::numeric_limits<double>::infinity();

struct Problem {
    int64_t n = 0, m = 0;
    std::vector<double> a, b, cost;  // the cost as it is rounded to T
    double reg = 0.1, rho_a = infinity, rho_b = infinity;
    double kappa_a() const { return reg / rho_a; }
    double kappa_b() const { return reg / rho_b; }
    double at(int64_t i, int64_t j) const { return cost[static_cast<std::size_t>(i * m + j)]; }
    double span() const {
        double high = 0;
        for (const double c : cost) high = std::isinf(c) ? high : std::max(high, std::fabs(c));
        return high / reg;
    }
};

template <class T>
Problem random_problem(int64_t n, int64_t m, double reg, std::uint64_t seed) {
    Problem p;
    p.n = n;
    p.m = m;
    p.reg = reg;
    Random random{seed};
    for (int64_t i = 0; i < n; ++i) p.a.push_back(1.2 + random.uniform());
    for (int64_t j = 0; j < m; ++j) p.b.push_back(1.2 + random.uniform());
    double mass_a = 0, mass_b = 0;
    for (const double x : p.a) mass_a += x;
    for (const double x : p.b) mass_b += x;
    for (double& x : p.a) x /= mass_a;
    for (double& x : p.b) x /= mass_b;
    for (int64_t k = 0; k < n * m; ++k) p.cost.push_back(to_double(from_double<T>(1 + random.uniform())));
    return p;
}

// After weights have been set to zero: equal masses again.
inline void equalize(Problem& p) {
    double mass_a = 0, mass_b = 0;
    for (const double x : p.a) mass_a += x;
    for (const double x : p.b) mass_b += x;
    for (double& x : p.b) x *= mass_a / mass_b;
}

// The cost on the device, `shift` elements behind an aligned address and `gap` elements between rows, NaN in between.
template <class T>
DeviceCost upload_cost(Scratch& scratch, const Problem& p, int64_t gap = 0, int64_t shift = 0) {
    std::vector<T> memory(static_cast<std::size_t>(shift + p.n * (p.m + gap)), static_cast<T>(NAN));
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) memory[shift + i * (p.m + gap) + j] = static_cast<T>(p.at(i, j));
    }
    DeviceCost cost;
    cost.rows = p.n;
    cost.columns = p.m;
    cost.type = type_of<T>();
    cost.data = upload(scratch, memory) + shift;
    cost.stride = p.m + gap;
    return cost;
}

inline std::vector<double> logs(const std::vector<double>& x) {
    std::vector<double> y;
    for (const double v : x) y.push_back(v > 0 ? std::log(v) : -infinity);
    return y;
}

// log Σ exp, of any numbers.
inline double log_sum(const std::vector<double>& x) {
    const double high = *std::max_element(x.begin(), x.end());
    if (!(high > -infinity)) return high;
    double sum = 0;
    for (const double v : x) sum += std::exp(v - high);
    return high + std::log(sum);
}

struct Sweep {
    std::vector<double> u, psi_next, columns;
    double error = 0;
};

inline Sweep reference_sweep(const Problem& p, std::vector<double> u, const std::vector<double>& psi) {
    Sweep s;
    std::vector<double> terms(static_cast<std::size_t>(p.m));
    for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t j = 0; j < p.m; ++j) terms[j] = psi[j] - p.at(i, j) / p.reg;
        const double sum = log_sum(terms);
        if (sum > -infinity) u[i] = -sum / (1 + p.kappa_a());
    }
    terms.resize(static_cast<std::size_t>(p.n));
    for (int64_t j = 0; j < p.m; ++j) {
        for (int64_t i = 0; i < p.n; ++i) terms[i] = p.a[i] > 0 ? std::log(p.a[i]) + u[i] - p.at(i, j) / p.reg : -infinity;
        const double sum = log_sum(terms), log_b = std::log(p.b[j]);
        s.columns.push_back(p.b[j] > 0 ? std::exp(psi[j] + sum) : 0);
        s.psi_next.push_back(p.b[j] > 0 ? log_b - sum / (1 + p.kappa_b()) : -infinity);
        if (p.b[j] > 0) s.error += std::fabs(s.columns[j] - p.b[j] * std::exp(-p.kappa_b() * (psi[j] - log_b)));
    }
    s.u = u;
    return s;
}

}  // namespace support
