#include "ot/host_level.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <new>

#include "common/threads.h"
#include "common/workspace.h"
#include "table.h"

namespace raphson {
namespace {

constexpr std::int64_t entries_per_block = 32768, most_blocks = 32;
constexpr std::int64_t point_rows = 16;  // rows of a point cloud's cost that exist at a time
constexpr std::int64_t small_plan = 20000;  // entries that are not worth a second thread
constexpr double lost = 1e-290;          // column sums below are taken anew, in logarithms
constexpr double log_entry = 0.6, kernel_entry = 0.45, sparse_entry = 2.0, vector_entry = 6.0, factor_flop = 0.05,
                 point_entry = 0.15;  // nanoseconds
constexpr std::int64_t largest_factor = 2048;

}  // namespace

HostLevel::HostLevel(const TransportProblem& problem) : Level(problem) {
    const std::int64_t wanted = std::clamp<std::int64_t>(problem.n * problem.m / entries_per_block, 1, most_blocks);
    block_rows_ = ((problem.n + wanted - 1) / wanted + ot_group - 1) / ot_group * ot_group;
    blocks_ = std::max<std::int64_t>((problem.n + block_rows_ - 1) / block_rows_, 1);
    partials_.resize(static_cast<std::size_t>(blocks_ * padded_));
    cost_parts_.resize(static_cast<std::size_t>(blocks_));
}

PassCosts HostLevel::costs() const {
    const double points = problem_.cost.is_dense() ? 0 : point_entry * static_cast<double>(problem_.cost.points.dim);
    const double product = kernel_allowed() ? kernel_entry : log_entry + points;
    return {log_entry, 1.2 * log_entry, kernel_entry, product, sparse_entry, vector_entry, factor_flop, 0, 0, 0};
}

bool HostLevel::can_factor() const { return m() <= largest_factor; }

std::int64_t HostLevel::block_begin(std::int64_t block) const { return std::min(block * block_rows_, n()); }

void HostLevel::reserve(SparsePlan& plan, std::int64_t capacity) {
    plan.pieces.resize(static_cast<std::size_t>(blocks_));
    for (std::int64_t block = 0; block < blocks_; ++block) {
        SparsePlan::Piece& piece = plan.pieces[block];
        const std::int64_t rows = block_begin(block + 1) - block_begin(block);
        const std::int64_t wanted = std::min(rows * m(), capacity * 2 / blocks_) + 64;
        if (piece.capacity >= wanted) continue;
        piece.index = take_large(static_cast<std::size_t>(wanted) * sizeof(std::int32_t));
        piece.value = take_large(static_cast<std::size_t>(wanted) * sizeof(double));
        piece.capacity = wanted;
    }
}

void HostLevel::each_tile(const TileWork& work) {
    parallel_for(blocks_, [&](std::int64_t block) {
        const std::int64_t begin = block_begin(block), end = block_begin(block + 1);
        const TransportCost& cost = problem_.cost;
        if (cost.is_dense()) {
            CostBlock tile = cost.dense;
            tile.data = static_cast<const char*>(tile.data) + begin * tile.stride * itemsize(tile.type);
            tile.rows = end - begin;
            work(tile, begin, block);
            return;
        }
        Workspace scratch;
        PointBlock points = cost.points;
        points.stride = padded_;
        points.cost = scratch.take_array<double>(point_rows * padded_);
        for (std::int64_t i = begin; i < end && !poll_cancelled(); i += point_rows) {
            points.rows = std::min(point_rows, end - i);
            points.x = cost.points.x + i * points.dim;
            kernels().ot.point_costs(points);
            work(CostBlock{DType::float64, points.cost, padded_, points.rows, m()}, i, block);
        }
    });
    throw_if_cancelled();
}

void HostLevel::add_partials(double* sums) const {
    constexpr std::int64_t chunk = 4096;
    parallel_for((padded_ + chunk - 1) / chunk, [&](std::int64_t task) {
        const std::int64_t begin = task * chunk, end = std::min(begin + chunk, padded_);
        std::copy(partials_.data() + begin, partials_.data() + end, sums + begin);
        for (std::int64_t block = 1; block < blocks_; ++block) {
            const double* part = partials_.data() + block * padded_;
            for (std::int64_t j = begin; j < end; ++j) sums[j] += part[j];
        }
    });
}

void HostLevel::run_log(bool update, bool keep, double* cost, SparsePlan* sparse) {
    const OtTable& table = kernels().ot;
    std::fill(cost_parts_.begin(), cost_parts_.end(), 0.0);
    std::vector<SparseBlock> stores;
    if (sparse != nullptr) {
        sparse->pieces.resize(static_cast<std::size_t>(blocks_));
        stores.resize(static_cast<std::size_t>(blocks_));
        for (std::int64_t block = 0; block < blocks_; ++block) {
            SparsePlan::Piece& piece = sparse->pieces[block];
            piece.rows = block_begin(block + 1) - block_begin(block);
            piece.row_end.resize(static_cast<std::size_t>(piece.rows));
            stores[block] = {sparse->threshold,
                             piece.capacity,
                             static_cast<std::int32_t*>(piece.index.get()),
                             static_cast<double*>(piece.value.get()),
                             piece.row_end.data(),
                             0};
        }
    }
    if (kernel_ready_ && !keep) {  // it describes other potentials from now on
        kernel_ready_ = false;
    }
    std::fill(partials_.begin(), partials_.end(), 0.0);
    each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        Workspace scratch;
        LogBlock b{};
        b.cost = tile;
        b.inverse_reg = 1 / reg_;
        b.psi = psi.data();
        b.mass = problem_.a.data() + first;
        b.exponent = exponent_a_;
        b.update = update;
        b.u = u.data() + first;
        b.row_sum = row_sum.data() + first;
        b.columns = partial(block);
        b.cost_sum = cost != nullptr ? &cost_parts_[block] : nullptr;
        SparseBlock store{};
        if (sparse != nullptr) {
            store = stores[block];
            store.row_end += first - block_begin(block);
            b.sparse = &store;
        }
        if (keep) {
            b.plan = static_cast<char*>(kernel_.get()) + first * kernel_stride_ * itemsize(tile.type);
            b.plan_stride = kernel_stride_;
        }
        b.scratch = scratch.take_array<double>(ot_scratch(m()));
        table.log_sweep(b);
        if (sparse != nullptr) stores[block].count = store.count;
    });
    add_partials(columns.data());
    if (cost != nullptr) {
        *cost = 0;
        for (double part : cost_parts_) *cost += part;
    }
    if (sparse != nullptr) {
        sparse->count = 0;
        for (std::int64_t block = 0; block < blocks_; ++block) {
            sparse->pieces[block].count = stores[block].count;
            if (stores[block].count < 0) sparse->count = -1;
            if (sparse->count >= 0) sparse->count += stores[block].count;
        }
    }
}

