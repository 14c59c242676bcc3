#include <algorithm>
#include <cstdio>
#include <numeric>
#include <stdexcept>

#include "common/threads.h"
#include "ot/problem.h"
#include "table.h"

namespace raphson {
namespace {

[[noreturn]] void refuse(const std::string& function, const std::string& what) {
    throw std::invalid_argument(function + ": " + what);
}

std::string number(double x) {
    char text[40];
    std::snprintf(text, sizeof text, "%.10g", x);
    return text;
}

double entry(const CostBlock& cost, std::int64_t i, std::int64_t j) {
    if (cost.type == DType::float64) return static_cast<const double*>(cost.data)[i * cost.stride + j];
    return static_cast<double>(static_cast<const float*>(cost.data)[i * cost.stride + j]);
}

double check_weights(const std::string& function, const char* name, const std::vector<double>& weights) {
    double sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (!std::isfinite(weights[i])) refuse(function, std::string(name) + " has NaN or Inf at index " + std::to_string(i));
        if (weights[i] < 0) {
            refuse(function, std::string(name) + " must not be negative, got " + number(weights[i]) + " at index " + std::to_string(i));
        }
        sum += weights[i];
    }
    if (!(sum > 0)) refuse(function, std::string(name) + " has no mass: all its weights are zero");
    return sum;
}

class Components {
public:
    explicit Components(std::int64_t count) : parent_(static_cast<std::size_t>(count)) {
        std::iota(parent_.begin(), parent_.end(), 0);
    }
    std::int32_t root(std::int64_t at) {
        auto k = static_cast<std::int32_t>(at);
        while (parent_[k] != k) k = parent_[k] = parent_[parent_[k]];
        return k;
    }
    void join(std::int64_t p, std::int64_t q) { parent_[root(p)] = root(q); }

private:
    std::vector<std::int32_t> parent_;
};

void find_components(const std::string& function, TransportProblem& p, double mass_tolerance) {
    const std::int64_t n = p.n, m = p.m;
    Components graph(n + m);
    for (std::int64_t i = 0; i < n; ++i) {
        if (!(p.a[i] > 0)) continue;
        bool any = false;
        for (std::int64_t j = 0; j < m; ++j) {
            if (!(p.b[j] > 0) || std::isinf(entry(p.cost.dense, i, j))) continue;
            any = true;
            graph.join(i, n + j);
        }
        if (!any) {
            refuse(function, "infeasible: row " + std::to_string(i) + " has mass " + number(p.a[i]) +
                                 " but every pair it could use is forbidden (cost +Inf)");
        }
    }
    std::vector<std::int32_t> label(static_cast<std::size_t>(n + m), -1);
    p.row_component.assign(static_cast<std::size_t>(n), -1);
    p.column_component.assign(static_cast<std::size_t>(m), -1);
    p.components = 0;
    std::vector<double> left, right;
    const auto component = [&](std::int64_t node) {
        std::int32_t& known = label[graph.root(node)];
        if (known < 0) {
            known = p.components++;
            left.push_back(0);
            right.push_back(0);
        }
        return known;
    };
    for (std::int64_t i = 0; i < n; ++i) {
        if (p.a[i] > 0) left[p.row_component[i] = component(i)] += p.a[i];
    }
    for (std::int64_t j = 0; j < m; ++j) {
        if (!(p.b[j] > 0)) continue;
        const std::int32_t k = p.column_component[j] = component(n + j);
        right[k] += p.b[j];
    }
    for (std::int64_t j = 0; j < m; ++j) {
        if (p.b[j] > 0 && !(left[p.column_component[j]] > 0)) {
            refuse(function, "infeasible: column " + std::to_string(j) + " wants mass " + number(p.b[j]) +
                                 " but every pair that could bring it is forbidden (cost +Inf)");
        }
    }
    if (!p.balanced()) return;
    double mass = 0;
    for (double part : left) mass += part;
    for (std::int32_t k = 0; k < p.components; ++k) {
        if (std::abs(left[k] - right[k]) <= std::max(mass_tolerance, 1e-12) * mass) continue;
        std::int64_t row = 0;
        while (p.row_component[row] != k) ++row;
        refuse(function, "infeasible: the allowed pairs fall into " + std::to_string(p.components) +
                             " unconnected parts, and the one with row " + std::to_string(row) + " has mass " +
                             number(left[k]) + " in a but " + number(right[k]) + " in b");
    }
}

}  // namespace

