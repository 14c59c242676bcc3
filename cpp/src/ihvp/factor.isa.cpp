// The window's small dense triangle in float64: its factor by columns in a ring.
#include "ihvp/factor.h"

#include <algorithm>
#include <cmath>

#include "dense/vectors.h"
#include "ihvp/stored.h"

RAPHSON_ISA_BEGIN

using std::int64_t;

namespace {

constexpr double* column(double* factor, int64_t capacity, int64_t head, int64_t t) {
    const int64_t slot = head + t;
    return factor + (slot < capacity ? slot : slot - capacity) * capacity;
}

}  // namespace

void factor_forward(double* factor, int64_t capacity, int64_t head, int64_t n, double* v, double* b) {
    for (int64_t t = 0; t < n; ++t) {
        double* const c = column(factor, capacity, head, t);
        const int64_t below = n - t;  // entries of the column, the diagonal first
        if (v == nullptr) {
            b[t] /= c[0];
            subtract(below - 1, b[t], c + 1, b + t + 1);
            continue;
        }
        const double pivot = std::sqrt(c[0] * c[0] + v[t] * v[t]);
        const double cosine = pivot / c[0], sine = v[t] / c[0], inverse = c[0] / pivot;
        c[0] = pivot;
        b[t] /= pivot;
        const Vec<double> vs = splat(sine), vi = splat(inverse), vc = splat(cosine), vm = splat(-sine), vb = splat(-b[t]);
        int64_t i = 1;
        for (; i + pd <= below; i += pd) {
            const Vec<double> old = load(v + t + i);
            const Vec<double> fresh = mul(fma(vs, old, load(c + i)), vi);
            store(c + i, fresh);
            store(v + t + i, fma(vm, fresh, mul(vc, old)));
            store(b + t + i, fma(vb, fresh, load(b + t + i)));
        }
        for (; i < below; ++i) {
            c[i] = (c[i] + sine * v[t + i]) * inverse;
            v[t + i] = cosine * v[t + i] - sine * c[i];
            b[t + i] -= b[t] * c[i];
        }
    }
}

void factor_backward(const double* factor, int64_t capacity, int64_t head, int64_t n, double* b) {
    for (int64_t t = n - 1; t >= 0; --t) {
        const double* const c = column(const_cast<double*>(factor), capacity, head, t);
        b[t] = (b[t] - dot(n - t - 1, c + 1, b + t + 1)) / c[0];
    }
}

RAPHSON_ISA_END
