// Rows on a CUDA device in the hands of a driver on the host (device_rows.h).
#include "sketch/device_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/copy.h"
#include "cuda/reduce.h"
#include "sketch/device_kernels.h"
#include "sketch/device_passes.h"
#include "sketch/row_loss.h"
#include "sketch/streams.h"

namespace raphson::cuda {
namespace {

constexpr int row_threads = 256;
constexpr int64_t most_row_blocks = 528, line_sums = 2;

Grid row_grid(int64_t count, const char* name) { return {block_count(ceil_div(count, row_threads), name), row_threads}; }
Grid range_grid(int64_t count) {
    return {dim3(static_cast<unsigned>(std::clamp<int64_t>(ceil_div(count, row_threads), 1, most_row_blocks))), row_threads};
}

__device__ __forceinline__ int64_t thread_of_all() { return static_cast<int64_t>(blockIdx.x) * row_threads + threadIdx.x; }
__device__ __forceinline__ int64_t threads_in_all() { return static_cast<int64_t>(gridDim.x) * row_threads; }

// A block's largest absolute value.
__global__ void __launch_bounds__(row_threads) largest_kernel(const double* values, int64_t count, double* parts) {
    __shared__ double room[row_threads / 32];
    double most = 0;
    for (int64_t i = thread_of_all(); i < count; i += threads_in_all()) most = LargerOrNaN{}(most, fabs(values[i]));
    most = over_block(most, room, LargerOrNaN{});
    if (threadIdx.x == 0) parts[blockIdx.x] = most;
}

__global__ void __launch_bounds__(row_threads) line_kernel(const RowLine what, int64_t n, double* parts) {
    __shared__ double room[row_threads / 32];
    double loss = 0, slope = 0;
    for (int64_t i = thread_of_all(); i < n; i += threads_in_all()) {
        const double weight = what.weight != nullptr ? what.weight[i] : 1.0, step = what.to[i] - what.from[i], y = what.y[i];
        if (!(weight > 0)) continue;
        const RowValue value = row_value(what.loss, what.from[i] + what.at * step, y);
        loss += weight * (what.saturated ? value.loss - saturated_loss(what.loss, y) : value.loss);
        slope += weight * value.residual * step;
    }
    loss = over_block(loss, room, Plus{});
    slope = over_block(slope, room, Plus{});
    if (threadIdx.x != 0) return;
    parts[blockIdx.x * line_sums] = loss;
    parts[blockIdx.x * line_sums + 1] = slope;
}

__global__ void __launch_bounds__(row_threads) roots_kernel(const double* weight, const double* curvature, int64_t n, double* root) {
    const int64_t i = thread_of_all();
    if (i >= n) return;
    const double w = weight != nullptr ? weight[i] : 1.0;
    root[i] = w > 0 ? sqrt(w * curvature[i]) : 0.0;
}

template <class T>
__global__ void __launch_bounds__(row_threads) pick_kernel(const T* a, int64_t ld, int64_t cols, const int64_t* rows, int64_t count,
                                                           T* to) {
    const int64_t k = thread_of_all();
    if (k < count * cols) to[k] = a[rows[k / cols] * ld + k % cols];
}

__global__ void __launch_bounds__(row_threads) link_kernel(double* margin, const double* offset, int64_t n, RowLink link) {
    const int64_t i = thread_of_all();
    if (i >= n) return;
    const double m = offset != nullptr ? margin[i] + offset[i] : margin[i], e = exp(-fabs(m));
    margin[i] = link == RowLink::probability   ? (m >= 0 ? 1.0 : e) / (1 + e)
                : link == RowLink::exponential ? exp(m)
                : link == RowLink::positive    ? (m > 0 ? 1.0 : 0.0)
                                               : m;
}

class Rows final : public CudaRows {
public:
    // kept: what `a` lies in, if not in the caller's memory.
    Rows(const DenseRows& a, std::unique_ptr<Scratch> kept) : a_(a), place_(kept->place()), kept_(std::move(kept)) {
        const DeviceGuard guard(place_.device);
        v_ = kept_->take_array<double>(a.cols + 1);
        out_ = kept_->take_array<double>(a.cols + 1 + line_sums);
    }

    RowBlock shape() const override {
        RowBlock block;
        block.type = a_.type;
        block.rows = a_.rows;
        block.cols = a_.cols;
        block.stride = a_.ld;
        return block;
    }

    double* vector(int64_t count) override {
        const DeviceGuard guard(place_.device);
        return kept_->take_array<double>(count);
    }
    double* vector(const double* values, int64_t count) override {
        double* const to = vector(count);
        put(values, to, count);
        return to;
    }
    double* columns(const CudaView& from) override {
        double* const to = vector(from.rows * from.columns);
        const DeviceGuard guard(place_.device);
        copy(from, {to, DType::float64, from.rows, from.columns, 1, from.rows}, place_);
        return to;
    }

