// Small dense triangles in float64: the window's factor by columns in a ring, and the blocks of a blocked Cholesky.
#include "ihvp/factor.h"

#include <algorithm>
#include <cmath>

#include "ihvp/stored.h"

RAPHSON_ISA_BEGIN

using std::int64_t;

namespace {

constexpr double* column(double* factor, int64_t capacity, int64_t head, int64_t t) {
    const int64_t slot = head + t;
    return factor + (slot < capacity ? slot : slot - capacity) * capacity;
}

// y -= a·x
void subtract(int64_t n, double a, const double* x, double* y) {
    const Vec<double> minus = splat(-a);
    int64_t i = 0;
    for (; i + pd <= n; i += pd) store(y + i, fma(minus, load(x + i), load(y + i)));
    for (; i < n; ++i) y[i] -= a * x[i];
}

double dot(int64_t n, const double* x, const double* y) {
    Vec<double> sums[4] = {zero<double>(), zero<double>(), zero<double>(), zero<double>()};
    int64_t i = 0;
    for (; i + 4 * pd <= n; i += 4 * pd) {
        RAPHSON_UNROLL
        for (int q = 0; q < 4; ++q) sums[q] = fma(load(x + i + q * pd), load(y + i + q * pd), sums[q]);
    }
    for (; i + pd <= n; i += pd) sums[0] = fma(load(x + i), load(y + i), sums[0]);
    double sum = sum_lanes(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
    for (; i < n; ++i) sum += x[i] * y[i];
    return sum;
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

int64_t factor_block(double* a, int64_t lda, int64_t n, double floor) {
    int64_t raised = 0;
    for (int64_t i = 0; i < n; ++i) {
        double* const row = a + i * lda;
        for (int64_t j = 0; j < i; ++j) row[j] = (row[j] - dot(j, row, a + j * lda)) / a[j * lda + j];
        double pivot = row[i] - dot(i, row, row);
        if (!(pivot >= floor)) {
            pivot = floor;
            ++raised;
        }
        row[i] = std::sqrt(pivot);
    }
    return raised;
}

void solve_rows(const double* l, int64_t ldl, int64_t n, double* x, int64_t ldx, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
        double* const row = x + i * ldx;
        for (int64_t j = 0; j < n; ++j) row[j] = (row[j] - dot(j, row, l + j * ldl)) / l[j * ldl + j];
    }
}

void solve_columns(const double* l, int64_t ldl, int64_t n, bool transposed, double* x, int64_t ldx, int64_t cols) {
    for (int64_t step = 0; step < n; ++step) {
        const int64_t j = transposed ? n - 1 - step : step;
        double* const row = x + j * ldx;
        for (int64_t i = transposed ? j + 1 : 0; i < (transposed ? n : j); ++i) {
            subtract(cols, transposed ? l[i * ldl + j] : l[j * ldl + i], x + i * ldx, row);
        }
        for (int64_t c = 0; c < cols; ++c) row[c] /= l[j * ldl + j];
    }
}

RAPHSON_ISA_END
