// The passes over the caller's arrays: one read for the norm and the finite check, one to bring a matrix into the
// iteration's precision and layout, one to bring the result back.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/simd_double.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "isa.h"
#include "newton_schulz/passes.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

// Elements a task touches: large enough to hide what starting it costs, small enough to share a 256×256 matrix.
constexpr int64_t task_elements = int64_t{1} << 15;
constexpr int64_t tile = 32;  // of the transposing copies: 32×32 doubles stay in L1 on both sides
constexpr int lanes = 16;     // of the sums: the same on every ISA, so their bits are too

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
double value(T x) {
    return static_cast<double>(x);
}
template <>
double value<bfloat16>(bfloat16 x) {
    return static_cast<double>(widen(x));
}
template <class T>
T rounded(double x) {
    return static_cast<T>(x);
}
template <>
bfloat16 rounded<bfloat16>(double x) {
    return narrow(static_cast<float>(x));
}

struct RowBlocks {
    int64_t rows_per_task, tasks;
    RowBlocks(int64_t rows, int64_t cols)
        : rows_per_task(cols == 0 ? rows : (task_elements + cols - 1) / cols),
          tasks(rows == 0 || cols == 0 ? 0 : (rows + rows_per_task - 1) / rows_per_task) {}
};

// ---- scan ----------------------------------------------------------------------------------------------------------

struct Partial {
    double sum, max;
};

// Whole groups of contiguous numbers; returns how many numbers those are.
template <class T>
int64_t scan_groups(const T* x, int64_t n, double inverse_unit, double* sum, double* max) {
    using V = Vec<double>;
    constexpr int vectors = lanes / V::width;
    const V unit = splat(inverse_unit), minus = splat(-1.0);
    V s[vectors], m[vectors];
    RAPHSON_UNROLL
    for (int k = 0; k < vectors; ++k) {
        s[k] = load(sum + k * V::width);
        m[k] = load(max + k * V::width);
    }
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
        RAPHSON_UNROLL
        for (int k = 0; k < vectors; ++k) {
            const V v = mul(load_wide(x + j + k * V::width), unit);
            s[k] = add(s[k], mul(v, v));
            m[k] = raphson::RAPHSON_ISA::max(mul(v, minus), raphson::RAPHSON_ISA::max(v, m[k]));
        }
    }
    RAPHSON_UNROLL
    for (int k = 0; k < vectors; ++k) {
        store(sum + k * V::width, s[k]);
        store(max + k * V::width, m[k]);
    }
    return j;
}

template <class T>
void scan_row(const T* x, int64_t n, int64_t stride, double inverse_unit, double* sum, double* max) {
    for (int64_t j = stride == 1 ? scan_groups(x, n, inverse_unit, sum, max) : 0; j < n; ++j) {
        const double v = value(x[j * stride]) * inverse_unit;
        const double size = std::fabs(v);
        sum[j % lanes] += v * v;
        max[j % lanes] = size > max[j % lanes] ? size : max[j % lanes];
    }
}

// Widened to float32 in pieces, which stay in the cache.
template <>
void scan_row<bfloat16>(const bfloat16* x, int64_t n, int64_t stride, double inverse_unit, double* sum, double* max) {
    constexpr int64_t piece = 16 * lanes;
    float wide[piece];
    for (int64_t j = 0; j < n; j += piece, x += piece * stride) {
        const int64_t count = smaller(piece, n - j);
        for (int64_t l = 0; l < count; ++l) wide[l] = widen(x[l * stride]);
        scan_row(wide, count, 1, inverse_unit, sum, max);
    }
}

struct ScanJob {
    const MatrixRef* x;
    double inverse_unit;
    RowBlocks blocks;
    Partial* partials;
};

template <class T>
void scan_task(void* context, int64_t task) {
    const ScanJob& job = *static_cast<const ScanJob*>(context);
    const MatrixRef& x = *job.x;
    double sum[lanes] = {}, max[lanes] = {};
    const int64_t first = task * job.blocks.rows_per_task;
    const int64_t last = smaller(first + job.blocks.rows_per_task, x.rows);
    for (int64_t i = first; i < last; ++i) {
        scan_row(static_cast<const T*>(x.data) + i * x.row_stride, x.cols, x.col_stride, job.inverse_unit, sum, max);
    }
    for (int width = lanes / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; ++l) {
            sum[l] += sum[l + width];
            max[l] = max[l] > max[l + width] ? max[l] : max[l + width];
        }
    }
    job.partials[task] = {sum[0], max[0]};
}

template <class T>
Partial scan_scaled(const MatrixRef& x, double inverse_unit) {
    ScanJob job{&x, inverse_unit, RowBlocks(x.rows, x.cols), nullptr};
    Partial one{0, 0};
    if (job.blocks.tasks == 1) {
        job.partials = &one;
        scan_task<T>(&job, 0);
        return one;
    }
    Workspace scratch;
    job.partials = static_cast<Partial*>(scratch.take(static_cast<std::size_t>(job.blocks.tasks) * sizeof(Partial)));
    parallel_for(job.blocks.tasks, scan_task<T>, &job);
    if (cancelled()) return one;
    for (int64_t t = 0; t < job.blocks.tasks; ++t) {
        one.sum += job.partials[t].sum;
        one.max = one.max > job.partials[t].max ? one.max : job.partials[t].max;
    }
    return one;
}

