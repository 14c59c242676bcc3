// How orthogonalize treats the caller's memory, threads and mistakes.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "newton_schulz_reference.h"
#include "raphson/newton_schulz.h"
#include "raphson/runtime.h"
#include "raphson/status.h"
#include "support.h"

using namespace raphson;
using namespace support;

namespace {

struct Threads {
    int before = get_num_threads();
    ~Threads() { set_num_threads(before); }
};

}  // namespace

TEST_CASE_TEMPLATE("orthogonalize: strides of any kind, in and out, write what they should and nothing else", T, double,
                   float, bfloat16) {
    const Schedule schedule = Schedule::you();
    const T mark = from_double<T>(99);
    for (const auto& [m, n] : {std::pair<int64_t, int64_t>{12, 20}, {20, 12}, {33, 34}}) {
        const std::vector<T> x = normals<T>(m * n, 6);
        const std::vector<T> expected = orthogonalized(x, m, n, schedule);
        const double allowed = allowance<T>(doubles(x), m, n, schedule);
        struct Layout {
            int64_t origin, row, col, size;
        };
        const Layout layouts[] = {{0, n, 1, m * n},
                                  {0, 1, m, m * n},
                                  {5, n + 3, 1, 5 + m * (n + 3)},
                                  {1, 3 * n, 3, 1 + 3 * m * n},
                                  {(m - 1) * n, -n, 1, m * n},
                                  {m * n - 1, -n, -1, m * n},
                                  {2 * m * n, -2, 2 * m, 4 * m * n}};
        for (const Layout& in : layouts) {
            for (const Layout& to : layouts) {
                CAPTURE(in.row);
                CAPTURE(in.col);
                CAPTURE(to.row);
                CAPTURE(to.col);
                std::vector<T> source(static_cast<std::size_t>(in.size), from_double<T>(std::nan("")));
                std::vector<T> target(static_cast<std::size_t>(to.size), mark), wanted = target;
                for (int64_t i = 0; i < m; ++i) {
                    for (int64_t j = 0; j < n; ++j) {
                        source[static_cast<std::size_t>(in.origin + i * in.row + j * in.col)] = x[at(i, j, n)];
                        wanted[static_cast<std::size_t>(to.origin + i * to.row + j * to.col)] = expected[at(i, j, n)];
                    }
                }
                orthogonalize<T>({source.data() + in.origin, {m, n}, {in.row, in.col}},
                                 {target.data() + to.origin, {m, n}, {to.row, to.col}}, schedule);
                // The scan sums along whichever axis is contiguous: the norm may differ in its last bit.
                CHECK(distance(doubles(target), doubles(wanted)) < allowed);
                int64_t marks = 0;
                for (std::size_t i = 0; i < target.size(); ++i) marks += to_double(target[i]) == 99 ? 1 : 0;
                CHECK(marks == to.size - m * n);
            }
        }
    }
}

TEST_CASE("orthogonalize: an axis of stride 0 repeats what it holds") {
    const std::vector<double> row = normals<double>(9, 2);
    std::vector<double> repeated, out(4 * 9), expected(4 * 9);
    for (int i = 0; i < 4; ++i) repeated.insert(repeated.end(), row.begin(), row.end());
    const Schedule schedule = Schedule::muon();
    orthogonalize<double>({row.data(), {4, 9}, {0, 1}}, {out.data(), {4, 9}}, schedule);
    orthogonalize<double>({repeated.data(), {4, 9}}, {expected.data(), {4, 9}}, schedule);
    CHECK(same_bits(out, expected));
}

TEST_CASE_TEMPLATE("orthogonalize: batches are their matrices, one by one", T, double, float, bfloat16) {
    const Schedule schedule = Schedule::polar_express();
    for (const int64_t count : {1, 2, 3, 7, 12}) {
        for (const auto& [m, n] : {std::pair<int64_t, int64_t>{8, 8}, {5, 19}, {64, 40}}) {
            CAPTURE(count);
            std::vector<T> x = normals<T>(count * m * n, 8), expected;
            for (int64_t b = 0; b < count; ++b) {
                const auto first = x.begin() + b * m * n;
                const std::vector<T> one = orthogonalized(std::vector<T>(first, first + m * n), m, n, schedule);
                expected.insert(expected.end(), one.begin(), one.end());
            }
            std::vector<T> out(x.size());
            orthogonalize<T>({x.data(), {count, m, n}}, {out.data(), {count, m, n}}, schedule);
            CHECK(same_bits(out, expected));
            std::fill(out.begin(), out.end(), T{});
            orthogonalize<T>({x.data(), {1, count, 1, m, n}}, {out.data(), {1, count, 1, m, n}}, schedule);
            CHECK(same_bits(out, expected));
        }
    }
}

