// The driver of a gradient window on a CUDA device: what window.cpp and window_queries.cpp do on the CPU.
#include "ihvp/device_window.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "ihvp/device_memory.h"
#include "ihvp/device_passes.h"

namespace raphson::cuda {
namespace {

class DeviceWindow final : public CudaWindow {
public:
    DeviceWindow(int64_t dim, int64_t capacity, Damping damping, const WindowOptions& options, CudaPlace place)
        : dim_(dim),
          capacity_(capacity),
          ring_(capacity + 1),
          damping_(damping),
          options_(options),
          type_(static_cast<Stored>(options.type)),
          block_(options.block_size == 0 ? dim : std::min(options.block_size, dim)),
          blocks_(ceil_div(dim, block_)),
          block_stride_(ceil_div(block_, row_alignment(type_)) * row_alignment(type_)),
          stride_(blocks_ * block_stride_),
          rows_(ring_ * stride_ * stored_size(type_), place),
          scales_(type_ == Stored::int8 ? ring_ * (stride_ / int8_block) : 0, place),
          row_scale_(ring_, place),
          residual_(options.error_feedback ? dim : 0, place),
          cores_(2 * blocks_ * ring_ * ring_, place),
          core_(1, place),
          device_(place.device),
          turns_(place) {
        if (capacity > most_rows(place.device)) {
            throw std::invalid_argument("GradientWindow: capacity must be at most " + std::to_string(most_rows(place.device)) +
                                        " on this device, got " + std::to_string(capacity));
        }
    }

    void precondition(const VectorRef& g, const VectorRef* out, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        const bool drops = length_ == capacity_;
        const int64_t length = drops ? capacity_ : length_ + 1, old_head = head_;
        auto* const found = scratch.take_array<DeviceScan>(1);
        auto* const sums = scratch.take_array<double>(blocks_ * length);
        auto* const y = scratch.take_array<double>(blocks_ * length);
        head_ = drops ? (head_ + 1) % ring_ : head_;
        length_ = length;
        const DeviceRows rows = this->rows();
        const int64_t newest = rows.slot(length - 1);
        scan(g, residual_.get(), type_, found, scratch);
        store_row(g, found, residual_.get(), rows, newest, place);
        products(rows, newest, nullptr, sums, scratch);
        append_gram(core(), sums, place);
        const RowChange change{sums, drops, old_head};
        refresh_factor(core(), &change, out != nullptr, core_.get(), place);
        if (out == nullptr) return;
        newest_coefficients(core(), core_.get(), found, y, place);
        combine(rows, y, nullptr, nullptr, *out, place);
    }

    void solve(const VectorRef& x, const VectorRef& out, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        auto* const y = multiplied(x, nullptr, scratch);
        auto* const inverse_lambda = scratch.take_array<double>(1);
        refresh_factor(core(), nullptr, true, core_.get(), place);
        solve_core(core(), y, 1, true, place);
        scale_coefficients(y, blocks_ * length_, 0, core_.get(), inverse_lambda, place);
        combine(rows(), y, &x, inverse_lambda, out, place);
    }

    void solve_recent(const double* weights, int64_t count, const VectorRef& out, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        std::vector<double> start(static_cast<std::size_t>(blocks_ * length_));
        for (int64_t b = 0; b < blocks_; ++b) {
            for (int64_t s = 0; s < count; ++s) start[static_cast<std::size_t>((b + 1) * length_ - 1 - s)] = weights[s];
        }
        auto* const y = scratch.take_array<double>(blocks_ * length_);
        copy(y, start.data(), start.size() * sizeof(double), cudaMemcpyHostToDevice, place);
        refresh_factor(core(), nullptr, true, core_.get(), place);
        solve_core(core(), y, 1, true, place);
        scale_coefficients(y, blocks_ * length_, scale(), nullptr, nullptr, place);
        combine(rows(), y, nullptr, nullptr, out, place);
    }

    double quadratic(const VectorRef& x, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        auto* const squares = scratch.take_array<double>(blocks_);
        auto* const device_y = multiplied(x, squares, scratch);
        refresh_factor(core(), nullptr, true, core_.get(), place);
        solve_core(core(), device_y, 1, false, place);
        const std::vector<double> y = cuda::read(device_y, blocks_ * length_, place), square = cuda::read(squares, blocks_, place);
        double sum = 0;
        for (int64_t b = 0; b < blocks_; ++b) {
            double rest = square[static_cast<std::size_t>(b)];
            for (int64_t t = 0; t < length_; ++t) rest -= y[static_cast<std::size_t>(b * length_ + t)] * y[static_cast<std::size_t>(b * length_ + t)];
            sum += std::max(rest, 0.0);  // what is negative is rounding
        }
        return sum / state_of_core(place).lambda;
    }

