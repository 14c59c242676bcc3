#include "newton_schulz/minimax.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <stdexcept>

namespace raphson {
namespace {

// Three-point Gauss–Legendre: exact for the polynomials of degree ≤ 5 met here.
template <class F>
double integral(double from, double to, F f) {
    const double centre = 0.5 * (from + to), half = 0.5 * (to - from), node = half * std::sqrt(0.6);
    return half * (5.0 * (f(centre - node) + f(centre + node)) + 8.0 * f(centre)) / 9.0;
}

template <class T>
[[noreturn]] void refuse(const char* rule, T value) {
    std::ostringstream text;
    text << "minimax_schedule: " << rule << ", got " << value;
    throw std::invalid_argument(text.str());
}

}  // namespace

// p(x) = k(3e²x - x³) has its peak at e; p(lower) = p(upper) makes e² the mean of the three products.
MinimaxStep minimax_cubic(double lower, double upper) {
    const double l = lower / upper;
    const double e2 = (1.0 + l + l * l) / 3.0, e3 = e2 * std::sqrt(e2);
    const double k = 2.0 / (2.0 * e3 + l * (1.0 + l));
    return {{3.0 * e2 * k / upper, -k / (upper * upper * upper), 0.0}, 2.0 * k * e3};
}

// p' = 5c(x² - q²)(x² - r²), and the error equioscillates at l < q < r < u, so that p(l) = p(r) and p(q) = p(u): two
// integrals of p' that vanish. Newton on (q, r) in the coordinate y of x = m + hy, y in [-1, 1], where each factor is a
// product and nothing cancels: unlike the 4 × 4 system of a Remez exchange, which becomes singular as the interval
// shrinks, this one tends to Chebyshev's points y = ∓½, the starting guess. Six iterations are the most it takes.
MinimaxStep minimax_quintic(double lower, double upper) {
    const double l = lower / upper, m = 0.5 * (1.0 + l), h = 0.5 * (1.0 - l);
    double y1 = -0.5, y2 = 0.5;
    const auto factor = [m, h](double y, double root) { return (y - root) * (2.0 * m + h * (y + root)); };
    for (int iteration = 0; iteration < 20; ++iteration) {
        const double q = m + h * y1, r = m + h * y2;
        const auto at_q = [&](double y) { return factor(y, y1); };
        const auto at_r = [&](double y) { return factor(y, y2); };
        const auto both = [&](double y) { return factor(y, y1) * factor(y, y2); };
        const double f1 = integral(-1.0, y2, both), f2 = integral(y1, 1.0, both);
        const double f1_q = -2.0 * q * integral(-1.0, y2, at_r), f1_r = -2.0 * r * integral(-1.0, y2, at_q);
        const double f2_q = -2.0 * q * integral(y1, 1.0, at_r), f2_r = -2.0 * r * integral(y1, 1.0, at_q);
        const double det = f1_q * f2_r - f1_r * f2_q;
        const double d1 = -(f2_r * f1 - f1_r * f2) / det, d2 = -(f1_q * f2 - f2_q * f1) / det;
        double t = 1.0;  // shortened where a full step would break -1 < y1 < y2 < 1
        while (!(y1 + t * d1 > -1.0 && y1 + t * d1 < y2 + t * d2 && y2 + t * d2 < 1.0) && t > 1e-6) t *= 0.5;
        y1 += t * d1;
        y2 += t * d2;
        if (std::max(std::fabs(d1), std::fabs(d2)) < 1e-15) break;
    }
    const double q = m + h * y1, r = m + h * y2, q2 = q * q, r2 = r * r;
    const Step p{q2 * r2, -(q2 + r2) / 3.0, 0.2};
    const double at_u = evaluate(p, 1.0), k = 2.0 / (evaluate(p, l) + at_u);
    const double u2 = upper * upper;
    return {{k * p.a / upper, k * p.b / (upper * u2), k * p.c / (upper * u2 * u2)}, k * at_u};
}

std::vector<Step> minimax_schedule(double lower, int steps, int degree, double safety, double cushion) {
    if (!(lower > 0.0 && lower < 1.0)) refuse("lower must be above 0 and below 1", lower);
    if (steps < 1 || steps > 100) refuse("steps must be 1 to 100", steps);
    if (degree != 3 && degree != 5) refuse("degree must be 3 or 5", degree);
    if (!(safety >= 0.0 && std::isfinite(safety))) refuse("safety must be finite and at least 0", safety);
    if (!(cushion >= 0.0 && cushion < 1.0)) refuse("cushion must be at least 0 and below 1", cushion);
    std::vector<Step> table;
    table.reserve(steps);
    double l = lower, u = 1.0;
    for (int i = 0; i < steps; ++i) {
        const double from = std::max(l, cushion * u);
        MinimaxStep p = degree == 3 ? minimax_cubic(from, u) : minimax_quintic(from, u);
        // With a cushion p(l) lies below 1 - error: scale so that the smallest and the largest value centre on 1 again.
        const double scale = from > l ? 2.0 / (evaluate(p.step, l) + p.peak) : 1.0;
        Step step{p.step.a * scale, p.step.b * scale, p.step.c * scale};
        if (i + 1 < steps) step = damped(step, safety);
        table.push_back(step);
        // The largest value is at most 2 - l: equal without safety, below it with. Rounding must not turn the interval.
        l = std::min(evaluate(step, l), 1.0);
        u = 2.0 - l;
    }
    return table;
}

}  // namespace raphson
