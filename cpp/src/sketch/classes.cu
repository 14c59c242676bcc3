// The multinomial family on a CUDA device: margins of all classes by a product of A's rows with the coefficients, softmax row
// by row, and the gradient by products of panels of rows, added up in their order. float32 rows are widened a part at a time.
#include <algorithm>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "gemm/product.h"
#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr const char* class_name = "sweep over classes";
constexpr int class_threads = 256;
constexpr int64_t class_sums = 2;

// Rows first … first + count - 1: t their products with v (count × k); turned, panels of `panel` rows of u each, class after
// class; parts, the sums of every block of threads.
struct ClassWork {
    ClassSweep what;
    int64_t first, count, p, panel;
    const double* t;
    double* turned;
    double* parts;

    __device__ double bias(int64_t c) const { return what.border != 0 ? what.v[(c + 1) * p - 1] : 0.0; }
    // u of a row of this part: class c lies c · rows further, where the row's panel has so many rows.
    __device__ double* place(int64_t row, int64_t& rows) const {
        const int64_t begin = row / panel * panel;
        rows = count - begin < panel ? count - begin : panel;
        return turned + begin * what.classes + row - begin;
    }
};

// The largest of k margins, and Σ e^{m − largest} over the others.
struct Softmax {
    int64_t top;
    double largest, rest;
};
template <class Margin>
__device__ __forceinline__ Softmax softmax(int64_t k, const Margin& margin) {
    Softmax s{0, margin(0), 0};
    for (int64_t c = 1; c < k; ++c) {
        const double m = margin(c);
        if (m > s.largest) s = {c, m, 0};
    }
    for (int64_t c = 0; c < k; ++c) {
        if (c != s.top) s.rest += exp(margin(c) - s.largest);
    }
    return s;
}

// A thread a row. Margins, probabilities, loss and residuals of the linear parts t.
__global__ void __launch_bounds__(class_threads) class_loss_kernel(const ClassWork work) {
    __shared__ double room[class_threads / 32];
    const ClassSweep& what = work.what;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * class_threads + threadIdx.x, k = what.classes, all = work.first + row;
    double loss = 0, astray = 0;
    if (row < work.count) {
        const auto label = static_cast<int64_t>(what.y[all]);
        double* const margin = what.margin + all * k;
        double* const p = what.probability + all * k;
        const double own = work.t[row * k + label] + work.bias(label), weight = what.weight != nullptr ? what.weight[all] : 1.0;
        bool right = true;
        for (int64_t c = 0; c < k; ++c) {
            const double linear = work.t[row * k + c] + work.bias(c);
            right = right && (c == label || linear < own);
            margin[c] = what.offset != nullptr ? linear + what.offset[all * k + c] : linear;
        }
        const Softmax s = softmax(k, [margin](int64_t c) { return margin[c]; });
        const double scale = 1 / (1 + s.rest);
        int64_t rows;
        double* const u = work.place(row, rows);
        double others = 0;
        for (int64_t c = 0; c < k; ++c) {
            p[c] = scale * exp(margin[c] - s.largest);
            if (c != label) others += p[c];
            u[c * rows] = weight > 0 ? weight * p[c] : 0.0;
        }
        u[label * rows] = weight > 0 ? -weight * others : 0.0;
        if (weight > 0) {
            loss = weight * (log1p(s.rest) + (s.largest - margin[label]));
            astray = right ? 0.0 : 1.0;
        }
    }
    loss = over_block(loss, room, Plus{});
    astray = over_block(astray, room, Plus{});
    if (threadIdx.x != 0) return;
    work.parts[blockIdx.x * class_sums] = loss;
    work.parts[blockIdx.x * class_sums + 1] = astray;
}

// u = weight · p (t − Σ p t).
__global__ void __launch_bounds__(class_threads) class_product_kernel(const ClassWork work) {
    const ClassSweep& what = work.what;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * class_threads + threadIdx.x, k = what.classes, all = work.first + row;
    if (row >= work.count) return;
    const double* const p = what.probability + all * k;
    const double weight = what.weight != nullptr ? what.weight[all] : 1.0;
    double mean = 0;
    for (int64_t c = 0; c < k; ++c) mean += p[c] * (work.t[row * k + c] + work.bias(c));
    int64_t rows;
    double* const u = work.place(row, rows);
    for (int64_t c = 0; c < k; ++c) {
        u[c * rows] = weight > 0 ? weight * p[c] * (work.t[row * k + c] + work.bias(c) - mean) : 0.0;
    }
}

