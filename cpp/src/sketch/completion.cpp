#include "raphson/completion.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>

#include "common/philox.h"
#include "common/threads.h"
#include "dense/dense.h"
#include "sketch/row_regression.h"
#include "sketch/streams.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;
using Clock = std::chrono::steady_clock;

constexpr int power_steps = 8;          // of the start's block power iteration
constexpr double coherence = 4;         // rows of the start longer than this times the average are shortened to it
constexpr int64_t most_tasks = 256;
constexpr double task_flops = 2e5;
constexpr int stall_patience = 50, stall_iterations = 10;
constexpr double stall_decrease = 1e-13, floor_level = 1e-10;

// Whole cache lines: a row of a factor is gathered by the registerful.
template <class T>
struct LineAligned {
    using value_type = T;
    LineAligned() = default;
    template <class U>
    explicit LineAligned(const LineAligned<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
    friend bool operator==(const LineAligned&, const LineAligned&) { return true; }
    friend bool operator!=(const LineAligned&, const LineAligned&) { return false; }
};
using Factor = std::vector<double, LineAligned<double>>;

// One factor, rows padded with zeros, and the entries of the matrix along its rows.
struct Side {
    int64_t rows = 0, ld = 0;
    std::vector<int64_t> starts;
    std::vector<std::int32_t> index;
    std::vector<char> values;
    Factor factor, step;
    std::vector<int64_t> tasks;  // first rows of them

    RowEntries entries(int64_t i, const Side& other, DType type) const {
        RowEntries row;
        const auto begin = starts[static_cast<std::size_t>(i)];
        row.count = starts[static_cast<std::size_t>(i) + 1] - begin;
        row.index = index.data() + begin;
        row.values = values.data() + begin * itemsize(type);
        row.type = type;
        row.factor = other.factor.data();
        row.ld = ld;
        return row;
    }
    double* row(int64_t i) { return factor.data() + i * ld; }
};

// Counting sort by `key`, stable; `other` and the values go along.
template <class T, class Key, class Other>
void sort_by(Side& side, int64_t count, const Key* key, const Other* other, const T* values) {
    side.starts.assign(static_cast<std::size_t>(side.rows) + 1, 0);
    for (int64_t p = 0; p < count; ++p) ++side.starts[static_cast<std::size_t>(key[p]) + 1];
    for (std::size_t i = 1; i < side.starts.size(); ++i) side.starts[i] += side.starts[i - 1];
    side.index.resize(static_cast<std::size_t>(count));
    side.values.resize(static_cast<std::size_t>(count) * sizeof(T));
    std::vector<int64_t> next(side.starts.begin(), side.starts.end() - 1);
    T* const sorted = reinterpret_cast<T*>(side.values.data());
    for (int64_t p = 0; p < count; ++p) {
        const int64_t to = next[static_cast<std::size_t>(key[p])]++;
        side.index[static_cast<std::size_t>(to)] = static_cast<std::int32_t>(other[p]);
        sorted[to] = values[p];
    }
}

// By columns, then by rows, whose columns ascend then, and by columns again.
template <class T>
void compress(const Observations& o, Side& left, Side& right) {
    sort_by<T>(right, o.count, o.cols, o.rows, static_cast<const T*>(o.values));
    std::vector<std::int32_t> key(static_cast<std::size_t>(o.count));
    const auto expand = [&](const Side& side) {
        for (int64_t i = 0; i < side.rows; ++i) {
            const auto from = side.starts[static_cast<std::size_t>(i)], to = side.starts[static_cast<std::size_t>(i) + 1];
            std::fill(key.begin() + from, key.begin() + to, static_cast<std::int32_t>(i));
        }
    };
    expand(right);
    sort_by<T>(left, o.count, right.index.data(), key.data(), reinterpret_cast<const T*>(right.values.data()));
    expand(left);
    sort_by<T>(right, o.count, left.index.data(), key.data(), reinterpret_cast<const T*>(left.values.data()));
}

// Rows are cut into tasks by the flops of their regressions.
void cut(Side& side, int64_t rank) {
    const double k = static_cast<double>(rank), each = k * k * (k / 3 + 20), entry = k * (k + 8);
    const double total = each * static_cast<double>(side.rows) + entry * static_cast<double>(side.index.size());
    const double share = std::max(task_flops, total / most_tasks);
    side.tasks.assign(1, 0);
    double here = 0;
    for (int64_t i = 0; i < side.rows; ++i) {
        const double work = each + entry * static_cast<double>(side.starts[static_cast<std::size_t>(i) + 1] - side.starts[static_cast<std::size_t>(i)]);
        if (here > 0 && here + work > share) {
            side.tasks.push_back(i);
            here = 0;
        }
        here += work;
    }
    side.tasks.push_back(side.rows);
}

struct Totals {
    double errors = 0, gradient = 0, scale = 0, steps = 0;
    int64_t orthogonal = 0, sketched = 0;

