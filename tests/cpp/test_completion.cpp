// The pass of matrix completion against loops, for every instruction set that runs here; and the public calls.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "raphson/completion.h"
#include "raphson/polynomial.h"
#include "raphson/relaxation.h"
#include "table.h"

using namespace raphson;
using std::int64_t;

namespace {

double number(int64_t i) { return static_cast<double>(i * 2654435761u % 2003) / 1001.0 - 1.0; }

struct Numbers {
    explicit Numbers(int64_t n) : all(static_cast<std::size_t>(n), 0.0) {}
    std::vector<double> all;
    double* data() { return all.data(); }
};

}  // namespace

TEST_CASE("completion passes of every instruction set") {
    const BuiltTables tables = built_tables();
    for (int t = 0; t < tables.count; ++t) {
        if (!tables.first[t].runs_here) continue;
        const KernelTable& table = *tables.first[t].table;
        CAPTURE(table.isa);
        for (const int64_t k : {1, 5, 8, 17, 40, 2600}) {
            const int64_t ld = (k + factor_unit - 1) / factor_unit * factor_unit, rows = 50;
            Numbers factor(rows * ld), u(ld), g(ld), gram(ld * ld);
            for (int64_t i = 0; i < rows; ++i) {
                for (int64_t j = 0; j < k; ++j) factor.all[static_cast<std::size_t>(i * ld + j)] = number(i * k + j + 1);
            }
            for (int64_t j = 0; j < k; ++j) u.all[static_cast<std::size_t>(j)] = number(7 * j + 3);
            for (const int64_t count : {0, 1, 3, 8, 33, 300}) {
                if (k > 1000 && count > 8) continue;
                CAPTURE(k);
                CAPTURE(count);
                std::vector<std::int32_t> index;
                std::vector<double> values;
                std::vector<float> narrow;
                for (int64_t p = 0; p < count; ++p) {
                    index.push_back(static_cast<std::int32_t>(p * 37 % rows));
                    narrow.push_back(static_cast<float>(number(p + 11)));
                    values.push_back(static_cast<double>(narrow.back()));
                }
                std::vector<double> slope(static_cast<std::size_t>(ld), 0.0), normal(static_cast<std::size_t>(ld * ld), 0.0);
                double errors = 0, squares = 0, length = 0;
                for (int64_t p = 0; p < count; ++p) {
                    const double* const v = factor.data() + index[static_cast<std::size_t>(p)] * ld;
                    double r = values[static_cast<std::size_t>(p)];
                    squares += r * r;
                    for (int64_t j = 0; j < k; ++j) r -= v[j] * u.all[static_cast<std::size_t>(j)];
                    errors += r * r;
                    for (int64_t i = 0; i < k; ++i) {
                        length += v[i] * v[i];
                        slope[static_cast<std::size_t>(i)] += r * v[i];
                        for (int64_t j = i; j < k; ++j) normal[static_cast<std::size_t>(i * ld + j)] += v[i] * v[j];
                    }
                }
                RowEntries row;
                row.count = count;
                row.index = index.data();
                row.factor = factor.data();
                row.ld = ld;
                for (const bool wide : {true, false}) {
                    row.values = wide ? static_cast<const void*>(values.data()) : narrow.data();
                    row.type = wide ? DType::float64 : DType::float32;
                    for (const bool wanted : {true, false}) {
                        const RowSums sums = table.completion.row_pass(row, u.data(), g.data(), wanted ? gram.data() : nullptr);
                        const double scale = 1e-12 * static_cast<double>(k + count + 1);
                        CHECK(std::fabs(sums.errors - errors) <= scale * (1 + errors));
                        CHECK(std::fabs(sums.values - squares) <= scale);
                        CHECK(std::fabs(sums.factor - length) <= scale * (1 + length));
                        double worst = 0;
                        for (int64_t i = 0; i < ld; ++i) {
                            worst = std::fmax(worst, std::fabs(g.all[static_cast<std::size_t>(i)] - slope[static_cast<std::size_t>(i)]));
                            for (int64_t j = i; wanted && j < ld; ++j) {
                                worst = std::fmax(worst, std::fabs(gram.all[static_cast<std::size_t>(i * ld + j)] - normal[static_cast<std::size_t>(i * ld + j)]));
                            }
                        }
                        CHECK(worst <= scale * 10);
                    }
                }
                if (count < k || k > 1000) continue;
                const double ridge = 0.25;
                table.completion.row_pass(row, u.data(), g.data(), gram.data());
                REQUIRE(table.completion.solve(gram.data(), ld, k, ridge, 1e-13, g.data()));
                double worst = 0;
                for (int64_t i = 0; i < k; ++i) {
                    double left = ridge * g.all[static_cast<std::size_t>(i)] - slope[static_cast<std::size_t>(i)];
                    for (int64_t j = 0; j < k; ++j) left += normal[static_cast<std::size_t>(std::min(i, j) * ld + std::max(i, j))] * g.all[static_cast<std::size_t>(j)];
                    worst = std::fmax(worst, std::fabs(left));
                }
                CHECK(worst <= 1e-9);
            }
        }
    }
}

TEST_CASE("a pivot that is lost is said") {
    std::vector<double> gram(64, 0.0), g(8, 1.0);
    gram[0] = gram[1] = gram[9] = 1;  // rank one
    CHECK_FALSE(kernels().completion.solve(gram.data(), 8, 2, 0.0, 1e-13, g.data()));
}

TEST_CASE("completion, relaxation and polynomials from C++") {
    const int64_t rows[] = {0, 0, 1, 1, 2}, cols[] = {0, 1, 0, 1, 0};
    const double values[] = {2, 4, 3, 6, 5};
    Observations o;
    o.rows_of_matrix = 3;
    o.cols_of_matrix = 2;
    o.count = 5;
    o.rows = rows;
    o.cols = cols;
    o.values = values;
    CompletionOptions options;
    options.tol = 1e-13;
    const CompletionResult found = complete_matrix(o, options);
    CHECK(found.status == Status::converged);
    CHECK(found.left[2] * found.right[1] == doctest::Approx(10));
    options.rank = 3;
    CHECK_THROWS_AS(complete_matrix(o, options), std::invalid_argument);

    const double a[] = {4, 1, 1, 3};
    const std::int64_t starts[] = {0, 2, 4};
    const std::int32_t index[] = {0, 1, 0, 1};
    RowBlock block;
    block.values = a;
    block.rows = block.cols = 2;
    block.starts = starts;
    block.index = index;
    const double b[] = {1, 2};
    for (const Relaxation method : {Relaxation::sor, Relaxation::ssor_cg}) {
        RelaxationOptions how;
        how.method = method;
        how.tol = 1e-12;
        const RelaxationSolution x = relax(block, b, how);
        CHECK(x.status == Status::converged);
        CHECK(x.x[0] == doctest::Approx(1.0 / 11));
        CHECK(x.x[1] == doctest::Approx(7.0 / 11));
    }
    const std::int32_t turned[] = {1, 0, 0, 1};
    block.index = turned;
    CHECK_THROWS_AS(relax(block, b, {}), std::invalid_argument);
    block.index = index;
    const double steps[] = {0, 0, 0, 1, 0, 2, 0, 3};  // 2 A v + 3 v
    double out[2];
    apply_recurrence(block, steps, 2, b, 1, out);
    CHECK(out[0] == doctest::Approx(2 * 6 + 3));
    CHECK(out[1] == doctest::Approx(2 * 7 + 6));
}
