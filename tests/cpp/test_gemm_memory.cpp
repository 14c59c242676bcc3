// Where the operands of the products lie in memory, and what lies behind them.
#include "gemm_support.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

using namespace gemm_tests;

// Rows that begin with cache lines may be read where they lie, others are copied first.
TEST_CASE_TEMPLATE("gemm: where matrices lie changes no bit", T, double, float, bfloat16) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    struct Shape {
        std::int64_t m, n, k, extra;
    };
    for (const Named& isa : tables()) {
        CAPTURE(isa.isa);
        for (const Shape& t : {Shape{96, 80, 512, 0}, Shape{70, 64, 256, 0}, Shape{128, 40, 1024, 0}, Shape{100, 33, 1024, 32},
                               Shape{33, 96, 64, 32}, Shape{64, 64, 2560, 96}, Shape{40, 50, 90, 6}}) {
            CAPTURE(t.m);
            CAPTURE(t.k);
            std::vector<double> products[2], grams[2];
            for (const bool aligned : {false, true}) {
                Guarded<T> a(t.m, t.k, t.extra, aligned), b(t.k, t.n, 0, aligned), c(t.m, t.n, 0, aligned), g(t.m, t.m, 0, aligned);
                a.fill({1});
                b.fill({2});
                functions<T>(*isa.gemm).product(t.m, t.n, t.k, Scalar(0.5), a.data(), a.ld, b.data(), b.ld, 0, nullptr, 0,
                                                c.data(), c.ld);
                functions<T>(*isa.gemm).gram(t.m, t.k, Scalar(0.5), a.data(), a.ld, g.data(), g.ld);
                for (std::int64_t i = 0; i < t.m; ++i) {
                    for (std::int64_t j = 0; j < t.n; ++j) products[aligned].push_back(c.get(i, j));
                    for (std::int64_t j = 0; j < t.m; ++j) grams[aligned].push_back(g.get(i, j));
                }
                const auto entry_a = [&](auto i, auto p) { return a.get(i, p); };
                const auto entry_b = [&](auto p, auto j) { return b.get(p, j); };
                CHECK(close(c, t.k, 0.5, entry_a, entry_b, 0, [](auto, auto) { return 0.0; }));
            }
            CHECK(products[0] == products[1]);
            CHECK(grams[0] == grams[1]);
        }
    }
}

#if defined(__linux__)
namespace {

// A matrix that ends where a page ends that nobody may read: no sanitizer sees what tile registers load.
template <class T>
struct Fenced {
    std::size_t bytes, page, whole;
    char* memory;
    T* data;

    explicit Fenced(std::int64_t count)
        : bytes(static_cast<std::size_t>(count) * sizeof(T)), page(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
          whole((bytes + page - 1) / page * page + page) {
        void* const given = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(given != MAP_FAILED);
        memory = static_cast<char*>(given);
        REQUIRE(mprotect(memory + whole - page, page, PROT_NONE) == 0);
        data = reinterpret_cast<T*>(memory + whole - page - bytes);
        Random random{static_cast<std::uint64_t>(count)};
        for (std::int64_t i = 0; i < count; ++i) data[i] = make<T>(random());
    }
    ~Fenced() { munmap(memory, whole); }
    Fenced(const Fenced&) = delete;
    Fenced& operator=(const Fenced&) = delete;
};

}  // namespace

TEST_CASE_TEMPLATE("gemm: nothing is read or written behind the last entry", T, double, float, bfloat16) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    struct Shape {
        std::int64_t m, n, k;
    };
    for (const Named& isa : tables()) {
        CAPTURE(isa.isa);
        for (const Shape& t : {Shape{70, 64, 256}, Shape{33, 33, 96}, Shape{45, 50, 130}, Shape{31, 70, 17}, Shape{100, 20, 1024},
                               Shape{17, 39, 2600}, Shape{11, 10, 8203}}) {
            CAPTURE(t.m);
            const Fenced<T> a(t.m * t.k), b(t.k * t.n), c(t.m * t.n), d(t.m * t.n), square(t.m * t.m), symmetric(t.m * t.m);
            const auto f = functions<T>(*isa.gemm);
            f.product(t.m, t.n, t.k, Scalar(1), a.data, t.k, b.data, t.n, Scalar(0.5), d.data, t.n, c.data, t.n);
            f.gram(t.m, t.k, Scalar(1), a.data, t.k, square.data, t.m);
            f.symmetric(t.m, Scalar(1), square.data, t.m, square.data, t.m, Scalar(0.5), square.data, t.m, symmetric.data, t.m);
            CHECK(value(symmetric.data[t.m - 1]) == value(symmetric.data[(t.m - 1) * t.m]));
            if constexpr (!std::is_same_v<T, bfloat16>) {
                const Fenced<double> columns(t.n * t.n), rows(t.m * t.m), weights(t.k);
                if constexpr (std::is_same_v<T, float>) {
                    isa.gemm->columns_widened_onto(t.n, t.k, b.data, t.n, weights.data, columns.data, t.n);
                    isa.gemm->gram_widened_onto(t.m, t.k, 1, a.data, t.k, 0, rows.data, t.m);
                } else {
                    isa.gemm->columns_onto(t.n, t.k, b.data, t.n, weights.data, columns.data, t.n);
                    isa.gemm->gram_onto(t.m, t.k, 1, a.data, t.k, 0, rows.data, t.m);
                }
                CHECK(rows.data[t.m - 1] == rows.data[(t.m - 1) * t.m]);
            }
        }
    }
}
#endif