// Margins, or probabilities, where no label is known.
__global__ void __launch_bounds__(class_threads) class_mean_kernel(const ClassWork work, bool probabilities) {
    const ClassSweep& what = work.what;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * class_threads + threadIdx.x, k = what.classes, all = work.first + row;
    if (row >= work.count) return;
    double* const margin = what.margin + all * k;
    for (int64_t c = 0; c < k; ++c) {
        margin[c] = work.t[row * k + c] + work.bias(c) + (what.offset != nullptr ? what.offset[all * k + c] : 0.0);
    }
    if (!probabilities) return;
    const Softmax s = softmax(k, [margin](int64_t c) { return margin[c]; });
    for (int64_t c = 0; c < k; ++c) margin[c] = exp(margin[c] - s.largest) / (1 + s.rest);
}

// The border's share of the gradient: a block adds up a class of a panel.
__global__ void __launch_bounds__(class_threads) class_border_kernel(const ClassWork work, double* parts) {
    __shared__ double room[class_threads / 32];
    const int64_t k = work.what.classes, panel = blockIdx.x / k, c = blockIdx.x % k, begin = panel * work.panel;
    const int64_t rows = work.count - begin < work.panel ? work.count - begin : work.panel;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < rows; i += class_threads) sum += work.turned[begin * k + c * rows + i];
    sum = over_block(sum, room, Plus{});
    if (threadIdx.x == 0) parts[(panel * k + c + 1) * work.p - 1] = sum;
}

__global__ void __launch_bounds__(class_threads) class_line_kernel(const RowLine what, int64_t n, int64_t k, double* parts) {
    __shared__ double room[class_threads / 32];
    double loss = 0, slope = 0;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * class_threads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * class_threads + threadIdx.x; i < n; i += threads) {
        const double weight = what.weight != nullptr ? what.weight[i] : 1.0;
        if (!(weight > 0)) continue;
        const double* const from = what.from + i * k;
        const double* const to = what.to + i * k;
        const auto label = static_cast<int64_t>(what.y[i]);
        const auto margin = [&](int64_t c) { return from[c] + what.at * (to[c] - from[c]); };
        const Softmax s = softmax(k, margin);
        double turn = 0;  // Σ p (step − the label's step)
        for (int64_t c = 0; c < k; ++c) turn += exp(margin(c) - s.largest) * ((to[c] - from[c]) - (to[label] - from[label]));
        loss += weight * (log1p(s.rest) + (s.largest - margin(label)));
        slope += weight * turn / (1 + s.rest);
    }
    loss = over_block(loss, room, Plus{});
    slope = over_block(slope, room, Plus{});
    if (threadIdx.x != 0) return;
    parts[blockIdx.x * class_sums] = loss;
    parts[blockIdx.x * class_sums + 1] = slope;
}

// root² = weight times: the mean over classes of p (1 − p), scaled as on the space of coefficients that sum to 0, for c < 0;
// else the size of the curvature between classes c and e.
__global__ void __launch_bounds__(class_threads) class_roots_kernel(const double* weight, const double* probability, int64_t n, int64_t k,
                                                                    int64_t c, int64_t e, double* root) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * class_threads + threadIdx.x;
    if (i >= n) return;
    const double* const p = probability + i * k;
    const double w = weight != nullptr ? weight[i] : 1.0;
    double curvature = 0;
    if (c < 0) {
        for (int64_t b = 0; b < k; ++b) curvature += p[b] * (1 - p[b]);
        curvature /= static_cast<double>(k > 1 ? k - 1 : 1);
    } else {
        curvature = p[c] * (c == e ? 1 - p[c] : p[e]);
    }
    root[i] = w > 0 ? sqrt(w * curvature) : 0.0;
}

Grid class_grid(int64_t rows) { return {block_count(ceil_div(rows, class_threads), class_name), class_threads}; }

// body(rows of A in float64, first) for parts of A: all of it, or float32 rows widened.
template <class Body>
void for_parts(const DenseRows& a, int64_t part, Scratch& scratch, const Body& body) {
    if (a.type == DType::float64) return body(a, int64_t{0});
    auto* const wide = scratch.take_array<double>(std::min(part, a.rows) * a.cols);
    for (int64_t first = 0; first < a.rows; first += part) {
        const int64_t rows = std::min(part, a.rows - first);
        auto* const from = static_cast<float*>(const_cast<void*>(a.data)) + first * a.ld;
        copy({from, a.type, rows, a.cols, a.ld, 1}, contiguous(wide, DType::float64, rows, a.cols), scratch.place());
        body(DenseRows{wide, DType::float64, rows, a.cols, a.cols}, first);
    }
}

// t (rows × k) = A vᵀ.
void class_dots(const DenseRows& a, const ClassSweep& what, double* t, Scratch& scratch) {
    const int64_t k = what.classes;
    if (a.cols == 0) {
        check(cudaMemsetAsync(t, 0, static_cast<std::size_t>(a.rows * k) * sizeof(double), stream(scratch.place())), class_name);
        return;
    }
    ProductJob job;
    job.type = DType::float64;
    job.m = a.rows;
    job.n = k;
    job.k = a.cols;
    job.a = {a.data, a.ld, 0};
    job.b = {what.v, a.cols + what.border, 0};
    job.b_transposed = true;
    job.d = t;
    job.ldd = k;
    product(job, scratch);
}

