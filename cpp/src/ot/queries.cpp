#include "ot/queries.h"

#include <algorithm>
#include <cmath>

#include "common/workspace.h"
#include "ot/host_level.h"
#include "ot/schur.h"
#include "table.h"

namespace raphson {
namespace {

void place(Level& level, Potentials at) {
    const TransportProblem& p = level.problem();
    for (std::int64_t i = 0; i < p.n; ++i) level.u[i] = p.a[i] > 0 ? at.f[i] / p.reg : minus_infinity;
    for (std::int64_t j = 0; j < p.m; ++j) {
        if (p.b[j] > 0) level.psi[j] = level.log_b()[j] + at.g[j] / p.reg;
    }
}

// Calls work(i, row of the plan, block) for every row, blocks in parallel, the rows of a block in order.
template <class Work>
void each_row(HostLevel& level, Work&& work) {
    const TransportProblem& p = level.problem();
    level.each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        Workspace scratch;
        LogBlock b{};
        b.inverse_reg = 1 / p.reg;
        b.psi = level.psi.data();
        b.scratch = scratch.take_array<double>(ot_scratch(level.m()));
        const double ones[ot_group] = {1, 1, 1, 1};
        for (std::int64_t r = 0; r < tile.rows; r += ot_group) {
            const std::int64_t rows = std::min<std::int64_t>(ot_group, tile.rows - r);
            const bool whole = rows == ot_group;
            for (std::int64_t k = 0; k < rows; k += whole ? ot_group : 1) {
                b.cost = tile;
                b.cost.data = static_cast<const char*>(tile.data) + (r + k) * tile.stride * itemsize(tile.type);
                b.cost.rows = whole ? ot_group : 1;
                b.u = level.u.data() + first + r + k;
                b.coefficient = ones;
                kernels().ot.log_sweep(b);
                for (std::int64_t row = 0; row < b.cost.rows; ++row) {
                    const std::int64_t i = first + r + k + row;
                    double* e = b.scratch + row * ot_scratch_row(level.m());
                    for (std::int64_t j = 0; j < p.m; ++j) e[j] *= p.a[i];
                    work(i, const_cast<const double*>(e), block);
                }
            }
        }
    });
}

constexpr std::int64_t together = 8;  // vectors that share the exponentials

}  // namespace

void plan_rows(const TransportProblem& problem, Potentials at, std::int64_t begin, std::int64_t end, double* out) {
    TransportProblem part = problem;  // the same with fewer rows
    part.n = end - begin;
    part.a.assign(problem.a.begin() + begin, problem.a.begin() + end);
    if (part.cost.is_dense()) {
        CostBlock& dense = part.cost.dense;
        dense.data = static_cast<const char*>(dense.data) + begin * dense.stride * itemsize(dense.type);
        dense.rows = part.n;
    } else {
        part.cost.points.x += begin * part.cost.points.dim;
        part.cost.points.rows = part.n;
    }
    HostLevel level(part);
    place(level, {at.f + begin, at.g});
    each_row(level, [&](std::int64_t i, const double* row, std::int64_t) { std::copy(row, row + part.m, out + i * part.m); });
}

void plan_apply(const TransportProblem& problem, Potentials at, bool transposed, const double* v, std::int64_t k, double* out) {
    HostLevel level(problem);
    place(level, at);
    const std::int64_t m = problem.m;
    if (!transposed) {
        each_row(level, [&](std::int64_t i, const double* row, std::int64_t) {
            double* t = out + i * k;
            std::fill(t, t + k, 0.0);
            for (std::int64_t j = 0; j < m; ++j) {
                for (std::int64_t c = 0; c < k; ++c) t[c] += row[j] * v[j * k + c];
            }
        });
        return;
    }
    std::vector<double> sums;
    for (std::int64_t first = 0; first < k; first += together) {
        const std::int64_t width = std::min(together, k - first);
        const std::int64_t stride = m * width;
        sums.assign(static_cast<std::size_t>(level.blocks() * stride), 0.0);
        each_row(level, [&](std::int64_t i, const double* row, std::int64_t block) {
            double* y = sums.data() + block * stride;
            for (std::int64_t j = 0; j < m; ++j) {
                for (std::int64_t c = 0; c < width; ++c) y[j * width + c] += row[j] * v[i * k + first + c];
            }
        });
        for (std::int64_t j = 0; j < m; ++j) {
            for (std::int64_t c = 0; c < width; ++c) {
                double total = 0;
                for (std::int64_t block = 0; block < level.blocks(); ++block) total += sums[block * stride + j * width + c];
                out[j * k + first + c] = total;
            }
        }
    }
}

