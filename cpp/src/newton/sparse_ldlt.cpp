#include "newton/sparse_ldlt.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/threads.h"
#include "common/workspace.h"
#include "table.h"

namespace raphson {
namespace {

using std::int32_t;
using std::int64_t;

constexpr double pivot_threshold = 0.01;  // MA57's

template <class T>
T& at(std::vector<T>& v, int64_t i) {
    return v[static_cast<std::size_t>(i)];
}
template <class T>
const T& at(const std::vector<T>& v, int64_t i) {
    return v[static_cast<std::size_t>(i)];
}

// The pattern's compressed columns from its compressed rows.
void by_columns(int64_t n, const std::vector<int64_t>& starts, const std::vector<int32_t>& index, std::vector<int64_t>& column_starts,
                std::vector<int32_t>& row) {
    column_starts.assign(static_cast<std::size_t>(n + 1), 0);
    row.resize(index.size());
    for (const int32_t j : index) ++at(column_starts, j + 1);
    std::partial_sum(column_starts.begin(), column_starts.end(), column_starts.begin());
    std::vector<int64_t> next(column_starts.begin(), column_starts.end() - 1);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t p = at(starts, i); p < at(starts, i + 1); ++p) {
            at(row, at(next, at(index, p))++) = static_cast<int32_t>(i);
        }
    }
}

}  // namespace

void SparseLdlt::analyze(int64_t n, const int64_t* starts, const int32_t* index, const int32_t* partner) {
    n_ = n;
    find_order(starts, index, partner);
    find_tree(starts, index);
    find_fronts(partner);
}

// Minimum degree on the graph whose nodes are rows, or pairs of rows.
void SparseLdlt::find_order(const int64_t* starts, const int32_t* index, const int32_t* partner) {
    const int64_t n = n_;
    std::vector<int32_t> node(static_cast<std::size_t>(n), -1), first;
    for (int64_t i = 0; i < n; ++i) {
        if (at(node, i) != -1) continue;
        at(node, i) = static_cast<int32_t>(first.size());
        if (partner[i] >= 0) at(node, partner[i]) = at(node, i);
        first.push_back(static_cast<int32_t>(i));
    }
    const auto nodes = static_cast<int64_t>(first.size());
    std::vector<int64_t> edge_starts(static_cast<std::size_t>(nodes + 1), 0);  // both directions, some twice
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t p = starts[i]; p < starts[i + 1]; ++p) {
            const int32_t a = at(node, i), b = at(node, index[p]);
            ++at(edge_starts, a + 1);
            if (a != b) ++at(edge_starts, b + 1);
        }
    }
    std::partial_sum(edge_starts.begin(), edge_starts.end(), edge_starts.begin());
    std::vector<int32_t> edges(static_cast<std::size_t>(at(edge_starts, nodes)));
    std::vector<int64_t> next(edge_starts.begin(), edge_starts.end() - 1);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t p = starts[i]; p < starts[i + 1]; ++p) {
            const int32_t a = at(node, i), b = at(node, index[p]);
            at(edges, at(next, a)++) = b;
            if (a != b) at(edges, at(next, b)++) = a;
        }
    }
    std::vector<int64_t> seen(static_cast<std::size_t>(nodes), -1), clean_starts(1, 0);
    int64_t kept = 0;
    for (int64_t a = 0; a < nodes; ++a) {
        for (int64_t p = at(edge_starts, a); p < at(edge_starts, a + 1); ++p) {
            const int32_t b = at(edges, p);
            if (at(seen, b) == a) continue;
            at(seen, b) = a;
            at(edges, kept++) = b;
        }
        std::sort(edges.begin() + clean_starts.back(), edges.begin() + kept);
        clean_starts.push_back(kept);
    }
    std::vector<int32_t> order(static_cast<std::size_t>(nodes));
    kernels().ordering.minimum_degree(nodes, clean_starts.data(), edges.data(), order.data());
    order_.clear();
    for (const int32_t a : order) {
        const int32_t i = at(first, a);
        order_.push_back(i);
        if (partner[i] >= 0) order_.push_back(partner[i]);
    }
}

