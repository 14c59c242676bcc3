#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/threads.h"
#include "common/vector.h"
#include "ot/quadratic.h"
#include "table.h"

namespace raphson {
namespace {

constexpr double reach = 9;            // entries of H further than this many delta below the bar are left out: e⁻⁹
constexpr double most_weights = 0.35;  // of all entries
constexpr std::int64_t small_system = 20000, largest_factor = 1536;
constexpr int most_cg = 4000;
constexpr double flop = 0.05, entry = 2.0, column = 6.0;  // nanoseconds, as in host_level.cpp

CostBlock one_row(const CostBlock& tile, std::int64_t row) {
    CostBlock part = tile;
    part.data = static_cast<const char*>(tile.data) + row * tile.stride * itemsize(tile.type);
    part.rows = 1;
    return part;
}

}  // namespace

QuadraticLevel::QuadraticLevel(const TransportProblem& problem, std::int64_t cardinality)
    : reg(problem.reg), problem_(problem), tiles_(problem),
      cardinality_(cardinality > 0 && cardinality < problem.m ? cardinality : problem.m), limit_(cardinality_),
      padded_(ot_padded(problem.m)) {
    const auto rows = static_cast<std::size_t>(problem.n), cols = static_cast<std::size_t>(padded_);
    g.assign(cols, minus_infinity);
    for (std::int64_t j = 0; j < problem.m; ++j) g[j] = problem.b[j] > 0 ? 0 : minus_infinity;
    f.assign(rows, minus_infinity);
    bar.assign(rows, 0.0);
    columns.assign(cols, 0.0);
    blocks_.resize(static_cast<std::size_t>(tiles_.blocks()));
    partials_.assign(blocks_.size() * cols, 0.0);
    if (constrained()) {
        hard_partials_.assign(partials_.size(), 0.0);
        for (std::vector<double>* of_rows : {&top_, &beta_, &highest_, &tied_inverse_}) of_rows->assign(rows, 0.0);
        whole_.assign(rows, 0);
    }
    for (std::size_t k = 0; k < blocks_.size(); ++k) {
        const auto block = static_cast<std::int64_t>(k);
        blocks_[k].row_end.assign(static_cast<std::size_t>(tiles_.block_begin(block + 1) - tiles_.block_begin(block)), 0);
        blocks_[k].candidate.resize(cols + ot_padding);
        blocks_[k].v.resize(cols + ot_padding);
    }
}

// Threshold, entries and sums of one row. Values are taken relative to the row's largest, which keeps their digits.
void QuadraticLevel::project_row(const CostBlock& row, std::int64_t i, Rows& rows, double* sums, double* hard,
                                 bool keep) {
    const double z = reg * problem_.a[i];
    double peaks[ot_peaks];
    kernels().ot.row_peaks(row, g.data(), peaks);
    const double highest = *std::max_element(peaks, peaks + ot_peaks);
    for (double& peak : peaks) peak -= highest;
    // what fewer entries need is a lower threshold: a bound, and one rounding below it
    const double low = kernels().ot.simplex_threshold(peaks, ot_peaks, z, -z);
    const double bound = highest + low - 1e-14 * (std::abs(highest) + std::abs(low));
    double* v = rows.v.data();
    std::int32_t* index = rows.candidate.data();
    std::int64_t count = kernels().ot.row_above(row, g.data(), bound, index, v);
    for (std::int64_t k = 0; k < count; ++k) v[k] -= highest;
    double t = kernels().ot.simplex_threshold(v, count, z, std::min(low, 0.0));
    bar[i] = highest + t;
    if (hard != nullptr) {
        beta_[i] = 0;
        highest_[i] = highest;
        whole_[i] = -1;
    }
    if (count > limit_) {
        std::int64_t kept = 0;
        for (std::int64_t k = 0; k < count; ++k) kept += v[k] > t;
        if (kept > limit_ && hard != nullptr) return project_eased(i, rows, count, highest, t, sums, hard, keep);
        if (kept > limit_) {  // the largest of them, the first where several are equal
            std::vector<std::int64_t> order(static_cast<std::size_t>(count));
            std::iota(order.begin(), order.end(), std::int64_t(0));
            std::nth_element(order.begin(), order.begin() + (limit_ - 1), order.end(), [&](std::int64_t p, std::int64_t q) {
                return v[p] > v[q] || (v[p] == v[q] && p < q);
            });
            order.resize(static_cast<std::size_t>(limit_));
            std::sort(order.begin(), order.end());
            double least = 0;
            for (std::size_t k = 0; k < order.size(); ++k) {
                index[k] = index[order[k]];
                v[k] = v[order[k]];
                least = std::min(least, v[k]);
            }
            count = limit_;
            t = kernels().ot.simplex_threshold(v, count, z, -z);
            bar[i] = highest + least;
        }
    }
    f[i] = -(highest + t);
    double square = 0, cost_sum = 0;
    for (std::int64_t k = 0; k < count; ++k) {
        const double over = v[k] - t;
        if (!(over > 0)) continue;
        const double p = over / reg;
        sums[index[k]] += p;
        if (hard != nullptr) hard[index[k]] += p;
        square += p * p;
        cost_sum += p * (g[index[k]] - (v[k] + highest));
        ++rows.entries;
        if (keep) {
            rows.index.push_back(index[k]);
            rows.value.push_back(hard != nullptr ? v[k] : p);
        }
    }
    rows.squares += square;
    rows.cost += cost_sum;
    const double value_of_row = 0.5 * reg * square - f[i] * problem_.a[i];
    rows.value_sum += value_of_row;
    rows.hard_sum += value_of_row;
    rows.penalty += 0.5 * reg * square;
}

void QuadraticLevel::pass(SparseResult* plan) {
    std::fill(partials_.begin(), partials_.end(), 0.0);
    std::fill(hard_partials_.begin(), hard_partials_.end(), 0.0);
    const bool eased = ease > 0 && limit_ < problem_.m;
    for (Rows& rows : blocks_) {
        rows.index.clear();
        rows.value.clear();
        rows.value_sum = rows.cost = rows.squares = rows.penalty = rows.hard_sum = 0;
        rows.entries = 0;
    }
    tiles_.each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        Rows& rows = blocks_[block];
        for (std::int64_t r = 0; r < tile.rows; ++r) {
            const std::int64_t i = first + r;
            if (problem_.a[i] > 0) {
                project_row(one_row(tile, r), i, rows, partials_.data() + block * padded_,
                            eased ? hard_partials_.data() + block * padded_ : nullptr, plan != nullptr);
            }
            rows.row_end[i - tiles_.block_begin(block)] = static_cast<std::int64_t>(rows.index.size());
        }
    });
    std::fill(columns.begin(), columns.end(), 0.0);
    value = cost = squares = penalty = hard_value = 0;
    entries = 0;
    std::vector<double> hard(eased ? columns.size() : 0, 0.0);
    for (std::size_t k = 0; k < blocks_.size(); ++k) {
        const double* part = partials_.data() + k * columns.size();
        for (std::size_t j = 0; j < columns.size(); ++j) columns[j] += part[j];
        for (std::size_t j = 0; j < hard.size(); ++j) hard[j] += hard_partials_[k * columns.size() + j];
        value += blocks_[k].value_sum;
        cost += blocks_[k].cost;
        squares += blocks_[k].squares;
        penalty += blocks_[k].penalty;
        hard_value += blocks_[k].hard_sum;
        entries += blocks_[k].entries;
    }
    error = hard_error = 0;
    for (std::int64_t j = 0; j < problem_.m; ++j) {
        if (!(problem_.b[j] > 0)) continue;
        error += std::abs(columns[j] - problem_.b[j]);
        hard_error += eased ? std::abs(hard[j] - problem_.b[j]) : 0;
        value -= problem_.b[j] * g[j];
        hard_value -= problem_.b[j] * g[j];
    }
    if (!eased) hard_error = error;
    if (plan == nullptr) return;
    for (const Rows& rows : blocks_) {
        const auto before = static_cast<std::int64_t>(plan->index.size());
        for (std::int64_t end : rows.row_end) plan->row_end.push_back(before + end);
        plan->index.insert(plan->index.end(), rows.index.begin(), rows.index.end());
        plan->value.insert(plan->value.end(), rows.value.begin(), rows.value.end());
    }
}

