// The public FisherInverse against the dense inverse of λI + GᵀG/m.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "dense/dense.h"
#include "raphson/fisher.h"
#include "support.h"

using namespace raphson;
using std::int64_t;

namespace {

constexpr int64_t m = 7, dim = 30;
constexpr double damping = 0.2;

// Blocks of the given width, dense; also F itself.
std::vector<double> fisher_of(const std::vector<double>& g, int64_t width) {
    std::vector<double> f(static_cast<std::size_t>(dim * dim), 0.0);
    for (int64_t i = 0; i < dim; ++i) {
        for (int64_t j = 0; j < dim; ++j) {
            if (i / width != j / width) continue;
            double sum = i == j ? damping : 0.0;
            for (int64_t k = 0; k < m; ++k) sum += g[k * dim + i] * g[k * dim + j] / static_cast<double>(m);
            f[i * dim + j] = sum;
        }
    }
    return f;
}

}  // namespace

TEST_CASE_TEMPLATE("ihvp: the public inverse of fixed gradients", T, double, float) {
    const auto g = support::normals<T>(m * dim, 3);
    const std::vector<double> wide(g.begin(), g.end());
    const double near = sizeof(T) == 8 ? 1e-11 : 1e-5;
    for (const int64_t block : {int64_t{0}, int64_t{10}}) {
        const auto f = fisher_of(wide, block > 0 ? block : dim);
        std::vector<double> inverse = f;
        REQUIRE(invert(inverse.data(), dim, dim));
        FisherInverse built(TensorView<const T>(g.data(), {m, dim}), damping, block);
        const FisherInverse fisher = std::move(built);
        CHECK(fisher.dim() == dim);
        CHECK(fisher.count() == m);

        const auto x = support::normals<T>(2 * dim, 5);
        std::vector<T> out(x.size());
        fisher.solve<T>({x.data(), {2, dim}}, {out.data(), {2, dim}});
        std::vector<double> diagonal(dim), entries(6);
        fisher.diagonal({diagonal.data(), {dim}});
        const std::vector<int64_t> rows = {0, 13, 29}, cols = {2, 13};
        fisher.submatrix({rows.data(), {3}}, {cols.data(), {2}}, {entries.data(), {3, 2}});
        for (int64_t i = 0; i < dim; ++i) {
            for (int64_t k = 0; k < 2; ++k) {
                double sum = 0;
                for (int64_t j = 0; j < dim; ++j) sum += inverse[i * dim + j] * static_cast<double>(x[k * dim + j]);
                CHECK(static_cast<double>(out[k * dim + i]) == doctest::Approx(sum).epsilon(near).scale(10));
            }
            CHECK(diagonal[i] == doctest::Approx(inverse[i * dim + i]).epsilon(1e-11));
        }
        for (int64_t i = 0; i < 3; ++i) {
            for (int64_t j = 0; j < 2; ++j) {
                CHECK(entries[i * 2 + j] == doctest::Approx(inverse[rows[i] * dim + cols[j]]).epsilon(1e-11));
            }
        }

        const auto w = support::normals<double>(dim, 8);
        std::vector<double> scores(dim), change(dim);
        fisher.obs_scores({w.data(), {dim}}, {scores.data(), {dim}});
        for (int64_t i = 0; i < dim; ++i) {
            CHECK(scores[i] == doctest::Approx(0.5 * w[i] * w[i] / inverse[i * dim + i]).epsilon(1e-10));
        }
        bool kept[dim];
        std::fill_n(kept, dim, true);
        kept[3] = kept[4] = kept[21] = false;
        const double increase = fisher.obs_remove({w.data(), {dim}}, {kept, {dim}}, {change.data(), {dim}});
        double energy = 0;  // ½ δᵀFδ, and stationary along what is kept
        for (int64_t i = 0; i < dim; ++i) {
            double slope = 0;
            for (int64_t j = 0; j < dim; ++j) slope += f[i * dim + j] * change[j];
            energy += 0.5 * change[i] * slope;
            if (kept[i]) CHECK(std::fabs(slope) < 1e-11);
            if (!kept[i]) CHECK(w[i] + change[i] == doctest::Approx(0).scale(1));
        }
        CHECK(increase == doctest::Approx(energy).epsilon(1e-10));
    }
}

TEST_CASE("ihvp: misuse of the public inverse throws") {
    auto g = support::normals<double>(m * dim, 3);
    const TensorView<const double> view(g.data(), {m, dim});
    CHECK_THROWS_AS(FisherInverse(view, 0.0), std::invalid_argument);
    CHECK_THROWS_AS(FisherInverse(view, 1.0, -1), std::invalid_argument);
    CHECK_THROWS_AS(FisherInverse(TensorView<const double>(g.data(), {dim}), 1.0), std::invalid_argument);
    const FisherInverse fisher(view, 1.0);
    std::vector<double> x(dim), out(dim);
    CHECK_THROWS_AS(fisher.solve<double>({x.data(), {dim - 1}}, {out.data(), {dim - 1}}), std::invalid_argument);
    CHECK_THROWS_AS(fisher.obs_scores({x.data(), {dim}}, {out.data(), {dim}}, 7), std::invalid_argument);
    const int64_t far = dim;
    CHECK_THROWS_AS(fisher.submatrix({&far, {1}}, {&far, {1}}, {out.data(), {1, 1}}), std::invalid_argument);
    x[3] = NAN;
    CHECK_THROWS_AS(fisher.solve<double>({x.data(), {dim}}, {out.data(), {dim}}), std::invalid_argument);
    g[5] = INFINITY;
    CHECK_THROWS_AS(FisherInverse(view, 1.0), std::invalid_argument);
}
