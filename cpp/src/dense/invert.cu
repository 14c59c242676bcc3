// Gauss–Jordan elimination on the device, as dense/inverse.cpp does it: pivot rows in panels, columns exchanged, the other
// rows met by the panel's rows as they were when they were pivots (docs/matrix_functions.md says why). A block of threads
// keeps a panel in shared memory; a matrix that fits there whole is inverted in one launch.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "dense/device_inverse.h"
#include "gemm/product.h"

namespace raphson::cuda {
namespace {

constexpr const char* name = "matrix inverse";
constexpr int most_rows = 32;  // of a panel that is not the whole: a lane each
constexpr int meet_threads = 256;

struct Panel {
    double *a, *out;         // out: where a matrix that is one panel goes
    int64_t n, count;
    double *kept, *inverse;  // of panels: rows × n as they were when they were pivots, rows × rows: (I + U)⁻¹
    int* pivots;             // n a matrix
    int* failed;
    int first, rows;
};

// Shared memory beside the rows of the panel: a pivot row, the factors of the others, and U.
constexpr std::size_t panel_bytes(int64_t rows, int64_t n) {
    const int64_t u = rows == n ? 0 : rows * rows;
    return static_cast<std::size_t>(((rows + 1) * n + rows + u) * 8);
}

// The first warp finds the largest entry of row[from …], the first of equals.
__device__ __forceinline__ int largest_entry(const double* row, int from, int n) {
    double best = -1;
    int at = from;
    for (int j = from + static_cast<int>(threadIdx.x); j < n; j += 32) {
        if (fabs(row[j]) > best) {
            best = fabs(row[j]);
            at = j;
        }
    }
    for (int by = 16; by > 0; by /= 2) {
        const double other = __shfl_xor_sync(~0u, best, by);
        const int there = __shfl_xor_sync(~0u, at, by);
        if (other > best || (other == best && there < at)) {
            best = other;
            at = there;
        }
    }
    return at;
}

__global__ void __launch_bounds__(1024) panel_kernel(const Panel job) {
    __shared__ int chosen;
    const int n = static_cast<int>(job.n), rows = job.rows, first = job.first;
    const int me = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const bool whole = rows == n;
    auto* const panel = reinterpret_cast<double*>(dynamic_shared());
    double *const scaled = panel + rows * n, *const factors = scaled + n, *const u = factors + rows;
    double* const a = job.a + (blockIdx.x * job.n + first) * job.n;
    double* const kept = whole ? nullptr : job.kept + int64_t{blockIdx.x} * rows * n;
    int* const pivots = job.pivots + int64_t{blockIdx.x} * n;
    for (int i = me; i < rows * n; i += threads) panel[i] = a[i];
    if (first == 0 && me == 0) job.failed[blockIdx.x] = 0;
    __syncthreads();

    for (int r = 0; r < rows; ++r) {
        const int at = first + r;
        double* const row = panel + r * n;
        if (me < 32) {
            const int found = largest_entry(row, at, n);
            if (me == 0) chosen = found;
        }
        __syncthreads();
        const int from = chosen;
        double inverse = 1 / row[from];
        const bool usable = fabs(inverse) > 0 && inverse - inverse == 0;  // not Inf, not NaN
        if (!usable) inverse = 1;  // what follows stays finite, for its neighbours in a batch of products
        // The exchanged pivot row, scaled, and the factors of the other rows; row r itself is written below.
        for (int j = me; j < n; j += threads) {
            scaled[j] = j == at ? inverse : row[j == from ? at : j] * inverse;
        }
        for (int i = me; i < rows; i += threads) {
            if (i == r) continue;
            double* const other = panel + i * n;
            const double factor = other[from];
            other[from] = other[at];
            other[at] = 0;
            factors[i] = factor;
            if (!whole && i < r) {
                const double before = kept[i * n + at];
                kept[i * n + at] = kept[i * n + from];
                kept[i * n + from] = before;
            }
        }
        if (me == 0) {
            pivots[at] = from;
            if (!usable) job.failed[blockIdx.x] = 1;
        }
        __syncthreads();
        for (int i = me / 32; i < rows; i += threads / 32) {
            double* const to = panel + i * n;
            const double factor = i == r ? 0 : factors[i];
            for (int j = me % 32; j < n; j += 32) to[j] = i == r ? scaled[j] : fma(-factor, scaled[j], to[j]);
        }
        for (int j = me; !whole && j < n; j += threads) kept[r * n + j] = scaled[j];
        __syncthreads();
    }

    if (whole) {  // (A P)⁻¹ = P⁻¹ A⁻¹: the rows go back in the opposite order
        auto* const order = reinterpret_cast<int*>(scaled);
        if (me == 0) {
            for (int i = 0; i < n; ++i) order[i] = i;
            for (int k = n - 1; k >= 0; --k) {
                const int other = pivots[k], before = order[k];
                order[k] = order[other];
                order[other] = before;
            }
        }
        __syncthreads();
        double* const out = job.out + blockIdx.x * job.n * job.n;
        for (int i = me / 32; i < n; i += threads / 32) {
            for (int j = me % 32; j < n; j += 32) out[int64_t{i} * n + j] = panel[order[i] * n + j];
        }
        return;
    }
    for (int i = me; i < rows * n; i += threads) a[i] = panel[i];
    // U, what is above the diagonal of the pivot rows' own columns, out of the kept rows and into (I + U)⁻¹.
    for (int k = me; k < rows * rows; k += threads) {
        const int i = k / rows, j = k % rows;
        double& here = kept[i * n + first + j];
        u[k] = j > i ? here : 0;
        if (j > i) here = 0;
    }
    __syncthreads();
    double* const inverse = job.inverse + int64_t{blockIdx.x} * rows * rows;
    if (me >= rows) return;
    for (int r = rows - 1; r >= 0; --r) {  // column `me`: nothing but this thread touches it
        double value = r == me ? 1 : 0;
        for (int k = r + 1; k < rows; ++k) value = fma(-u[r * rows + k], inverse[k * rows + me], value);
        inverse[r * rows + me] = value;
    }
}

// The other rows: columns exchanged as the pivots say, their factors F = M (I + U)⁻¹ out of their entries M in the pivots'
// columns, which become zeros. A warp a row, a lane a pivot. Rows of the panel get F = 0.
__global__ void __launch_bounds__(meet_threads) meet_kernel(const Panel job, double* factors) {
    const int64_t line = (static_cast<int64_t>(blockIdx.x) * meet_threads + threadIdx.x) / 32;
    const int64_t n = job.n, matrix = line / n, i = line % n;
    if (matrix >= job.count) return;  // a whole warp
    const int lane = static_cast<int>(threadIdx.x) % 32, rows = job.rows, first = job.first;
    double* const f = factors + line * rows;
    if (i >= first && i < first + rows) {
        if (lane < rows) f[lane] = 0;
        return;
    }
    double* const row = job.a + line * n;
    const int* const pivots = job.pivots + matrix * n + first;
    double mine = lane < rows ? row[first + lane] : 0;
    for (int r = 0; r < rows; ++r) {
        const int from = pivots[r] - first;
        if (from < rows) {  // between two lanes
            const double theirs = __shfl_sync(~0u, mine, lane == r ? from : r);
            if (lane == r || lane == from) mine = theirs;
        } else {
            if (lane == r) {
                const double before = row[first + from];
                row[first + from] = mine;
                mine = before;
            }
            __syncwarp();  // a later lane may exchange the same place
        }
    }
    if (lane < rows) row[first + lane] = 0;
    const double* const inverse = job.inverse + matrix * rows * rows;
    double sum = 0;
    for (int r = 0; r < rows; ++r) {
        const double m = __shfl_sync(~0u, mine, r);
        if (lane < rows) sum = fma(m, inverse[r * rows + lane], sum);
    }
    if (lane < rows) f[lane] = sum;
}

// order[i] ← the row of a that is row i of the inverse.
__global__ void __launch_bounds__(32) order_kernel(const int* pivots, int n, int* order) {
    const int* const mine = pivots + int64_t{blockIdx.x} * n;
    int* const to = order + int64_t{blockIdx.x} * n;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) to[i] = i;
    __syncwarp();
    if (threadIdx.x != 0) return;
    for (int k = n - 1; k >= 0; --k) {
        const int other = mine[k], before = to[k];
        to[k] = to[other];
        to[other] = before;
    }
}
__global__ void __launch_bounds__(meet_threads) reorder_kernel(const double* a, const int* order, int64_t n, double* out) {
    const int64_t line = blockIdx.x, matrix = line / n;
    const double* const from = a + (matrix * n + order[line]) * n;
    double* const to = out + line * n;
    for (int64_t j = threadIdx.x; j < n; j += meet_threads) to[j] = from[j];
}

// a ← a − f p: what the panel's rows make of the others.
void subtract_panel(const Panel& job, const double* f, CudaPlace place) {
    Scratch scratch(place);  // back in the pool for the next product
    ProductJob step;
    step.type = DType::float64;
    step.m = step.n = job.n;
    step.k = job.rows;
    step.batch = job.count;
    step.alpha = -1;
    step.beta = 1;
    step.a = {f, job.rows, job.n * job.rows};
    step.b = {job.kept, job.n, job.rows * job.n};
    step.c = {job.a, job.n, job.n * job.n};
    step.d = job.a;
    step.ldd = job.n;
    step.step_d = job.n * job.n;
    product(step, scratch);
}

}  // namespace

