// Divide and conquer for a symmetric tridiagonal matrix (Cuppen 1981): leaves by implicit QL, pairs of them merged by the
// secular equation, whose vectors are made orthogonal by the weights for which the computed roots are exact (Gu and
// Eisenstat 1994). Vectors are rows throughout.
#include "dense/tridiagonal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;

namespace {

constexpr double eps = 0x1p-52;
constexpr int64_t leaf = 24;
constexpr int64_t roots_a_task = 32;

// Rotations wait until there are enough of them to be worth the trip through the matrix.
class Rotations {
public:
    Rotations(double* v, int64_t n) : v_(v), n_(n), room_(n * most_sweeps) {
        rotations_ = scratch_.take_array<double>(3 * room_);
        sweeps_ = scratch_.take_array<RotationSweep>(most_sweeps);
        rows_ = scratch_.take_array<double>(n * rotated_rows);
    }
    // Room for the rotations of a step over columns first … last; `taken` of them, from the last column on, are then kept.
    double* begin(int64_t first, int64_t last) {
        if (count_ == most_sweeps || used_ + last - first > room_) flush();
        return rotations_ + 3 * used_;
    }
    void keep(int64_t last, int64_t taken) {
        if (taken == 0) return;
        sweeps_[count_++] = {last - taken, last, used_};
        used_ += taken;
    }
    void flush() {
        for (int64_t from = 0; from < n_ && count_ > 0; from += rotated_rows) {
            kernels().dense.rotate(v_, n_, from, rotations_, sweeps_, count_, rows_);
        }
        count_ = used_ = 0;
    }

private:
    static constexpr int64_t most_sweeps = 64;
    Workspace scratch_;
    double* v_;
    int64_t n_, room_;
    double* rotations_;
    RotationSweep* sweeps_;
    double* rows_;
    int64_t count_ = 0, used_ = 0;
};

// Implicit QL (Martin and Wilkinson's imtql2) of the tridiagonal matrix d, e. Entries beside the diagonal are zero below a
// quarter ulp of the norm, too: what the tridiagonal form left there is rounding.
int64_t implicit_ql(double* d, double* e, int64_t n, int64_t most_steps, Rotations& rotations) {
    double norm = 0;
    for (int64_t i = 0; i < n; ++i) norm = std::max(norm, std::fabs(d[i]) + std::fabs(e[i]));
    const double nothing = 0.25 * eps * norm;
    int64_t taken = 0;
    for (int64_t l = 0; l < n; ++l) {
        for (int64_t steps = 0;; ++steps) {
            int64_t m = l;
            for (; m + 1 < n; ++m) {
                const double beside = std::fabs(e[m]);
                if (beside <= nothing || beside <= eps * (std::fabs(d[m]) + std::fabs(d[m + 1]))) break;
            }
            taken = std::max(taken, steps);
            if (m == l) break;
            if (steps == most_steps || poll_cancelled()) return most_steps + 1;
            double g = (d[l + 1] - d[l]) / (2 * e[l]);
            double r = std::hypot(g, 1.0);
            g = d[m] - d[l] + e[l] / (g + std::copysign(r, g));
            double s = 1, c = 1, p = 0;
            double* rotation = rotations.begin(l, m);
            int64_t i = m - 1;
            for (; i >= l; --i) {
                const double f = s * e[i], b = c * e[i];
                const double squares = f * f + g * g;
                r = squares > 1e-280 ? std::sqrt(squares) : std::hypot(f, g);
                e[i + 1] = r;
                if (r == 0) {  // the matrix falls apart here
                    d[i + 1] -= p;
                    e[m] = 0;
                    break;
                }
                s = f / r;
                c = g / r;
                g = d[i + 1] - p;
                r = (d[i] - g) * s + 2 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                rotation[0] = c;
                rotation[1] = s;
                rotation[2] = -s;
                rotation += 3;
            }
            rotations.keep(m, m - 1 - i);
            if (i >= l) continue;
            d[l] -= p;
            e[l] = g;
            e[m] = 0;
        }
    }
    return taken;
}

// e has a last entry, 0. q (ldq apart) is written in its first n columns.
int64_t solve_leaf(double* d, double* e, int64_t n, double* q, int64_t ldq, int64_t* order, int64_t most_steps) {
    Workspace scratch;
    double* const v = scratch.take_array<double>(n * n);
    std::fill_n(v, n * n, 0.0);
    for (int64_t i = 0; i < n; ++i) v[i * n + i] = 1;
    Rotations rotations(v, n);
    const int64_t taken = implicit_ql(d, e, n, most_steps, rotations);
    rotations.flush();
    for (int64_t i = 0; i < n; ++i) std::copy_n(v + i * n, n, q + i * ldq);
    std::iota(order, order + n, int64_t{0});
    std::stable_sort(order, order + n, [&](int64_t i, int64_t j) { return d[i] < d[j]; });
    return taken;
}

// Two neighbours: the rows of the first `half` vectors end with zeros, the others' begin with them.
class Merge {
public:
    Merge(double* d, int64_t half, int64_t size, double* q, int64_t ldq, int64_t* order)
        : d_(d), half_(half), size_(size), q_(q), ldq_(ldq), order_(order) {}
    // diag(T₁, T₂) + |beside| (… 0 1 ±1 0 …)ᵀ(… 0 1 ±1 0 …), the sign that of `beside`.
    int64_t run(double beside, int64_t most_steps);

private:
    enum Part : int64_t { upper, dense, lower };  // where a row is not zero
    void deflate(double beside);
    void group();
    int64_t solve(int64_t most_steps);
    void multiply();
    void reorder();

