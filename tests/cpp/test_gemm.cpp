// The matrix products of every instruction set that runs here, against a plain float64 triple loop.
#include "gemm_support.h"

using namespace gemm_tests;

namespace {

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

constexpr std::int64_t few_vectors[] = {1, 3, 7, 8, 9, 16, 23, 25, 41, 64, 256};

// The calling thread's own: what lies beyond m, up to narrow_unit, is its to write.
TEST_CASE("gemm: gram of few vectors onto the lower triangle") {
    for (const Named& isa : tables()) {
        for (const std::int64_t m : few_vectors) {
            for (const std::int64_t k : {1, 5, 128, 300}) {
                CAPTURE(isa.isa);
                CAPTURE(m);
                CAPTURE(k);
                const std::int64_t padded = (m + narrow_unit - 1) / narrow_unit * narrow_unit;
                Guarded<double> x(m, k, 3), c(padded, padded, 5);
                x.fill({7});
                c.fill({8});
                c.remember();
                isa.gemm->narrow_gram(m, k, x.data(), x.ld, c.data(), c.ld);
                CHECK(c.outside_untouched());
                for (std::int64_t i = 0; i < m; ++i) {
                    for (std::int64_t j = 0; j <= i; ++j) {
                        double sum = c.before[static_cast<std::size_t>(c.margin + i * c.ld + j)], size = std::fabs(sum);
                        for (std::int64_t p = 0; p < k; ++p) {
                            sum += x.get(i, p) * x.get(j, p);
                            size += std::fabs(x.get(i, p) * x.get(j, p));
                        }
                        CHECK(std::fabs(c.get(i, j) - sum) <= 2e-16 * static_cast<double>(k + 2) * size);
                    }
                }
            }
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
        for (Case t : {Case{300, 300, 900}, Case{129, 129, 3001}, Case{600, 600, 9000}, Case{5, 5, 0},
                       Case{509, 509, 2053}, Case{389, 389, 2047}}) {
            t.beta = 1;
            check_gram_onto<X>(isa, t);
        }
        for (const std::int64_t m : few_vectors) {  // cut along k
            Case t{m, m, m % 2 == 0 ? 8192 : 12347};
            t.alpha = 0.75;
            t.beta = m % 3 == 0 ? 0.0 : 1.5;
            t.pad_a = m % 5;
            t.pad_c = m % 4;
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
        check(509, 2053, true);
        check(389, 2047, false);
        for (const std::int64_t n : few_vectors) check(n, 8192 + n, turn % 2 == 0);  // cut along k
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
        for (const Case& t : {Case{128, 128, 128}, Case{200, 333, 150}, Case{500, 410, 777}, Case{300, 300, 9000}, Case{40, 30, 17000}}) {
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
