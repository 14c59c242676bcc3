// The secular equation of divide and conquer: its roots one by one, each sum over the poles in registers.
#include <cmath>

#include "common/simd_double.h"
#include "dense/blocks.h"
#include "dense/eigen_passes.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;

constexpr int width = Vec<double>::width;
constexpr double eps = 0x1p-52;

// Σ z²/(pole − root) and its derivative, of the poles below the root (negative terms) and of those above.
struct Sums {
    double below, above, slope_below, slope_above;
};

Sums sums_at(const SecularEquation& problem, double base, double tau) {
    const Vec<double> origin = splat(base), shift = splat(tau), none = zero<double>();
    Vec<double> below = none, above = none, slope_below = none, slope_above = none;
    for (int64_t i = 0; i < problem.count; i += width) {
        const Vec<double> z = load(problem.z + i);
        const Vec<double> ratio = divide(z, subtract(subtract(load(problem.poles + i), origin), shift));
        const Vec<double> term = mul(z, ratio), slope = mul(ratio, ratio);
        below = add(below, min(term, none));
        above = add(above, max(term, none));
        slope_below = add(slope_below, zero_where_below(slope, none, term));
        slope_above = add(slope_above, zero_where_below(slope, term, none));
    }
    return {sum_lanes(below), sum_lanes(above), sum_lanes(slope_below), sum_lanes(slope_above)};
}

// The step to the zero of level + s/(left − step) + t/(right − step) between its poles, or (outside) right of both. a and b
// are the coefficients of level·step² − a·step + b.
double model_step(double level, double a, double b, bool outside) {
    const double inside = a * a - 4 * b * level;
    const double root = std::sqrt(inside > 0 ? inside : 0.0);
    if (outside) return a >= 0 ? (a + root) / (2 * level) : 2 * b / (a - root);
    return a > 0 ? 2 * b / (a + root) : (a - root) / (2 * level);
}

// Between two bounds of one sign: halves their exponents' distance while that is large.
double between(double low, double high) {
    const double a = std::fabs(low), b = std::fabs(high);
    if (a > 4 * b || b > 4 * a) return std::copysign(std::sqrt(a) * std::sqrt(b), low);
    return low + 0.5 * (high - low);
}

// Root j: the poles beside it and their weights as they are, what lies further off by a model of the two (Li 1993: fixed
// weight, and the middle way where that is slow), between bounds.
int64_t find_root(const SecularEquation& problem, int64_t j, int64_t most) {
    const int64_t count = problem.count;
    const double* const poles = problem.poles;
    const double* const z = problem.z;
    double& base = problem.base[j];
    double& tau = problem.tau[j];
    if (count == 1) {
        base = poles[0];
        tau = problem.rho * z[0] * z[0];
        return 1;
    }
    const bool outside = j + 1 == count;  // the last root has no pole above
    const int64_t l = outside ? j - 1 : j, r = l + 1;
    const double gap = poles[r] - poles[l], weight_l = z[l] * z[l], weight_r = z[r] * z[r];
    const double rest = 1 / problem.rho, all = problem.squares;

    base = poles[outside ? r : l];
    double low = 0, high = 0;
    if (outside) {
        low = 0.5 * problem.rho * weight_r;
        high = 2 * problem.rho * all;
    }
    tau = outside ? 0.5 * problem.rho * all : 0.5 * gap;
    Sums sums = sums_at(problem, base, tau);
    double value = rest + sums.below + sums.above;
    double left = outside ? -gap : 0, right = outside ? 0 : gap;  // the poles from base
    const double level = value - weight_l / (left - tau) - weight_r / (right - tau);
    bool near_left = false;
    if (outside) {
        (value < 0 ? low : high) = tau;
    } else if (value < 0) {
        base = poles[r];
        left = -gap;
        right = 0;
        low = -0.5 * gap;
        high = -0.25 * gap * weight_r / all;
    } else {
        near_left = true;
        low = 0.5 * weight_l / (rest + 2 * all / gap);
        high = 0.5 * gap;
    }
    tau = model_step(level, level * (left + right) + weight_l + weight_r,
                     level * left * right + weight_l * right + weight_r * left, outside);
    if (!(tau > low && tau < high)) tau = between(low, high);

    bool middle = false;
    double before = std::fabs(value), long_before = HUGE_VAL;
    for (int64_t steps = 2;; ++steps) {
        if (steps > most) return most + 1;
        sums = sums_at(problem, base, tau);
        value = rest + sums.below + sums.above;
        const double slope = sums.slope_below + sums.slope_above;
        if (std::fabs(value) <= 2 * eps * (rest + sums.above - sums.below + std::fabs(tau) * slope)) return steps;
        (value < 0 ? low : high) = tau;
        if (10 * std::fabs(value) > before) middle = !middle;
        const bool stuck = 2 * std::fabs(value) > long_before;
        long_before = before;
        before = std::fabs(value);
        const double to_l = left - tau, to_r = right - tau;
        double s, t;
        if (middle && !outside) {
            s = to_l * to_l * sums.slope_below;
            t = to_r * to_r * sums.slope_above;
        } else if (near_left) {
            const double ratio = z[l] / to_l, others = slope - ratio * ratio;
            s = weight_l;
            t = to_r * to_r * others;
            if (!(t > weight_r)) t = weight_r;
        } else {
            const double ratio = z[r] / to_r, others = slope - ratio * ratio;
            s = to_l * to_l * others;
            if (!(s > weight_l)) s = weight_l;
            t = weight_r;
        }
        const double a = (to_l + to_r) * value - to_l * to_r * slope, b = to_l * to_r * value;
        double next = tau + model_step(value - s / to_l - t / to_r, a, b, outside);
        const double close = 0x1p-27 * std::fabs(next);
        if (std::fabs(next - tau) <= close) {  // the model's error is the square of that
            tau = next;
            return steps;
        }
        // A root at a bound itself: rounding would put the model's root beyond it for ever.
        if (std::fabs(next - low) <= close) next = low + 0.5 * close;
        if (std::fabs(next - high) <= close) next = high - 0.5 * close;
        if (stuck || !(next > low && next < high)) {
            next = between(low, high);
            if (next == tau) return steps;  // nothing left between the bounds
        }
        tau = next;
    }
}

}  // namespace

