// Newton's method with products only.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/philox.h"
#include "dense/dense.h"
#include "newton/smooth.h"
#include "newton/vector.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double epsilon = std::numeric_limits<double>::epsilon();
constexpr std::uint32_t stream = 0x6e637201;


// d ← d + t p on the sphere of radius r, t ≥ 0.
void to_sphere(Vector& d, const Vector& p, double radius) {
    const double a = dot(p, p), b = dot(d, p), c = std::fmin(dot(d, d) - radius * radius, 0.0);
    const double root = std::sqrt(b * b - a * c), t = b > 0 ? -c / (b + root) : (root - b) / a;
    for (std::size_t i = 0; i < d.size(); ++i) d[i] += t * p[i];
}

// Minimises gᵀd + ½ dᵀHd within the sphere, until the residual is `forcing` of g; says whether the sphere was met.
bool conjugate_gradients(Counted& f, const Vector& x, const Vector& g, double radius, double forcing, Vector& d, Vector& r) {
    std::fill(d.begin(), d.end(), 0.0);
    r = g;
    Vector p(g.size()), hp(g.size()), before;
    for (std::size_t i = 0; i < g.size(); ++i) p[i] = -g[i];
    double squares = dot(r, r);
    const double goal = forcing * std::sqrt(squares);
    for (std::size_t step = 0; step < 2 * g.size() + 10; ++step) {
        f.product(x.data(), p.data(), hp.data());
        const double curvature = dot(p, hp);
        if (!(curvature > 0)) {  // NaN as well
            to_sphere(d, p, radius);
            return true;
        }
        const double alpha = squares / curvature;
        before = d;
        for (std::size_t i = 0; i < d.size(); ++i) d[i] += alpha * p[i];
        if (norm(d) >= radius) {
            d = before;
            to_sphere(d, p, radius);
            return true;
        }
        for (std::size_t i = 0; i < r.size(); ++i) r[i] += alpha * hp[i];
        const double next = dot(r, r);
        if (std::sqrt(next) <= goal) return false;
        const double beta = next / squares;
        squares = next;
        for (std::size_t i = 0; i < p.size(); ++i) p[i] = beta * p[i] - r[i];
    }
    return false;
}

// The Ritz vector of the smallest Ritz value after a few Lanczos steps from a random vector, and that value.
double smallest_ritz(Counted& f, const Vector& x, std::uint64_t seed, Vector& p) {
    const std::size_t n = x.size(), most = std::min<std::size_t>(n, 40);
    std::vector<Vector> basis;
    Vector v(n), w(n), diagonal, beside;
    for (std::size_t i = 0; i < n; ++i) {
        const PhiloxBlock block = philox_at(i, 0, stream, PhiloxKey::from_seed(seed));
        v[i] = philox_uniform(block[0], block[1]) - 0.5;
    }
    const double start = norm(v);
    for (double& entry : v) entry /= start;
    double largest = 0;
    while (basis.size() < most) {
        basis.push_back(v);
        f.product(x.data(), v.data(), w.data());
        diagonal.push_back(dot(v, w));
        for (int twice = 0; twice < 2; ++twice) {
            for (const Vector& q : basis) {
                const double share = dot(q, w);
                for (std::size_t i = 0; i < n; ++i) w[i] -= share * q[i];
            }
        }
        const double length = norm(w);
        largest = std::fmax(largest, std::fabs(diagonal.back()) + length);
        if (!(length > 1e-10 * largest)) break;
        beside.push_back(length);
        for (std::size_t i = 0; i < n; ++i) v[i] = w[i] / length;
    }
    const std::size_t k = diagonal.size();
    Vector t(k * k, 0.0), values(k), vectors(k * k);
    for (std::size_t i = 0; i < k; ++i) {
        t[i * k + i] = diagonal[i];
        if (i + 1 < k) t[i * k + i + 1] = t[(i + 1) * k + i] = beside[i];
    }
    eigh(t.data(), static_cast<int64_t>(k), values.data(), vectors.data(), 60);
    std::fill(p.begin(), p.end(), 0.0);
    for (std::size_t j = 0; j < k; ++j) {
        for (std::size_t i = 0; i < n; ++i) p[i] += vectors[j] * basis[j][i];
    }
    return values[0] < -1e-8 * largest ? values[0] : 0.0;
}

}  // namespace

void descend_by_products(Counted& f, Descent& at, const DescentRule& rule, std::uint64_t seed) {
    Vector d(at.x.size()), r(at.x.size()), trial(at.x.size()), g(at.x.size());
    double value = 0;
    const auto look = [&](double scale) {
        for (std::size_t i = 0; i < d.size(); ++i) trial[i] = at.x[i] + scale * d[i];
        value = f.value(trial.data());
        return std::isfinite(value) && f.gradient(trial.data(), g.data());
    };
    const auto accept = [&](double step) {
        at.x.swap(trial);
        at.g.swap(g);
        at.value = value;
        ++at.steps;
        if (rule.accepted(at, step)) at.status = Status::stopped;
    };
    for (;;) {
        const bool ended = rule.done(at.value, at.g);
        at.status = ended ? Status::converged : at.value < -1e100 ? Status::breakdown : Status::max_iter;
        if (at.steps >= rule.most || at.status == Status::breakdown) return;
        if (ended) {  // a saddle point?
            const double curvature = at.value > rule.saddles_above ? smallest_ritz(f, at.x, seed, d) : 0;
            if (!(curvature < 0)) return;
            bool left = false;
            for (double step = std::fmax(1.0, std::fmin(at.length, 1e3)); step > 1e-7 && !left; step *= 0.25) {
                for (const double side : {step, -step}) {
                    if (left || !look(side) || !(at.value - value > std::fmax(-0.1 * curvature * step * step, 20 * epsilon * std::fabs(at.value)))) continue;
                    at.length = std::fmax(step, 1e-3);
                    at.status = Status::max_iter;
                    accept(step);
                    left = true;
                }
            }
            if (!left) {
                at.indefinite = true;
                return;
            }
            if (at.status == Status::stopped) return;
            continue;
        }
        const double length = norm(at.g);
        const bool edge = conjugate_gradients(f, at.x, at.g, at.length, std::fmin(0.1, std::sqrt(length)), d, r);
        const double reach = norm(d);
        if (reach <= 4 * epsilon * norm(at.x) || at.length < 1e-200) {
            at.status = Status::stalled;
            return;
        }
        Vector hd(d.size());
        f.product(at.x.data(), d.data(), hd.data());
        const double model = -dot(at.g, d) - 0.5 * dot(d, hd);
        const bool finite = look(1);
        const double rounding = 10 * epsilon * std::fmax(std::fabs(at.value), std::fabs(value)), fall = at.value - value;
        const bool level = finite && std::fabs(fall) <= rounding && model <= 1e3 * rounding;
        const double ratio = finite && model > 0 ? fall / model : -1;
        if (level ? norm(g) < length : ratio > 0.05) {
            if (level || (ratio > 0.75 && edge)) at.length = std::fmax(at.length, 3 * reach);
            if (!level && ratio < 0.25) at.length = std::fmin(at.length, reach);
            accept(reach);
            if (at.status == Status::stopped) return;
        } else {
            at.length = (finite ? 0.3 : 0.1) * reach;
        }
    }
}

}  // namespace raphson
