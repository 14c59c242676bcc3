#include "common/threads.h"
#include "newton/glm.h"

namespace raphson {

using std::int64_t;

namespace {

RowLoss loss_of(GlmFamily family) {
    return family == GlmFamily::logistic ? RowLoss::logistic : family == GlmFamily::poisson ? RowLoss::poisson : RowLoss::gaussian;
}

}  // namespace

DeviceGlm::DeviceGlm(CudaRows& x, const GlmData& data, const GlmOptions& options)
    : Glm(x.shape().rows, x.shape().cols, data, options), x_(x), shape_(x.shape()), loss_(loss_of(options.family)), y_(x.vector(data.y, n_)) {
    if (data.weight != nullptr) weight_ = x.vector(data.weight, n_);
    if (data.offset != nullptr) offset_ = x.vector(data.offset, n_ * outputs_);
}

// After a sweep: Σ weight is divided by here.
void DeviceGlm::finish(double* out) {
    for (int64_t j = 0; j < size(); ++j) out[j] /= total_;
    poll_or_throw();
}

void DeviceGlm::sweep(const RowSweep& what) { x_.sweep(what); }
void DeviceGlm::sweep(const ClassSweep& what) { x_.class_sweep(what); }

// The gradient at 0 has a sweep of its own, whose margins those at w overwrite.
template <class What>
void DeviceGlm::sweep_at(What what, const std::vector<double>& w, double* out, bool zero) {
    what.border = border_;
    what.y = y_;
    what.weight = weight_;
    what.offset = offset_;
    if (zero) {
        const std::vector<double> zeros(w.size(), 0.0);
        what.v = zeros.data();
        what.out = out + size();
        sweep(what);
        finish(what.out);
        ++sweeps_;
    }
    what.v = w.data();
    what.out = out;
    sweep(what);
    finish(out);
}

// Margins come with the read that the gradient needs: known ones would spare nothing.
Glm::Sums DeviceGlm::read(GlmPoint& at, bool /*margins_known*/, double* out, bool zero) {
    if (at.margin_there == nullptr) {
        at.margin_there = x_.vector(n_ * outputs_);
        at.curvature_there = x_.vector(n_ * outputs_);
    }
    double totals[2];
    if (classes()) {
        ClassSweep what;
        what.classes = outputs();
        what.margin = at.margin_there;
        what.probability = at.curvature_there;
        what.totals = totals;
        sweep_at(what, at.w, out, zero);
        return {totals[0], totals[1]};
    }
    RowSweep what;
    what.loss = loss_;
    what.margin = at.margin_there;
    what.second = at.curvature_there;
    what.totals = totals;
    sweep_at(what, at.w, out, zero);
    return {totals[0], binary_ ? totals[1] : 1.0};
}

RowLine DeviceGlm::line_of(const GlmPoint& from, const GlmPoint& to, double t) const {
    RowLine what;
    what.loss = loss_;
    what.y = y_;
    what.weight = weight_;
    what.from = from.margin_there;
    what.to = to.margin_there;
    what.at = t;
    return what;
}

void DeviceGlm::along(const RowLine& what, double* totals) const {
    if (classes()) {
        x_.class_along(what, outputs(), totals);
    } else {
        x_.along(what, totals);
    }
}

double DeviceGlm::line(const GlmPoint& from, const GlmPoint& to, double t, double* slope) const {
    double totals[2];
    along(line_of(from, to, t), totals);
    *slope = totals[1] / total_;
    return totals[0] / total_;
}

double DeviceGlm::deviance(const GlmPoint& at) const {
    RowLine what = line_of(at, at, 0);
    what.saturated = true;
    double totals[2];
    along(what, totals);
    return 2 * totals[0];
}

void DeviceGlm::product(const GlmPoint& at, const double* s, double* out) {
    if (classes()) {
        ClassSweep what;
        what.classes = outputs();
        what.border = border_;
        what.v = s;
        what.weight = weight_;
        what.probability = at.curvature_there;
        what.out = out;
        x_.class_sweep(what);
        return finish(out);
    }
    RowSweep what;
    what.v = s;
    what.border = border_;
    what.weight = weight_;
    what.curvature = at.curvature_there;
    what.out = out;
    x_.sweep(what);
    finish(out);
}

const double* DeviceGlm::roots(const GlmPoint& at) {
    if (classes()) return roots_between(at, -1, -1);
    if (root_ == nullptr) root_ = x_.vector(n_);
    x_.roots(weight_, at.curvature_there, root_);
    return root_;
}

const double* DeviceGlm::roots_between(const GlmPoint& at, int64_t c, int64_t e) {
    if (root_ == nullptr) root_ = x_.vector(n_);
    x_.class_roots(weight_, at.curvature_there, outputs(), static_cast<int>(c), static_cast<int>(e), root_);
    return root_;
}

void DeviceGlm::squares(const GlmPoint& at, double* diagonal) {
    x_.squares(roots(at), border_, diagonal);
    ++sweeps_;
}

void DeviceGlm::gram(const GlmPoint& at, double* gram) {
    x_.gram(roots(at), border_, gram);
    ++sweeps_;
}

void DeviceGlm::sketched_gram(const GlmPoint& at, const RowSketch& s, double* gram) {
    x_.sketched_gram(s, roots(at), border_, gram);
    ++sweeps_;
}

double DeviceGlm::thinned_gram(const GlmPoint& at, int64_t apart, double* gram) {
    ++sweeps_;
    return x_.thinned_gram(roots(at), border_, apart, gram);
}

void DeviceGlm::block(const GlmPoint& at, int64_t c, int64_t e, double* gram) {
    x_.gram(outputs_ > 1 ? roots_between(at, c, e) : roots(at), border_, gram);
    for (int64_t i = 0; c != e && i < p_ * p_; ++i) gram[i] = -gram[i];
}

void DeviceGlm::take_rows(const std::vector<int64_t>& from, const GlmOptions& options, Sample& s) const {
    s.there.reset(x_.pick(from.data(), static_cast<int64_t>(from.size())));
    s.model = std::make_unique<DeviceGlm>(*s.there, s.data, options);
}

}  // namespace raphson
