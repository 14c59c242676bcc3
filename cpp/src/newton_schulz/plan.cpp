// What is done for a shape, a precision and a schedule; and what it costs.
#include <algorithm>

#include "newton_schulz/orthogonalize.h"

namespace raphson {

OrthogonalizePlan plan_orthogonalize(std::int64_t rows, std::int64_t cols, DType dtype, const Schedule& schedule,
                                     const OrthogonalizeOptions& options) {
    // With one restart the Gram method needs (14 + 6r) m³ flops for five steps against (15r + 5) m³, r = n/m. It would
    // win from r = 1.5 on, but rounding in the Gram matrix costs it accuracy where that is badly conditioned: on small or
    // nearly square Gaussian matrices it errs by up to 7e-5 in float32, from here on by no more than 1.5 times what the
    // standard method does.
    constexpr double gram_from_aspect = 3, gram_from_rows = 64;

    OrthogonalizePlan plan;
    plan.steps = schedule.steps();
    plan.normalize = options.normalize == Normalize::schedule ? schedule.normalize() : options.normalize;
    plan.norm_factor = schedule.norm_factor();
    plan.precision = options.own_precision ? dtype : options.precision;
    plan.transposed = rows > cols;
    const double m = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));

    double standard = 0;
    for (const Step& step : plan.steps) {
        standard += orthogonalize_flops(rows, cols, 1) - (step.c == 0 ? m * m * m : 0);  // a cubic step squares nothing
    }
    double gram = 0;
    for (std::size_t i = 0; i < plan.steps.size(); ++i) {
        const bool fresh = gram_restarts_before(i), last = i + 1 == plan.steps.size();
        gram += (fresh ? m * m * n : m * m * m) + m * m * m;             // R or Q, and Z
        if (fresh && i > 0) gram += 2 * m * m * n;                       // QX
        if (!last && !gram_restarts_before(i + 1)) gram += 2 * m * m * m;  // R ← (aI + Z) R (aI + Z)
    }
    gram += 2 * m * m * n;

    const bool sixteen_bits = plan.precision == DType::bfloat16 || plan.precision == DType::float16;
    plan.method = options.method;
    if (plan.method == Method::automatic) {
        const bool pays = plan.steps.size() > 1 && m >= gram_from_rows && n >= gram_from_aspect * m;
        plan.method = pays && !sixteen_bits ? Method::gram : Method::standard;
    }
    // Small eigenvalues of a 16-bit Gram matrix come out negative, and the iteration magnifies them: without bound in bfloat16,
    // and in float16 to errors of 5 % on decaying spectra, where float32 keeps all digits that 16 bits have (docs/gpu.md).
    if (plan.method == Method::gram && sixteen_bits) plan.precision = DType::float32;
    plan.flops = plan.method == Method::gram ? gram : standard;
    return plan;
}

double orthogonalize_flops(std::int64_t rows, std::int64_t cols, std::int64_t steps) {
    const double m = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));
    return static_cast<double>(steps) * (3 * m * m * n + m * m * m);
}

}  // namespace raphson