// The permuted matrix, its elimination tree (Liu 1990) in postorder, and how many entries L's columns have.
void SparseLdlt::find_tree(const int64_t* starts, const int32_t* index) {
    const int64_t n = n_;
    std::vector<int32_t> where(static_cast<std::size_t>(n)), ancestor(static_cast<std::size_t>(n)), order = order_;
    for (int pass = 0; pass < 2; ++pass) {  // the second time in postorder
        for (int64_t k = 0; k < n; ++k) at(where, at(order_, k)) = static_cast<int32_t>(k);
        std::vector<int64_t> row_starts(static_cast<std::size_t>(n + 1), 0), from(static_cast<std::size_t>(starts[n]));
        std::vector<int32_t> columns(from.size());
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t p = starts[i]; p < starts[i + 1]; ++p) ++at(row_starts, std::min(at(where, i), at(where, index[p])) + 1);
        }
        std::partial_sum(row_starts.begin(), row_starts.end(), row_starts.begin());
        std::vector<int64_t> next(row_starts.begin(), row_starts.end() - 1);
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t p = starts[i]; p < starts[i + 1]; ++p) {
                const int32_t a = at(where, i), b = at(where, index[p]);
                const int64_t q = at(next, std::min(a, b))++;
                at(columns, q) = std::max(a, b);
                at(from, q) = p;
            }
        }
        lower_starts_ = std::move(row_starts);  // row k of the upper triangle is column k of the lower one
        lower_index_ = std::move(columns);
        lower_from_ = std::move(from);
        by_columns(n, lower_starts_, lower_index_, upper_starts_, upper_index_);
        parent_.assign(static_cast<std::size_t>(n), -1);
        std::fill(ancestor.begin(), ancestor.end(), -1);
        for (int64_t k = 0; k < n; ++k) {
            for (int64_t p = at(upper_starts_, k); p < at(upper_starts_, k + 1); ++p) {
                for (int32_t i = at(upper_index_, p); i != -1 && i < k;) {
                    const int32_t up = at(ancestor, i);
                    at(ancestor, i) = static_cast<int32_t>(k);
                    if (up == -1) at(parent_, i) = static_cast<int32_t>(k);
                    i = up;
                }
            }
        }
        if (pass == 1) break;
        std::vector<int32_t> head(static_cast<std::size_t>(n), -1), sibling(static_cast<std::size_t>(n), -1), stack, post;
        for (int64_t k = n - 1; k >= 0; --k) {
            const int32_t up = at(parent_, k);
            if (up == -1) continue;
            at(sibling, k) = at(head, up);
            at(head, up) = static_cast<int32_t>(k);
        }
        post.reserve(static_cast<std::size_t>(n));
        for (int64_t root = 0; root < n; ++root) {
            if (at(parent_, root) != -1) continue;
            stack.push_back(static_cast<int32_t>(root));
            while (!stack.empty()) {
                const int32_t k = stack.back(), child = at(head, k);
                if (child == -1) {
                    post.push_back(k);
                    stack.pop_back();
                } else {
                    at(head, k) = at(sibling, child);
                    stack.push_back(child);
                }
            }
        }
        for (int64_t k = 0; k < n; ++k) at(order_, k) = at(order, at(post, k));
    }
    counts_.assign(static_cast<std::size_t>(n), 1);
    std::vector<int64_t> seen(static_cast<std::size_t>(n), -1);
    for (int64_t k = 0; k < n; ++k) {
        at(seen, k) = k;
        for (int64_t p = at(upper_starts_, k); p < at(upper_starts_, k + 1); ++p) {
            for (int32_t i = at(upper_index_, p); at(seen, i) != k; i = at(parent_, i)) {
                ++at(counts_, i);
                at(seen, i) = k;
            }
        }
    }
}

