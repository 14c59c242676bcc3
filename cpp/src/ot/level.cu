// A problem's passes on the device, one at a time, for a driver that lives on the host.
#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_numbers.h"
#include "ot/device_passes.h"
#include "ot/device_pattern.h"
#include "ot/device_transport.h"

namespace raphson::cuda {
namespace {

class Passes final : public CudaLevel {
public:
    Passes(const CudaTransport& given, bool narrow, CudaPlace place)
        : rho_a_(given.problem->rho_a), rho_b_(given.problem->rho_b), place_(place) {
        const DeviceGuard guard(place.device);
        scratch_ = std::make_unique<Scratch>(place);
        const TransportProblem& p = *given.problem;
        n_ = p.n;
        m_ = p.m;
        cost_ = cost_of(given, *scratch_);
        room_ = pass_room(cost_, narrow || cost_.type == DType::float64, *scratch_);
        double mass = 0;
        for (const double a : p.a) mass += a;
        std::vector<double> logs;
        for (const double b : p.b) logs.push_back(b > 0 ? std::log(b) : minus_infinite);
        const double least = lost_share(room_.narrow) * mass;
        balance_ = {0, 0, 0, upload(p.a, *scratch_), upload(p.b, *scratch_), upload(logs, *scratch_), upload(&least, 1, *scratch_)};
        // in this order, so that a sweep is one copy each way: ψ u | u next columns
        psi_ = scratch_->take_array<double>(2 * n_ + 3 * m_ + numbers);
        u_ = psi_ + m_;
        next_ = u_ + n_;
        sums_.columns = next_ + m_;
        sums_.row_sum = sums_.columns + m_;
        numbers_ = sums_.row_sum + n_;
        rows_ = scratch_->take_array<double>(n_);
        weights_ = scratch_->take_array<double>(n_);
        left_ = scratch_->take_array<double>(m_);
        right_ = scratch_->take_array<double>(m_);
    }

    CostFacts range() override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        auto* const parts = scratch.take_array<double>(cost_range_parts);
        cost_range(cost_, parts, place_);
        const std::vector<double> found = read(parts, cost_range_numbers, place_);
        return {found[0], found[1], found[2] > 0};
    }

    void sweep(double reg, const double* psi, double* u, double* columns, double* psi_next) override {
        const DeviceGuard guard(place_.device);
        put(reg, psi, u);
        cuda::sweep(cost_, balance_, room_, u_, psi_, next_, sums_.columns, place_);
        get(u_, {{u, n_}, {psi_next, m_}, {columns, m_}});
    }

    void measure(double reg, const double* psi, const double* u, double* row_sum, double* columns, double* cost) override {
        const DeviceGuard guard(place_.device);
        put(reg, psi, u);
        cuda::measure(cost_, balance_, room_, u_, psi_, sums_, numbers_, numbers_ + 1, place_);
        double found[numbers];
        get(sums_.columns, {{columns, m_}, {row_sum, n_}, {found, numbers}});
        if (cost != nullptr) *cost = found[1];
    }

    int64_t collect(double threshold, int64_t capacity) override {
        const DeviceGuard guard(place_.device);
        pattern_ = DevicePattern();
        pattern_scratch_ = std::make_unique<Scratch>(place_);
        pattern_ = cuda::collect(cost_, balance_, u_, psi_, threshold, capacity, true, *pattern_scratch_);
        return pattern_.count;
    }
    int64_t keep_largest(int64_t k) override {
        double least = 0;
        {
            const DeviceGuard guard(place_.device);
            if (pattern_.count <= k) return pattern_.count;
            Scratch scratch(place_);
            least = kth_largest(pattern_, k, scratch);
        }
        return collect(least, std::numeric_limits<int64_t>::max());
    }

