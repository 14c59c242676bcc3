// Conjugate gradients on the Schur complement, every number on the device: three kernels beside the product. Each block adds
// up the others' shares of a dot product itself, in their order; what the steps need to know is in one of two states, written
// by a step while the other is read.
#include <algorithm>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "ot/device_pattern.h"

namespace raphson::cuda {
namespace {

constexpr int threads = 256, most_blocks = 256;
constexpr int first_look = 8, latest_look = 32;  // steps

struct State {
    double rz, residual;
    double steps, stopped;
};
struct Shares {  // a block's, of dot products
    double curvature[most_blocks], residual[most_blocks], rz[most_blocks], qp[most_blocks], wp[most_blocks];
};
struct Vectors {
    double *x, *r, *p, *q;
    const double* product;  // TᵀD₁⁻¹Tp
};

__device__ __forceinline__ double total(const double* shares, double* room) {
    double sum = threadIdx.x < gridDim.x ? shares[threadIdx.x] : 0;
    return over_block(sum, room, Plus());
}

// q ← S p
__global__ void __launch_bounds__(threads) product_kernel(const DeviceSchur s, const Vectors v, Shares* shares) {
    __shared__ double room[threads / 32];
    double qp = 0, wp = 0, curvature = 0;
    if (s.lump_total > 0) {
        qp = total(shares->qp, room) / s.lump_total;
        wp = (total(shares->wp, room) + s.lump_pp * qp) / s.lump_total;
    }
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; j < s.columns; j += int64_t{threads} * gridDim.x) {
        double y = s.d2[j] * v.p[j] - v.product[j];
        if (s.lump_total > 0) y -= s.lump_w[j] * qp + s.lump_q[j] * wp;
        v.q[j] = y;
        curvature = fma(v.p[j], y, curvature);
    }
    curvature = over_block(curvature, room, Plus());
    if (threadIdx.x == 0) shares->curvature[blockIdx.x] = curvature;
}

// The step along p; none at the start, whose p and q are not read.
__global__ void __launch_bounds__(threads) step_kernel(const DeviceSchur s, const Vectors v, const State* now, bool start,
                                                       Shares* shares) {
    __shared__ double room[threads / 32];
    const double curvature = start ? 0 : total(shares->curvature, room);
    const double alpha = !start && now->stopped == 0 && curvature > 0 ? now->rz / curvature : 0;
    double residual = 0, rz = 0;
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; j < s.columns; j += int64_t{threads} * gridDim.x) {
        double r = v.r[j];
        if (alpha != 0) {
            v.x[j] = fma(alpha, v.p[j], v.x[j]);
            r = fma(-alpha, v.q[j], r);
            v.r[j] = r;
        } else if (start) {
            v.x[j] = 0;
        }
        residual += fabs(r);
        rz = fma(s.jacobi[j] * r, r, rz);
    }
    residual = over_block(residual, room, Plus());
    rz = over_block(rz, room, Plus());
    if (threadIdx.x != 0) return;
    shares->residual[blockIdx.x] = residual;
    shares->rz[blockIdx.x] = rz;
}

// The next p, and whether there is one.
__global__ void __launch_bounds__(threads) direction_kernel(const DeviceSchur s, const Vectors v, const State* now, bool start,
                                                            double target, Shares* shares, State* next) {
    __shared__ double room[threads / 32];
    const double residual = total(shares->residual, room), rz = total(shares->rz, room);
    const bool stopped_before = !start && now->stopped != 0;
    const bool stepped = !start && !stopped_before && total(shares->curvature, room) > 0;
    const bool stopped = stopped_before || (!start && !stepped) || !(residual > target) || !(rz > 0);
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *next = {rz, residual, start ? 0 : now->steps + (stepped ? 1 : 0), stopped ? 1.0 : 0.0};
    }
    const double beta = start || stopped ? 0 : rz / now->rz;
    double qp = 0, wp = 0;
    for (int64_t j = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; j < s.columns; j += int64_t{threads} * gridDim.x) {
        double p = s.jacobi[j] * v.r[j];
        if (beta != 0) p = fma(beta, v.p[j], p);
        v.p[j] = p;
        if (s.lump_total > 0) {
            qp = fma(s.lump_q[j], p, qp);
            wp = fma(s.lump_w[j], p, wp);
        }
    }
    qp = over_block(qp, room, Plus());
    wp = over_block(wp, room, Plus());
    if (threadIdx.x != 0) return;
    shares->qp[blockIdx.x] = qp;
    shares->wp[blockIdx.x] = wp;
}

}  // namespace

CgOutcome conjugate_gradients(const DeviceSchur& system, const std::function<void(const double* x, double* y)>& normal, double* r,
                              double* x, double target, int most, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const int64_t m = system.columns;
    auto *const p = scratch.take_array<double>(m), *const q = scratch.take_array<double>(m);
    auto* const product = scratch.take_array<double>(m);
    auto* const shares = scratch.take_array<Shares>(1);
    auto* const states = scratch.take_array<State>(2);
    const Vectors v{x, r, p, q, product};
    const Grid grid{dim3(static_cast<unsigned>(std::min<int64_t>(ceil_div(m, threads), most_blocks))), threads};
    int now = 0;
    const auto move = [&](bool start) {
        launch("sinkhorn: step", place, grid, step_kernel, system, v, states + now, start, shares);
        launch("sinkhorn: direction", place, grid, direction_kernel, system, v, states + now, start, target, shares,
               states + 1 - now);
        now = 1 - now;
    };
    const auto look = [&] { return read(states + now, 1, place)[0]; };
    move(true);
    State state = look();
    for (int done = 0; state.stopped == 0 && done < most;) {
        const int batch = std::min(std::clamp(done / 4, first_look, latest_look), most - done);
        for (int k = 0; k < batch; ++k) {
            normal(p, product);
            launch("sinkhorn: product", place, grid, product_kernel, system, v, shares);
            move(false);
        }
        done += batch;
        state = look();
    }
    return {static_cast<int>(state.steps), state.residual};
}

}  // namespace raphson::cuda