void QuadraticLevel::lift() {
    std::vector<std::int64_t> groups;
    for (std::int64_t begin = 0; begin < problem_.m; begin += ot_padding) {
        bool starved = false;
        for (std::int64_t j = begin; j < std::min(begin + ot_padding, problem_.m); ++j) {
            starved = starved || (problem_.b[j] > 0 && columns[j] == 0);
        }
        if (starved) groups.push_back(begin);
    }
    if (groups.empty()) return;
    std::fill(partials_.begin(), partials_.end(), minus_infinity);
    std::vector<double> phi(bar.size());
    for (std::size_t i = 0; i < phi.size(); ++i) phi[i] = problem_.a[i] > 0 ? -bar[i] : minus_infinity;
    tiles_.each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        kernels().ot.column_max(tile, 1.0, phi.data() + first, groups.data(), static_cast<std::int64_t>(groups.size()),
                                partials_.data() + block * padded_);
    });
    for (std::int64_t j = 0; j < problem_.m; ++j) {
        if (!(problem_.b[j] > 0) || columns[j] != 0) continue;
        double highest = minus_infinity;
        for (std::size_t k = 0; k < blocks_.size(); ++k) highest = std::max(highest, partials_[k * columns.size() + j]);
        if (!(g[j] < -highest)) continue;
        value -= problem_.b[j] * (-highest - g[j]);
        hard_value -= problem_.b[j] * (-highest - g[j]);
        g[j] = -highest;
    }
}

