#include "newton_schulz/root_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "newton_schulz/minimax.h"

namespace raphson {
namespace {

constexpr int node_count = 256;
constexpr int fit_steps = 5;
constexpr double smallest_dip = 0.6;   // the dip after the peak in one step; Muon's is 0.68
constexpr double largest_peak = 1.25;  // the published ones reach 1.24
constexpr double slope_reward = 1e-3;  // among the many triples that suit a narrow spectrum, the steepest

struct Spectrum {
    std::array<double, node_count> sigma, weight;
};

// With λ = 1 + γ + 2√γ cos θ the Marchenko–Pastur density is (2/π) sin²θ / λ dθ: smooth, also at its hard edge, γ = 1.
Spectrum gaussian_spectrum(std::int64_t m, std::int64_t n) {
    constexpr double pi = 3.14159265358979323846;
    const double rows = static_cast<double>(m), gamma = rows / static_cast<double>(n);
    Spectrum s;
    double total = 0.0;
    for (int k = 0; k < node_count; ++k) {
        const double theta = pi * (k + 0.5) / node_count, sine = std::sin(theta);
        const double lambda = 1.0 + gamma + 2.0 * std::sqrt(gamma) * std::cos(theta);
        s.sigma[k] = std::min(1.0, std::sqrt(std::max(lambda, 0.0) / rows));  // tiny matrices: the law overshoots ‖X‖_F
        s.weight[k] = sine * sine / std::max(lambda, 1e-300);
        total += s.weight[k];
    }
    for (double& w : s.weight) w /= total;
    return s;
}

double mean_square_error(const Step& p, const Spectrum& s, int steps) {
    std::array<double, node_count> x = s.sigma;
    for (int i = 0; i < steps; ++i) {
        for (double& v : x) v = std::min(4.0, std::max(-4.0, evaluate(p, v)));  // a hopeless triple stays finite
    }
    double sum = 0.0;
    for (int k = 0; k < node_count; ++k) sum += s.weight[k] * (1.0 - x[k]) * (1.0 - x[k]);
    return sum;
}

// Peak and dip of an increasing, decreasing, increasing quintic; false for any other.
bool extrema(const Step& p, double& peak, double& dip) {
    const double root = 9.0 * p.b * p.b - 20.0 * p.a * p.c;
    if (!(p.a > 0.0 && p.b < 0.0 && p.c > 0.0 && root > 0.0)) return false;
    const double sum = -3.0 * p.b + std::sqrt(root);
    peak = evaluate(p, std::sqrt(2.0 * p.a / sum));  // = (-3b - √root)/(10c), with no difference
    dip = evaluate(p, std::sqrt(sum / (10.0 * p.c)));
    return true;
}

double penalised(const Step& p, const Spectrum& s, double growth) {
    double peak, dip;
    if (!extrema(p, peak, dip)) return 1e3;
    const double escape = std::max(0.0, evaluate(p, growth * peak) - peak) + std::max(0.0, 1.0 - peak);
    const double shape = std::max(0.0, smallest_dip - dip) + std::max(0.0, peak - largest_peak);
    return mean_square_error(p, s, fit_steps) - slope_reward * p.a + 10.0 * (escape + shape);
}

using Vertex = std::pair<double, Step>;

Step along(const Step& from, const Step& to, double t) {
    return {from.a + t * (to.a - from.a), from.b + t * (to.b - from.b), from.c + t * (to.c - from.c)};
}

// Nelder and Mead's simplex: three variables, a penalty with corners, no derivative worth having.
template <class F>
Vertex simplex_minimum(const Step& start, double size, F f) {
    std::array<Vertex, 4> v;
    v.fill({0.0, start});
    v[1].second.a += size;
    v[2].second.b -= 2.0 * size;
    v[3].second.c += size;
    for (Vertex& vertex : v) vertex.first = f(vertex.second);
    const auto lower = [](const Vertex& x, const Vertex& y) { return x.first < y.first; };
    for (int iteration = 0; iteration < 150; ++iteration) {
        std::stable_sort(v.begin(), v.end(), lower);
        if (v[3].first - v[0].first < 1e-10) break;
        const Step half = along(v[0].second, v[1].second, 0.5), centre = along(half, v[2].second, 1.0 / 3.0);
        const auto at = [&](double t) {
            const Step p = along(centre, v[3].second, t);
            return Vertex{f(p), p};
        };
        const Vertex mirrored = at(-1.0);
        if (mirrored.first < v[0].first) {
            v[3] = std::min(mirrored, at(-2.0), lower);
        } else if (mirrored.first < v[2].first) {
            v[3] = mirrored;
        } else {
            const Vertex inside = at(mirrored.first < v[3].first ? -0.5 : 0.5);
            if (inside.first < std::min(mirrored.first, v[3].first)) {
                v[3] = inside;
            } else {
                for (int i = 1; i < 4; ++i) {
                    v[i].second = along(v[0].second, v[i].second, 0.5);
                    v[i].first = f(v[i].second);
                }
            }
        }
    }
    return *std::min_element(v.begin(), v.end(), lower);
}

double four_decimals(double x) { return std::round(x * 1e4) / 1e4; }

}  // namespace

double gaussian_objective(const Step& step, std::int64_t m, std::int64_t n, int steps) {
    return mean_square_error(step, gaussian_spectrum(std::min(m, n), std::max(m, n)), steps);
}

double tolerated_growth(const Step& step) {
    double peak, dip;
    if (!extrema(step, peak, dip)) return 0.0;
    double low = 0.0, high = 4.0;
    for (int i = 0; i < 60; ++i) {
        const double middle = 0.5 * (low + high);
        // p rises again after its dip, so the largest argument that stays at or below the peak is unique.
        (evaluate(step, middle * peak) <= peak ? low : high) = middle;
    }
    return low;
}

Step fit_root(std::int64_t m, std::int64_t n, double safety) {
    static std::mutex mutex;
    static std::map<std::tuple<std::int64_t, std::int64_t, double>, Step> known;
    const auto key = std::make_tuple(m, n, safety);
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = known.find(key);
    if (found != known.end()) return found->second;

    const Spectrum spectrum = gaussian_spectrum(m, n);
    const auto objective = [&](const Step& p) { return penalised(p, spectrum, 1.0 + safety); };
    // Muon's triple, ROOT's for square and for 1 : 4, and one for narrow spectra: the basins met over all shapes.
    const Step starts[] = {{3.4445, -4.7750, 2.0315}, {3.2, -3.75, 1.5}, {2.9794, -3.6674, 1.6207}, {2.5, -2.6, 1.1}};
    Vertex best{1e9, starts[0]};
    for (const Step& start : starts) {
        Vertex result = simplex_minimum(start, 0.1, objective);
        result = simplex_minimum(result.second, 0.03, objective);  // one folded at the penalty's edge
        if (result.first < best.first) best = result;
    }
    best = simplex_minimum(best.second, 0.02, objective);
    const Step fitted{four_decimals(best.second.a), four_decimals(best.second.b), four_decimals(best.second.c)};
    if (known.size() >= 1024) known.clear();
    known.emplace(key, fitted);
    return fitted;
}

}  // namespace raphson
