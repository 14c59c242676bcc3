// What orthogonalize computes, against the schedule written out as plain float64 loops.
#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "newton_schulz/orthogonalize.h"
#include "newton_schulz_reference.h"
#include "raphson/newton_schulz.h"
#include "support.h"

using namespace raphson;
using namespace support;

TEST_CASE_TEMPLATE("orthogonalize: every schedule, any shape", T, double, float, bfloat16) {
    for (const std::string& name : Schedule::names()) {
        for (const auto& [m, n] : shapes()) {
            CAPTURE(name);
            CAPTURE(m);
            CAPTURE(n);
            const Schedule schedule = Schedule::named(name, 0, m, n);
            const std::vector<T> x = normals<T>(m * n, static_cast<std::uint64_t>(m * 1000 + n));
            const Matrix given = doubles(x), expected = reference(given, m, n, schedule);
            CHECK(distance(doubles(orthogonalized(x, m, n, schedule)), expected) < allowance<T>(given, m, n, schedule));
        }
    }
}

TEST_CASE("orthogonalize: on Gaussian input the schedules agree to 1e-12 in float64, 1e-5 in float32") {
    for (const char* name : {"polar_express", "muon", "you"}) {
        CAPTURE(std::string(name));
        for (const auto& [m, n] : {std::pair<int64_t, int64_t>{64, 64}, {48, 192}, {190, 50}, {128, 160}}) {
            if (small_tests() && m != 48) continue;
            CAPTURE(m);
            const Schedule schedule = Schedule::named(name);
            const std::vector<double> x = normals<double>(m * n, 21);
            CHECK(distance(orthogonalized(x, m, n, schedule), reference(x, m, n, schedule)) < 1e-12);
            const std::vector<float> y = normals<float>(m * n, 21);
            CHECK(distance(doubles(orthogonalized(y, m, n, schedule)), reference(doubles(y), m, n, schedule)) < 1e-5);
        }
    }
}

TEST_CASE_TEMPLATE("orthogonalize: either method, any normalisation", T, double, float, bfloat16) {
    for (const Method method : {Method::standard, Method::gram}) {
        for (const Normalize normalize : {Normalize::frobenius, Normalize::gram, Normalize::aol}) {
            for (const auto& [m, n] : shapes()) {
                CAPTURE(static_cast<int>(method));
                CAPTURE(static_cast<int>(normalize));
                CAPTURE(m);
                CAPTURE(n);
                OrthogonalizeOptions options;
                options.method = method;
                options.normalize = normalize;
                const Schedule schedule = Schedule::polar_express();
                const std::vector<T> x = normals<T>(m * n, 23);
                const Matrix given = doubles(x), expected = reference(given, m, n, schedule, normalize);
                const double worse = method == Method::gram ? 8 : 1;  // near square, where `automatic` avoids it
                CHECK(distance(doubles(orthogonalized(x, m, n, schedule, options)), expected) <
                      worse * allowance<T>(given, m, n, schedule, normalize));
            }
        }
    }
}

TEST_CASE_TEMPLATE("orthogonalize: custom tables, cubics among them, short and long", T, double, float, bfloat16) {
    const std::vector<std::vector<Step>> tables{{{1, 0, 0}},
                                                {{1.5, -0.5, 0}},
                                                {{2, -1.5, 0.5}, {1.5, -0.5, 0}, {1.875, -1.25, 0.375}},
                                                std::vector<Step>(12, Step{1.875, -1.25, 0.375})};
    for (const auto& steps : tables) {
        for (const auto& [m, n] : shapes()) {
            CAPTURE(steps.size());
            CAPTURE(m);
            CAPTURE(n);
            const Schedule schedule(steps, Normalize::frobenius, 1.25);
            const std::vector<T> x = normals<T>(m * n, 11);
            const Matrix given = doubles(x), expected = reference(given, m, n, schedule);
            CHECK(distance(doubles(orthogonalized(x, m, n, schedule)), expected) < allowance<T>(given, m, n, schedule));
        }
    }
}

