#include "dense/blocks.h"

#include <cmath>
#include <utility>

#include "common/workspace.h"
#include "dense/eigen_passes.h"
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

constexpr int64_t absorbed = 8;  // pivot rows at once, at most

bool eliminate(double* a, int64_t lda, int64_t count, int64_t n, int64_t first, int64_t* pivots, double* kept) {
    constexpr int width = Vec<double>::width;
    for (int64_t r = 0; r < count; ++r) {
        double* const row = a + r * lda;
        const int64_t at = first + r, from = at + largest_entry(n - at, row + at);
        pivots[r] = from;
        for (int64_t i = 0; i < count && from != at; ++i) std::swap(a[i * lda + at], a[i * lda + from]);
        for (int64_t i = 0; i < r && from != at; ++i) std::swap(kept[i * n + at], kept[i * n + from]);
        const double pivot = row[at];
        const double inverse = 1 / pivot;
        if (!(std::fabs(inverse) > 0) || !std::isfinite(inverse)) return false;
        row[at] = 1;
        double minus[absorbed];
        for (int64_t i = 0; i < count; ++i) {
            double* const other = a + i * lda;
            minus[i] = i == r ? 0.0 : -other[at];
            if (i != r) other[at] = 0;
        }
        double* const copy = kept + r * n;
        int64_t j = 0;
        if (count == absorbed) {
            Vec<double> factor[absorbed];
            RAPHSON_UNROLL
            for (int i = 0; i < absorbed; ++i) factor[i] = splat(minus[i]);
            const Vec<double> scale = splat(inverse);
            for (; j + width <= n; j += width) {
                const Vec<double> scaled = mul(load(row + j), scale);
                store(row + j, scaled);
                store(copy + j, scaled);
                RAPHSON_UNROLL
                for (int i = 0; i < absorbed; ++i) {  // with the pivot row itself, times 0
                    store(a + i * lda + j, fma(factor[i], scaled, load(a + i * lda + j)));
                }
            }
        }
        for (; j < n; ++j) {
            copy[j] = row[j] = row[j] * inverse;
            for (int64_t i = 0; i < count; ++i) {
                if (i != r) a[i * lda + j] += minus[i] * copy[j];
            }
        }
    }
    return true;
}

// Pivot rows are met one after the other: row r finds what those before it left in its column.
void absorb_row(double* a, int64_t n, int64_t first, int64_t count, const double* kept) {
    double factor[absorbed];
    double* const own = a + first;
    for (int64_t r = 0; r < count; ++r) {
        factor[r] = own[r];
        for (int64_t q = 0; q < r; ++q) factor[r] -= factor[q] * kept[q * n + first + r];
    }
    double to[absorbed];  // in the pivots' own columns those before r have done their part already
    for (int64_t r = 0; r < count; ++r) {
        to[r] = 0;
        for (int64_t q = r; q < count; ++q) to[r] -= factor[q] * kept[q * n + first + r];
    }
    for (int64_t r = 0; r < count; ++r) subtract(n, factor[r], kept + r * n, a);
    for (int64_t r = 0; r < count; ++r) own[r] = to[r];
}

// The same for as many rows as a vector has lanes and eight pivots; minus[q][r] = −kept[q][first + r].
void absorb_rows(double* a, int64_t lda, int64_t n, int64_t first, const double* kept, const double (&minus)[absorbed][absorbed]) {
    constexpr int width = Vec<double>::width;
    constexpr int pivots = static_cast<int>(absorbed);
    Vec<double> f[pivots], to[pivots];
    double factor[pivots][width];
    RAPHSON_UNROLL
    for (int g = 0; g < pivots; g += width) {
        Vec<double> own[width];
        RAPHSON_UNROLL
        for (int i = 0; i < width; ++i) own[i] = load(a + i * lda + first + g);
        transpose(own);
        RAPHSON_UNROLL
        for (int i = 0; i < width; ++i) f[g + i] = own[i];
    }
    RAPHSON_UNROLL
    for (int r = 0; r < pivots; ++r) {
        for (int q = 0; q < r; ++q) f[r] = fma(splat(minus[q][r]), f[q], f[r]);
        store(factor[r], mul(splat(-1.0), f[r]));
    }
    RAPHSON_UNROLL
    for (int r = 0; r < pivots; ++r) {
        to[r] = zero<double>();
        for (int q = r; q < pivots; ++q) to[r] = fma(splat(minus[q][r]), f[q], to[r]);
    }
    int64_t j = 0;
    for (; j + width <= n; j += width) {
        Vec<double> x[width];
        RAPHSON_UNROLL
        for (int i = 0; i < width; ++i) x[i] = load(a + i * lda + j);
        RAPHSON_UNROLL
        for (int r = 0; r < pivots; ++r) {
            const Vec<double> row = load(kept + r * n + j);
            RAPHSON_UNROLL
            for (int i = 0; i < width; ++i) x[i] = fma(splat(factor[r][i]), row, x[i]);
        }
        RAPHSON_UNROLL
        for (int i = 0; i < width; ++i) store(a + i * lda + j, x[i]);
    }
    for (; j < n; ++j) {
        for (int i = 0; i < width; ++i) {
            for (int r = 0; r < pivots; ++r) a[i * lda + j] += factor[r][i] * kept[r * n + j];
        }
    }
    RAPHSON_UNROLL
    for (int g = 0; g < pivots; g += width) {
        Vec<double> own[width];
        RAPHSON_UNROLL
        for (int i = 0; i < width; ++i) own[i] = to[g + i];
        transpose(own);
        RAPHSON_UNROLL
        for (int i = 0; i < width; ++i) store(a + i * lda + first + g, own[i]);
    }
}