SparseResult plan_sparse(const TransportProblem& problem, Potentials at, double most_dropped) {
    HostLevel level(problem);
    place(level, at);
    constexpr int lowest = -1100, bins = 2200;  // mass by the exponent of the entries
    const std::int64_t blocks = level.blocks();
    std::vector<double> mass(static_cast<std::size_t>(blocks) * bins, 0.0);
    std::vector<std::int64_t> entries(static_cast<std::size_t>(blocks) * bins, 0);
    each_row(level, [&](std::int64_t, const double* row, std::int64_t block) {
        for (std::int64_t j = 0; j < problem.m; ++j) {
            if (!(row[j] > 0)) continue;
            int exponent;
            std::frexp(row[j], &exponent);
            const int bin = std::clamp(exponent - lowest, 0, bins - 1);
            mass[block * bins + bin] += row[j];
            ++entries[block * bins + bin];
        }
    });
    SparseResult result;
    int cut = 0;
    std::int64_t kept = 0;
    bool dropping = true;
    for (int bin = 0; bin < bins; ++bin) {
        double here = 0;
        std::int64_t count = 0;
        for (std::int64_t block = 0; block < blocks; ++block) {
            here += mass[block * bins + bin];
            count += entries[block * bins + bin];
        }
        dropping = dropping && result.dropped + here <= most_dropped;
        if (dropping) {
            result.dropped += here;
            cut = bin + 1;
        } else {
            kept += count;
        }
    }
    const double threshold = std::ldexp(0.5, cut + lowest);  // entries of the bins from `cut` on
    std::vector<std::vector<std::int32_t>> index(static_cast<std::size_t>(blocks));
    std::vector<std::vector<double>> value(static_cast<std::size_t>(blocks));
    result.row_end.assign(static_cast<std::size_t>(problem.n), 0);
    each_row(level, [&](std::int64_t i, const double* row, std::int64_t block) {
        for (std::int64_t j = 0; j < problem.m; ++j) {
            if (!(row[j] > 0) || row[j] < threshold) continue;
            index[block].push_back(static_cast<std::int32_t>(j));
            value[block].push_back(row[j]);
        }
        result.row_end[i] = static_cast<std::int64_t>(index[block].size());
    });
    result.index.reserve(static_cast<std::size_t>(kept));
    result.value.reserve(static_cast<std::size_t>(kept));
    for (std::int64_t block = 0; block < blocks; ++block) {
        const auto before = static_cast<std::int64_t>(result.index.size());
        for (std::int64_t i = level.block_begin(block); i < level.block_begin(block + 1); ++i) result.row_end[i] += before;
        result.index.insert(result.index.end(), index[block].begin(), index[block].end());
        result.value.insert(result.value.end(), value[block].begin(), value[block].end());
    }
    return result;
}

double solve_hessian(Level& level, Potentials at, const double* p, const double* q, double* alpha, double* beta) {
    const TransportProblem& problem = level.problem();
    place(level, at);
    const std::int64_t n = problem.n, m = problem.m;
    const double entries = static_cast<double>(n) * static_cast<double>(m);
    double mass = 0;
    for (double a : problem.a) mass += a;
    SparsePlan plan;
    plan.threshold = 1e-17 * mass / static_cast<double>(std::max(n, m));
    level.reserve(plan, static_cast<std::int64_t>(std::min(0.3 * entries, 3.2e7)));
    level.measure(nullptr, &plan);
    const bool sparse = plan.count >= 0;
    if (!sparse && level.kernel_allowed()) {
        level.sweep(nullptr, true);  // rows are exact to the error of the solution: the same plan
    }
    Schur schur(level, sparse ? &plan : nullptr);
    std::vector<double> rows(static_cast<std::size_t>(n)), right(static_cast<std::size_t>(level.padded()), 0.0), x(right);
    double scale = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        rows[i] = schur.row_inverse()[i] * p[i];
        scale += std::abs(p[i]);
    }
    level.product_columns(rows.data(), right.data());
    for (std::int64_t j = 0; j < m; ++j) {
        right[j] = problem.b[j] > 0 ? q[j] - right[j] : 0;
        scale += std::abs(q[j]);
    }
    for (std::int64_t j = m; j < level.padded(); ++j) right[j] = 0;
    std::vector<double> factor;
    if (sparse && level.can_factor() && static_cast<double>(plan.count) * static_cast<double>(m) > 1e6) schur.factor(factor);
    schur.solve(right.data(), x.data(), 1e-14 * scale, 3000);
    std::copy(x.begin(), x.begin() + m, beta);
    std::vector<double> row_rhs(p, p + n);
    schur.rows_for(row_rhs.data(), x.data(), alpha);
    for (std::int64_t i = 0; i < n; ++i) {
        if (!(problem.a[i] > 0)) alpha[i] = 0;
    }
    // The rows' equations hold to rounding, by the last substitution.
    level.product_columns(alpha, right.data());
    double residual = 0;
    for (std::int64_t j = 0; j < m; ++j) {
        if (!(problem.b[j] > 0)) continue;
        residual += std::abs(q[j] - right[j] - (level.columns[j] + level.kappa_b() * level.target_column(j)) * beta[j]);
    }
    return scale > 0 ? residual / scale : 0;
}

double solve_hessian(const TransportProblem& problem, Potentials at, const double* p, const double* q, double* alpha, double* beta) {
    HostLevel level(problem);
    return solve_hessian(level, at, p, q, alpha, beta);
}

}  // namespace raphson
