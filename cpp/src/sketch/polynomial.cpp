#include "raphson/polynomial.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "common/threads.h"
#include "common/workspace.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t task_numbers = 1 << 15;  // of A in a task, at least
constexpr int64_t most_tasks = 128, chunk_rows = 64;
constexpr int64_t together = 4;  // columns that share a read of A

// Rows first … last of the next y, for a few columns: the product and the sum in one pass.
void step_rows(const RowBlock& a, const double* c, const double* v, const double* now, double* before, int64_t columns, int64_t first,
               int64_t last) {
    const int64_t n = a.cols;
    Workspace scratch;
    double* const t = scratch.take_array<double>(chunk_rows * columns);
    for (int64_t i = first; i < last; i += chunk_rows) {
        const RowBlock here = a.part(i, std::min(chunk_rows, last - i));
        if (c[1] != 0) kernels().sweep.dots(here, now, n, static_cast<int>(columns), t);
        for (int64_t q = 0; q < columns; ++q) {
            for (int64_t r = 0; r < here.rows; ++r) {
                const int64_t at = q * n + i + r;
                const double product = c[1] != 0 ? t[r * columns + q] : 0.0;
                before[at] = c[0] * now[at] + c[1] * product + c[2] * before[at] + c[3] * v[at];
            }
        }
    }
}

}  // namespace

void apply_recurrence(const RowBlock& a, const double* steps, int64_t count, const double* v, int64_t columns, double* out) {
    if (a.rows != a.cols) throw std::invalid_argument("apply_recurrence: A must be square");
    const int64_t n = a.rows;
    if (n == 0) return;
    const int64_t tasks = std::max<int64_t>(1, std::min({most_tasks, a.size() / task_numbers, n / chunk_rows}));
    const int64_t rows = (n + tasks - 1) / tasks;
    std::vector<double> other(static_cast<std::size_t>(n * std::min(together, columns)));
    for (int64_t q = 0; q < columns; q += together) {
        const int64_t width = std::min(together, columns - q);
        double* const mine = out + q * n;
        double* now = count % 2 == 0 ? mine : other.data();  // so that the last y is written to out
        double* before = count % 2 == 0 ? other.data() : mine;
        std::fill_n(now, n * width, 0.0);
        std::fill_n(before, n * width, 0.0);
        for (int64_t s = 0; s < count; ++s) {
            parallel_for(tasks, [&](int64_t task) {
                const int64_t first = std::min(task * rows, n);
                step_rows(a, steps + 4 * s, v + q * n, now, before, width, first, std::min(first + rows, n));
            });
            throw_if_cancelled();
            std::swap(now, before);
        }
    }
}

}  // namespace raphson