    void read_vector(const double* vector, int64_t count, double* to) override { get(const_cast<double*>(vector), to, count); }
    double largest(const double* vector, int64_t count) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const Grid grid = range_grid(count);
        std::vector<double> most(grid.blocks.x);
        auto* const parts = scratch.take_array<double>(grid.blocks.x);
        launch("largest", place_, grid, largest_kernel, vector, count, parts);
        get(parts, most.data(), grid.blocks.x);
        double result = 0;
        for (const double x : most) {
            if (!(x <= result)) result = x == x ? x : std::numeric_limits<double>::infinity();
        }
        return result;
    }

    void sweep(const RowSweep& what) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const int64_t size = a_.cols + what.border;
        RowSweep there = what;
        put(what.v, v_, size);
        there.v = v_;
        there.out = out_;
        there.totals = what.totals != nullptr ? out_ + size : nullptr;
        row_sweep(a_, there, scratch);
        std::vector<double> found(static_cast<std::size_t>(size + line_sums));
        get(out_, found.data(), what.totals != nullptr ? size + line_sums : size);
        std::copy_n(found.data(), size, what.out);
        if (what.totals != nullptr) std::copy_n(found.data() + size, line_sums, what.totals);
    }

    void along(const RowLine& what, double* totals) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const Grid grid = range_grid(a_.rows);
        auto* const parts = scratch.take_array<double>(grid.blocks.x * line_sums);
        launch("loss along a line", place_, grid, line_kernel, what, a_.rows, parts);
        add_parts("loss along a line", parts, grid.blocks.x, line_sums, out_, place_);
        get(out_, totals, line_sums);
    }

    void roots(const double* weight, const double* curvature, double* root) override {
        const DeviceGuard guard(place_.device);
        launch("weights", place_, row_grid(a_.rows, "weights"), roots_kernel, weight, curvature, a_.rows, root);
    }

    void sketch(const RowSketch& s, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        sketch_to_host(s, a_, out, scratch);
    }
    void sketch(const RowSketch& s, const CudaView& b, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        auto* const rows = scratch.take_array<double>(b.rows * b.columns);
        copy(b, contiguous(rows, DType::float64, b.rows, b.columns), place_);
        sketch_to_host(s, {rows, DType::float64, b.rows, b.columns, b.columns}, out, scratch);
    }

    void gram(const double* root, int border, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        gram_to_host(a_, root, border, out, scratch);
    }
    void sketched_gram(const RowSketch& s, const double* root, int border, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const int64_t p = a_.cols + border;
        auto* const sketched = scratch.take_array<double>(s.rows * p);
        sign_sketch(entries(s), a_, root, {sketched, DType::float64, p}, scratch);
        if (border != 0) {  // S diag(root) 1 = S root
            sign_sketch(entries(s), {root, DType::float64, a_.rows, 1, 1}, nullptr, {sketched + a_.cols, DType::float64, p}, scratch);
        }
        gram_to_host({sketched, DType::float64, s.rows, p, p}, nullptr, 0, out, scratch);
    }
    double thinned_gram(const double* root, int border, int64_t apart, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const DenseRows thin{a_.data, a_.type, ceil_div(a_.rows, apart), a_.cols, a_.ld * apart};
        if (root == nullptr) {
            gram_to_host(thin, nullptr, border, out, scratch);
            return static_cast<double>(thin.rows) / static_cast<double>(a_.rows);
        }
        auto* const picked = scratch.take_array<double>(thin.rows);
        auto* const weights = scratch.take_array<double>(2);
        copy({const_cast<double*>(root), DType::float64, thin.rows, 1, apart, 1}, contiguous(picked, DType::float64, thin.rows, 1), place_);
        column_squares({nullptr, DType::float64, thin.rows, 0, 0}, picked, 1, weights, scratch);  // of the ones alone
        column_squares({nullptr, DType::float64, a_.rows, 0, 0}, root, 1, weights + 1, scratch);
        double sums[2];
        get(weights, sums, 2);
        const bool some = sums[0] > 0;
        gram_to_host(some ? thin : a_, some ? picked : root, border, out, scratch);
        return some ? sums[0] / sums[1] : 1.0;
    }
    void squares(const double* root, int border, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const int64_t p = a_.cols + border;
        column_squares(a_, root, border, out_, scratch);
        get(out_, out, p);
    }

    void class_sweep(const ClassSweep& what) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        const int64_t size = what.classes * (a_.cols + what.border);
        ClassSweep there = with_v(what, scratch);
        there.out = scratch.take_array<double>(size + line_sums);
        there.totals = there.out + size;
        cuda::class_sweep(a_, there, scratch);
        std::vector<double> found(static_cast<std::size_t>(size + line_sums));
        get(there.out, found.data(), what.y != nullptr ? size + line_sums : size);
        std::copy_n(found.data(), size, what.out);
        if (what.y != nullptr) std::copy_n(found.data() + size, line_sums, what.totals);
    }
    void class_along(const RowLine& what, int classes, double* totals) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        auto* const there = scratch.take_array<double>(line_sums);
        class_line(what, a_.rows, classes, there, scratch);
        get(there, totals, line_sums);
    }
    void class_roots(const double* weight, const double* probability, int classes, int c, int e, double* root) override {
        const DeviceGuard guard(place_.device);
        cuda::class_roots(weight, probability, a_.rows, classes, c, e, root, place_);
    }
    void class_means(const ClassSweep& what, bool probabilities) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        cuda::class_means(a_, with_v(what, scratch), probabilities, scratch);
    }

    void read_rows(int64_t first, int64_t count, void* to) override {
        auto* const from = static_cast<char*>(const_cast<void*>(a_.data)) + first * a_.ld * itemsize(a_.type);
        read({from, a_.type, count, a_.cols, a_.ld, 1}, to, place_);
    }

    CudaRows* pick(const int64_t* rows, int64_t count) override {
        const DeviceGuard guard(place_.device);
        auto fresh = std::make_unique<Scratch>(place_);
        auto* const picked = fresh->take_array<int64_t>(count);
        write(rows, picked, static_cast<std::size_t>(count) * sizeof(int64_t), place_);
        const int64_t size = count * a_.cols;
        void* const to = fresh->take(static_cast<std::size_t>(size * itemsize(a_.type)));
        for_real(a_.type, "pick rows", [&](auto like) {
            using T = decltype(like);
            launch("pick rows", place_, row_grid(size, "pick rows"), pick_kernel<T>, static_cast<const T*>(a_.data), a_.ld, a_.cols,
                   static_cast<const int64_t*>(picked), count, static_cast<T*>(to));
        });
        return new Rows({to, a_.type, count, a_.cols, a_.cols}, std::move(fresh));
    }

    void predict(const double* v, int border, const double* offset, RowLink link, double* out) override {
        const DeviceGuard guard(place_.device);
        Scratch scratch(place_);
        RowSweep what;
        put(v, v_, a_.cols + border);
        what.v = v_;
        what.border = border;
        what.out = out_;
        what.margin = out;
        row_sweep(a_, what, scratch);
        launch("link", place_, row_grid(a_.rows, "link"), link_kernel, out, offset, a_.rows, link);
    }