PairList QuadraticLevel::near(double width, std::int64_t most) {
    for (Rows& rows : blocks_) {
        rows.index.clear();
        rows.value.clear();
    }
    const std::size_t fair = static_cast<std::size_t>(most);
    tiles_.each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        Rows& rows = blocks_[block];
        for (std::int64_t r = 0; r < tile.rows; ++r) {
            const std::int64_t i = first + r;
            if (problem_.a[i] > 0 && rows.index.size() <= fair) {
                const std::int64_t count = kernels().ot.row_above(one_row(tile, r), g.data(), bar[i] - width,
                                                                  rows.candidate.data(), rows.v.data());
                for (std::int64_t k = 0; k < count; ++k) {
                    rows.index.push_back(rows.candidate[k]);
                    rows.value.push_back(g[rows.candidate[k]] - rows.v[k]);
                }
            }
            rows.row_end[i - tiles_.block_begin(block)] = static_cast<std::int64_t>(rows.index.size());
        }
    });
    PairList pairs;
    for (const Rows& rows : blocks_) {
        const auto before = static_cast<std::int64_t>(pairs.index.size());
        for (std::int64_t end : rows.row_end) pairs.row_end.push_back(before + end);
        pairs.index.insert(pairs.index.end(), rows.index.begin(), rows.index.end());
        pairs.cost.insert(pairs.cost.end(), rows.value.begin(), rows.value.end());
    }
    if (pairs.index.size() > fair) return {};
    return pairs;
}

