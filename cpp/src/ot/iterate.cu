// The driver of Sinkhorn's iteration on a CUDA device: what solve.cpp and host_level.cpp do on the CPU for the method `sinkhorn`,
// with a look at the error every few sweeps only.
// The other methods are the CPU's drivers, on the host: level.cu has their passes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cuda/copy.h"
#include "ot/device_entry.h"
#include "ot/device_passes.h"
#include "ot/device_schedule.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256;
constexpr double narrow_floor = 5e-7;  // of float32's sweeps

struct Facts {  // of the weights
    double mass, b_factor, least_column, shift;
};

// One block. b is scaled to the mass of a in the balanced form.
__global__ void __launch_bounds__(threads) facts_kernel(const double* a, const double* b, int64_t rows, int64_t columns,
                                                        bool balanced, double share, Facts* facts) {
    __shared__ double room[threads / 32];
    double mass_a = 0, mass_b = 0;
    for (int64_t i = threadIdx.x; i < rows; i += threads) mass_a += a[i];
    for (int64_t j = threadIdx.x; j < columns; j += threads) mass_b += b[j];
    mass_a = over_block(mass_a, room, Plus());
    mass_b = over_block(mass_b, room, Plus());
    if (threadIdx.x == 0) *facts = {mass_a, balanced ? mass_a / mass_b : 1, share * mass_a, 0};
}

__global__ void __launch_bounds__(threads) start_kernel(const double* b, const double* f, const double* g, int64_t rows,
                                                        int64_t columns, double inverse_reg, const Facts* facts, double* scaled_b,
                                                        double* log_b, double* u, double* psi) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    const auto start = [=](const double* given) {
        return given != nullptr && fabs(given[k]) < -minus_infinite ? given[k] * inverse_reg : 0;
    };
    if (k < rows) u[k] = start(f);
    if (k >= columns) return;
    const double weight = b[k] * facts->b_factor;
    scaled_b[k] = weight;
    log_b[k] = weight > 0 ? log(weight) : minus_infinite;
    psi[k] = log_b[k] + start(g);
}

// Potentials keep their values in units of the cost.
__global__ void __launch_bounds__(threads) rescale_kernel(int64_t rows, int64_t columns, const double* log_b, double ratio,
                                                          double* u, double* psi) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k < rows) u[k] *= ratio;
    if (k < columns && psi[k] > minus_infinite) psi[k] = log_b[k] + (psi[k] - log_b[k]) * ratio;
}

// Balanced potentials are free by a constant: ⟨a, u⟩ = ⟨b, v⟩. (Where +Inf cuts the pairs into parts, each part is free by
// its own; the CPU finds the parts, here one constant serves all.) One block finds it, shift_kernel applies it.
__global__ void __launch_bounds__(threads) gauge_kernel(const double* a, const double* b, int64_t rows, int64_t columns,
                                                        const double* log_b, const double* u, const double* psi, Facts* facts) {
    __shared__ double room[threads / 32];
    double difference = 0, mass = 0;
    for (int64_t i = threadIdx.x; i < rows; i += threads) {
        if (!(a[i] > 0)) continue;
        difference -= a[i] * u[i];
        mass += a[i];
    }
    for (int64_t j = threadIdx.x; j < columns; j += threads) {
        if (b[j] > 0) difference += b[j] * (psi[j] - log_b[j]);
    }
    difference = over_block(difference, room, Plus());
    mass = over_block(mass, room, Plus());
    if (threadIdx.x == 0) facts->shift = difference / (2 * mass);
}
__global__ void __launch_bounds__(threads) shift_kernel(int64_t rows, int64_t columns, const Facts* facts, double* u,
                                                        double* psi) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k < rows) u[k] += facts->shift;
    if (k < columns) psi[k] -= facts->shift;
}