void HostLevel::sweep(SparsePlan* sparse, bool keep) {
    if (keep && kernel_ == nullptr) {
        kernel_stride_ = m();
        try {
            kernel_ = take_large(static_cast<std::size_t>(n()) * static_cast<std::size_t>(m()) *
                                 static_cast<std::size_t>(itemsize(problem_.cost.dense.type)));
        } catch (const std::bad_alloc&) {  // the log domain needs no more than there is
            kernel_refused_ = true;
            keep = false;
        }
    }
    run_log(true, keep, nullptr, sparse);
    rows_exact_ = true;
    if (keep) {
        kernel_u_ = u;
        kernel_psi_ = psi;
        log_scale_.assign(u.size(), 0.0);
        multiplier_.assign(psi.size(), 0.0);
        for (std::int64_t j = 0; j < m(); ++j) multiplier_[j] = psi[j] > minus_infinity ? 1.0 : 0.0;
        kernel_ready_ = true;
    }
    find_error(false);
}

void HostLevel::measure(double* cost, SparsePlan* sparse) {
    run_log(false, false, cost, sparse);
    rows_exact_ = false;
    find_error(true);
}

void HostLevel::update_columns() {
    std::vector<double> log_columns(static_cast<std::size_t>(m()));
    bool some_lost = false;
    for (std::int64_t j = 0; j < m(); ++j) {
        log_columns[j] = std::log(columns[j]);
        some_lost = some_lost || (!(columns[j] > lost) && problem_.b[j] > 0);
    }
    if (some_lost) lost_columns(log_columns);
    for (std::int64_t j = 0; j < m(); ++j) {
        if (problem_.b[j] > 0) psi[j] = log_b_[j] - exponent_b_ * (log_columns[j] - psi[j]);
    }
}

