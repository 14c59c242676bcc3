// Which tables there are and which is picked; then the passes of every table that runs here, against plain loops.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "common/cpu.h"
#include "raphson/runtime.h"
#include "support.h"
#include "table.h"

using namespace raphson;
using namespace support;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

std::vector<const KernelTable*> tables_here() {
    std::vector<const KernelTable*> all;
    const BuiltTables built = built_tables();
    for (int i = 0; i < built.count; ++i) {
        if (built.first[i].runs_here) all.push_back(built.first[i].table);
    }
    return all;
}

// A matrix with strides inside a buffer whose other elements must neither be read (they are NaN) nor written.
template <class T>
struct Strided {
    int64_t rows, cols, row_stride, col_stride, origin;
    std::vector<T> buffer;

    Strided(int64_t rows_, int64_t cols_, int64_t row_stride_, int64_t col_stride_)
        : rows(rows_), cols(cols_), row_stride(row_stride_), col_stride(col_stride_) {
        const int64_t r = (rows - 1) * row_stride, c = (cols - 1) * col_stride;
        origin = (r < 0 ? -r : 0) + (c < 0 ? -c : 0);
        const int64_t last = origin + (r > 0 ? r : 0) + (c > 0 ? c : 0);
        buffer.assign(static_cast<std::size_t>(last + 1), from_double<T>(not_a_number));
    }
    T& at(int64_t i, int64_t j) {
        return buffer[static_cast<std::size_t>(origin + i * row_stride + j * col_stride)];
    }
    double get(int64_t i, int64_t j) { return to_double(at(i, j)); }
    MatrixRef ref() { return {buffer.data() + origin, dtype_of<T>(), rows, cols, row_stride, col_stride}; }
    void fill(std::uint64_t seed, double scale = 1) {
        Random random{seed};
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t j = 0; j < cols; ++j) at(i, j) = from_double<T>(random.normal() * scale);
        }
    }
    int64_t written() const {
        int64_t count = 0;
        for (const T x : buffer) count += std::isnan(to_double(x)) ? 0 : 1;
        return count;
    }
};

struct Layout {
    int64_t rows, cols, row_stride, col_stride;
};
// Row major, padded, transposed, both strides, negative, and sizes on both sides of what a task and a tile hold.
const Layout layouts[] = {{1, 1, 1, 1},       {1, 17, 17, 1},    {17, 1, 1, 1},         {5, 33, 40, 1},
                          {33, 5, 1, 40},     {31, 65, 131, 2},  {7, 9, -9, 1},         {9, 7, 7, -1},
                          {40, 40, -83, -2},  {3, 40000, 40000, 1}, {300, 257, 257, 1}, {257, 300, 1, 260},
                          {64, 1030, 2, 140}, {0, 3, 3, 1},      {3, 0, 1, 1}};

// Sum of squares of x / unit and the largest |x|, from plain loops in long double.
template <class T>
void check_scan(const KernelTable& table, Strided<T>& x, double tolerance = 1e-13) {
    const MatrixScan found = table.newton_schulz.scan(x.ref());
    long double sum = 0;
    double max = 0;
    REQUIRE(found.unit > 0);
    int exponent = 0;
    CHECK(std::frexp(found.unit, &exponent) == 0.5);  // a power of two
    for (int64_t i = 0; i < x.rows; ++i) {
        for (int64_t j = 0; j < x.cols; ++j) {
            const long double v = static_cast<long double>(x.get(i, j)) / static_cast<long double>(found.unit);
            sum += v * v;
            max = std::fmax(max, std::fabs(x.get(i, j)));
        }
    }
    CHECK(found.max_abs == max);
    CHECK(std::fabs(static_cast<long double>(found.sum_squares) - sum) <= static_cast<long double>(tolerance) * sum);
}

}  // namespace

TEST_CASE("dispatch: the table in use is the expected one") {
    const BuildInfo info = build_info();
    CHECK(info.isa == kernels().isa);
    if (const char* expected = std::getenv("RAPHSON_EXPECT_ISA")) CHECK(info.isa == expected);
    const char* cap = std::getenv("RAPHSON_ISA");
    if (cap == nullptr || *cap == '\0') CHECK(info.isa == tables_here().back()->isa);
}