private:
    static SignEntries entries(const RowSketch& s) { return {s.seed, sparse_sign_stream, s.rows, s.nnz, 0}; }

    ClassSweep with_v(const ClassSweep& what, Scratch& scratch) const {
        const int64_t size = what.classes * (a_.cols + what.border);
        auto* const v = scratch.take_array<double>(size);
        put(what.v, v, size);
        ClassSweep there = what;
        there.v = v;
        return there;
    }
    void put(const double* from, double* to, int64_t count) const {
        write(from, to, static_cast<std::size_t>(count) * sizeof(double), place_);
    }
    void get(double* from, double* to, int64_t count) const { read(contiguous(from, DType::float64, 1, count), to, place_); }

    void sketch_to_host(const RowSketch& s, const DenseRows& a, double* out, Scratch& scratch) const {
        auto* const sketched = scratch.take_array<double>(s.rows * a.cols);
        sign_sketch(entries(s), a, nullptr, {sketched, DType::float64, a.cols}, scratch);
        get(sketched, out, s.rows * a.cols);
    }
    void gram_to_host(const DenseRows& a, const double* root, int border, double* out, Scratch& scratch) const {
        const int64_t p = a.cols + border;
        auto* const gram = scratch.take_array<double>(p * p);
        column_gram(a, root, border, gram, scratch);
        get(gram, out, p * p);
    }

    DenseRows a_;
    CudaPlace place_;
    std::unique_ptr<Scratch> kept_;
    double *v_ = nullptr, *out_ = nullptr;  // of a row's length: on their way up and down
};

}  // namespace

CudaRows* make_rows(const CudaView& a, CudaPlace place) {
    const DeviceGuard guard(place.device);
    auto kept = std::make_unique<Scratch>(place);
    const bool packed = a.columns <= 1 || a.column_stride == 1;
    DenseRows rows{a.data, a.type, a.rows, a.columns, a.rows > 1 ? a.row_stride : a.columns};
    if (!packed || rows.ld < rows.cols) {
        void* const to = kept->take(static_cast<std::size_t>(a.rows * a.columns * itemsize(a.type)));
        copy(a, contiguous(to, a.type, a.rows, a.columns), place);
        rows.data = to;
        rows.ld = rows.cols;
    }
    return new Rows(rows, std::move(kept));
}

}  // namespace raphson::cuda