bool QuadraticLevel::collect(double delta) {
    const std::int64_t n = problem_.n, m = problem_.m;
    const auto cols = static_cast<std::size_t>(padded_);
    row_inverse_.assign(static_cast<std::size_t>(n), 0.0);
    scale_.assign(static_cast<std::size_t>(n), 0.0);
    const bool eased = ease > 0 && limit_ < m;
    if (eased) tied_inverse_.assign(static_cast<std::size_t>(n), 0.0);
    triples_.assign(3 * partials_.size(), 0.0);
    // the plan's own entries have to fit in any case
    const double share = std::max(most_weights * static_cast<double>(n) * static_cast<double>(m), 1.2 * static_cast<double>(entries)) + 4096;
    const auto room_of = [&](const Rows& rows) {
        const double fair = 2 * share / static_cast<double>(blocks_.size());
        return static_cast<std::size_t>(std::max(fair, 1.2 * static_cast<double>(rows.entries) + 64 + static_cast<double>(m)));
    };
    tiles_.each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        Rows& rows = blocks_[block];
        const std::size_t room = room_of(rows);
        if (first == tiles_.block_begin(block)) {
            rows.index.clear();
            rows.value.clear();
            rows.tied_index.clear();
            rows.tied_value.clear();
            rows.tied_end.assign(rows.row_end.size(), 0);
        }
        double* sums = triples_.data() + 3 * block * padded_;
        for (std::int64_t r = 0; r < tile.rows; ++r) {
            const std::int64_t i = first + r;
            if (problem_.a[i] > 0 && rows.index.size() < room) {
                const std::int64_t count =
                    kernels().ot.row_above(one_row(tile, r), g.data(), bar[i] - reach * delta, rows.candidate.data(), rows.v.data());
                const bool tied = eased && beta_[i] > 0;
                double total = 0, weight = 0;
                if (tied) total = weigh_eased(i, rows, count, delta, sums);
                for (std::int64_t k = 0; k < count; ++k) {
                    if (tied) {
                        weight += rows.v[k];
                        continue;
                    }
                    const double v = rows.v[k];
                    rows.v[k] = v < bar[i] ? std::exp((v - bar[i]) / delta) : 1.0;
                    total += rows.v[k] * (std::max(v + f[i], 0.0) + delta);
                    weight += rows.v[k];
                }
                const double s = total > 0 ? reg * problem_.a[i] / total : 0;
                const double row = s * (weight + (tied ? 0 : floor_ * static_cast<double>(m)));
                const double inverse = row > 0 ? 1 / row : 0, of_floor = tied ? 0 : s * inverse;
                const std::size_t at = rows.index.size();
                rows.index.insert(rows.index.end(), rows.candidate.begin(), rows.candidate.begin() + count);
                rows.value.resize(at + static_cast<std::size_t>(count));
                double* weights = rows.value.data() + at;
                for (std::int64_t k = 0; k < count; ++k) {  // W's column sums, W²'s for Jacobi, and those of the floor's shares
                    const double w = weights[k] = s * rows.v[k];
                    double* into = sums + 3 * rows.candidate[k];
                    into[0] += w;
                    into[1] += w * w * inverse;
                    into[2] += w * of_floor;
                }
                scale_[i] = s;
                row_inverse_[i] = inverse;
            }
            const std::int64_t local = i - tiles_.block_begin(block);
            rows.row_end[local] = static_cast<std::int64_t>(rows.index.size());
            rows.tied_end[local] = static_cast<std::int64_t>(rows.tied_index.size());
        }
    });
    weights_ = 0;
    bool fits = true;
    for (const Rows& rows : blocks_) {
        weights_ += static_cast<std::int64_t>(rows.index.size());
        fits = fits && rows.index.size() < room_of(rows);
    }
    if (!fits || static_cast<double>(weights_) > share) return false;
    double total = 0, mass = 0;
    lump_pp_ = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        total += scale_[i];
        // an eased row has the floor as one of its own
        const bool own = eased && beta_[i] > 0;
        lump_pp_ += own ? scale_[i] / (floor_ * static_cast<double>(m)) : scale_[i] * scale_[i] * row_inverse_[i];
    }
    for (double b : problem_.b) mass += b;
    spread_.assign(cols, 0.0);
    diagonal_.assign(cols, 0.0);
    for (std::int64_t j = 0; j < m; ++j) spread_[j] = problem_.b[j] * static_cast<double>(m) / mass;
    std::vector<double> square(cols, 0.0);
    lump_.assign(cols, 0.0);
    for (std::size_t k = 0; k < blocks_.size(); ++k) {
        const double* part = triples_.data() + 3 * k * cols;
        for (std::size_t j = 0; j < cols; ++j) {
            diagonal_[j] += part[3 * j];
            square[j] += part[3 * j + 1];
            lump_[j] += part[3 * j + 2];
        }
    }
    jacobi_.assign(cols, 0.0);
    for (std::size_t j = 0; j < cols; ++j) {
        diagonal_[j] += floor_ * spread_[j] * total;
        if (diagonal_[j] > 0) jacobi_[j] = 1 / std::max(diagonal_[j] - square[j], 1e-12 * diagonal_[j]);
    }
    return true;
}

