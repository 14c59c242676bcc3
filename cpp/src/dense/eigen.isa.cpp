// Symmetric eigenvalues: the level-2 part of the tridiagonal form, and rotations.
#include <cmath>

#include "dense/blocks.h"
#include "dense/eigen_passes.h"
#include "dense/vectors.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

// y = A x by the upper triangle alone: each row read once, for its own sum and for the columns' share. Registers are filled
// from multiples of their width on, counted `before` columns further left: where rows begin at cache lines, none spans two.
// From the last row up: x begins with a 1, larger than the rest, and what is added last is rounded over least often.
void symmetric_times(const double* a, int64_t lda, int64_t n, int64_t before, const double* x, double* y) {
    constexpr int width = Vec<double>::width;
    constexpr int rows = 4;
    for (int64_t i = 0; i < n; ++i) y[i] = 0;
    int64_t i = n - 1;
    for (; (i + 1) % rows != 0; --i) {
        y[i] += a[i * lda + i] * x[i];
        for (int64_t j = i + 1; j < n; ++j) {
            y[i] += a[i * lda + j] * x[j];
            y[j] += a[i * lda + j] * x[i];
        }
    }
    for (i -= rows - 1; i >= 0; i -= rows) {
        const double* const r = a + i * lda;
        for (int p = 0; p < rows; ++p) {
            y[i + p] += r[p * lda + i + p] * x[i + p];
            for (int q = p + 1; q < rows; ++q) {
                y[i + p] += r[p * lda + i + q] * x[i + q];
                y[i + q] += r[p * lda + i + q] * x[i + p];
            }
        }
        Vec<double> factor[rows], sum[rows];
        RAPHSON_UNROLL
        for (int p = 0; p < rows; ++p) {
            factor[p] = splat(x[i + p]);
            sum[p] = zero<double>();
        }
        int64_t j = i + rows;
        const auto one_by_one = [&](int64_t to) {
            for (; j < to; ++j) {
                for (int p = 0; p < rows; ++p) {
                    y[i + p] += r[p * lda + j] * x[j];
                    y[j] += r[p * lda + j] * x[i + p];
                }
            }
        };
        const int64_t whole = (before + j + width - 1) / width * width - before;
        one_by_one(whole < n ? whole : n);
        for (; j + width <= n; j += width) {
            const Vec<double> right = load(x + j);
            Vec<double> to = zero<double>();
            RAPHSON_UNROLL
            for (int p = rows - 1; p >= 0; --p) {
                const Vec<double> entries = load(r + p * lda + j);
                sum[p] = fma(entries, right, sum[p]);
                to = fma(entries, factor[p], to);
            }
            store(y + j, add(load(y + j), to));
        }
        for (int p = 0; p < rows; ++p) y[i + p] += sum_lanes(sum[p]);
        one_by_one(n);
    }
}

}  // namespace

void tridiagonal_panel(const double* a, int64_t lda, int64_t n, int64_t count, double* d, double* e, double* tau, double* v,
                       double* w) {
    constexpr int64_t most = 64;
    double left[most], right[most];
    for (int64_t j = 0; j < count; ++j) {
        double* const reflector = v + j * n;
        double* const row = w + j * n;  // first the column as it is by now
        for (int64_t q = 0; q < j; ++q) {
            left[q] = v[q * n + j];
            right[q] = w[q * n + j];
        }
        for (int64_t i = 0; i < n; ++i) {
            row[i] = i < j ? 0.0 : a[j * lda + i];
            reflector[i] = 0;
        }
        subtract_many(n - j, j, left, w + j, n, row + j);
        subtract_many(n - j, j, right, v + j, n, row + j);
        d[j] = row[j];
        tau[j] = e[j] = 0;
        const int64_t at = j + 1, below = n - at;
        if (below == 0) {
            row[j] = 0;
            break;
        }
        const double head = row[at], squares = dot(below - 1, row + at + 1, row + at + 1), tail = std::sqrt(squares);
        e[j] = head;
        row[j] = 0;
        if (squares < 1e-200) {  // nothing to annihilate, beside a norm of 1; smaller squares would lose digits
            for (int64_t i = at; i < n; ++i) row[i] = 0;
            continue;
        }
        const double length = std::sqrt(head * head + tail * tail), to = head > 0 ? -length : length;
        e[j] = to;
        tau[j] = (to - head) / to;
        const double factor = head - to;
        reflector[at] = 1;
        for (int64_t i = at + 1; i < n; ++i) reflector[i] = row[i] / factor;
        symmetric_times(a + at * lda + at, lda, below, at, reflector + at, row + at);
        dot_many(below, j, w + at, n, reflector + at, left);
        dot_many(below, j, v + at, n, reflector + at, right);
        subtract_many(below, j, left, v + at, n, row + at);
        subtract_many(below, j, right, w + at, n, row + at);
        const double half = 0.5 * tau[j] * dot(below, row + at, reflector + at);
        for (int64_t i = at; i < n; ++i) row[i] = tau[j] * (row[i] - half * reflector[i]);
    }
}

