// The matrix products of every instruction set that runs here, against a plain float64 triple loop.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "gemm/table.h"
#include "raphson/runtime.h"
#include "table.h"

namespace raphson {
#ifdef RAPHSON_TEST_BF16_EMULATION  // AVX512_BF16's and AMX's code with their instructions emulated: see tests/cpp/CMakeLists.txt
namespace v4_bf16emu {
extern const GemmTable gemm_table;
}
namespace v4_amxemu {
extern const GemmTable gemm_table;
}
#endif
}  // namespace raphson

using namespace raphson;

namespace {

struct Named {
    std::string isa;
    const GemmTable* gemm;
};

std::vector<Named> tables() {
    std::vector<Named> all;
    const BuiltTables built = built_tables();
    for (int i = 0; i < built.count; ++i) {
        if (built.first[i].runs_here) all.push_back({built.first[i].table->isa, &built.first[i].table->gemm});
#ifdef RAPHSON_TEST_BF16_EMULATION
        if (built.first[i].runs_here && built.first[i].table->isa == std::string("x86-64-v4")) {
            all.push_back({"x86-64-v4+emulated bf16", &v4_bf16emu::gemm_table});
            all.push_back({"x86-64-v4+emulated amx", &v4_amxemu::gemm_table});
        }
#endif
    }
    return all;
}

template <class T>
auto functions(const GemmTable& table) {
    if constexpr (std::is_same_v<T, double>) return table.f64;
    if constexpr (std::is_same_v<T, float>) return table.f32;
    if constexpr (std::is_same_v<T, bfloat16>) return table.bf16;
}

double value(double x) { return x; }
double value(float x) { return x; }
double value(bfloat16 x) {
    const std::uint32_t u = static_cast<std::uint32_t>(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, sizeof f);
    return f;
}
template <class T>
T make(double x) {
    if constexpr (std::is_same_v<T, bfloat16>) {
        const auto f = static_cast<float>(x);
        std::uint32_t u;
        std::memcpy(&u, &f, sizeof u);
        return {static_cast<std::uint16_t>(x == x ? (u + 0x7fffu + ((u >> 16) & 1u)) >> 16 : 0x7fc0u)};
    } else {
        return static_cast<T>(x);
    }
}

struct Random {
    std::uint64_t state;
    double operator()() {  // uniform in (-1, 1)
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(static_cast<std::int64_t>(state) >> 11) * 0x1p-52;
    }
};

// A matrix inside a larger buffer of NaNs whose every byte outside the matrix must stay as it is.
template <class T>
struct Guarded {
    std::int64_t margin = 97;
    std::int64_t rows, cols, ld;
    std::vector<T> all, before;

    Guarded(std::int64_t rows_, std::int64_t cols_, std::int64_t extra, bool aligned = false)
        : rows(rows_), cols(cols_), ld(cols_ + extra),
          all(static_cast<std::size_t>(rows_ * ld + 2 * margin), make<T>(std::nan(""))) {
        while (aligned && reinterpret_cast<std::uintptr_t>(data()) % 64 != 0) --margin;
    }

    T* data() { return all.data() + margin; }
    T& at(std::int64_t i, std::int64_t j) { return data()[i * ld + j]; }
    double get(std::int64_t i, std::int64_t j) { return value(at(i, j)); }
    void fill(Random random) {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < cols; ++j) at(i, j) = make<T>(random());
        }
    }
    void fill_symmetric(Random random) {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j <= i; ++j) at(i, j) = at(j, i) = make<T>(random());
        }
    }
    void remember() { before = all; }
    bool outside_untouched() {
        for (std::size_t p = 0; p < all.size(); ++p) {
            const std::int64_t q = static_cast<std::int64_t>(p) - margin;
            const bool inside = q >= 0 && q < rows * ld && q % ld < cols;
            if (!inside && std::memcmp(&all[p], &before[p], sizeof(T)) != 0) return false;
        }
        return true;
    }
    bool same_as(const Guarded& other) const {
        return std::memcmp(all.data(), other.all.data(), all.size() * sizeof(T)) == 0;
    }
    bool exactly_symmetric() {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < i; ++j) {
                if (std::memcmp(&at(i, j), &at(j, i), sizeof(T)) != 0) return false;
            }
        }
        return true;
    }
};