void refuse_entry(const std::string& function, double entry, std::int64_t i, std::int64_t j) {
    refuse(function, std::string("cost has ") + (std::isnan(entry) ? "NaN" : "-Inf") + " at (" + std::to_string(i) + ", " +
                         std::to_string(j) + ")");
}

void require_finite_entry(const std::string& function, const CostFacts& facts) {
    if (!(facts.lowest <= facts.highest)) refuse(function, "infeasible: cost has no finite entry");
}

CostFacts scan_cost(const std::string& function, const TransportCost& cost, bool check_finite) {
    CostFacts facts;
    if (!cost.is_dense()) {  // bounds from the boxes around the points
        const PointBlock& p = cost.points;
        for (std::int64_t k = 0; k < p.dim; ++k) {
            double low_x = p.x[k], high_x = low_x, low_y = p.y[k * p.y_stride], high_y = low_y;
            for (std::int64_t i = 0; i < p.rows; ++i) {
                low_x = std::min(low_x, p.x[i * p.dim + k]);
                high_x = std::max(high_x, p.x[i * p.dim + k]);
            }
            for (std::int64_t j = 0; j < p.columns; ++j) {
                low_y = std::min(low_y, p.y[k * p.y_stride + j]);
                high_y = std::max(high_y, p.y[k * p.y_stride + j]);
            }
            const double reach = std::max(high_x - low_y, high_y - low_x);
            facts.highest += p.metric == Metric::cityblock ? reach : reach * reach;
        }
        if (p.metric == Metric::euclidean) facts.highest = std::sqrt(facts.highest);
        facts.highest *= p.scale;
        return facts;
    }
    constexpr std::int64_t rows_per_task = 64;
    const std::int64_t tasks = (cost.dense.rows + rows_per_task - 1) / rows_per_task;
    std::vector<CostScan> found(static_cast<std::size_t>(tasks));
    parallel_for(tasks, [&](std::int64_t task) {
        CostBlock part = cost.dense;
        const std::int64_t begin = task * rows_per_task;
        part.data = static_cast<const char*>(part.data) + begin * part.stride * itemsize(part.type);
        part.rows = std::min(rows_per_task, cost.dense.rows - begin);
        found[task] = kernels().ot.scan(part);
    });
    throw_if_cancelled();
    facts.lowest = std::numeric_limits<double>::infinity();
    facts.highest = minus_infinity;
    bool bad = false;
    for (const CostScan& part : found) {
        facts.lowest = std::min(facts.lowest, part.lowest);
        facts.highest = std::max(facts.highest, part.highest);
        facts.forbids = facts.forbids || part.forbids;
        bad = bad || part.bad;
    }
    if (bad && check_finite) {
        for (std::int64_t i = 0; i < cost.dense.rows; ++i) {
            for (std::int64_t j = 0; j < cost.dense.columns; ++j) {
                const double c = entry(cost.dense, i, j);
                if (std::isnan(c) || c == minus_infinity) refuse_entry(function, c, i, j);
            }
        }
    }
    require_finite_entry(function, facts);
    return facts;
}