// Neighbouring columns whose structures agree, or nearly, become one front: a few zeros are cheaper than a small product.
void SparseLdlt::find_fronts(const int32_t* partner) {
    const int64_t n = n_;
    struct Front {
        int64_t first, width, rows, zeros;
    };
    std::vector<Front> found;
    for (int64_t k = 0; k < n; ++k) {
        Front here{k, 1, at(counts_, k), 0};
        while (!found.empty()) {  // may the front before, whose parent this is, join?
            const Front& child = found.back();
            if (at(parent_, here.first - 1) != here.first) break;
            const int64_t width = child.width + here.width, rows = child.width + here.rows;
            const int64_t zeros = child.zeros + here.zeros + child.width * (rows - child.rows);
            const double share = static_cast<double>(zeros) / static_cast<double>(width * rows);
            const bool pair = partner[at(order_, here.first - 1)] == at(order_, here.first);
            const bool join = pair || zeros == 0 || (width <= 8 && share < 0.5) || (width <= 24 && share < 0.2) || share < 0.05;
            if (!join) break;
            here = {child.first, width, rows, zeros};
            found.pop_back();
        }
        found.push_back(here);
    }
    const auto count = static_cast<int64_t>(found.size());
    first_.assign(1, 0);
    row_starts_.assign(1, 0);
    front_parent_.assign(static_cast<std::size_t>(count), -1);
    children_.assign(static_cast<std::size_t>(count), 0);
    rows_.clear();
    std::vector<int64_t> front_of(static_cast<std::size_t>(n)), seen(static_cast<std::size_t>(n), -1);
    std::vector<std::vector<int64_t>> below(static_cast<std::size_t>(count));
    for (int64_t s = 0; s < count; ++s) {
        for (int64_t k = 0; k < at(found, s).width; ++k) at(front_of, at(found, s).first + k) = s;
    }
    for (int64_t s = 0; s < count; ++s) {
        const Front& f = at(found, s);
        const int64_t end = f.first + f.width;
        first_.push_back(end);
        const auto begin = static_cast<int64_t>(rows_.size());
        const auto take = [&](int32_t row) {
            if (row < end || at(seen, row) == s) return;
            at(seen, row) = s;
            rows_.push_back(row);
        };
        for (int64_t k = f.first; k < end; ++k) rows_.push_back(static_cast<int32_t>(k));
        for (int64_t k = f.first; k < end; ++k) {
            for (int64_t p = at(lower_starts_, k); p < at(lower_starts_, k + 1); ++p) take(at(lower_index_, p));
        }
        for (const int64_t child : at(below, s)) {
            for (int64_t p = at(row_starts_, child) + width(child); p < at(row_starts_, child + 1); ++p) take(at(rows_, p));
        }
        std::sort(rows_.begin() + begin + f.width, rows_.end());
        row_starts_.push_back(static_cast<int64_t>(rows_.size()));
        const int32_t up = at(parent_, end - 1);
        if (up == -1) continue;
        const int64_t above = at(front_of, up);
        at(front_parent_, s) = above;
        ++at(children_, above);
        at(below, above).push_back(s);
    }
}

// What a front leaves to the one above: the Schur complement (upper triangle), its waiting columns first.
struct SparseLdlt::Update {
    std::vector<int32_t> rows;
    int64_t waiting = 0;
    std::vector<double> values;
};

void SparseLdlt::factor(const double* values, double zero) {
    double largest = 0;
    for (int64_t p = 0; p < static_cast<int64_t>(lower_from_.size()); ++p) largest = std::fmax(largest, std::fabs(values[p]));
    signs_ = {};
    pivot_starts_.assign(1, 0);
    factor_starts_.assign(1, 0);
    panel_starts_.assign(1, 0);
    factor_rows_.clear();
    panels_.clear();
    d_.resize(static_cast<std::size_t>(n_));
    e_.resize(static_cast<std::size_t>(n_));
    std::vector<int32_t> position(static_cast<std::size_t>(n_)), rows, permuted;
    std::vector<int64_t> order;
    std::vector<Update> updates;
    std::vector<double> front;
    for (int64_t s = 0; s < fronts(); ++s) {
        poll_or_throw();
        const int64_t begin = at(row_starts_, s), own = width(s);
        const auto first_child = static_cast<std::ptrdiff_t>(updates.size()) - static_cast<std::ptrdiff_t>(at(children_, s));
        rows.assign(rows_.begin() + begin, rows_.begin() + begin + own);
        for (auto child = updates.begin() + first_child; child != updates.end(); ++child) {
            rows.insert(rows.end(), child->rows.begin(), child->rows.begin() + child->waiting);
        }
        const auto count = static_cast<int64_t>(rows.size());
        rows.insert(rows.end(), rows_.begin() + begin + own, rows_.begin() + at(row_starts_, s + 1));
        const auto size = static_cast<int64_t>(rows.size());
        for (int64_t i = 0; i < size; ++i) at(position, at(rows, i)) = static_cast<int32_t>(i);
        front.assign(static_cast<std::size_t>(size * size), 0.0);
        const auto entry = [&](int64_t i, int64_t j) -> double& { return front[static_cast<std::size_t>(i < j ? i * size + j : j * size + i)]; };
        for (int64_t k = 0; k < own; ++k) {
            const int64_t column = at(first_, s) + k;
            for (int64_t p = at(lower_starts_, column); p < at(lower_starts_, column + 1); ++p) {
                entry(k, at(position, at(lower_index_, p))) += values[at(lower_from_, p)];
            }
        }
        for (auto child = updates.begin() + first_child; child != updates.end(); ++child) {
            const auto left = static_cast<int64_t>(child->rows.size());
            for (int64_t i = 0; i < left; ++i) {
                const int64_t here = at(position, at(child->rows, i));
                const double* const row = child->values.data() + i * left;
                for (int64_t j = i; j < left; ++j) entry(here, at(position, at(child->rows, j))) += row[j];
            }
        }
        updates.erase(updates.begin() + first_child, updates.end());
        PivotedColumns columns;
        columns.a = front.data();
        columns.lda = columns.n = size;
        columns.count = count;
        columns.zero = zero * largest;
        columns.threshold = pivot_threshold;
        columns.d = d_.data() + pivot_starts_.back();
        columns.e = e_.data() + pivot_starts_.back();
        order.resize(static_cast<std::size_t>(count));
        std::iota(order.begin(), order.end(), int64_t{0});
        columns.order = order.data();
        columns.factor();
        signs_.positive += columns.signs.positive;
        signs_.negative += columns.signs.negative;
        signs_.zero += columns.signs.zero;
        permuted = rows;
        for (int64_t k = 0; k < count; ++k) at(permuted, k) = at(rows, at(order, k));
        const int64_t done = columns.done, left = size - done;
        factor_rows_.insert(factor_rows_.end(), permuted.begin(), permuted.end());
        panels_.insert(panels_.end(), front.begin(), front.begin() + done * size);
        pivot_starts_.push_back(pivot_starts_.back() + done);
        factor_starts_.push_back(static_cast<int64_t>(factor_rows_.size()));
        panel_starts_.push_back(static_cast<int64_t>(panels_.size()));
        if (at(front_parent_, s) == -1) continue;
        Update update;
        update.rows.assign(permuted.begin() + done, permuted.end());
        update.waiting = count - done;
        update.values.resize(static_cast<std::size_t>(left * left));
        for (int64_t i = 0; i < left; ++i) {
            const double* const row = front.data() + (done + i) * size + done;
            std::copy(row + i, row + left, update.values.data() + i * left + i);
        }
        updates.push_back(std::move(update));
    }
}

