// Order statistics, clipping and hyperbolic scaling of the caller's arrays, and the elementwise work between the
// products of the derivative. Everything is cut into tasks by shape alone and summed in 16 lanes, so no bit depends
// on threads.
#include "newton_schulz/elementwise.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/simd.h"
#include "common/threads.h"
#include "common/workspace.h"
#include "isa.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int32_t;
using std::int64_t;

constexpr int64_t task_elements = int64_t{1} << 15;
constexpr int64_t tile = 32;  // of passes that meet a matrix and its transpose
constexpr int lanes = 16;

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Row blocks of a pass. Wide rows make one task each.
struct Blocks {
    int64_t rows, rows_per_task, tasks;
    Blocks(int64_t rows_, int64_t cols)
        : rows(rows_),
          rows_per_task(cols == 0 ? rows_ : (task_elements + cols - 1) / cols),
          tasks(rows_ == 0 || cols == 0 ? 0 : (rows_ + rows_per_task - 1) / rows_per_task) {}
    int64_t first(int64_t task) const { return task * rows_per_task; }
    int64_t last(int64_t task) const { return smaller(first(task) + rows_per_task, rows); }
};

// For passes that do not care for the order of the elements: the contiguous axis inside, where there is one.
MatrixRef along_memory(const MatrixRef& x) {
    const bool along_columns = x.row_stride == 1 && (x.col_stride != 1 || x.cols < x.rows);
    return along_columns ? x.transposed() : x;
}

double wide(double x) { return x; }
double wide(float x) { return static_cast<double>(x); }
double wide(bfloat16 x) { return static_cast<double>(widen(x)); }

template <class T>
T rounded(double x) {
    return static_cast<T>(x);
}
template <>
bfloat16 rounded<bfloat16>(double x) {
    return narrow(static_cast<float>(x));
}

// ---- keys ----------------------------------------------------------------------------------------------------------

template <class T>
struct Keys;
template <>
struct Keys<double> {
    using Key = int64_t;
    static Key of(double x) {
        int64_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return bits & 0x7fffffffffffffff;
    }
};
template <>
struct Keys<float> {
    using Key = int32_t;
    static Key of(float x) {
        int32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return bits & 0x7fffffff;
    }
};
template <>
struct Keys<bfloat16> {
    using Key = int32_t;
    static Key of(bfloat16 x) { return x.bits & 0x7fff; }
};

template <class T>
void sample_as(const MatrixRef& x, int64_t count, MagnitudeKey* keys) {
    // Multiples of the golden ratio modulo 1 fall evenly and share no period with the columns.
    const auto total = static_cast<double>(x.rows * x.cols);
    for (int64_t i = 0; i < count; ++i) {
        const double turn = (static_cast<double>(i) + 0.5) * 0.61803398874989485;
        const int64_t at = smaller(static_cast<int64_t>((turn - std::floor(turn)) * total), x.rows * x.cols - 1);
        keys[i] = Keys<T>::of(static_cast<const T*>(x.data)[at / x.cols * x.row_stride + at % x.cols * x.col_stride]);
    }
}

void sample(const MatrixRef& x, int64_t count, MagnitudeKey* keys) {
    switch (x.dtype) {
        case DType::float64: return sample_as<double>(x, count, keys);
        case DType::float32: return sample_as<float>(x, count, keys);
        default: return sample_as<bfloat16>(x, count, keys);
    }
}

int64_t count_tasks(const MatrixRef& given) {
    const MatrixRef x = along_memory(given);
    return Blocks(x.rows, x.cols).tasks;
}

struct KeyJob {
    MatrixRef x;
    MagnitudeKey low, high;
    Blocks blocks;
    MagnitudeCounts* counts;
    const int64_t* offsets;
    void* keys;
};

constexpr int64_t block_elements = 256;

// Calls use(pointer to contiguous elements, how many ≤ block_elements) over the rows of a task.
template <class T, class Use>
void for_blocks(const MatrixRef& x, int64_t first, int64_t last, Use use) {
    for (int64_t i = first; i < last; ++i) {
        const T* row = static_cast<const T*>(x.data) + i * x.row_stride;
        for (int64_t j = 0; j < x.cols; j += block_elements) {
            const int64_t n = smaller(block_elements, x.cols - j);
            if (x.col_stride == 1) {
                use(row + j, n);
                continue;
            }
            T copy[block_elements];
            for (int64_t k = 0; k < n; ++k) copy[k] = row[(j + k) * x.col_stride];
            use(copy, n);
        }
    }
}

