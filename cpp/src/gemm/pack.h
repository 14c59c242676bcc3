// Copies of the operands in the order in which the kernels read them, and the mirrored store of symmetric results.
#pragma once

#include "job.h"

RAPHSON_ISA_BEGIN

// Rows of A as they are, `out_stride` operands apart: a multiple of a vector, filled up with zeros.
template <class F>
inline void pack_rows(const typename F::Store* a, std::int64_t stride, std::int64_t rows, std::int64_t entries,
                      typename F::Operand* out, std::int64_t out_stride) {
    constexpr int chunk = vector_width<F> * F::depth;
    for (std::int64_t i = 0; i < rows; ++i) {
        const typename F::Store* from = a + i * stride;
        typename F::Operand* to = out + i * out_stride;
        std::int64_t p = 0;
        for (; p + chunk <= entries; p += chunk) F::put(to + p, F::fetch(from + p, chunk));
        if (p < entries) F::put(to + p, F::fetch(from + p, static_cast<int>(entries - p)));
    }
}

// A row panel for the panel kernels: `rows` (≤ block_rows) rows of one block of k of A turned into steps of `rows` operands, zeros where
// `depth` runs past the last entry.
template <class F>
inline void pack_panel(const typename F::Store* a, std::int64_t stride, int rows, std::int64_t entries,
                       typename F::Operand* out) {
    using Sum = typename F::Sum;
    constexpr int width = vector_width<F>;
    constexpr int chunk = width * F::depth;
    constexpr int groups = (F::block_rows + width - 1) / width;
    auto* const lanes = reinterpret_cast<Sum*>(out);  // an entry, or the pair of a step, is as wide as a sum
    const std::int64_t steps = pieces(entries, F::depth);
    const Sum* const end = lanes + steps * rows;
    for (std::int64_t s = 0; s < steps; s += width) {
        const int count = static_cast<int>(min_of(entries - s * F::depth, chunk));
        const int steps_here = static_cast<int>(min_of(steps - s, width));
        // Vectors are stored whole, and what runs over into the next steps is overwritten when their turn comes: the
        // later group of rows goes first.
        RAPHSON_NO_UNROLL
        for (int g = groups - 1; g >= 0; --g) {
            const int from = g * width, rows_here = static_cast<int>(min_of(rows - from, width));
            if (rows_here <= 0) continue;
            Vec<Sum> block[width];
            RAPHSON_UNROLL
            for (int i = 0; i < width; ++i) {
                block[i] = i < rows_here ? F::fetch(a + (from + i) * stride + s * F::depth, count) : zero<Sum>();
            }
            transpose(block);
            Sum* to = lanes + s * rows + from;
            RAPHSON_UNROLL
            for (int i = 0; i < width; ++i, to += rows) {
                if (i >= steps_here) continue;
                if (to + width <= end) {
                    store(to, block[i]);
                } else {
                    store_part(to, block[i], rows_here);
                }
            }
        }
    }
}

// The same of A = Bᵀ diag(weights) from rows of B, whose entries lie as the panels want them: steps begin … end-1 of all
// panels. Block: where a panel of this block of k begins.
template <class F, class Block>
inline void pack_panels_of_columns(const typename F::Store* b, std::int64_t stride, const typename F::Sum* weights,
                                   const Panels& panels, std::int64_t begin, std::int64_t end, Block block) {
    constexpr int width = vector_width<F>;
    for (std::int64_t s = begin; s < end; ++s) {
        const auto weight = splat(weights != nullptr ? weights[s] : typename F::Sum(1));
        for (std::int64_t p = 0; p < panels.count; ++p) {
            const int rows = panels.rows(p);
            const typename F::Store* from = b + s * stride + panels.start(p);
            typename F::Operand* to = block(panels.start(p)) + s * rows;
            for (int r = 0; r < rows; r += width) {
                const auto x = mul(weight, F::fetch(from + r, rows - r < width ? rows - r : width));
                // What runs over is the next step's, unless that is another task's.
                if (s + 1 < end && r + width <= 2 * rows) {
                    store(to + r, x);
                } else {
                    store_part(to + r, x, rows - r < width ? rows - r : width);
                }
            }
        }
    }
}

// One panel of B: `columns` (≤ panel_width) columns of a row-major matrix, zeros to their right.
template <class F>
inline void pack_columns(const typename F::Store* b, std::int64_t stride, std::int64_t entries, std::int64_t columns,
                         typename F::Operand* out) {
    constexpr int width = vector_width<F>;
    const int count = static_cast<int>(columns);
    for (std::int64_t p = 0; p < entries; p += F::depth, b += F::depth * stride, out += panel_step<F>) {
        const int rows = entries - p < F::depth ? 1 : F::depth;
        F::put(out, F::step(b, stride, rows, count));
        F::put(out + width * F::depth,
               count > width ? F::step(b + width, stride, rows, count - width) : zero<typename F::Sum>());
    }
}