    double* d_;
    int64_t half_, size_;
    double* q_;
    int64_t ldq_;
    int64_t* order_;
    Workspace scratch_;
    double* poles_ = nullptr;  // of the kept vectors, ascending, and their z
    double* z_ = nullptr;
    int64_t* kept_ = nullptr;      // their rows
    int64_t* deflated_ = nullptr;  // the other rows
    Part* part_ = nullptr;         // of every row
    int64_t count_ = 0, dropped_ = 0;
    double rho_ = 0;
    int64_t parts_[3] = {};
    int64_t* place_ = nullptr;  // of a kept vector among those, part by part
    double* s_ = nullptr;       // count × lds
    int64_t lds_ = 0;
};

void Merge::deflate(double beside) {
    double* const z = scratch_.take_array<double>(size_);
    int64_t* const both = scratch_.take_array<int64_t>(size_);
    const int64_t lanes = size_ + secular_lanes;
    poles_ = scratch_.take_array<double>(lanes);
    z_ = scratch_.take_array<double>(lanes);
    kept_ = scratch_.take_array<int64_t>(size_);
    deflated_ = scratch_.take_array<int64_t>(size_);
    part_ = scratch_.take_array<Part>(size_);
    const double root = std::sqrt(0.5), signed_root = std::copysign(root, beside);
    rho_ = 2 * std::fabs(beside);
    double largest = 0;
    for (int64_t i = 0; i < size_; ++i) {
        part_[i] = i < half_ ? upper : lower;
        z[i] = i < half_ ? root * q_[i * ldq_ + half_ - 1] : signed_root * q_[i * ldq_ + half_];
        largest = std::max({largest, std::fabs(d_[i]), std::fabs(z[i])});
    }
    const double nothing = 4 * eps * largest;
    for (int64_t i = half_; i < size_; ++i) order_[i] += half_;
    const auto less = [&](int64_t i, int64_t j) { return d_[i] < d_[j]; };
    std::merge(order_, order_ + half_, order_ + half_, order_ + size_, both, less);
    std::copy_n(both, size_, order_);
    const auto keep = [&](int64_t row) {
        kept_[count_] = row;
        poles_[count_] = d_[row];
        z_[count_++] = z[row];
    };
    int64_t before = -1;
    for (int64_t k = 0; k < size_; ++k) {
        const int64_t row = both[k];
        if (rho_ * std::fabs(z[row]) <= nothing) {
            deflated_[dropped_++] = row;
            continue;
        }
        if (before >= 0) {
            const double length = std::sqrt(z[before] * z[before] + z[row] * z[row]), c = z[row] / length, s = z[before] / length;
            const double apart = d_[row] - d_[before];
            if (apart * std::fabs(c * s) <= nothing) {  // turned within its plane, one of the two has no z
                double* const x = q_ + before * ldq_;
                double* const y = q_ + row * ldq_;
                for (int64_t j = 0; j < size_; ++j) {
                    const double left = c * x[j] - s * y[j];
                    y[j] = s * x[j] + c * y[j];
                    x[j] = left;
                }
                const double share = apart * s * s;
                d_[before] += share;
                d_[row] -= share;
                z[row] = length;
                if (part_[before] != part_[row]) part_[row] = dense;
                deflated_[dropped_++] = before;
            } else {
                keep(before);
            }
        }
        before = row;
    }
    if (before >= 0) keep(before);
}

void Merge::group() {
    int64_t next[3] = {};
    for (int64_t i = 0; i < count_; ++i) ++parts_[part_[kept_[i]]];
    next[dense] = parts_[upper];
    next[lower] = parts_[upper] + parts_[dense];
    place_ = scratch_.take_array<int64_t>(count_);
    for (int64_t i = 0; i < count_; ++i) place_[i] = next[part_[kept_[i]]]++;
}

int64_t Merge::solve(int64_t most_steps) {
    lds_ = (count_ + secular_lanes - 1) / secular_lanes * secular_lanes;
    double* const base = scratch_.take_array<double>(count_);
    double* const tau = scratch_.take_array<double>(count_);
    double* const grouped_poles = scratch_.take_array<double>(lds_);
    double* const grouped_z = scratch_.take_array<double>(lds_);
    double* const exact = scratch_.take_array<double>(count_);
    s_ = scratch_.take_array<double>(count_ * lds_);
    SecularEquation problem{count_, rho_, 0, poles_, z_, base, tau};
    for (int64_t i = 0; i < count_; ++i) problem.squares += z_[i] * z_[i];
    for (int64_t i = count_; i < lds_; ++i) {
        poles_[i] = grouped_poles[i] = 4 * (std::fabs(poles_[0]) + std::fabs(poles_[count_ - 1]) + rho_);
        z_[i] = grouped_z[i] = 0;
    }
    const int64_t tasks = (count_ + roots_a_task - 1) / roots_a_task;
    auto* const steps = scratch_.take_array<int64_t>(tasks);
    std::fill_n(steps, tasks, int64_t{0});
    parallel_for(tasks, [&](int64_t task) {
        const int64_t first = task * roots_a_task, last = std::min(count_, first + roots_a_task);
        steps[task] = kernels().dense.secular_roots(problem, first, last, most_steps);
    });
    parallel_for(tasks, [&](int64_t task) {
        const int64_t first = task * roots_a_task, last = std::min(count_, first + roots_a_task);
        for (int64_t i = first; i < last; i += secular_lanes) kernels().dense.secular_weights(problem, i, exact);
    });
    for (int64_t i = 0; i < count_; ++i) {
        grouped_poles[place_[i]] = poles_[i];
        grouped_z[place_[i]] = exact[i];
    }
    const SecularEquation grouped{count_, rho_, problem.squares, grouped_poles, grouped_z, base, tau};
    parallel_for(tasks, [&](int64_t task) {
        const int64_t first = task * roots_a_task, last = std::min(count_, first + roots_a_task);
        kernels().dense.secular_vectors(grouped, first, last, s_, lds_);
    });
    for (int64_t i = 0; i < count_; ++i) poles_[i] = base[i] + tau[i];
    return *std::max_element(steps, steps + tasks);
}

// The kept rows become the new vectors, the deflated ones follow.
void Merge::multiply() {
    const int64_t left = parts_[upper] + parts_[dense], right = parts_[dense] + parts_[lower], rest = size_ - half_;
    double* const first = scratch_.take_array<double>(left * half_);
    double* const second = scratch_.take_array<double>(right * rest);
    double* const others = scratch_.take_array<double>(dropped_ * size_);
    double* const values = scratch_.take_array<double>(dropped_);
    for (int64_t i = 0; i < count_; ++i) {
        const double* const row = q_ + kept_[i] * ldq_;
        if (place_[i] < left) std::copy_n(row, half_, first + place_[i] * half_);
        if (place_[i] >= parts_[upper]) std::copy_n(row + half_, rest, second + (place_[i] - parts_[upper]) * rest);
    }
    for (int64_t i = 0; i < dropped_; ++i) {
        std::copy_n(q_ + deflated_[i] * ldq_, size_, others + i * size_);
        values[i] = d_[deflated_[i]];
    }
    const auto product = [&](int64_t columns, int64_t depth, const double* s, const double* rows, double* out) {
        if (depth > 0) {
            kernels().gemm.f64.product(count_, columns, depth, 1.0, s, lds_, rows, columns, 0.0, nullptr, 0, out, ldq_);
        } else {
            for (int64_t i = 0; i < count_; ++i) std::fill_n(out + i * ldq_, columns, 0.0);
        }
    };
    product(half_, left, s_, first, q_);
    product(rest, right, s_ + parts_[upper], second, q_ + half_);
    std::copy_n(poles_, count_, d_);
    for (int64_t i = 0; i < dropped_; ++i) std::copy_n(others + i * size_, size_, q_ + (count_ + i) * ldq_);
    std::copy_n(values, dropped_, d_ + count_);
}

void Merge::reorder() {
    int64_t* const rows = scratch_.take_array<int64_t>(size_);
    const auto less = [&](int64_t i, int64_t j) { return d_[i] < d_[j]; };
    std::iota(rows, rows + size_, int64_t{0});
    std::stable_sort(rows + count_, rows + size_, less);
    std::merge(rows, rows + count_, rows + count_, rows + size_, order_, less);
}

int64_t Merge::run(double beside, int64_t most_steps) {
    deflate(beside);
    if (count_ == 0) return 0;
    group();
    const int64_t taken = solve(most_steps);
    if (cancelled()) return most_steps + 1;
    multiply();
    reorder();
    return taken;
}

}  // namespace

