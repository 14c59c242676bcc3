#include "raphson/schedule.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "newton_schulz/minimax.h"
#include "newton_schulz/root_fit.h"

namespace raphson {
namespace {

constexpr Step muon_step{3.4445, -4.7750, 2.0315};

std::vector<Step> you_table() {
    return {{4.0848, -6.8946, 2.9270},
            {3.9505, -6.3029, 2.6377},
            {3.7418, -5.5913, 2.3037},
            {2.8769, -3.1427, 1.2046},
            {2.8366, -3.0525, 1.2012}};
}

// ROOT's published triples by (smaller, larger) side: examples/example_train.py of its repository.
struct RootEntry {
    std::int64_t m, n;
    Step step;
};
constexpr RootEntry root_table[] = {
    {2048, 2048, {3.4916, -4.8224, 2.1095}},
    {2048, 3072, {3.4509, -4.5790, 1.9325}},
    {2048, 8192, {2.9794, -3.6674, 1.6207}},
    {2048, 16384, {3.1943, -3.8221, 1.5322}},
};

}  // namespace

Schedule::Schedule(std::vector<Step> steps, Normalize normalize, double norm_factor)
    : steps_(std::move(steps)), normalize_(normalize), norm_factor_(norm_factor) {
    if (steps_.empty()) throw std::invalid_argument("schedule: steps must hold at least one step");
    for (const Step& s : steps_) {
        if (!std::isfinite(s.a) || !std::isfinite(s.b) || !std::isfinite(s.c))
            throw std::invalid_argument("schedule: steps must hold finite numbers");
    }
    if (!(norm_factor > 0.0 && std::isfinite(norm_factor)))
        throw std::invalid_argument("schedule: norm_factor must be positive and finite");
    if (normalize_ == Normalize::schedule) normalize_ = Normalize::frobenius;
}

Schedule Schedule::with_steps(int steps) const {
    if (steps < 1 || steps > 100)
        throw std::invalid_argument("schedule: steps must be 1 to 100, got " + std::to_string(steps));
    Schedule result = *this;
    result.steps_.resize(steps, steps_.back());
    return result;
}

Schedule Schedule::muon(int steps) { return Schedule({muon_step}).with_steps(steps); }
Schedule Schedule::you(int steps) { return Schedule(you_table()).with_steps(steps); }

Schedule Schedule::polar_express(int steps) {
    static const Schedule published(minimax_schedule(1e-3, 5), Normalize::frobenius, 1.02);
    return published.with_steps(steps);
}

Schedule Schedule::cans(int steps, double safety) {
    return Schedule(minimax_schedule(1e-3, 5, 5, safety, 0.0)).with_steps(steps);
}

Schedule Schedule::turbo(int steps) {
    std::vector<Step> table = you_table();
    table.erase(table.begin());
    return Schedule(std::move(table), Normalize::aol).with_steps(steps);
}

Schedule Schedule::root(std::int64_t rows, std::int64_t cols, int steps, double safety) {
    if (rows < 0 || cols < 0) throw std::invalid_argument("schedule: rows and cols must not be negative");
    if (!(safety >= 0.0 && safety <= 0.1))
        throw std::invalid_argument("schedule: safety must be 0 to 0.1, got " + std::to_string(safety));
    const bool any = rows == 0 || cols == 0;
    const std::int64_t m = any ? 2048 : std::min(rows, cols), n = any ? 2048 : std::max(rows, cols);
    for (const RootEntry& entry : root_table) {
        if (entry.m == m && entry.n == n) return Schedule({damped(entry.step, safety)}).with_steps(steps);
    }
    return Schedule({fit_root(m, n, safety)}).with_steps(steps);
}

Schedule Schedule::cubic(int steps) { return Schedule({{1.5, -0.5, 0.0}}).with_steps(steps); }
Schedule Schedule::kovarik(int steps) { return Schedule({{1.875, -1.25, 0.375}}).with_steps(steps); }

const std::vector<std::string>& Schedule::names() {
    static const std::vector<std::string> list{"muon",  "you",  "polar_express", "cans",
                                               "turbo", "root", "cubic",         "kovarik"};
    return list;
}

Schedule Schedule::named(std::string_view name, int steps, std::int64_t rows, std::int64_t cols) {
    const auto sized = [steps](const Schedule& s) { return steps == 0 ? s : s.with_steps(steps); };
    if (name == "muon") return sized(muon());
    if (name == "you") return sized(you());
    if (name == "polar_express") return sized(polar_express());
    if (name == "cans") return sized(cans());
    if (name == "turbo") return sized(turbo());
    if (name == "root") return sized(root(rows, cols));
    if (name == "cubic") return sized(cubic());
    if (name == "kovarik") return sized(kovarik());
    std::string message = "schedule: name must be one of";
    for (const std::string& known : names()) message += (&known == &names().front() ? " '" : ", '") + known + "'";
    throw std::invalid_argument(message + ", not '" + std::string(name) + "'");
}

}  // namespace raphson
