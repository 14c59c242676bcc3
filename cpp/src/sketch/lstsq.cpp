#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/threads.h"
#include "raphson/sketch.h"
#include "sketch/lstsq_methods.h"
#include "sketch/lstsq_rows.h"
#include "sketch/triangle.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double eps = std::numeric_limits<double>::epsilon();
constexpr int64_t sketch_factor = 12;     // rows of a sketch a column of A
constexpr int64_t direct_factor = 40;     // up to so many rows a column, QR of A itself is cheaper
constexpr int64_t device_direct_factor = 16;  // the same for rows that must visit the host for it; a guess
constexpr double direct_flops = 2e7;      // and up to so many flops
constexpr int sketch_nnz = 8;
constexpr int most_refinements = 6;

// Rows a column up to which QR of A is taken.
LstsqMethod direct_or_sketch(const RowSource& a, int64_t factor) {
    const double flops = 2.0 * static_cast<double>(a.rows) * static_cast<double>(a.cols) * static_cast<double>(a.cols);
    return a.rows <= factor * a.cols || flops <= direct_flops ? LstsqMethod::direct : LstsqMethod::sketch;
}

bool automatic(const LstsqOptions& options) {
    return options.method == LstsqMethod::automatic || options.method == LstsqMethod::gram;
}

double tolerance(DType precision, const LstsqOptions& options) {
    return options.tol >= 0 ? options.tol : precision == DType::float64 ? 1e-15 : 1e-6;
}

// One problem under way. In y = M⁻¹x, M = R⁻¹ or V Σ⁻¹, the columns of A are nearly orthonormal.
class Solver {
public:
    // On a device `a` has only a shape, b is null, and the method is not `direct`.
    Solver(const LstsqRows& passes, const RowSource& a, const double* b, int64_t k, const Returned& returned, const LstsqOptions& options,
           bool as_it_is)
        : as_it_is_(as_it_is), passes_(passes), a_(a), b_(b), k_(k), n_(a.cols), triangle_(a.cols, k), returned_(returned), options_(options) {
        tol_ = tolerance(returned.type, options);
        result_.x.assign(static_cast<std::size_t>(n_ * k), 0.0);
        result_.residual_norm.assign(static_cast<std::size_t>(k), 0.0);
        result_.backward_error.assign(static_cast<std::size_t>(k), 0.0);
        result_.rank = n_;
        result_.cond = 1;
    }

    LstsqResult run();

private:
    LstsqMethod choose() const;
    void triangle_of_sketch();
    void triangle_of_rows();
    void scale_columns();
    void refine(int64_t column, double* x);
    // z = Aᵀ(b − A x) − ridge·x in one read; gives ‖b − A x‖.
    double residual(int64_t column, const double* x, double* z);
    void normal(const double* q, double* w);  // w = AᵀA q + ridge·q in one read
    void conjugate_gradients(const std::vector<double>& c, std::vector<double>& dy, bool first, const double* x, double r_norm);
    void heavy_ball(const std::vector<double>& c, std::vector<double>& dy, bool first, const double* x, double r_norm);
    bool near_enough(bool first, double step, const std::vector<double>& rest, int iteration, const double* x, double r_norm) const;
    void certify(int64_t column, double* x);
    void record(int64_t column, double r_norm, double error);

    const bool as_it_is_;
    const LstsqRows& passes_;
    const RowSource& a_;
    const double* b_;
    int64_t k_, n_;
    Triangle triangle_;
    const Returned returned_;
    const LstsqOptions& options_;
    double tol_;
    LstsqResult result_;
    std::int64_t sketch_rows_ = 0;
};

LstsqMethod Solver::choose() const {
    const bool sparse = a_.whole != nullptr && a_.whole->starts != nullptr;
    if (sparse && n_ > widest_sparse) return LstsqMethod::cg;
    return direct_or_sketch(a_, direct_factor);
}