int64_t tridiagonal_eigh(double* d, double* e, int64_t n, double* q, int64_t* order, int64_t most_steps) {
    Workspace scratch;
    std::fill_n(q, n * n, 0.0);
    double largest = 0;
    for (int64_t i = 0; i < n; ++i) largest = std::max({largest, std::fabs(d[i]), i + 1 < n ? std::fabs(e[i]) : 0.0});
    int exponent = 0;
    std::frexp(largest, &exponent);
    const auto scaled = [&](double x) {  // beside 1, what is smaller yet counts for nothing, but its squares vanish
        const double y = std::ldexp(x, -exponent);
        return std::fabs(y) > 1e-100 ? y : 0.0;
    };
    for (int64_t i = 0; i < n; ++i) {
        d[i] = scaled(d[i]);
        e[i] = i + 1 < n ? scaled(e[i]) : 0.0;
    }

    int64_t leaves = 1, taken = 0;
    while (leaves * leaf < n) leaves *= 2;
    const auto bound = [&](int64_t i) { return n * i / leaves; };
    double* const cuts = scratch.take_array<double>(leaves);
    auto* const steps = scratch.take_array<int64_t>(leaves);
    for (int64_t i = 1; i < leaves; ++i) {
        const int64_t k = bound(i);
        cuts[i] = e[k - 1];
        e[k - 1] = 0;
        d[k - 1] -= std::fabs(cuts[i]);
        d[k] -= std::fabs(cuts[i]);
    }
    parallel_for(leaves, [&](int64_t i) {
        const int64_t k = bound(i), size = bound(i + 1) - k;
        steps[i] = solve_leaf(d + k, e + k, size, q + k * n + k, n, order + k, most_steps);
    });
    if (cancelled()) return most_steps + 1;
    taken = *std::max_element(steps, steps + leaves);
    for (int64_t width = 1; width < leaves; width *= 2) {
        const int64_t merges = leaves / (2 * width);
        const auto merge = [&](int64_t i) {
            const int64_t middle = (2 * i + 1) * width, k = bound(middle - width), cut = bound(middle);
            Merge pair(d + k, cut - k, bound(middle + width) - k, q + k * n + k, n, order + k);
            steps[i] = pair.run(cuts[middle], most_steps);
        };
        if (merges >= 4) {
            parallel_for(merges, merge);
        } else {  // large ones, each on all threads
            for (int64_t i = 0; i < merges; ++i) merge(i);
        }
        if (poll_cancelled()) return most_steps + 1;
        taken = std::max(taken, *std::max_element(steps, steps + merges));
    }
    for (int64_t i = 0; i < n; ++i) d[i] = std::ldexp(d[i], exponent);
    return taken;
}

}  // namespace raphson
