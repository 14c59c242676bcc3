// The driver of FisherInverse on a CUDA device: what fisher.cpp does on the CPU.
#include "ihvp/device_fisher.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cuda/parts.h"
#include "gemm/product.h"
#include "ihvp/columns.h"
#include "ihvp/device_fisher_passes.h"
#include "ihvp/device_memory.h"
#include "ihvp/device_passes.h"

namespace raphson::cuda {
namespace {

constexpr int64_t few = 2;                          // vectors that are streamed one by one; more go by tiles
constexpr int64_t most_vectors = 1024;              // at once
constexpr int64_t most_numbers = int64_t{1} << 28;  // of their float64 copies: 2 GB
constexpr int64_t most_whitened = int64_t{1} << 25; // of V, for groups

CudaView row_of(const CudaView& x, int64_t i) {
    CudaView row = x;
    row.data = static_cast<char*>(x.data) + i * x.row_stride * itemsize(x.type);
    row.rows = 1;
    return row;
}
VectorRef vector_of(const CudaView& row) { return {row.data, row.type, row.columns, row.column_stride}; }
// A vector is a view's only column.
VectorRef whole(const double* x, int64_t count) { return {const_cast<double*>(x), DType::float64, count, 1}; }

class DeviceFisher final : public CudaFisher {
public:
    DeviceFisher(const CudaView& grads, double damping, int64_t block_size, CudaPlace place)
        : m_(grads.rows),
          dim_(grads.columns),
          damping_(damping),
          block_(block_size == 0 ? dim_ : std::min(block_size, dim_)),
          blocks_(ceil_div(dim_, block_)),
          packed_(grads.column_stride == 1 || dim_ == 1 ? 0 : m_ * dim_ * itemsize(grads.type), place),
          w_(blocks_ * m_ * m_, place),
          inverse_damping_(1, place),
          turns_(place) {
        grads_ = {grads.data, grads.type, grads.row_stride, m_, blocks_, block_, block_, dim_ - (blocks_ - 1) * block_};
        if (packed_.bytes() != 0) {
            pack(grads, packed_.get(), place);
            grads_.data = packed_.get();
            grads_.stride = dim_;
        }
        const double inverse = 1 / damping_;
        copy(inverse_damping_.get(), &inverse, sizeof inverse, cudaMemcpyHostToDevice, place);
        Scratch scratch(place);
        factor(nullptr, w_.get(), scratch);
    }

    void solve(const CudaView& x, const CudaView& out, CudaPlace place) override {
        const Turn turn(turns_, place);
        if (x.rows <= few) {
            for (int64_t i = 0; i < x.rows; ++i) solve_one(vector_of(row_of(x, i)), vector_of(row_of(out, i)), place);
            return;
        }
        in_portions(x, [&](int64_t first, const CudaView& from) {
            Scratch scratch(place);
            CudaView to = row_of(out, first);
            to.rows = from.rows;
            auto* const wide = scratch.take_array<double>(from.rows * dim_);
            const double* const y = solved_products(from, 1, wide, scratch);
            subtract_rows(wide, from.rows, y, grads_, 1 / damping_, to, place);
        });
    }

    // m·(QGᵀ)(GGᵀ + mλI)⁻¹, summed over the blocks, which does not cancel.
    void influence(const CudaView& queries, double* out, CudaPlace place) override {
        const Turn turn(turns_, place);
        in_portions(queries, [&](int64_t first, const CudaView& from) {
            Scratch scratch(place);
            const int64_t entries = from.rows * m_;
            const double* const y =
                solved_products(from, static_cast<double>(m_), scratch.take_array<double>(from.rows * dim_), scratch);
            add_parts("influence_scores", y, blocks_, entries, out + first * m_, place);
        });
    }

    void diagonal(double* out, CudaPlace place) override {
        const Turn turn(turns_, place);
        whiten(grads_, w_.get(), 0, dim_, 1 / damping_, out, nullptr, place);
    }

    void scores(const CudaView& w, int64_t group, double* scores, CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        auto *const wide = scratch.take_array<double>(dim_), *const multipliers = scratch.take_array<double>(dim_);
        widen(w, wide, place);
        all_scores(wide, group, scores, multipliers, scratch);
    }

    void submatrix(const int64_t* rows, int64_t row_count, const int64_t* cols, int64_t col_count, double* out, CudaPlace place) override {
        const Turn turn(turns_, place);
        if (row_count == 0 || col_count == 0) return;
        Scratch scratch(place);
        const Indexed left = whitened_columns(rows, row_count, scratch), right = whitened_columns(cols, col_count, scratch);
        pair_products(left, right, m_, block_, 1 / damping_, out, place);
    }

    double element(int64_t i, int64_t j, CudaPlace place) override {
        const DeviceGuard guard(place.device);
        Scratch scratch(place);
        auto* const entry = scratch.take_array<double>(1);
        submatrix(&i, 1, &j, 1, entry, place);
        return read(entry, 1, place).front();
    }