    void add(const Totals& t) {
        errors += t.errors, gradient += t.gradient, scale += t.scale, steps += t.steps;
        orthogonal += t.orthogonal, sketched += t.sketched;
    }
};

// body(row, totals) for all rows of a side; totals are added up in the order of the tasks.
template <class Body>
Totals over_rows(const Side& side, const Body& body) {
    const int64_t tasks = static_cast<int64_t>(side.tasks.size()) - 1;
    std::vector<Totals> parts(static_cast<std::size_t>(tasks));
    parallel_for(tasks, [&](int64_t task) {
        const auto t = static_cast<std::size_t>(task);
        for (int64_t i = side.tasks[t]; i < side.tasks[t + 1] && !cancelled(); ++i) body(i, parts[t]);
    });
    throw_if_cancelled();
    Totals all;
    for (const Totals& t : parts) all.add(t);
    return all;
}

class Completion {
public:
    Completion(const Observations& o, const CompletionOptions& options) : o_(o), options_(options), k_(options.rank) {
        rule_.how = options.regression;
        rule_.rank = k_;
        rule_.ridge = options.ridge;
        rule_.seed = options.seed;
        left_.rows = o.rows_of_matrix;
        right_.rows = o.cols_of_matrix;
        o.type == DType::float64 ? compress<double>(o, left_, right_) : compress<float>(o, left_, right_);
        for (int64_t p = 0; p < o.count; ++p) {
            const double a = o.type == DType::float64 ? static_cast<const double*>(o.values)[p] : static_cast<double>(static_cast<const float*>(o.values)[p]);
            squares_ += a * a;
        }
        for (Side* side : {&left_, &right_}) {
            side->ld = (k_ + factor_unit - 1) / factor_unit * factor_unit;
            side->factor.assign(static_cast<std::size_t>(side->rows * side->ld), 0.0);
            side->step = side->factor;
            cut(*side, k_);
        }
    }

    CompletionResult run() {
        CompletionResult found;
        if (squares_ == 0) {  // factors of zeros
            found.status = Status::converged;
            judge(found);
            return found;
        }
        start();
        for (int done = 0;; ++done) {
            const Totals here = half_step(left_, right_, 0, found);
            const double optimality = optimality_of(here);
            if (done > 0 && report(done, here, found)) {
                found.status = Status::stopped;
            } else if (optimality <= options_.tol) {
                found.status = Status::converged;
            } else if (!std::isfinite(here.errors + here.steps)) {
                found.status = Status::breakdown;
            } else if (done == options_.max_iter) {
                found.status = Status::max_iter;
            } else if (flat(here.errors + penalty(), optimality)) {
                found.status = optimality <= floor_level ? Status::precision_floor : Status::stalled;
            } else {
                take(left_);
                if (options_.ridge == 0) orthonormalise(left_, &right_);
                const Totals there = half_step(right_, left_, 1, found);
                if (std::isfinite(there.steps)) {
                    take(right_);
                    if (options_.ridge > 0) balance();
                    found.iterations = done + 1;
                    continue;
                }
                found.status = Status::breakdown;
            }
            break;
        }
        judge(found);
        return found;
    }

private:
    double* zeros() {
        zeros_.assign(static_cast<std::size_t>(left_.ld), 0.0);
        return zeros_.data();
    }

    // side ← A (other), or Aᵀ.
    void product(Side& side, const Side& other) {
        const double* const nothing = zeros();
        over_rows(side, [&](int64_t i, Totals&) { kernels().completion.row_pass(side.entries(i, other, o_.type), nothing, side.row(i), nullptr); });
    }

    // x ← x L⁻ᵀ; and partner ← partner L, so that x·partnerᵀ stays what it is.
    void divide(Side& x, Side* partner, const std::vector<double>& l, bool solve) {
        if (solve) over_rows(x, [&](int64_t i, Totals&) { kernels().dense.solve_rows(l.data(), k_, k_, x.row(i), x.ld, 1); });
        if (partner == nullptr) return;
        over_rows(*partner, [&](int64_t i, Totals&) {
            double* const v = partner->row(i);
            for (int64_t j = 0; j < k_; ++j) {
                double sum = 0;
                for (int64_t q = j; q < k_; ++q) sum += v[q] * l[static_cast<std::size_t>(q * k_ + j)];
                v[j] = sum;
            }
        });
    }

