// Step tables: against published figures, and against the properties that define them, checked on fine grids.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "newton_schulz/root_fit.h"
#include "raphson/schedule.h"

using namespace raphson;

namespace {

double apply(const Step& s, double x) { return s.a * x + s.b * x * x * x + s.c * x * x * x * x * x; }

double apply(const std::vector<Step>& steps, double x) {
    for (const Step& s : steps) x = apply(s, x);
    return x;
}

void check_table(const std::vector<Step>& found, const std::vector<Step>& expected, double digits = 1e-10) {
    REQUIRE(found.size() == expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        CAPTURE(i);
        CHECK(std::fabs(found[i].a - expected[i].a) <= digits * std::fabs(expected[i].a));
        CHECK(std::fabs(found[i].b - expected[i].b) <= digits * std::fabs(expected[i].b));
        CHECK(std::fabs(found[i].c - expected[i].c) <= digits * std::fabs(expected[i].c));
    }
}

template <class F>
std::string refusal(F f) {
    try {
        f();
    } catch (const std::invalid_argument& e) {
        return e.what();
    }
    return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::vector<double> log_grid(double from, double to, int count) {
    std::vector<double> x(count);
    for (int i = 0; i < count; ++i) x[i] = from * std::pow(to / from, i / (count - 1.0));
    x.back() = to;
    return x;
}

constexpr Step muon_step{3.4445, -4.7750, 2.0315};
constexpr Step kovarik_step{1.875, -1.25, 0.375};
constexpr Step cubic_step{1.5, -0.5, 0.0};

}  // namespace

TEST_CASE("minimax_schedule gives the published Polar Express tables") {
    // microsoft/dion, dion/polar_express.py: safety 0.02 in all steps but the last
    const std::vector<Step> dion{{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                 {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                 {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                 {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                 {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}};
    check_table(minimax_schedule(1e-3, 5), dion);
    check_table(Schedule::polar_express().steps(), dion);
    // NoahAmsel/PolarExpress, polar_express/basic.py: no safety; the cushion it was really made with
    check_table(minimax_schedule(1e-3, 8, 5, 0.0, 0.02407327424182761),
                {{8.28721201814563, -23.595886519098837, 17.300387312530933},
                 {4.107059111542203, -2.9478499167379106, 0.5448431082926601},
                 {3.9486908534822946, -2.908902115962949, 0.5518191394370137},
                 {3.3184196573706015, -2.488488024314874, 0.51004894012372},
                 {2.300652019954817, -1.6689039845747493, 0.4188073119525673},
                 {1.891301407787398, -1.2679958271945868, 0.37680408948524835},
                 {1.8750014808534479, -1.2500016453999487, 0.3750001645474248},
                 {1.875, -1.25, 0.375}},
                1e-9);  // its seventh row was found by an iteration that stops at 5e-10
}

TEST_CASE("CANS and ROOT without safety are the published tables") {
    // NVIDIA-NeMo/Emerging-Optimizers, four decimals
    const std::vector<Step> nemo{{8.4703, -25.1081, 18.6293},
                                 {4.1828, -3.1087, 0.5806},
                                 {3.9619, -2.9541, 0.5630},
                                 {3.2866, -2.4647, 0.5074},
                                 {2.2737, -1.6447, 0.4162}};
    const Schedule cans = Schedule::cans(5, 0.0);
    REQUIRE(cans.steps().size() == 5);
    for (int i = 0; i < 5; ++i) {
        CHECK(std::fabs(cans.steps()[i].a - nemo[i].a) < 6e-5);
        CHECK(std::fabs(cans.steps()[i].b - nemo[i].b) < 6e-5);
        CHECK(std::fabs(cans.steps()[i].c - nemo[i].c) < 6e-5);
    }
    check_table(Schedule::root(2048, 2048, 1, 0.0).steps(), {{3.4916, -4.8224, 2.1095}}, 0.0);
    check_table(Schedule::root(3072, 2048, 1, 0.0).steps(), {{3.4509, -4.5790, 1.9325}}, 0.0);
    check_table(Schedule::root(2048, 8192, 1, 0.0).steps(), {{2.9794, -3.6674, 1.6207}}, 0.0);
    const Step widest{3.1943, -3.8221, 1.5322};
    check_table(Schedule::root(16384, 2048, 2, 0.0).steps(), {widest, widest}, 0.0);
    check_table(Schedule::root(0, 0, 1).steps(), {{3.4916 / 1.02, -4.8224 / 1.061208, 2.1095 / 1.1040808032}});
}

TEST_CASE("a minimax polynomial equioscillates: degree 3 three times, degree 5 four times") {
    for (double lower : {1e-12, 1e-6, 1e-3, 0.02, 0.1, 0.3, 0.6, 0.9, 0.97}) {
        for (int degree : {3, 5}) {
            CAPTURE(lower);
            CAPTURE(degree);
            const Step p = minimax_schedule(lower, 1, degree, 0.0, 0.0).front();
            const int points = 200001;
            std::vector<double> error(points);
            double largest = 0.0;
            for (int i = 0; i < points; ++i) {
                error[i] = apply(p, lower + (1.0 - lower) * i / (points - 1)) - 1.0;
                largest = std::max(largest, std::fabs(error[i]));
            }
            CHECK(largest < 1.0);
            int alternations = 0;
            double last_sign = 0.0;
            const double level = largest - 1e-9 * largest - 4e-15;  // peaks fall between points, rounding blurs them
            for (double e : error) {
                if (std::fabs(e) < level || e * last_sign > 0.0) continue;
                last_sign = e;
                ++alternations;
            }
            CHECK(alternations == (degree + 3) / 2);
            CHECK(error.front() < 0.0);
        }
    }
}

TEST_CASE("a minimax table maps [lower, 1] into the interval that its left end promises") {
    for (double lower : {1e-300, 1e-8, 1e-3, 0.1, 0.9}) {
        for (int degree : {3, 5}) {
            for (double safety : {0.0, 0.02, 0.1}) {
                // Without safety rounding at the upper end grows tenfold a step, that is the point of safety.
                if (lower < 1e-100 && safety == 0.0) continue;
                const double slack = safety > 0.0 ? 1e-12 : 1e-9;
                for (double cushion : {0.0, 0.02, 0.5}) {
                    for (int steps : {1, 2, 5, 12, 100}) {
                        CAPTURE(lower);
                        CAPTURE(degree);
                        CAPTURE(safety);
                        CAPTURE(cushion);
                        CAPTURE(steps);
                        const std::vector<Step> table = minimax_schedule(lower, steps, degree, safety, cushion);
                        REQUIRE(table.size() == static_cast<std::size_t>(steps));
                        const double left = apply(table, lower);
                        CHECK(left > 0.0);
                        double smallest = 10.0, largest = 0.0, largest_pushed = 0.0;
                        for (double x : log_grid(lower, 1.0, 2001)) {
                            const double y = apply(table, x);
                            smallest = std::min(smallest, y);
                            largest = std::max(largest, y);
                            for (int i = 0; i < steps; ++i) {  // rounding pushes up before every damped step
                                x = apply(table[i], i + 1 < steps ? x * (1.0 + 0.999 * safety) : x);
                            }
                            largest_pushed = std::max(largest_pushed, x);
                        }
                        CHECK(smallest >= left - slack);
                        CHECK(largest <= 2.0 - left + slack);
                        CHECK(largest_pushed <= 2.0 - left + slack);
                    }
                }
            }
        }
    }
    const double pe = apply(Schedule::polar_express().steps(), 1e-3), cans = apply(Schedule::cans().steps(), 1e-3);
    CHECK(pe > 0.85);
    CHECK(cans > 0.86);
}

TEST_CASE("a longer minimax table never promises less, degree 5 more than degree 3") {
    for (int degree : {3, 5}) {
        double before = 0.0;
        for (int steps = 1; steps <= 20; ++steps) {
            const double left = apply(minimax_schedule(1e-3, steps, degree, 0.0, 0.0), 1e-3);
            CHECK(left >= before - 1e-14);
            before = left;
        }
        CHECK(std::fabs(before - 1.0) < 1e-14);
    }
    CHECK(apply(minimax_schedule(1e-3, 5), 1e-3) > apply(minimax_schedule(1e-3, 5, 3), 1e-3));
}

TEST_CASE("as the interval collapses the minimax polynomials become Kovarik's") {
    for (double gap : {1e-4, 1e-8, 1e-12, std::numeric_limits<double>::epsilon()}) {
        CAPTURE(gap);
        const double tolerance = 20.0 * gap + 1e-14;
        check_table(minimax_schedule(1.0 - gap, 1, 5, 0.0, 0.0), {kovarik_step}, tolerance);
        check_table(minimax_schedule(1.0 - gap, 1, 3, 0.0, 0.0), {cubic_step}, tolerance);
    }
    check_table({minimax_schedule(1e-3, 30, 5, 0.0, 0.0).back()}, {kovarik_step}, 1e-14);
    check_table({minimax_schedule(1e-3, 30, 3, 0.0, 0.0).back()}, {cubic_step}, 1e-14);
    for (double lower : {std::numeric_limits<double>::denorm_min(), 1e-300, 1.0 - 1e-16}) {
        for (const Step& s : minimax_schedule(lower, 100)) CHECK(std::isfinite(s.a + s.b + s.c));
    }
}

TEST_CASE("minimax_schedule names the argument it refuses") {
    const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
    for (double lower : {0.0, 1.0, -0.1, 2.0, nan, inf})
        CHECK(contains(refusal([&] { minimax_schedule(lower, 5); }), "lower must be above 0 and below 1"));
    for (int steps : {0, -1, 101})
        CHECK(contains(refusal([&] { minimax_schedule(1e-3, steps); }), "steps must be 1 to 100"));
    for (int degree : {0, 1, 2, 4, 7})
        CHECK(contains(refusal([&] { minimax_schedule(1e-3, 5, degree); }), "degree must be 3 or 5"));
    for (double safety : {-0.01, nan, inf})
        CHECK(contains(refusal([&] { minimax_schedule(1e-3, 5, 5, safety); }), "safety must be finite"));
    for (double cushion : {-0.01, 1.0, nan})
        CHECK(contains(refusal([&] { minimax_schedule(1e-3, 5, 5, 0.0, cushion); }), "cushion must be at least 0"));
    CHECK(contains(refusal([] { minimax_schedule(3.5, 5); }), "got 3.5"));
}

TEST_CASE("names: own length, shortened, lengthened; unknown names list the known ones") {
    const std::vector<std::string> expected{"muon",  "you",  "polar_express", "cans",
                                            "turbo", "root", "cubic",         "kovarik"};
    CHECK(Schedule::names() == expected);
    const int own[] = {5, 5, 5, 5, 4, 5, 20, 13};
    for (std::size_t i = 0; i < Schedule::names().size(); ++i) {
        const std::string& name = Schedule::names()[i];
        CAPTURE(name);
        const Schedule whole = Schedule::named(name);
        CHECK(whole.steps().size() == static_cast<std::size_t>(own[i]));
        CHECK(whole.norm_factor() == (name == "polar_express" ? 1.02 : 1.0));
        CHECK(whole.normalize() == (name == "turbo" ? Normalize::aol : Normalize::frobenius));
        std::vector<Step> shorter = whole.steps(), longer = whole.steps();
        shorter.resize(2);
        longer.resize(31, longer.back());
        check_table(Schedule::named(name, 2).steps(), shorter, 0.0);
        check_table(Schedule::named(name, 31).steps(), longer, 0.0);
        CHECK(Schedule::named(name, 31).norm_factor() == whole.norm_factor());
        for (int steps : {-1, 101})
            CHECK(contains(refusal([&] { Schedule::named(name, steps); }), "steps must be 1 to 100"));
    }
    check_table(Schedule::named("muon").steps(), {muon_step, muon_step, muon_step, muon_step, muon_step}, 0.0);
    const std::vector<Step> you = Schedule::you().steps(), last_four(you.begin() + 1, you.end());
    check_table(you,
                {{4.0848, -6.8946, 2.9270},
                 {3.9505, -6.3029, 2.6377},
                 {3.7418, -5.5913, 2.3037},
                 {2.8769, -3.1427, 1.2046},
                 {2.8366, -3.0525, 1.2012}},
                0.0);
    check_table(Schedule::turbo().steps(), last_four, 0.0);
    check_table(Schedule::named("cubic", 1).steps(), {cubic_step}, 0.0);
    check_table(Schedule::named("kovarik", 1).steps(), {kovarik_step}, 0.0);
    const std::string message = refusal([] { Schedule::named("moun"); });
    CHECK(contains(message, "moun"));
    for (const std::string& name : Schedule::names()) CHECK(contains(message, "'" + name + "'"));
    CHECK(contains(refusal([] { Schedule::muon().with_steps(0); }), "steps must be 1 to 100"));
}

TEST_CASE("custom tables are validated") {
    const double nan = std::nan("");
    CHECK(Schedule({cubic_step}).normalize() == Normalize::frobenius);
    CHECK(Schedule({cubic_step}, Normalize::schedule).normalize() == Normalize::frobenius);
    CHECK(Schedule({cubic_step}, Normalize::gram, 1.5).norm_factor() == 1.5);
    CHECK(contains(refusal([] { Schedule(std::vector<Step>{}); }), "at least one step"));
    CHECK(contains(refusal([&] { Schedule({{1.0, nan, 0.0}}); }), "finite numbers"));
    for (double factor : {0.0, -1.0, nan, std::numeric_limits<double>::infinity()})
        CHECK(contains(refusal([&] { Schedule({cubic_step}, Normalize::frobenius, factor); }), "norm_factor"));
}

TEST_CASE("no table leaves its bound on [0, 1.01], whatever its length") {
    struct Bound {
        const char* name;
        double above;
    };
    const Bound bounds[] = {{"muon", 1.21},  {"you", 1.15},  {"polar_express", 1.15}, {"cans", 1.15},
                            {"turbo", 1.15}, {"root", 1.23}, {"cubic", 1.0},          {"kovarik", 1.0}};
    for (const Bound& bound : bounds) {
        const int own = static_cast<int>(Schedule::named(bound.name).steps().size());
        for (int steps : {own, own + 1, own + 5, 100}) {
            const std::vector<Step> table = Schedule::named(bound.name, steps).steps();
            double largest = 0.0, smallest = 0.0;
            for (int i = 0; i <= 20000; ++i) {
                const double y = apply(table, 1.01 * i / 20000);
                largest = std::max(largest, y);
                smallest = std::min(smallest, y);
            }
            CAPTURE(bound.name);
            CAPTURE(steps);
            CHECK(largest <= bound.above + 1e-14);
            CHECK(smallest >= 0.0);
        }
    }
    for (double x : log_grid(1e-3, 1.0, 500)) {  // what cubic's and kovarik's lengths are chosen for
        CHECK(std::fabs(apply(Schedule::cubic().steps(), x) - 1.0) < 1e-4);
        CHECK(std::fabs(apply(Schedule::kovarik().steps(), x) - 1.0) < 1e-4);
    }
    CHECK(apply(Schedule::cubic(19).steps(), 1e-3) < 1.0 - 1e-4);
    CHECK(apply(Schedule::kovarik(12).steps(), 1e-3) < 1.0 - 1e-4);
}

TEST_CASE("a shape without a published ROOT triple gets a fitted one") {
    const double pi = 3.14159265358979323846;
    // Square: σ√m follows the quarter circle on [0, 2], mean 8/(3π), mean square 1. The identity step keeps σ.
    const double mean = 8.0 / (3.0 * pi * std::sqrt(400.0)), square = 1.0 / 400.0;
    CHECK(gaussian_objective({1.0, 0.0, 0.0}, 400, 400, 3) == doctest::Approx(1.0 - 2.0 * mean + square).epsilon(1e-5));
    // Any shape: mean square 1/m.
    const double a = gaussian_objective({1.0, 0.0, 0.0}, 100, 700, 1);
    const double b = gaussian_objective({-1.0, 0.0, 0.0}, 700, 100, 1);
    CHECK(0.5 * (a + b) - 1.0 == doctest::Approx(0.01).epsilon(1e-8));

    const std::int64_t shapes[][2] = {{1, 1},     {1, 100},   {2, 2},       {8, 8},       {64, 64},      {64, 256},
                                      {128, 128}, {768, 768}, {768, 3072},  {1024, 1024}, {1024, 4096},  {2048, 4096},
                                      {4096, 4096}, {3, 100000}, {100000, 100000}, {1000000, 1000000}};
    for (const auto& shape : shapes) {
        const std::int64_t m = shape[0], n = shape[1];
        CAPTURE(m);
        CAPTURE(n);
        const Schedule s = Schedule::root(n, m);
        REQUIRE(s.steps().size() == 5);
        const Step p = s.steps().front();
        check_table(Schedule::named("root", 1, m, n).steps(), {p}, 0.0);
        CHECK(gaussian_objective(p, m, n, 5) < gaussian_objective(muon_step, m, n, 5));
        CHECK(tolerated_growth(p) > 1.0195);  // 1.02 before the four decimals
        double largest = 0.0, smallest = 0.0;  // lifted by 1.02 before each of a hundred steps
        for (int i = 0; i <= 4000; ++i) {
            double x = i / 4000.0;
            for (int step = 0; step < 100; ++step) x = apply(p, (step % 3 == 0 ? 1.0 : 1.0195) * x);
            largest = std::max(largest, x);
            smallest = std::min(smallest, x);
        }
        CHECK(largest <= 1.2502);
        CHECK(smallest >= 0.0);
    }
    CHECK(tolerated_growth({3.4916, -4.8224, 2.1095}) < 1.0);  // the published square one escapes by itself
    for (int larger : {2048, 3072, 8192, 16384})
        CHECK(tolerated_growth(Schedule::root(2048, larger).steps().front()) > 1.019);
    CHECK(tolerated_growth(cubic_step) == 0.0);
    CHECK(contains(refusal([] { Schedule::root(-1, 4); }), "rows and cols"));
    for (double safety : {-0.01, 0.2, std::nan("")})
        CHECK(contains(refusal([&] { Schedule::root(64, 64, 5, safety); }), "safety"));
}
