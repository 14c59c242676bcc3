#include "newton/metric.h"

#include <algorithm>
#include <cmath>

#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;
using Vector = std::vector<double>;

constexpr int sketch_nnz = 8;

void GlmMetric::build(Glm& glm, const GlmPoint& at, Kind kind, int64_t rows, std::uint64_t seed) {
    const int64_t p = glm.p(), d = glm.cols();
    if (kind == Kind::diagonal) {
        scale_.assign(static_cast<std::size_t>(p), 0.0);
        glm.squares(at, scale_.data());
        for (int64_t j = 0; j < p; ++j) {
            const double s = scale_[j] / glm.total() + (j < d ? glm.ridge() : 0.0);
            scale_[j] = s > 0 ? 1 / s : 1.0;
        }
        return;
    }
    width_ = p;
    factor_.assign(static_cast<std::size_t>(p * p), 0.0);
    double share = 1;  // of the curvature
    if (kind == Kind::exact) {
        glm.gram(at, factor_.data());
    } else if (kind == Kind::thinned) {
        share = glm.thinned_gram(at, std::max<int64_t>(1, glm.rows() / rows), factor_.data());
    } else {
        rows = std::min(rows, glm.rows());
        glm.sketched_gram(at, {rows, static_cast<int>(std::min<int64_t>(sketch_nnz, rows)), seed}, factor_.data());
    }
    finish(glm, 1 / (share * glm.total()), true);
}

void GlmMetric::build_coupled(Glm& glm, const GlmPoint& at) {
    factor_ = glm.information(at);
    width_ = glm.size();
    finish(glm, 1 / glm.total(), false);
}

void GlmMetric::build_from(Glm& glm, Glm& part, const GlmPoint& at) {
    width_ = glm.p();
    factor_.assign(static_cast<std::size_t>(glm.p() * glm.p()), 0.0);
    part.gram(at, factor_.data());
    finish(glm, 1 / part.total(), true);
}

void GlmMetric::solve(Vector& g) const {
    if (factor_.empty()) {
        const auto p = scale_.size();
        for (std::size_t j = 0; j < g.size(); ++j) g[j] *= scale_[j % p];
        return;
    }
    for (int64_t from = 0; from < static_cast<int64_t>(g.size()); from += width_) {
        double* const part = g.data() + from;
        kernels().dense.solve_triangle(factor_.data(), width_, width_, false, false, part);
        kernels().dense.solve_triangle(factor_.data(), width_, width_, false, true, part);
    }
}

// A relative 1e-13 keeps collinear columns from breaking the factor; as a preconditioner it harms nothing.
void GlmMetric::finish(Glm& glm, double scale, bool add_ridge) {
    const int64_t p = width_, d = glm.cols();
    double* const to = factor_.data();
    double largest = 0;
    for (int64_t i = 0; i < p; ++i) {
        for (int64_t j = 0; j < p; ++j) to[i * p + j] *= scale;
        if (add_ridge && i < d) to[i * p + i] += glm.ridge();
        largest = std::max(largest, to[i * p + i]);
    }
    if (!std::isfinite(largest)) throw NotFinite("fit_glm: X has NaN or Inf, or its squares overflow");
    const Vector plain = factor_;
    for (double shift = 1e-13;; shift *= 100) {
        for (int64_t i = 0; i < p; ++i) {
            const double own = plain[i * p + i];  // badly scaled columns keep their digits
            to[i * p + i] = own > 0 ? own * (1 + shift) : std::max(largest, 1e-300);
        }
        if (cholesky(to, p, p, 1e-300) == 0 || !(shift < 1)) break;
        factor_ = plain;
    }
    ++made_;
}

}  // namespace raphson
