// Sparse sign embeddings: the passes of every instruction set that runs here, and the public class, against their entries.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "raphson/runtime.h"
#include "raphson/sketch.h"
#include "sketch/passes.h"
#include "support.h"
#include "table.h"

using namespace raphson;

namespace {

struct Entries {
    std::vector<std::int32_t> row;
    std::vector<std::int8_t> sign;
    Entries(const SparseSign& s, std::int64_t first, std::int64_t n)
        : row(static_cast<std::size_t>(n * s.nnz())), sign(row.size()) {
        s.entries(first, n, row.data(), sign.data());
    }
};

}  // namespace

TEST_CASE_TEMPLATE("sketch passes: scatter and gather", T, double, float) {
    const BuiltTables built = built_tables();
    for (int k = 0; k < built.count; ++k) {
        if (!built.first[k].runs_here) continue;
        CAPTURE(built.first[k].table->isa);
        const SketchTable& table = built.first[k].table->sketch;
        for (const std::int64_t width : {1, 7, 8, 63, 64}) {
            const std::int64_t n = 37, rows = 11, stride = width + 3;
            const SparseSign sketch(rows, n, 3, 5);
            const Entries entries(sketch, 0, n);
            std::vector<std::uint32_t> place;
            for (std::size_t e = 0; e < entries.row.size(); ++e) {
                place.push_back(sketch_place(static_cast<std::uint32_t>(entries.row[e]), entries.sign[e] < 0));
            }
            const auto a = support::normals<T>(n * stride, 1);
            const auto w = support::normals<double>(n, 2);
            for (const double* weights : {static_cast<const double*>(nullptr), w.data()}) {
                std::vector<double> sums(static_cast<std::size_t>(rows * 64), 0.5);
                table.scatter({dtype_of<T>(), a.data(), stride, n, width, place.data(), 3, weights, 0.25, sums.data(), 64});
                std::vector<double> expected(sums.size(), 0.5);
                for (std::int64_t i = 0; i < n; ++i) {
                    for (int e = 0; e < 3; ++e) {
                        const double factor = 0.25 * entries.sign[i * 3 + e] * (weights != nullptr ? w[i] : 1);
                        for (std::int64_t j = 0; j < width; ++j) {
                            expected[entries.row[i * 3 + e] * 64 + j] += factor * support::to_double(a[i * stride + j]);
                        }
                    }
                }
                for (std::size_t e = 0; e < sums.size(); ++e) CHECK(std::fabs(sums[e] - expected[e]) < 1e-13);
            }
            std::vector<T> out(static_cast<std::size_t>(n * stride), T(9));
            table.gather({dtype_of<T>(), a.data(), stride, n, width, place.data(), 3, 0.25, out.data(), stride});
            for (std::int64_t i = 0; i < n; ++i) {
                for (std::int64_t j = 0; j < stride; ++j) {
                    double sum = j < width ? 0 : 9;
                    for (int e = 0; e < 3 && j < width; ++e) {
                        sum += 0.25 * entries.sign[i * 3 + e] * support::to_double(a[entries.row[i * 3 + e] * stride + j]);
                    }
                    CHECK(std::fabs(support::to_double(out[i * stride + j]) - sum) < (sizeof(T) == 8 ? 1e-14 : 1e-6));
                }
            }
        }
    }
}

TEST_CASE("sketch: blocks of rows add up, whatever the number of threads") {
    const std::int64_t n = 5000, d = 70;
    const SparseSign sketch(40, n, 4, 9);
    const auto a = support::normals<double>(n * d, 3);
    const int before = get_num_threads();
    std::vector<std::vector<double>> found;
    for (const int threads : {1, 3}) {
        set_num_threads(threads);
        std::vector<double> whole(static_cast<std::size_t>(40 * d), 0.0), parts(whole);
        sketch.add<double>({a.data(), {n, d}}, 0, nullptr, whole.data());
        sketch.add<double>({a.data(), {1234, d}}, 0, nullptr, parts.data());
        sketch.add<double>({a.data() + 1234 * d, {n - 1234, d}}, 1234, nullptr, parts.data());
        for (std::size_t k = 0; k < whole.size(); ++k) CHECK(std::fabs(whole[k] - parts[k]) < 1e-11);
        found.push_back(whole);
    }
    set_num_threads(before);
    CHECK(support::same_bits(found[0], found[1]));
}

TEST_CASE("sketch: misuse is refused") {
    CHECK(support::contains(support::refusal([] { SparseSign(0, 5, 1, 0); }), "rows must be at least 1"));
    CHECK(support::contains(support::refusal([] { SparseSign(5, 5, 6, 0); }), "nnz must be from 1 to rows (5), got 6"));
    const SparseSign sketch(3, 8, 2, 0);
    const std::vector<double> a(18, 1.0);
    std::vector<double> out(6, 0.0);
    CHECK(support::contains(support::refusal([&] { sketch.add<double>({a.data(), {9, 2}}, 0, nullptr, out.data()); }), "beyond its 8 columns"));
}