void HostLevel::lost_columns(std::vector<double>& log_columns) {
    std::vector<std::int64_t> groups;
    for (std::int64_t start = 0; start < m(); start += ot_padding) {
        bool any = false;
        for (std::int64_t j = start; j < std::min(start + ot_padding, m()); ++j) {
            any = any || (!(columns[j] > lost) && problem_.b[j] > 0);
        }
        if (any) groups.push_back(start);
    }
    std::vector<double> phi(u.size());
    for (std::int64_t i = 0; i < n(); ++i) {
        phi[i] = problem_.a[i] > 0 ? u[i] + std::log(problem_.a[i]) : minus_infinity;
    }
    const OtTable& table = kernels().ot;
    const auto count = static_cast<std::int64_t>(groups.size());
    std::fill(partials_.begin(), partials_.end(), minus_infinity);
    each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        table.column_max(tile, 1 / reg_, phi.data() + first, groups.data(), count, partial(block));
    });
    std::vector<double> highest(psi.size(), minus_infinity), sums(psi.size());
    for (std::int64_t block = 0; block < blocks_; ++block) {
        for (std::int64_t j = 0; j < m(); ++j) highest[j] = std::max(highest[j], partial(block)[j]);
    }
    std::vector<double> shift(highest);
    for (double& value : shift) {
        if (value == minus_infinity) value = 0;
    }
    std::fill(partials_.begin(), partials_.end(), 0.0);
    each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        table.column_sum(tile, 1 / reg_, phi.data() + first, shift.data(), groups.data(), count, partial(block));
    });
    add_partials(sums.data());
    for (const std::int64_t start : groups) {
        for (std::int64_t j = start; j < std::min(start + ot_padding, m()); ++j) {
            if (problem_.b[j] > 0 && sums[j] > 0) log_columns[j] = psi[j] + highest[j] + std::log(sums[j]);
        }
    }
}

// ---- the kernel domain -------------------------------------------------------------------------------------------------
bool HostLevel::kernel_allowed() const { return problem_.cost.is_dense() && !kernel_refused_; }

CostBlock HostLevel::kernel_rows(std::int64_t block) const {
    const std::int64_t begin = block_begin(block);
    const DType type = problem_.cost.dense.type;
    const char* first = static_cast<const char*>(kernel_.get()) + begin * kernel_stride_ * itemsize(type);
    return {type, first, kernel_stride_, block_begin(block + 1) - begin, m()};
}

void HostLevel::drop_kernel() { kernel_ready_ = false; }

