// The matrix products beside the ceilings of the machine, measured in the same run and, because cores throttle and
// neighbours come and go, just before and after every timing that is judged by them.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/threads.h"
#include "raphson/runtime.h"
#include "table.h"

namespace {

using namespace raphson;

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs work(thread) on `threads` threads at once and returns the sum of what they return.
template <class Work>
double together(int threads, Work work) {
    std::this_thread::sleep_for(std::chrono::microseconds(threads > 1 ? 100 : 0));  // the pool stops spinning
    std::atomic<int> ready{0};
    std::vector<double> rate(static_cast<std::size_t>(threads));
    const auto run = [&](int i) {
        ready.fetch_add(1);
        while (ready.load() < threads) {
        }
        rate[static_cast<std::size_t>(i)] = work(i);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
    run(0);
    for (std::thread& t : others) t.join();
    double sum = 0;
    for (const double r : rate) sum += r;
    return sum;
}

double multiply_add_rate(DType dtype, int threads) {
    return together(threads, [dtype](int) {
        double sink = 0;
        const double start = seconds();
        const double operations = kernels().ceilings.fma_loop(dtype, 15000, &sink);
        benchmark::DoNotOptimize(sink);
        return operations / (seconds() - start);
    });
}

struct Free {
    void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

Memory memory(std::int64_t bytes) {
    return Memory(std::aligned_alloc(64, static_cast<std::size_t>((bytes + 63) / 64 * 64)));
}

double read_rate(const std::vector<Memory>& data, std::int64_t bytes, int threads) {
    return together(threads, [&](int i) {
        const double start = seconds();
        double sum = kernels().ceilings.read_loop(data[static_cast<std::size_t>(i)].get(), bytes);
        benchmark::DoNotOptimize(sum);
        return static_cast<double>(bytes) / (seconds() - start);
    });
}

void ceiling_multiply_add(benchmark::State& state, DType dtype, int threads) {
    std::vector<double> rates;
    for (auto _ : state) rates.push_back(multiply_add_rate(dtype, threads));
    std::sort(rates.begin(), rates.end());
    state.counters["GFLOP/s"] = rates[rates.size() / 2] * 1e-9;
}

void ceiling_read(benchmark::State& state, int threads) {
    constexpr std::int64_t bytes = std::int64_t{128} << 20;
    std::vector<Memory> data;
    for (int i = 0; i < threads; ++i) {
        data.push_back(memory(bytes));
        std::fill_n(static_cast<double*>(data.back().get()), bytes / 8, 1.0);
    }
    std::vector<double> rates;
    for (auto _ : state) rates.push_back(read_rate(data, bytes, threads));
    std::sort(rates.begin(), rates.end());
    state.counters["GB/s"] = rates[rates.size() / 2] * 1e-9;
}

template <class T>
struct Functions;
template <>
struct Functions<double> {
    static const GemmFunctions<double, double>& get() { return kernels().gemm.f64; }
};
template <>
struct Functions<float> {
    static const GemmFunctions<float, float>& get() { return kernels().gemm.f32; }
};
template <>
struct Functions<bfloat16> {
    static const GemmFunctions<bfloat16, float>& get() { return kernels().gemm.bf16; }
};

template <class T>
Memory random_matrix(std::int64_t entries) {
    Memory p = memory(entries * static_cast<std::int64_t>(sizeof(T)));
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (std::int64_t i = 0; i < entries; ++i) {
        const float x = uniform(random);
        if constexpr (sizeof(T) == 2) {
            std::uint32_t u;
            std::memcpy(&u, &x, sizeof u);
            static_cast<T*>(p.get())[i] = {static_cast<std::uint16_t>(u >> 16)};
        } else {
            static_cast<T*>(p.get())[i] = static_cast<T>(x);
        }
    }
    return p;
}

enum class What { product, gram, symmetric, batch };
constexpr std::int64_t batch = 32;

template <class T>
struct Problem {
    What what;
    std::int64_t m, n, k;
    Memory a, b, c;

    Problem(What what_, std::int64_t m_, std::int64_t n_, std::int64_t k_)
        : what(what_), m(m_), n(n_), k(k_), a(random_matrix<T>(copies() * m * k)),
          b(random_matrix<T>(copies() * k * n)), c(random_matrix<T>(copies() * m * n)) {}
    std::int64_t copies() const { return what == What::batch ? batch : 1; }
    double operations() const { return 2.0 * static_cast<double>(copies() * m * n * k); }
    static void one_of_batch(void* context, std::int64_t i) {
        Problem& p = *static_cast<Problem*>(context);
        Functions<T>::get().product(p.m, p.n, p.k, 1, static_cast<T*>(p.a.get()) + i * p.m * p.k, p.k,
                                    static_cast<T*>(p.b.get()) + i * p.k * p.n, p.n, 0, nullptr, 0,
                                    static_cast<T*>(p.c.get()) + i * p.m * p.n, p.n);
    }
    void run(What which) {
        auto* const x = static_cast<T*>(a.get());
        auto* const y = static_cast<T*>(b.get());
        auto* const z = static_cast<T*>(c.get());
        switch (which) {
            case What::product: return Functions<T>::get().product(m, n, k, 1, x, k, y, n, 0, nullptr, 0, z, n);
            case What::gram: return Functions<T>::get().gram(m, k, 1, x, k, z, m);
            case What::symmetric: return Functions<T>::get().symmetric(m, 1, x, m, y, m, 0, nullptr, 0, z, m);
            case What::batch: return parallel_for(batch, one_of_batch, this);
        }
    }
    // Seconds a run, of enough runs to time.
    double time(What which) {
        const auto runs = std::max<std::int64_t>(1, static_cast<std::int64_t>(1e8 / operations()));
        const double start = seconds();
        for (std::int64_t r = 0; r < runs; ++r) run(which);
        return (seconds() - start) / static_cast<double>(runs);
    }
};

double median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
}

template <class T>
void gemm(benchmark::State& state, What what, std::int64_t m, std::int64_t n, std::int64_t k, int threads) {
    set_num_threads(threads);
    Problem<T> problem(what, m, n, k);
    const bool half = what == What::gram || what == What::symmetric;
    problem.run(what);
    if (half) problem.run(What::product);
    std::vector<double> times, fractions, of_full;
    for (auto _ : state) {
        const double before = multiply_add_rate(dtype_of<T>(), threads);
        const double full = half ? problem.time(What::product) : 0;
        const double time = problem.time(what);
        const double after = multiply_add_rate(dtype_of<T>(), threads);
        state.SetIterationTime(time);
        times.push_back(time);
        fractions.push_back(problem.operations() / time / (0.5 * (before + after)));
        if (half) of_full.push_back(time / full);
    }
    state.counters["GFLOP/s"] = problem.operations() / median(times) * 1e-9;
    if (half) {
        state.counters["of_full"] = median(of_full);  // time against that of the whole product
    } else {
        state.counters["fraction"] = median(fractions);  // of the multiply-add ceiling
    }
}

template <class T>
void add_gemm(const char* type) {
    const std::int64_t sizes[] = {8, 128, 256, 512, 1024, 2048};
    const auto add = [&](const char* name, What what, std::int64_t m, std::int64_t n, std::int64_t k) {
        for (const int threads : {1, 2}) {
            const std::string row = std::string(name) + "/" + type + "/" + std::to_string(m) + "x" + std::to_string(n) +
                                    "x" + std::to_string(k) + "/threads:" + std::to_string(threads);
            benchmark::RegisterBenchmark(row.c_str(), [=](benchmark::State& s) { gemm<T>(s, what, m, n, k, threads); })
                ->UseManualTime()
                ->Iterations(n > 1024 ? 11 : 41)
                ->Unit(benchmark::kMicrosecond);
        }
    };
    for (const std::int64_t n : sizes) add("product", What::product, n, n, n);
    add("product", What::product, 768, 3072, 768);
    add("product_batch_of_32", What::batch, 128, 128, 128);
    for (const std::int64_t n : sizes) add("gram", What::gram, n, n, n);
    add("gram", What::gram, 768, 768, 3072);
    for (const std::int64_t n : sizes) add("symmetric", What::symmetric, n, n, n);
}

void add_ceilings() {
    for (const int threads : {1, 2}) {
        for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
            const std::string row = std::string("ceiling/multiply_add/") + to_string(dtype) +
                                    "/threads:" + std::to_string(threads);
            const auto run = [=](benchmark::State& s) { ceiling_multiply_add(s, dtype, threads); };
            benchmark::RegisterBenchmark(row.c_str(), run)
                ->Iterations(101)
                ->Unit(benchmark::kMicrosecond);
        }
        const std::string row = "ceiling/read/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(row.c_str(), [=](benchmark::State& s) { ceiling_read(s, threads); })
            ->Iterations(11)
            ->Unit(benchmark::kMicrosecond);
    }
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::AddCustomContext("isa", kernels().isa);
    add_ceilings();
    add_gemm<float>("float32");
    add_gemm<double>("float64");
    add_gemm<bfloat16>("bfloat16");
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
