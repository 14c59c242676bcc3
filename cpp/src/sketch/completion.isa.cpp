#include <algorithm>
#include <cmath>

#include "common/simd_double.h"
#include "common/workspace.h"
#include "isa.h"
#include "sketch/completion_passes.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

constexpr int wide = Vec<double>::width;
#if defined(RAPHSON_SIMD_AVX512)
constexpr int tile_rows = 8;
#else
constexpr int tile_rows = 4;
#endif
constexpr int64_t panel_numbers = 2560;  // of gathered rows: 20 KB, which the first-level cache keeps
constexpr int64_t most_panel = 128;
constexpr int64_t ahead = 12;  // entries whose row of the factor is on its way

static_assert(factor_unit % wide == 0 && factor_unit % tile_rows == 0, "padded rows are whole tiles");

// Lane q: the sum over the lanes of x[q].
RAPHSON_FORCE_INLINE Vec<double> lane_sums(Vec<double> (&x)[wide]) {
    transpose(x);
    for (int step = wide / 2; step > 0; step /= 2) {
        for (int q = 0; q < step; ++q) x[q] = add(x[q], x[q + step]);
    }
    return x[0];
}

RAPHSON_FORCE_INLINE void fetch_row(const double* row, int64_t ld) {
    for (int64_t j = 0; j < ld; j += 8) prefetch(row + j);
}

// x (count × ld) and r of some entries; adds to the sums. As many entries as a register has lanes at a time, so that their
// sums over lanes are one transposition.
template <class T>
void gather_part(const RowEntries& row, int64_t first, int64_t count, const double* u, double* x, double* r, RowSums& sums) {
    const T* const values = static_cast<const T*>(row.values) + first;
    const std::int32_t* const index = row.index + first;
    const int64_t ld = row.ld, left = row.count - first;
    Vec<double> squares = zero<double>(), errors = zero<double>(), numbers = zero<double>();
    for (int64_t p = 0; p < count; p += wide) {
        const int here = static_cast<int>(std::min<int64_t>(wide, count - p));
        Vec<double> sum[wide];
        RAPHSON_UNROLL
        for (int q = 0; q < wide; ++q) sum[q] = zero<double>();
        for (int q = 0; q < here; ++q) {
            if (p + q + ahead < left) fetch_row(row.factor + index[p + q + ahead] * ld, ld);
            const double* const v = row.factor + index[p + q] * ld;
            double* const to = x + (p + q) * ld;
            Vec<double> product = zero<double>();
            for (int64_t j = 0; j < ld; j += wide) {
                const Vec<double> entry = load(v + j);
                store(to + j, entry);
                product = fma(entry, load(u + j), product);
                squares = fma(entry, entry, squares);
            }
            sum[q] = product;
        }
        const Vec<double> a = here == wide ? load_wide(values + p) : load_wide_part(values + p, here);
        const Vec<double> error = subtract(a, lane_sums(sum));
        store_part(r + p, error, here);
        errors = fma(error, error, errors);
        numbers = fma(a, a, numbers);
    }
    sums.errors += sum_lanes(errors);
    sums.values += sum_lanes(numbers);
    sums.factor += sum_lanes(squares);
}

// C vectors of g += Σ r x.
template <int C>
RAPHSON_FORCE_INLINE void add_products(int64_t count, int64_t ld, const double* x, const double* r, double* g) {
    Vec<double> sum[C];
    RAPHSON_UNROLL
    for (int c = 0; c < C; ++c) sum[c] = load(g + c * wide);
    for (int64_t p = 0; p < count; ++p) {
        const Vec<double> factor = splat(r[p]);
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) sum[c] = fma(factor, load(x + p * ld + c * wide), sum[c]);
    }
    RAPHSON_UNROLL
    for (int c = 0; c < C; ++c) store(g + c * wide, sum[c]);
}

// tile_rows rows from i on by C vectors from column j on of gram += Σ x xᵀ; and with r (the first rows' tiles) the same
// vectors of g += Σ r x, as one row more.
template <int C, bool WithG>
RAPHSON_FORCE_INLINE void add_tile(int64_t count, int64_t ld, const double* x, const double* r, int64_t i, int64_t j, double* gram, double* g) {
    Vec<double> sum[tile_rows][C], extra[C];
    RAPHSON_UNROLL
    for (int q = 0; q < tile_rows; ++q) {
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) sum[q][c] = load(gram + (i + q) * ld + j + c * wide);
    }
    RAPHSON_UNROLL
    for (int c = 0; c < C; ++c) extra[c] = WithG ? load(g + j + c * wide) : zero<double>();
    for (int64_t p = 0; p < count; ++p) {
        const double* const v = x + p * ld;
        Vec<double> right[C];
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) right[c] = load(v + j + c * wide);
        RAPHSON_UNROLL
        for (int q = 0; q < tile_rows; ++q) {
            const Vec<double> left = splat(v[i + q]);
            RAPHSON_UNROLL
            for (int c = 0; c < C; ++c) sum[q][c] = fma(left, right[c], sum[q][c]);
        }
        if (WithG) {
            const Vec<double> left = splat(r[p]);
            RAPHSON_UNROLL
            for (int c = 0; c < C; ++c) extra[c] = fma(left, right[c], extra[c]);
        }
    }
    RAPHSON_UNROLL
    for (int q = 0; q < tile_rows; ++q) {
        RAPHSON_UNROLL
        for (int c = 0; c < C; ++c) store(gram + (i + q) * ld + j + c * wide, sum[q][c]);
    }
    if (!WithG) return;
    RAPHSON_UNROLL
    for (int c = 0; c < C; ++c) store(g + j + c * wide, extra[c]);
}