// parts (panels × k × p) ← uᵀ A of every panel.
void class_combine(const DenseRows& a, const ClassWork& work, double* parts, Scratch& scratch) {
    const int64_t k = work.what.classes, whole = a.rows / work.panel, rest = a.rows % work.panel;
    ProductJob job;
    job.type = DType::float64;
    job.m = k;
    job.n = a.cols;
    job.k = work.panel;
    job.batch = whole;
    job.a = {work.turned, work.panel, work.panel * k};
    job.b = {a.data, a.ld, work.panel * a.ld};
    job.d = parts;
    job.ldd = work.p;
    job.step_d = k * work.p;
    product(job, scratch);
    if (rest > 0) {
        job.k = rest;
        job.batch = 1;
        job.a = {work.turned + whole * work.panel * k, rest, 0};
        job.b = {static_cast<const double*>(a.data) + whole * work.panel * a.ld, a.ld, 0};
        job.d = parts + whole * k * work.p;
        product(job, scratch);
    }
    if (work.what.border == 0) return;
    const Grid grid{block_count((whole + (rest > 0 ? 1 : 0)) * k, class_name), class_threads};
    launch(class_name, scratch.place(), grid, class_border_kernel, work, parts);
}

ClassWork work_of(const ClassSweep& what, int64_t cols, const ClassLimits& limits) {
    ClassWork work{};
    work.what = what;
    work.p = cols + what.border;
    work.panel = limits.panel_rows * ceil_div(what.classes, 64);  // so that sums stay few beside A
    return work;
}
int64_t part_rows(const ClassWork& work, int64_t cols, const ClassLimits& limits) {
    return std::max<int64_t>(limits.part_numbers / std::max<int64_t>(cols, 1) / work.panel, 1) * work.panel;
}

}  // namespace

void class_sweep(const DenseRows& a, const ClassSweep& what, Scratch& scratch, const ClassLimits& limits) {
    const CudaPlace place = scratch.place();
    ClassWork work = work_of(what, a.cols, limits);
    const int64_t k = what.classes, part = part_rows(work, a.cols, limits), panels = ceil_div(a.rows, work.panel), size = k * work.p;
    const int64_t at_once = a.type == DType::float64 ? a.rows : std::min(part, a.rows);
    auto* const t = scratch.take_array<double>(at_once * k);
    work.turned = scratch.take_array<double>(at_once * k);
    auto* const parts = scratch.take_array<double>(panels * size);
    auto* const sums = scratch.take_array<double>((a.rows / class_threads + a.rows / part + 2) * class_sums);
    int64_t blocks = 0;
    for_parts(a, part, scratch, [&](const DenseRows& rows, int64_t first) {
        work.first = first;
        work.count = rows.rows;
        work.t = t;
        work.parts = sums + blocks * class_sums;
        class_dots(rows, what, t, scratch);
        const Grid grid = class_grid(rows.rows);
        launch(class_name, place, grid, what.y != nullptr ? class_loss_kernel : class_product_kernel, work);
        blocks += grid.blocks.x;
        class_combine(rows, work, parts + first / work.panel * size, scratch);
    });
    add_parts(class_name, parts, panels, size, what.out, place);
    if (what.y == nullptr) return;
    add_parts(class_name, sums, blocks, class_sums, what.totals, place);
}

void class_means(const DenseRows& a, const ClassSweep& what, bool probabilities, Scratch& scratch, const ClassLimits& limits) {
    ClassWork work = work_of(what, a.cols, limits);
    const int64_t part = part_rows(work, a.cols, limits);
    auto* const t = scratch.take_array<double>((a.type == DType::float64 ? a.rows : std::min(part, a.rows)) * what.classes);
    for_parts(a, part, scratch, [&](const DenseRows& rows, int64_t first) {
        work.first = first;
        work.count = rows.rows;
        work.t = t;
        class_dots(rows, what, t, scratch);
        launch(class_name, scratch.place(), class_grid(rows.rows), class_mean_kernel, work, probabilities);
    });
}

void class_line(const RowLine& what, int64_t n, int64_t k, double* totals, Scratch& scratch) {
    const int64_t blocks = std::clamp<int64_t>(ceil_div(n, class_threads), 1, 528);
    auto* const parts = scratch.take_array<double>(blocks * class_sums);
    launch(class_name, scratch.place(), {dim3(static_cast<unsigned>(blocks)), class_threads}, class_line_kernel, what, n, k, parts);
    add_parts(class_name, parts, blocks, class_sums, totals, scratch.place());
}

void class_roots(const double* weight, const double* probability, int64_t n, int64_t k, int64_t c, int64_t e, double* root,
                 CudaPlace place) {
    launch(class_name, place, class_grid(n), class_roots_kernel, weight, probability, n, k, c, e, root);
}

}  // namespace raphson::cuda
