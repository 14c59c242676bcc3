// Gram matrices in float64 of few vectors that are very long. A task has all of C and a stretch of k, of which it packs one
// block at a time for its first two caches: both sides of the product are the same panels, and the triangle is cut to
// blocks as narrow as a panel.
#pragma once

#include "common/threads.h"
#include "common/workspace.h"
#include "pack.h"
#include "table.h"

RAPHSON_ISA_BEGIN

constexpr std::int64_t narrow_entries = 128;  // of k in a block: three panels and one fill a first-level cache
constexpr std::int64_t narrow_stretch = 1024, narrow_tasks = 16;  // of k for a task, at least; at most
constexpr std::int64_t narrow_sum_rows = 64;  // of C, whose tasks' parts a task adds up

// A panel is one vector high, or four rows; a register block of C is one panel by up to three.
constexpr int narrow_vectors = Vec<double>::width >= 4 ? 1 : 4 / Vec<double>::width;
constexpr int narrow_rows = narrow_vectors * Vec<double>::width;
static_assert(narrow_unit % narrow_rows == 0, "what callers pad C to");
#if defined(RAPHSON_SIMD_AVX512) || defined(RAPHSON_SIMD_AVX2) || defined(RAPHSON_SIMD_NEON)
constexpr int narrow_across = 3;
#else
constexpr int narrow_across = 1;
#endif

// C += the panel `a` times `Across` panels from `b` on, `panel` numbers apart.
template <int Across>
inline void narrow_block(const double* a, const double* b, std::int64_t panel, std::int64_t steps, double* c, std::int64_t ldc) {
    constexpr int width = Vec<double>::width, vectors = Across * narrow_vectors;
    Vec<double> sum[narrow_rows][vectors];
    RAPHSON_UNROLL
    for (int i = 0; i < narrow_rows; ++i) {
        RAPHSON_UNROLL
        for (int v = 0; v < vectors; ++v) sum[i][v] = zero<double>();
    }
    for (; steps > 0; --steps, a += narrow_rows, b += narrow_rows) {
        Vec<double> right[vectors];
        RAPHSON_UNROLL
        for (int v = 0; v < vectors; ++v) right[v] = load(b + v / narrow_vectors * panel + v % narrow_vectors * width);
        RAPHSON_UNROLL
        for (int i = 0; i < narrow_rows; ++i) {
            const Vec<double> left = splat(a[i]);
            RAPHSON_UNROLL
            for (int v = 0; v < vectors; ++v) sum[i][v] = fma(left, right[v], sum[i][v]);
        }
    }
    RAPHSON_UNROLL
    for (int i = 0; i < narrow_rows; ++i) {
        RAPHSON_UNROLL
        for (int v = 0; v < vectors; ++v) {
            double* const to = c + i * ldc + v * width;
            store(to, add(load(to), sum[i][v]));
        }
    }
}

using NarrowBlock = void (*)(const double*, const double*, std::int64_t, std::int64_t, double*, std::int64_t);

template <int... A>
inline NarrowBlock pick_narrow(std::int64_t across, std::integer_sequence<int, A...>) {
    static constexpr NarrowBlock functions[] = {narrow_block<A + 1>...};
    return functions[across - 1];
}

// The panels on and below the diagonal of C += left · rightᵀ. Between blocks `ahead` is asked to send for a share of what
// comes next: ahead(done, of).
template <class Ahead>
inline void multiply_narrow(const double* left, const double* right, std::int64_t panels, std::int64_t entries, double* c,
                            std::int64_t ldc, const Ahead& ahead) {
    const std::int64_t panel = entries * narrow_rows;
    std::int64_t done = 0;
    for (std::int64_t j = 0; j < panels; j += narrow_across) {
        for (std::int64_t i = j; i < panels; ++i) {
            const std::int64_t across = min_of(narrow_across, i - j + 1);
            ahead(done += across, panels * (panels + 1) / 2);
            pick_narrow(across, std::make_integer_sequence<int, narrow_across>{})(
                left + i * panel, right + j * panel, panel, entries, c + i * narrow_rows * ldc + j * narrow_rows, ldc);
        }
    }
}

// Rows of X, zeros below them, as panels of their columns.
template <class F>
inline void pack_narrow_rows(const typename F::Store* x, std::int64_t stride, std::int64_t rows, std::int64_t entries, double* out) {
    constexpr int width = Vec<double>::width;
    for (std::int64_t i = 0; i < rows; i += narrow_rows, out += entries * narrow_rows) {
        for (std::int64_t s = 0; s < entries; s += width) {
            const int count = static_cast<int>(min_of(entries - s, width));
            for (int g = 0; g < narrow_rows; g += width) {
                Vec<double> block[width];
                RAPHSON_UNROLL
                for (int r = 0; r < width; ++r) {
                    block[r] = i + g + r < rows ? F::fetch(x + (i + g + r) * stride + s, count) : zero<double>();
                }
                transpose(block);
                RAPHSON_UNROLL
                for (int r = 0; r < width; ++r) {
                    if (r < count) store(out + (s + r) * narrow_rows + g, block[r]);
                }
            }
        }
    }
}

// Columns of X, zeros beside them, times weights in `left` alone; without weights `left` is not written.
template <class F>
inline void pack_narrow_columns(const typename F::Store* x, std::int64_t stride, const double* weights, std::int64_t columns,
                                std::int64_t entries, double* left, double* right) {
    constexpr int width = Vec<double>::width;
    for (std::int64_t s = 0; s < entries; ++s, x += stride) {
        for (std::int64_t j = 0; j < round_up(columns, narrow_rows); j += width) {
            const int count = static_cast<int>(min_of(columns - j, width));
            const Vec<double> value = count > 0 ? F::fetch(x + j, count) : zero<double>();
            const std::int64_t to = (j / narrow_rows * entries + s) * narrow_rows + j % narrow_rows;
            store(right + to, value);
            if (weights != nullptr) store(left + to, mul(splat(weights[s]), value));
        }
    }
}