// y = D x − (W + ε s b̂ᵀ)ᵀ R⁻¹ (W + ε s b̂ᵀ) x
void QuadraticLevel::apply(const double* x, double* y) {
    const auto cols = static_cast<std::size_t>(padded_);
    const std::int64_t blocks = tiles_.blocks();
    const bool together = weights_ < small_system;
    const auto work = [&](std::int64_t block) {
        const Rows& rows = blocks_[block];
        double* into = together ? y : partials_.data() + block * padded_;
        if (!together) std::fill(into, into + padded_, 0.0);
        const SparseRows part{rows.index.data(), rows.value.data(), rows.row_end.data(), static_cast<std::int64_t>(rows.row_end.size()),
                              problem_.m};
        kernels().ot.sparse_normal(part, x, row_inverse_.data() + tiles_.block_begin(block), into);
        if (rows.tied_index.empty()) return;
        const SparseRows second{rows.tied_index.data(), rows.tied_value.data(), rows.tied_end.data(),
                                static_cast<std::int64_t>(rows.tied_end.size()), problem_.m};
        kernels().ot.sparse_normal(second, x, tied_inverse_.data() + tiles_.block_begin(block), into);
    };
    if (together) {
        std::fill(y, y + cols, 0.0);
        for (std::int64_t block = 0; block < blocks; ++block) work(block);
    } else {
        parallel_for(blocks, work);
        throw_if_cancelled();
        std::copy(partials_.begin(), partials_.begin() + padded_, y);
        for (std::int64_t block = 1; block < blocks; ++block) {
            const double* part = partials_.data() + block * padded_;
            for (std::size_t j = 0; j < cols; ++j) y[j] += part[j];
        }
    }
    double bx = 0, ux = 0;
    for (std::size_t j = 0; j < cols; ++j) {
        bx += spread_[j] * x[j];
        ux += lump_[j] * x[j];
    }
    const double on_spread = floor_ * ux + floor_ * floor_ * lump_pp_ * bx, on_lump = floor_ * bx;
    for (std::size_t j = 0; j < cols; ++j) y[j] = diagonal_[j] * x[j] - y[j] - on_spread * spread_[j] - on_lump * lump_[j];
}

bool QuadraticLevel::factor() {
    const std::int64_t m = problem_.m;
    dense_.assign(static_cast<std::size_t>(m * m), 0.0);
    double weight = 0;
    for (double d : diagonal_) weight += d;
    constexpr std::int64_t stripe = 64;
    parallel_for((m + stripe - 1) / stripe, [&](std::int64_t task) {
        const std::int64_t begin = task * stripe, end = std::min(begin + stripe, m);
        for (std::int64_t j = begin; j < end; ++j) {  // the upper triangle by rows
            double* row = dense_.data() + j * m;
            const double by_lump = -floor_ * spread_[j], by_spread = -floor_ * lump_[j] - floor_ * floor_ * lump_pp_ * spread_[j];
            const double pinned = diagonal_[j] / weight;  // the null vector gets an eigenvalue of its own
            for (std::int64_t k = j; k < m; ++k) row[k] = by_lump * lump_[k] + by_spread * spread_[k] + pinned * diagonal_[k];
            row[j] += diagonal_[j] > 0 ? diagonal_[j] * (1 + 1e-13) : 1;
        }
        const auto subtract = [&](const std::vector<std::int32_t>& indices, const std::vector<double>& values,
                                  const std::vector<std::int64_t>& ends, const double* inverse) {
            const std::int32_t* index = indices.data();
            std::int64_t first = 0;
            for (std::int64_t last : ends) {
                std::int64_t p = std::lower_bound(index + first, index + last, begin) - index;
                for (; p < last && index[p] < end; ++p) {
                    double* row = dense_.data() + index[p] * m;
                    const double c = -values[p] * *inverse;
                    for (std::int64_t q = p; q < last; ++q) row[index[q]] += c * values[q];
                }
                first = last;
                ++inverse;
            }
        };
        for (std::size_t k = 0; k < blocks_.size(); ++k) {
            const Rows& rows = blocks_[k];
            const std::int64_t i = tiles_.block_begin(static_cast<std::int64_t>(k));
            subtract(rows.index, rows.value, rows.row_end, row_inverse_.data() + i);
            if (rows.tied_index.empty()) continue;
            subtract(rows.tied_index, rows.tied_value, rows.tied_end, tied_inverse_.data() + i);
        }
    });
    throw_if_cancelled();
    return kernels().ot.cholesky(dense_.data(), m);
}