TEST_CASE("orthogonalize: batch axes in any order and direction") {
    const Schedule schedule = Schedule::muon();
    const int64_t a = 3, b = 4, m = 5, n = 6;
    const std::vector<double> x = normals<double>(a * b * m * n, 12);
    std::vector<double> out(x.size()), straight(x.size());
    orthogonalize<double>({x.data(), {a, b, m, n}}, {straight.data(), {a, b, m, n}}, schedule);
    // (b, a, m, n), the batch of b backwards
    orthogonalize<double>({x.data() + (b - 1) * m * n, {b, a, m, n}, {-m * n, b * m * n, n, 1}},
                          {out.data() + (b - 1) * m * n, {b, a, m, n}, {-m * n, b * m * n, n, 1}}, schedule);
    CHECK(same_bits(out, straight));
}

TEST_CASE_TEMPLATE("orthogonalize: in place", T, double, float, bfloat16) {
    const Schedule schedule = Schedule::polar_express();
    for (const auto& [m, n] : shapes()) {
        const int64_t count = 3;
        std::vector<T> x = normals<T>(count * m * n, 9), out(x.size());
        orthogonalize<T>({x.data(), {count, m, n}}, {out.data(), {count, m, n}}, schedule);
        orthogonalize<T>({x.data(), {count, m, n}}, {x.data(), {count, m, n}}, schedule);
        CHECK(same_bits(x, out));
    }
    std::vector<T> x = normals<T>(12 * 20, 10), out(x.size());
    orthogonalize<T>({x.data(), {12, 20}, {1, 12}}, {out.data(), {12, 20}, {1, 12}}, schedule);
    orthogonalize<T>({x.data(), {12, 20}, {1, 12}}, {x.data(), {12, 20}, {1, 12}}, schedule);
    CHECK(same_bits(x, out));
}

TEST_CASE_TEMPLATE("orthogonalize: nothing to do is done", T, double, float, bfloat16) {
    const Schedule schedule = Schedule::muon();
    T one = from_double<T>(7);
    orthogonalize<T>({&one, {0, 3, 4}}, {&one, {0, 3, 4}}, schedule);
    orthogonalize<T>({nullptr, {0, 4}}, {nullptr, {0, 4}}, schedule);
    orthogonalize<T>({nullptr, {4, 0}}, {nullptr, {4, 0}}, schedule);
    orthogonalize<T>({nullptr, {2, 4, 0}}, {nullptr, {2, 4, 0}}, schedule);
    CHECK(to_double(one) == 7);
}

TEST_CASE_TEMPLATE("orthogonalize: wrong use is refused and leaves out untouched", T, double, float, bfloat16) {
    const std::vector<T> x = normals<T>(4 * 12, 15);
    std::vector<T> out(x.size(), from_double<T>(7));
    const std::vector<T> before = out;
    const Schedule schedule = Schedule::muon();
    using In = TensorView<const T>;
    using Out = TensorView<T>;
    const auto message = [&](const In& a, const Out& b, const OrthogonalizeOptions& options = {}) {
        return refusal([&] { orthogonalize<T>(a, b, schedule, options); });
    };
    CHECK(message({x.data(), {48}}, {out.data(), {48}}) ==
          "orthogonalize: x must have at least 2 axes (..., m, n), got shape (48,)");
    CHECK(message({x.data(), {}}, {out.data(), {}}) == "orthogonalize: x must have at least 2 axes (..., m, n), got shape ()");
    CHECK(message({x.data(), {4, 12}}, {out.data(), {12, 4}}) ==
          "orthogonalize: out has shape (12, 4), x has shape (4, 12); they must be equal");
    CHECK(message({x.data(), {4, 12}}, {out.data(), {1, 4, 12}}) ==
          "orthogonalize: out has shape (1, 4, 12), x has shape (4, 12); they must be equal");
    OrthogonalizeOptions options;
    for (const double eps : {-1e-7, std::nan(""), std::numeric_limits<double>::infinity()}) {
        options.eps = eps;
        CHECK(contains(message({x.data(), {4, 12}}, {out.data(), {4, 12}}, options),
                       "orthogonalize: eps must be finite and not negative"));
    }
    options = {};
    options.own_precision = false;
    options.precision = DType::float16;
    CHECK(message({x.data(), {4, 12}}, {out.data(), {4, 12}}, options) ==
          "orthogonalize: precision must be float64, float32 or bfloat16");
    CHECK(same_bits(out, before));
}