template <class T>
void count_task(void* context, int64_t task) {
    using Key = typename Keys<T>::Key;
    const KeyJob& job = *static_cast<const KeyJob*>(context);
    const Key low = static_cast<Key>(job.low), high = static_cast<Key>(job.high);
    int64_t elements = 0, below = 0, upto = 0;
    Key largest = 0;
    for_blocks<T>(job.x, job.blocks.first(task), job.blocks.last(task), [&](const T* x, int64_t n) {
        Key less = 0, not_more = 0;  // as wide as the keys, so that a vector of them counts
        for (int64_t k = 0; k < n; ++k) {
            const Key key = Keys<T>::of(x[k]);
            less += key < low;
            not_more += key <= high;
            largest = key > largest ? key : largest;
        }
        elements += n;
        below += less;
        upto += not_more;
    });
    job.counts[task] = {elements, below, upto, largest};
}

template <class T>
void gather_task(void* context, int64_t task) {
    using Key = typename Keys<T>::Key;
    const KeyJob& job = *static_cast<const KeyJob*>(context);
    const Key low = static_cast<Key>(job.low), high = static_cast<Key>(job.high);
    Key* target = static_cast<Key*>(job.keys) + job.offsets[task];
    for_blocks<T>(job.x, job.blocks.first(task), job.blocks.last(task), [&](const T* x, int64_t n) {
        Key found[block_elements];  // written without a branch; the target has no room for what the next key overwrites
        int64_t count = 0;
        for (int64_t k = 0; k < n; ++k) {
            const Key key = Keys<T>::of(x[k]);
            found[count] = key;
            count += static_cast<int64_t>(key >= low) & static_cast<int64_t>(key <= high);
        }
        std::memcpy(target, found, static_cast<std::size_t>(count) * sizeof(Key));
        target += count;
    });
}

void count(const MatrixRef& given, MagnitudeKey low, MagnitudeKey high, MagnitudeCounts* of_task) {
    const MatrixRef x = along_memory(given);
    KeyJob job{x, low, high, Blocks(x.rows, x.cols), of_task, nullptr, nullptr};
    const TaskFn task = x.dtype == DType::float64   ? count_task<double>
                        : x.dtype == DType::float32 ? count_task<float>
                                                    : count_task<bfloat16>;
    parallel_for(job.blocks.tasks, task, &job);
}

void gather(const MatrixRef& given, MagnitudeKey low, MagnitudeKey high, const int64_t* offsets, void* keys) {
    const MatrixRef x = along_memory(given);
    KeyJob job{x, low, high, Blocks(x.rows, x.cols), nullptr, offsets, keys};
    const TaskFn task = x.dtype == DType::float64   ? gather_task<double>
                        : x.dtype == DType::float32 ? gather_task<float>
                                                    : gather_task<bfloat16>;
    parallel_for(job.blocks.tasks, task, &job);
}

// ---- one matrix in, one or two out ---------------------------------------------------------------------------------

struct MapJob {
    MatrixRef x, first_out, second_out;
    double scale, rescale;
    Blocks blocks;
};

// Runs over spans that are contiguous everywhere, or over tiles: the strides of x and of the outputs may disagree.
template <class Each, class Row>
void for_elements(const MapJob& job, int64_t task, bool contiguous, Row row, Each each) {
    const int64_t first = job.blocks.first(task), last = job.blocks.last(task);
    if (contiguous) {
        for (int64_t i = first; i < last; ++i) row(i);
        return;
    }
    for (int64_t i0 = first; i0 < last; i0 += tile) {
        const int64_t i1 = smaller(i0 + tile, last);
        for (int64_t j0 = 0; j0 < job.x.cols; j0 += tile) {
            const int64_t j1 = smaller(j0 + tile, job.x.cols);
            for (int64_t i = i0; i < i1; ++i) {
                for (int64_t j = j0; j < j1; ++j) each(i, j);
            }
        }
    }
}

template <class T>
T* at(const MatrixRef& x, int64_t i, int64_t j) {
    return static_cast<T*>(x.data) + i * x.row_stride + j * x.col_stride;
}

