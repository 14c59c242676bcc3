#include "newton/glm.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "common/philox.h"
#include "common/threads.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr std::uint32_t sample_stream = 0x474c4d31;
constexpr int64_t rows_a_task = 4096;

}  // namespace

const char* to_string(GlmMethod method) {
    switch (method) {
        case GlmMethod::automatic: return "auto";
        case GlmMethod::sketch_pcg: return "sketch_pcg";
        case GlmMethod::newton_cg: return "newton_cg";
        case GlmMethod::newton: return "newton";
        case GlmMethod::newton_sketch: return "newton_sketch";
        default: return "quasi_newton";
    }
}

Glm::Glm(const RowSource& x, const GlmData& data, const GlmOptions& options)
    : x_(x), data_(data), family_(options.family), ridge_(options.ridge), border_(options.intercept ? 1 : 0), n_(x.rows), d_(x.cols),
      p_(x.cols + (options.intercept ? 1 : 0)), outputs_(options.family == GlmFamily::multinomial ? data.classes : 1) {
    check();
    for (int64_t i = 0; i < n_; ++i) {
        total_ += data.weight != nullptr ? data.weight[i] : 1.0;
        binary_ = binary_ && (data.y[i] == 0 || data.y[i] == 1);
    }
    if (!(total_ > 0)) throw std::invalid_argument("fit_glm: sample_weight must have a positive sum");
}

void Glm::check() const {
    if (n_ < 1) throw std::invalid_argument("fit_glm: X must have at least one row");
    if (!(ridge_ >= 0) || !std::isfinite(ridge_)) throw std::invalid_argument("fit_glm: ridge must not be negative, got " + std::to_string(ridge_));
    if (family_ == GlmFamily::multinomial && data_.classes < 1) throw std::invalid_argument("fit_glm: y has no classes");
    const auto refuse = [](const char* what, double value, int64_t i) {
        throw std::invalid_argument(std::string("fit_glm: ") + what + ", got " + std::to_string(value) + " at row " + std::to_string(i));
    };
    for (int64_t i = 0; i < n_; ++i) {
        const double y = data_.y[i];
        if (!std::isfinite(y)) refuse("y has NaN or Inf", y, i);
        if (family_ == GlmFamily::logistic && (y < 0 || y > 1)) refuse("logistic labels must lie in [0, 1]", y, i);
        if (family_ == GlmFamily::poisson && y < 0) refuse("Poisson counts must not be negative", y, i);
        if (family_ == GlmFamily::multinomial && !(y >= 0 && y < data_.classes)) refuse("labels must be 0 … classes-1", y, i);
        if (data_.weight != nullptr && !(data_.weight[i] >= 0 && std::isfinite(data_.weight[i]))) {
            refuse("sample_weight must be finite and not negative", data_.weight[i], i);
        }
    }
    for (int64_t i = 0; data_.offset != nullptr && i < n_ * outputs_; ++i) {
        if (!std::isfinite(data_.offset[i])) throw std::invalid_argument("fit_glm: offset has NaN or Inf");
    }
}

// Loss of one row, its derivative by the margin, and the second one; for the multinomial family the probabilities. Both
// p and 1 − p are formed without cancellation, so that extreme margins keep their digits.
double Glm::row(const double* margin, double y, double* residual, double* curvature) const {
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

double Glm::saturated(double y) const {
    const auto entropy = [](double v) { return v > 0 ? v * std::log(v) : 0.0; };
    if (family_ == GlmFamily::logistic) return -entropy(y) - entropy(1 - y);
    if (family_ == GlmFamily::poisson) return y - entropy(y);
    return 0;
}

void Glm::evaluate(GlmPoint& at, bool margins_known, std::vector<double>* at_zero) {
    const int64_t k = outputs_, per_row = family_ == GlmFamily::multinomial ? k : 1;
    at.margin.resize(static_cast<std::size_t>(n_ * k));
    at.curvature.resize(static_cast<std::size_t>(n_ * per_row));
    const int gradients = at_zero != nullptr ? 2 : 1;
    const int outs = static_cast<int>(k) * gradients;
    std::vector<double> out(static_cast<std::size_t>(outs * p_), 0.0);
    Sweep what;
    if (!margins_known) what.v = at.w.data();
    what.in = static_cast<int>(k);
    what.out = out.data();
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
            if (at_zero != nullptr) row(start.data(), y, residual + k, ignored.data());
            for (int c = 0; c < outs; ++c) {
                residual[c] = weight > 0 ? residual[c] * weight / total_ : 0.0;
                total[2 + c] += residual[c];
            }
        }
    });
    ++sweeps_;
    at.objective = sums[0] / total_;
    at.separated = sums[1] == 0;
    for (int c = 0; border_ != 0 && c < outs; ++c) out[c * p_ + d_] = sums[2 + c];
    at.gradient.assign(out.begin(), out.begin() + size());
    if (at_zero != nullptr) at_zero->assign(out.begin() + size(), out.end());
    for (int64_t c = 0; c < k; ++c) {
        for (int64_t j = 0; j < d_; ++j) {
            const double w = at.w[c * p_ + j];
            at.objective += 0.5 * ridge_ * w * w;
            at.gradient[c * p_ + j] += ridge_ * w;
        }
    }
}

template <class Body>
void Glm::for_chunks(int64_t chunks, Body&& body) const {
    parallel_for(chunks, [&](int64_t chunk) {
        const int64_t begin = chunk * rows_a_task;
        body(chunk, begin, std::min(begin + rows_a_task, n_));
    });
    throw_if_cancelled();
}

