// orthogonalize on the device against the CPU library's, which is tested against NumPy: the error against float64 may be
// twice what the CPU makes in the same precision.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "device_support.h"
#include "newton_schulz/device_functions.h"
#include "newton_schulz/orthogonalize.h"
#include "newton_schulz/vjp.h"

using namespace support;
using raphson::BatchRef;
using raphson::DType;
using raphson::Method;
using raphson::Normalize;
using raphson::OrthogonalizeItem;
using raphson::OrthogonalizeOptions;
using raphson::OrthogonalizePlan;
using raphson::Schedule;

namespace {

struct Layout {
    std::vector<int64_t> shape, strides;  // in elements
    int64_t elements;                     // of the memory behind it

    BatchRef on(void* data, DType type) const { return {data, type, static_cast<int>(shape.size()), shape.data(), strides.data()}; }
    int64_t count() const { return shape.size() == 3 ? shape[0] : 1; }
    // Entry (s, i, j).
    std::size_t at(int64_t s, int64_t i, int64_t j) const {
        const std::size_t n = strides.size();
        return static_cast<std::size_t>((n == 3 ? s * strides[0] : 0) + i * strides[n - 2] + j * strides[n - 1]);
    }
    int64_t rows() const { return shape[shape.size() - 2]; }
    int64_t cols() const { return shape.back(); }
};

Layout contiguous(int64_t count, int64_t m, int64_t n) { return {{count, m, n}, {m * n, n, 1}, count * m * n}; }

void on_device(const std::vector<OrthogonalizeItem>& items, const OrthogonalizeOptions& options) {
    raphson::cuda_table().orthogonalize(items.data(), items.size(), options, here);
}

// Kernels launched by one call: known where they are emulated.
template <class F>
std::int64_t launches_of(F&& f) {
#ifdef RAPHSON_CUDA_EMULATION
    const std::size_t before = emulation::launches;
    f();
    return static_cast<std::int64_t>(emulation::launches - before);
#else
    f();
    return -1;
#endif
}

// The same numbers through the CPU library in float64 and in T (float32 for float16, which the CPU does not take).
template <class P>
std::vector<double> on_cpu(const std::vector<double>& x, int64_t count, int64_t m, int64_t n, const Schedule& schedule,
                           OrthogonalizeOptions options) {
    std::vector<P> in(x.size()), out(x.size());
    std::transform(x.begin(), x.end(), in.begin(), from_double<P>);
    raphson::orthogonalize<P>({in.data(), {count, m, n}}, {out.data(), {count, m, n}}, schedule, options);
    std::vector<double> wide(x.size());
    std::transform(out.begin(), out.end(), wide.begin(), [](P v) { return to_double(v); });
    return wide;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return std::sqrt(sum / std::max(size, 1e-300));
}

template <class T>
void check_orthogonalize(const Layout& in, const Layout& out, const Schedule& schedule, OrthogonalizeOptions options = {},
                         double scale = 1, bool one_launch = false) {
    options.check_finite = false;
    const int64_t count = in.count(), m = in.rows(), n = in.cols();
    CAPTURE(m);
    CAPTURE(n);
    Scratch scratch(here);
    const auto x = normals<T>(in.elements, static_cast<std::uint64_t>(7 * m + n), scale);
    auto* device_x = upload(scratch, x);
    auto* device_out = poisoned<T>(scratch, out.elements);
    const BatchRef x_ref = in.on(device_x, type_of<T>()), out_ref = out.on(device_out, type_of<T>());
    const OrthogonalizePlan plan = plan_orthogonalize(m, n, type_of<T>(), schedule, options);
    const std::int64_t launches = launches_of([&] { on_device({{x_ref, out_ref, &plan}}, options); });
    if (one_launch && launches >= 0) CHECK(launches == 1);
    const auto got = download(device_out, out.elements);

    std::vector<double> dense, result;
    for (int64_t s = 0; s < count; ++s) {
        for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
                dense.push_back(to_double(x[in.at(s, i, j)]));
                result.push_back(to_double(got[out.at(s, i, j)]));
            }
        }
    }
    OrthogonalizeOptions wide = options;
    wide.own_precision = false;
    wide.precision = DType::float64;
    const std::vector<double> truth = on_cpu<double>(dense, count, m, n, schedule, wide);
    using P = std::conditional_t<std::is_same_v<T, float16>, float, T>;
    const double cpu = distance(on_cpu<P>(dense, count, m, n, schedule, options), truth);
    // A single singular value carries its rounding errors through the steep start of the polynomials alone.
    const double half_floor = std::min(m, n) == 1 ? 2e-2 : 4e-3;
    const double floor = std::is_same_v<T, double> ? 5e-14 : std::is_same_v<T, float16> ? half_floor : std::is_same_v<T, float> ? 1e-6 : 4e-3;
    const double error = distance(result, truth);
    CAPTURE(cpu);
    CHECK(error <= 2 * std::max(cpu, floor));
    std::int64_t written = 0;
    for (const T& v : got) written += to_double(v) == to_double(v);
    CHECK(written == count * m * n);  // and nothing else
}

}  // namespace

