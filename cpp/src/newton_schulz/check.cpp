#include <cmath>
#include <stdexcept>
#include <string>

#include "newton_schulz/orthogonalize.h"

namespace raphson {
namespace {

std::string shape_text(const BatchRef& x) {
    std::string text = "(";
    for (int i = 0; i < x.ndim; ++i) text += (i == 0 ? "" : ", ") + std::to_string(x.shape[i]);
    return text + (x.ndim == 1 ? ",)" : ")");
}

}  // namespace

void check_orthogonalize(const BatchRef& x, const BatchRef& out, const OrthogonalizeOptions& options) {
    if (x.ndim < 2) {
        throw std::invalid_argument("orthogonalize: x must have at least 2 axes (..., m, n), got shape " + shape_text(x));
    }
    bool same = out.ndim == x.ndim;
    for (int i = 0; same && i < x.ndim; ++i) same = out.shape[i] == x.shape[i];
    if (!same) {
        throw std::invalid_argument("orthogonalize: out has shape " + shape_text(out) + ", x has shape " + shape_text(x) +
                                    "; they must be equal");
    }
    if (!(options.eps >= 0) || std::isinf(options.eps)) {
        throw std::invalid_argument("orthogonalize: eps must be finite and not negative, got " +
                                    std::to_string(options.eps));
    }
    if (!options.own_precision && options.precision == DType::float16) {
        throw std::invalid_argument("orthogonalize: precision must be float64, float32 or bfloat16");
    }
}

}  // namespace raphson