// What T is compared and subtracted in: bfloat16 by way of float32, exact until it is rounded.
inline double number(double x) { return x; }
inline float number(float x) { return x; }
inline float number(bfloat16 x) { return widen(x); }
inline void put(double* p, double x) { *p = x; }
inline void put(float* p, float x) { *p = x; }
inline void put(bfloat16* p, float x) { *p = narrow(x); }

template <class T>
void split_task(void* context, int64_t task) {
    const MapJob& job = *static_cast<const MapJob*>(context);
    using Number = decltype(number(T{}));
    const Number limit = static_cast<Number>(job.scale);
    const auto one = [limit](const T* x, T* clipped, T* outlier) {
        const Number v = number(*x);
        const Number c = v > limit ? limit : v < -limit ? -limit : v;
        put(clipped, c);
        put(outlier, v - c);
    };
    const bool contiguous = job.x.col_stride == 1 && job.first_out.col_stride == 1 && job.second_out.col_stride == 1;
    const auto row = [&](int64_t i) {
        const T* x = at<const T>(job.x, i, 0);
        T *clipped = at<T>(job.first_out, i, 0), *outlier = at<T>(job.second_out, i, 0);
        for (int64_t j = 0; j < job.x.cols; ++j) one(x + j, clipped + j, outlier + j);
    };
    for_elements(job, task, contiguous, row, [&](int64_t i, int64_t j) {
        one(at<const T>(job.x, i, j), at<T>(job.first_out, i, j), at<T>(job.second_out, i, j));
    });
}

void split(const MatrixRef& x, double limit, const MatrixRef& clipped, const MatrixRef& outliers) {
    MapJob job{x, clipped, outliers, limit, 1, Blocks(x.rows, x.cols)};
    const TaskFn task = x.dtype == DType::float64   ? split_task<double>
                        : x.dtype == DType::float32 ? split_task<float>
                                                    : split_task<bfloat16>;
    parallel_for(job.blocks.tasks, task, &job);
}

template <class From, class To>
void scaled_task(void* context, int64_t task) {
    const MapJob& job = *static_cast<const MapJob*>(context);
    const bool contiguous = job.x.col_stride == 1 && job.first_out.col_stride == 1;
    const auto one = [&](From x) { return rounded<To>(wide(x) * job.scale * job.rescale); };
    const auto row = [&](int64_t i) {
        const From* x = at<const From>(job.x, i, 0);
        To* out = at<To>(job.first_out, i, 0);
        for (int64_t j = 0; j < job.x.cols; ++j) out[j] = one(x[j]);
    };
    for_elements(job, task, contiguous, row,
                 [&](int64_t i, int64_t j) { *at<To>(job.first_out, i, j) = one(*at<const From>(job.x, i, j)); });
}

template <class From>
TaskFn scaled_to(DType to) {
    return to == DType::float64   ? scaled_task<From, double>
           : to == DType::float32 ? scaled_task<From, float>
                                  : scaled_task<From, bfloat16>;
}

void scaled(const MatrixRef& x, double scale, double rescale, const MatrixRef& out) {
    MapJob job{x, out, out, scale, rescale, Blocks(x.rows, x.cols)};
    const TaskFn task = x.dtype == DType::float64   ? scaled_to<double>(out.dtype)
                        : x.dtype == DType::float32 ? scaled_to<float>(out.dtype)
                                                    : scaled_to<bfloat16>(out.dtype);
    parallel_for(job.blocks.tasks, task, &job);
}

// ---- hyperbolic cosines --------------------------------------------------------------------------------------------

// cosh w - 1 = Σ w²ᵏ/(2k)!, k ≥ 1. All terms are positive, so Horner's rule loses nothing; what is left out is below
// 2⁻⁵³ of the sum: the next term is at most 2·4⁻¹²/14! ≈ 1.4e-18 of the first for |w| ≤ 1/4 and 6 terms, and 4³²/32!
// ≈ 7e-17 beside cosh 4 - 1 ≈ 26 for |w| ≤ 4 and 15.
constexpr double inverse_factorial(int n) {
    double x = 1;
    for (int i = 2; i <= n; ++i) x *= i;
    return 1 / x;
}
template <int Terms>
struct CoshTable {
    double c[Terms];
    constexpr CoshTable() : c() {
        for (int k = 0; k < Terms; ++k) c[k] = inverse_factorial(2 * (k + 1));
    }
};