    // m·K(K + mλI)⁻¹ does not cancel, m − m²λ(K + mλI)⁻¹ does.
    double quadratic(int64_t index, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        const std::vector<double> x = read(solved_columns(index, 1, scratch), blocks_ * length_, place);
        double sum = 0;
        for (int64_t b = 0; b < blocks_; ++b) sum += scale() * x[static_cast<std::size_t>(b * length_ + index)];
        return sum;
    }

    double logdet(CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        auto* const logs = scratch.take_array<double>(1);
        refresh_factor(core(), nullptr, true, core_.get(), place);
        log_determinant(core(), core_.get(), logs, place);
        return read(logs, 1, place).front();
    }

    void influence(double* out, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        symmetric_sum(core(), solved_columns(0, length_, scratch), 0.5 * scale(), out, place);
    }

    double damping_in_use(CudaPlace place) override {
        if (!damping_.relative) return damping_.value;
        if (length_ == 0) return 0;
        const Turn turn(turns_, place);
        refresh_factor(core(), nullptr, true, core_.get(), place);
        return state_of_core(place).lambda;
    }

    void set_damping(Damping damping, CudaPlace place) override {
        const Turn turn(turns_, place);
        if (damping.relative != damping_.relative || damping.value != damping_.value) forget_factor(place);
        damping_ = damping;
    }

    void clear(CudaPlace place) override {
        const Turn turn(turns_, place);
        length_ = head_ = 0;
        forget_factor(place);
        if (residual_.bytes() != 0) check(cudaMemsetAsync(residual_.get(), 0, residual_.bytes(), stream(place)), "clear");
    }

    // In the CPU window's layout, so that states go from one to the other.
    raphson::Window::State state(CudaPlace place) override {
        const Turn turn(turns_, place);
        raphson::Window::State result;
        const auto bytes = static_cast<std::size_t>(stored_size(type_));
        const int64_t scales_per_row = cpu_scales();
        const std::vector<char> rows = cuda::read(rows_.get(), static_cast<int64_t>(rows_.bytes()), place);
        const std::vector<float> scales = cuda::read(scales_.get(), static_cast<int64_t>(scales_.bytes() / sizeof(float)), place);
        const std::vector<double> row_scale = cuda::read(row_scale_.get(), ring_, place);
        const int64_t square = ring_ * ring_;
        const std::vector<double> cores = cuda::read(cores_.get(), 2 * blocks_ * square, place);
        const DeviceCore now = state_of_core(place);
        result.residual = cuda::read(residual_.get(), static_cast<int64_t>(residual_.bytes() / sizeof(float)), place);
        result.rows.assign(static_cast<std::size_t>(ring_ * dim_) * bytes, std::byte{0});
        result.scales.assign(static_cast<std::size_t>(ring_ * scales_per_row), 0.0f);
        result.row_scale.assign(static_cast<std::size_t>(ring_), 1.0);
        result.gram.assign(static_cast<std::size_t>(blocks_ * square), 0.0);
        result.factor = result.gram;
        for (int64_t t = 0; t < length_; ++t) {  // what holds nothing is zero, whatever lies there
            const int64_t s = this->rows().slot(t);
            for_blocks([&](int64_t b, int64_t first, int64_t width, int64_t scale) {
                const char* const from = rows.data() + static_cast<std::size_t>(s * stride_ + b * block_stride_) * bytes;
                std::copy_n(reinterpret_cast<const std::byte*>(from), static_cast<std::size_t>(width) * bytes,
                            result.rows.begin() + (s * dim_ + first) * static_cast<int64_t>(bytes));
                if (type_ == Stored::int8) {
                    std::copy_n(scales.begin() + (s * stride_ + b * block_stride_) / int8_block, ceil_div(width, int8_block),
                                result.scales.begin() + s * scales_per_row + scale);
                }
                std::copy_n(cores.begin() + b * square + s * ring_, length_ - t, result.gram.begin() + b * square + s * ring_);
                if (now.shift != 0) {
                    std::copy_n(cores.begin() + (blocks_ + b) * square + s * ring_, length_ - t, result.factor.begin() + b * square + s * ring_);
                }
            });
            result.row_scale[static_cast<std::size_t>(s)] = row_scale[static_cast<std::size_t>(s)];
        }
        result.length = length_;
        result.head = head_;
        result.lambda = now.lambda;
        result.shift = now.shift;
        return result;
    }

