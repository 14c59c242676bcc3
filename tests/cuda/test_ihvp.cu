// Gradient windows on the device beside the CPU's, which are tested against exact algebra: the same gradients through
// both, every query compared, and the states exchanged.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device_support.h"
#include "ihvp/device_window.h"
#include "ihvp/window.h"

using namespace support;
using raphson::CudaWindow;
using raphson::Damping;
using raphson::DType;
using raphson::VectorRef;
using raphson::Window;
using raphson::WindowOptions;
using raphson::WindowScale;
using raphson::WindowType;

namespace {

VectorRef reference(const std::vector<double>& x) {
    return {const_cast<double*>(x.data()), DType::float64, static_cast<int64_t>(x.size()), 1};
}
VectorRef reference(const std::vector<float>& x) {
    return {const_cast<float*>(x.data()), DType::float32, static_cast<int64_t>(x.size()), 1};
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return std::sqrt(sum) / std::max(std::sqrt(size), 1e-300);
}

// The two windows, fed alike.
struct Pair {
    Window cpu;
    std::unique_ptr<CudaWindow> gpu;
    int64_t dim;

    Pair(int64_t dim_, int64_t capacity, Damping damping, const WindowOptions& options)
        : cpu(dim_, capacity, damping, options),
          gpu(raphson::cuda_table().make_window(dim_, capacity, damping, options, here)),
          dim(dim_) {}

    // Gradients in the dtype T, float32 or the window's own; results in float64.
    template <class T = float>
    std::pair<std::vector<double>, std::vector<double>> precondition(const std::vector<T>& g) {
        Scratch scratch(here);
        std::vector<double> mine(g.size());
        cpu.precondition(reference(g), reference(mine));
        T* const x = upload(scratch, g);
        double* const out = poisoned<double>(scratch, dim);
        const VectorRef to{out, DType::float64, dim, 1};
        gpu->precondition({x, type_of<T>(), dim, 1}, &to, here);
        return {download(out, dim), mine};
    }
    std::pair<std::vector<double>, std::vector<double>> solve(const std::vector<double>& x) {
        Scratch scratch(here);
        std::vector<double> mine(x.size());
        cpu.solve(reference(x), reference(mine));
        double* const out = poisoned<double>(scratch, dim);
        gpu->solve({upload(scratch, x), DType::float64, dim, 1}, {out, DType::float64, dim, 1}, here);
        return {download(out, dim), mine};
    }
};

// Rounding in float64 magnified by the condition of K + mλI, which is what both make of it.
constexpr double close_to = 1e-9;

void check_queries(Pair& pair, double tolerance = close_to) {
    const std::vector<double> x = normals<double>(pair.dim, 99);
    const auto [got, expected] = pair.solve(x);
    CHECK(distance(got, expected) <= tolerance);
    Scratch scratch(here);
    const double quadratic = pair.cpu.quadratic(reference(x));
    CHECK(std::fabs(pair.gpu->quadratic(VectorRef{upload(scratch, x), DType::float64, pair.dim, 1}, here) - quadratic) <= tolerance * quadratic);
    const int64_t n = pair.cpu.length();
    REQUIRE(pair.gpu->length() == n);
    for (const int64_t index : {int64_t{0}, n / 2, n - 1}) {
        const double mine = pair.cpu.quadratic(index);
        CHECK(std::fabs(pair.gpu->quadratic(index, here) - mine) <= tolerance * std::fabs(mine));
    }
    CHECK(std::fabs(pair.gpu->logdet(here) - pair.cpu.logdet()) <= tolerance * (1 + std::fabs(pair.cpu.logdet())));
    std::vector<double> influence(static_cast<std::size_t>(n * n)), theirs(influence.size());
    pair.cpu.influence(influence.data());
    double* const device_influence = poisoned<double>(scratch, n * n);
    pair.gpu->influence(device_influence, here);
    theirs = download(device_influence, n * n);
    CHECK(distance(theirs, influence) <= tolerance);
    const std::vector<double> weights = {0.5, -0.25};
    const auto count = static_cast<int64_t>(std::min<std::size_t>(weights.size(), static_cast<std::size_t>(n)));
    std::vector<double> recent(static_cast<std::size_t>(pair.dim)), other(recent.size());
    pair.cpu.solve_recent(weights.data(), count, reference(recent));
    double* const device_recent = poisoned<double>(scratch, pair.dim);
    pair.gpu->solve_recent(weights.data(), count, {device_recent, DType::float64, pair.dim, 1}, here);
    other = download(device_recent, pair.dim);
    CHECK(distance(other, recent) <= tolerance);
    CHECK(std::fabs(pair.gpu->damping_in_use(here) - pair.cpu.damping_in_use()) <= tolerance * pair.cpu.damping_in_use());
}

template <class T>
void feed(Pair& pair, int steps, std::uint64_t seed, double tolerance = close_to) {
    for (int step = 0; step < steps; ++step) {
        CAPTURE(step);
        const auto [got, expected] = pair.precondition(normals<T>(pair.dim, seed + static_cast<std::uint64_t>(step), 3));
        CHECK(distance(got, expected) <= tolerance);
    }
}

}  // namespace

