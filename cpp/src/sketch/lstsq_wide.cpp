#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/vector.h"
#include "sketch/core.h"
#include "sketch/lstsq_methods.h"

namespace raphson {
namespace {

using std::int64_t;
using Vector = std::vector<double>;

constexpr double eps = std::numeric_limits<double>::epsilon();

// A solution of A x = b and how far it is from being one.
struct Certificate {
    double residual_norm, backward_error;
};

// a is rows × n; u (rows): where there is a ridge, x = Aᵀu and b − A x = ridge·u would be exact.
Certificate measure(const Vector& a, double frobenius, const Vector& b, const Vector& x, double ridge, const Vector& u) {
    const auto rows = static_cast<int64_t>(b.size()), n = static_cast<int64_t>(x.size());
    Vector z(x.size(), 0.0), r(b.size());
    double x_norm = 0;
    for (const double value : x) x_norm = std::hypot(x_norm, value);
    for (int64_t i = 0; i < rows; ++i) {
        const double* const row = a.data() + i * n;
        r[i] = b[i];
        for (int64_t j = 0; j < n; ++j) r[i] -= row[j] * x[j];
        for (int64_t j = 0; j < n; ++j) z[j] += row[j] * r[i];
    }
    for (int64_t j = 0; j < n; ++j) z[j] -= ridge * x[j];
    const double r_norm = norm(r.data(), rows), z_norm = norm(z.data(), n);
    // A x = b holds up to an error of A of size ‖r‖/‖x‖; where it cannot (ridge, rank), Stewart's bound ‖Aᵀr‖/‖r‖. With a
    // ridge the residual of [A; √ridge I] x = [b; 0] counts, and its norm.
    const double whole = std::hypot(r_norm, std::sqrt(ridge) * x_norm);
    const double extended = std::hypot(frobenius, std::sqrt(ridge * static_cast<double>(n)));
    double error = whole > 0 && extended > 0 ? z_norm / (whole * extended) : 0;
    if (x_norm > 0 && frobenius > 0) error = std::min(error, r_norm / (x_norm * frobenius));
    if (ridge > 0 && whole > 0 && x_norm > 0 && frobenius > 0) {
        // Stewart's bound is far off where r is small beside A x. With z = Aᵀ(r − ridge·u) + ridge·(Aᵀu − x), Karlson and
        // Waldén's estimate is at most this.
        Vector e(x.size());
        for (int64_t j = 0; j < n; ++j) e[j] = -x[j];
        for (int64_t i = 0; i < rows; ++i) {
            r[i] -= ridge * u[i];
            for (int64_t j = 0; j < n; ++j) e[j] += a[i * n + j] * u[i];
        }
        const double away = norm(r.data(), rows) / x_norm + ridge * norm(e.data(), n) / whole;
        error = std::min(error, away / frobenius);
    }
    return {r_norm, error};
}

}  // namespace

// [A √ridge I][x; s] = b: the least norm of (x, s) is the ridge's solution, without a square.
LstsqResult lstsq_wide(const RowSource& source, const double* b, int64_t k, const Returned& returned, const LstsqOptions& options, double tol,
                       bool as_it_is) {
    const int64_t rows = source.rows, n = source.cols, extended = n + (options.ridge > 0 ? rows : 0);
    Vector a(static_cast<std::size_t>(rows * n)), wide(static_cast<std::size_t>(rows * extended), 0.0);
    source.visit([&](const RowBlock& block, int64_t first) { densify(block, nullptr, 0, a.data() + first * n); });
    const double frobenius = norm(a.data(), rows * n);
    check_range(frobenius, as_it_is);
    for (int64_t i = 0; i < rows; ++i) {
        std::copy_n(a.data() + i * n, n, wide.data() + i * extended);
        if (options.ridge > 0) wide[i * extended + n + i] = std::sqrt(options.ridge);
    }
    LstsqResult result;
    result.method = LstsqMethod::direct;
    Vector x(static_cast<std::size_t>(extended * k));
    const double cut = options.rcond >= 0 ? options.rcond : eps * static_cast<double>(std::max<int64_t>(30, extended));
    double largest = 0, smallest = 0;
    if (rows > 0) result.rank = solve_wide(wide.data(), rows, extended, b, k, cut, x.data(), &largest, &smallest);
    result.cond = smallest > 0 ? largest / smallest : std::numeric_limits<double>::infinity();
    result.x.assign(x.begin(), x.begin() + n * k);
    for (double& value : result.x) value = returned.rounded(value);
    Vector right(static_cast<std::size_t>(rows)), solution(static_cast<std::size_t>(n)), u(options.ridge > 0 ? right.size() : 0);
    for (int64_t column = 0; column < k; ++column) {
        for (int64_t i = 0; i < rows; ++i) right[i] = b[i * k + column];
        for (int64_t j = 0; j < n; ++j) solution[j] = result.x[j * k + column];
        for (std::size_t i = 0; i < u.size(); ++i) u[i] = x[(n + static_cast<int64_t>(i)) * k + column] / std::sqrt(options.ridge);
        const Certificate found = measure(a, frobenius, right, solution, options.ridge, u);
        result.residual_norm.push_back(found.residual_norm);
        result.backward_error.push_back(found.backward_error);
        if (!(found.backward_error <= tol)) result.status = Status::precision_floor;
    }
    return result;
}

}  // namespace raphson