    // Columns of x become orthonormal: by Cholesky's factor of their Gram matrix, twice where they were far from it, by
    // Householder's QR where that has lost a column.
    void orthonormalise(Side& x, Side* partner) {
        std::vector<double> l(static_cast<std::size_t>(k_ * k_));
        for (int pass = 0; pass < 2; ++pass) {
            std::fill(l.begin(), l.end(), 0.0);
            kernels().gemm.columns_onto(k_, x.rows, x.factor.data(), x.ld, nullptr, l.data(), k_);
            throw_if_cancelled();
            double most = 0, least = std::numeric_limits<double>::infinity();
            for (int64_t j = 0; j < k_; ++j) most = std::max(most, l[static_cast<std::size_t>(j * k_ + j)]);
            const int64_t lost = most > 0 ? cholesky(l.data(), k_, k_, 1e-12 * most) : k_;
            if (lost > 0) return orthonormalise_safely(x, partner);
            for (int64_t j = 0; j < k_; ++j) least = std::min(least, l[static_cast<std::size_t>(j * k_ + j)]);
            divide(x, partner, l, true);
            if (least * least > 1e-4 * most) return;
        }
    }
    void orthonormalise_safely(Side& x, Side* partner) {
        std::vector<double> r(static_cast<std::size_t>(k_ * k_)), l(r);
        Factor copy(x.factor);
        const HouseholderQr qr(copy.data(), x.ld, x.rows, k_);
        qr.upper(r.data(), k_);
        transpose(r.data(), k_, k_, k_, l.data(), k_);
        std::fill(x.factor.begin(), x.factor.end(), 0.0);
        for (int64_t j = 0; j < k_; ++j) x.row(j)[j] = 1;
        qr.apply(false, x.factor.data(), x.ld, k_);
        throw_if_cancelled();
        divide(x, partner, l, false);
    }

    // The factors of the same product with the least ‖left‖² + ‖right‖²: their Gram matrices become equal and diagonal.
    // Alternating steps alone move scale from one factor to the other only as fast as the ridge is large.
    void balance() {
        std::vector<double> m(static_cast<std::size_t>(k_ * k_), 0.0), v(m), w(m), triangle[2] = {m, m};
        Side* const sides[] = {&left_, &right_};
        for (int which = 0; which < 2; ++which) {
            std::vector<double>& l = triangle[which];
            kernels().gemm.columns_onto(k_, sides[which]->rows, sides[which]->factor.data(), sides[which]->ld, nullptr, l.data(), k_);
            throw_if_cancelled();
            double most = 0;
            for (int64_t j = 0; j < k_; ++j) most = std::max(most, l[static_cast<std::size_t>(j * k_ + j)]);
            if (!(most > 0)) return;
            cholesky(l.data(), k_, k_, 1e-12 * most);  // a column that the ridge takes away: any pivot keeps the product
        }
        // left = Q₁L₁ᵀ, right = Q₂L₂ᵀ, left rightᵀ = Q₁ M Q₂ᵀ, M = L₁ᵀL₂: its columns, rotated, give P Σ, the rotations W.
        const auto at = [&](const std::vector<double>& a, int64_t i, int64_t j) { return a[static_cast<std::size_t>(i * k_ + j)]; };
        for (int64_t j = 0; j < k_; ++j) {
            for (int64_t i = 0; i < k_; ++i) {
                for (int64_t q = std::max(i, j); q < k_; ++q) m[static_cast<std::size_t>(j * k_ + i)] += at(triangle[0], q, i) * at(triangle[1], q, j);
            }
            w[static_cast<std::size_t>(j * k_ + j)] = 1;
        }
        orthogonal_rows(m.data(), w.data(), k_, k_);  // m: row j = σⱼpⱼ; w: row j = wⱼ
        for (int64_t j = 0; j < k_; ++j) {
            double square = 0;
            for (int64_t i = 0; i < k_; ++i) square += at(m, j, i) * at(m, j, i);
            if (!(square > 0)) return;
            for (int64_t i = 0; i < k_; ++i) {  // p √σ and w √σ
                m[static_cast<std::size_t>(j * k_ + i)] /= std::sqrt(std::sqrt(square));
                w[static_cast<std::size_t>(j * k_ + i)] *= std::sqrt(std::sqrt(square));
            }
        }
        for (int which = 0; which < 2; ++which) {  // Q = X L⁻ᵀ, times these
            const std::vector<double>& to = which == 0 ? m : w;
            transpose(to.data(), k_, k_, k_, v.data(), k_);
            solve_lower_transposed(triangle[which].data(), k_, k_, v.data(), k_, k_);
            Side& side = *sides[which];
            kernels().gemm.f64.product(side.rows, k_, k_, 1.0, side.factor.data(), side.ld, v.data(), k_, 0.0, nullptr, 0, side.step.data(), side.ld);
            throw_if_cancelled();
            for (int64_t i = 0; i < side.rows; ++i) std::fill_n(side.step.data() + i * side.ld + k_, side.ld - k_, 0.0);
            side.factor.swap(side.step);
        }
    }

