#include "newton/metric.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;
using Vector = std::vector<double>;

namespace {

constexpr int sketch_nnz = 8;

// The Gram matrix of every so many-th row, weighted by h, and the share of Σh that is in it; of all rows if that is none.
double thinned_gram(Glm& glm, const Vector& h, int64_t apart, double* gram) {
    RowBlock thin = *glm.x().whole;
    thin.rows = (thin.rows + apart - 1) / apart;
    thin.stride *= apart;
    Vector picked(static_cast<std::size_t>(thin.rows));
    double part = 0, all = 0;
    for (int64_t i = 0; i < thin.rows; ++i) part += picked[i] = h[i * apart];
    for (const double value : h) all += value;
    if (!(part > 0)) {
        weighted_gram(glm.x(), h.data(), glm.border(), gram);
        return 1;
    }
    weighted_gram(RowSource::of(thin), picked.data(), glm.border(), gram);
    return part / all;
}

}  // namespace

void GlmMetric::build(Glm& glm, const GlmPoint& at, Kind kind, int64_t rows, std::uint64_t seed) {
    const int64_t n = glm.x().rows, p = glm.p(), d = glm.x().cols;
    Vector h(static_cast<std::size_t>(n));
    glm.block_weights(at, h.data());
    if (kind == Kind::diagonal) {
        scale_.assign(static_cast<std::size_t>(p), 0.0);
        weighted_squares(glm.x(), h.data(), glm.border(), scale_.data());
        glm.count_sweeps(1);
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
        weighted_gram(glm.x(), h.data(), glm.border(), factor_.data());
    } else if (kind == Kind::thinned) {
        share = thinned_gram(glm, h, std::max<int64_t>(1, n / rows), factor_.data());
    } else {
        for (double& value : h) value = std::sqrt(value);
        rows = std::min(rows, n);
        const SparseSign s(rows, n, static_cast<int>(std::min<int64_t>(sketch_nnz, rows)), seed);
        Vector sketched(static_cast<std::size_t>(rows * p));
        sketch_rows(s, glm.x(), h.data(), glm.border(), sketched.data());
        const RowBlock tall = dense_rows(TensorView<const double>(sketched.data(), {rows, p}));
        weighted_gram(RowSource::of(tall), nullptr, 0, factor_.data());
    }
    glm.count_sweeps(1);
    finish(glm, 1 / (share * glm.total()), true);
}

void GlmMetric::build_coupled(Glm& glm, const GlmPoint& at) {
    factor_ = glm.information(at);
    width_ = glm.size();
    finish(glm, 1 / glm.total(), false);
}

void GlmMetric::build_from(Glm& glm, Glm& part, const GlmPoint& at) {
    Vector h(static_cast<std::size_t>(part.x().rows));
    part.block_weights(at, h.data());
    width_ = glm.p();
    factor_.assign(static_cast<std::size_t>(glm.p() * glm.p()), 0.0);
    weighted_gram(part.x(), h.data(), glm.border(), factor_.data());
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
    const int64_t p = width_, d = glm.x().cols;
    double* const to = factor_.data();
    double largest = 0;
    for (int64_t i = 0; i < p; ++i) {
        for (int64_t j = 0; j < p; ++j) to[i * p + j] *= scale;
        if (add_ridge && i < d) to[i * p + i] += glm.ridge();
        largest = std::max(largest, to[i * p + i]);
    }
    if (!std::isfinite(largest)) throw std::invalid_argument("fit_glm: X has NaN or Inf, or its squares overflow");
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