// f and g, and the u and ψ that they stand for once rounded.
__global__ void __launch_bounds__(threads) finish_kernel(const double* a, const double* b, int64_t rows, int64_t columns,
                                                         const double* log_b, double reg, double* u, double* psi, double* f,
                                                         double* g) {
    const int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
    if (k < rows) {
        f[k] = a[k] > 0 ? reg * u[k] : minus_infinite;
        if (a[k] > 0) u[k] = f[k] / reg;
    }
    if (k < columns) {
        g[k] = b[k] > 0 ? reg * (psi[k] - log_b[k]) : minus_infinite;
        if (b[k] > 0) psi[k] = log_b[k] + g[k] / reg;
    }
}

class Run {
public:
    Run(const DeviceCost& cost, const double* a, const double* b, const DeviceSinkhornOptions& options, Scratch& scratch)
        : cost_(cost), options_(options), place_(scratch.place()), room_(pass_room(cost, options.resident, scratch)) {
        const int64_t n = cost.rows, m = cost.columns;
        u_ = scratch.take_array<double>(n);
        psi_ = scratch.take_array<double>(m);
        next_ = scratch.take_array<double>(m);
        sums_ = {scratch.take_array<double>(n), scratch.take_array<double>(m)};
        numbers_ = scratch.take_array<double>(2);
        facts_ = scratch.take_array<Facts>(1);
        auto* scaled_b = scratch.take_array<double>(m);
        log_b_ = scratch.take_array<double>(m);
        balance_ = {0, 0, 0, a, scaled_b, log_b_, &facts_->least_column};
        balanced_ = std::isinf(options.rho_a) && std::isinf(options.rho_b);
        launch("sinkhorn: weights", place_, {dim3(1), threads}, facts_kernel, a, b, n, m, balanced_, lost_share(room_.narrow),
               facts_);
        launch("sinkhorn: start", place_, along(), start_kernel, b, options.f, options.g, n, m, 1 / options.reg, facts_, scaled_b,
               log_b_, u_, psi_);
        double ends[2];
        if (options.range != nullptr) {
            std::copy_n(options.range, 2, ends);
        } else {
            auto* range = scratch.take_array<double>(cost_range_parts);
            cost_range(cost, range, place_);
            std::copy_n(read(range, 2, place_, reading).data(), 2, ends);
        }
        const Facts facts = read(facts_, 1, place_, reading)[0];
        span_ = ends[1] >= ends[0] ? ends[1] - ends[0] : 0;
        const double size = ends[1] >= ends[0] ? std::max(std::abs(ends[0]), std::abs(ends[1])) / options.reg : 0;
        floor_ = facts.mass * std::numeric_limits<double>::epsilon() * (16 + size);
        if (room_.narrow) floor_ += facts.mass * narrow_floor;
        mass_ = facts.mass;
        set_reg(options.reg);
    }

    void solve() {
        const bool started = options_.f != nullptr || options_.g != nullptr;
        if (options_.continuation && !started) {
            std::vector<double> regs = regs_of(options_.reg, span_);
            regs.pop_back();
            for (const double reg : regs) {
                set_reg(reg);
                if (reach(std::max(options_.tol, level_goal * mass_), level_sweeps)) return;
            }
        }
        set_reg(options_.reg);
        reach(goal_share * options_.tol, options_.max_iter);
    }

    DeviceSinkhornOutcome finish(double* f, double* g) {
        if (reg_ != options_.reg) {  // ended on the way
            set_reg(options_.reg);
            sweep(cost_, balance_, room_, u_, psi_, next_, sums_.columns, place_);
        }
        if (balanced_) gauge(psi_);
        launch("sinkhorn: potentials", place_, along(), finish_kernel, balance_.a, balance_.b, cost_.rows, cost_.columns, log_b_,
               options_.reg, u_, psi_, f, g);
        measure(cost_, balance_, room_, u_, psi_, sums_, numbers_, numbers_ + 1, place_);
        const std::vector<double> found = read(numbers_, 2, place_, reading);
        return {end_of(status_, found[0], options_.tol), iterations_, found[0], found[1], sums_, std::move(history_)};
    }

private:
    static constexpr const char* reading = "sinkhorn: reading the error";