    double logdet(CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        auto* const sum = scratch.take_array<double>(1);
        log_determinant(w_.get(), m_, blocks_, std::log(shift()), sum, place);
        return read(sum, 1, place).front() + static_cast<double>(dim_) * std::log(damping_);
    }

    double prune(const CudaView& w, int64_t group, int64_t removed, bool joint, const CudaView& pruned, std::uint8_t* mask,
                 CudaPlace place) override {
        const Turn turn(turns_, place);
        Scratch scratch(place);
        auto *const wide = scratch.take_array<double>(dim_), *const multipliers = scratch.take_array<double>(dim_);
        auto *const change = scratch.take_array<double>(dim_), *const scores = scratch.take_array<double>(dim_ / group);
        auto* const kept = scratch.take_array<std::uint8_t>(dim_);
        auto* const loss = scratch.take_array<double>(1);
        widen(w, wide, place);
        all_scores(wide, group, scores, multipliers, scratch);
        keep_all_but(scores, dim_ / group, removed, group, kept, scratch);
        auto* const start = multipliers;  // of the solve; the multipliers have done their part then
        if (joint) {
            masked(wide, kept, false, 1, dim_, start, place);
            auto* const factors = scratch.take_array<double>(blocks_ * m_ * m_);
            factor(kept, factors, scratch);
            const double* const y = solved(factors, products_with(whole(start, dim_), scratch), 1, 1, scratch);
            combine(rows(), y, nullptr, nullptr, whole(change, dim_), place);
        } else {
            masked(multipliers, kept, false, -1, dim_, start, place);
            solve_one(whole(start, dim_), whole(change, dim_), place);
        }
        apply_change(wide, kept, change, pruned, place);
        energy(change, dim_, products_with(whole(change, dim_), scratch), blocks_ * m_, damping_, static_cast<double>(m_), loss, scratch);
        copy(mask, kept, static_cast<std::size_t>(dim_), cudaMemcpyDeviceToHost, place);
        return read(loss, 1, place).front();
    }

private:
    double shift() const { return static_cast<double>(m_) * damping_; }

    // w ← the inverse factors of every block's Gram matrix of the columns that are kept.
    void factor(const std::uint8_t* kept, double* w, Scratch& scratch) const {
        auto* const k = scratch.take_array<double>(blocks_ * m_ * m_);
        gram(grads_, kept, 1, shift(), k, scratch);
        invert_factor(k, w, m_, blocks_, shift(), scratch);
    }

    DeviceRows rows() const { return window_rows(grads_); }

    // ⟨row j, x⟩ of every block.
    double* products_with(const VectorRef& x, Scratch& scratch) const {
        auto* const spread_x = scratch.take_array<double>(blocks_ * block_);
        auto* const y = scratch.take_array<double>(blocks_ * m_);
        DeviceRows as_spread = rows();
        as_spread.stride = blocks_ * block_;
        spread(x, as_spread, spread_x, nullptr, scratch.place());
        products(rows(), -1, spread_x, y, scratch);
        return y;
    }

    // by·(L Lᵀ)⁻¹z of every block and vector: z is blocks × vectors × m.
    double* solved(const double* w, const double* z, int64_t vectors, double by, Scratch& scratch) const {
        return inverse_times(w, z, m_, blocks_, vectors, by, scratch);
    }
    // The same of the products with the rows of x, which `wide` gets in float64.
    double* solved_products(const CudaView& x, double by, double* wide, Scratch& scratch) const {
        auto* const z = scratch.take_array<double>(blocks_ * x.rows * m_);
        widen(x, wide, scratch.place());
        cross(wide, x.rows, grads_, z, scratch);
        return solved(w_.get(), z, x.rows, by, scratch);
    }
    // f(first row, rows of x) for as many rows at once as there is room for.
    template <class F>
    void in_portions(const CudaView& x, F&& f) const {
        const int64_t most = std::clamp<int64_t>(most_numbers / dim_, 1, most_vectors);
        for (int64_t first = 0; first < x.rows; first += most) {
            CudaView portion = row_of(x, first);
            portion.rows = std::min(most, x.rows - first);
            f(first, portion);
        }
    }

    void solve_one(const VectorRef& x, const VectorRef& out, CudaPlace place) const {
        Scratch scratch(place);
        const double* const y = solved(w_.get(), products_with(x, scratch), 1, -1 / damping_, scratch);
        combine(rows(), y, &x, inverse_damping_.get(), out, place);
    }