    void pattern_sums(const double* weight, double* rows, double* columns, double* squares) override {
        const DeviceGuard guard(place_.device);
        put(weight, n_, weights_);
        pattern_rows(pattern_, nullptr, nullptr, rows_, place_);
        cuda::pattern_columns(pattern_, nullptr, left_, place_);
        pattern_squares(pattern_, weights_, right_, place_);
        get(rows_, {{rows, n_}});
        get(left_, {{columns, m_}});
        get(right_, {{squares, m_}});
    }
    void pattern_columns(const double* z, double* y) override {
        const DeviceGuard guard(place_.device);
        put(z, n_, rows_);
        cuda::pattern_columns(pattern_, rows_, right_, place_);
        get(right_, {{y, m_}});
    }
    void product_rows(const double* x, double* t) override {
        const DeviceGuard guard(place_.device);
        put(x, m_, left_);
        plan_times(cost_, balance_, u_, psi_, left_, rows_, place_);
        get(rows_, {{t, n_}});
    }
    void product_columns(const double* z, double* y) override {
        const DeviceGuard guard(place_.device);
        put(z, n_, rows_);
        plan_transposed_times(cost_, balance_, room_, u_, psi_, rows_, right_, place_);
        get(right_, {{y, m_}});
    }
    void normal(bool sparse, const double* x, const double* coefficient, double* y) override {
        const DeviceGuard guard(place_.device);
        put(x, m_, left_);
        put(coefficient, n_, weights_);
        there_and_back(sparse, left_, right_);
        get(right_, {{y, m_}});
    }

    CgOutcome solve(const SchurTerms& system, bool sparse, const double* rhs, double* x, double target, int most) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        put(system.d1_inverse.data(), n_, weights_);
        const bool lumps = sparse && system.lump_total > 0;
        DeviceSchur s{m_,
                      upload(system.d2.data(), m_, scratch),
                      upload(system.jacobi.data(), m_, scratch),
                      lumps ? upload(system.lump_q.data(), m_, scratch) : nullptr,
                      lumps ? upload(system.lump_w.data(), m_, scratch) : nullptr,
                      lumps ? system.lump_total : 0,
                      system.lump_pp};
        put(rhs, m_, left_);
        const auto product = [&](const double* of, double* to) { there_and_back(sparse, of, to); };
        const CgOutcome outcome = conjugate_gradients(s, product, left_, right_, target, most, scratch);
        get(right_, {{x, m_}});
        return outcome;
    }

private:
    struct Part {
        double* to;
        int64_t count;
    };
    static constexpr int numbers = 2;

    // y = Tᵀ(weights ∘ (T x)) on the device.
    void there_and_back(bool sparse, const double* x, double* y) {
        if (sparse) {
            pattern_rows(pattern_, x, weights_, rows_, place_);
            cuda::pattern_columns(pattern_, rows_, y, place_);
            return;
        }
        plan_times(cost_, balance_, u_, psi_, x, rows_, place_);
        scale(weights_, n_, rows_, place_);
        plan_transposed_times(cost_, balance_, room_, u_, psi_, rows_, y, place_);
    }
    void put(const double* from, int64_t count, double* to) const {
        write(from, to, static_cast<std::size_t>(count) * sizeof(double), place_);
    }
    void put(double reg, const double* psi, const double* u) {
        balance_.inverse_reg = 1 / reg;
        balance_.kappa_a = reg / rho_a_;
        balance_.kappa_b = reg / rho_b_;
        staged_.resize(static_cast<std::size_t>(m_ + n_));
        std::copy_n(u, n_, std::copy_n(psi, m_, staged_.begin()));
        put(staged_.data(), m_ + n_, psi_);
    }
    // What lies one after the other.
    void get(const double* from, std::initializer_list<Part> parts) {
        int64_t count = 0;
        for (const Part& part : parts) count += part.count;
        staged_.resize(static_cast<std::size_t>(count));
        read(contiguous(const_cast<double*>(from), DType::float64, count, 1), staged_.data(), place_);
        auto at = staged_.cbegin();
        for (const Part& part : parts) {
            std::copy_n(at, part.count, part.to);
            at += part.count;
        }
    }

    double rho_a_, rho_b_;
    CudaPlace place_;
    std::unique_ptr<Scratch> scratch_, pattern_scratch_;
    int64_t n_ = 0, m_ = 0;
    DeviceCost cost_;
    DeviceBalance balance_{};
    PassRoom room_;
    DeviceSums sums_{};
    DevicePattern pattern_;
    double *psi_, *u_, *next_, *numbers_, *rows_, *weights_, *left_, *right_;
    std::vector<double> staged_;
};

}  // namespace

CudaLevel* make_level(const CudaTransport& given, bool narrow, CudaPlace place) { return new Passes(given, narrow, place); }

}  // namespace raphson::cuda
