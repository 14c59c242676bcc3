// What a model's Hessian looks like, cheap to invert: the metric in which quasi-Newton steps and conjugate gradients run.
#pragma once

#include <cstdint>
#include <vector>

#include "newton/glm.h"

namespace raphson {

// One block that serves every output, a diagonal, or all of it.
class GlmMetric {
public:
    enum class Kind { diagonal, exact, sample, thinned, sketch };

    // At a point, from all rows, or from about `rows` of them evenly spaced (thinned: dense, in memory), or from a sketch
    // that has `rows` rows.
    void build(Glm& glm, const GlmPoint& at, Kind kind, std::int64_t rows, std::uint64_t seed);
    // The whole Hessian of a multinomial model.
    void build_coupled(Glm& glm, const GlmPoint& at);
    // From a sample of the rows, weighted by its own curvature.
    void build_from(Glm& glm, Glm& part, const GlmPoint& at);
    void solve(std::vector<double>& g) const;  // g ← M⁻¹ g
    int made() const { return made_; }         // factors so far

private:
    void finish(Glm& glm, double scale, bool add_ridge);

    std::vector<double> factor_, scale_;
    std::int64_t width_ = 0;
    int made_ = 0;
};

}  // namespace raphson
