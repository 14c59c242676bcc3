// What a limit on the entries of rows adds to a level: eased rows, their part of the Hessian, the choice among ties.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/threads.h"
#include "ot/eased.h"
#include "ot/quadratic.h"
#include "table.h"

namespace raphson {

// rows.v and rows.candidate hold `count` candidates, v relative to the highest; t is the threshold without a limit.
void QuadraticLevel::project_eased(std::int64_t i, Rows& rows, std::int64_t count, double highest, double t,
                                   double* sums, double* hard, bool keep) {
    const double z = reg * problem_.a[i];
    const double* v = rows.v.data();
    const std::int32_t* index = rows.candidate.data();
    rows.order.resize(static_cast<std::size_t>(count));
    std::iota(rows.order.begin(), rows.order.end(), std::int64_t(0));
    const auto before = [&](std::int64_t p, std::int64_t q) { return v[p] > v[q] || (v[p] == v[q] && p < q); };
    EasedRow row;
    double alone = 0;
    std::int64_t size = std::min(count, 2 * limit_ + 32);  // few lie below the k-th and have a part
    for (std::int64_t done = 0;; done = size, size = std::min(count, 4 * size)) {
        const auto begin = rows.order.begin();
        if (size < count) std::nth_element(begin + done, begin + size, rows.order.end(), before);
        std::sort(begin + done, begin + size, before);
        rows.sorted.resize(static_cast<std::size_t>(size));
        for (std::int64_t k = done; k < size; ++k) rows.sorted[k] = v[rows.order[k]];
        if (done == 0) alone = kernels().ot.simplex_threshold(rows.sorted.data(), limit_, z, -z);
        row = ease_row(rows.sorted.data(), size, limit_, z, ease, alone, t);
        if (row.whole + row.parts < size || size == count) break;
    }
    const double* u = rows.sorted.data();
    f[i] = -(highest + row.t);
    bar[i] = highest + row.t + row.beta;
    top_[i] = highest + row.t + row.beta / (1 - ease);
    beta_[i] = row.beta;
    highest_[i] = highest;
    whole_[i] = row.whole;
    double square = 0, linear = 0, half = 0, penalty_sum = 0;
    for (std::int64_t k = 0; k < row.whole + row.parts; ++k) {
        const double over = u[k] - row.t, p = k < row.whole ? over / reg : (over - row.beta) / (ease * reg);
        const std::int32_t j = index[rows.order[k]];
        sums[j] += p;
        square += p * p;
        linear += p * (g[j] - (u[k] + highest));
        half += 0.5 * p * over;
        penalty_sum += 0.5 * p * (k < row.whole ? over : row.beta / (1 - ease));
        ++rows.entries;
        if (keep) {
            rows.index.push_back(j);
            rows.value.push_back(u[k]);
        }
    }
    rows.squares += square;
    rows.cost += linear;
    rows.penalty += penalty_sum;
    rows.value_sum += half - f[i] * problem_.a[i];
    double of_hard = (highest + alone) * problem_.a[i];
    for (std::int64_t k = 0; k < limit_ && u[k] > alone; ++k) {
        const double p = (u[k] - alone) / reg;
        hard[index[rows.order[k]]] += p;
        of_hard += 0.5 * reg * p * p;
    }
    rows.hard_sum += of_hard;
}

// The Hessian of a row whose t and β are eliminated: weights in rows.v, 1 for whole entries and 1/σ for parts, less
// Wᵀ W/ΣW, less the second row that is written to rows.tied_…. Smoothed as the others: what lies within delta of the
// bar counts as a part, and σ as delta/β if that is more. Returns Σ over entries that scales the row to its mass.
double QuadraticLevel::weigh_eased(std::int64_t i, Rows& rows, std::int64_t count, double delta, double* sums) {
    const double beta = beta_[i], sigma = std::min(std::max(ease, delta / beta), 1.0);
    const double top = std::max(top_[i], bar[i] + delta);
    double total = 0, parts = 0;
    std::int64_t whole = 0;
    for (std::int64_t k = 0; k < count; ++k) {
        const double v = rows.v[k];
        if (v >= top) {
            total += v + f[i] + delta;
            rows.v[k] = 1;
            ++whole;
            continue;
        }
        const double weight = (v < bar[i] ? std::exp((v - bar[i]) / delta) : 1.0) / sigma;
        total += std::max(v - bar[i], 0.0) / sigma + weight * delta;
        parts += weight;
        rows.v[k] = -weight;
    }
    const double all = static_cast<double>(whole) + parts, scale = total > 0 ? reg * problem_.a[i] / total : 0;
    const double slots = static_cast<double>(std::max<std::int64_t>(limit_ - whole, 0)) / (1 - ease);
    const double curvature = scale * (parts * static_cast<double>(whole) / all + slots);
    const bool second = whole > 0 && parts > 0 && curvature > 0;
    tied_inverse_[i] = second ? 1 / curvature : 0;
    for (std::int64_t k = 0; k < count; ++k) {
        const bool is_whole = rows.v[k] > 0;
        rows.v[k] = std::abs(rows.v[k]);
        if (!second) continue;
        const double c = scale * (is_whole ? parts / all : -rows.v[k] * static_cast<double>(whole) / all);
        rows.tied_index.push_back(rows.candidate[k]);
        rows.tied_value.push_back(c);
        sums[3 * rows.candidate[k] + 1] += c * c * tied_inverse_[i];
    }
    return total;
}

void QuadraticLevel::settle(double tie, SparseResult& plan) {
    ease = tie;
    SparseResult tied;  // whole entries, then parts; v relative to the row's highest
    pass(&tied);
    ease = 0;
    const auto begin_of = [&](std::int64_t i) { return i == 0 ? 0 : tied.row_end[i - 1]; };
    struct Choice {
        std::int64_t row, begin, slots, count;  // the first `slots` of `count` parts are in the plan
        double weight;
    };
    std::vector<Choice> choices;
    std::fill(columns.begin(), columns.end(), 0.0);
    const auto threshold = [&](std::int64_t i, std::int64_t first, std::int64_t last) {
        const double z = reg * problem_.a[i];
        return kernels().ot.simplex_threshold(tied.value.data() + first, last - first, z, -z);
    };
    for (std::int64_t i = 0; i < problem_.n; ++i) {
        if (!(problem_.a[i] > 0)) continue;
        const std::int64_t first = begin_of(i), last = tied.row_end[i];
        const std::int64_t kept = beta_[i] > 0 ? std::min(first + limit_, last) : last;
        const double t = threshold(i, first, kept);
        for (std::int64_t k = first; k < kept; ++k) columns[tied.index[k]] += std::max(tied.value[k] - t, 0.0) / reg;
        const std::int64_t parts = first + whole_[i];
        if (beta_[i] > 0 && kept > parts && last > kept) {
            choices.push_back({i, parts, kept - parts, last - parts, std::max(tied.value[kept - 1] - t, 0.0) / reg});
        }
    }
    // Swaps that lower first the sum of squares of what the columns lack, which has no plateaus, then that of absolute
    // values.
    for (const bool squares_first : {true, false}) {
        bool swapped = true;
        for (int sweep = 0; swapped && sweep < 100; ++sweep) {
            swapped = false;
            poll_or_throw();
            for (const Choice& choice : choices) {
                const double w = choice.weight;
                for (std::int64_t in = choice.begin; in < choice.begin + choice.slots; ++in) {
                    const std::int32_t from = tied.index[in];
                    const double excess = columns[from] - problem_.b[from];
                    const double gain = squares_first ? excess - w : std::abs(excess) - std::abs(excess - w);
                    std::int64_t best = -1;
                    double least = gain - 1e-12 * w;
                    for (std::int64_t out = choice.begin + choice.slots; out < choice.begin + choice.count; ++out) {
                        const std::int32_t to = tied.index[out];
                        const double lack = columns[to] - problem_.b[to];
                        const double loss = squares_first ? lack : std::abs(lack + w) - std::abs(lack);
                        if (!(loss < least)) continue;
                        least = loss;
                        best = out;
                    }
                    if (best < 0) continue;
                    columns[from] -= w;
                    columns[tied.index[best]] += w;
                    std::swap(tied.index[in], tied.index[best]);
                    std::swap(tied.value[in], tied.value[best]);
                    swapped = true;
                }
            }
        }
    }
    std::fill(columns.begin(), columns.end(), 0.0);
    value = cost = squares = error = 0;
    entries = 0;
    std::vector<std::pair<std::int32_t, double>> row;
    for (std::int64_t i = 0; i < problem_.n; ++i) {
        const std::int64_t first = begin_of(i), last = tied.row_end[i];
        if (problem_.a[i] > 0) {
            const std::int64_t kept = beta_[i] > 0 ? std::min(first + limit_, last) : last;
            const double t = threshold(i, first, kept);
            f[i] = -(highest_[i] + t);
            row.clear();
            for (std::int64_t k = first; k < kept; ++k) {
                if (tied.value[k] > t) row.emplace_back(tied.index[k], tied.value[k]);
            }
            std::sort(row.begin(), row.end());
            double square = 0;
            for (const auto& [j, v] : row) {
                const double p = (v - t) / reg;
                plan.index.push_back(j);
                plan.value.push_back(p);
                columns[j] += p;
                square += p * p;
                cost += p * (g[j] - (v + highest_[i]));
            }
            squares += square;
            value += 0.5 * reg * square - f[i] * problem_.a[i];
        }
        plan.row_end.push_back(static_cast<std::int64_t>(plan.index.size()));
    }
    entries = static_cast<std::int64_t>(plan.index.size());
    penalty = 0.5 * reg * squares;
    for (std::int64_t j = 0; j < problem_.m; ++j) {
        if (!(problem_.b[j] > 0)) continue;
        error += std::abs(columns[j] - problem_.b[j]);
        value -= problem_.b[j] * g[j];
    }
}

}  // namespace raphson