namespace {

constexpr int width = Vec<double>::width;
constexpr int vectors = static_cast<int>(rotated_rows) / width;
constexpr int fused = 4;

struct Column {
    Vec<double> v[vectors];
};
RAPHSON_FORCE_INLINE Column load_column(const double* p) {
    Column x;
    RAPHSON_UNROLL
    for (int q = 0; q < vectors; ++q) x.v[q] = load(p + q * width);
    return x;
}
RAPHSON_FORCE_INLINE void store_column(double* p, const Column& x) {
    RAPHSON_UNROLL
    for (int q = 0; q < vectors; ++q) store(p + q * width, x.v[q]);
}
// x is column i, carry column i + 1; afterwards x is column i + 1 and carry column i, both turned.
RAPHSON_FORCE_INLINE void turn(const double* rotation, Column& x, Column& carry) {
    const Vec<double> c = splat(rotation[0]), s = splat(rotation[1]), minus = splat(rotation[2]);
    RAPHSON_UNROLL
    for (int q = 0; q < vectors; ++q) {
        const Vec<double> above = fma(s, x.v[q], mul(c, carry.v[q]));
        carry.v[q] = fma(c, x.v[q], mul(minus, carry.v[q]));
        x.v[q] = above;
    }
}

void rotate_once(double* rows, const double* rotations, const RotationSweep& sweep) {
    const double* rotation = rotations + 3 * sweep.start;
    Column carry = load_column(rows + sweep.last * rotated_rows);
    int64_t i = sweep.last - 1;
    for (; i >= sweep.first; --i, rotation += 3) {
        Column x = load_column(rows + i * rotated_rows);
        turn(rotation, x, carry);
        store_column(rows + (i + 1) * rotated_rows, x);
    }
    store_column(rows + (i + 1) * rotated_rows, carry);
}

// Four sweeps that begin at the same column and end no lower than the first of them: sweep k works on column t + k while
// the first works on column t. Where one has ended it passes columns on (c = 1, s = 0).
void rotate_fused(double* rows, const double* rotations, const RotationSweep* sweeps) {
    static constexpr double pass[3] = {1, 0, 0};
    const int64_t last = sweeps[0].last, lowest = sweeps[0].first;
    const auto rotation_of = [&](int k, int64_t i) {
        return i < sweeps[k].first ? pass : rotations + 3 * (sweeps[k].start + last - 1 - i);
    };
    Column carry[fused];
    // Column t enters; column t + k reaches sweep k. Gives the sweep that kept it, or `fused` if it came through.
    const auto step = [&](int from, int64_t t, Column x) {
        for (int k = from; k < fused; ++k) {
            if (t + k == last) {
                carry[k] = x;
                return;
            }
            turn(rotation_of(k, t + k), x, carry[k]);
        }
        store_column(rows + (t + fused) * rotated_rows, x);
    };
    int64_t t = last;
    for (; t >= lowest && t > last - fused; --t) step(0, t, load_column(rows + t * rotated_rows));
    int64_t all = lowest;  // down to here every sweep still turns
    for (int k = 0; k < fused; ++k) all = sweeps[k].first - k > all ? sweeps[k].first - k : all;
    if (t >= all) {
        Column c0 = carry[0], c1 = carry[1], c2 = carry[2], c3 = carry[3];
        const double* r0 = rotation_of(0, t);
        const double* r1 = rotation_of(1, t + 1);
        const double* r2 = rotation_of(2, t + 2);
        const double* r3 = rotation_of(3, t + 3);
        for (; t >= all; --t, r0 += 3, r1 += 3, r2 += 3, r3 += 3) {
            Column x = load_column(rows + t * rotated_rows);
            turn(r0, x, c0);
            turn(r1, x, c1);
            turn(r2, x, c2);
            turn(r3, x, c3);
            store_column(rows + (t + fused) * rotated_rows, x);
        }
        carry[0] = c0;
        carry[1] = c1;
        carry[2] = c2;
        carry[3] = c3;
    }
    for (; t >= lowest; --t) step(0, t, load_column(rows + t * rotated_rows));
    for (int k = 0; k + 1 < fused; ++k) step(k + 1, lowest - k - 1, carry[k]);  // what the sweeps still carry
    store_column(rows + lowest * rotated_rows, carry[fused - 1]);
}

void gather(const double* x, int64_t n, int64_t count, double* rows, bool back) {
    double* const whole = const_cast<double*>(x);
    for (int64_t i = 0; i < n; ++i) {
        double* const here = whole + i * n;
        double* const there = rows + i * rotated_rows;
        if (count == rotated_rows) {
            store_column(back ? here : there, load_column(back ? there : here));
            continue;
        }
        for (int64_t q = 0; q < rotated_rows; ++q) {
            if (!back) {
                there[q] = q < count ? here[q] : 0.0;
            } else if (q < count) {
                here[q] = there[q];
            }
        }
    }
}

}  // namespace

void rotate(double* x, int64_t n, int64_t from, const double* rotations, const RotationSweep* sweeps, int64_t count,
            double* rows) {
    const int64_t columns = n - from < rotated_rows ? n - from : rotated_rows;
    gather(x + from, n, columns, rows, false);
    for (int64_t k = 0; k < count;) {
        bool together = k + fused <= count;
        for (int q = 1; together && q < fused; ++q) {
            together = sweeps[k + q].last == sweeps[k].last && sweeps[k + q].first >= sweeps[k].first;
        }
        // The pipeline needs as many columns as it has sweeps.
        together = together && sweeps[k].last - sweeps[k].first >= fused;
        if (together) {
            rotate_fused(rows, rotations, sweeps + k);
        } else {
            rotate_once(rows, rotations, sweeps[k]);
        }
        k += together ? fused : 1;
    }
    gather(x + from, n, columns, rows, true);
}

RAPHSON_ISA_END