TEST_CASE_TEMPLATE("cuda orthogonalize: every precision and shape", T, double, float, raphson::bfloat16, float16) {
    const Schedule schedule = Schedule::named("polar_express");
    const int64_t shapes[][3] = {{1, 1, 1}, {3, 1, 9}, {2, 7, 1}, {4, 24, 40}, {1, 33, 33}, {2, 70, 30}, {1, 136, 200}};
    for (const auto& s : shapes) check_orthogonalize<T>(contiguous(s[0], s[1], s[2]), contiguous(s[0], s[1], s[2]), schedule);
}

TEST_CASE_TEMPLATE("cuda orthogonalize: small matrices, in one launch", T, raphson::bfloat16, float16) {
    for (const char* name : {"muon", "polar_express", "cubic"}) {  // cubic squares nothing
        const Schedule schedule = Schedule::named(name, std::string(name) == "cubic" ? 7 : 0);
        for (const int64_t n : {128, 130, 300}) check_orthogonalize<T>(contiguous(2, 128, n), contiguous(2, 128, n), schedule);
        check_orthogonalize<T>(contiguous(3, 100, 33), contiguous(3, 100, 33), schedule);
        check_orthogonalize<T>(contiguous(1, 16, 16), contiguous(1, 16, 16), schedule);
    }
    OrthogonalizeOptions narrow;  // float32 in memory, bfloat16 in the iteration
    narrow.own_precision = false;
    narrow.precision = DType::bfloat16;
    check_orthogonalize<float>(contiguous(2, 40, 70), contiguous(2, 40, 70), Schedule::named("muon"), narrow);
}

TEST_CASE("cuda orthogonalize: the Gram iteration is not done in 16 bits") {
    for (const DType type : {DType::bfloat16, DType::float16}) {
        OrthogonalizeOptions options;
        const OrthogonalizePlan chosen = plan_orthogonalize(64, 400, type, Schedule::named("muon"), options);
        CHECK(chosen.method == Method::standard);
        CHECK(chosen.precision == type);
        options.method = Method::gram;
        const OrthogonalizePlan asked = plan_orthogonalize(64, 400, type, Schedule::named("muon"), options);
        CHECK(asked.method == Method::gram);
        CHECK(asked.precision == DType::float32);
    }
}

// Arrays of one layout, 96 at once; another layout, another type of steps or a large matrix is another launch.
TEST_CASE_TEMPLATE("cuda orthogonalize: a list of small arrays is a launch for each layout", T, float, raphson::bfloat16) {
    const Schedule schedule = Schedule::named("muon", 2);
    OrthogonalizeOptions options;
    options.check_finite = false;
    Scratch scratch(here);
    const Layout plain = contiguous(2, 5, 9), tall = contiguous(2, 9, 5);
    const Layout turned{{2, 5, 9}, {45, 1, 5}, 90}, apart{{2, 5, 9}, {100, 9, 1}, 190};
    const OrthogonalizePlan plan = plan_orthogonalize(5, 9, type_of<T>(), schedule, options);
    const OrthogonalizePlan tall_plan = plan_orthogonalize(9, 5, type_of<T>(), schedule, options);
    struct Array {
        const Layout *in, *out;
        T *x, *together, *alone;
    };
    std::vector<Array> arrays;
    std::vector<OrthogonalizeItem> items;
    for (int i = 0; i < 204; ++i) {
        const Layout& in = i == 3 ? turned : i == 7 ? apart : i == 100 ? tall : plain;
        const Layout& out = i == 50 ? turned : i == 100 ? tall : plain;
        const Array one{&in, &out, upload(scratch, normals<T>(in.elements, static_cast<std::uint64_t>(i + 1))),
                        poisoned<T>(scratch, out.elements), poisoned<T>(scratch, out.elements)};
        const OrthogonalizePlan* const its_plan = i == 100 ? &tall_plan : &plan;
        arrays.push_back(one);
        items.push_back({in.on(one.x, type_of<T>()), out.on(one.together, type_of<T>()), its_plan});
        on_device({{in.on(one.x, type_of<T>()), out.on(one.alone, type_of<T>()), its_plan}}, options);
    }
    const std::int64_t launches = launches_of([&] { on_device(items, options); });
    if (launches >= 0) CHECK(launches == 3 + 4);  // 200 alike, and one each of the others
    for (const Array& one : arrays) {
        CHECK(same_bits(download(one.together, one.out->elements), download(one.alone, one.out->elements)));
    }
}

