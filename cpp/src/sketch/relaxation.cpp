#include "raphson/relaxation.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "common/threads.h"
#include "common/vector.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int most_restarts = 20;

// A triangular sweep waits for its own results, so one thread runs it, and what else an iteration needs goes along.
template <class T>
class System {
public:
    System(const RowBlock& a, const double* b, const RelaxationOptions& options)
        : a_(a), values_(static_cast<const T*>(a.values)), b_(b, b + a.rows), o_(options), n_(a.rows) {
        diagonal_.assign(static_cast<std::size_t>(n_), 0.0);
        above_.resize(static_cast<std::size_t>(n_));
        for (int64_t i = 0; i < n_; ++i) split(i);
        size_ = std::sqrt(dot(b_, b_));
        x_ = options.init == nullptr ? Vector(static_cast<std::size_t>(n_), 0.0) : Vector(options.init, options.init + n_);
    }

    RelaxationSolution run() {
        RelaxationSolution s;
        if (o_.method == Relaxation::sor) {
            sor(s);
        } else {
            conjugate_gradients(s);
        }
        s.x = x_;
        return s;
    }

private:
    static std::size_t at(int64_t i) { return static_cast<std::size_t>(i); }

    void split(int64_t i) {
        const auto refuse = [i](const std::string& what) {
            throw std::invalid_argument("relax: A must have " + what + " in row " + std::to_string(i));
        };
        int64_t p = a_.starts[i];
        const int64_t end = a_.starts[i + 1];
        for (int64_t q = p; q < end; ++q) {
            if (a_.index[q] < 0 || a_.index[q] >= n_ || (q > p && a_.index[q - 1] >= a_.index[q])) refuse("ascending columns, all below its width,");
        }
        while (p < end && a_.index[p] < i) ++p;
        if (p < end && a_.index[p] == i) diagonal_[at(i)] = static_cast<double>(values_[p++]);
        diagonal_[at(i)] += o_.shift;
        if (!(diagonal_[at(i)] > 0)) refuse("a positive diagonal (with the shift)");
        above_[at(i)] = p;
    }
    int64_t below_end(int64_t i) const {  // entries left of the diagonal: starts … here
        const int64_t p = above_[at(i)];
        return p > a_.starts[i] && a_.index[p - 1] == i ? p - 1 : p;
    }
    static void poll(int64_t i) {
        if ((i & 1023) == 0) poll_or_throw();
    }

    // r = b − A x; gives ‖r‖.
    double residual(Vector& r) const {
        for (int64_t i = 0; i < n_; ++i) {
            double sum = b_[at(i)] - diagonal_[at(i)] * x_[at(i)];
            for (int64_t p = a_.starts[i]; p < below_end(i); ++p) sum -= static_cast<double>(values_[p]) * x_[at(a_.index[p])];
            for (int64_t p = above_[at(i)]; p < a_.starts[i + 1]; ++p) sum -= static_cast<double>(values_[p]) * x_[at(a_.index[p])];
            r[at(i)] = sum;
        }
        return std::sqrt(dot(r, r));
    }
    double relative(double norm) const { return size_ > 0 ? norm / size_ : norm; }

    // A sweep meets every entry that the residual of the iterate before it needs: that is how it is measured.
    void sor(RelaxationSolution& s) {
        Vector next(x_);
        for (int64_t k = 0;; ++k) {
            double square = 0;
            for (int64_t i = 0; i < n_; ++i) {
                double old = b_[at(i)], fresh = old;
                for (int64_t p = a_.starts[i], end = below_end(i); p < end; ++p) {
                    const double v = static_cast<double>(values_[p]);
                    old -= v * x_[at(a_.index[p])];
                    fresh -= v * next[at(a_.index[p])];
                }
                double right = 0;
                for (int64_t p = above_[at(i)], end = a_.starts[i + 1]; p < end; ++p) right += static_cast<double>(values_[p]) * x_[at(a_.index[p])];
                const double d = diagonal_[at(i)], r = old - right - d * x_[at(i)];
                square += r * r;
                next[at(i)] = (1 - o_.omega) * x_[at(i)] + o_.omega * (fresh - right) / d;
                poll(i);
            }
            s.residual = relative(std::sqrt(square));
            s.iterations = k;
            if (s.residual <= o_.tol) {
                s.status = Status::converged;
                return;
            }
            if (!std::isfinite(s.residual)) {
                s.status = Status::breakdown;
                if (k > 0) x_ = last_;
                s.residual = relative(residual(next));
                return;
            }
            if (k == o_.max_iter) return;
            last_.swap(x_);
            x_.swap(next);
            next.resize(x_.size());
        }
    }