bool QuadraticLevel::direction(double delta, double forcing, std::vector<double>& x) {
    const auto cols = static_cast<std::size_t>(padded_);
    double mass = 0;
    for (double a : problem_.a) mass += a;
    floor_ = 1e-4 * std::min(error / mass, 1.0);
    if (!collect(delta)) return false;
    std::vector<double> r(cols, 0.0), z(cols, 0.0), q(cols, 0.0);
    double sum = 0, weight = 0;
    for (std::int64_t j = 0; j < problem_.m; ++j) {
        if (diagonal_[j] > 0) r[j] = reg * (problem_.b[j] - columns[j]);
        sum += r[j];
        weight += diagonal_[j];
    }
    double left = 0;
    for (std::size_t j = 0; j < cols; ++j) {
        r[j] -= diagonal_[j] * (sum / weight);
        left += std::abs(r[j]);
    }
    const double target = forcing * left;
    x.assign(cols, 0.0);
    const double m = static_cast<double>(problem_.m);
    const double product = entry * static_cast<double>(weights_) + column * m;
    const double factoring = m * m * m / 3 * flop + static_cast<double>(weights_) * static_cast<double>(weights_) / static_cast<double>(problem_.n) + 2 * m * m;
    bool factored = problem_.m <= largest_factor && last_cg_ * product > factoring && factor();
    const bool may_factor = problem_.m <= largest_factor && !factored;
    const int most = may_factor ? std::clamp(static_cast<int>(factoring / product), 20, most_cg) : most_cg;
    int iterations = 0;
    const auto precondition = [&] {
        if (!factored) {
            for (std::size_t j = 0; j < cols; ++j) z[j] = jacobi_[j] * r[j];
            return;
        }
        std::copy(r.begin(), r.begin() + problem_.m, z.begin());
        kernels().ot.cholesky_solve(dense_.data(), problem_.m, z.data());
    };
    const auto iterate = [&](int limit) {
        precondition();
        std::vector<double> p = z;
        double rz = dot_by_four(r, z);
        for (int k = 0; left > target && k < limit; ++k) {
            apply(p.data(), q.data());
            const double curvature = dot_by_four(p, q);
            if (!(curvature > 0) || !(rz > 0)) break;
            const double alpha = rz / curvature;
            left = 0;
            for (std::size_t j = 0; j < cols; ++j) {
                x[j] += alpha * p[j];
                r[j] -= alpha * q[j];
                left += std::abs(r[j]);
            }
            ++iterations;
            precondition();
            const double next = dot_by_four(r, z), beta = next / rz;
            rz = next;
            for (std::size_t j = 0; j < cols; ++j) p[j] = z[j] + beta * p[j];
            if ((k & 15) == 15) poll_or_throw();
        }
    };
    iterate(factored ? 30 : most);
    cg_iterations += iterations;
    if (!factored) last_cg_ = iterations;
    if (may_factor && left > target && factor()) {
        factored = true;
        iterations = 0;
        iterate(30);
        cg_iterations += iterations;
        last_cg_ = most + 1;
    }
    return true;
}

}  // namespace raphson