LstsqResult Solver::run() {
    LstsqMethod method = automatic(options_) ? choose() : options_.method;
    if ((method == LstsqMethod::sketch || method == LstsqMethod::fossils) && a_.rows < 2 * n_) method = LstsqMethod::direct;
    result_.method = method;
    if (n_ == 0 || k_ == 0) {
        double none = 0;
        for (int64_t column = 0; column < k_; ++column) result_.residual_norm[column] = passes_.residual(column, &none, &none);
        return result_;
    }
    if (gram_first(a_, k_, options_)) {
        if (const auto found = lstsq_by_gram(passes_, a_, k_, returned_, options_, tol_, result_.sweeps)) return *found;
    }
    if (method == LstsqMethod::direct && a_.rows < n_) {
        LstsqResult wide = lstsq_wide(a_, b_, k_, returned_, options_, tol_, as_it_is_);
        wide.sweeps += result_.sweeps;
        return wide;
    }
    if (method == LstsqMethod::cg) {
        scale_columns();
    } else {
        method == LstsqMethod::direct ? triangle_of_rows() : triangle_of_sketch();
        triangle_.decide(options_.rcond);
        result_.rank = triangle_.rank;
        result_.cond = triangle_.cond;
    }
    std::vector<double> x(static_cast<std::size_t>(n_));
    for (int64_t column = 0; column < k_; ++column) {
        triangle_.solution(column, x.data());
        if (method != LstsqMethod::direct) {
            refine(column, x.data());
        } else {
            certify(column, x.data());
        }
        for (int64_t j = 0; j < n_; ++j) result_.x[j * k_ + column] = x[j];
    }
    return result_;
}

void Solver::triangle_of_sketch() {
    const int64_t p = n_ + k_, extra = options_.ridge > 0 ? n_ : 0;
    int64_t rows = options_.sketch_rows > 0 ? options_.sketch_rows : sketch_factor * n_;
    rows = std::min(std::max(rows, 2 * n_), a_.rows);
    sketch_rows_ = rows;
    std::vector<double> sketched(static_cast<std::size_t>(rows * n_)), right(static_cast<std::size_t>(rows * k_));
    passes_.sketch({rows, static_cast<int>(std::min<int64_t>(sketch_nnz, rows)), options_.seed}, sketched.data(), right.data());
    ++result_.sweeps;
    triangle_.frobenius = norm(sketched.data(), rows * n_);
    check_range(triangle_.frobenius, as_it_is_);
    // Two halves at once, then their triangles: the same R, and two threads have work.
    const int64_t half = rows / 2;
    triangle_.upper.assign(static_cast<std::size_t>(n_ * p), 0.0);
    std::vector<double> stacked(static_cast<std::size_t>((2 * n_ + extra) * p), 0.0);
    parallel_for(2, [&](int64_t part) {
        const int64_t begin = part * half, count = part == 0 ? half : rows - half;
        std::vector<double> work(static_cast<std::size_t>(count * p));
        for (int64_t i = 0; i < count; ++i) {
            std::copy_n(sketched.data() + (begin + i) * n_, n_, work.data() + i * p);
            std::copy_n(right.data() + (begin + i) * k_, k_, work.data() + i * p + n_);
        }
        upper_triangle_beside(work.data(), count, n_, k_, stacked.data() + part * n_ * p);
    });
    throw_if_cancelled();
    for (int64_t j = 0; j < extra; ++j) stacked[(2 * n_ + j) * p + j] = std::sqrt(options_.ridge);
    upper_triangle_beside(stacked.data(), 2 * n_ + extra, n_, k_, triangle_.upper.data());
}

void Solver::triangle_of_rows() {
    const int64_t p = n_ + k_, chunk = std::max<int64_t>(8 * (n_ + std::min(k_, n_)), 2048), at_once = 16;
    triangle_.upper.assign(static_cast<std::size_t>(n_ * p), 0.0);
    if (options_.ridge > 0) {
        for (int64_t j = 0; j < n_; ++j) triangle_.upper[j * p + j] = std::sqrt(options_.ridge);
    }
    std::vector<double> stacked;
    a_.visit([&](const RowBlock& block, int64_t first) {
        for (int64_t begin = 0; begin < block.rows; begin += at_once * chunk) {
            const int64_t rows = std::min(at_once * chunk, block.rows - begin), parts = (rows + chunk - 1) / chunk;
            const int64_t before = first + begin > 0 || options_.ridge > 0 ? 1 : 0;  // triangles
            stacked.assign(static_cast<std::size_t>((parts + before) * n_ * p), 0.0);
            if (before > 0) std::copy(triangle_.upper.begin(), triangle_.upper.end(), stacked.begin());
            const auto factor = [&](int64_t part) {
                const int64_t from = begin + part * chunk, count = std::min(chunk, begin + rows - from);
                std::vector<double> work(static_cast<std::size_t>(count * p));
                densify(block.part(from, count), b_ + (first + from) * k_, k_, work.data());
                upper_triangle_beside(work.data(), count, n_, k_, stacked.data() + (part + before) * n_ * p);
            };
            parts == 1 ? factor(0) : parallel_for(parts, factor);  // one: its products have the threads
            throw_if_cancelled();
            if (parts + before == 1) {
                triangle_.upper.swap(stacked);
            } else {
                upper_triangle_beside(stacked.data(), (parts + before) * n_, n_, k_, triangle_.upper.data());
            }
        }
    });
    ++result_.sweeps;
    double sum = 0;
    for (int64_t i = 0; i < n_; ++i) {
        for (int64_t j = i; j < n_; ++j) sum += triangle_.upper[i * p + j] * triangle_.upper[i * p + j];
    }
    triangle_.frobenius = std::sqrt(sum);
    check_range(triangle_.frobenius, as_it_is_);
}