bool HostLevel::sweep_kernel() {
    const bool narrow = problem_.cost.dense.type == DType::float32;
    const double range = std::log(narrow ? 1e12 : 1e100);
    for (std::int64_t j = 0; j < m(); ++j) {
        if (!(problem_.b[j] > 0)) continue;
        const double moved = psi[j] - kernel_psi_[j];
        if (!(std::abs(moved) < range)) return false;
        multiplier_[j] = std::exp(moved);
    }
    if (kappa_a_ > 0) {
        offset_.resize(u.size());
        for (std::int64_t i = 0; i < n(); ++i) offset_[i] = -kernel_u_[i] * kappa_a_ * exponent_a_;
    }
    const OtTable& table = kernels().ot;
    std::fill(partials_.begin(), partials_.end(), 0.0);
    parallel_for(blocks_, [&](std::int64_t block) {
        const std::int64_t begin = block_begin(block);
        KernelBlock b{};
        b.kernel = kernel_rows(block);
        b.x = multiplier_.data();
        b.coefficient = problem_.a.data() + begin;
        b.exponent = exponent_a_;
        b.offset = kappa_a_ > 0 ? offset_.data() + begin : nullptr;
        b.t = nullptr;
        b.log_scale = log_scale_.data() + begin;
        b.columns = partial(block);
        table.kernel_sweep(b);
    });
    throw_if_cancelled();
    for (std::int64_t i = 0; i < n(); ++i) {
        if (!(std::abs(log_scale_[i]) < range)) return false;
    }
    add_partials(columns.data());
    for (std::int64_t j = 0; j < m(); ++j) columns[j] *= multiplier_[j];
    for (std::int64_t i = 0; i < n(); ++i) u[i] = kernel_u_[i] + log_scale_[i];
    rows_exact_ = true;
    find_error(false);
    return true;
}

// ---- products with the plan --------------------------------------------------------------------------------------------
void HostLevel::linear_log(const double* x, const double* coefficient, double* t, double* y) {
    const OtTable& table = kernels().ot;
    if (y != nullptr) std::fill(partials_.begin(), partials_.end(), 0.0);
    each_tile([&](const CostBlock& tile, std::int64_t first, std::int64_t block) {
        Workspace scratch;
        LogBlock b{};
        b.cost = tile;
        b.inverse_reg = 1 / reg_;
        b.psi = psi.data();
        b.u = u.data() + first;
        b.columns = y != nullptr ? partial(block) : nullptr;
        b.x = x;
        b.coefficient = coefficient + first;
        b.t = t != nullptr ? t + first : nullptr;
        b.scratch = scratch.take_array<double>(ot_scratch(m()));
        table.log_sweep(b);
    });
    if (y != nullptr) add_partials(y);
}

void HostLevel::linear_kernel(const double* x, const double* coefficient, double* t, double* y) {
    const OtTable& table = kernels().ot;
    std::fill(partials_.begin(), partials_.end(), 0.0);
    parallel_for(blocks_, [&](std::int64_t block) {
        const std::int64_t begin = block_begin(block);
        KernelBlock b{};
        b.kernel = kernel_rows(block);
        b.x = x;
        b.coefficient = coefficient + begin;
        b.linear = true;
        b.t = t != nullptr ? t + begin : nullptr;
        b.columns = partial(block);
        table.kernel_sweep(b);
    });
    throw_if_cancelled();
    add_partials(y);
}

void HostLevel::normal_dense(const double* x, const double* coefficient, double* y) {
    const std::vector<double>& a = problem_.a;
    std::vector<double> factor(u.size()), t(u.size());
    if (!kernel_ready_) {  // T = a·exp(…)
        for (std::size_t i = 0; i < u.size(); ++i) factor[i] = a[i] * a[i] * coefficient[i];
        return linear_log(x, factor.data(), t.data(), y);
    }
    std::vector<double> scaled(psi.size(), 0.0);  // T = a·scale·K·multiplier
    for (std::size_t i = 0; i < u.size(); ++i) {
        const double z = a[i] * std::exp(log_scale_[i]);
        factor[i] = z * z * coefficient[i];
    }
    for (std::int64_t j = 0; j < m(); ++j) scaled[j] = multiplier_[j] * x[j];
    linear_kernel(scaled.data(), factor.data(), t.data(), y);
    for (std::int64_t j = 0; j < m(); ++j) y[j] *= multiplier_[j];
}

void HostLevel::product_rows(const double* x, double* t) {
    linear_log(x, problem_.a.data(), t, nullptr);
    for (std::int64_t i = 0; i < n(); ++i) t[i] *= problem_.a[i];
}

