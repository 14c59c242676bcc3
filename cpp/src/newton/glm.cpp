#include "newton/glm.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "common/philox.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr std::uint32_t sample_stream = 0x474c4d31;

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

Glm::Glm(int64_t rows, int64_t cols, const GlmData& data, const GlmOptions& options)
    : data_(data), family_(options.family), ridge_(options.ridge), border_(options.intercept ? 1 : 0), n_(rows), d_(cols),
      p_(cols + border_), outputs_(options.family == GlmFamily::multinomial ? data.classes : 1) {
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

void Glm::evaluate(GlmPoint& at, bool margins_known, std::vector<double>* at_zero) {
    const int64_t k = outputs_;
    std::vector<double> out(static_cast<std::size_t>(size() * (at_zero != nullptr ? 2 : 1)), 0.0);
    const Sums sums = read(at, margins_known, out.data(), at_zero != nullptr);
    ++sweeps_;
    at.objective = sums.loss / total_;
    at.separated = sums.astray == 0;
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

double Glm::along(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const {
    double derivative = 0, objective = line(from, to, t, &derivative);
    for (int64_t c = 0; c < outputs_; ++c) {
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
    product(at, s, out);
    ++sweeps_;
    for (int64_t c = 0; c < outputs_; ++c) {
        for (int64_t j = 0; j < d_; ++j) out[c * p_ + j] += ridge_ * s[c * p_ + j];
    }
}

std::vector<double> Glm::information(const GlmPoint& at) {
    const int64_t k = outputs_, all = k * p_;
    std::vector<double> found(static_cast<std::size_t>(all * all)), here(static_cast<std::size_t>(p_ * p_));
    for (int64_t c = 0; c < k; ++c) {
        for (int64_t e = 0; e <= c; ++e) {
            block(at, c, e, here.data());
            ++sweeps_;
            for (int64_t i = 0; i < p_; ++i) {
                if (c == e && i < d_) here[i * p_ + i] += ridge_ * total_;
                for (int64_t j = 0; j < p_; ++j) {
                    found[(c * p_ + i) * all + e * p_ + j] = here[i * p_ + j];
                    found[(e * p_ + i) * all + c * p_ + j] = here[i * p_ + j];
                }
            }
        }
    }
    return found;
}

// One row from each of `rows` equal strata.
std::unique_ptr<Glm::Sample> Glm::sample(int64_t rows, std::uint64_t seed, const GlmOptions& options) const {
    const PhiloxKey key = PhiloxKey::from_seed(seed);
    const int64_t k = outputs_;
    auto s = std::make_unique<Sample>();
    std::vector<int64_t> picked(static_cast<std::size_t>(rows));
    s->y.resize(picked.size());
    if (data_.weight != nullptr) s->weight.resize(picked.size());
    if (data_.offset != nullptr) s->offset.resize(static_cast<std::size_t>(rows * k));
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t low = n_ * i / rows, high = n_ * (i + 1) / rows;
        const PhiloxBlock numbers = philox_at(static_cast<std::uint64_t>(i), 0, sample_stream, key);
        const auto from = low + static_cast<int64_t>(philox_uniform(numbers[0], numbers[1]) * static_cast<double>(high - low));
        picked[i] = from;
        s->y[i] = data_.y[from];
        if (data_.weight != nullptr) s->weight[i] = data_.weight[from];
        for (int64_t c = 0; data_.offset != nullptr && c < k; ++c) s->offset[i * k + c] = data_.offset[from * k + c];
    }
    s->data.y = s->y.data();
    s->data.weight = s->weight.empty() ? nullptr : s->weight.data();
    s->data.offset = s->offset.empty() ? nullptr : s->offset.data();
    s->data.classes = data_.classes;
    const bool has_mass = data_.weight == nullptr || std::any_of(s->weight.begin(), s->weight.end(), [](double w) { return w > 0; });
    if (has_mass) take_rows(picked, options, *s);
    return s;
}

}  // namespace raphson
