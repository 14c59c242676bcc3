#include "newton/sketch_project.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/philox.h"
#include "common/threads.h"
#include "table.h"

namespace raphson {
namespace {

using std::int32_t;
using std::int64_t;

constexpr std::uint32_t stream = 0x6b6b7401;
constexpr double two_pi = 6.283185307179586;

}  // namespace

SketchProject::SketchProject(const KktSystem& system, KktMethod method, RowSampling sampling, int64_t block_size, std::uint64_t seed)
    : size_(system.size()), method_(method), sampling_(sampling), seed_(seed), sparse_(system.sparse() && method != KktMethod::gaussian) {
    const auto n = static_cast<std::size_t>(size_);
    scale_.assign(n, 1.0);
    const bool equilibrate = method == KktMethod::kaczmarz && sampling == RowSampling::equilibrated;
    if (sparse_) {
        system.full_rows(starts_, index_, values_);
    } else {
        system.full_dense(dense_);
    }
    const auto row_norms = [&] {
        norms_.assign(n, 0.0);
        for (std::size_t i = 0; i < n; ++i) {
            const double* const first = sparse_ ? values_.data() + starts_[i] : dense_.data() + i * n;
            const double* const last = sparse_ ? values_.data() + starts_[i + 1] : first + n;
            norms_[i] = std::inner_product(first, last, first, 0.0);
        }
    };
    row_norms();
    for (int round = 0; equilibrate && round < 3; ++round) {
        std::vector<double> factor(n, 1.0);
        for (std::size_t i = 0; i < n; ++i) {
            if (norms_[i] > 0) factor[i] = std::pow(norms_[i], -0.25);
            scale_[i] *= factor[i];
        }
        for (std::size_t i = 0; i < n; ++i) {
            const int64_t first = sparse_ ? starts_[i] : 0, last = sparse_ ? starts_[i + 1] : size_;
            for (int64_t p = first; p < last; ++p) {
                const auto at = static_cast<std::size_t>(p);
                if (sparse_) {
                    values_[at] *= factor[i] * factor[static_cast<std::size_t>(index_[at])];
                } else {
                    dense_[i * n + at] *= factor[i] * factor[at];
                }
            }
        }
        row_norms();
    }
    if (sampling == RowSampling::row_norm) {
        cumulative_.resize(n);
        std::partial_sum(norms_.begin(), norms_.end(), cumulative_.begin());
    }
    s_.resize(n);
    u_.resize(n);
    if (method != KktMethod::block) return;
    block_ = std::max<int64_t>(1, std::min(block_size, size_));
    blocks_.resize(n);
    std::iota(blocks_.begin(), blocks_.end(), 0);
    for (int64_t i = size_ - 1; i > 0; --i) {
        std::swap(blocks_[static_cast<std::size_t>(i)], blocks_[static_cast<std::size_t>(static_cast<std::uint64_t>(next()) * static_cast<std::uint64_t>(i + 1) >> 32)]);
    }
    const int64_t count = (size_ + block_ - 1) / block_;
    factors_.assign(static_cast<std::size_t>(count * block_ * block_), 0.0);
    std::vector<double> spread(n);
    for (int64_t q = 0; q < count; ++q) {
        const int64_t first = q * block_, rows = std::min(block_, size_ - first);
        double* const gram = factors_.data() + q * block_ * block_;
        double largest = 0;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t row = blocks_[static_cast<std::size_t>(first + i)];
            std::fill(spread.begin(), spread.end(), 0.0);
            add_row(row, 1.0, spread.data());
            for (int64_t j = 0; j <= i; ++j) gram[i * block_ + j] = dot_row(blocks_[static_cast<std::size_t>(first + j)], spread.data());
            largest = std::fmax(largest, gram[i * block_ + i]);
        }
        cholesky(gram, block_, rows, 1e-14 * static_cast<double>(rows) * largest);  // rows that repeat others count for little
    }
}

double SketchProject::dot_row(int64_t i, const double* x) const {
    if (!sparse_) {
        double sum = 0;
        kernels().dense.dot_rows(size_, 1, dense_.data() + i * size_, size_, x, &sum);
        return sum;
    }
    double sum = 0;
    for (int64_t p = starts_[static_cast<std::size_t>(i)]; p < starts_[static_cast<std::size_t>(i) + 1]; ++p) {
        sum += values_[static_cast<std::size_t>(p)] * x[index_[static_cast<std::size_t>(p)]];
    }
    return sum;
}