void Solver::scale_columns() {
    triangle_.scale.assign(static_cast<std::size_t>(n_), 0.0);
    passes_.squares(triangle_.scale.data());
    ++result_.sweeps;
    double sum = 0;
    for (double& s : triangle_.scale) {
        sum += s;
        s += options_.ridge;
        s = s > 0 ? 1 / std::sqrt(s) : 0.0;
    }
    triangle_.frobenius = std::sqrt(sum);
    check_range(triangle_.frobenius, as_it_is_);
    triangle_.largest = triangle_.frobenius;
    triangle_.ridge = options_.ridge;
    result_.cond = std::numeric_limits<double>::quiet_NaN();
}

double Solver::residual(int64_t column, const double* x, double* z) {
    const double r_norm = passes_.residual(column, x, z);
    for (int64_t j = 0; j < n_; ++j) z[j] -= options_.ridge * x[j];
    ++result_.sweeps;
    return r_norm;
}

void Solver::normal(const double* q, double* w) {
    passes_.normal(q, w);
    for (int64_t j = 0; j < n_; ++j) w[j] += options_.ridge * q[j];
    ++result_.sweeps;
}

// The first refinement ends at the level of its own rounding (FOSSILS' rule), later ones by the backward error that the
// recurrence predicts; what is returned is measured.
bool Solver::near_enough(bool first, double step, const std::vector<double>& rest, int iteration, const double* x, double r_norm) const {
    if (first && triangle_.scale.empty()) return step <= 10 * triangle_.step_floor(x, r_norm);
    if (triangle_.scale.empty() && iteration % 2 != 0) return false;  // every second step: the estimate costs one
    std::vector<double> z(static_cast<std::size_t>(n_));
    triangle_.from_y(rest, z.data());
    return triangle_.backward_error(z, x, r_norm) <= 0.25 * tol_;
}

void Solver::conjugate_gradients(const std::vector<double>& c, std::vector<double>& dy, bool first, const double* x, double r_norm) {
    std::vector<double> rest = c, p = c, w, q(static_cast<std::size_t>(n_)), aq(q.size());
    dy.assign(c.size(), 0.0);
    double square = dot(rest, rest);
    const double begin = square;
    const int most = triangle_.scale.empty() ? options_.max_iter : 20 * options_.max_iter;
    for (int iteration = 1; iteration <= most && square > 0; ++iteration) {
        triangle_.to_x(p, q.data());
        normal(q.data(), aq.data());
        triangle_.to_y(aq.data(), w);
        const double curvature = dot(p, w);
        if (!(curvature > 0)) break;
        const double alpha = square / curvature;
        for (std::size_t i = 0; i < dy.size(); ++i) {
            dy[i] += alpha * p[i];
            rest[i] -= alpha * w[i];
        }
        ++result_.iterations;
        const double step = alpha * std::sqrt(dot(p, p)), next = dot(rest, rest);
        if (near_enough(first, step, rest, iteration, x, r_norm) || next <= 1e-30 * begin) break;
        for (std::size_t i = 0; i < p.size(); ++i) p[i] = rest[i] + next / square * p[i];
        square = next;
    }
}

// Polyak's heavy ball with the damping and momentum that a sketch of this size deserves.
void Solver::heavy_ball(const std::vector<double>& c, std::vector<double>& dy, bool first, const double* x, double r_norm) {
    const double momentum = static_cast<double>(n_) / static_cast<double>(sketch_rows_), damping = (1 - momentum) * (1 - momentum);
    std::vector<double> rest = c, w, q(static_cast<std::size_t>(n_)), aq(q.size()), step(c.size(), 0.0);
    dy.assign(c.size(), 0.0);
    const double begin = dot(c, c);
    for (int iteration = 1; iteration <= options_.max_iter && begin > 0; ++iteration) {
        for (std::size_t i = 0; i < dy.size(); ++i) {
            step[i] = damping * rest[i] + momentum * step[i];
            dy[i] += step[i];
        }
        triangle_.to_x(dy, q.data());
        normal(q.data(), aq.data());
        triangle_.to_y(aq.data(), w);
        for (std::size_t i = 0; i < dy.size(); ++i) rest[i] = c[i] - w[i];
        ++result_.iterations;
        if (near_enough(first, std::sqrt(dot(step, step)), rest, iteration, x, r_norm) || dot(rest, rest) <= 1e-30 * begin) break;
    }
}

