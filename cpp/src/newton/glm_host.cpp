#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/threads.h"
#include "newton/glm.h"

namespace raphson {

using std::int64_t;

constexpr int64_t rows_a_task = 4096;

// Loss of one row, its derivative by the margin, and the second one; for the multinomial family the probabilities. Both
// p and 1 − p are formed without cancellation, so that extreme margins keep their digits.
double HostGlm::row(const double* margin, double y, double* residual, double* curvature) const {
    const double m = margin[0];
    switch (family_) {
        case GlmFamily::logistic: {
            const double e = std::exp(-std::fabs(m)), large = 1 / (1 + e), small = e * large;
            const double p = m >= 0 ? large : small, q = m >= 0 ? small : large;
            residual[0] = (1 - y) * p - y * q;
            curvature[0] = p * q;
            return std::log1p(e) + (m >= 0 ? (1 - y) * m : -y * m);
        }
        case GlmFamily::poisson: {
            const double mean = std::exp(m);
            residual[0] = mean - y;
            curvature[0] = mean;
            return mean - y * m;
        }
        case GlmFamily::gaussian:
            residual[0] = m - y;
            curvature[0] = 1;
            return 0.5 * (m - y) * (m - y);
        default: break;
    }
    const int k = static_cast<int>(outputs_), label = static_cast<int>(y);
    int top = 0;
    for (int c = 1; c < k; ++c) top = margin[c] > margin[top] ? c : top;
    double rest = 0;  // Σ e^{m − top} but for top's own 1
    for (int c = 0; c < k; ++c) {
        curvature[c] = std::exp(margin[c] - margin[top]);
        if (c != top) rest += curvature[c];
    }
    const double scale = 1 / (1 + rest);
    double others = 0;
    for (int c = 0; c < k; ++c) {
        curvature[c] *= scale;
        residual[c] = curvature[c];
        if (c != label) others += curvature[c];
    }
    residual[label] = -others;
    return std::log1p(rest) + (margin[top] - margin[label]);
}

double HostGlm::saturated(double y) const {
    const auto entropy = [](double v) { return v > 0 ? v * std::log(v) : 0.0; };
    if (family_ == GlmFamily::logistic) return -entropy(y) - entropy(1 - y);
    if (family_ == GlmFamily::poisson) return y - entropy(y);
    return 0;
}

Glm::Sums HostGlm::read(GlmPoint& at, bool margins_known, double* out, bool zero) {
    const int64_t k = outputs_, per_row = family_ == GlmFamily::multinomial ? k : 1;
    at.margin.resize(static_cast<std::size_t>(n_ * k));
    at.curvature.resize(static_cast<std::size_t>(n_ * per_row));
    const int outs = static_cast<int>(k) * (zero ? 2 : 1);
    Sweep what;
    if (!margins_known) what.v = at.w.data();
    what.in = static_cast<int>(k);
    what.out = out;
    what.outs = outs;
    what.stride = p_;
    what.sums = 2 + outs;  // loss, rows not separated, the gradient's intercepts
    const std::vector<double> sums = sweep(x_, what, [&](int64_t first, int64_t rows, const double* t, double* u, double* total) {
        std::vector<double> start(static_cast<std::size_t>(k)), ignored(static_cast<std::size_t>(k));
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t r = first + i;
            double* const margin = at.margin.data() + r * k;
            double* const residual = u + i * outs;
            const double weight = data_.weight != nullptr ? data_.weight[r] : 1.0, y = data_.y[r];
            for (int64_t c = 0; c < k; ++c) {
                start[c] = data_.offset != nullptr ? data_.offset[r * k + c] : 0.0;
                margin[c] = margins_known ? margin[c] - start[c] : t[i * k + c] + (border_ != 0 ? at.w[c * p_ + d_] : 0.0);
            }
            bool right = false;  // on its side, by the linear part alone
            if (family_ == GlmFamily::logistic) right = binary_ && (y > 0.5 ? margin[0] > 0 : margin[0] < 0);
            if (family_ == GlmFamily::multinomial) {
                right = true;
                for (int64_t c = 0; c < k; ++c) right = right && (c == static_cast<int64_t>(y) || margin[c] < margin[static_cast<int64_t>(y)]);
            }
            if (weight > 0 && !right) total[1] += 1;
            for (int64_t c = 0; c < k; ++c) margin[c] += start[c];
            const double loss = row(margin, y, residual, at.curvature.data() + r * per_row);
            if (weight > 0) total[0] += weight * loss;
            if (zero) row(start.data(), y, residual + k, ignored.data());
            for (int c = 0; c < outs; ++c) {
                residual[c] = weight > 0 ? residual[c] * weight / total_ : 0.0;
                total[2 + c] += residual[c];
            }
        }
    });
    for (int c = 0; border_ != 0 && c < outs; ++c) out[c * p_ + d_] = sums[2 + c];
    return {sums[0], sums[1]};
}

