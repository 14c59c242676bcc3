// Newton methods for smooth functions, with or without equality constraints.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "raphson/kkt.h"
#include "raphson/rows.h"
#include "raphson/status.h"

namespace raphson {

// f(x) and c(x) = 0 with derivatives. Values may be NaN or infinite: the step is then shortened. Matrices are views that stay
// valid until the next call that gives one of the same kind; float64, all dense or all compressed with ascending columns.
class Problem {
public:
    virtual ~Problem() = default;
    virtual std::int64_t variables() const = 0;
    virtual std::int64_t constraints() const { return 0; }
    virtual double value(const double* x) = 0;
    virtual void gradient(const double* x, double* g) = 0;
    virtual void constraint_values(const double* /*x*/, double* /*c*/) {}
    virtual RowBlock jacobian(const double* /*x*/) { return {}; }  // constraints × variables
    // factor·∇²f + Σ multipliers[i] ∇²cᵢ; of which the upper triangle is read. Not called where there is only a product.
    virtual RowBlock hessian(const double* x, double factor, const double* multipliers) = 0;
    virtual bool product_only() const { return false; }
    virtual void hessian_product(const double* /*x*/, const double* /*v*/, double* /*hv*/) {}  // ∇²f v; no constraints
};

enum class MinimizeMethod {
    automatic,  // adasketch where there are constraints, else gns
    gns,        // regularised by the gradient's norm over a length that adapts (gradient-normalised smoothness)
    lazy,       // the same, with the Hessian and its factors kept for several steps
    damped,     // Newton steps of a length that decreases with the Newton decrement
    adasketch,  // Newton on the Lagrangian's conditions, an exact augmented Lagrangian as merit function
};
const char* to_string(MinimizeMethod method);

enum class AccuracyRule { practical, paper };

struct MinimizeRecord {
    int iteration;
    double value, optimality, constraint_violation, step;
    const double* x;
    const double* multipliers;
};

struct MinimizeOptions {
    MinimizeMethod method = MinimizeMethod::automatic;
    AccuracyRule rule = AccuracyRule::practical;
    KktMethod inner = KktMethod::ldlt;
    double tol = 1e-8;  // of max(‖∇L‖∞ / max(1, ‖multipliers‖∞), ‖c‖∞); rule paper: of ‖(∇L, c)‖₂
    int max_iter = 1000;
    std::int64_t inner_max_iter = 100000;  // steps of a sketch-and-project or MINRES solution
    std::uint64_t seed = 0;
    const double* multipliers = nullptr;  // to start from; null: least squares, rule paper: 0
    int period = 0;                       // lazy: steps with one Hessian; 0: by the measured cost of steps and Hessians
    double order = 2;                     // damped: 2 is the O(k⁻²) schedule, up to 4 near O(k⁻³)
    std::function<bool(const MinimizeRecord&)> callback;  // true: stop
};

struct MinimizeSolution {
    std::vector<double> x, multipliers;
    double value = 0, optimality = 0, constraint_violation = 0;  // measured at x
    Status status = Status::max_iter;
    MinimizeMethod method = MinimizeMethod::gns;
    bool indefinite = false;  // converged where the Hessian has a negative eigenvalue along which the value does not fall
    int iterations = 0, evaluations = 0, gradients = 0, hessians = 0, products = 0, factorisations = 0, restorations = 0;
    std::int64_t inner_iterations = 0;
};

// Exceptions of the problem pass through; `solution` then holds the last accepted point. std::invalid_argument: options out of
// range, no finite value or gradient at x0.
void minimize(Problem& problem, const double* x0, const MinimizeOptions& options, MinimizeSolution& solution);

}  // namespace raphson