TEST_CASE_TEMPLATE("orthogonalize: NaN and Inf are found before anything is written, and named", T, double, float,
                   bfloat16) {
    const Schedule schedule = Schedule::muon();
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
        for (const int64_t where : {0, 47, 48, 95, 96, 143}) {
            CAPTURE(bad);
            CAPTURE(where);
            std::vector<T> x = normals<T>(3 * 4 * 12, 16), out(x.size(), from_double<T>(7));
            const std::vector<T> before = out;
            x[static_cast<std::size_t>(where)] = from_double<T>(bad);
            CHECK(refusal([&] { orthogonalize<T>({x.data(), {3, 4, 12}}, {out.data(), {3, 4, 12}}, schedule); }) ==
                  "orthogonalize: x contains NaN or Inf (matrix " + std::to_string(where / 48) + " of the batch)");
            CHECK(same_bits(out, before));
            const std::vector<T> same = x;  // in place it must be x that is left alone
            CHECK(refusal([&] { orthogonalize<T>({x.data(), {12, 12}}, {x.data(), {12, 12}}, schedule); }) ==
                  "orthogonalize: x contains NaN or Inf");
            CHECK(same_bits(x, same));

            OrthogonalizeOptions options;
            options.check_finite = false;
            orthogonalize<T>({x.data(), {3, 4, 12}}, {out.data(), {3, 4, 12}}, schedule, options);
            for (int64_t b = 0; b < 3; ++b) {  // the one matrix is lost, the others are unharmed
                int64_t finite = 0;
                for (int64_t i = 0; i < 48; ++i) finite += std::isfinite(to_double(out[static_cast<std::size_t>(b * 48 + i)])) ? 1 : 0;
                if (b == where / 48) {
                    CHECK(finite < 48);
                } else {
                    CHECK(finite == 48);
                }
            }
        }
    }
}

TEST_CASE_TEMPLATE("orthogonalize: the number of threads changes no bit", T, double, float, bfloat16) {
    const Threads restore;
    const Schedule schedule = Schedule::polar_express();
    struct Case {
        int64_t count, m, n;
    };
    std::vector<Case> cases{{5, 40, 50}, {16, 30, 20}, {3, 1, 40000}, {1, 130, 100}};
    if (!small_tests()) cases.insert(cases.end(), {{1, 200, 300}, {1, 310, 150}, {5, 96, 130}});
    for (const Case& c : cases) {
        CAPTURE(c.m);
        CAPTURE(c.n);
        const std::vector<T> x = normals<T>(c.count * c.m * c.n, 17);
        std::vector<T> first(x.size()), out(x.size());
        for (const int threads : {1, 2, 3, 8}) {
            set_num_threads(threads);
            std::vector<T>& target = threads == 1 ? first : out;
            orthogonalize<T>({x.data(), {c.count, c.m, c.n}}, {target.data(), {c.count, c.m, c.n}}, schedule);
            CAPTURE(threads);
            if (threads > 1) CHECK(same_bits(out, first));
        }
    }
}

namespace {

struct Alarm {  // asks for the end once its time has come
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    double after;

    explicit Alarm(double after_) : after(after_) {}
    double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
    static bool call(void* context) {
        const Alarm& self = *static_cast<Alarm*>(context);
        return self.seconds() >= self.after;
    }
};

}  // namespace

TEST_CASE_TEMPLATE("orthogonalize: a cancelled call throws soon and leaves out untouched", T, double, float, bfloat16) {
    const Threads restore;
    const Schedule endless(std::vector<Step>(1000000, Step{1.875, -1.25, 0.375}));
    for (const int threads : {1, 2}) {
        set_num_threads(threads);
        for (const int64_t m : {8, 150}) {
            CAPTURE(threads);
            CAPTURE(m);
            const std::vector<T> x = normals<T>(m * 200, 18);
            std::vector<T> out(x.size(), from_double<T>(7));
            const std::vector<T> before = out;
            Alarm alarm(0.03);
            {
                const PollScope polling(Alarm::call, &alarm);
                CHECK_THROWS_AS(orthogonalize<T>({x.data(), {m, 200}}, {out.data(), {m, 200}}, endless), Cancelled);
            }
            CHECK(alarm.seconds() < 5);  // 0.03 s, a tile, and a loaded machine under an emulator
            CHECK(same_bits(out, before));
        }
    }
    // Afterwards everything works as before.
    CHECK(orthogonalized(normals<T>(16, 1), 4, 4, Schedule::muon()).size() == 16);
}

TEST_CASE("orthogonalize: a cancelled batch is complete matrix by matrix") {
    const Threads restore;
    const int64_t m = 40, n = 40, count = 400;
    const Schedule schedule(std::vector<Step>(200, Step{1.875, -1.25, 0.375}));
    const std::vector<double> x = normals<double>(m * n, 19);
    const std::vector<double> expected = orthogonalized(x, m, n, schedule);
    for (const int threads : {1, 2, 3}) {
        set_num_threads(threads);
        std::vector<double> out(static_cast<std::size_t>(count * m * n), 7.0);
        Alarm alarm(0.04);
        bool cancelled = false;
        try {
            const PollScope polling(Alarm::call, &alarm);
            orthogonalize<double>({x.data(), {count, m, n}, {0, n, 1}}, {out.data(), {count, m, n}}, schedule);
        } catch (const Cancelled&) {
            cancelled = true;
        }
        CHECK(cancelled);
        int64_t whole = 0, untouched = 0;
        for (int64_t b = 0; b < count; ++b) {
            const auto first = out.begin() + b * m * n;
            const std::vector<double> one(first, first + m * n);
            whole += same_bits(one, expected) ? 1 : 0;
            untouched += same_bits(one, std::vector<double>(one.size(), 7.0)) ? 1 : 0;
        }
        CAPTURE(threads);
        CHECK(whole + untouched == count);
        CHECK(untouched > 0);
    }
}