    void start() {
        if (options_.init != nullptr) {
            for (int64_t j = 0; j < right_.rows; ++j) std::copy_n(options_.init + j * k_, k_, right_.row(j));
            return;
        }
        const PhiloxKey key = PhiloxKey::from_seed(options_.seed);
        over_rows(right_, [&](int64_t j, Totals&) {
            for (int64_t c = 0; c < k_; ++c) {
                const PhiloxBlock draw = philox_at(static_cast<std::uint64_t>(j), static_cast<std::uint64_t>(c), completion_start_stream, key);
                const double radius = std::sqrt(-2 * std::log1p(-philox_uniform(draw[0], draw[1])));
                right_.row(j)[c] = radius * std::cos(6.283185307179586 * philox_uniform(draw[2], draw[3]));
            }
        });
        orthonormalise(right_, nullptr);
        if (!options_.spectral) return;
        for (int step = 0; step < power_steps; ++step) {
            product(left_, right_);
            orthonormalise(left_, nullptr);
            product(right_, left_);
            orthonormalise(right_, nullptr);
        }
        const double longest = coherence * std::sqrt(static_cast<double>(k_) / static_cast<double>(right_.rows));
        over_rows(right_, [&](int64_t j, Totals&) {
            double square = 0;
            for (int64_t c = 0; c < k_; ++c) square += right_.row(j)[c] * right_.row(j)[c];
            if (square <= longest * longest) return;
            for (int64_t c = 0; c < k_; ++c) right_.row(j)[c] *= longest / std::sqrt(square);
        });
        orthonormalise(right_, nullptr);
        std::fill(left_.factor.begin(), left_.factor.end(), 0.0);
    }

    // Steps of all rows of a side, not yet taken.
    Totals half_step(Side& side, const Side& other, std::uint64_t which, CompletionResult& found) {
        const Totals all = over_rows(side, [&](int64_t i, Totals& t) {
            double* const step = side.step.data() + i * side.ld;
            const RowStep done = regress(side.entries(i, other, o_.type), rule_, 2 * static_cast<std::uint64_t>(i) + which, side.row(i), step);
            t.errors += done.sums.errors;
            t.gradient += done.gradient;
            t.scale += done.sums.values * done.sums.factor;
            for (int64_t j = 0; j < k_; ++j) t.steps += step[j] * step[j];
            t.orthogonal += done.orthogonal ? 1 : 0;
            t.sketched += done.sketched ? 1 : 0;
        });
        found.orthogonal += all.orthogonal;
        found.sketched += all.sketched;
        return all;
    }
    void take(Side& side) {
        for (std::size_t i = 0; i < side.factor.size(); ++i) side.factor[i] += side.step[i];
    }

    double penalty() const {
        if (options_.ridge == 0) return 0;
        double squares = 0;
        for (const Side* side : {&left_, &right_}) {
            for (const double entry : side->factor) squares += entry * entry;
        }
        return options_.ridge * squares;
    }
    // The ridge's share of the bound: factors that it takes to zero would take the rest along.
    double optimality_of(const Totals& t) const {
        return t.gradient > 0 ? std::sqrt(t.gradient / (t.scale + options_.ridge * squares_)) : t.gradient;  // a NaN stays one
    }
    double root_mean(double squares) const { return o_.count > 0 ? std::sqrt(squares / static_cast<double>(o_.count)) : 0.0; }

    bool report(int done, const Totals& here, CompletionResult& found) const {
        const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
        found.history.push_back({done, root_mean(here.errors), optimality_of(here), seconds});
        return options_.callback && options_.callback(found.history.back());
    }
    // Neither the objective falls any more nor, for long, the optimality, of which it is about the square.
    bool flat(double objective, double optimality) {
        objectives_.push_back(objective);
        if (optimality < 0.9 * best_) {
            best_ = optimality;
            since_ = 0;
        }
        const std::size_t now = objectives_.size();
        return ++since_ > stall_patience && objectives_[now - 1 - stall_iterations] - objective <= stall_decrease * objective;
    }

