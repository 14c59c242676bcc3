#include "sketch/passes.h"

#include <algorithm>

#include "common/simd_double.h"
#include "isa.h"
#include "sketch/philox_lanes.h"

RAPHSON_ISA_BEGIN
namespace {

constexpr int wide = Vec<double>::width;
constexpr std::int64_t line = 64;  // bytes of the cache
// A piece of a row is asked for twice: early, for memory to answer, into the second-level cache; and once more just before
// it is needed, for the first level holds few requests at a time, and sums must pass between the two all the while.
constexpr std::int64_t rows_far = 64, rows_near = 4;

void places(std::uint64_t seed, std::uint32_t stream, std::int64_t first, std::int64_t n, std::int64_t rows, int nnz, std::uint32_t* place) {
    Numbers c;
    std::uint32_t found[lanes];
    for (std::int64_t i = 0; i < n; i += lanes) {
        const int count = static_cast<int>(std::min<std::int64_t>(lanes, n - i));
        for (int k = 0; k < nnz; k += 4) {
            philox_at_positions(c, static_cast<std::uint64_t>(first + i), static_cast<std::uint64_t>(k / 4), stream, seed);
            for (int l = 0; l < 4 && k + l < nnz; ++l) {
                const auto low = static_cast<std::uint64_t>(rows * (k + l) / nnz);
                const std::uint64_t height = static_cast<std::uint64_t>(rows * (k + l + 1) / nnz) - low;
                for (int q = 0; q < lanes; ++q) {  // 31 bits choose the row, one the sign
                    const std::uint64_t number = c.x[l][q];
                    found[q] = static_cast<std::uint32_t>((low + ((number >> 1) * height >> 31)) << 1 | (number & 1));
                }
                std::uint32_t* const to = place + i * nnz + k + l;
                for (int q = 0; q < count; ++q) to[q * nnz] = found[q];
            }
        }
    }
}

// Up to `held` vectors of a row in registers, added to nnz rows of the sketch. Full: that many, and all lanes.
constexpr int held = 8;

template <bool Full, class T>
RAPHSON_FORCE_INLINE void scatter_part(const ScatterTile& t, const T* a, const std::uint32_t* place, double weight, std::int64_t column) {
    const int left = static_cast<int>(std::min<std::int64_t>(held * wide, t.columns - column)), parts = Full ? held : left / wide;
    const int rest = Full ? 0 : left - parts * wide;
    Vec<double> row[held + 1];
    if (Full) {
        RAPHSON_UNROLL
        for (int p = 0; p < held; ++p) row[p] = load_wide(a + column + p * wide);
    } else {
        for (int p = 0; p < parts; ++p) row[p] = load_wide(a + column + p * wide);
        if (rest > 0) row[parts] = load_wide_part(a + column + parts * wide, rest);
    }
    for (int k = 0; k < t.nnz; ++k) {
        double* sum = t.sums + static_cast<std::int64_t>(place[k] >> 1) * t.sums_stride + column;
        const Vec<double> factor = splat((place[k] & 1u) != 0 ? -weight : weight);
        if (Full) {
            RAPHSON_UNROLL
            for (int p = 0; p < held; ++p) store(sum + p * wide, fma(row[p], factor, load(sum + p * wide)));
        } else {
            for (int p = 0; p < parts; ++p) store(sum + p * wide, fma(row[p], factor, load(sum + p * wide)));
            double* const end = sum + parts * wide;
            if (rest > 0) store_part(end, fma(row[parts], factor, load_part(end, rest)), rest);
        }
    }
}

template <class T>
void scatter_typed(const ScatterTile& t) {
    const T* a = static_cast<const T*>(t.a);
    const std::int64_t bytes = t.columns * static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t i = 0; i < t.rows; ++i, a += t.stride) {
        const char* const far = reinterpret_cast<const char*>(a + rows_far * t.stride);
        const char* const near = reinterpret_cast<const char*>(a + rows_near * t.stride);
        for (std::int64_t j = 0; j < bytes; j += line) prefetch_far(far + j);
        prefetch_far(far + bytes - 1);  // pieces need not begin where lines do
        for (std::int64_t j = 0; j < bytes; j += line) prefetch(near + j);
        prefetch(near + bytes - 1);
        const double weight = t.weights != nullptr ? t.scale * t.weights[i] : t.scale;
        const std::uint32_t* place = t.place + i * t.nnz;
        std::int64_t column = 0;
        for (; column + held * wide <= t.columns; column += held * wide) scatter_part<true>(t, a, place, weight, column);
        if (column < t.columns) scatter_part<false>(t, a, place, weight, column);
    }
}

void scatter(const ScatterTile& t) { t.type == DType::float64 ? scatter_typed<double>(t) : scatter_typed<float>(t); }

template <int R, class T>
void add_group(const RowSum& s, std::int64_t first) {
    const T* row[R];
    const T* next[R];
    Vec<double> factor[R];
    RAPHSON_UNROLL
    for (int r = 0; r < R; ++r) {
        row[r] = static_cast<const T*>(s.a) + s.row[first + r] * s.stride;
        next[r] = static_cast<const T*>(s.a) + s.row[std::min(first + R + r, s.count - 1)] * s.stride;
        factor[r] = splat(s.factor[first + r]);
    }
    constexpr std::int64_t numbers = line / static_cast<std::int64_t>(sizeof(T));
    std::int64_t j = 0;
    for (; j + wide <= s.columns; j += wide) {
        Vec<double> sum = load(s.sum + j);
        RAPHSON_UNROLL
        for (int r = 0; r < R; ++r) {
            if (j % numbers == 0) prefetch_far(next[r] + j);
            sum = fma(load_wide(row[r] + j), factor[r], sum);
        }
        store(s.sum + j, sum);
    }
    if (j < s.columns) {
        const int count = static_cast<int>(s.columns - j);
        Vec<double> sum = load_part(s.sum + j, count);
        for (int r = 0; r < R; ++r) sum = fma(load_wide_part(row[r] + j, count), factor[r], sum);
        store_part(s.sum + j, sum, count);
    }
}

template <class T>
void add_rows_typed(const RowSum& s) {
    std::int64_t i = 0;
    for (; i + 4 <= s.count; i += 4) add_group<4, T>(s, i);
    for (; i < s.count; ++i) add_group<1, T>(s, i);
}

void add_rows(const RowSum& s) { s.type == DType::float64 ? add_rows_typed<double>(s) : add_rows_typed<float>(s); }

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
const SketchTable sketch_table{places, scatter, gather, add_rows};

RAPHSON_ISA_END
