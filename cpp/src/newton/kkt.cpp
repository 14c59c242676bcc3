#include "raphson/kkt.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "newton/kkt_system.h"
#include "newton/minres.h"
#include "newton/schur.h"
#include "newton/sketch_project.h"
#include "newton/vector.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double epsilon = std::numeric_limits<double>::epsilon();

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("solve_kkt: " + what); }

void check_matrix(const RowBlock& a, const char* name) {
    if (a.type != DType::float64) refuse(std::string(name) + " must be float64");
    if (a.starts == nullptr) return;
    for (int64_t i = 0; i < a.rows; ++i) {
        for (int64_t p = a.starts[i]; p < a.starts[i + 1]; ++p) {
            if (a.index[p] < 0 || a.index[p] >= a.cols || (p > a.starts[i] && a.index[p - 1] >= a.index[p])) {
                refuse(std::string(name) + " must have ascending columns in every row, all below its width");
            }
        }
    }
}

Status judge(const KktSolution& s, double tol, double floor) {
    if (s.residual <= tol) return Status::converged;
    if (s.residual <= floor) return Status::precision_floor;
    if (!std::isfinite(s.residual)) return Status::breakdown;
    return s.inertia.zero > 0 ? Status::infeasible : Status::stalled;
}

}  // namespace

const char* to_string(KktMethod method) {
    switch (method) {
        case KktMethod::ldlt: return "ldlt";
        case KktMethod::minres: return "minres";
        case KktMethod::kaczmarz: return "kaczmarz";
        case KktMethod::gaussian: return "gaussian";
        case KktMethod::block: return "block";
    }
    return "unknown";
}

KktSolution solve_kkt(const RowBlock& b, const RowBlock& g, const double* rhs, const KktOptions& options) {
    check_matrix(b, "B");
    check_matrix(g, "G");
    if (b.rows != b.cols) refuse("B must be square");
    if (g.rows > 0 && g.cols != b.rows) refuse("G must have as many columns as B");
    if (!(options.tol > 0)) refuse("tol must be positive");
    if (options.max_iter < 0 || options.block_size < 1) refuse("max_iter and block_size must be positive");
    KktSystem system;
    system.set(b, g);
    const int64_t size = system.size();
    KktSolution found;
    found.x.assign(static_cast<std::size_t>(size), 0.0);
    if (size == 0) {
        found.status = Status::converged;
        return found;
    }
    const std::vector<double> right(rhs, rhs + size);
    const double length = norm(right), unit = length > 0 ? length : 1.0;
    double absolute = 0;
    switch (options.method) {
        case KktMethod::ldlt: {
            const PivotSigns signs = system.factor(0, 0);
            found.factored = true;
            found.inertia = {signs.positive, signs.negative, signs.zero};
            found.iterations = system.solve(right.data(), found.x.data(), &absolute);
            break;
        }
        case KktMethod::minres: {
            const SchurPreconditioner schur(system, b, g);
            const int64_t most = options.max_iter > 0 ? options.max_iter : 5 * size + 50;
            found.iterations = minres(
                size, [&](const double* x, double* y) { system.times(x, y); },
                [&](const double* x, double* y) { schur.apply(x, y); }, right.data(), options.tol * unit, most, found.x.data(), &absolute);
            found.status = Status::max_iter;
            if (found.iterations < most) found.status = Status::stalled;
            break;
        }
        default: {
            SketchProject steps(system, options.method, options.sampling, options.block_size, options.seed);
            steps.start(right.data(), options.init);
            found.iterations = steps.run(options.tol * unit, options.max_iter > 0 ? options.max_iter : 1000 * size);
            steps.solution(found.x.data());
        }
    }
    std::vector<double> product(right.size());
    system.times(found.x.data(), product.data());
    for (std::size_t i = 0; i < right.size(); ++i) product[i] -= right[i];
    found.residual = norm(product) / unit;
    const double floor = 10 * epsilon * (system.frobenius() * norm(found.x) / unit + 1);
    const Status judged = judge(found, options.tol, floor);
    const bool iterative_end = options.method != KktMethod::ldlt && judged == Status::stalled;
    if (!iterative_end) found.status = judged;  // else: as the iteration said
    return found;
}

}  // namespace raphson