void SparseLdlt::solve(double* x) const {
    const DenseTable& pass = kernels().dense;
    Workspace scratch;
    double* const y = scratch.take_array<double>(n_);
    double* const pivots = scratch.take_array<double>(n_);
    double* const part = scratch.take_array<double>(n_);
    for (int64_t k = 0; k < n_; ++k) y[k] = x[at(order_, k)];
    for (int64_t s = 0; s < fronts(); ++s) {
        const int64_t begin = at(factor_starts_, s), size = at(factor_starts_, s + 1) - begin, first = at(pivot_starts_, s);
        const int64_t count = at(pivot_starts_, s + 1) - first;
        const double* const panel = panels_.data() + at(panel_starts_, s);
        for (int64_t k = 0; k < count; ++k) part[k] = y[at(factor_rows_, begin + k)];
        std::fill(part + count, part + size, 0.0);
        pass.solve_triangle(panel, size, count, true, true, part);
        pass.subtract_rows(size - count, count, part, panel + count, size, part + count);
        for (int64_t i = count; i < size; ++i) y[at(factor_rows_, begin + i)] += part[i];
        std::copy(part, part + count, pivots + first);
    }
    solve_pivots(d_.data(), e_.data(), n_, pivots);
    backward(pivots, y);
    for (int64_t k = 0; k < n_; ++k) x[at(order_, k)] = y[k];
}

// y ← L⁻ᵀ of what belongs to the pivots.
void SparseLdlt::backward(double* pivots, double* y) const {
    const DenseTable& pass = kernels().dense;
    Workspace scratch;
    double* const part = scratch.take_array<double>(n_);
    double* const sums = scratch.take_array<double>(n_);
    for (int64_t s = fronts() - 1; s >= 0; --s) {
        const int64_t begin = at(factor_starts_, s), size = at(factor_starts_, s + 1) - begin, first = at(pivot_starts_, s);
        const int64_t count = at(pivot_starts_, s + 1) - first;
        const double* const panel = panels_.data() + at(panel_starts_, s);
        for (int64_t i = count; i < size; ++i) part[i] = y[at(factor_rows_, begin + i)];
        pass.dot_rows(size - count, count, panel + count, size, part + count, sums);
        for (int64_t k = 0; k < count; ++k) pivots[first + k] -= sums[k];
        pass.solve_triangle(panel, size, count, true, false, pivots + first);
        for (int64_t k = 0; k < count; ++k) y[at(factor_rows_, begin + k)] = pivots[first + k];
    }
}

double SparseLdlt::negative_direction(double* p) const {
    Workspace scratch;
    double* const pivots = scratch.take_array<double>(n_);
    double* const y = scratch.take_array<double>(n_);
    const double most = most_negative_pivot(d_.data(), e_.data(), n_, pivots);
    backward(pivots, y);
    for (int64_t k = 0; k < n_; ++k) p[at(order_, k)] = y[k];
    return most;
}

}  // namespace raphson