// Blocks of 16 rows from one more than the other kernel takes to 16, and few rows of many columns.
TEST_CASE_TEMPLATE("cuda orthogonalize: up to 256 rows in 16 bits, in one launch", T, raphson::bfloat16, float16) {
    const auto check = [](int64_t count, int64_t m, int64_t n, const char* name, int steps = 0) {
        const Layout shape = contiguous(count, m, n);
        check_orthogonalize<T>(shape, shape, Schedule::named(name, steps, m, n), {}, 1, true);
    };
    check(2, 129, 130, "polar_express");
    check(1, 129, 400, "you", 3);
    check(1, 176, 177, "muon", 3);
    check(1, 200, 209, "muon", 3);
    check(1, 255, 255, "polar_express", 2);
    check(1, 256, 256, "polar_express", 5);
    check(1, 256, 304, "muon", 2);
    check(1, 144, 150, "cubic", 3);  // squares nothing
    check(1, 20, 2000, "muon", 2);
    check(1, 100, 900, "you", 2);
    const Layout tall{{2, 150, 140}, {21000, 140, 1}, 42000}, turned{{2, 150, 140}, {21000, 1, 150}, 42000};
    check_orthogonalize<T>(tall, turned, Schedule::named("muon", 2), {}, 1, true);
    OrthogonalizeOptions narrow;  // float32 in memory, bfloat16 in the iteration
    narrow.own_precision = false;
    narrow.precision = DType::bfloat16;
    check_orthogonalize<float>(contiguous(1, 130, 140), contiguous(1, 130, 140), Schedule::named("muon", 2), narrow, 1, true);
}

// Rows from one row of a thread's to ten, and the ends of each; columns of one panel, of several, and of no whole float4.
TEST_CASE("cuda orthogonalize: small matrices in float32, in one launch") {
    const auto check = [](int64_t count, int64_t m, int64_t n, const char* name, OrthogonalizeOptions options = {}, int steps = 0) {
        const Layout shape = contiguous(count, m, n);
        check_orthogonalize<float>(shape, shape, Schedule::named(name, steps, m, n), options, 1, true);
    };
    const int64_t shapes[][3] = {{1, 1, 1},    {1, 2, 700},  {3, 31, 33},  {2, 32, 131}, {1, 33, 64},   {1, 64, 130},  {2, 65, 66},
                                 {1, 96, 257}, {1, 97, 101}, {1, 127, 129}, {2, 128, 128}, {1, 129, 140}, {1, 160, 161}, {2, 50, 17},
                                 {1, 16, 2500}, {1, 80, 239}, {1, 128, 300}};
    for (const auto& s : shapes) check(s[0], s[1], s[2], "polar_express");
    check(2, 45, 70, "cubic", {}, 7);  // squares nothing
    OrthogonalizeOptions gram;
    gram.method = Method::gram;
    for (const int steps : {1, 2, 3, 4, 6, 9}) check(2, 19, 90, "muon", gram, steps);
    check(1, 64, 200, "polar_express");  // `auto` takes the Gram iteration here
    check(1, 70, 213, "you", gram);
    for (const Method method : {Method::standard, Method::gram}) {
        OrthogonalizeOptions options;
        options.method = method;
        const Layout tall{{2, 70, 20}, {1400, 20, 1}, 2800}, spread{{2, 20, 70}, {9000, 220, 3}, 18000};
        const Layout turned{{2, 20, 70}, {1400, 1, 20}, 2800};
        check_orthogonalize<float>(tall, {{2, 70, 20}, {1400, 1, 70}, 2800}, Schedule::named("muon"), options, 1, true);
        check_orthogonalize<float>(spread, turned, Schedule::named("muon"), options, 1, true);
    }
    OrthogonalizeOptions wide;  // 16 bits in memory, float32 in the iteration
    wide.own_precision = false;
    wide.precision = DType::float32;
    check_orthogonalize<raphson::bfloat16>(contiguous(2, 40, 70), contiguous(2, 40, 70), Schedule::named("muon"), wide, 1, true);
    check_orthogonalize<float16>(contiguous(2, 40, 70), contiguous(2, 40, 70), Schedule::named("muon"), wide, 1, true);
}