// What is checked of C = alpha·A·B + beta·D. Summing k products in any order and any tree is off by at most
// k·u·Σ|a||b| to first order; alpha, beta and their sum add three roundings. The float64 reference errs as much as a
// float64 result, hence twice the bound. bfloat16 has eight significant bits: it rounds by at most 2^-8 of the value.
template <class T, class A, class B, class D>
bool close(Guarded<T>& c, std::int64_t k, double alpha, A a, B b, double beta, D d) {
    const double unit = std::is_same_v<T, double> ? 0x1p-52 : 0x1p-24;
    const double round = std::is_same_v<T, bfloat16> ? 0x1p-8 : 0;
    const std::int64_t work = c.rows * c.cols * k;
    const std::int64_t checked = work > 4'000'000'000 ? 8 : work > 40'000'000 ? 24 : c.rows;  // rows; large ones are slow
    const std::int64_t row_step = c.rows > checked ? c.rows / checked : 1;
    std::vector<double> sum(static_cast<std::size_t>(c.cols)), size(static_cast<std::size_t>(c.cols));
    bool ok = true;
    for (std::int64_t i0 = 0; i0 < c.rows; i0 += row_step) {
        const std::int64_t i = row_step == 1 || c.rows - i0 > row_step ? i0 : c.rows - 1;
        sum.assign(sum.size(), 0.0);
        size.assign(size.size(), 0.0);
        for (std::int64_t p = 0; p < k; ++p) {
            const double x = a(i, p);
            for (std::size_t j = 0; j < sum.size(); ++j) {
                const double xy = x * b(p, static_cast<std::int64_t>(j));
                sum[j] += xy;
                size[j] += std::fabs(xy);
            }
        }
        for (std::int64_t j = 0; j < c.cols; ++j) {
            const auto q = static_cast<std::size_t>(j);
            const double bd = beta == 0 ? 0 : beta * d(i, j);
            const double exact = alpha * sum[q] + bd;
            const double magnitude = std::fabs(alpha) * size[q] + std::fabs(bd);
            const double bound = (static_cast<double>(k) + 3) * unit * magnitude + round * (std::fabs(exact) * 1.01);
            if (!(std::fabs(c.get(i, j) - exact) <= bound)) {
                MESSAGE("C(" << i << "," << j << ") = " << c.get(i, j) << ", want " << exact << " within " << bound);
                ok = false;
                j = c.cols;
            }
        }
    }
    return ok;
}

struct Case {
    std::int64_t m, n, k;
    double alpha = 1, beta = 0;
    bool in_place = false;  // D is C
    std::int64_t pad_a = 0, pad_b = 0, pad_c = 0;
};

template <class T>
void check_product(const Named& isa, const Case& t) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    CAPTURE(isa.isa);
    CAPTURE(t.m);
    CAPTURE(t.n);
    CAPTURE(t.k);
    CAPTURE(t.alpha);
    CAPTURE(t.beta);
    CAPTURE(t.in_place);
    Guarded<T> a(t.m, t.k, t.pad_a), b(t.k, t.n, t.pad_b), c(t.m, t.n, t.pad_c), d(t.m, t.n, t.pad_a);
    a.fill({1});
    b.fill({2});
    d.fill({3});
    if (t.in_place) {
        for (std::int64_t i = 0; i < t.m; ++i) {
            for (std::int64_t j = 0; j < t.n; ++j) c.at(i, j) = d.at(i, j);
        }
    }
    c.remember();
    const T* from = t.beta == 0 ? nullptr : t.in_place ? c.data() : d.data();
    functions<T>(*isa.gemm).product(t.m, t.n, t.k, static_cast<Scalar>(t.alpha), a.data(), a.ld, b.data(), b.ld,
                                    static_cast<Scalar>(t.beta), from, t.in_place ? c.ld : d.ld, c.data(), c.ld);
    CHECK(c.outside_untouched());
    const auto entry_a = [&](auto i, auto p) { return a.get(i, p); };
    const auto entry_b = [&](auto p, auto j) { return b.get(p, j); };
    CHECK(close(c, t.k, t.alpha, entry_a, entry_b, t.beta, [&](auto i, auto j) { return d.get(i, j); }));
}

template <class T>
void check_gram(const Named& isa, const Case& t) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    CAPTURE(isa.isa);
    CAPTURE(t.m);
    CAPTURE(t.k);
    Guarded<T> x(t.m, t.k, t.pad_a), c(t.m, t.m, t.pad_c);
    x.fill({4});
    c.remember();
    functions<T>(*isa.gemm).gram(t.m, t.k, static_cast<Scalar>(t.alpha), x.data(), x.ld, c.data(), c.ld);
    CHECK(c.outside_untouched());
    CHECK(c.exactly_symmetric());
    const auto entry_a = [&](auto i, auto p) { return x.get(i, p); };
    const auto entry_b = [&](auto p, auto j) { return x.get(j, p); };
    CHECK(close(c, t.k, t.alpha, entry_a, entry_b, 0, [](auto, auto) { return 0.0; }));
}

