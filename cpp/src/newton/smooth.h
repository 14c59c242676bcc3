// Minimisation without constraints, of a function that says what its Hessian does.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "raphson/minimize.h"

namespace raphson {

// The problem with its calls counted (of values, those of f or of c, whichever are more), and its values checked.
class Counted {
public:
    Counted(Problem& problem, MinimizeSolution& counts) : problem_(problem), counts_(counts) {}
    std::int64_t variables() const { return problem_.variables(); }
    std::int64_t constraints() const { return problem_.constraints(); }
    double value(const double* x);
    bool gradient(const double* x, double* g);  // false where it is not finite
    bool constraint_values(const double* x, double* c);
    RowBlock jacobian(const double* x);
    RowBlock hessian(const double* x, double factor, const double* multipliers);
    void product(const double* x, const double* v, double* hv);
    bool product_only() const { return problem_.product_only(); }
    MinimizeSolution& counts() { return counts_; }

private:
    Problem& problem_;
    MinimizeSolution& counts_;
    int values_ = 0, constraint_values_ = 0, gradients_ = 0, jacobians_ = 0;
};

class Smooth {
public:
    virtual ~Smooth() = default;
    virtual double value(const double* x) = 0;
    virtual bool gradient(const double* x, double* g) = 0;
    virtual void take_hessian(const double* x, bool exact) = 0;  // exact: whether curvature may be negative is the question
    virtual bool factor(double shift) = 0;                        // H + shift I; whether it is positive definite
    virtual void solve(const double* rhs, double* d) = 0;         // with the last factors
    virtual void times(const double* v, double* hv) = 0;          // H v
    // A step to put in d's place where x + d, looked at last, was no good: the same factors, what was seen there. False: none.
    virtual bool correct(double* /*d*/) { return false; }
    virtual double size() const = 0;                              // of H's eigenvalues, roughly
    virtual double negative_direction(double* p) = 0;             // of the last factors: pᵀ(H + shift I)p, 0 where there is none
};

struct Descent {
    std::vector<double> x, g;
    double value = 0;
    double length = 1;  // γ: steps are about as long
    int steps = 0;
    Status status = Status::max_iter;
    bool indefinite = false;
};

// Steps until done(value, g) or `most` are made. accepted(descent, step length) is called after each; true stops.
struct DescentRule {
    MinimizeMethod method = MinimizeMethod::gns;
    int most = 1000;
    int period = 1;
    double order = 2;
    double saddles_above = -std::numeric_limits<double>::infinity();  // values at which a saddle point is left
    std::function<bool(double value, const std::vector<double>& g)> done;
    std::function<bool(const Descent&, double step)> accepted;
};
void descend(Smooth& f, Descent& at, const DescentRule& rule);
// The same with products only: a trust region, conjugate gradients inside (Steihaug 1983).
void descend_by_products(Counted& f, Descent& at, const DescentRule& rule, std::uint64_t seed);

// Brings ‖c‖ down: Levenberg–Marquardt steps with the constraints' curvature. Ends at ‖c‖ ≤ goal, with Status::converged, or
// at a stationary point of ‖c‖ (infeasible).
Status restore(Counted& problem, std::vector<double>& x, double goal, double tol, int most);

void minimize_constrained(Counted& problem, const MinimizeOptions& options, MinimizeSolution& s);

}  // namespace raphson