void Solver::refine(int64_t column, double* x) {
    std::vector<double> z(static_cast<std::size_t>(n_)), c, dy, change(z.size()), best(x, x + n_);
    double best_error = std::numeric_limits<double>::infinity(), best_norm = 0;
    for (int pass = 0; pass <= most_refinements; ++pass) {
        const double r_norm = residual(column, x, z.data());
        if (!std::isfinite(r_norm)) throw NotFinite("lstsq: b has NaN or Inf");
        if (pass >= 1) {
            triangle_.prepare_error(x, r_norm);
            const double error = triangle_.backward_error(z, x, r_norm);
            const bool enough = error <= tol_ || error > 0.5 * best_error || pass == most_refinements;
            if (error < best_error) {
                best_error = error;
                best_norm = r_norm;
                std::copy_n(x, n_, best.begin());
            }
            if (enough) break;
        }
        triangle_.to_y(z.data(), c);
        const bool first = pass == 0;
        if (result_.method == LstsqMethod::fossils) {
            heavy_ball(c, dy, first, x, r_norm);
        } else {
            conjugate_gradients(c, dy, first, x, r_norm);
        }
        triangle_.to_x(dy, change.data());
        for (int64_t j = 0; j < n_; ++j) x[j] += change[j];
    }
    std::copy(best.begin(), best.end(), x);
    const bool measured = returned_.type == DType::float64 && std::isfinite(best_error);  // a float32 x is rounded first
    measured ? record(column, best_norm, best_error) : certify(column, x);
}

void Solver::certify(int64_t column, double* x) {
    for (int64_t j = 0; j < n_; ++j) x[j] = returned_.rounded(x[j]);
    std::vector<double> z(static_cast<std::size_t>(n_));
    const double r_norm = residual(column, x, z.data());
    if (!std::isfinite(r_norm)) throw NotFinite("lstsq: b has NaN or Inf");
    triangle_.prepare_error(x, r_norm);
    record(column, r_norm, triangle_.backward_error(z, x, r_norm));
}

void Solver::record(int64_t column, double r_norm, double error) {
    result_.residual_norm[column] = r_norm;
    result_.backward_error[column] = error;
    if (error <= tol_) return;
    const double reachable = returned_.type == DType::float64 ? 10 * eps : 1e-6;
    const Status found = error <= reachable ? Status::precision_floor : Status::stalled;
    if (result_.status == Status::converged || found == Status::stalled) result_.status = found;
}

void check(const LstsqOptions& options) {
    if (!(options.ridge >= 0) || !std::isfinite(options.ridge)) throw std::invalid_argument("lstsq: ridge must not be negative");
    if (options.rcond >= 1) throw std::invalid_argument("lstsq: rcond must be below 1");
}

std::string name_of(DType type) { return type == DType::float64 ? "float64" : "float32"; }

// Squares of numbers up to `size` are not safe.
bool out_of_range(double size) { return size > 0 && (size > 1e70 || size < 1e-70); }

LstsqResult of_nans(int64_t n, int64_t k, LstsqMethod method) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    LstsqResult result;
    result.x.assign(static_cast<std::size_t>(n * k), nan);
    result.residual_norm.assign(static_cast<std::size_t>(k), nan);
    result.backward_error = result.residual_norm;
    result.cond = nan;
    result.status = Status::breakdown;
    result.method = method;
    return result;
}

}  // namespace

double Returned::rounded(double x) const {
    if (type == DType::float64) return x;
    const auto there = static_cast<float>(std::ldexp(x, exponent));
    if (std::isinf(there) && std::isfinite(x)) unscaled(std::numeric_limits<double>::infinity());
    return std::ldexp(static_cast<double>(there), -exponent);
}

double Returned::unscaled(double x) const {
    const double there = std::ldexp(x, exponent);
    if (std::isinf(there)) throw std::invalid_argument("lstsq: x leaves the range of A's dtype, " + name_of(type) + "; scale A or b");
    return there;
}

const char* to_string(LstsqMethod method) {
    switch (method) {
        case LstsqMethod::automatic: return "auto";
        case LstsqMethod::direct: return "direct";
        case LstsqMethod::gram: return "gram";
        case LstsqMethod::sketch: return "sketch";
        case LstsqMethod::fossils: return "fossils";
        default: return "cg";
    }
}