// Rows of X onto a symmetric C, in float64.
template <class X>
void check_gram_onto(const Named& isa, const Case& t) {
    CAPTURE(isa.isa);
    CAPTURE(t.m);
    CAPTURE(t.k);
    Guarded<X> x(t.m, t.k, t.pad_a);
    Guarded<double> c(t.m, t.m, t.pad_c), before(t.m, t.m, 0);
    x.fill({4});
    before.fill_symmetric({5});
    for (std::int64_t i = 0; i < t.m; ++i) {
        for (std::int64_t j = 0; j < t.m; ++j) c.at(i, j) = before.at(i, j);
    }
    c.remember();
    if constexpr (std::is_same_v<X, float>) {
        isa.gemm->gram_widened_onto(t.m, t.k, t.alpha, x.data(), x.ld, t.beta, c.data(), c.ld);
    } else {
        isa.gemm->gram_onto(t.m, t.k, t.alpha, x.data(), x.ld, t.beta, c.data(), c.ld);
    }
    CHECK(c.outside_untouched());
    CHECK(c.exactly_symmetric());
    const auto entry_a = [&](auto i, auto p) { return x.get(i, p); };
    const auto entry_b = [&](auto p, auto j) { return x.get(j, p); };
    CHECK(close(c, t.k, t.alpha, entry_a, entry_b, t.beta, [&](auto i, auto j) { return before.get(i, j); }));
}

// A and B are the same symmetric matrix: the product of two different ones need not be symmetric.
template <class T>
void check_symmetric(const Named& isa, const Case& t) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    CAPTURE(isa.isa);
    CAPTURE(t.m);
    CAPTURE(t.alpha);
    CAPTURE(t.beta);
    CAPTURE(t.in_place);
    Guarded<T> a(t.m, t.m, t.pad_a), c(t.m, t.m, t.pad_c), d(t.m, t.m, t.pad_b);
    a.fill_symmetric({5});
    d.fill_symmetric({6});
    if (t.in_place) {
        for (std::int64_t i = 0; i < t.m; ++i) {
            for (std::int64_t j = 0; j < t.m; ++j) c.at(i, j) = d.at(i, j);
        }
    }
    c.remember();
    const T* from = t.beta == 0 ? nullptr : t.in_place ? c.data() : d.data();
    functions<T>(*isa.gemm).symmetric(t.m, static_cast<Scalar>(t.alpha), a.data(), a.ld, a.data(), a.ld,
                                      static_cast<Scalar>(t.beta), from, t.in_place ? c.ld : d.ld, c.data(), c.ld);
    CHECK(c.outside_untouched());
    CHECK(c.exactly_symmetric());
    const auto entry = [&](auto i, auto j) { return a.get(i, j); };
    CHECK(close(c, t.m, t.alpha, entry, entry, t.beta, [&](auto i, auto j) { return d.get(i, j); }));
}

constexpr std::int64_t sizes[] = {1, 2, 3, 5, 7, 8, 13, 14, 15, 16, 17,
                                  31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 257};

}  // namespace

TEST_CASE_TEMPLATE("gemm: product, odd sizes", T, double, float, bfloat16) {
    for (const Named& isa : tables()) {
        int turn = 0;
        for (const std::int64_t m : sizes) {
            for (const std::int64_t n : sizes) {
                const std::int64_t k = sizes[static_cast<std::size_t>(++turn) % std::size(sizes)];
                Case t{m, n, k};
                t.alpha = turn % 3 == 0 ? 1 : 0.75;
                t.beta = turn % 4 == 0 ? 0 : turn % 4 == 1 ? 1 : -1.5;
                t.in_place = turn % 2 == 0;
                t.pad_a = turn % 5;
                t.pad_b = turn % 7;
                t.pad_c = turn % 3;
                check_product<T>(isa, t);
            }
        }
    }
}