    // Eisenstat's form: the product with A is hidden in the two sweeps. With E = D/omega and L below the diagonal the
    // preconditioner is (E + L) E⁻¹ (E + Lᵀ), and A = (E + L) + (E + Lᵀ) − K, K = 2E − D.
    void conjugate_gradients(RelaxationSolution& s) {
        const auto size = static_cast<std::size_t>(n_);
        Vector r(size), hat(size), p(size), t(size), u(size), e(size), best(x_);
        for (std::size_t i = 0; i < size; ++i) e[i] = diagonal_[i] / o_.omega;
        double norm = residual(r), least = norm;
        s.residual = relative(norm);
        for (int restart = 0; restart < most_restarts; ++restart) {
            if (s.residual <= o_.tol) {
                s.status = Status::converged;
                return;
            }
            double rho = 0;
            for (int64_t i = 0; i < n_; ++i) {  // hat = (E + L)⁻¹ r
                double sum = r[at(i)];
                for (int64_t q = a_.starts[i], end = below_end(i); q < end; ++q) sum -= static_cast<double>(values_[q]) * hat[at(a_.index[q])];
                hat[at(i)] = sum / e[at(i)];
                p[at(i)] = sum;
                rho += sum * hat[at(i)];
            }
            bool broken = false;
            while (relative(norm) > o_.tol && s.iterations < o_.max_iter) {
                const double curvature = sweeps(e, p, t, u);
                broken = !(curvature >= 0) || !std::isfinite(rho);
                if (broken || curvature == 0) break;  // 0: the recurrence has nothing left
                const double alpha = rho / curvature;
                double square = 0, next = 0;
                for (std::size_t i = 0; i < size; ++i) {
                    x_[i] += alpha * t[i];
                    r[i] -= alpha * product_[i];
                    hat[i] -= alpha * (t[i] + u[i]);
                    square += r[i] * r[i];
                    next += e[i] * hat[i] * hat[i];
                }
                for (std::size_t i = 0; i < size; ++i) p[i] = e[i] * hat[i] + next / rho * p[i];
                rho = next;
                norm = std::sqrt(square);
                ++s.iterations;
            }
            norm = residual(r);  // measured: what the recurrence says is checked, and gone on from
            s.residual = relative(norm);
            const bool better = norm < 0.5 * least;
            if (norm < least) {
                least = norm;
                best = x_;
            }
            if (s.residual <= o_.tol) continue;
            if (broken || !std::isfinite(norm)) {
                s.status = Status::breakdown;
            } else if (s.iterations >= o_.max_iter) {
                s.status = Status::max_iter;
            } else if (!better) {
                s.status = Status::precision_floor;
            } else {
                continue;
            }
            x_ = best;
            s.residual = relative(least);
            return;
        }
        s.status = Status::precision_floor;
        x_ = best;
        s.residual = relative(least);
    }

    // t = (E + Lᵀ)⁻¹ p, u = (E + L)⁻¹ (p − K t), product = A t = (E + L) t + p − K t; gives p·(t + u).
    double sweeps(const Vector& e, const Vector& p, Vector& t, Vector& u) {
        product_.resize(p.size());
        for (int64_t i = n_ - 1; i >= 0; --i) {
            double sum = p[at(i)];
            for (int64_t q = above_[at(i)], end = a_.starts[i + 1]; q < end; ++q) sum -= static_cast<double>(values_[q]) * t[at(a_.index[q])];
            t[at(i)] = sum / e[at(i)];
            poll(i);
        }
        double curvature = 0;
        for (int64_t i = 0; i < n_; ++i) {
            double solved = 0, times = 0;
            for (int64_t q = a_.starts[i], end = below_end(i); q < end; ++q) {
                const double v = static_cast<double>(values_[q]);
                solved += v * u[at(a_.index[q])];
                times += v * t[at(a_.index[q])];
            }
            const double k = 2 * e[at(i)] - diagonal_[at(i)], rest = p[at(i)] - k * t[at(i)];
            u[at(i)] = (rest - solved) / e[at(i)];
            product_[at(i)] = e[at(i)] * t[at(i)] + times + rest;
            curvature += p[at(i)] * (t[at(i)] + u[at(i)]);
            poll(i);
        }
        return curvature;
    }

    const RowBlock& a_;
    const T* values_;
    Vector b_;
    const RelaxationOptions& o_;
    const int64_t n_;
    Vector diagonal_, x_, last_, product_;
    std::vector<int64_t> above_;  // of each row: its first entry right of the diagonal
    double size_ = 0;
};

}  // namespace

RelaxationSolution relax(const RowBlock& a, const double* b, const RelaxationOptions& options) {
    const auto refuse = [](const char* what) { throw std::invalid_argument(std::string("relax: ") + what); };
    if (a.starts == nullptr) refuse("A must be compressed rows");
    if (a.rows != a.cols) refuse("A must be square");
    if (!(options.omega > 0 && options.omega < 2)) refuse("omega must lie between 0 and 2");
    if (!(options.tol > 0)) refuse("tol must be positive");
    if (options.max_iter < 1) refuse("max_iter must be at least 1");
    if (!std::isfinite(options.shift)) refuse("shift must be finite");
    return a.type == DType::float64 ? System<double>(a, b, options).run() : System<float>(a, b, options).run();
}

}  // namespace raphson