TEST_CASE("dispatch: tables are built lowest first, each says its name, each needs those before it") {
    const BuildInfo info = build_info();
    const BuiltTables built = built_tables();
    REQUIRE(built.count == static_cast<int>(info.isas.size()));
    for (int i = 0; i < built.count; ++i) {
        CHECK(built.first[i].table->isa == info.isas[static_cast<std::size_t>(i)]);
        CHECK(built.first[i].table->eigen_version == info.eigen);
        if (i > 0) CHECK(built.first[i - 1].runs_here >= built.first[i].runs_here);
    }
#if defined(RAPHSON_TEST_ONLY_ISA)
    CHECK(info.isas == std::vector<std::string>{RAPHSON_TEST_ONLY_ISA});
#elif defined(__x86_64__)
    CHECK(info.isas == std::vector<std::string>{"x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4+avx512_bf16",
                                              "x86-64-v4+amx_bf16"});
#else
    CHECK(info.isas.size() == 1);
#endif
    CHECK(built.first[0].runs_here);
    CHECK_FALSE(cpu_runs("v5"));
    CHECK_FALSE(cpu_runs(""));
    CHECK(info.version.find('.') != std::string::npos);
}

TEST_CASE_TEMPLATE("passes: scan of any layout", T, double, float, bfloat16) {
    for (const KernelTable* table : tables_here()) {
        CAPTURE(std::string(table->isa));
        for (const Layout& l : layouts) {
            if (l.rows == 0 || l.cols == 0) continue;
            Strided<T> x(l.rows, l.cols, l.row_stride, l.col_stride);
            x.fill(static_cast<std::uint64_t>(l.rows * 1000 + l.cols));
            check_scan(*table, x);
        }
    }
}

TEST_CASE_TEMPLATE("passes: scan of zeros, denormals, the largest and the smallest numbers", T, double, float, bfloat16) {
    using Limits = std::numeric_limits<std::conditional_t<std::is_same_v<T, double>, double, float>>;
    const double largest = std::is_same_v<T, bfloat16> ? 0x1.fep+127 : static_cast<double>(Limits::max());
    const double smallest = std::is_same_v<T, bfloat16> ? 0x1p-133 : static_cast<double>(Limits::denorm_min());
    for (const KernelTable* table : tables_here()) {
        CAPTURE(std::string(table->isa));
        for (const double scale : {0.0, 1e-30, 1e30, 1e-160, 1e150, 1e-300, 1e300, 1e-310}) {
            CAPTURE(scale);
            Strided<T> x(13, 37, 40, 1);
            x.fill(3, scale);
            if (!std::isfinite(x.get(0, 0))) continue;  // 1e150 in float32
            check_scan(*table, x);
        }
        for (const double edge : {largest, -largest, smallest, -smallest}) {
            CAPTURE(edge);
            Strided<T> x(13, 37, 1, 13);
            x.fill(3, 0);
            x.at(12, 36) = from_double<T>(edge);
            check_scan(*table, x);
            x.at(0, 0) = from_double<T>(edge);
            check_scan(*table, x);
        }
        Strided<T> mixed(20, 20, 20, 1);  // what is small beside the largest entry must not spoil its unit
        mixed.fill(4, 0);
        mixed.at(1, 1) = from_double<T>(largest);
        mixed.at(7, 3) = from_double<T>(smallest);
        check_scan(*table, mixed);
    }
}

TEST_CASE_TEMPLATE("passes: scan shows NaN and Inf wherever they are", T, double, float, bfloat16) {
    for (const KernelTable* table : tables_here()) {
        CAPTURE(std::string(table->isa));
        for (const double bad : {not_a_number, infinity, -infinity}) {
            CAPTURE(bad);
            for (const int64_t at : {0, 15, 16, 31, 32, 36}) {
                for (const int64_t step : {1, 2}) {
                    for (const double scale : {1.0, std::is_same_v<T, double> ? 1e300 : 1e30}) {
                        Strided<T> x(3, 37, 80, step);
                        x.fill(5, scale);
                        x.at(2, at) = from_double<T>(bad);
                        const MatrixScan found = table->newton_schulz.scan(x.ref());
                        CHECK_FALSE(std::isfinite(found.sum_squares));
                        CHECK_FALSE(std::isfinite(found.max_abs));
                    }
                }
            }
        }
    }
}