template <int Terms>
double cosh_less_one(double w) {
    constexpr CoshTable<Terms> table;
    const double y = w * w;
    double sum = table.c[Terms - 1];
    for (int k = Terms - 2; k >= 0; --k) sum = sum * y + table.c[k];
    return sum * y;
}

constexpr double few_terms_reach = 0.25, all_terms_reach = 4;

enum class Reach { few, all, beyond };

template <Reach reach>
double cosh_less_one(double w) {
    if constexpr (reach == Reach::few) return cosh_less_one<6>(w);
    if constexpr (reach == Reach::all) return cosh_less_one<15>(w);
    return std::fabs(w) <= all_terms_reach ? cosh_less_one<15>(w) : std::cosh(w) - 1;
}

struct CoshJob {
    MatrixRef x;
    double scale, rescale;
    Blocks blocks;
    double* sums;
};

template <class T, Reach reach>
void cosh_task(void* context, int64_t task) {
    const CoshJob& job = *static_cast<const CoshJob*>(context);
    double sum[lanes] = {};
    for_blocks<T>(job.x, job.blocks.first(task), job.blocks.last(task), [&](const T* x, int64_t n) {
        int64_t k = 0;
        for (; k + lanes <= n; k += lanes) {
            for (int l = 0; l < lanes; ++l) sum[l] += cosh_less_one<reach>(wide(x[k + l]) * job.scale * job.rescale);
        }
        for (; k < n; ++k) sum[k % lanes] += cosh_less_one<reach>(wide(x[k]) * job.scale * job.rescale);
    });
    for (int width = lanes / 2; width > 0; width /= 2) {
        for (int l = 0; l < width; ++l) sum[l] += sum[l + width];
    }
    job.sums[task] = sum[0];
}

template <class T>
TaskFn cosh_for(double largest) {
    return largest <= few_terms_reach   ? cosh_task<T, Reach::few>
           : largest <= all_terms_reach ? cosh_task<T, Reach::all>
                                        : cosh_task<T, Reach::beyond>;
}

double sum_cosh_less_one(const MatrixRef& given, double scale, double rescale, double largest) {
    const MatrixRef x = along_memory(given);
    CoshJob job{x, scale, rescale, Blocks(x.rows, x.cols), nullptr};
    Workspace scratch;
    job.sums = static_cast<double*>(scratch.take(static_cast<std::size_t>(job.blocks.tasks) * sizeof(double)));
    const TaskFn task = x.dtype == DType::float64   ? cosh_for<double>(largest)
                        : x.dtype == DType::float32 ? cosh_for<float>(largest)
                                                    : cosh_for<bfloat16>(largest);
    parallel_for(job.blocks.tasks, task, &job);
    double total = 0;
    for (int64_t t = 0; !cancelled() && t < job.blocks.tasks; ++t) total += job.sums[t];
    return total;
}

// ---- between the products of the derivative ------------------------------------------------------------------------

struct DenseJob {
    const void *a, *b;
    void* out;
    int64_t rows, cols;
    double alpha, beta;
    const double* weights;
    double* sums;
    Blocks blocks;
};

template <class P>
void dots_task(void* context, int64_t task) {
    const DenseJob& job = *static_cast<const DenseJob*>(context);
    for (int64_t i = job.blocks.first(task); i < job.blocks.last(task); ++i) {
        const P *a = static_cast<const P*>(job.a) + i * job.cols, *b = static_cast<const P*>(job.b) + i * job.cols;
        double sum[lanes] = {};
        int64_t j = 0;
        for (; j + lanes <= job.cols; j += lanes) {
            for (int l = 0; l < lanes; ++l) sum[l] += wide(a[j + l]) * wide(b[j + l]);
        }
        for (; j < job.cols; ++j) sum[j % lanes] += wide(a[j]) * wide(b[j]);
        for (int width = lanes / 2; width > 0; width /= 2) {
            for (int l = 0; l < width; ++l) sum[l] += sum[l + width];
        }
        job.sums[i] = sum[0];
    }
}

void row_dots(DType dtype, const void* a, const void* b, int64_t rows, int64_t cols, double* dots) {
    DenseJob job{a, b, nullptr, rows, cols, 0, 0, nullptr, dots, Blocks(rows, cols)};
    parallel_for(job.blocks.tasks, dtype == DType::float64 ? dots_task<double> : dots_task<float>, &job);
}