void absorb(double* a, int64_t lda, int64_t rows, int64_t n, int64_t first, int64_t count, const double* kept) {
    constexpr int width = Vec<double>::width;
    int64_t i = 0;
    if (count == absorbed) {
        double minus[absorbed][absorbed];
        for (int64_t q = 0; q < absorbed; ++q) {
            for (int64_t r = 0; r < absorbed; ++r) minus[q][r] = -kept[q * n + first + r];
        }
        for (; i + width <= rows; i += width) absorb_rows(a + i * lda, lda, n, first, kept, minus);
    }
    for (; i < rows; ++i) absorb_row(a + i * lda, n, first, count, kept);
}

double blend_transposed(int64_t n, double a, const double* x, double b, const double* y, double* out) {
    constexpr int width = Vec<double>::width;
    const Vec<double> left = splat(a), right = splat(b);
    Vec<double> squares = zero<double>();
    double rest = 0;
    const auto entry = [&](int64_t i, int64_t j) {
        const double to = a * x[i * n + j] + b * y[j * n + i], step = to - x[i * n + j];
        out[i * n + j] = to;
        rest += step * step;
    };
    const int64_t whole = n / width * width;
    for (int64_t i = 0; i < whole; i += width) {
        for (int64_t j = 0; j < whole; j += width) {
            Vec<double> block[width];
            RAPHSON_UNROLL
            for (int k = 0; k < width; ++k) block[k] = load(y + (j + k) * n + i);
            transpose(block);
            RAPHSON_UNROLL
            for (int k = 0; k < width; ++k) {
                const Vec<double> old = load(x + (i + k) * n + j);
                const Vec<double> to = fma(left, old, mul(right, block[k])), step = subtract(to, old);
                squares = fma(step, step, squares);
                store(out + (i + k) * n + j, to);
            }
        }
        for (int64_t k = i; k < i + width; ++k) {
            for (int64_t j = whole; j < n; ++j) entry(k, j);
        }
    }
    for (int64_t i = whole; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) entry(i, j);
    }
    return sum_lanes(squares) + rest;
}

void norms(int64_t n, const double* x, double* one, double* infinity, double* squares) {
    constexpr int width = Vec<double>::width;
    Workspace scratch;
    double* const columns = scratch.take_array<double>(n);
    for (int64_t j = 0; j < n; ++j) columns[j] = 0;
    *one = *infinity = *squares = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double* const row = x + i * n;
        Vec<double> sum = zero<double>(), square = zero<double>();
        int64_t j = 0;
        for (; j + width <= n; j += width) {
            const Vec<double> entries = load(row + j), magnitude = max(entries, mul(entries, splat(-1.0)));
            sum = add(sum, magnitude);
            square = fma(entries, entries, square);
            store(columns + j, add(load(columns + j), magnitude));
        }
        double row_sum = sum_lanes(sum), row_square = sum_lanes(square);
        for (; j < n; ++j) {
            row_sum += std::fabs(row[j]);
            row_square += row[j] * row[j];
            columns[j] += std::fabs(row[j]);
        }
        *infinity = row_sum > *infinity ? row_sum : *infinity;
        *squares += row_square;
    }
    for (int64_t j = 0; j < n; ++j) *one = columns[j] > *one ? columns[j] : *one;
}

}  // namespace

extern const DenseTable dense_table;
const DenseTable dense_table{factor_block,    solve_rows,  solve_columns,     solve_triangle, upper_times,   subtract_many,
                             dot_many,        reflect,     tridiagonal_panel, rotate,         secular_roots, secular_weights,
                             secular_vectors, blend_transposed, norms,        eliminate,      absorb};

RAPHSON_ISA_END
