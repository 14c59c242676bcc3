// The driver of the matrix iterations on a CUDA device: what newton_schulz.cpp and iterate.cpp do on the CPU, for batches
// of equal shape, without a look at any number in between.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/copy.h"
#include "newton_schulz/device_passes.h"
#include "newton_schulz/orthogonalize.h"
#include "newton_schulz/resident.h"

namespace raphson::cuda {
namespace {

// Matrices of one shape, with one plan, out of one or several arrays.
struct Group {
    const OrthogonalizePlan* plan;
    int64_t rows, cols;  // the wide way round
    std::vector<const OrthogonalizeItem*> items;
};

// Arrays of one layout, with one plan: a launch, if their matrices are small.
struct Small {
    const OrthogonalizePlan* plan;
    ResidentArrays arrays;
    std::vector<const OrthogonalizeItem*> items;
};

class Iteration {
public:
    Iteration(const OrthogonalizePlan& plan, double eps, int64_t m, int64_t n, int64_t count, Scratch& scratch)
        : plan_(plan), eps_(eps), scratch_(scratch) {
        x_ = working(m, n, count);
        y_ = working(m, n, count);
        const int squares = plan.method == Method::gram ? 5 : 2;
        for (int i = 0; i < squares; ++i) square_[i] = working(m, m, count);
    }

    const Working& input() const { return x_; }
    const Working& run() { return plan_.method == Method::gram ? gram() : standard(); }

    static int64_t bytes(const OrthogonalizePlan& plan, int64_t m, int64_t n) {
        return (2 * m * padded(n) + (plan.method == Method::gram ? 5 : 2) * m * padded(m)) * itemsize(plan.precision);
    }

private:
    Working working(int64_t rows, int64_t cols, int64_t count) const {
        return take_padded(scratch_, plan_.precision, rows, cols, count);
    }
    void gram_matrix(const Working& x, const Working& a) const {
        multiply(1, x, x, Right::symmetric, 0, nullptr, a, scratch_.place());
    }
    // The product of two symmetric matrices that commute is symmetric.
    void symmetric(double alpha, const Working& a, const Working& b, double beta, const Working& c, const Working& d) const {
        multiply(alpha, a, b, Right::symmetric, beta, &c, d, scratch_.place());
    }
    void apply(double alpha, const Working& q, const Working& x, double beta, const Working* c, const Working& y) const {
        multiply(alpha, q, x, Right::as_is, beta, c, y, scratch_.place());
    }
    void normalize(const Working& x, const Working& a) const {
        if (plan_.normalize == Normalize::frobenius) return;  // done at load
        rescale(x, a, plan_.normalize == Normalize::aol, plan_.norm_factor, eps_, scratch_);
    }

    const Working& standard() {
        for (std::size_t t = 0; t < plan_.steps.size(); ++t) {
            const Step& step = plan_.steps[t];
            gram_matrix(x_, square_[0]);
            if (t == 0) normalize(x_, square_[0]);
            if (step.c != 0) {
                symmetric(step.c, square_[0], square_[0], step.b, square_[0], square_[1]);
                apply(1, square_[1], x_, step.a, &x_, y_);
            } else {
                apply(step.b, square_[0], x_, step.a, &x_, y_);
            }
            std::swap(x_, y_);
        }
        return x_;
    }

    // See iterate.cpp.
    const Working& gram() {
        Working &r = square_[0], &z = square_[1], &q = square_[2], &spare = square_[3], &t = square_[4];
        const std::size_t count = plan_.steps.size();
        for (std::size_t i = 0; i < count; ++i) {
            const Step& step = plan_.steps[i];
            const bool fresh = gram_restarts_before(i);
            if (fresh && i > 0) {
                apply(1, q, x_, 0, nullptr, y_);
                std::swap(x_, y_);
            }
            if (fresh) gram_matrix(x_, r);
            if (i == 0) normalize(x_, r);
            symmetric(step.c, r, r, step.b, r, z);
            if (fresh) {
                add_diagonal(z, step.a, q, scratch_.place());
            } else {
                symmetric(1, q, z, step.a, q, spare);
                std::swap(q, spare);
            }
            if (i + 1 < count && !gram_restarts_before(i + 1)) {
                symmetric(1, r, z, step.a, r, t);
                symmetric(1, z, t, step.a, t, r);
            }
        }
        apply(1, q, x_, 0, nullptr, y_);
        return y_;
    }