template <class P>
void symmetric_sum_task(void* context, int64_t task) {
    const DenseJob& job = *static_cast<const DenseJob*>(context);
    const int64_t m = job.rows, first = job.blocks.first(task), last = job.blocks.last(task);
    const P *a = static_cast<const P*>(job.a), *base = static_cast<const P*>(job.b);
    P* out = static_cast<P*>(job.out);
    const P alpha = static_cast<P>(job.alpha), beta = static_cast<P>(job.beta);
    for (int64_t i0 = first; i0 < last; i0 += tile) {
        const int64_t i1 = smaller(i0 + tile, last);
        for (int64_t j0 = 0; j0 < m; j0 += tile) {
            const int64_t j1 = smaller(j0 + tile, m);
            P across[tile][tile];  // the tile of aᵀ, so that the sums run along rows
            for (int64_t j = j0; j < j1; ++j) {
                for (int64_t i = i0; i < i1; ++i) across[i - i0][j - j0] = a[j * m + i];
            }
            for (int64_t i = i0; i < i1; ++i) {
                const P *row = a + i * m + j0, *other = across[i - i0];
                P* target = out + i * m + j0;
                if (base == nullptr) {
                    for (int64_t j = 0; j < j1 - j0; ++j) target[j] = alpha * (row[j] + other[j]);
                } else {
                    const P* added = base + i * m + j0;
                    for (int64_t j = 0; j < j1 - j0; ++j) target[j] = alpha * (row[j] + other[j]) + beta * added[j];
                }
            }
        }
    }
}

void symmetric_sum(DType dtype, const void* a, int64_t m, double alpha, const void* base, double beta, void* out) {
    DenseJob job{a, base, out, m, m, alpha, beta, nullptr, nullptr, Blocks(m, m)};
    const TaskFn task = dtype == DType::float64 ? symmetric_sum_task<double> : symmetric_sum_task<float>;
    parallel_for(job.blocks.tasks, task, &job);
}

template <class P>
void signed_weights_task(void* context, int64_t task) {
    const DenseJob& job = *static_cast<const DenseJob*>(context);
    for (int64_t i = job.blocks.first(task); i < job.blocks.last(task); ++i) {
        const P* a = static_cast<const P*>(job.a) + i * job.cols;
        P* out = static_cast<P*>(job.out) + i * job.cols;
        for (int64_t j = 0; j < job.cols; ++j) {
            const double w = job.weights[i] + job.weights[j];
            out[j] = static_cast<P>(a[j] > 0 ? w : a[j] < 0 ? -w : 0.0);
        }
    }
}

void signed_weights(DType dtype, const void* a, int64_t m, const double* w, void* out) {
    DenseJob job{a, nullptr, out, m, m, 0, 0, w, nullptr, Blocks(m, m)};
    const TaskFn task = dtype == DType::float64 ? signed_weights_task<double> : signed_weights_task<float>;
    parallel_for(job.blocks.tasks, task, &job);
}

template <class P>
void update_task(void* context, int64_t task) {
    const DenseJob& job = *static_cast<const DenseJob*>(context);
    for (int64_t i = job.blocks.first(task); i < job.blocks.last(task); ++i) {
        P* g = static_cast<P*>(job.out) + i * job.cols;
        const P* x = static_cast<const P*>(job.a) + i * job.cols;
        const double factor = job.weights == nullptr ? 1 : job.weights[i];
        for (int64_t j = 0; j < job.cols; ++j) g[j] = static_cast<P>(factor * wide(g[j]) + job.alpha * wide(x[j]));
    }
}

void update(DType dtype, void* g, const void* x, int64_t rows, int64_t cols, const double* row, double alpha) {
    DenseJob job{x, nullptr, g, rows, cols, alpha, 0, row, nullptr, Blocks(rows, cols)};
    parallel_for(job.blocks.tasks, dtype == DType::float64 ? update_task<double> : update_task<float>, &job);
}

}  // namespace

extern const ElementwiseTable elementwise_table;
const ElementwiseTable elementwise_table{
    sample, count_tasks, count, gather, split, sum_cosh_less_one, scaled, row_dots, symmetric_sum, signed_weights, update};

RAPHSON_ISA_END