// Their rows lie further apart than they are long. float32, whose rows do not, is checked above.
TEST_CASE("orthogonalize: bfloat16 matrices with rows of a power of two") {
    for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{24, 1024}, {2048, 33}, {1024, 1024}}) {
        const std::vector<bfloat16> x = normals<bfloat16>(m * n, 31);
        for (const Normalize normalize : {Normalize::frobenius, Normalize::gram, Normalize::aol}) {
            CAPTURE(m);
            CAPTURE(static_cast<int>(normalize));
            OrthogonalizeOptions options;
            options.normalize = normalize;
            options.own_precision = false;
            options.precision = DType::float32;
            const Matrix expected = doubles(orthogonalized(x, m, n, Schedule::muon(), options));
            options.precision = DType::bfloat16;
            const Matrix found = doubles(orthogonalized(x, m, n, Schedule::muon(), options));
            double error = 0, size = 0;
            for (std::size_t i = 0; i < found.size(); ++i) {
                error += (found[i] - expected[i]) * (found[i] - expected[i]);
                size += expected[i] * expected[i];
            }
            CHECK(std::sqrt(error / size) < 0.03);
        }
    }
}

TEST_CASE("orthogonalize: kovarik's steps end in an orthogonal matrix") {
    const int64_t m = 30, n = 70;
    const Matrix q = orthogonalized(normals<double>(m * n, 3), m, n, Schedule::kovarik(20));
    const Matrix gram = product(q, transposed(q, m, n), m, n, m);
    double error = 0;
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < m; ++j) error = std::fmax(error, std::fabs(gram[at(i, j, m)] - (i == j ? 1 : 0)));
    }
    CHECK(error < 1e-13);
}

TEST_CASE_TEMPLATE("orthogonalize: the iteration's precision is the caller's choice", T, double, float, bfloat16) {
    const int64_t m = 24, n = 41;
    const Schedule schedule = Schedule::polar_express();
    const std::vector<T> x = normals<T>(m * n, 5);
    const Matrix given = doubles(x), expected = reference(given, m, n, schedule);
    const auto with = [&](DType precision) {
        OrthogonalizeOptions options;
        options.own_precision = false;
        options.precision = precision;
        return doubles(orthogonalized(x, m, n, schedule, options));
    };
    const double rounding = unit_roundoff<T>;  // of the result
    CHECK(distance(with(DType::float64), expected) < rounding + allowance<double>(given, m, n, schedule));
    CHECK(distance(with(DType::float32), expected) < rounding + allowance<float>(given, m, n, schedule));
    CHECK(distance(with(DType::bfloat16), expected) < rounding + allowance<bfloat16>(given, m, n, schedule));
    CHECK(distance(with(DType::bfloat16), expected) > 1e-4);  // it is bfloat16
    if (!std::is_same_v<T, float>) CHECK(with(DType::float32) != with(DType::float64));
    CHECK(with(dtype_of<T>()) == doubles(orthogonalized(x, m, n, schedule)));
}

TEST_CASE_TEMPLATE("orthogonalize: zeros give zeros, alone and in a batch", T, double, float, bfloat16) {
    for (const char* name : {"polar_express", "muon", "kovarik"}) {
        const Schedule schedule = Schedule::named(name);
        const std::vector<T> zeros(6 * 9, T{});
        for (const T v : orthogonalized(zeros, 6, 9, schedule)) CHECK(to_double(v) == 0);
        std::vector<T> batch = normals<T>(3 * 6 * 9, 4);
        std::fill(batch.begin() + 54, batch.begin() + 108, T{});
        std::vector<T> out(batch.size());
        orthogonalize<T>({batch.data(), {3, 6, 9}}, {out.data(), {3, 6, 9}}, schedule);
        for (std::size_t i = 0; i < out.size(); ++i) {
            CHECK(std::isfinite(to_double(out[i])));
            if (i >= 54 && i < 108) CHECK(to_double(out[i]) == 0);
        }
    }
}

TEST_CASE_TEMPLATE("orthogonalize: rank-deficient input stays finite and keeps its null space", T, double, float,
                   bfloat16) {
    const int64_t m = 10, n = 14;
    std::vector<T> x = normals<T>(m * n, 13);
    for (int64_t j = 0; j < n; ++j) {
        x[at(3, j, n)] = T{};
        x[at(7, j, n)] = x[at(2, j, n)];
    }
    for (const char* name : {"polar_express", "muon", "you", "cans", "root", "kovarik"}) {
        CAPTURE(std::string(name));
        const std::vector<T> out = orthogonalized(x, m, n, Schedule::named(name));
        for (int64_t j = 0; j < n; ++j) {
            CHECK(to_double(out[at(3, j, n)]) == 0);
            CHECK(std::fabs(to_double(out[at(7, j, n)]) - to_double(out[at(2, j, n)])) < (std::is_same_v<T, bfloat16> ? 0.1 : 1e-4));
        }
        for (const T v : out) CHECK(std::fabs(to_double(v)) < 1.5);
    }
}