TEST_CASE("cuda window: every stored type, while it fills and long after") {
    for (const WindowType type : {WindowType::float64, WindowType::float32, WindowType::bfloat16, WindowType::float16, WindowType::int8}) {
        CAPTURE(static_cast<int>(type));
        for (const int64_t dim : {1, 600}) {
            CAPTURE(dim);
            WindowOptions options;
            options.type = type;
            Pair pair(dim, 5, {0.1}, options);
            feed<float>(pair, 8, 1);
            check_queries(pair);
        }
    }
}

TEST_CASE("cuda window: more columns than a block of threads takes, more rows than a panel") {
    for (const WindowType type : {WindowType::float32, WindowType::bfloat16, WindowType::int8}) {
        WindowOptions options;
        options.type = type;
        Pair pair(4500, 70, {1e-3}, options);
        for (std::uint64_t step = 0; step < 75; ++step) pair.cpu.push(reference(normals<float>(4500, 100 + step)));
        pair.gpu->load(pair.cpu.state(), {1e-3}, here);
        feed<float>(pair, 3, 40);
        check_queries(pair);
    }
    Pair wide(40, 530, {1e-2}, {});  // more rows than columns, than threads, and than wait in shared memory
    for (std::uint64_t step = 0; step < 535; ++step) wide.cpu.push(reference(normals<float>(40, 1000 + step)));
    wide.gpu->load(wide.cpu.state(), {1e-2}, here);
    feed<float>(wide, 3, 7000, 1e-8);  // the factor goes on, and
    wide.cpu.set_damping({2e-2});
    wide.gpu->set_damping({2e-2}, here);
    feed<float>(wide, 1, 8000, 1e-8);  // is made anew
}

TEST_CASE("cuda window: blocks of columns, error feedback, damping by count and by trace") {
    for (const int64_t block : {1, 7, 256, 300}) {
        CAPTURE(block);
        for (const WindowType type : {WindowType::float32, WindowType::int8}) {
            WindowOptions options;
            options.type = type;
            options.block_size = block;
            options.error_feedback = true;
            Pair pair(block == 1 ? 30 : 620, 4, {0.05}, options);
            feed<float>(pair, 6, 11);
            check_queries(pair);
        }
    }
    WindowOptions by_count;
    by_count.scale = WindowScale::count;
    Pair filling(100, 6, {0.05}, by_count);
    feed<float>(filling, 9, 21);
    check_queries(filling);
    Pair relative(100, 6, {0.1, true}, {});
    for (int step = 0; step < 20; ++step) {  // magnitudes wander: some steps keep the damping, some refresh it
        const auto [got, expected] = relative.precondition(normals<float>(100, 31 + static_cast<std::uint64_t>(step), 1 + 0.2 * step));
        CHECK(distance(got, expected) <= close_to);
    }
    check_queries(relative);
    relative.cpu.set_damping({0.3});
    relative.gpu->set_damping({0.3}, here);
    check_queries(relative);
    feed<float>(relative, 3, 61);
    relative.cpu.clear();
    relative.gpu->clear(here);
    CHECK(relative.gpu->length() == 0);
    feed<float>(relative, 3, 71);
}

TEST_CASE("cuda window: gradients of its own type") {
    WindowOptions wide;
    wide.type = WindowType::float64;
    Pair pair(50, 4, {0.1}, wide);
    feed<double>(pair, 6, 81);
}

TEST_CASE("cuda window: near duplicates, zeros, all magnitudes") {
    for (const WindowType type : {WindowType::float64, WindowType::float32, WindowType::bfloat16, WindowType::float16, WindowType::int8}) {
        CAPTURE(static_cast<int>(type));
        WindowOptions options;
        options.type = type;
        Pair pair(300, 8, {1e-6}, options);
        const std::vector<float> base = normals<float>(300, 5);
        for (int step = 0; step < 20; ++step) {
            std::vector<float> g = base;
            if (step % 5 == 4) std::fill(g.begin(), g.end(), 0.0f);
            for (std::size_t i = 0; i < g.size(); ++i) g[i] *= 1 + 1e-3f * static_cast<float>(static_cast<int>(i * (step + 1u)) % 7);
            const auto [got, expected] = pair.precondition(g);
            if (step % 5 != 4) CHECK(distance(got, expected) <= 1e-5);  // condition 1e8 of K + mλI
        }
        for (const double scale : {1e-30, 1e-38, 1e30}) {  // subnormal bfloat16 and float16 entries too
            CAPTURE(scale);
            Pair other(300, 3, {1e-3, true}, options);
            for (std::uint64_t step = 0; step < 4; ++step) {
                const auto [got, expected] = other.precondition(normals<float>(300, step, scale));
                CHECK(distance(got, expected) <= 1e-9);
            }
        }
    }
}

