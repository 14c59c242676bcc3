// The host's half of matrix functions on a CUDA device: scales, refusals, and the judgement of what was measured there.
#include "newton_schulz/device_functions.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "raphson/status.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr double singular = 1e15;  // polar's cond from which on the smallest singular values are rounding
// Matrices evaluated at once take no more of the device's memory than this, a single one aside.
constexpr int64_t scratch_bytes = int64_t{4} << 30;

// One matrix, and how it comes to its scale.
struct Found {
    const FunctionItem* item;
    int64_t index;
    bool finite;
    FunctionExponents exponents;
};

// Numbers as the device measured them to what the functions promise.
void report_on(const CudaFunctionJob& job, const Found& found, const double* of) {
    MatrixReport& report = found.item->reports[found.index];
    report = MatrixReport{};
    const bool broken = of[number_breakdown] != 0;
    const double norm = std::sqrt(of[number_norm]);
    const auto measured = [](double x) { return x == x ? x : infinite; };
    report.iterations = static_cast<int64_t>(of[number_iterations]);
    report.cond = of[number_cond];
    report.residual = measured(of[number_residual]);
    bool limited = of[number_limited] != 0;
    double safe = 0;
    switch (job.function) {
        case MatrixFunction::polar: {
            const int64_t n = std::min(job.rows, job.cols);
            const double cond = norm * std::sqrt(of[number_cond]);  // of H, which may well be singular
            report.cond = !broken && cond < singular ? cond : infinite;
            report.residual = norm > 0 ? measured(std::sqrt(of[number_residual]) / norm) : 0;
            report.orthogonality = std::sqrt(of[number_orthogonality] / static_cast<double>(n));
            safe = polar_tolerance(job.narrow);
            break;
        }
        case MatrixFunction::inverse:
            report.iterations += 1;
            report.cond = broken ? infinite : norm * std::sqrt(of[number_cond]);
            limited = report.iterations >= job.options->max_steps && report.iterations > 1;
            safe = safe_tolerance(job.rows, report.cond, job.narrow);
            break;
        case MatrixFunction::sqrt:
            report.residual = norm > 0 ? measured(std::sqrt(of[number_residual]) / norm) : 0;
            report.inverse_residual = measured(of[number_inverse_residual]);
            safe = safe_tolerance(job.rows, job.general ? std::max(1.0, of[number_value] / norm) : 1, job.narrow);
            break;
        case MatrixFunction::sign:
            safe = safe_tolerance(job.rows, job.general ? std::max(1.0, of[number_value] / static_cast<double>(job.rows)) : 1, job.narrow);
            break;
        case MatrixFunction::inverse_root: safe = safe_tolerance(job.rows, report.cond, job.narrow, job.p); break;
    }
    if ((broken && job.function != MatrixFunction::polar) || of[number_overflow] != 0) report.status = Status::breakdown;
    if (!found.finite) {
        constexpr double nan = std::numeric_limits<double>::quiet_NaN();
        report.status = Status::breakdown;
        report.cond = report.residual = report.orthogonality = report.inverse_residual = nan;
    }
    judge({job.function, job.p, *job.options, job.narrow, 0}, safe, limited, report);
}

// Matrices of one shape.
void evaluate_group(const CudaFunctionJob& job, const std::vector<Found>& matrices, const CudaFunctionTable& table, CudaPlace place) {
    const int64_t small = std::min(job.rows, job.cols), large = std::max(job.rows, job.cols);
    const int64_t bytes = 8 * (4 * small * large + (job.general ? 30 : 10) * small * small);
    const auto most = static_cast<std::size_t>(std::max<int64_t>(scratch_bytes / std::max<int64_t>(bytes, 1), 1));
    for (std::size_t from = 0; from < matrices.size(); from += most) {
        const std::size_t count = std::min(most, matrices.size() - from);
        std::vector<FunctionPart> parts;
        std::vector<FunctionExponents> exponents;
        for (std::size_t k = from; k < from + count; ++k) {
            const Found& found = matrices[k];
            const bool next = !parts.empty() && parts.back().item == found.item && parts.back().first + parts.back().count == found.index;
            if (!next) parts.push_back({found.item, found.index, 0});
            ++parts.back().count;
            exponents.push_back(found.exponents);
        }
        std::vector<double> numbers(count * function_numbers);
        table.evaluate(job, parts.data(), parts.size(), exponents.data(), numbers.data(), place);
        for (std::size_t k = 0; k < count; ++k) report_on(job, matrices[from + k], numbers.data() + k * function_numbers);
    }
}

}  // namespace

