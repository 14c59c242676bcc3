// The odd polynomial of degree 3 or 5 nearest to 1 on an interval of positive numbers.
#pragma once

#include "raphson/schedule.h"

namespace raphson {

inline double evaluate(const Step& step, double x) {
    const double y = x * x;
    return x * (step.a + y * (step.b + y * step.c));
}

// p(x / (1 + safety)): safe for arguments larger by that factor.
inline Step damped(const Step& step, double safety) {
    const double s = 1.0 + safety, s2 = s * s;
    return {step.a / s, step.b / (s * s2), step.c / (s * s2 * s2)};
}

// p with the smallest max |1 - p| on [lower, upper], 0 ≤ lower ≤ upper, upper > 0; `peak` is its maximum there.
// lower = upper gives the limit: Kovarik's polynomial, which touches 1 to second (third) order.
struct MinimaxStep {
    Step step;
    double peak;
};
MinimaxStep minimax_cubic(double lower, double upper);
MinimaxStep minimax_quintic(double lower, double upper);

}  // namespace raphson