    const OrthogonalizePlan& plan_;
    double eps_;
    Scratch& scratch_;
    Working x_{}, y_{}, square_[5]{};
};

// What the matrices first … first+count-1 of a group are, array by array.
template <class F>
void for_arrays(const Group& group, int64_t first, int64_t count, F&& f) {
    int64_t before = 0;
    for (const OrthogonalizeItem* item : group.items) {
        const int64_t here = item->x.count(), from = std::max(first, before), to = std::min(first + count, before + here);
        if (from < to) f(*item, from - before, to - from, from - first);
        before += here;
    }
}

void iterate(const Group& group, const OrthogonalizeOptions& options, CudaPlace place) {
    int64_t total = 0;
    for (const OrthogonalizeItem* item : group.items) total += item->x.count();
    const OrthogonalizePlan& plan = *group.plan;
    const int64_t at_once = std::clamp<int64_t>(scratch_bytes / std::max<int64_t>(Iteration::bytes(plan, group.rows, group.cols), 1), 1, total);
    const double factor = plan.normalize == Normalize::frobenius ? plan.norm_factor : 1;
    for (int64_t first = 0; first < total; first += at_once) {
        const int64_t count = std::min(at_once, total - first);
        Scratch scratch(place);
        auto* norms = scratch.take_array<DeviceNorm>(count);
        Iteration iteration(plan, options.eps, group.rows, group.cols, count, scratch);
        for_arrays(group, first, count, [&](const OrthogonalizeItem& item, int64_t from, int64_t matrices, int64_t at) {
            const DeviceBatch x(item.x, plan.transposed);
            scan(x, from, matrices, factor, options.eps, norms + at, scratch);
            load(x, from, norms + at, iteration.input().part(at, matrices), place);
        });
        const Working& result = iteration.run();
        for_arrays(group, first, count, [&](const OrthogonalizeItem& item, int64_t from, int64_t matrices, int64_t at) {
            store(result.part(at, matrices), DeviceBatch(item.out, plan.transposed), from, place);
        });
    }
}

// std::invalid_argument if a matrix holds NaN or Inf. Waits for the device.
void check_finite(const OrthogonalizeItem* items, std::size_t arrays, CudaPlace place) {
    for (std::size_t i = 0; i < arrays; ++i) {
        const DeviceBatch x(items[i].x, false);
        const std::vector<DeviceNorm> here = read_norms(x, "orthogonalize: reading the norms", place);
        for (std::size_t k = 0; k < here.size(); ++k) {
            if (std::isfinite(here[k].sum_squares)) continue;
            throw std::invalid_argument("orthogonalize: x contains NaN or Inf" +
                                        (arrays > 1 ? " (array " + std::to_string(i) + " of the list)" : "") +
                                        which_matrix(static_cast<int64_t>(k), x.count));
        }
    }
}

bool same_steps(const OrthogonalizePlan& a, const OrthogonalizePlan& b) {
    return std::equal(a.steps.begin(), a.steps.end(), b.steps.begin(), b.steps.end(),
                      [](const Step& s, const Step& t) { return s.a == t.a && s.b == t.b && s.c == t.c; });
}

}  // namespace

void orthogonalize(const OrthogonalizeItem* items, std::size_t count, const OrthogonalizeOptions& options, CudaPlace place) {
    const DeviceGuard guard(place.device);
    if (options.check_finite) check_finite(items, count, place);
    // Plans of one call differ by shape alone, `root`'s table included.
    const auto alike = [](const OrthogonalizePlan& a, const OrthogonalizePlan& b) {
        return a.precision == b.precision && a.method == b.method && a.transposed == b.transposed && same_steps(a, b);
    };
    std::vector<Small> small;
    for (std::size_t i = 0; i < count; ++i) {
        const OrthogonalizeItem& item = items[i];
        if (item.x.rows() == 0 || item.x.cols() == 0 || item.x.count() == 0) continue;
        const DeviceBatch x(item.x, item.plan->transposed), out(item.out, item.plan->transposed);
        bool taken = false;
        for (auto one = small.rbegin(); one != small.rend() && !taken; ++one) {  // from the last on: those before may be full
            taken = alike(*one->plan, *item.plan) && one->arrays.add(x, out);
            if (taken) one->items.push_back(&item);
        }
        if (!taken) {
            small.push_back({item.plan, ResidentArrays(x, out), {}});
            small.back().arrays.add(x, out);
            small.back().items.push_back(&item);
        }
    }
    std::vector<Group> groups;
    for (const Small& one : small) {
        const OrthogonalizePlan& plan = *one.plan;
        if (resident(one.arrays, plan, options.eps, place) || resident_wide(one.arrays, plan, options.eps, place) ||
            resident_float(one.arrays, plan, options.eps, place)) {
            continue;
        }
        const int64_t rows = one.arrays.x.rows, cols = one.arrays.x.cols;
        const auto fits = [&](const Group& group) {
            return group.rows == rows && group.cols == cols && alike(*group.plan, plan);
        };
        auto found = std::find_if(groups.begin(), groups.end(), fits);
        if (found == groups.end()) found = groups.insert(groups.end(), Group{one.plan, rows, cols, {}});
        found->items.insert(found->items.end(), one.items.begin(), one.items.end());
    }
    for (const Group& group : groups) iterate(group, options, place);
}

}  // namespace raphson::cuda