LstsqResult lstsq(const RowSource& a, const double* b, int64_t k, DType precision, const LstsqOptions& options) {
    check(options);
    // b at a power of two where its squares are safe; A only where the first look at it fails, which costs a copy by blocks.
    const double size = largest(b, a.rows * k);
    const bool far = out_of_range(size);
    const int b_exponent = far ? std::ilogb(size) : 0;
    std::vector<double> scaled_b(b, b + (far ? a.rows * k : 0));
    for (double& value : scaled_b) value = std::ldexp(value, -b_exponent);
    const double* const right = far ? scaled_b.data() : b;
    const auto solve = [&](const RowSource& rows, int a_exponent, const LstsqOptions& inside, bool as_it_is) {
        const Returned returned{precision, b_exponent - a_exponent};
        LstsqResult result = Solver(HostLstsqRows(rows, right, k), rows, right, k, returned, inside, as_it_is).run();
        for (double& x : result.x) x = returned.unscaled(x);
        for (double& r : result.residual_norm) r = std::ldexp(r, b_exponent);
        return result;
    };
    try {
        return solve(a, 0, options, false);
    } catch (const OutOfRange&) {
        const double most = largest(a);
        if (!std::isfinite(most)) throw NotFinite("lstsq: A has NaN or Inf");
        const int exponent = most > 0 ? std::ilogb(most) : 0;
        LstsqOptions inside = options;
        inside.ridge = std::ldexp(options.ridge, -2 * exponent);
        return solve(scaled_rows(a, std::ldexp(1.0, -exponent)), exponent, inside, true);
    }
}

LstsqResult lstsq_on_device(CudaRows& a, const CudaView& b, DType precision, const LstsqOptions& options) {
    check(options);
    const RowSource visits = visiting_rows(a);
    const DeviceLstsqRows passes(a, b);
    const double size = passes.largest();
    LstsqOptions there = options;
    if (automatic(options)) there.method = direct_or_sketch(visits, device_direct_factor);
    const bool visit = visits.cols == 0 || there.method == LstsqMethod::direct || (there.method != LstsqMethod::cg && visits.rows < 2 * visits.cols);
    int sweeps = 0;  // of attempts
    const auto finish = [&](LstsqResult result) {
        result.sweeps += sweeps;
        return result;
    };
    try {
        if (!std::isfinite(size)) throw NotFinite("lstsq: b has NaN or Inf");
        if (gram_first(visits, b.columns, options) && !out_of_range(size)) {
            const double tol = tolerance(precision, options);
            if (const auto found = lstsq_by_gram(passes, visits, b.columns, {precision, 0}, options, tol, sweeps)) return *found;
        }
        if (!visit && !out_of_range(size)) {
            try {
                return finish(Solver(passes, visits, nullptr, b.columns, {precision, 0}, there, false).run());
            } catch (const OutOfRange&) {
            }
        }
        return finish(lstsq(visits, passes.on_host().data(), b.columns, precision, there));
    } catch (const NotFinite&) {
        return of_nans(visits.cols, b.columns, there.method);
    }
}

template <class T>
LstsqResult lstsq(TensorView<const T> a, TensorView<const T> b, const LstsqOptions& options) {
    if (a.ndim != 2 || (b.ndim != 1 && b.ndim != 2) || a.shape[0] != b.shape[0]) {
        throw std::invalid_argument("lstsq: a must be (m, n) and b (m,) or (m, k)");
    }
    if (a.shape[1] > 1 && a.strides[1] != 1) throw std::invalid_argument("lstsq: a must be contiguous along its columns");
    const int64_t k = b.ndim == 2 ? b.shape[1] : 1, row = b.strides[0], step = b.ndim == 2 ? b.strides[1] : 1;
    std::vector<double> right(static_cast<std::size_t>(b.shape[0] * k));
    for (int64_t i = 0; i < b.shape[0]; ++i) {
        for (int64_t j = 0; j < k; ++j) right[i * k + j] = static_cast<double>(b.data[i * row + j * step]);
    }
    const RowBlock block = dense_rows(a);
    return lstsq(RowSource::of(block), right.data(), k, dtype_of<T>(), options);
}

template LstsqResult lstsq<double>(TensorView<const double>, TensorView<const double>, const LstsqOptions&);
template LstsqResult lstsq<float>(TensorView<const float>, TensorView<const float>, const LstsqOptions&);

}  // namespace raphson