// All whole panels among `columns` columns, row by row, and then the narrow one.
template <class F>
inline void pack_all_columns(const typename F::Store* b, std::int64_t stride, std::int64_t entries,
                             std::int64_t columns, typename F::Operand* out) {
    constexpr int width = vector_width<F>;
    constexpr int rows_ahead = 8;  // rows lie pages apart: no prefetcher sees them coming
    const std::int64_t whole = columns / panel_width<F> * panel_width<F>;
    const std::int64_t steps = pieces(entries, F::depth);
    for (std::int64_t s = 0; s < steps; ++s) {
        const typename F::Store* row = b + s * F::depth * stride;
        typename F::Operand* to = out + s * panel_step<F>;
        const int rows = entries - s * F::depth < F::depth ? 1 : F::depth;
        for (std::int64_t j = 0; j < whole; j += panel_width<F>, to += steps * panel_step<F>) {
            prefetch(row + rows_ahead * F::depth * stride + j);
            prefetch(row + rows_ahead * F::depth * stride + j + panel_width<F> - 1);
            F::put(to, F::step(row + j, stride, rows, width));
            F::put(to + width * F::depth, F::step(row + j + width, stride, rows, width));
        }
    }
    if (whole == columns) return;
    pack_columns<F>(b + whole, stride, entries, columns - whole, out + whole * steps * F::depth);
}

// The same of B = Xᵀ from `columns` rows of X.
template <class F>
inline void pack_transposed(const typename F::Store* x, std::int64_t stride, std::int64_t entries, std::int64_t columns,
                            typename F::Operand* out) {
    constexpr int width = vector_width<F>;
    constexpr int chunk = width * F::depth;
    const std::int64_t steps = pieces(entries, F::depth);
    for (int h = 0; h < 2; ++h) {
        typename F::Operand* panel = out + h * chunk;
        for (std::int64_t s = 0; s < steps; s += width) {
            const std::int64_t left = entries - s * F::depth;
            const int count = static_cast<int>(left < chunk ? left : chunk);
            Vec<typename F::Sum> block[width];
            RAPHSON_UNROLL
            for (int i = 0; i < width; ++i) {
                const std::int64_t row = h * width + i;
                block[i] = row < columns ? F::fetch(x + row * stride + s * F::depth, count) : zero<typename F::Sum>();
            }
            transpose(block);
            const std::int64_t end = steps - s < width ? steps - s : width;
            RAPHSON_UNROLL
            for (int i = 0; i < width; ++i) {
                if (i < end) F::put(panel + (s + i) * panel_step<F>, block[i]);
            }
        }
    }
}

// C's entries right of the diagonal in the rows j0 … j1-1 and columns i0 … i1-1 = those below it. i0 = j0 or i0 ≥ j1.
// Blocks begin at multiples of a vector: a row of one is a cache line wherever C's own rows begin with one.
template <class F>
inline void mirror_any(typename F::Out* c, std::int64_t stride, std::int64_t i0, std::int64_t i1, std::int64_t j0,
                       std::int64_t j1) {
    constexpr std::int64_t width = vector_width<F>;
    const auto next = [](std::int64_t from, std::int64_t end) { return min_of(end, (from / width + 1) * width); };
    for (std::int64_t i = i0, i_end; i < i1; i = i_end) {
        i_end = next(i, i1);
        for (std::int64_t j = j0, j_end; j < j1 && j <= i; j = j_end) {
            j_end = next(j, j1);
            const int rows = static_cast<int>(i_end - i), columns = static_cast<int>(j_end - j);
            Vec<typename F::Sum> block[width];
            if (i != j && rows == width && columns == width) {
                RAPHSON_UNROLL
                for (int r = 0; r < width; ++r) block[r] = load(c + (i + r) * stride + j);
                transpose(block);
                RAPHSON_UNROLL
                for (int r = 0; r < width; ++r) store(c + (j + r) * stride + i, block[r]);
                continue;
            }
            RAPHSON_UNROLL
            for (int r = 0; r < width; ++r) {
                block[r] = r < rows ? load_part(c + (i + r) * stride + j, columns) : zero<typename F::Sum>();
            }
            transpose(block);
            RAPHSON_UNROLL
            for (int r = 0; r < width; ++r) {
                if (r < columns) store_part(c + (j + r) * stride + i, block[r], rows, i == j ? r + 1 : 0);
            }
        }
    }
}

template <class F>
inline void mirror(typename F::Out* c, std::int64_t stride, std::int64_t i0, std::int64_t i1, std::int64_t j0,
                   std::int64_t j1) {
    mirror_any<F>(c, stride, i0, i1, j0, j1);
}

RAPHSON_ISA_END