template <class T>
MatrixScan scan_as(const MatrixRef& x) {
    Partial p = scan_scaled<T>(x, 1.0);
    double unit = 1;
    if (std::isnan(p.sum)) return {p.sum, p.sum, unit};  // a NaN never wins the maximum, but always reaches the sum
    // float64 entries alone can be so large or small that their squares leave float64.
    if (p.max > 0 && !std::isinf(p.max) && (p.max > 0x1p+480 || p.max < 0x1p-480)) {
        int exponent = 0;
        (void)std::frexp(p.max, &exponent);
        if (exponent < -1000) exponent = -1000;  // keeps 1 / unit finite
        if (exponent > 1000) exponent = 1000;    // and unit itself: the largest doubles have exponent 1024
        unit = std::ldexp(1.0, exponent);
        p = scan_scaled<T>(x, 1 / unit);
    }
    return {p.max * unit, p.sum, unit};
}

MatrixScan scan(const MatrixRef& given) {
    const bool along_rows = given.col_stride == 1 || given.row_stride != 1;
    const MatrixRef x = along_rows ? given : given.transposed();
    switch (x.dtype) {
        case DType::float64: return scan_as<double>(x);
        case DType::float32: return scan_as<float>(x);
        default: return scan_as<bfloat16>(x);
    }
}

// ---- load and store ------------------------------------------------------------------------------------------------

struct CopyJob {
    const void* from;
    void* to;
    int64_t rows, cols;
    int64_t from_row, from_col, to_row, to_col;  // strides
    double scale, rescale;                       // multiplied one after the other: either alone may leave float64
    RowBlocks blocks;
};

template <class From, class To>
To convert(From x, double scale, double rescale) {
    return rounded<To>(value(x) * scale * rescale);
}

// A tile's corner where the source is contiguous along one axis and the target along the other: `lines` lines of `along`
// numbers each become `along` lines of `lines` numbers.
template <class From, class To>
void copy_turned(const From* from, int64_t from_line, To* to, int64_t to_line, int64_t lines, int64_t along, double scale,
                 double rescale) {
    using V = Vec<std::conditional_t<std::is_same_v<To, double>, double, float>>;
    To local[tile * tile];
    for (int64_t l = 0; l < lines; ++l) {
        for (int64_t a = 0; a < along; ++a) local[l * tile + a] = convert<From, To>(from[l * from_line + a], scale, rescale);
    }
    for (int64_t l = 0; l < lines; l += V::width) {
        for (int64_t a = 0; a < along; a += V::width) {
            V block[V::width];
            RAPHSON_UNROLL
            for (int r = 0; r < V::width; ++r) {
                block[r] = l + r < lines ? load_part(local + (l + r) * tile + a, static_cast<int>(smaller(V::width, along - a))) : V{};
            }
            transpose(block);
            RAPHSON_UNROLL
            for (int r = 0; r < V::width; ++r) {
                if (a + r < along) store_part(to + (a + r) * to_line + l, block[r], static_cast<int>(smaller(V::width, lines - l)));
            }
        }
    }
}

template <class From, class To>
void copy_task(void* context, int64_t task) {
    const CopyJob& job = *static_cast<const CopyJob*>(context);
    const From* from = static_cast<const From*>(job.from);
    To* to = static_cast<To*>(job.to);
    const int64_t first = task * job.blocks.rows_per_task;
    const int64_t last = smaller(first + job.blocks.rows_per_task, job.rows);
    if (job.from_col == 1 && job.to_col == 1) {
        for (int64_t i = first; i < last; ++i) {
            const From* source = from + i * job.from_row;
            To* target = to + i * job.to_row;
            if constexpr (std::is_same_v<From, To>) {
                if (job.scale == 1 && job.rescale == 1) {
                    std::memcpy(target, source, static_cast<std::size_t>(job.cols) * sizeof(To));
                    continue;
                }
            }
            for (int64_t j = 0; j < job.cols; ++j) target[j] = convert<From, To>(source[j], job.scale, job.rescale);
        }
        return;
    }
    for (int64_t i0 = first; i0 < last; i0 += tile) {
        const int64_t i1 = smaller(i0 + tile, last);
        for (int64_t j0 = 0; j0 < job.cols; j0 += tile) {
            const int64_t j1 = smaller(j0 + tile, job.cols);
            const From* const corner = from + i0 * job.from_row + j0 * job.from_col;
            To* const target = to + i0 * job.to_row + j0 * job.to_col;
            if (job.from_row == 1 && job.to_col == 1) {
                copy_turned(corner, job.from_col, target, job.to_row, j1 - j0, i1 - i0, job.scale, job.rescale);
                continue;
            }
            if (job.from_col == 1 && job.to_row == 1) {
                copy_turned(corner, job.from_row, target, job.to_col, i1 - i0, j1 - j0, job.scale, job.rescale);
                continue;
            }
            for (int64_t i = i0; i < i1; ++i) {
                for (int64_t j = j0; j < j1; ++j) {
                    to[i * job.to_row + j * job.to_col] =
                        convert<From, To>(from[i * job.from_row + j * job.from_col], job.scale, job.rescale);
                }
            }
        }
    }
}