// Columns from the diagonal on.
template <bool WithG>
void add_rows(int64_t count, int64_t ld, const double* x, const double* r, int64_t i, double* gram, double* g) {
    int64_t j = i;
    for (; j + 2 * wide <= ld; j += 2 * wide) add_tile<2, WithG>(count, ld, x, r, i, j, gram, g);
    for (; j < ld; j += wide) add_tile<1, WithG>(count, ld, x, r, i, j, gram, g);
}

void add_gram(int64_t count, int64_t ld, const double* x, const double* r, double* gram, double* g) {
    add_rows<true>(count, ld, x, r, 0, gram, g);
    for (int64_t i = tile_rows; i < ld; i += tile_rows) add_rows<false>(count, ld, x, r, i, gram, g);
}

void add_gradient(int64_t count, int64_t ld, const double* x, const double* r, double* g) {
    int64_t j = 0;
    for (; j + 4 * wide <= ld; j += 4 * wide) add_products<4>(count, ld, x + j, r, g + j);
    for (; j < ld; j += wide) add_products<1>(count, ld, x + j, r, g + j);
}

template <class T>
RowSums pass(const RowEntries& row, const double* u, double* g, double* gram) {
    alignas(64) double x[panel_numbers], r[most_panel];
    const int64_t ld = row.ld, panel = std::max<int64_t>(1, std::min(most_panel, panel_numbers / ld));
    RowSums sums;
    std::fill_n(g, ld, 0.0);
    if (gram != nullptr) std::fill_n(gram, ld * ld, 0.0);
    for (int64_t first = 0; first < row.count; first += panel) {
        const int64_t count = std::min(panel, row.count - first);
        gather_part<T>(row, first, count, u, x, r, sums);
        if (gram != nullptr) {
            add_gram(count, ld, x, r, gram, g);
        } else {
            add_gradient(count, ld, x, r, g);
        }
    }
    return sums;
}

// Factors of more columns than a panel holds.
template <class T>
RowSums wide_pass(const RowEntries& row, const double* u, double* g, double* gram) {
    RowSums sums;
    const int64_t ld = row.ld;
    const T* const values = static_cast<const T*>(row.values);
    std::fill_n(g, ld, 0.0);
    if (gram != nullptr) std::fill_n(gram, ld * ld, 0.0);
    for (int64_t p = 0; p < row.count; ++p) {
        const double* const v = row.factor + row.index[p] * ld;
        Vec<double> sum = zero<double>(), square = zero<double>();
        for (int64_t j = 0; j < ld; j += wide) {
            sum = fma(load(v + j), load(u + j), sum);
            square = fma(load(v + j), load(v + j), square);
        }
        sums.factor += sum_lanes(square);
        const double a = static_cast<double>(values[p]), r = a - sum_lanes(sum);
        sums.errors += r * r;
        sums.values += a * a;
        if (gram != nullptr) {
            add_gram(1, ld, v, &r, gram, g);
        } else {
            add_gradient(1, ld, v, &r, g);
        }
    }
    return sums;
}

RowSums row_pass(const RowEntries& row, const double* u, double* g, double* gram) {
    const bool f64 = row.type == DType::float64;
    if (row.ld > panel_numbers) return f64 ? wide_pass<double>(row, u, g, gram) : wide_pass<float>(row, u, g, gram);
    return f64 ? pass<double>(row, u, g, gram) : pass<float>(row, u, g, gram);
}

// Right-looking, so that all but k square roots and divisions is done on whole registers: numbers below the diagonal that
// share one with it are changed too, and never read. The right-hand side goes along as one column more.
bool solve(double* gram, int64_t ld, int64_t k, double ridge, double floor, double* g) {
    Workspace scratch;
    double* const z = scratch.take_array<double>(ld);
    double* const inverse = scratch.take_array<double>(ld);
    for (int64_t j = 0; j < k; ++j) gram[j * ld + j] += ridge;
    for (int64_t j = 0; j < k; ++j) {
        double* const pivot_row = gram + j * ld;
        if (!(pivot_row[j] > floor)) return false;
        const int64_t from = j / wide * wide;
        inverse[j] = 1 / std::sqrt(pivot_row[j]);
        z[j] = g[j] * inverse[j];
        const Vec<double> scale = splat(inverse[j]), minus_z = splat(-z[j]);
        for (int64_t c = from; c < ld; c += wide) {
            const Vec<double> here = mul(load(pivot_row + c), scale);
            store(pivot_row + c, here);
            store(g + c, fma(minus_z, here, load(g + c)));
        }
        for (int64_t i = j + 1; i < k; ++i) {
            double* const row = gram + i * ld;
            const Vec<double> minus = splat(-pivot_row[i]);
            for (int64_t c = i / wide * wide; c < ld; c += wide) store(row + c, fma(minus, load(pivot_row + c), load(row + c)));
        }
    }
    std::fill_n(g, ld, 0.0);
    for (int64_t j = k - 1; j >= 0; --j) {
        Vec<double> sum = zero<double>();
        for (int64_t c = j / wide * wide; c < ld; c += wide) sum = fma(load(gram + j * ld + c), load(g + c), sum);
        g[j] = (z[j] - sum_lanes(sum)) * inverse[j];
    }
    return true;
}

void gather(const RowEntries& row, const double* u, double* x, double* r) {
    RowSums sums;
    if (row.type == DType::float64) {
        gather_part<double>(row, 0, row.count, u, x, r, sums);
    } else {
        gather_part<float>(row, 0, row.count, u, x, r, sums);
    }
}

}  // namespace

extern const CompletionTable completion_table;
const CompletionTable completion_table{row_pass, gather, solve};

RAPHSON_ISA_END