TEST_CASE_TEMPLATE("gemm: product in tiles, blocks and parts of k, m and n", T, double, float, bfloat16) {
    for (const Named& isa : tables()) {
        for (const Case& t : {Case{300, 290, 900}, Case{131, 70, 1537}, Case{270, 33, 256}, Case{270, 270, 385},
                              Case{400, 40, 40001}, Case{22000, 33, 300}, Case{5, 6000, 1100}, Case{1, 513, 2050}}) {
            for (const double beta : {0.0, 0.5}) {
                Case s = t;
                s.alpha = -1.25;
                s.beta = beta;
                s.in_place = true;
                s.pad_a = 3;
                s.pad_c = 1;
                check_product<T>(isa, s);
            }
        }
        Case wide{40, 200, 128};
        wide.pad_a = 2048;  // rows of A too far apart to be read in place
        check_product<T>(isa, wide);
    }
}

TEST_CASE_TEMPLATE("gemm: gram", T, double, float, bfloat16) {
    for (const Named& isa : tables()) {
        int turn = 0;
        for (const std::int64_t m : sizes) {
            for (int i = 0; i < 4; ++i) {
                Case t{m, m, sizes[static_cast<std::size_t>(++turn * 5) % std::size(sizes)]};
                t.alpha = turn % 3 == 0 ? 1 : 0.75;
                t.pad_a = turn % 5;
                t.pad_c = turn % 3;
                check_gram<T>(isa, t);
            }
        }
        for (const Case& t : {Case{300, 300, 900}, Case{129, 129, 3001}, Case{515, 515, 64}, Case{1100, 1100, 6000},
                              Case{600, 600, 25000}}) {
            check_gram<T>(isa, t);
        }
    }
}

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

TEST_CASE_TEMPLATE("gemm: gram onto a matrix, float32 widened", X, double, float) {
    for (const Named& isa : tables()) {
        int turn = 0;
        for (const std::int64_t m : sizes) {
            for (const double beta : {0.0, 1.0}) {
                Case t{m, m, sizes[static_cast<std::size_t>(++turn * 5) % std::size(sizes)]};
                t.alpha = turn % 3 == 0 ? 1 : 0.75;
                t.beta = beta;
                t.pad_a = turn % 5;
                t.pad_c = turn % 3;
                check_gram_onto<X>(isa, t);
            }
        }
        for (Case t : {Case{300, 300, 900}, Case{129, 129, 3001}, Case{600, 600, 9000}, Case{5, 5, 0}}) {
            t.beta = 1;
            check_gram_onto<X>(isa, t);
        }
    }
}

// Columns of X, weighted, onto a symmetric C, in float64.
TEST_CASE_TEMPLATE("gemm: weighted products of columns onto a matrix, float32 widened", X, double, float) {
    for (const Named& isa : tables()) {
        int turn = 0;
        const auto check = [&](std::int64_t n, std::int64_t k, bool weighted) {
            CAPTURE(isa.isa);
            CAPTURE(n);
            CAPTURE(k);
            ++turn;
            Guarded<X> x(k, n, turn % 5);
            Guarded<double> c(n, n, turn % 3), before(n, n, 0), w(1, k, 0);
            x.fill({4});
            before.fill_symmetric({5});
            w.fill({6});  // negative ones too
            for (std::int64_t i = 0; i < n; ++i) {
                for (std::int64_t j = 0; j < n; ++j) c.at(i, j) = before.at(i, j);
            }
            c.remember();
            const double* const weights = weighted ? w.data() : nullptr;
            if constexpr (std::is_same_v<X, float>) {
                isa.gemm->columns_widened_onto(n, k, x.data(), x.ld, weights, c.data(), c.ld);
            } else {
                isa.gemm->columns_onto(n, k, x.data(), x.ld, weights, c.data(), c.ld);
            }
            CHECK(c.outside_untouched());
            CHECK(c.exactly_symmetric());
            const auto entry_a = [&](auto i, auto p) { return (weighted ? w.get(0, p) : 1.0) * x.get(p, i); };
            const auto entry_b = [&](auto p, auto j) { return x.get(p, j); };
            CHECK(close(c, k, 1.0, entry_a, entry_b, 1.0, [&](auto i, auto j) { return before.get(i, j); }));
        };
        for (const std::int64_t n : sizes) {
            check(n, sizes[static_cast<std::size_t>(turn * 5) % std::size(sizes)], turn % 2 == 0);
        }
        check(300, 900, true);
        check(129, 3001, true);
        check(600, 9000, false);
        check(5, 0, true);
        check(0, 5, true);
    }
}