TransportProblem make_problem(const std::string& function, const TransportCost& cost, const CostFacts& facts,
                              std::vector<double> a, std::vector<double> b, double reg, double rho_a, double rho_b,
                              double mass_tolerance) {
    TransportProblem p;
    p.n = cost.rows();
    p.m = cost.columns();
    p.cost = cost;
    const std::string shape = "(" + std::to_string(p.n) + ", " + std::to_string(p.m) + ")";
    if (p.n == 0 || p.m == 0) refuse(function, "cost must not be empty, got shape " + shape);
    if (p.n + p.m > std::numeric_limits<std::int32_t>::max()) refuse(function, "cost is too large: shape " + shape);
    if (static_cast<std::int64_t>(a.size()) != p.n) {
        refuse(function, "a must have shape (" + std::to_string(p.n) + ",) for a cost of shape " + shape + ", got (" +
                             std::to_string(a.size()) + ",)");
    }
    if (static_cast<std::int64_t>(b.size()) != p.m) {
        refuse(function, "b must have shape (" + std::to_string(p.m) + ",) for a cost of shape " + shape + ", got (" +
                             std::to_string(b.size()) + ",)");
    }
    if (!(reg > 0) || !std::isfinite(reg)) refuse(function, "reg must be positive and finite, got " + number(reg));
    if (!(rho_a > 0) || !(rho_b > 0)) {
        refuse(function, "unbalanced must be positive (Inf holds a marginal exactly), got " + number(rho_a) + " and " + number(rho_b));
    }
    const double mass_a = check_weights(function, "a", a), mass_b = check_weights(function, "b", b);
    p.reg = reg;
    p.rho_a = rho_a;
    p.rho_b = rho_b;
    p.lowest_cost = facts.lowest;
    p.highest_cost = facts.highest;
    p.forbids = facts.forbids;
    if (p.balanced() && mass_a != mass_b) {
        if (std::abs(mass_a - mass_b) > mass_tolerance * std::max(mass_a, mass_b)) {
            refuse(function, "a and b must have equal mass in the balanced form, got " + number(mass_a) + " and " +
                                 number(mass_b) + " (they differ by " + number(mass_a - mass_b) +
                                 "); scale one of them, or relax the marginals by unbalanced=");
        }
        for (double& value : b) value *= mass_a / mass_b;
    }
    p.a = std::move(a);
    p.b = std::move(b);
    if (p.forbids) find_components(function, p, mass_tolerance);
    return p;
}

bool proves_infeasible(const TransportProblem& p, const std::vector<double>& f, const std::vector<double>& g) {
    if (!p.forbids || !p.balanced() || !p.cost.is_dense()) return false;
    double mass = 0;
    for (double a : p.a) mass += a;
    // The potentials of starved columns, and of rows with too much mass, run away: look above the widest gaps.
    const auto judge = [&](const std::vector<double>& potential, bool columns) {
        std::vector<std::int64_t> order;
        for (std::size_t k = 0; k < potential.size(); ++k) {
            if (std::isfinite(potential[k])) order.push_back(static_cast<std::int64_t>(k));
        }
        std::sort(order.begin(), order.end(), [&](std::int64_t x, std::int64_t y) { return potential[x] > potential[y]; });
        std::vector<std::size_t> cuts(order.empty() ? 0 : order.size() - 1);
        std::iota(cuts.begin(), cuts.end(), std::size_t(1));
        const std::size_t most = std::min<std::size_t>(cuts.size(), 16);
        std::partial_sort(cuts.begin(), cuts.begin() + static_cast<std::ptrdiff_t>(most), cuts.end(), [&](std::size_t x, std::size_t y) {
            return potential[order[x - 1]] - potential[order[x]] > potential[order[y - 1]] - potential[order[y]];
        });
        for (std::size_t c = 0; c < most; ++c) {
            double wanted = 0, offered = 0;
            std::vector<char> inside(potential.size(), 0);
            for (std::size_t k = 0; k < cuts[c]; ++k) {
                inside[order[k]] = 1;
                wanted += columns ? p.b[order[k]] : p.a[order[k]];
            }
            for (std::int64_t other = 0; other < (columns ? p.n : p.m); ++other) {
                const double weight = columns ? p.a[other] : p.b[other];
                bool reaches = false;
                for (std::size_t k = 0; k < cuts[c] && !reaches && weight > 0; ++k) {
                    reaches = !std::isinf(columns ? entry(p.cost.dense, other, order[k]) : entry(p.cost.dense, order[k], other));
                }
                if (reaches) offered += weight;
            }
            if (wanted > offered + 1e-9 * mass) return true;
        }
        return false;
    };
    return judge(g, true) || judge(f, false);
}

}  // namespace raphson
