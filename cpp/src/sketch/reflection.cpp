#include "sketch/reflection.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/threads.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t entries_a_task = 1 << 16, most_rows = 1024;  // rows of a task: their sums grow apart from the others'

template <class T>
void reflect_typed(const RowBlock& x, const Reflection& by, T* out, double* mean) {
    const int64_t d = x.cols, height = std::clamp<int64_t>(entries_a_task / std::max<int64_t>(d, 1), 1, most_rows);
    const int64_t tasks = (x.rows + height - 1) / height;
    const T* const values = static_cast<const T*>(x.values);
    std::vector<double> base(static_cast<std::size_t>(d), 0.0), shift(base.size(), 0.0);
    if (by.row >= 0) {
        std::copy_n(values + by.row * x.stride, d, base.begin());
        std::vector<double> parts(static_cast<std::size_t>(tasks * d), 0.0);
        parallel_for(tasks, [&](int64_t task) {
            double* const sum = parts.data() + task * d;
            for (int64_t i = task * height; i < std::min(x.rows, (task + 1) * height); ++i) {
                const T* const from = values + i * x.stride;
                const double w = by.weight != nullptr ? by.weight[i] : 1.0;
                for (int64_t j = 0; j < d; ++j) sum[j] += w * (static_cast<double>(from[j]) - base[j]);
            }
        });
        throw_if_cancelled();
        const double share = std::sqrt((by.weight != nullptr ? by.weight[by.row] : 1.0) / by.total);
        for (int64_t j = 0; j < d; ++j) {
            double sum = 0;
            for (int64_t task = 0; task < tasks; ++task) sum += parts[task * d + j];
            mean[j] = base[j] + sum / by.total;
            shift[j] = sum / by.total / (1 + share);
        }
    }
    parallel_for(tasks, [&](int64_t task) {
        for (int64_t i = task * height; i < std::min(x.rows, (task + 1) * height); ++i) {
            if (i == by.row) continue;
            const T* const from = values + i * x.stride;
            T* const to = out + (by.row >= 0 && i > by.row ? i - 1 : i) * d;
            const double root = by.weight != nullptr ? std::sqrt(by.weight[i]) : 1.0;
            for (int64_t j = 0; j < d; ++j) to[j] = static_cast<T>(root * (static_cast<double>(from[j]) - base[j] - shift[j]));
        }
    });
    throw_if_cancelled();
}

}  // namespace

void reflect(const RowBlock& x, const Reflection& by, void* out, double* mean) {
    x.type == DType::float64 ? reflect_typed(x, by, static_cast<double*>(out), mean) : reflect_typed(x, by, static_cast<float*>(out), mean);
}

}  // namespace raphson