template <class Body>
void HostGlm::for_chunks(int64_t chunks, Body&& body) const {
    parallel_for(chunks, [&](int64_t chunk) {
        const int64_t begin = chunk * rows_a_task;
        body(chunk, begin, std::min(begin + rows_a_task, n_));
    });
    throw_if_cancelled();
}

double HostGlm::line(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const {
    const int64_t k = outputs_, chunks = (n_ + rows_a_task - 1) / rows_a_task;
    std::vector<double> parts(static_cast<std::size_t>(2 * chunks), 0.0);
    for_chunks(chunks, [&](int64_t chunk, int64_t begin, int64_t end) {
        std::vector<double> margin(static_cast<std::size_t>(k)), residual(margin.size()), curvature(margin.size());
        double loss = 0, derivative = 0;
        for (int64_t i = begin; i < end; ++i) {
            const double weight = data_.weight != nullptr ? data_.weight[i] : 1.0;
            if (weight == 0) continue;
            for (int64_t c = 0; c < k; ++c) margin[c] = from.margin[i * k + c] + t * (to.margin[i * k + c] - from.margin[i * k + c]);
            loss += weight * row(margin.data(), data_.y[i], residual.data(), curvature.data());
            for (int64_t c = 0; c < k; ++c) derivative += weight * residual[c] * (to.margin[i * k + c] - from.margin[i * k + c]);
        }
        parts[2 * chunk] = loss;
        parts[2 * chunk + 1] = derivative;
    });
    double objective = 0, derivative = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        objective += parts[2 * chunk] / total_;
        derivative += parts[2 * chunk + 1] / total_;
    }
    *slope = derivative;
    return objective;
}

void HostGlm::shorten(const GlmPoint& from, GlmPoint& to, double t) const {
    for (std::size_t i = 0; i < to.margin.size(); ++i) to.margin[i] = from.margin[i] + t * (to.margin[i] - from.margin[i]);
}

void HostGlm::product(const GlmPoint& at, const double* s, double* out) {
    const int64_t k = outputs_;
    Sweep what;
    what.v = s;
    what.in = what.outs = static_cast<int>(k);
    what.out = out;
    what.stride = p_;
    what.sums = border_ != 0 ? static_cast<int>(k) : 0;
    const std::vector<double> sums = sweep(x_, what, [&](int64_t first, int64_t rows, const double* t, double* u, double* total) {
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t r = first + i;
            const double weight = (data_.weight != nullptr ? data_.weight[r] : 1.0) / total_;
            double mean = 0;
            for (int64_t c = 0; c < k; ++c) {
                u[i * k + c] = t[i * k + c] + (border_ != 0 ? s[c * p_ + d_] : 0.0);
                if (family_ == GlmFamily::multinomial) mean += at.curvature[r * k + c] * u[i * k + c];
            }
            for (int64_t c = 0; c < k; ++c) {
                u[i * k + c] = weight > 0 ? weight * at.curvature[r * k + c] * (u[i * k + c] - mean) : 0.0;
                if (border_ != 0) total[c] += u[i * k + c];
            }
        }
    });
    for (int64_t c = 0; border_ != 0 && c < k; ++c) out[c * p_ + d_] = sums[c];
}

// weight·curvature(i) of every row; exactly 0 where the weight is, whatever the curvature.
template <class Curvature>
std::vector<double> HostGlm::row_weights(const Curvature& curvature) const {
    std::vector<double> h(static_cast<std::size_t>(n_));
    parallel_for((n_ + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
        for (int64_t i = task * rows_a_task; i < std::min(n_, (task + 1) * rows_a_task); ++i) {
            const double weight = data_.weight != nullptr ? data_.weight[i] : 1.0;
            h[i] = weight > 0 ? weight * curvature(i) : 0.0;
        }
    });
    throw_if_cancelled();
    return h;
}