void HostLevel::product_columns(const double* z, double* y) {
    std::vector<double> factor(u.size());
    for (std::size_t i = 0; i < u.size(); ++i) factor[i] = problem_.a[i] * z[i];
    linear_log(nullptr, factor.data(), nullptr, y);
}

void HostLevel::normal(const SparsePlan* plan, const double* x, const double* coefficient, double* y) {
    if (plan == nullptr) return normal_dense(x, coefficient, y);
    normal_sparse(*plan, x, coefficient, y);
}

// ---- the large entries -------------------------------------------------------------------------------------------------
SparseRows rows_of(const SparsePlan::Piece& piece, std::int64_t columns) {
    return {static_cast<const std::int32_t*>(piece.index.get()), static_cast<const double*>(piece.value.get()),
            piece.row_end.data(), piece.rows, columns};
}

void HostLevel::normal_sparse(const SparsePlan& plan, const double* x, const double* coefficient, double* y) {
    const OtTable& table = kernels().ot;
    const std::int64_t tasks = plan.count < small_plan ? 1 : blocks_;
    const auto work = [&](std::int64_t block) {
        double* into = tasks == 1 ? y : partial(block);
        if (tasks > 1) std::fill(into, into + padded_, 0.0);
        table.sparse_normal(rows_of(plan.pieces[block], m()), x, coefficient + block_begin(block), into);
    };
    if (tasks == 1) {
        std::fill(y, y + padded_, 0.0);
        for (std::int64_t block = 0; block < blocks_; ++block) work(block);
        return;
    }
    parallel_for(tasks, work);
    throw_if_cancelled();
    add_partials(y);
}

void HostLevel::keep_largest(SparsePlan& plan, std::int64_t k) {
    if (plan.count <= k) return;
    std::vector<double> all;
    all.reserve(static_cast<std::size_t>(plan.count));
    for (const SparsePlan::Piece& piece : plan.pieces) {
        const double* value = static_cast<const double*>(piece.value.get());
        all.insert(all.end(), value, value + piece.count);
    }
    std::nth_element(all.begin(), all.begin() + (k - 1), all.end(), std::greater<double>());
    const double least = all[static_cast<std::size_t>(k - 1)];
    plan.count = 0;
    for (SparsePlan::Piece& piece : plan.pieces) {
        auto* value = static_cast<double*>(piece.value.get());
        auto* index = static_cast<std::int32_t*>(piece.index.get());
        std::int64_t to = 0, from = 0;
        for (std::int64_t& end : piece.row_end) {
            for (; from < end; ++from) {
                if (value[from] < least) continue;
                value[to] = value[from];
                index[to++] = index[from];
            }
            end = to;
        }
        piece.count = to;
        plan.count += to;
    }
}

void HostLevel::pattern_sums(const SparsePlan& plan, const double* weight, double* rows, double* sums, double* squares) {
    std::fill(sums, sums + padded_, 0.0);
    std::fill(squares, squares + padded_, 0.0);
    std::int64_t row = 0;
    for (const SparsePlan::Piece& piece : plan.pieces) {
        const SparseRows part = rows_of(piece, m());
        std::int64_t k = 0;
        for (std::int64_t i = 0; i < part.rows; ++i, ++row) {
            double kept = 0;
            for (; k < part.row_end[i]; ++k) {
                kept += part.value[k];
                sums[part.index[k]] += part.value[k];
                squares[part.index[k]] += part.value[k] * part.value[k] * weight[row];
            }
            rows[row] = kept;
        }
    }
}

void HostLevel::pattern_columns(const SparsePlan& plan, const double* z, double* y) {
    std::fill(y, y + padded_, 0.0);
    for (std::int64_t block = 0; block < blocks_; ++block) {
        kernels().ot.sparse_columns(rows_of(plan.pieces[block], m()), z + block_begin(block), y);
    }
}

}  // namespace raphson
