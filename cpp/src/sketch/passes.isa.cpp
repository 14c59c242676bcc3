#include "sketch/passes.h"

#include <algorithm>

#include "common/simd_double.h"
#include "isa.h"

RAPHSON_ISA_BEGIN
namespace {

constexpr int wide = Vec<double>::width;
constexpr std::int64_t rows_ahead = 24;  // far enough for memory to answer

// One row of a full tile in registers, added to nnz rows of the sketch.
template <class T>
void scatter_full(const ScatterTile& t) {
    constexpr int parts = static_cast<int>(sketch_tile) / wide, held = parts < 8 ? parts : 8;
    const T* a = static_cast<const T*>(t.a);
    for (std::int64_t i = 0; i < t.rows; ++i, a += t.stride) {
        const T* later = a + rows_ahead * t.stride;
        for (std::int64_t j = 0; j < sketch_tile; j += static_cast<std::int64_t>(64 / sizeof(T))) prefetch(later + j);
        const double weight = t.weights != nullptr ? t.scale * t.weights[i] : t.scale;
        const std::uint32_t* place = t.place + i * t.nnz;
        for (int first = 0; first < parts; first += held) {
            Vec<double> row[held];
            RAPHSON_UNROLL
            for (int p = 0; p < held; ++p) row[p] = load_wide(a + (first + p) * wide);
            for (int k = 0; k < t.nnz; ++k) {
                double* sum = t.sums + static_cast<std::int64_t>(place[k] >> 1) * sketch_tile + first * wide;
                const Vec<double> factor = splat((place[k] & 1u) != 0 ? -weight : weight);
                RAPHSON_UNROLL
                for (int p = 0; p < held; ++p) store(sum + p * wide, fma(row[p], factor, load(sum + p * wide)));
            }
        }
    }
}

template <class T>
void scatter_part(const ScatterTile& t) {
    const T* a = static_cast<const T*>(t.a);
    for (std::int64_t i = 0; i < t.rows; ++i, a += t.stride) {
        const double weight = t.weights != nullptr ? t.scale * t.weights[i] : t.scale;
        for (int k = 0; k < t.nnz; ++k) {
            const std::uint32_t place = t.place[i * t.nnz + k];
            double* sum = t.sums + static_cast<std::int64_t>(place >> 1) * sketch_tile;
            const double factor = (place & 1u) != 0 ? -weight : weight;
            std::int64_t j = 0;
            for (; j + wide <= t.columns; j += wide) store(sum + j, fma(load_wide(a + j), splat(factor), load(sum + j)));
            for (; j < t.columns; ++j) sum[j] += factor * static_cast<double>(a[j]);
        }
    }
}

void scatter(const ScatterTile& t) {
    if (t.type == DType::float64) return t.columns == sketch_tile ? scatter_full<double>(t) : scatter_part<double>(t);
    t.columns == sketch_tile ? scatter_full<float>(t) : scatter_part<float>(t);
}

template <class T>
void gather_typed(const GatherTile& t) {
    const T* b = static_cast<const T*>(t.b);
    for (std::int64_t i = 0; i < t.rows; ++i) {
        T* out = static_cast<T*>(t.out) + i * t.out_stride;
        const std::uint32_t* place = t.place + i * t.nnz;
        std::int64_t j = 0;
        for (; j < t.columns; j += wide) {
            const int count = static_cast<int>(std::min<std::int64_t>(wide, t.columns - j));
            Vec<double> sum = zero<double>();
            for (int k = 0; k < t.nnz; ++k) {
                const T* row = b + static_cast<std::int64_t>(place[k] >> 1) * t.stride + j;
                const Vec<double> x = count == wide ? load_wide(row) : load_wide_part(row, count);
                sum = fma(x, splat((place[k] & 1u) != 0 ? -t.scale : t.scale), sum);
            }
            if (count == wide) {
                store_narrow(out + j, sum);
            } else {
                store_narrow_part(out + j, sum, count);
            }
        }
    }
}

void gather(const GatherTile& t) { t.type == DType::float64 ? gather_typed<double>(t) : gather_typed<float>(t); }

}  // namespace

extern const SketchTable sketch_table;
const SketchTable sketch_table{scatter, gather};

RAPHSON_ISA_END
