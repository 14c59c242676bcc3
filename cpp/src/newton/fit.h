// One fit under way: what the methods share.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/vector.h"
#include "newton/glm.h"
#include "newton/metric.h"

namespace raphson {

constexpr double rounding_level = 1e-11;          // of the relative gradient, below which no progress is no failure
constexpr std::int64_t fit_sketch_factor = 10;    // rows of a sketch a column
constexpr std::int64_t widest_coupled = 1500;     // parameters of a multinomial model whose whole Hessian is factored
constexpr int most_refreshes = 4;

inline double length(const std::vector<double>& x) {  // squares of very small gradients would vanish
    double most = 0, sum = 0;
    for (const double v : x) most = std::fabs(v) > most ? std::fabs(v) : most;
    if (!(most > 0) || !std::isfinite(most)) return std::sqrt(dot(x, x));
    for (const double v : x) sum += (v / most) * (v / most);
    return most * std::sqrt(sum);
}

class GlmFit {
public:
    GlmFit(Glm& glm, const GlmOptions& options) : glm_(glm), options_(options) {}
    GlmSolution run();
    GlmMethod method() const { return solution_.method; }  // the one that runs

private:
    GlmMethod choose() const;
    GlmMetric::Kind metric_kind() const;
    bool starts_from_sample() const;
    bool exact_serves() const;  // where a sample's Hessian would do as well
    void begin();
    void start_from_sample();
    void refresh();
    bool record();  // true: the run is over
    bool advance(const std::vector<double>& direction);
    void conjugate_gradients();
    void quasi_newton();
    void newton();
    void newton_sketch();
    std::vector<double> newton_direction(double forcing, int most);
    void finish();
    double relative() const { return length(at_.gradient) / scale_; }
    bool hopeless() const;

    Glm& glm_;
    const GlmOptions& options_;
    GlmSolution solution_;
    GlmPoint at_, next_;
    GlmMetric metric_;
    GlmMetric::Kind kind_ = GlmMetric::Kind::diagonal;
    double scale_ = 1;
    double best_ = std::numeric_limits<double>::infinity();
    int refreshes_ = 0, idle_ = 0;
    std::int64_t sketch_rows_ = 0;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace raphson
