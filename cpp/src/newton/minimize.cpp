#include "raphson/minimize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "newton/kkt_system.h"
#include "newton/smooth.h"
#include "newton/vector.h"

namespace raphson {
namespace {

using std::int64_t;
bool finite(const double* x, int64_t n) {
    return std::all_of(x, x + n, [](double v) { return std::isfinite(v); });
}

class Exact final : public Smooth {
public:
    explicit Exact(Counted& problem) : problem_(problem), n_(problem.variables()) {}

    double value(const double* x) override { return problem_.value(x); }
    bool gradient(const double* x, double* g) override { return problem_.gradient(x, g); }
    void take_hessian(const double* x, bool /*exact*/) override {
        hessian_.copy(problem_.hessian(x, 1, nullptr));
        system_.set(hessian_.view(), RowBlock{});
    }
    bool factor(double shift) override {
        ++problem_.counts().factorisations;
        return system_.factor(shift, 0).positive == n_;
    }
    void solve(const double* rhs, double* d) override {
        double residual = 0;
        system_.solve(rhs, d, &residual);
    }
    void times(const double* v, double* hv) override { system_.hessian_times(v, hv); }
    double size() const override { return system_.hessian_norm(); }
    double negative_direction(double* p) override { return system_.negative_direction(p); }

private:
    Counted& problem_;
    int64_t n_;
    OwnedRows hessian_;
    KktSystem system_;
};

void minimize_freely(Counted& problem, const MinimizeOptions& options, MinimizeSolution& s) {
    Descent at;
    at.x = s.x;
    at.g.resize(s.x.size());
    at.value = problem.value(at.x.data());
    if (!std::isfinite(at.value) || !problem.gradient(at.x.data(), at.g.data())) {
        throw std::invalid_argument("minimize: no finite value and gradient at x0");
    }
    const auto steepest = [](const Vector& g) {
        double most = 0;
        for (const double entry : g) most = std::fmax(most, std::fabs(entry));
        return most;
    };
    const auto publish = [&](const Descent& d) {
        s.x = d.x;
        s.value = d.value;
        s.optimality = steepest(d.g);
        s.iterations = d.steps;
    };
    publish(at);
    DescentRule rule;
    rule.method = s.method;
    rule.most = options.max_iter;
    rule.period = options.period;
    rule.order = options.order;
    rule.done = [&](double, const Vector& g) { return steepest(g) <= options.tol; };
    rule.accepted = [&](const Descent& d, double step) {
        publish(d);
        return options.callback && options.callback({s.iterations, s.value, s.optimality, 0, step, s.x.data(), nullptr});
    };
    const bool bold = options.method == MinimizeMethod::automatic && !problem.product_only();
    at.length = bold ? std::numeric_limits<double>::infinity() : 1;  // a Newton step first; else the published start
    if (problem.product_only()) {
        descend_by_products(problem, at, rule, options.seed);
    } else {
        Exact exact(problem);
        descend(exact, at, rule);
    }
    publish(at);
    s.status = at.status;
    s.indefinite = at.indefinite;
    if (s.status != Status::stalled) return;
    Vector beside(at.x.size()), g(at.x.size());
    nudge(at.x, beside);
    if (!problem.gradient(beside.data(), g.data())) return;
    for (std::size_t i = 0; i < g.size(); ++i) g[i] -= at.g[i];
    if (norm(at.g) <= floor_factor * norm(g)) s.status = Status::precision_floor;
}

}  // namespace

const char* to_string(MinimizeMethod method) {
    switch (method) {
        case MinimizeMethod::automatic: return "auto";
        case MinimizeMethod::gns: return "gns";
        case MinimizeMethod::lazy: return "lazy";
        case MinimizeMethod::damped: return "damped";
        case MinimizeMethod::adasketch: return "adasketch";
    }
    return "unknown";
}

double Counted::value(const double* x) {
    counts_.evaluations = std::max(counts_.evaluations, ++values_);
    return problem_.value(x);
}
bool Counted::gradient(const double* x, double* g) {
    counts_.gradients = std::max(counts_.gradients, ++gradients_);
    problem_.gradient(x, g);
    return finite(g, variables());
}
bool Counted::constraint_values(const double* x, double* c) {
    ++constraint_values_;
    counts_.evaluations = std::max(counts_.evaluations, constraint_values_);
    problem_.constraint_values(x, c);
    return finite(c, constraints());
}
RowBlock Counted::jacobian(const double* x) {
    ++jacobians_;
    counts_.gradients = std::max(counts_.gradients, jacobians_);
    return problem_.jacobian(x);
}
RowBlock Counted::hessian(const double* x, double factor, const double* multipliers) {
    ++counts_.hessians;
    return problem_.hessian(x, factor, multipliers);
}
void Counted::product(const double* x, const double* v, double* hv) {
    ++counts_.products;
    problem_.hessian_product(x, v, hv);
}

void minimize(Problem& problem, const double* x0, const MinimizeOptions& options, MinimizeSolution& s) {
    const int64_t n = problem.variables(), m = problem.constraints();
    if (!(options.tol > 0)) throw std::invalid_argument("minimize: tol must be positive");
    if (options.max_iter < 0 || options.inner_max_iter < 1 || options.period < 0) throw std::invalid_argument("minimize: limits must not be negative");
    if (!(options.order >= 2 && options.order <= 4)) throw std::invalid_argument("minimize: order must be from 2 to 4");
    if (!finite(x0, n)) throw std::invalid_argument("minimize: x0 has NaN or Inf");
    s = {};
    s.x.assign(x0, x0 + n);
    s.multipliers.assign(static_cast<std::size_t>(m), 0.0);
    s.method = options.method;
    if (s.method == MinimizeMethod::automatic) s.method = m > 0 ? MinimizeMethod::adasketch : MinimizeMethod::gns;
    if (m > 0 && s.method != MinimizeMethod::adasketch) throw std::invalid_argument("minimize: constraints need method='adasketch'");
    if (m > 0 && problem.product_only()) throw std::invalid_argument("minimize: constraints need the Hessian, not its products");
    Counted counted(problem, s);
    if (s.method == MinimizeMethod::adasketch) {
        minimize_constrained(counted, options, s);
    } else {
        minimize_freely(counted, options, s);
    }
}

}  // namespace raphson