TEST_CASE("cuda window: a gradient that is not finite enters as zeros and answers NaN") {
    Scratch scratch(here);
    Pair pair(40, 4, {0.1}, {});
    feed<float>(pair, 5, 3);
    std::vector<float> bad = normals<float>(40, 9);
    bad[7] = NAN;
    double* const out = poisoned<double>(scratch, 40);
    const VectorRef to{out, DType::float64, 40, 1};
    pair.gpu->precondition({upload(scratch, bad), DType::float32, 40, 1}, &to, here);
    const std::vector<double> answer = download(out, 40);
    CHECK(std::all_of(answer.begin(), answer.end(), [](double v) { return v != v; }));
    pair.cpu.push(reference(std::vector<float>(40, 0.0f)));
    check_queries(pair);
    feed<float>(pair, 5, 30);
}

TEST_CASE("cuda window: states go from one to the other") {
    for (const WindowType type : {WindowType::float32, WindowType::float16, WindowType::int8}) {
        WindowOptions options;
        options.type = type;
        options.block_size = 130;
        options.error_feedback = true;
        Pair pair(300, 5, {0.1}, options);
        feed<float>(pair, 8, 1);
        const Window::State mine = pair.cpu.state();
        const Window::State theirs = pair.gpu->state(here);
        CHECK(mine.rows == theirs.rows);
        CHECK(mine.scales == theirs.scales);
        CHECK(mine.row_scale == theirs.row_scale);
        CHECK(mine.residual == theirs.residual);
        CHECK(distance(theirs.gram, mine.gram) <= 1e-13);
        CHECK(distance(theirs.factor, mine.factor) <= 1e-12);
        CHECK(mine.length == theirs.length);
        CHECK(mine.head == theirs.head);
        CHECK(mine.lambda == theirs.lambda);
        CHECK(mine.shift == theirs.shift);
        Pair other(300, 5, {0.7}, options);
        other.gpu->load(mine, {0.1}, here);
        other.cpu.load(pair.gpu->state(here), {0.1});
        feed<float>(other, 3, 50);
        // Saved and restored, it goes on bit for bit.
        const Window::State saved = other.gpu->state(here);
        std::unique_ptr<CudaWindow> again(raphson::cuda_table().make_window(300, 5, {0.1}, options, here));
        again->load(saved, {0.1}, here);
        Scratch scratch(here);
        const std::vector<float> g = normals<float>(300, 77);
        double* const out[2] = {poisoned<double>(scratch, 300), poisoned<double>(scratch, 300)};
        int which = 0;
        for (CudaWindow* window : {other.gpu.get(), again.get()}) {
            const VectorRef to{out[which++], DType::float64, 300, 1};
            window->precondition({upload(scratch, g), DType::float32, 300, 1}, &to, here);
        }
        CHECK(same_bits(download(out[0], 300), download(out[1], 300)));
    }
}

TEST_CASE("cuda window: strides, results in every dtype, and out over x") {
    Scratch scratch(here);
    Pair pair(90, 4, {0.1}, {});
    feed<float>(pair, 5, 1);
    const std::vector<double> x = normals<double>(90, 2);
    const auto [whole, expected] = pair.solve(x);
    std::vector<double> spread(270, NAN);
    for (std::size_t i = 0; i < 90; ++i) spread[3 * i] = x[i];
    double* const in = upload(scratch, spread);
    auto* const narrow = poisoned<raphson::bfloat16>(scratch, 180);
    pair.gpu->solve({in, DType::float64, 90, 3}, {narrow, DType::bfloat16, 90, 2}, here);
    const auto rounded = download(narrow, 180);
    for (std::size_t i = 0; i < 90; ++i) CHECK(std::fabs(to_double(rounded[2 * i]) - whole[i]) <= 0x1p-8 * std::fabs(whole[i]));
    pair.gpu->solve({in, DType::float64, 90, 3}, {in, DType::float64, 90, 3}, here);
    const auto over = download(in, 270);
    for (std::size_t i = 0; i < 90; ++i) CHECK(over[3 * i] == whole[i]);
}