    Grid along() const {
        return {dim3(static_cast<unsigned>(ceil_div(std::max(cost_.rows, cost_.columns), threads))), threads};
    }
    void set_reg(double reg) {
        if (reg_ != 0 && reg_ != reg) {
            if (moved_) std::swap(psi_, next_);
            moved_ = false;
            launch("sinkhorn: rescale", place_, along(), rescale_kernel, cost_.rows, cost_.columns, log_b_, reg_ / reg, u_, psi_);
        }
        reg_ = reg;
        balance_.inverse_reg = 1 / reg;
        balance_.kappa_a = reg / options_.rho_a;
        balance_.kappa_b = reg / options_.rho_b;
    }
    void gauge(double* psi) const {
        launch("sinkhorn: gauge", place_, {dim3(1), threads}, gauge_kernel, balance_.a, balance_.b, cost_.rows, cost_.columns,
               log_b_, u_, psi, facts_);
        launch("sinkhorn: gauge", place_, along(), shift_kernel, cost_.rows, cost_.columns, facts_, u_, psi);
    }

    // Sweeps until the error is within the goal, or that many of them. True when the run is over.
    bool reach(double goal, int most) {
        best_ = std::numeric_limits<double>::infinity();
        idle_ = 0;
        if (iterations_ >= options_.max_iter) {
            status_ = Status::max_iter;
            return true;
        }
        for (int done = 0, batch = 1; done < most;) {
            batch = std::min({batch, most - done, options_.max_iter - iterations_});
            for (int k = 0; k < batch; ++k) {
                if (moved_) std::swap(psi_, next_);
                if (iterations_ == 1 && balanced_) gauge(psi_);  // a start may carry any constant, and large ones cost digits
                sweep(cost_, balance_, room_, u_, psi_, next_, sums_.columns, place_);
                moved_ = true;
                ++iterations_;
            }
            done += batch;
            total_error(balance_, room_, cost_.columns, numbers_, place_);
            const double error = read(numbers_, 1, place_, reading)[0];
            moved_ = !(error <= goal);  // else (u, ψ) are the ones to keep
            if (record(error)) return true;
            if (error <= goal) {
                status_ = Status::converged;
                return false;
            }
            if (over(error)) return true;
            batch = std::min(2 * batch, sweeps_between_looks);
        }
        return false;
    }
    // True when the caller wants the end.
    bool record(double error) {
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start_;
        history_.push_back({TransportStage::sinkhorn, error, reg_, seconds.count()});
        if (!options_.callback || !options_.callback(history_.back(), iterations_)) return false;
        status_ = Status::stopped;
        return true;
    }
    bool over(double error) {
        if (!std::isfinite(error)) {
            status_ = Status::breakdown;
            return true;
        }
        if (error < progress * best_) {
            best_ = error;
            idle_ = 0;
        } else if (error < near_floor * floor_ && ++idle_ > patience_at_floor) {
            status_ = Status::precision_floor;
            return true;
        }
        status_ = Status::max_iter;
        return iterations_ >= options_.max_iter;
    }

    const DeviceCost& cost_;
    const DeviceSinkhornOptions& options_;
    CudaPlace place_;
    PassRoom room_;
    DeviceBalance balance_{};
    DeviceSums sums_{};
    double *u_, *psi_, *next_, *log_b_, *numbers_;
    Facts* facts_;
    bool balanced_, moved_ = false;  // next_ holds the columns' optimum, which has not been taken
    double reg_ = 0, span_ = 0, floor_ = 0, mass_ = 0, best_ = 0;
    int idle_ = 0, iterations_ = 0;
    Status status_ = Status::max_iter;
    std::vector<TransportRecord> history_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

DeviceSinkhornOutcome sinkhorn(const DeviceCost& cost, const double* a, const double* b, const DeviceSinkhornOptions& options,
                               double* f, double* g, Scratch& scratch) {
    const DeviceGuard guard(scratch.place().device);
    Run run(cost, a, b, options, scratch);
    run.solve();
    return run.finish(f, g);
}

}  // namespace raphson::cuda