TEST_CASE_TEMPLATE("orthogonalize: a power of two in front changes no bit, however large or small", T, double, float,
                   bfloat16) {
    const int64_t m = 9, n = 16;
    const Schedule schedule = Schedule::polar_express();
    const std::vector<T> x = normals<T>(m * n, 14);
    const std::vector<T> expected = orthogonalized(x, m, n, schedule);
    // Entries lie in [2^-10, 2^3] but for a few; float64 keeps all bits down to 2^-1000.
    for (const int power : std::is_same_v<T, double> ? std::vector<int>{-950, -500, -100, 100, 500, 1000, 1020}
                                                     : std::vector<int>{-90, -40, 40, 90, 120}) {
        CAPTURE(power);
        std::vector<T> scaled = x;
        for (T& v : scaled) v = from_double<T>(std::ldexp(to_double(v), power));
        CHECK(same_bits(orthogonalized(scaled, m, n, schedule), expected));
    }
    for (const double scale : {1e-30, 1e30}) {
        std::vector<T> scaled = x;
        for (T& v : scaled) v = from_double<T>(to_double(v) * scale);
        const Matrix given = doubles(scaled);  // rounded anew
        CHECK(distance(doubles(orthogonalized(scaled, m, n, schedule)), reference(given, m, n, schedule)) <
              allowance<T>(given, m, n, schedule));
    }
}

TEST_CASE_TEMPLATE("orthogonalize: denormal numbers and the largest ones", T, double, float, bfloat16) {
    const Schedule schedule = Schedule::polar_express();
    using Limits = std::numeric_limits<std::conditional_t<std::is_same_v<T, double>, double, float>>;
    const double largest = std::is_same_v<T, bfloat16> ? 0x1.fep+127 : static_cast<double>(Limits::max());
    const double smallest = std::is_same_v<T, bfloat16> ? 0x1p-133 : static_cast<double>(Limits::denorm_min());
    const int64_t n = 6;
    for (const double unit : {largest, smallest, 3 * smallest, smallest * 64}) {
        CAPTURE(unit);
        std::vector<T> x(static_cast<std::size_t>(n * n), T{});  // a signed permutation: its own polar factor
        for (int64_t i = 0; i < n; ++i) x[at(i, (i + 2) % n, n)] = from_double<T>(i % 2 == 0 ? unit : -unit);
        const Matrix given = doubles(x), expected = reference(given, n, n, schedule);
        CHECK(distance(doubles(orthogonalized(x, n, n, schedule)), expected) < allowance<T>(given, n, n, schedule));
    }
}

TEST_CASE("orthogonalize: the plan says what is done") {
    const Schedule five = Schedule::polar_express();
    const OrthogonalizePlan wide = plan_orthogonalize(768, 3072, DType::float32, five);
    CHECK(wide.method == Method::gram);
    CHECK_FALSE(wide.transposed);
    CHECK(wide.flops < orthogonalize_flops(768, 3072, 5));
    CHECK(wide.steps.size() == 5);
    CHECK(wide.norm_factor == five.norm_factor());
    CHECK(wide.precision == DType::float32);
    CHECK(plan_orthogonalize(3072, 768, DType::float32, five).transposed);
    CHECK(plan_orthogonalize(1024, 1024, DType::float64, five).method == Method::standard);
    CHECK(plan_orthogonalize(1024, 1024, DType::float64, five).flops == orthogonalize_flops(1024, 1024, 5));
    CHECK(plan_orthogonalize(768, 3072, DType::bfloat16, five).method == Method::standard);
    CHECK(plan_orthogonalize(768, 3072, DType::float32, Schedule::turbo()).normalize == Normalize::aol);
    OrthogonalizeOptions options;
    options.method = Method::gram;
    CHECK(plan_orthogonalize(768, 3072, DType::bfloat16, five, options).precision == DType::float32);
    options.normalize = Normalize::gram;
    CHECK(plan_orthogonalize(8, 8, DType::float64, five, options).normalize == Normalize::gram);
    options.own_precision = false;
    options.precision = DType::float64;
    CHECK(plan_orthogonalize(8, 8, DType::float32, five, options).precision == DType::float64);
}

TEST_CASE("orthogonalize: flops of a quintic step, symmetric products counted once") {
    CHECK(orthogonalize_flops(768, 3072, 1) == 3.0 * 768 * 768 * 3072 + 768.0 * 768 * 768);
    CHECK(orthogonalize_flops(3072, 768, 5) == 5 * orthogonalize_flops(768, 3072, 1));
    CHECK(orthogonalize_flops(1 << 20, 1 << 20, 1) > 4e18);  // no overflow
}
