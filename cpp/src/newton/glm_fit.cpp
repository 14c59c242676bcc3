#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "newton/device_fit.h"
#include "newton/fit.h"

namespace raphson {
namespace {

using std::int64_t;
using Vector = std::vector<double>;

constexpr int64_t widest_block = 4096;    // columns whose Hessian is factored
constexpr int64_t gram_factor = 60;       // up to so many rows a column, the exact Hessian is as cheap as a sample's
constexpr int64_t sample_factor = 40;     // rows of a sample a column
constexpr int64_t newton_factor = 150;    // rows a column from which on that start saves Newton's method time
constexpr int64_t widest_newton = 48;     // columns up to which a Hessian costs less than the read that it saves
constexpr int64_t start_factor = 5;       // rows of the sample's own metric a column
constexpr double small_newton = 6e8;      // flops of an exact Hessian and its factor, up to which Newton's method is the best
constexpr int64_t exact_width = 144;      // columns up to which the exact Hessian at the sample's minimiser saves more reads than it costs
constexpr int64_t exact_gaussian = 256;   // the same where the Hessian is constant and nothing else is needed
constexpr double start_tolerance = 3e-2;  // of the fit to the sample that gives the start

// The products that a Gram matrix of compressed rows takes, over those of a sweep.
double gram_work(const RowBlock& b) {
    double squares = 0;
    for (int64_t i = 0; i < b.rows; ++i) {
        const double length = static_cast<double>(b.starts[i + 1] - b.starts[i]);
        squares += length * length;
    }
    return squares / std::max(1.0, static_cast<double>(b.size()));
}

}  // namespace

GlmMetric::Kind GlmFit::metric_kind() const {
    const RowBlock* whole = glm_.whole();
    if (glm_.p() > widest_block) return GlmMetric::Kind::diagonal;
    if (whole != nullptr && whole->starts != nullptr) {
        return gram_work(*whole) <= 60 && glm_.p() <= 2048 ? GlmMetric::Kind::exact : GlmMetric::Kind::diagonal;
    }
    if (glm_.rows() <= gram_factor * glm_.p()) return GlmMetric::Kind::exact;
    if (whole == nullptr) return glm_.p() <= 32 ? GlmMetric::Kind::exact : GlmMetric::Kind::sketch;
    return glm_.quadratic() && glm_.p() <= exact_gaussian ? GlmMetric::Kind::exact : GlmMetric::Kind::sample;
}

bool GlmFit::starts_from_sample() const {
    if (options_.init != nullptr) return false;
    if (solution_.method != GlmMethod::newton) return kind_ == GlmMetric::Kind::sample;
    return exact_serves() && glm_.rows() > newton_factor * glm_.p() && metric_kind() == GlmMetric::Kind::sample;
}

GlmMethod GlmFit::choose() const {
    if (glm_.p() > widest_block) return GlmMethod::newton_cg;
    const auto size = static_cast<double>(glm_.size());
    const RowBlock* whole = glm_.whole();
    const double entries = whole != nullptr && whole->starts != nullptr ? static_cast<double>(whole->size()) * gram_work(*whole)
                                                                         : static_cast<double>(glm_.rows()) * static_cast<double>(glm_.p()) * static_cast<double>(glm_.p());
    const double coupled = static_cast<double>(glm_.outputs()) * static_cast<double>(glm_.outputs() + 1) / 2;
    const GlmMetric::Kind kind = metric_kind();
    const bool one_serves = kind == GlmMetric::Kind::sample && exact_serves() && glm_.p() > widest_newton && glm_.rows() > newton_factor * glm_.p();
    const bool small = glm_.size() <= widest_coupled && entries * coupled + size * size * size / 3 <= small_newton;
    if (whole != nullptr && small && !one_serves) return GlmMethod::newton;
    if (kind == GlmMetric::Kind::diagonal) return GlmMethod::newton_cg;
    return glm_.outputs() > 1 ? GlmMethod::sketch_pcg : GlmMethod::quasi_newton;  // coupled blocks are far from any metric
}

GlmSolution GlmFit::run() {
    solution_.method = options_.method == GlmMethod::automatic ? choose() : options_.method;
    if ((solution_.method == GlmMethod::newton || solution_.method == GlmMethod::newton_sketch) && glm_.p() > widest_block) {
        throw std::invalid_argument("fit_glm: this method factors a Hessian of at most 4096 columns; take newton_cg");
    }
    kind_ = solution_.method == GlmMethod::newton_cg ? GlmMetric::Kind::diagonal
            : solution_.method == GlmMethod::newton  ? GlmMetric::Kind::exact
                                                     : metric_kind();
    begin();
    if (!record()) {
        switch (solution_.method) {
            case GlmMethod::quasi_newton: quasi_newton(); break;
            case GlmMethod::newton: newton(); break;
            case GlmMethod::newton_sketch: newton_sketch(); break;
            default: conjugate_gradients(); break;
        }
    }
    finish();
    return std::move(solution_);
}

void GlmFit::begin() {
    const auto size = static_cast<std::size_t>(glm_.size());
    at_.w.assign(size, 0.0);
    Vector at_zero;
    bool elsewhere = false;
    const bool sampled = starts_from_sample();
    if (options_.init != nullptr) {
        at_.w.assign(options_.init, options_.init + size);
        elsewhere = true;
    } else if (sampled) {
        start_from_sample();
        elsewhere = true;
    }
    glm_.evaluate(at_, false, elsewhere ? &at_zero : nullptr);
    scale_ = length(elsewhere ? at_zero : at_.gradient);
    if (!std::isfinite(scale_)) throw NotFinite("fit_glm: X has NaN or Inf, or its squares overflow");
    if (!(scale_ > 0)) scale_ = 1;  // 0 is the minimiser, or everything is 0
    if (elsewhere && (!std::isfinite(at_.objective) || (options_.init == nullptr && !(relative() < 1)))) {
        std::fill(at_.w.begin(), at_.w.end(), 0.0);
        glm_.evaluate(at_);
    } else if (options_.init != nullptr && relative() >= 1) {  // perhaps so far off that no curvature is left: is 0 better?
        next_.w.assign(size, 0.0);
        glm_.evaluate(next_);
        if (next_.objective < at_.objective) std::swap(at_, next_);
    }
    if (solution_.method == GlmMethod::newton || solution_.method == GlmMethod::newton_sketch) return;
    if (kind_ == GlmMetric::Kind::sample) {
        if (exact_serves()) {
            kind_ = GlmMetric::Kind::exact;
        } else if (sampled) {
            return;  // the sample's
        } else {
            kind_ = GlmMetric::Kind::thinned;
            sketch_rows_ = sample_factor * glm_.p();
        }
    }
    if (sketch_rows_ == 0) sketch_rows_ = fit_sketch_factor * glm_.p();
    metric_.build(glm_, at_, kind_, sketch_rows_, options_.seed);
}

bool GlmFit::exact_serves() const { return glm_.outputs() == 1 && glm_.p() <= exact_width; }

// The minimiser on a sample costs little and is as near as the sample is large; of many columns its Hessian is the metric.
void GlmFit::start_from_sample() {
    GlmOptions options = options_;
    options.method = GlmMethod::quasi_newton;
    options.tol = std::max(start_tolerance, options_.tol);
    options.max_iter = 30;
    options.callback = nullptr;
    const std::unique_ptr<Glm::Sample> sample = glm_.sample(sample_factor * glm_.p(), options_.seed, options);
    if (sample->model == nullptr) {  // of no weight
        if (kind_ == GlmMetric::Kind::sample) kind_ = GlmMetric::Kind::sketch;
        return;
    }
    GlmFit part(*sample->model, options);
    part.solution_.method = GlmMethod::quasi_newton;
    part.kind_ = GlmMetric::Kind::thinned;
    part.sketch_rows_ = start_factor * glm_.p();
    part.begin();
    if (!part.record()) part.quasi_newton();
    if (part.at_.separated) {  // a sample may be separable where the whole is not: its coefficients mean nothing
        part.at_.w.assign(at_.w.size(), 0.0);
        part.glm_.evaluate(part.at_);
    }
    at_.w = part.at_.w;
    if (kind_ == GlmMetric::Kind::sample && !exact_serves()) metric_.build_from(glm_, part.glm_, part.at_);
}

void GlmFit::refresh() {
    if (refreshes_ >= most_refreshes) return;
    ++refreshes_;
    if (kind_ == GlmMetric::Kind::sample || kind_ == GlmMetric::Kind::thinned) kind_ = GlmMetric::Kind::sketch;  // rows picked evenly have missed the ones that matter
    sketch_rows_ = std::min(std::max(2 * sketch_rows_, fit_sketch_factor * glm_.p()), glm_.rows());
    metric_.build(glm_, at_, kind_, sketch_rows_, options_.seed + static_cast<std::uint64_t>(refreshes_));
}

bool GlmFit::hopeless() const { return at_.separated && options_.ridge == 0; }

bool GlmFit::record() {
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    solution_.history.push_back({relative(), at_.objective, seconds, glm_.sweeps()});
    if (options_.callback && options_.callback(solution_.history.back(), solution_.iterations)) {
        solution_.status = Status::stopped;
        return true;
    }
    if (hopeless()) {
        solution_.status = Status::infeasible;
        return true;
    }
    if (relative() <= options_.tol) {
        solution_.status = Status::converged;
        return true;
    }
    idle_ = relative() <= 0.5 * best_ ? 0 : idle_ + 1;
    best_ = std::min(best_, relative());
    if (best_ <= rounding_level && idle_ >= 3) {
        solution_.status = Status::precision_floor;
        return true;
    }
    if (solution_.iterations >= options_.max_iter) {
        solution_.status = Status::max_iter;
        return true;
    }
    return false;
}

// A step along a direction of descent. Length 1 is tried with a full evaluation, for it is right near the solution;
// another length is found on the margins, which costs no read, and its gradient one. False: no progress is left.
bool GlmFit::advance(const Vector& direction) {
    const double slope = dot(at_.gradient, direction);
    if (!(slope < 0) || !std::isfinite(slope)) return false;
    next_.w = at_.w;
    for (std::size_t j = 0; j < direction.size(); ++j) next_.w[j] += direction[j];
    glm_.evaluate(next_);
    const double slope_there = dot(next_.gradient, direction), noise = 1e-13 * std::max(std::fabs(at_.objective), 1e-300);
    const bool finite = std::isfinite(next_.objective) && std::isfinite(slope_there);
    const bool lower = finite && next_.objective <= at_.objective + 1e-4 * slope;
    const bool level = finite && next_.objective <= at_.objective + noise && std::fabs(slope_there) <= 0.9 * std::fabs(slope);
    if ((lower && std::fabs(slope_there) <= 0.9 * std::fabs(slope)) || level) {
        std::swap(at_, next_);
        return true;
    }
    // φ′ is increasing: bracket its zero, then halve and interpolate.
    double low = 0, high = 1, slope_low = slope, there = 0;
    double slope_high = finite ? slope_there : std::numeric_limits<double>::infinity();
    for (int step = 0; step < 30 && slope_high < 0; ++step) {
        low = high;
        slope_low = slope_high;
        high *= 2;
        const double value = glm_.along(at_, next_, high, &slope_high);
        if (!std::isfinite(value) || !std::isfinite(slope_high)) slope_high = std::numeric_limits<double>::infinity();
    }
    double t = high;
    for (int step = 0; step < 60; ++step) {
        const bool known = std::isfinite(slope_high);
        t = known ? low - slope_low * (high - low) / (slope_high - slope_low) : 0.5 * (low + high);
        t = std::min(std::max(t, low + 0.05 * (high - low)), high - 0.05 * (high - low));
        const double value = glm_.along(at_, next_, t, &there);
        if (std::isfinite(value) && std::fabs(there) <= 0.1 * std::fabs(slope) && value <= at_.objective + 1e-4 * t * slope + noise) break;
        if (std::isfinite(there) && there < 0) {
            low = t;
            slope_low = there;
        } else {
            high = t;
            slope_high = std::isfinite(value) ? there : std::numeric_limits<double>::infinity();
        }
    }
    glm_.shorten(at_, next_, t);
    for (std::size_t j = 0; j < direction.size(); ++j) next_.w[j] = at_.w[j] + t * direction[j];
    glm_.evaluate(next_, true);
    if (!std::isfinite(next_.objective) || next_.objective > at_.objective + noise) return false;
    if (next_.objective >= at_.objective - noise && length(next_.gradient) >= length(at_.gradient)) return false;
    std::swap(at_, next_);
    return true;
}

void GlmFit::finish() {
    const int64_t p = glm_.p(), k = glm_.outputs();
    if (k > 1) {  // the gauge: coefficients sum to 0 over the classes where no ridge sees to it, intercepts always
        for (int64_t j = options_.ridge == 0 ? 0 : glm_.cols(); j < p; ++j) {
            double mean = 0;
            for (int64_t c = 0; c < k; ++c) mean += at_.w[c * p + j] / static_cast<double>(k);
            for (int64_t c = 0; c < k; ++c) at_.w[c * p + j] -= mean;
        }
    }
    if (options_.precision == DType::float32) {
        for (double& w : at_.w) w = static_cast<double>(static_cast<float>(w));
        glm_.evaluate(at_);
        if (solution_.status == Status::converged && !(relative() <= options_.tol)) solution_.status = Status::precision_floor;
    }
    solution_.coef = at_.w;
    solution_.objective = at_.objective;
    solution_.gradient_norm = relative();
    solution_.deviance = glm_.deviance(at_);
    solution_.factorisations = metric_.made();
    solution_.sweeps = glm_.sweeps();
}

namespace {

// A label that never varies sends the intercept, or the separating coefficients, to infinity.
bool no_minimiser(int64_t rows, const GlmData& data, const GlmOptions& options) {
    if (!options.intercept || options.family == GlmFamily::gaussian) return false;
    bool low = true, high = true;
    std::vector<bool> seen(static_cast<std::size_t>(std::max(data.classes, 1)), false);
    for (int64_t i = 0; i < rows; ++i) {
        if (data.weight != nullptr && data.weight[i] == 0) continue;
        low = low && data.y[i] == 0;
        high = high && data.y[i] == 1;
        if (options.family == GlmFamily::multinomial) seen[static_cast<std::size_t>(data.y[i])] = true;
    }
    if (options.family == GlmFamily::multinomial) return data.classes > 1 && std::count(seen.begin(), seen.end(), false) > 0;
    return low || (high && options.family == GlmFamily::logistic);
}

}  // namespace

GlmSolution fit_glm(const RowSource& x, const GlmData& data, const GlmOptions& options) {
    HostGlm glm(x, data, options);
    GlmSolution solution = GlmFit(glm, options).run();
    if (no_minimiser(x.rows, data, options)) solution.status = Status::infeasible;
    return solution;
}

GlmSolution fit_glm_on_device(CudaRows& x, const GlmData& data, const GlmOptions& options) {
    DeviceGlm glm(x, data, options);
    GlmFit fit(glm, options);
    try {
        GlmSolution solution = fit.run();
        if (no_minimiser(glm.rows(), data, options)) solution.status = Status::infeasible;
        return solution;
    } catch (const NotFinite&) {
        GlmSolution solution;
        solution.coef.assign(static_cast<std::size_t>(glm.size()), std::numeric_limits<double>::quiet_NaN());
        solution.status = Status::breakdown;
        solution.method = fit.method();
        solution.objective = solution.gradient_norm = solution.deviance = std::numeric_limits<double>::quiet_NaN();
        solution.sweeps = glm.sweeps();
        return solution;
    }
}

namespace {

std::vector<double> information_of(Glm& glm, const double* coef) {
    GlmPoint at;
    at.w.assign(coef, coef + glm.size());
    glm.evaluate(at);
    return glm.information(at);
}

}  // namespace

std::vector<double> glm_information(const RowSource& x, const GlmData& data, const GlmOptions& options, const double* coef) {
    HostGlm glm(x, data, options);
    return information_of(glm, coef);
}

std::vector<double> glm_information_on_device(CudaRows& x, const GlmData& data, const GlmOptions& options, const double* coef) {
    DeviceGlm glm(x, data, options);
    return information_of(glm, coef);
}

}  // namespace raphson
