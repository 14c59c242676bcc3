#include "dense/blocks.h"

#include <cmath>
#include <utility>

#include "dense/vectors.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

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

void solve_triangle(const double* t, int64_t ld, int64_t n, bool upper, bool transposed, double* x) {
    const bool forward = upper == transposed;
    for (int64_t step = 0; step < n; ++step) {
        const int64_t i = forward ? step : n - 1 - step;
        const double* const row = t + i * ld;
        const int64_t from = upper ? i + 1 : 0, count = upper ? n - i - 1 : i;
        if (transposed) {
            x[i] /= row[i];
            subtract(count, x[i], row + from, x + from);
        } else {
            x[i] = (x[i] - dot(count, row + from, x + from)) / row[i];
        }
    }
}

void upper_times(const double* t, int64_t ld, int64_t n, bool transposed, const double* x, double* y) {
    if (!transposed) {
        for (int64_t i = 0; i < n; ++i) y[i] = dot(n - i, t + i * ld + i, x + i);
        return;
    }
    for (int64_t i = 0; i < n; ++i) y[i] = 0;
    for (int64_t i = 0; i < n; ++i) subtract(n - i, -x[i], t + i * ld + i, y + i);
}

double norm(int64_t n, const double* x) {
    const double squares = dot(n, x, x);
    if (squares > 1e-280 && squares < 1e280) return std::sqrt(squares);
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
    if (!(largest > 0) || !std::isfinite(largest)) return largest;
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += (x[i] / largest) * (x[i] / largest);
    return largest * std::sqrt(sum);
}

void reflect(double* p, int64_t ldp, int64_t count, int64_t h, double* tau) {
    for (int64_t j = 0; j < count && j < h; ++j) {
        double* const v = p + j * ldp + j;
        const int64_t below = h - j - 1;
        const double tail = norm(below, v + 1), head = v[0];
        tau[j] = 0;
        if (tail == 0) continue;
        const double length = std::hypot(head, tail), to = head > 0 ? -length : length;
        tau[j] = (to - head) / to;
        for (int64_t i = 1; i <= below; ++i) v[i] /= head - to;  // no reciprocal: it may overflow
        v[0] = to;
        for (int64_t k = j + 1; k < count; ++k) {
            double* const column = p + k * ldp + j;
            const double product = tau[j] * (column[0] + dot(below, v + 1, column + 1));
            column[0] -= product;
            subtract(below, product, v + 1, column + 1);
        }
    }
    for (int64_t j = h; j < count; ++j) tau[j] = 0;
}

int64_t largest_entry(int64_t n, const double* x) {
    constexpr int width = Vec<double>::width;
    Vec<double> most = zero<double>();
    int64_t i = 0;
    for (; i + width <= n; i += width) {
        const Vec<double> entries = load(x + i);
        most = max(most, max(entries, mul(entries, splat(-1.0))));
    }
    double lanes[width], top = 0;
    store(lanes, most);
    for (const double lane : lanes) top = lane > top ? lane : top;
    for (; i < n; ++i) top = std::fabs(x[i]) > top ? std::fabs(x[i]) : top;
    for (i = 0; i < n; ++i) {
        if (std::fabs(x[i]) == top) return i;
    }
    return 0;  // NaN alone
}

bool eliminate(double* a, int64_t lda, int64_t count, int64_t n, int64_t first, int64_t* pivots) {
    for (int64_t r = 0; r < count; ++r) {
        double* const row = a + r * lda;
        const int64_t at = first + r, from = at + largest_entry(n - at, row + at);
        pivots[r] = from;
        for (int64_t i = 0; i < count && from != at; ++i) std::swap(a[i * lda + at], a[i * lda + from]);
        const double pivot = row[at];
        if (!(std::fabs(pivot) > 0) || !std::isfinite(pivot)) return false;
        for (int64_t j = 0; j < n; ++j) row[j] /= pivot;
        row[at] = 1 / pivot;
        for (int64_t i = 0; i < count; ++i) {
            if (i == r) continue;
            double* const other = a + i * lda;
            const double factor = other[at];
            other[at] = 0;
            subtract(n, factor, row, other);
        }
    }
    return true;
}

}  // namespace

extern const DenseTable dense_table;
const DenseTable dense_table{factor_block,   solve_rows,  solve_columns, solve_triangle,
                             upper_times, reflect,     eliminate};

RAPHSON_ISA_END