    // Scores of all groups, and the multipliers (F⁻¹)_QQ⁻¹w_Q.
    void all_scores(const double* w, int64_t group, double* scores, double* multipliers, Scratch& scratch) const {
        const CudaPlace place = scratch.place();
        if (group == 1) {
            auto* const d = scratch.take_array<double>(dim_);
            whiten(grads_, w_.get(), 0, dim_, 1 / damping_, d, nullptr, place);
            return single_scores(w, d, dim_, scores, multipliers, place);
        }
        // Whole blocks, or whole groups of one block.
        int64_t most = std::max(group, most_whitened / std::max(m_, group) / group * group);
        if (block_ <= most) most = most / block_ * block_;
        for (int64_t first = 0; first < dim_;) {
            Scratch inner(place);
            const int64_t rest = block_ <= most ? dim_ - first : std::min(dim_, (first / block_ + 1) * block_) - first;
            const int64_t count = std::min(most, rest), groups = count / group;
            auto* const v = inner.take_array<double>(count * m_);
            auto *const inverse = inner.take_array<double>(groups * group * group), *const factors = inner.take_array<double>(groups * group * group);
            auto* const half = inner.take_array<double>(count);
            whiten(grads_, w_.get(), first, count, 1, nullptr, v, place);
            const BlockedRows vectors{v, DType::float64, m_, group, groups, group * m_, m_, m_};
            gram(vectors, nullptr, -1 / damping_, 1 / damping_, inverse, inner);
            // F ≤ (λ + ‖G‖²/m)I, so its inverse is at least 1/(λ + trace/m); rounding aside it is never singular.
            invert_factor(inverse, factors, group, groups, 1e-300, inner);
            times_factor(factors, group, groups, w + first, 1, true, 1, half, inner);
            times_factor(factors, group, groups, half, 1, false, 1, multipliers + first, inner);
            group_scores(w + first, multipliers + first, groups, group, scores + first / group, place);
            first += count;
        }
    }

    // V of some columns, those of a block together.
    Indexed whitened_columns(const int64_t* indices, int64_t count, Scratch& scratch) const {
        const CudaPlace place = scratch.place();
        std::vector<int64_t> order(static_cast<std::size_t>(count)), sorted(order.size());
        std::iota(order.begin(), order.end(), int64_t{0});
        std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return indices[a] / block_ < indices[b] / block_; });
        std::transform(order.begin(), order.end(), sorted.begin(), [&](int64_t at) { return indices[at]; });
        auto *const index = scratch.take_array<int64_t>(count), *const places = scratch.take_array<int64_t>(count);
        auto *const columns = scratch.take_array<double>(count * m_), *const v = scratch.take_array<double>(count * m_);
        copy(index, sorted.data(), sorted.size() * sizeof(int64_t), cudaMemcpyHostToDevice, place);
        copy(places, order.data(), order.size() * sizeof(int64_t), cudaMemcpyHostToDevice, place);
        gather_columns(grads_, index, count, columns, place);
        for (int64_t first = 0; first < count;) {
            const int64_t b = sorted[static_cast<std::size_t>(first)] / block_;
            int64_t end = first;
            while (end < count && sorted[static_cast<std::size_t>(end)] / block_ == b) ++end;
            times_factor(w_.get() + b * m_ * m_, m_, 1, columns + first * m_, end - first, true, 1, v + first * m_, scratch);
            first = end;
        }
        return {index, places, v, count};
    }

    int64_t m_, dim_;
    double damping_;
    int64_t block_, blocks_;
    Kept<char> packed_;  // the gradients, where the caller's rows are not contiguous
    Kept<double> w_, inverse_damping_;
    BlockedRows grads_{};
    Turns turns_;
};

}  // namespace

DeviceRows window_rows(const BlockedRows& g) {
    const int64_t size = itemsize(g.type), wide = 16 / size, dim = g.columns();
    const bool aligned = reinterpret_cast<std::uintptr_t>(g.data) % 16 == 0 && g.stride % wide == 0 && g.width % wide == 0 &&
                         dim % g.width == 0;
    auto* const data = static_cast<char*>(const_cast<void*>(g.data));
    return {stored_of(g.type), data, nullptr, nullptr, g.stride, g.rows, dim, g.width, g.blocks, g.width, 0, g.rows, aligned};
}

void times_factor(const double* w, int64_t m, int64_t batch, const double* z, int64_t vectors, bool transposed, double by,
                  double* out, Scratch& scratch) {
    ProductJob job;
    job.type = DType::float64;
    job.m = vectors;
    job.n = job.k = m;
    job.batch = batch;
    job.alpha = by;
    job.a = {z, m, vectors * m};
    job.b = {w, m, m * m};
    job.b_transposed = transposed;
    job.d = out;
    job.ldd = m;
    job.step_d = vectors * m;
    product(job, scratch);
}

double* inverse_times(const double* w, const double* z, int64_t m, int64_t batch, int64_t vectors, double by,
                      Scratch& scratch) {
    const int64_t count = batch * vectors * m;
    auto *const half = scratch.take_array<double>(count), *const y = scratch.take_array<double>(count);
    times_factor(w, m, batch, z, vectors, true, 1, half, scratch);
    times_factor(w, m, batch, half, vectors, false, by, y, scratch);
    return y;
}

CudaFisher* make_fisher(const CudaView& grads, double damping, int64_t block_size, CudaPlace place) {
    const DeviceGuard guard(place.device);
    return new DeviceFisher(grads, damping, block_size, place);
}

const CudaRelativesTable& relatives_table() {
    static const CudaRelativesTable table{rank_one_inverse, gauss_newton};
    return table;
}

}  // namespace raphson::cuda