namespace {

template <class From, class To>
void check_copies(const KernelTable& table) {
    for (const Layout& l : layouts) {
        CAPTURE(l.rows);
        CAPTURE(l.cols);
        CAPTURE(l.row_stride);
        if (l.rows == 0 || l.cols == 0) {
            From x{};
            To y{};
            table.newton_schulz.load({&x, dtype_of<From>(), l.rows, l.cols, l.row_stride, l.col_stride}, 1, 1,
                                     dtype_of<To>(), &y, l.cols);
            table.newton_schulz.store(dtype_of<To>(), &y, l.cols, {&x, dtype_of<From>(), l.rows, l.cols, l.row_stride, l.col_stride});
            CHECK(to_double(x) == 0);
            CHECK(to_double(y) == 0);
            continue;
        }
        Strided<From> x(l.rows, l.cols, l.row_stride, l.col_stride);
        x.fill(9);
        const int64_t ld = l.cols + 3;
        std::vector<To> dense(static_cast<std::size_t>(l.rows * ld), from_double<To>(7)), expected = dense;
        const double scale = 0x1p-3, rescale = 1.0 / 3;
        table.newton_schulz.load(x.ref(), scale, rescale, dtype_of<To>(), dense.data(), ld);
        for (int64_t i = 0; i < l.rows; ++i) {
            for (int64_t j = 0; j < l.cols; ++j) {
                expected[static_cast<std::size_t>(i * ld + j)] = from_double<To>(x.get(i, j) * scale * rescale);
            }
        }
        CHECK(same_bits(dense, expected));

        Strided<From> out(l.rows, l.cols, l.row_stride, l.col_stride);
        table.newton_schulz.store(dtype_of<To>(), dense.data(), ld, out.ref());
        int64_t wrong = 0;
        for (int64_t i = 0; i < l.rows; ++i) {
            for (int64_t j = 0; j < l.cols; ++j) {
                const double v = to_double(dense[static_cast<std::size_t>(i * ld + j)]);
                wrong += out.get(i, j) == to_double(from_double<From>(v)) ? 0 : 1;
            }
        }
        CHECK(wrong == 0);
        CHECK(out.written() == l.rows * l.cols);  // and nothing between or around
    }
}

}  // namespace

TEST_CASE_TEMPLATE("passes: load and store of any layout and pair of types, rounded to nearest even", T, double, float,
                   bfloat16) {
    for (const KernelTable* table : tables_here()) {
        CAPTURE(std::string(table->isa));
        check_copies<T, double>(*table);
        check_copies<T, float>(*table);
        check_copies<T, bfloat16>(*table);
    }
}

TEST_CASE("passes: load carries NaN, Inf, signed zeros, ties and denormals") {
    // 1 + 2^-8 and 1 + 3·2^-8 lie halfway between two bfloat16; 0x1.fffp+127 rounds to infinity.
    const std::vector<double> values{0.0,    -0.0,      infinity,    -infinity, not_a_number,       1 + 0x1p-8,  1 + 3 * 0x1p-8,
                                     1e-320, -0x1p-149, 0x1.8p-149,  0x1p-133,  0x1.8p-134,  0x1p-134,    0x1.fffp+127,
                                     1e300,  0x1p-1074, 0x1.01p+0,   3.4e38,    -1e-45,      0x1.0101p+0, 1e39};
    for (const KernelTable* table : tables_here()) {
        CAPTURE(std::string(table->isa));
        const auto n = static_cast<int64_t>(values.size());
        const MatrixRef x{const_cast<double*>(values.data()), DType::float64, 1, n, n, 1};
        std::vector<bfloat16> half(values.size());
        std::vector<float> single(values.size());
        std::vector<double> full(values.size());
        table->newton_schulz.load(x, 1, 1, DType::bfloat16, half.data(), n);
        table->newton_schulz.load(x, 1, 1, DType::float32, single.data(), n);
        table->newton_schulz.load(x, 1, 1, DType::float64, full.data(), n);
        for (std::size_t i = 0; i < values.size(); ++i) {
            CAPTURE(values[i]);
            if (std::isnan(values[i])) {
                CHECK(std::isnan(to_double(half[i])));
                CHECK(std::isnan(single[i]));
                CHECK(std::isnan(full[i]));
                continue;
            }
            CHECK(half[i].bits == from_double<bfloat16>(values[i]).bits);
            CHECK(single[i] == static_cast<float>(values[i]));
            CHECK(full[i] == values[i]);
            CHECK(std::signbit(single[i]) == std::signbit(values[i]));
        }
        // Either factor alone would leave float64.
        const double tiny = 0x1p-1060;
        double back = 0;
        table->newton_schulz.load({const_cast<double*>(&tiny), DType::float64, 1, 1, 1, 1}, 0x1p+1000, 0x1p+60,
                                  DType::float64, &back, 1);
        CHECK(back == 1.0);
    }
}

TEST_CASE("ceilings: the loops do what they count, on every instruction set") {
    std::vector<double> data(1024 + 8, 1.0);
    for (const KernelTable* table : tables_here()) {
        CAPTURE(std::string(table->isa));
        for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
            double sink = 0;
            const double one = table->ceilings.fma_loop(dtype, 1, &sink), many = table->ceilings.fma_loop(dtype, 1000, &sink);
            CHECK(one > 0);
            CHECK(many == 1000 * one);
            CHECK(std::isfinite(sink));
        }
        const auto address = reinterpret_cast<std::uintptr_t>(data.data());
        const double* aligned = data.data() + (64 - address % 64) % 64 / sizeof(double);
        CHECK(table->ceilings.read_loop(aligned, 8192) == 1024.0);
        CHECK(table->ceilings.read_loop(aligned, 1024) == 128.0);
        CHECK(table->ceilings.read_loop(aligned, 0) == 0.0);
    }
}