void invert(double* a, double* x, int64_t n, int64_t count, int* failed, Scratch& scratch) {
    const CudaPlace place = scratch.place();
    const std::size_t room = traits(place.device).shared_bytes - 1024;
    int64_t rows = n;
    if (panel_bytes(n, n) > room) {
        for (rows = most_rows; rows > 0 && panel_bytes(rows, n) > room;) --rows;
        if (rows == 0) throw std::runtime_error(std::string(name) + ": " + std::to_string(n) + " rows are more than there are kernels for");
    }
    Panel job{a, x, n, count, nullptr, nullptr, scratch.take_array<int>(n * count), failed, 0, static_cast<int>(rows)};
    const unsigned threads = n <= 32 ? 128 : n <= 96 ? 512 : 1024;
    const Grid panels{block_count(count, name), threads, panel_bytes(rows, n)};
    if (rows == n) return launch(name, place, panels, panel_kernel, job);
    job.kept = scratch.take_array<double>(rows * n * count);
    job.inverse = scratch.take_array<double>(rows * rows * count);
    auto* const factors = scratch.take_array<double>(n * rows * count);
    for (int64_t first = 0; first < n; first += rows) {
        job.first = static_cast<int>(first);
        job.rows = static_cast<int>(std::min(rows, n - first));
        launch(name, place, panels, panel_kernel, job);
        const dim3 lines = block_count(ceil_div(32 * n * count, meet_threads), name);
        launch(name, place, {lines, meet_threads}, meet_kernel, job, factors);
        subtract_panel(job, factors, place);
    }
    auto* const order = scratch.take_array<int>(n * count);
    launch(name, place, {block_count(count, name), 32}, order_kernel, job.pivots, static_cast<int>(n), order);
    launch(name, place, {block_count(count * n, name), meet_threads}, reorder_kernel, a, order, n, x);
}

}  // namespace raphson::cuda