    void load(const raphson::Window::State& state, Damping damping, CudaPlace place) override {
        const Turn turn(turns_, place);
        const auto bytes = static_cast<std::size_t>(stored_size(type_));
        const int64_t scales_per_row = cpu_scales(), square = ring_ * ring_;
        std::vector<char> rows(rows_.bytes(), 0);
        std::vector<float> scales(scales_.bytes() / sizeof(float), 0.0f);
        for (int64_t s = 0; s < ring_; ++s) {
            for_blocks([&](int64_t b, int64_t first, int64_t width, int64_t scale) {
                std::copy_n(reinterpret_cast<const char*>(state.rows.data()) + static_cast<std::size_t>(s * dim_ + first) * bytes,
                            static_cast<std::size_t>(width) * bytes,
                            rows.begin() + (s * stride_ + b * block_stride_) * static_cast<int64_t>(bytes));
                if (type_ == Stored::int8) {
                    std::copy_n(state.scales.begin() + s * scales_per_row + scale, ceil_div(width, int8_block),
                                scales.begin() + (s * stride_ + b * block_stride_) / int8_block);
                }
            });
        }
        const DeviceCore core{state.lambda, state.shift, 0};
        copy(rows_.get(), rows.data(), rows.size(), cudaMemcpyHostToDevice, place);
        copy(scales_.get(), scales.data(), scales_.bytes(), cudaMemcpyHostToDevice, place);
        copy(row_scale_.get(), state.row_scale.data(), row_scale_.bytes(), cudaMemcpyHostToDevice, place);
        copy(residual_.get(), state.residual.data(), residual_.bytes(), cudaMemcpyHostToDevice, place);
        copy(cores_.get(), state.gram.data(), cores_.bytes() / 2, cudaMemcpyHostToDevice, place);
        copy(cores_.get() + blocks_ * square, state.factor.data(), cores_.bytes() / 2, cudaMemcpyHostToDevice, place);
        copy(core_.get(), &core, sizeof core, cudaMemcpyHostToDevice, place);
        check(cudaStreamSynchronize(stream(place)), "load_state_dict");
        length_ = state.length;
        head_ = state.head;
        damping_ = damping;
    }

    int device() const override { return device_; }
    int64_t length() const override { return length_; }
    int64_t nbytes() const override {
        return static_cast<int64_t>(rows_.bytes() + scales_.bytes() + row_scale_.bytes() + residual_.bytes() + cores_.bytes());
    }

private:
    DeviceRows rows() const {
        return {type_, rows_.get(), scales_.get(), row_scale_.get(), stride_, ring_, dim_, block_, blocks_, block_stride_, head_, length_};
    }
    double scale() const { return static_cast<double>(options_.scale == WindowScale::count ? length_ : capacity_); }
    CoreJob core() const {
        return {cores_.get(), cores_.get() + blocks_ * ring_ * ring_, ring_, head_, length_, blocks_, damping_.value, damping_.relative,
                scale(), static_cast<double>(dim_)};
    }
    // ⟨row t, x⟩ of every block; and Σx² where squares is not null.
    double* multiplied(const VectorRef& x, double* squares, Scratch& scratch) const {
        auto* const spread_x = scratch.take_array<double>(stride_);
        auto* const y = scratch.take_array<double>(blocks_ * length_);
        spread(x, rows(), spread_x, squares, scratch.place());
        products(rows(), 0, spread_x, y, scratch);
        return y;
    }
    // (K + mλI)⁻¹ times the columns first … first+count-1 of K, of every block.
    double* solved_columns(int64_t first, int64_t count, Scratch& scratch) {
        auto* const y = scratch.take_array<double>(count * blocks_ * length_);
        gram_columns(core(), first, count, y, scratch.place());
        refresh_factor(core(), nullptr, true, core_.get(), scratch.place());
        solve_core(core(), y, count, true, scratch.place());
        return y;
    }
    DeviceCore state_of_core(CudaPlace place) const { return cuda::read(core_.get(), 1, place).front(); }
    void forget_factor(CudaPlace place) { check(cudaMemsetAsync(core_.get(), 0, core_.bytes(), stream(place)), "GradientWindow: damping"); }
    // f(block, first column, width, first int8 scale of a row in the CPU's layout).
    template <class F>
    void for_blocks(F&& f) const {
        int64_t scale = 0;
        for (int64_t b = 0; b < blocks_; ++b) {
            const int64_t width = rows().width(b);
            f(b, b * block_, width, scale);
            scale += ceil_div(width, int8_block);
        }
    }
    int64_t cpu_scales() const {
        int64_t count = 0;
        for_blocks([&](int64_t, int64_t, int64_t width, int64_t) { count += ceil_div(width, int8_block); });
        return type_ == Stored::int8 ? count : 0;
    }

    int64_t dim_, capacity_;
    int64_t ring_;  // one slot more than capacity, as the CPU's: a factor's column is needed after its row has left
    Damping damping_;
    WindowOptions options_;
    Stored type_;
    int64_t block_, blocks_, block_stride_, stride_;
    Kept<char> rows_;
    Kept<float> scales_;
    Kept<double> row_scale_;
    Kept<float> residual_;
    Kept<double> cores_;  // every block's Gram matrix, then every block's factor
    Kept<DeviceCore> core_;
    int device_;
    int64_t length_ = 0, head_ = 0;
    Turns turns_;
};

}  // namespace

CudaWindow* make_window(int64_t dim, int64_t capacity, Damping damping, const WindowOptions& options, CudaPlace place) {
    const DeviceGuard guard(place.device);
    return new DeviceWindow(dim, capacity, damping, options, place);
}

}  // namespace raphson::cuda
