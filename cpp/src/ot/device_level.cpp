#include "ot/device_level.h"

#include <utility>

namespace raphson {
namespace {

// Guesses for an H200, to be measured: a byte from memory; an exponential; a coordinate of a pair of points; an entry of the
// plan in both orders and a column in one step of conjugate gradients; launches, copies and waits.
constexpr double byte = 3e-4, exponential = 1e-3, coordinate = 2e-4, sparse_entry = 0.02, vector_entry = 0.02;
constexpr double sweep_start = 5e4, step_start = 2e5, product_start = 1.5e4, host_number = 10;

}  // namespace

DeviceLevel::DeviceLevel(const TransportProblem& problem, std::unique_ptr<CudaLevel> passes, const CudaTransport& given)
    : Level(problem), passes_(std::move(passes)),
      read_(exponential + (given.is_dense() ? byte * static_cast<double>(itemsize(given.cost.type))
                                            : coordinate * static_cast<double>(given.dim))),
      next_(static_cast<std::size_t>(problem.m)) {}

PassCosts DeviceLevel::costs() const {
    const double numbers = host_number * static_cast<double>(n() + m());
    return {read_,        3 * read_, read_, 2 * read_, sparse_entry, vector_entry, 0, sweep_start + numbers, step_start + 4 * numbers,
            product_start};
}

void DeviceLevel::sweep(SparsePlan* sparse, bool) {
    passes_->sweep(reg_, psi.data(), u.data(), columns.data(), next_.data());
    rows_exact_ = true;
    find_error(false);
    if (sparse != nullptr) collect(*sparse);
}

void DeviceLevel::measure(double* cost, SparsePlan* sparse) {
    passes_->measure(reg_, psi.data(), u.data(), row_sum.data(), columns.data(), cost);
    rows_exact_ = false;
    find_error(true);
    if (sparse != nullptr) collect(*sparse);
}

void DeviceLevel::update_columns() {
    for (std::int64_t j = 0; j < m(); ++j) psi[j] = next_[j];
}

void DeviceLevel::product_rows(const double* x, double* t) { passes_->product_rows(x, t); }
void DeviceLevel::product_columns(const double* z, double* y) { passes_->product_columns(z, y); }
void DeviceLevel::normal(const SparsePlan* plan, const double* x, const double* coefficient, double* y) {
    passes_->normal(plan != nullptr, x, coefficient, y);
}

void DeviceLevel::reserve(SparsePlan&, std::int64_t capacity) { capacity_ = capacity; }
void DeviceLevel::collect(SparsePlan& plan) { plan.count = passes_->collect(plan.threshold, capacity_); }
void DeviceLevel::keep_largest(SparsePlan& plan, std::int64_t k) { plan.count = passes_->keep_largest(k); }
void DeviceLevel::pattern_sums(const SparsePlan&, const double* weight, double* rows, double* sums, double* squares) {
    passes_->pattern_sums(weight, rows, sums, squares);
}
void DeviceLevel::pattern_columns(const SparsePlan&, const double* z, double* y) { passes_->pattern_columns(z, y); }

CgOutcome DeviceLevel::solve(const SchurTerms& system, const SparsePlan* plan, const double* rhs, double* x, double target,
                             int most) {
    return passes_->solve(system, plan != nullptr, rhs, x, target, most);
}

}  // namespace raphson