    // Half the gradient of a side's rows, and the errors.
    Totals measure(Side& side, const Side& other) const {
        return over_rows(side, [&](int64_t i, Totals& t) {
            double* const g = side.step.data() + i * side.ld;
            const RowSums sums = kernels().completion.row_pass(side.entries(i, other, o_.type), side.row(i), g, nullptr);
            for (int64_t j = 0; j < k_; ++j) {
                const double slope = g[j] - options_.ridge * side.row(i)[j];
                t.gradient += slope * slope;
            }
            t.errors += sums.errors;
            t.scale += sums.values * sums.factor;
        });
    }
    void judge(CompletionResult& found) {
        for (Side* side : {&left_, &right_}) {
            if (options_.precision == DType::float32) {
                for (double& entry : side->factor) entry = static_cast<double>(static_cast<float>(entry));
            }
            std::vector<double>& out = side == &left_ ? found.left : found.right;
            out.resize(static_cast<std::size_t>(side->rows * k_));
            for (int64_t i = 0; i < side->rows; ++i) std::copy_n(side->row(i), k_, out.data() + i * k_);
        }
        const Totals on_left = measure(left_, right_), on_right = measure(right_, left_);
        found.residual = root_mean(on_left.errors);
        found.objective = on_left.errors + penalty();
        found.optimality = std::max(optimality_of(on_left), optimality_of(on_right));
        if (found.status == Status::converged && !(found.optimality <= options_.tol)) found.status = Status::precision_floor;
        if (found.status != Status::converged && found.optimality <= options_.tol) found.status = Status::converged;
    }

    const Observations& o_;
    const CompletionOptions& options_;
    const int64_t k_;
    RegressionRule rule_;
    Side left_, right_;
    Factor zeros_;
    std::vector<double> objectives_;
    double best_ = std::numeric_limits<double>::infinity(), squares_ = 0;  // squares_: of the values
    int since_ = 0;
    Clock::time_point begin_ = Clock::now();
};

template <class T>
bool finite_squares(const Observations& o) {
    double sum = 0;
    for (int64_t p = 0; p < o.count; ++p) sum += static_cast<double>(static_cast<const T*>(o.values)[p]) * static_cast<double>(static_cast<const T*>(o.values)[p]);
    return std::isfinite(sum);
}

void check(const Observations& o, const CompletionOptions& options) {
    const auto refuse = [](const std::string& what) { throw std::invalid_argument("complete_matrix: " + what); };
    const int64_t most = std::numeric_limits<std::int32_t>::max();
    if (o.rows_of_matrix < 1 || o.cols_of_matrix < 1 || o.rows_of_matrix > most || o.cols_of_matrix > most) {
        refuse("shape must be from 1 to 2**31 - 1 each way, got (" + std::to_string(o.rows_of_matrix) + ", " + std::to_string(o.cols_of_matrix) + ")");
    }
    const int64_t least = std::min(o.rows_of_matrix, o.cols_of_matrix);
    if (options.rank < 1 || options.rank > least) {
        refuse("rank must be from 1 to min(shape) = " + std::to_string(least) + ", got " + std::to_string(options.rank));
    }
    if (!(options.ridge >= 0) || std::isinf(options.ridge)) refuse("ridge must be finite and not negative");
    if (!(options.tol > 0)) refuse("tol must be positive");
    if (options.max_iter < 1) refuse("max_iter must be at least 1");
    for (int64_t p = 0; p < o.count; ++p) {
        const bool row = o.rows[p] >= 0 && o.rows[p] < o.rows_of_matrix;
        if (row && o.cols[p] >= 0 && o.cols[p] < o.cols_of_matrix) continue;
        refuse(std::string(row ? "cols" : "rows") + "[" + std::to_string(p) + "] is " + std::to_string(row ? o.cols[p] : o.rows[p]) +
               ", outside [0, " + std::to_string(row ? o.cols_of_matrix : o.rows_of_matrix) + ")");
    }
    const bool finite = o.type == DType::float64 ? finite_squares<double>(o) : finite_squares<float>(o);
    if (!finite) throw NotFinite("complete_matrix: values has NaN or Inf, or numbers whose squares overflow");
}

}  // namespace

CompletionResult complete_matrix(const Observations& observed, const CompletionOptions& options) {
    check(observed, options);
    return Completion(observed, options).run();
}

}  // namespace raphson
