#include <cmath>
#include <stdexcept>
#include <string>

#include "newton_schulz/orthogonalize.h"
#include "newton_schulz/outliers.h"
#include "newton_schulz/vjp.h"

namespace raphson {
namespace {

void check_matrices(const std::string& function, const BatchRef& x) {
    if (x.ndim < 2) {
        throw std::invalid_argument(function + ": x must have at least 2 axes (..., m, n), got shape " + shape_text(x));
    }
}

void check_same_shape(const std::string& function, const char* name, const BatchRef& other, const BatchRef& x) {
    bool same = other.ndim == x.ndim;
    for (int i = 0; same && i < x.ndim; ++i) same = other.shape[i] == x.shape[i];
    if (!same) {
        throw std::invalid_argument(function + ": " + name + " has shape " + shape_text(other) + ", x has shape " +
                                    shape_text(x) + "; they must be equal");
    }
}

void check_options(const std::string& function, const OrthogonalizeOptions& options) {
    if (!(options.eps >= 0) || std::isinf(options.eps)) {
        throw std::invalid_argument(function + ": eps must be finite and not negative, got " +
                                    std::to_string(options.eps));
    }
    if (!options.own_precision && options.precision == DType::float16) {
        throw std::invalid_argument(function + ": precision must be float64, float32 or bfloat16");
    }
}

}  // namespace

void check_orthogonalize(const BatchRef& x, const BatchRef& out, const OrthogonalizeOptions& options) {
    check_matrices("orthogonalize", x);
    check_same_shape("orthogonalize", "out", out, x);
    check_options("orthogonalize", options);
}

void check_orthogonalize_vjp(const BatchRef& x, const BatchRef& cotangent, const BatchRef& out,
                             const OrthogonalizeOptions& options) {
    check_matrices("orthogonalize_vjp", x);
    check_same_shape("orthogonalize_vjp", "cotangent", cotangent, x);
    check_same_shape("orthogonalize_vjp", "out", out, x);
    check_options("orthogonalize_vjp", options);
}

void check_soft_clip(const BatchRef& x, double quantile, const BatchRef& clipped, const BatchRef& outliers) {
    check_matrices("soft_clip", x);
    check_same_shape("soft_clip", "clipped", clipped, x);
    check_same_shape("soft_clip", "outliers", outliers, x);
    if (!(quantile >= 0 && quantile <= 1)) {
        throw std::invalid_argument("soft_clip: quantile must be 0 to 1, got " + std::to_string(quantile));
    }
}

void check_auon(const BatchRef& x, double gamma, int hybrid_steps, const BatchRef& out) {
    check_matrices("auon", x);
    check_same_shape("auon", "out", out, x);
    if (!(gamma >= 0 && gamma <= 300)) {  // cosh² of more leaves float64
        throw std::invalid_argument("auon: gamma must be 0 to 300, got " + std::to_string(gamma));
    }
    if (hybrid_steps < 0 || hybrid_steps > 100) {
        throw std::invalid_argument("auon: hybrid_steps must be 0 to 100, got " + std::to_string(hybrid_steps));
    }
}

}  // namespace raphson