// Multinomial: blocks ω p (1 − p) of all classes are replaced by their mean, scaled as on the space of
// coefficients that sum to 0: exact where all probabilities are equal.
std::vector<double> HostGlm::block_weights(const GlmPoint& at) const {
    const int64_t k = outputs_;
    return row_weights([&](int64_t i) {
        if (family_ != GlmFamily::multinomial) return at.curvature[i];
        double curvature = 0;
        for (int64_t c = 0; c < k; ++c) curvature += at.curvature[i * k + c] * (1 - at.curvature[i * k + c]);
        return curvature / static_cast<double>(std::max<int64_t>(k - 1, 1));
    });
}

void HostGlm::squares(const GlmPoint& at, double* diagonal) {
    weighted_squares(x_, block_weights(at).data(), border_, diagonal);
    ++sweeps_;
}

void HostGlm::gram(const GlmPoint& at, double* gram) {
    weighted_gram(x_, block_weights(at).data(), border_, gram);
    ++sweeps_;
}

void HostGlm::sketched_gram(const GlmPoint& at, const RowSketch& how, double* gram) {
    std::vector<double> h = block_weights(at), sketched(static_cast<std::size_t>(how.rows * p_));
    for (double& value : h) value = std::sqrt(value);
    sketch_rows(SparseSign(how.rows, n_, how.nnz, how.seed), x_, h.data(), border_, sketched.data());
    ++sweeps_;
    const RowBlock tall = dense_rows(TensorView<const double>(sketched.data(), {how.rows, p_}));
    weighted_gram(RowSource::of(tall), nullptr, 0, gram);
}

double HostGlm::thinned_gram(const GlmPoint& at, int64_t apart, double* gram) {
    const std::vector<double> h = block_weights(at);
    const RowBlock thin = x_.whole->thinned(apart);
    std::vector<double> picked(static_cast<std::size_t>(thin.rows));
    double part = 0, all = 0;
    for (int64_t i = 0; i < thin.rows; ++i) part += picked[i] = h[i * apart];
    for (const double value : h) all += value;
    ++sweeps_;
    if (!(part > 0)) {
        weighted_gram(x_, h.data(), border_, gram);
        return 1;
    }
    weighted_gram(RowSource::of(thin), picked.data(), border_, gram);
    return part / all;
}

void HostGlm::block(const GlmPoint& at, int64_t c, int64_t e, double* gram) {
    const int64_t k = outputs_;
    const std::vector<double> h = row_weights([&](int64_t i) {
        const double left = at.curvature[i * k + c], right = at.curvature[i * k + e];
        return family_ != GlmFamily::multinomial ? left : c == e ? left * (1 - left) : -left * right;
    });
    weighted_gram(x_, h.data(), border_, gram);
}

double HostGlm::deviance(const GlmPoint& at) const {
    const int64_t k = outputs_;
    std::vector<double> sums(static_cast<std::size_t>((n_ + rows_a_task - 1) / rows_a_task), 0.0);
    parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t task) {
        std::vector<double> residual(static_cast<std::size_t>(k)), curvature(residual.size());
        for (int64_t i = task * rows_a_task; i < std::min(n_, (task + 1) * rows_a_task); ++i) {
            const double weight = data_.weight != nullptr ? data_.weight[i] : 1.0;
            if (weight == 0) continue;
            sums[task] += weight * (row(at.margin.data() + i * k, data_.y[i], residual.data(), curvature.data()) - saturated(data_.y[i]));
        }
    });
    throw_if_cancelled();
    return 2 * std::accumulate(sums.begin(), sums.end(), 0.0);
}

void HostGlm::take_rows(const std::vector<int64_t>& from, const GlmOptions& options, Sample& s) const {
    const auto rows = static_cast<int64_t>(from.size());
    const RowBlock& block = *x_.whole;
    s.values = take_large(static_cast<std::size_t>(rows * d_) * sizeof(double));
    auto* const values = static_cast<double*>(s.values.get());
    parallel_for((rows + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
        for (int64_t i = task * rows_a_task; i < std::min(rows, (task + 1) * rows_a_task); ++i) {
            const RowBlock here = block.part(from[i], 1);
            for (int64_t j = 0; j < d_; ++j) {
                values[i * d_ + j] = block.type == DType::float64 ? static_cast<const double*>(here.values)[j]
                                                                  : static_cast<double>(static_cast<const float*>(here.values)[j]);
            }
        }
    });
    throw_if_cancelled();
    s.block = dense_rows(TensorView<const double>(values, {rows, d_}));
    s.rows = RowSource::of(s.block);
    s.model = std::make_unique<HostGlm>(s.rows, s.data, options);
}

}  // namespace raphson