int64_t secular_roots(const SecularEquation& problem, int64_t first, int64_t last, int64_t most) {
    int64_t taken = 0;
    for (int64_t j = first; j < last; ++j) {
        const int64_t steps = find_root(problem, j, most);
        taken = steps > taken ? steps : taken;
    }
    return taken;
}

void secular_weights(const SecularEquation& problem, int64_t from, double* exact) {
    constexpr int vectors = static_cast<int>(secular_lanes) / width;
    constexpr int64_t together = 4;  // ratios share a division
    const double* const poles = problem.poles;
    Vec<double> at[vectors], squares[vectors];
    RAPHSON_UNROLL
    for (int q = 0; q < vectors; ++q) {
        at[q] = load(poles + from + q * width);
        squares[q] = splat(1.0);
    }
    const auto meet = [&](int64_t j, int64_t count) {
        Vec<double> above[vectors], below[vectors];
        RAPHSON_UNROLL
        for (int q = 0; q < vectors; ++q) above[q] = below[q] = splat(1.0);
        for (int64_t p = j; p < j + count; ++p) {
            const Vec<double> pole = splat(poles[p]), base = splat(problem.base[p]), tau = splat(problem.tau[p]);
            RAPHSON_UNROLL
            for (int q = 0; q < vectors; ++q) {
                above[q] = mul(above[q], subtract(subtract(at[q], base), tau));
                below[q] = mul(below[q], subtract(at[q], pole));
            }
        }
        RAPHSON_UNROLL
        for (int q = 0; q < vectors; ++q) squares[q] = mul(squares[q], divide(above[q], below[q]));
    };
    const int64_t count = problem.count, until = from + secular_lanes < count ? from + secular_lanes : count;
    for (int64_t j = 0; j < from; j += together) meet(j, together);
    int64_t j = until;
    for (; j + together <= count; j += together) meet(j, together);
    if (j < count) meet(j, count - j);
    double lanes[secular_lanes];
    for (int q = 0; q < vectors; ++q) store(lanes + q * width, squares[q]);
    for (int64_t i = from; i < until; ++i) {
        double square = lanes[i - from];
        for (int64_t p = from; p < until; ++p) {
            square *= (poles[i] - problem.base[p]) - problem.tau[p];
            if (p != i) square /= poles[i] - poles[p];
        }
        exact[i] = std::copysign(std::sqrt(std::fabs(square)), problem.z[i]);
    }
}

void secular_vectors(const SecularEquation& problem, int64_t first, int64_t last, double* s, int64_t lds) {
    for (int64_t j = first; j < last; ++j) {
        double* const row = s + j * lds;
        const Vec<double> base = splat(problem.base[j]), tau = splat(problem.tau[j]);
        Vec<double> squares = zero<double>();
        for (int64_t i = 0; i < problem.count; i += width) {
            const Vec<double> entry = divide(load(problem.z + i), subtract(subtract(load(problem.poles + i), base), tau));
            squares = fma(entry, entry, squares);
            store(row + i, entry);
        }
        const Vec<double> factor = splat(1 / std::sqrt(sum_lanes(squares)));
        for (int64_t i = 0; i < problem.count; i += width) store(row + i, mul(factor, load(row + i)));
    }
}

RAPHSON_ISA_END