// C += X Xᵀ of X (m×k), on and below the diagonal; C has m rounded up to narrow_unit rows and columns.
template <class F>
inline void narrow_gram(std::int64_t m, std::int64_t k, const typename F::Store* x, std::int64_t ldx, double* c, std::int64_t ldc) {
    constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(typename F::Store));
    Workspace room;
    double* const panels = room.take_array<double>(round_up(m, narrow_rows) * narrow_entries);
    for (std::int64_t first = 0; first < k; first += narrow_entries) {
        const std::int64_t entries = min_of(narrow_entries, k - first), after = min_of(narrow_entries, k - first - entries);
        pack_narrow_rows<F>(x + first, ldx, m, entries, panels);
        const typename F::Store* const next = x + first + entries;
        std::int64_t row = 0;
        // Rows lie far apart and begin where they like: no prefetcher sees the next stretch of each coming.
        multiply_narrow(panels, panels, pieces(m, narrow_rows), entries, c, ldc, [&](std::int64_t done, std::int64_t of) {
            for (; after > 0 && row < m * done / of; ++row) {
                for (std::int64_t p = 0; p < after; p += line) prefetch_far(next + row * ldx + p);
                prefetch_far(next + row * ldx + after - 1);
            }
        });
    }
}

// C += Xᵀ diag(weights) X of X (k×n), likewise.
template <class F>
inline void narrow_columns(std::int64_t n, std::int64_t k, const typename F::Store* x, std::int64_t ldx, const double* weights,
                           double* c, std::int64_t ldc) {
    Workspace room;
    const std::int64_t size = round_up(n, narrow_rows) * narrow_entries;
    double* const right = room.take_array<double>(size);
    double* const left = weights != nullptr ? room.take_array<double>(size) : right;
    for (std::int64_t first = 0; first < k; first += narrow_entries) {
        const std::int64_t entries = min_of(narrow_entries, k - first);
        pack_narrow_columns<F>(x + first * ldx, ldx, weights != nullptr ? weights + first : nullptr, n, entries, left, right);
        multiply_narrow(left, right, pieces(n, narrow_rows), entries, c, ldc, [](std::int64_t, std::int64_t) {});
    }
}

// The tasks of one product, which follow from its shape.
template <class F>
struct NarrowJob {
    std::int64_t n, k;
    const typename F::Store* x;
    std::int64_t ldx;
    bool by_columns;
    const double* weights;
    double* parts = nullptr;
    double alpha = 1, beta = 0;
    double* c = nullptr;
    std::int64_t ldc = 0;

    bool pays() const { return n <= narrow_size && k >= 2 * narrow_stretch; }
    std::int64_t tasks() const { return min_of(narrow_tasks, k / narrow_stretch); }
    std::int64_t padded() const { return round_up(n, narrow_unit); }
};

template <class F>
void narrow_task(void* context, std::int64_t task) {
    const NarrowJob<F>& job = *static_cast<const NarrowJob<F>*>(context);
    const std::int64_t first = job.k * task / job.tasks(), entries = job.k * (task + 1) / job.tasks() - first, ld = job.padded();
    double* const c = job.parts + task * ld * ld;
    std::fill_n(c, ld * ld, 0.0);
    if (job.by_columns) {
        narrow_columns<F>(job.n, entries, job.x + first * job.ldx, job.ldx, job.weights != nullptr ? job.weights + first : nullptr, c, ld);
    } else {
        narrow_gram<F>(job.n, entries, job.x + first, job.ldx, c, ld);
    }
}

// Some rows of C = alpha · the product + beta·C.
template <class F>
void narrow_sums_task(void* context, std::int64_t task) {
    const NarrowJob<F>& job = *static_cast<const NarrowJob<F>*>(context);
    const std::int64_t ld = job.padded(), tasks = job.tasks(), end = min_of(job.n, (task + 1) * narrow_sum_rows);
    Workspace room;
    double* const sums = room.take_array<double>(job.n);
    for (std::int64_t i = task * narrow_sum_rows; i < end; ++i) {
        std::fill_n(sums, i + 1, 0.0);
        for (std::int64_t t = 0; t < tasks; ++t) {
            const double* const part = job.parts + (t * ld + i) * ld;
            for (std::int64_t j = 0; j <= i; ++j) sums[j] += part[j];
        }
        for (std::int64_t j = 0; j <= i; ++j) {
            const double before = job.beta == 0 ? 0 : job.beta * job.c[i * job.ldc + j];
            job.c[i * job.ldc + j] = job.c[j * job.ldc + i] = before + job.alpha * sums[j];
        }
    }
}

template <class F>
void run_narrow(NarrowJob<F>& job, double alpha, double beta, double* c, std::int64_t ldc) {
    const std::int64_t tasks = job.tasks(), ld = job.padded();
    Workspace room;
    job.parts = room.take_array<double>(tasks * ld * ld);
    job.alpha = alpha;
    job.beta = beta;
    job.c = c;
    job.ldc = ldc;
    parallel_for(tasks, narrow_task<F>, &job);
    parallel_for(pieces(job.n, narrow_sum_rows), narrow_sums_task<F>, &job);
}

RAPHSON_ISA_END