TEST_CASE_TEMPLATE("cuda orthogonalize: strides", T, double, raphson::bfloat16) {
    const Schedule schedule = Schedule::named("muon");
    const Layout transposed{{2, 20, 36}, {720, 1, 20}, 1440}, spread{{2, 20, 36}, {5000, 120, 3}, 10000};
    const Layout backwards{{20, 36}, {36, 1}, 720};
    check_orthogonalize<T>(transposed, contiguous(2, 20, 36), schedule);
    check_orthogonalize<T>(spread, transposed, schedule);
    check_orthogonalize<T>(contiguous(2, 20, 36), spread, schedule);
    check_orthogonalize<T>(backwards, backwards, schedule);
    const Layout tall{{2, 36, 20}, {720, 1, 36}, 1440};
    check_orthogonalize<T>(tall, contiguous(2, 36, 20), schedule);
}

TEST_CASE("cuda orthogonalize: schedules, normalisations and methods") {
    const Layout shape = contiguous(2, 40, 130);
    for (const char* name : {"muon", "you", "polar_express", "cans", "turbo", "root", "cubic", "kovarik"}) {
        CAPTURE(std::string(name));
        check_orthogonalize<float>(shape, shape, Schedule::named(name, 0, 40, 130));
    }
    for (const Normalize normalize : {Normalize::frobenius, Normalize::gram, Normalize::aol}) {
        for (const Method method : {Method::standard, Method::gram}) {
            OrthogonalizeOptions options;
            options.normalize = normalize;
            options.method = method;
            check_orthogonalize<double>(shape, shape, Schedule::named("polar_express"), options);
            check_orthogonalize<float>(shape, shape, Schedule::named("you"), options);
            check_orthogonalize<raphson::bfloat16>(shape, shape, Schedule::named("you"), options);
        }
    }
}

TEST_CASE("cuda orthogonalize: magnitudes from one end of the range to the other") {
    const Schedule schedule = Schedule::named("polar_express");
    const Layout shape = contiguous(1, 12, 30);
    for (const double scale : {1e-300, 1e-160, 1e-30, 1e30, 1e160, 1e300}) {
        CAPTURE(scale);
        check_orthogonalize<double>(shape, shape, schedule, {}, scale);
    }
    check_orthogonalize<float>(shape, shape, schedule, {}, 1e-30);
    check_orthogonalize<float>(shape, shape, schedule, {}, 1e30);
    check_orthogonalize<raphson::bfloat16>(shape, shape, schedule, {}, 1e30);
    OrthogonalizeOptions coarse;  // the divisor is never less than eps times the largest entry
    coarse.eps = 10;
    check_orthogonalize<float>(shape, shape, schedule, coarse);
    check_orthogonalize<raphson::bfloat16>(shape, shape, schedule, coarse);
}

TEST_CASE("cuda orthogonalize: zeros, NaN, in place, several arrays") {
    const Schedule schedule = Schedule::named("polar_express");
    Scratch scratch(here);
    const Layout shape = contiguous(3, 10, 16);
    std::vector<float> x = normals<float>(shape.elements, 5);
    std::fill(x.begin() + 160, x.begin() + 320, 0.0f);  // a zero matrix
    std::vector<float> bad = x;
    bad[325] = NAN;
    const OrthogonalizePlan plan = plan_orthogonalize(10, 16, DType::float32, schedule, {});
    OrthogonalizeOptions options;
    options.check_finite = false;

    float* in_place = upload(scratch, bad);
    const BatchRef ref = shape.on(in_place, DType::float32);
    on_device({{ref, ref, &plan}}, options);
    const auto got = download(in_place, shape.elements);
    CHECK(std::all_of(got.begin(), got.begin() + 160, [](float v) { return std::isfinite(v); }));
    CHECK(std::all_of(got.begin() + 160, got.begin() + 320, [](float v) { return v == 0; }));
    CHECK(std::any_of(got.begin() + 320, got.end(), [](float v) { return v != v; }));

    options.check_finite = true;
    float* refused = upload(scratch, bad);
    const BatchRef refused_ref = shape.on(refused, DType::float32);
    const std::string text = refusal([&] { on_device({{refused_ref, refused_ref, &plan}}, options); });
    CHECK(text == "orthogonalize: x contains NaN or Inf (matrix 2 of the batch)");
    CHECK(download(refused, 320) == std::vector<float>(bad.begin(), bad.begin() + 320));  // nothing has been written

    // Bit for bit what every one gives alone: equal shapes are joined in one batch.
    const Layout wide = contiguous(1, 10, 40);
    const OrthogonalizePlan wide_plan = plan_orthogonalize(10, 40, DType::float32, schedule, {});
    const std::vector<float> y = normals<float>(wide.elements, 6);
    float *a = upload(scratch, x), *b = upload(scratch, y), *c = upload(scratch, x);
    float *together[3] = {poisoned<float>(scratch, 480), poisoned<float>(scratch, 400), poisoned<float>(scratch, 480)};
    float *alone[2] = {poisoned<float>(scratch, 480), poisoned<float>(scratch, 400)};
    on_device({{shape.on(a, DType::float32), shape.on(together[0], DType::float32), &plan},
               {wide.on(b, DType::float32), wide.on(together[1], DType::float32), &wide_plan},
               {shape.on(c, DType::float32), shape.on(together[2], DType::float32), &plan}},
              options);
    on_device({{shape.on(a, DType::float32), shape.on(alone[0], DType::float32), &plan}}, options);
    on_device({{wide.on(b, DType::float32), wide.on(alone[1], DType::float32), &wide_plan}}, options);
    CHECK(same_bits(download(together[0], 480), download(alone[0], 480)));
    CHECK(same_bits(download(together[2], 480), download(alone[0], 480)));
    CHECK(same_bits(download(together[1], 400), download(alone[1], 400)));
}