void evaluate_on_device(MatrixFunction function, int64_t p, const FunctionItem* items, std::size_t count,
                        const MatrixFunctionOptions& options, const CudaFunctionTable& table, CudaPlace place) {
    struct Group {
        CudaFunctionJob job;
        std::vector<Found> matrices;
    };
    std::vector<Group> groups;
    for (std::size_t i = 0; i < count; ++i) {
        const FunctionItem& item = items[i];
        const int64_t rows = item.a.rows(), cols = item.a.cols(), matrices = item.a.count();
        if (rows == 0 || cols == 0) {
            for (int64_t k = 0; k < matrices; ++k) {
                item.reports[k] = MatrixReport{};
                item.reports[k].tol = options.tol >= 0 ? options.tol : 0;
            }
            continue;
        }
        const bool narrow = item.a.dtype == DType::float32;
        std::vector<MatrixFacts> facts(static_cast<std::size_t>(matrices));
        table.scan(item.a, facts.data(), place);
        const auto group_of = [&](bool general) -> std::vector<Found>& {
            const auto found = std::find_if(groups.begin(), groups.end(), [&](const Group& group) {
                return group.job.rows == rows && group.job.cols == cols && group.job.general == general;
            });
            if (found != groups.end()) return found->matrices;
            groups.push_back({{function, p, &options, rows, cols, narrow, general}, {}});
            return groups.back().matrices;
        };
        for (int64_t k = 0; k < matrices; ++k) {
            const MatrixFacts& mine = facts[static_cast<std::size_t>(k)];
            const bool finite = std::isfinite(mine.max_abs);
            FunctionExponents exponents = exponents_of(function, p, finite ? mine.max_abs : 0, options);
            if (!finite) exponents.value = exponents.second = poisoned_exponent;
            if (finite && function == MatrixFunction::inverse_root) {
                require_symmetric(mine.asymmetry, mine.max_abs, narrow, which_matrix(items, count, item, k));
            }
            const bool either = function == MatrixFunction::sign || function == MatrixFunction::sqrt;
            const bool general = finite && either && !symmetric_to_rounding(std::ldexp(mine.asymmetry, exponents.load), narrow);
            group_of(general).push_back({&item, k, finite, exponents});
        }
    }
    for (const Group& group : groups) evaluate_group(group.job, group.matrices, table, place);
}

void derivative_on_device(MatrixFunction function, const DerivativeItem& item, const CudaFunctionTable& table, CudaPlace place) {
    const int64_t rows = item.value.rows(), cols = item.value.cols(), count = item.value.count();
    if (count == 0 || rows == 0 || cols == 0) return;
    const bool narrow = item.value.dtype == DType::float32;
    std::vector<char> general(static_cast<std::size_t>(count), 0);
    if (function == MatrixFunction::sqrt) {
        std::vector<MatrixFacts> facts(general.size());
        table.scan(item.value, facts.data(), place);
        for (std::size_t k = 0; k < facts.size(); ++k) {
            const bool finite = std::isfinite(facts[k].max_abs);
            general[k] = finite && !symmetric_root(facts[k].asymmetry, facts[k].max_abs, narrow) ? 1 : 0;
        }
    }
    const int64_t small = std::min(rows, cols), large = std::max(rows, cols);
    const int64_t most = std::max<int64_t>(scratch_bytes / (8 * (4 * small * large + 16 * small * small)), 1);
    int64_t first_undefined = count;
    for (const bool kind : {false, true}) {
        for (int64_t next = 0; next < count;) {
            CudaDerivativeJob job{function, kind, {}};
            std::vector<int64_t> indices;
            for (; next < count && static_cast<int64_t>(indices.size()) < most; ++next) {
                if ((general[static_cast<std::size_t>(next)] != 0) != kind) continue;
                if (indices.empty() || indices.back() + 1 != next) job.runs.push_back({next, 0});
                ++job.runs.back().count;
                indices.push_back(next);
            }
            if (indices.empty()) break;
            std::vector<int> undefined(indices.size(), 0);
            table.derivative(job, item, function == MatrixFunction::inverse ? nullptr : undefined.data(), place);
            for (std::size_t k = 0; k < indices.size(); ++k) {
                if (undefined[k] != 0) first_undefined = std::min(first_undefined, indices[k]);
            }
        }
    }
    if (first_undefined < count) not_differentiable(function, general[static_cast<std::size_t>(first_undefined)] != 0, first_undefined);
}

}  // namespace raphson