template <class From>
void copy_from(DType to, CopyJob& job) {
    switch (to) {
        case DType::float64: return parallel_for(job.blocks.tasks, copy_task<From, double>, &job);
        case DType::float32: return parallel_for(job.blocks.tasks, copy_task<From, float>, &job);
        default: return parallel_for(job.blocks.tasks, copy_task<From, bfloat16>, &job);
    }
}

void copy(DType from, DType to, CopyJob job) {
    switch (from) {
        case DType::float64: return copy_from<double>(to, job);
        case DType::float32: return copy_from<float>(to, job);
        default: return copy_from<bfloat16>(to, job);
    }
}

void load(const MatrixRef& x, double scale, double rescale, DType to, void* dst, int64_t ld) {
    copy(x.dtype, to,
         {x.data, dst, x.rows, x.cols, x.row_stride, x.col_stride, ld, 1, scale, rescale, RowBlocks(x.rows, x.cols)});
}

void store(DType from, const void* src, int64_t ld, const MatrixRef& out) {
    copy(from, out.dtype,
         {src, out.data, out.rows, out.cols, ld, 1, out.row_stride, out.col_stride, 1, 1, RowBlocks(out.rows, out.cols)});
}

// ---- normalisation from the first Gram matrix ----------------------------------------------------------------------

struct SumJob {
    const void* a;
    int64_t m, ld;
    double* sums;
    double* squares;  // one a row
    RowBlocks blocks;
};

template <class P>
void sum_task(void* context, int64_t task) {
    const SumJob& job = *static_cast<const SumJob*>(context);
    const int64_t first = task * job.blocks.rows_per_task;
    const int64_t last = smaller(first + job.blocks.rows_per_task, job.m);
    for (int64_t i = first; i < last; ++i) {
        const P* row = static_cast<const P*>(job.a) + i * job.ld;
        double sum[lanes] = {}, square[lanes] = {};
        for (int64_t j0 = 0; j0 < job.m; j0 += lanes) {
            const int64_t count = smaller(lanes, job.m - j0);
            for (int64_t l = 0; l < count; ++l) {
                const double v = value(row[j0 + l]);
                sum[l] += std::fabs(v);
                square[l] += v * v;
            }
        }
        for (int l = 1; l < lanes; ++l) {
            sum[0] += sum[l];
            square[0] += square[l];
        }
        job.sums[i] = sum[0];
        job.squares[i] = square[0];
    }
}

double row_sums(DType dtype, const void* a, int64_t m, int64_t ld, double* sums) {
    Workspace scratch;
    auto* squares = static_cast<double*>(scratch.take(static_cast<std::size_t>(m) * sizeof(double)));
    SumJob job{a, m, ld, sums, squares, RowBlocks(m, m)};
    const TaskFn task = dtype == DType::float64   ? sum_task<double>
                        : dtype == DType::float32 ? sum_task<float>
                                                  : sum_task<bfloat16>;
    parallel_for(job.blocks.tasks, task, &job);
    double total = 0;
    for (int64_t i = 0; !cancelled() && i < m; ++i) total += squares[i];
    return total;
}

struct ScaleJob {
    void* x;
    int64_t rows, cols, ld;
    const double *row, *col;
    RowBlocks blocks;
};

template <class P>
void scale_task(void* context, int64_t task) {
    const ScaleJob& job = *static_cast<const ScaleJob*>(context);
    const int64_t first = task * job.blocks.rows_per_task;
    const int64_t last = smaller(first + job.blocks.rows_per_task, job.rows);
    for (int64_t i = first; i < last; ++i) {
        P* x = static_cast<P*>(job.x) + i * job.ld;
        const double factor = job.row[i];
        if (job.col == nullptr) {
            for (int64_t j = 0; j < job.cols; ++j) x[j] = rounded<P>(value(x[j]) * factor);
        } else {
            for (int64_t j = 0; j < job.cols; ++j) x[j] = rounded<P>(value(x[j]) * (factor * job.col[j]));
        }
    }
}

void scale(DType dtype, void* x, int64_t rows, int64_t cols, int64_t ld, const double* row, const double* col) {
    ScaleJob job{x, rows, cols, ld, row, col, RowBlocks(rows, cols)};
    const TaskFn task = dtype == DType::float64   ? scale_task<double>
                        : dtype == DType::float32 ? scale_task<float>
                                                  : scale_task<bfloat16>;
    parallel_for(job.blocks.tasks, task, &job);
}

}  // namespace

extern const NewtonSchulzTable newton_schulz_table;
const NewtonSchulzTable newton_schulz_table{scan, load, store, row_sums, scale};

RAPHSON_ISA_END