TEST_CASE_TEMPLATE("cuda orthogonalize: the derivative is the CPU's, in any layout", T, double, float, raphson::bfloat16, float16) {
    using P = std::conditional_t<std::is_same_v<T, double>, double, float>;
    const double tolerance = std::is_same_v<T, double> ? 1e-11 : std::is_same_v<T, float> ? 1e-3 : 6e-3;
    const Layout layouts[] = {contiguous(2, 20, 36), {{2, 20, 36}, {720, 1, 20}, 1440}, {{2, 36, 20}, {5000, 62, 3}, 10000}};
    const Schedule schedule = Schedule::named("muon", 3);
    Scratch scratch(here);
    for (const Normalize normalize : {Normalize::frobenius, Normalize::gram, Normalize::aol}) {
        for (const Layout& in : layouts) {
            const int64_t m = in.rows(), n = in.cols();
            const Layout& out = m == layouts[0].rows() ? layouts[0] : in;
            OrthogonalizeOptions options;
            options.normalize = normalize;
            options.check_finite = false;
            const auto x = normals<T>(in.elements, 21), cotangent = normals<T>(in.elements, 22);
            auto* device_out = poisoned<T>(scratch, out.elements);
            const OrthogonalizePlan plan = plan_orthogonalize_vjp(m, n, type_of<T>(), schedule, options);
            const auto on = [&](const Layout& layout, T* data) { return layout.on(data, type_of<T>()); };
            raphson::cuda_table().functions->orthogonalize_vjp(on(in, upload(scratch, x)), on(in, upload(scratch, cotangent)),
                                                               on(out, device_out), plan, options, here);
            const auto got = download(device_out, out.elements);
            std::vector<P> dense_x, dense_cotangent;
            std::vector<double> result;
            for (int64_t s = 0; s < 2; ++s) {
                for (int64_t i = 0; i < m; ++i) {
                    for (int64_t j = 0; j < n; ++j) {
                        dense_x.push_back(static_cast<P>(to_double(x[in.at(s, i, j)])));
                        dense_cotangent.push_back(static_cast<P>(to_double(cotangent[in.at(s, i, j)])));
                        result.push_back(to_double(got[out.at(s, i, j)]));
                    }
                }
            }
            std::vector<P> expected(dense_x.size());
            raphson::orthogonalize_vjp<P>({dense_x.data(), {2, m, n}}, {dense_cotangent.data(), {2, m, n}},
                                          {expected.data(), {2, m, n}}, schedule, options);
            CHECK(distance(result, std::vector<double>(expected.begin(), expected.end())) <= tolerance);
            CHECK(std::count_if(got.begin(), got.end(), [](T v) { return to_double(v) == to_double(v); }) == 2 * m * n);
        }
    }
}

TEST_CASE("cuda orthogonalize: nothing to do") {
    const OrthogonalizePlan plan = plan_orthogonalize(0, 5, DType::float32, Schedule::named("muon"), {});
    const Layout empty{{2, 0, 5}, {0, 5, 1}, 0}, none{{0, 3, 3}, {9, 3, 1}, 0};
    on_device({{empty.on(nullptr, DType::float32), empty.on(nullptr, DType::float32), &plan}}, {});
    on_device({{none.on(nullptr, DType::float32), none.on(nullptr, DType::float32), &plan}}, {});
    on_device({}, {});
}