TEST_CASE_TEMPLATE("gemm: symmetric", T, double, float, bfloat16) {
    for (const Named& isa : tables()) {
        int turn = 0;
        const auto check = [&](std::int64_t m, double alpha, double beta) {
            Case t{m, m, m};
            t.alpha = alpha;
            t.beta = beta;
            t.in_place = ++turn % 2 == 0;
            t.pad_a = turn % 5;
            t.pad_b = turn % 4;
            t.pad_c = turn % 3;
            check_symmetric<T>(isa, t);
        };
        for (const std::int64_t m : sizes) {
            for (const double alpha : {1.0, 0.75}) {
                for (const double beta : {0.0, 1.0, -1.5}) check(m, alpha, beta);
            }
        }
        for (const std::int64_t m : {400, 401, 769}) {
            check(m, 0.5, 2.0);
            check(m, 0.5, 2.0);
        }
    }
}

TEST_CASE_TEMPLATE("gemm: no rows, columns or terms", T, double, float, bfloat16) {
    for (const Named& isa : tables()) {
        for (const Case& t : {Case{0, 5, 3}, Case{5, 0, 3}, Case{0, 0, 0}}) check_product<T>(isa, t);
        for (const std::int64_t m : {1, 20, 300}) {
            for (const double beta : {0.0, -1.5}) {
                Case t{m, 37, 0};
                t.alpha = 2;
                t.beta = beta;
                t.in_place = m == 20;
                check_product<T>(isa, t);
            }
            check_gram<T>(isa, Case{m, m, 0});
        }
        check_gram<T>(isa, Case{0, 0, 4});
        check_symmetric<T>(isa, Case{0, 0, 0});
    }
}

// Padding must not meet the caller's infinities: 0·Inf would be NaN.
TEST_CASE_TEMPLATE("gemm: an infinite entry of A or B stays in its row or column", T, double, float, bfloat16) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    for (const Named& isa : tables()) {
        for (const std::int64_t k : {1, 5, 33, 129, 801}) {
            Guarded<T> a(45, k, 2), b(k, 50, 3), c(45, 50, 1);
            a.fill({7});
            b.fill({8});
            a.at(3, k - 1) = make<T>(std::numeric_limits<double>::infinity());
            b.at(k - 1, 49) = make<T>(-std::numeric_limits<double>::infinity());
            functions<T>(*isa.gemm).product(45, 50, k, Scalar(1), a.data(), a.ld, b.data(), b.ld, Scalar(0), nullptr, 0,
                                            c.data(), c.ld);
            int wrong = 0;
            for (std::int64_t i = 0; i < 45; ++i) {
                for (std::int64_t j = 0; j < 50; ++j) wrong += std::isfinite(c.get(i, j)) != (i != 3 && j != 49);
            }
            CAPTURE(isa.isa);
            CAPTURE(k);
            CHECK(wrong == 0);
        }
    }
}

TEST_CASE_TEMPLATE("gemm: the number of threads changes no bit", T, double, float, bfloat16) {
    using Scalar = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const int threads_before = get_num_threads();
    for (const Named& isa : tables()) {
        const auto f = functions<T>(*isa.gemm);
        for (const Case& t : {Case{128, 128, 128}, Case{200, 333, 150}, Case{500, 410, 777}, Case{300, 300, 9000}}) {
            Guarded<T> a(t.m, t.k, 1), b(t.k, t.n, 0), s(t.n, t.n, 2);
            a.fill({9});
            b.fill({10});
            s.fill_symmetric({11});
            Guarded<T> first[3] = {{t.m, t.n, 1}, {t.m, t.m, 0}, {t.n, t.n, 3}};
            for (const int threads : {1, 2, 3, 8}) {
                set_num_threads(threads);
                Guarded<T> c[3] = {{t.m, t.n, 1}, {t.m, t.m, 0}, {t.n, t.n, 3}};
                f.product(t.m, t.n, t.k, Scalar(1), a.data(), a.ld, b.data(), b.ld, Scalar(0), nullptr, 0, c[0].data(),
                          c[0].ld);
                f.gram(t.m, t.k, Scalar(0.5), a.data(), a.ld, c[1].data(), c[1].ld);
                f.symmetric(t.n, Scalar(1), s.data(), s.ld, s.data(), s.ld, Scalar(2), s.data(), s.ld, c[2].data(),
                            c[2].ld);
                CAPTURE(isa.isa);
                CAPTURE(threads);
                for (int i = 0; i < 3; ++i) {
                    if (threads == 1) {
                        first[i] = c[i];
                    } else {
                        CHECK(c[i].same_as(first[i]));
                    }
                }
            }
        }
    }
    set_num_threads(threads_before);
}
