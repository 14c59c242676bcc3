// Step tables of the Newton–Schulz iterations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace raphson {

// One step X ← aX + b(XXᵀ)X + c(XXᵀ)²X on the wide side of X.
struct Step {
    double a, b, c;
};

// What X is divided by before the first step.
enum class Normalize {
    schedule,   // the schedule's own choice
    frobenius,  // factor·‖X‖_F
    gram,       // factor·min(‖A‖_∞, ‖A‖_F)^½ with A = XXᵀ: much tighter than ‖X‖_F on flat spectra
    aol,        // rows of X by factor·(Σ_j |A_ij|)^½: the answer becomes the polar factor of the rescaled matrix
};

// A table that maps singular values in [lower, 1] towards 1: every step is the odd polynomial of the given degree (3 or
// 5) that is nearest to 1 on the interval the steps before it leave (Amsel et al., Polar Express, arXiv 2505.16932;
// CANS, arXiv 2506.10935, is the same with neither cushion nor safety). `cushion` solves on [max(l, cushion·u), u]
// instead of [l, u], so that values in mid-interval are not thrown back to p(l), and centres the outcome on 1 again.
// `safety` replaces p(x) by p(x / (1 + safety)) in all steps but the last, as published: each of them then takes inputs
// that rounding has pushed up to 1 + safety times above the interval. Degree 3 gives c = 0.
// std::invalid_argument unless 0 < lower < 1, 1 ≤ steps ≤ 100, safety ≥ 0 and 0 ≤ cushion < 1.
std::vector<Step> minimax_schedule(double lower, int steps, int degree = 5, double safety = 0.02,
                                   double cushion = 0.02);

// An immutable list of steps with the normalisation it was designed for.
class Schedule {
public:
    // `norm_factor` multiplies the norm: room for rounding above 1. Normalize::schedule means frobenius here.
    // std::invalid_argument when `steps` is empty or holds a number that is not finite, or norm_factor is not positive.
    explicit Schedule(std::vector<Step> steps, Normalize normalize = Normalize::frobenius, double norm_factor = 1.0);

    // The named tables, 1 to 100 steps long: fewer steps than the table has shorten it, more repeat its last row. They
    // are said to converge when singular values tend to 1 as steps are added.

    // Jordan et al., Muon (github.com/KellerJordan/Muon): one fixed quintic, chosen for its slope at 0. Does not
    // converge: singular values that are large enough end in about [0.68, 1.20]. Frobenius × 1.
    static Schedule muon(int steps = 5);
    // You Jiacheng's five tuned quintics, the default of microsoft/dion. Do not converge: about [0.69, 1.15].
    // Frobenius × 1.
    static Schedule you(int steps = 5);
    // Amsel et al., Polar Express, as in microsoft/dion: minimax_schedule(1e-3, 5). Singular values from 1e-3 on end in
    // [0.85, 1.15], and repeating the last row does not narrow that: for more accuracy ask minimax_schedule for more
    // steps. Frobenius × 1.02.
    static Schedule polar_express(int steps = 5);
    // Grishina, Smirnov, Rakhuba, CANS (arXiv 2506.10935): minimax quintics with no cushion, from 1e-3. Singular values
    // from there on end in [0.86, 1.14]; longer tables as for polar_express. Published with safety 0: rounding to
    // bfloat16 then lifts singular values above the interval that the next polynomial was made for, and there it
    // explodes (spectral norms of 1e11 on heavy-tailed input). A larger norm does not help, since every step rounds
    // anew; safety 0.02 in the table does. Frobenius × 1.
    static Schedule cans(int steps = 5, double safety = 0.02);
    // Turbo-Muon (arXiv 2512.04632, github.com/thib-s/flash-newton-schulz): the last four rows of `you` on the
    // AOL-scaled matrix, whose spectral norm is at most 1. Do not converge: about [0.69, 1.15]. AOL × 1.
    static Schedule turbo(int steps = 4);
    // ROOT (arXiv 2511.20626, github.com/huawei-noah/noah-research): one quintic for all steps, by shape. Published for
    // (smaller, larger) = (2048, 2048 | 3072 | 8192 | 16384), here as p(x / (1 + safety)): the square one maps into
    // [0, 1.2246], but escapes from 1.2236 on, in float32 too. Any other shape gets the triple that minimises the mean
    // of (1 - σ)² after five steps over the singular values of a Gaussian matrix of that shape (Marchenko and Pastur,
    // no random numbers), plus a small reward for slope at 0, under the bound that singular values lifted by
    // 1 + safety before every step stay below the peak of the quintic, at most 1.25. Deterministic; 5 ms at first sight
    // of a shape. Do not converge: up to 1.25. rows = 0 or cols = 0 means 2048 × 2048. Frobenius × 1.
    static Schedule root(std::int64_t rows = 0, std::int64_t cols = 0, int steps = 5, double safety = 0.02);
    // The Newton–Schulz iterations proper, (3/2, -1/2) and (15/8, -10/8, 3/8): Kovarik's polynomials of order 2 and 3.
    // Singular values in [0, 1] rise to 1 and never pass it; the order is that of the convergence. The default lengths
    // bring 1e-3, where the minimax tables begin, to within 1e-4 of 1, for 40 and 39 products. Frobenius × 1.
    static Schedule cubic(int steps = 20);
    static Schedule kovarik(int steps = 13);

    // By name; steps = 0 keeps the table's own length. `rows` and `cols` matter to "root" alone.
    static Schedule named(std::string_view name, int steps = 0, std::int64_t rows = 0, std::int64_t cols = 0);
    static const std::vector<std::string>& names();

    const std::vector<Step>& steps() const { return steps_; }
    Normalize normalize() const { return normalize_; }
    double norm_factor() const { return norm_factor_; }
    Schedule with_steps(int steps) const;

private:
    std::vector<Step> steps_;
    Normalize normalize_;
    double norm_factor_;
};

}  // namespace raphson