void SketchProject::add_row(int64_t i, double c, double* x) const {
    if (!sparse_) {
        const double minus = -c;
        kernels().dense.subtract_rows(size_, 1, &minus, dense_.data() + i * size_, size_, x);
        return;
    }
    for (int64_t p = starts_[static_cast<std::size_t>(i)]; p < starts_[static_cast<std::size_t>(i) + 1]; ++p) {
        x[index_[static_cast<std::size_t>(p)]] += c * values_[static_cast<std::size_t>(p)];
    }
}

std::uint32_t SketchProject::next() {
    if (left_ == 0) {
        const PhiloxBlock block = philox_at(counter_++, 0, stream, PhiloxKey::from_seed(seed_));
        std::copy(block.begin(), block.end(), numbers_);
        left_ = 4;
    }
    return numbers_[--left_];
}

int64_t SketchProject::draw_row() {
    if (sampling_ != RowSampling::row_norm) return static_cast<int64_t>(static_cast<std::uint64_t>(next()) * static_cast<std::uint64_t>(size_) >> 32);
    const std::uint32_t high = next(), low = next();
    const double at = philox_uniform(high, low) * cumulative_.back();
    return std::min<int64_t>(std::upper_bound(cumulative_.begin(), cumulative_.end(), at) - cumulative_.begin(), size_ - 1);
}

void SketchProject::start(const double* rhs, const double* init) {
    const auto n = static_cast<std::size_t>(size_);
    rhs_.assign(rhs, rhs + size_);
    d_.assign(n, 0.0);
    for (std::size_t i = 0; i < n; ++i) {
        rhs_[i] *= scale_[i];
        if (init != nullptr) d_[i] = init[i] / scale_[i];
    }
}

void SketchProject::row_step(int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    if (norms_[at] == 0) return;
    add_row(i, (rhs_[at] - dot_row(i, d_.data())) / norms_[at], d_.data());
}

void SketchProject::gaussian_step() {
    for (std::size_t i = 0; i < s_.size(); i += 2) {  // Box and Muller
        const std::uint32_t a = next(), b = next(), c = next(), e = next();
        const double radius = std::sqrt(-2 * std::log(1 - philox_uniform(a, b))), angle = two_pi * philox_uniform(c, e);
        s_[i] = radius * std::cos(angle);
        if (i + 1 < s_.size()) s_[i + 1] = radius * std::sin(angle);
    }
    kernels().dense.dot_rows(size_, size_, dense_.data(), size_, s_.data(), u_.data());  // K s
    const double squares = std::inner_product(u_.begin(), u_.end(), u_.begin(), 0.0);
    if (squares == 0) return;
    const double misfit = std::inner_product(u_.begin(), u_.end(), d_.begin(), 0.0) - std::inner_product(s_.begin(), s_.end(), rhs_.begin(), 0.0);
    for (std::size_t i = 0; i < d_.size(); ++i) d_[i] -= misfit / squares * u_[i];
}

void SketchProject::block_step() {
    const int64_t count = (size_ + block_ - 1) / block_;
    const auto q = static_cast<int64_t>(static_cast<std::uint64_t>(next()) * static_cast<std::uint64_t>(count) >> 32);
    const int64_t first = q * block_, rows = std::min(block_, size_ - first);
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = blocks_[static_cast<std::size_t>(first + i)];
        s_[static_cast<std::size_t>(i)] = rhs_[static_cast<std::size_t>(row)] - dot_row(row, d_.data());
    }
    const double* const factor = factors_.data() + q * block_ * block_;
    kernels().dense.solve_triangle(factor, block_, rows, false, false, s_.data());
    kernels().dense.solve_triangle(factor, block_, rows, false, true, s_.data());
    for (int64_t i = 0; i < rows; ++i) add_row(blocks_[static_cast<std::size_t>(first + i)], s_[static_cast<std::size_t>(i)], d_.data());
}

int64_t SketchProject::run(double goal, int64_t most) {
    const int64_t pass = method_ == KktMethod::block ? (size_ + block_ - 1) / block_ : size_;
    int64_t steps = 0;
    while (residual() > goal && steps < most) {
        for (const int64_t end = std::min(most, steps + pass); steps < end; ++steps) {
            if (steps % 16 == 0) poll_or_throw();
            switch (method_) {
                case KktMethod::gaussian: gaussian_step(); break;
                case KktMethod::block: block_step(); break;
                default: row_step(draw_row());
            }
        }
    }
    return steps;
}

double SketchProject::residual() {
    double squares = 0;
    for (int64_t i = 0; i < size_; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const double r = (dot_row(i, d_.data()) - rhs_[at]) / scale_[at];
        squares += r * r;
    }
    return std::sqrt(squares);
}

void SketchProject::solution(double* d) const {
    for (std::size_t i = 0; i < d_.size(); ++i) d[i] = d_[i] * scale_[i];
}

}  // namespace raphson
