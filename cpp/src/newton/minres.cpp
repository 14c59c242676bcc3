#include "newton/minres.h"

#include <algorithm>
#include <cmath>

#include "common/threads.h"
#include "newton/vector.h"

namespace raphson {

using std::int64_t;

int64_t minres(int64_t n, const LinearMap& a, const LinearMap& precondition, const double* rhs, double goal, int64_t max_iter,
               double* x, double* residual) {
    const auto size = static_cast<std::size_t>(n);
    std::vector<double> r(size), r1(size), r2(size), y(size), v(size), w(size), w1(size), w2(size), best(x, x + n);
    int64_t used = 0;
    const auto measure = [&](const double* at) {
        a(at, r.data());
        ++used;
        for (std::size_t i = 0; i < size; ++i) r[i] = rhs[i] - r[i];
        return std::sqrt(dot(r, r));
    };
    *residual = measure(x);
    bool alive = true;
    while (alive && *residual > goal && used < max_iter) {  // again from what was reached, where the recurrence deceived itself
        const double from = *residual;
        std::copy(r.begin(), r.end(), r1.begin());
        const auto apply = [&](const std::vector<double>& in, std::vector<double>& out) {
            if (precondition) {
                precondition(in.data(), out.data());
            } else {
                out = in;
            }
        };
        apply(r1, y);
        double beta = std::sqrt(std::fmax(dot(r1, y), 0.0));
        if (!(beta > 0) || !std::isfinite(beta)) break;
        const double start = beta;
        r2 = r1;
        std::fill(w.begin(), w.end(), 0.0);
        w2 = w;
        double old_beta = 0, dbar = 0, epsln = 0, phibar = beta, cs = -1, sn = 0;
        for (int64_t step = 1; used < max_iter; ++step) {
            poll_or_throw();
            for (std::size_t i = 0; i < size; ++i) v[i] = y[i] / beta;
            a(v.data(), y.data());
            ++used;
            if (step >= 2) {
                for (std::size_t i = 0; i < size; ++i) y[i] -= beta / old_beta * r1[i];
            }
            const double alfa = dot(v, y);
            for (std::size_t i = 0; i < size; ++i) y[i] -= alfa / beta * r2[i];
            r1.swap(r2);
            r2 = y;
            apply(r2, y);
            old_beta = beta;
            beta = std::sqrt(std::fmax(dot(r2, y), 0.0));
            const double old_eps = epsln, delta = cs * dbar + sn * alfa, gbar = sn * dbar - cs * alfa;
            epsln = sn * beta;
            dbar = -cs * beta;
            const double gamma = std::fmax(std::hypot(gbar, beta), 1e-300);
            cs = gbar / gamma;
            sn = beta / gamma;
            const double phi = cs * phibar;
            phibar *= sn;
            w1.swap(w2);
            w2.swap(w);
            for (std::size_t i = 0; i < size; ++i) {
                w[i] = (v[i] - old_eps * w1[i] - delta * w2[i]) / gamma;
                x[i] += phi * w[i];
            }
            const bool small = phibar * from <= 0.5 * goal * start, ended = !(beta > 1e-15 * start) || step >= 4 * n;
            if (small || ended || step % 64 == 0) {  // the estimate is the preconditioner's norm: look
                const double now = measure(x);
                if (!std::isfinite(now)) break;
                if (now < *residual) {
                    *residual = now;
                    std::copy(x, x + n, best.begin());
                }
                if (*residual <= goal || small || ended) break;
            }
        }
        if (!std::isfinite(*residual)) break;
        std::copy(best.begin(), best.end(), x);
        if (*residual > goal) measure(x);
        alive = *residual < 0.5 * from;
    }
    std::copy(best.begin(), best.end(), x);
    return used;
}

}  // namespace raphson