double Glm::along(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const {
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
    for (int64_t c = 0; c < k; ++c) {
        for (int64_t j = c * p_; j < c * p_ + d_; ++j) {
            const double step = to.w[j] - from.w[j], w = from.w[j] + t * step;
            objective += 0.5 * ridge_ * w * w;
            derivative += ridge_ * w * step;
        }
    }
    *slope = derivative;
    return objective;
}

void Glm::hessian(const GlmPoint& at, const double* s, double* out) {
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
                if (k > 1) mean += at.curvature[r * k + c] * u[i * k + c];
            }
            for (int64_t c = 0; c < k; ++c) {
                u[i * k + c] = weight > 0 ? weight * at.curvature[r * k + c] * (u[i * k + c] - mean) : 0.0;
                if (border_ != 0) total[c] += u[i * k + c];
            }
        }
    });
    ++sweeps_;
    for (int64_t c = 0; c < k; ++c) {
        for (int64_t j = 0; j < d_; ++j) out[c * p_ + j] += ridge_ * s[c * p_ + j];
        if (border_ != 0) out[c * p_ + d_] = sums[c];
    }
}

// Multinomial: blocks ω p (1 − p) of all classes are replaced by their mean, scaled as on the space of
// coefficients that sum to 0: exact where all probabilities are equal.
void Glm::block_weights(const GlmPoint& at, double* h) const {
    const int64_t k = outputs_;
    for (int64_t i = 0; i < n_; ++i) {
        double curvature = 0;
        if (family_ != GlmFamily::multinomial) {
            curvature = at.curvature[i];
        } else {
            for (int64_t c = 0; c < k; ++c) curvature += at.curvature[i * k + c] * (1 - at.curvature[i * k + c]);
            curvature /= static_cast<double>(std::max<int64_t>(k - 1, 1));
        }
        const double weight = data_.weight != nullptr ? data_.weight[i] : 1.0;
        h[i] = weight > 0 ? weight * curvature : 0.0;
    }
}

std::vector<double> Glm::information(const GlmPoint& at) {
    const int64_t k = outputs_, all = k * p_;
    std::vector<double> found(static_cast<std::size_t>(all * all)), block(static_cast<std::size_t>(p_ * p_)), h(static_cast<std::size_t>(n_));
    for (int64_t c = 0; c < k; ++c) {
        for (int64_t e = 0; e <= c; ++e) {
            for (int64_t i = 0; i < n_; ++i) {
                const double weight = data_.weight != nullptr ? data_.weight[i] : 1.0;
                const double left = at.curvature[i * k + c], right = at.curvature[i * k + e];
                h[i] = weight > 0 ? weight * (k == 1 ? left : c == e ? left * (1 - left) : -left * right) : 0.0;
            }
            weighted_gram(x_, h.data(), border_, block.data());
            ++sweeps_;
            for (int64_t i = 0; i < p_; ++i) {
                if (c == e && i < d_) block[i * p_ + i] += ridge_ * total_;
                for (int64_t j = 0; j < p_; ++j) {
                    found[(c * p_ + i) * all + e * p_ + j] = block[i * p_ + j];
                    found[(e * p_ + i) * all + c * p_ + j] = block[i * p_ + j];
                }
            }
        }
    }
    return found;
}

double Glm::deviance(const GlmPoint& at) const {
    const int64_t k = outputs_;
    std::vector<double> residual(static_cast<std::size_t>(k)), curvature(residual.size());
    double sum = 0;
    for (int64_t i = 0; i < n_; ++i) {
        const double weight = data_.weight != nullptr ? data_.weight[i] : 1.0;
        if (weight == 0) continue;
        sum += weight * (row(at.margin.data() + i * k, data_.y[i], residual.data(), curvature.data()) - saturated(data_.y[i]));
    }
    return 2 * sum;
}

// One row from each of `rows` equal strata.
Glm::Sample Glm::sample(int64_t rows, std::uint64_t seed) const {
    const RowBlock& block = *x_.whole;
    const PhiloxKey key = PhiloxKey::from_seed(seed);
    const int64_t k = outputs_;
    Sample s;
    s.values = take_large(static_cast<std::size_t>(rows * d_) * sizeof(double));
    auto* const values = static_cast<double*>(s.values.get());
    s.y.resize(static_cast<std::size_t>(rows));
    if (data_.weight != nullptr) s.weight.resize(s.y.size());
    if (data_.offset != nullptr) s.offset.resize(static_cast<std::size_t>(rows * k));
    parallel_for((rows + rows_a_task - 1) / rows_a_task, [&](int64_t task) {
        for (int64_t i = task * rows_a_task; i < std::min(rows, (task + 1) * rows_a_task); ++i) {
            const int64_t low = n_ * i / rows, high = n_ * (i + 1) / rows;
            const PhiloxBlock numbers = philox_at(static_cast<std::uint64_t>(i), 0, sample_stream, key);
            const auto from = low + static_cast<int64_t>(philox_uniform(numbers[0], numbers[1]) * static_cast<double>(high - low));
            const RowBlock here = block.part(from, 1);
            for (int64_t j = 0; j < d_; ++j) {
                values[i * d_ + j] = block.type == DType::float64 ? static_cast<const double*>(here.values)[j]
                                                                  : static_cast<double>(static_cast<const float*>(here.values)[j]);
            }
            s.y[i] = data_.y[from];
            if (data_.weight != nullptr) s.weight[i] = data_.weight[from];
            for (int64_t c = 0; data_.offset != nullptr && c < k; ++c) s.offset[i * k + c] = data_.offset[from * k + c];
        }
    });
    throw_if_cancelled();
    s.block = dense_rows(TensorView<const double>(values, {rows, d_}));
    s.data.y = s.y.data();
    s.data.weight = s.weight.empty() ? nullptr : s.weight.data();
    s.data.offset = s.offset.empty() ? nullptr : s.offset.data();
    s.data.classes = data_.classes;
    return s;
}

}  // namespace raphson
