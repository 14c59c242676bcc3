// How the matrices of a batch are spread over the threads.
#pragma once

#include <cstdint>

#include "raphson/runtime.h"

namespace raphson {

// A matrix alone on one thread stays in that core's cache, so that is how most of a batch runs. All threads share one
// matrix where there are too few to keep every thread busy: a matrix larger than a thread's share of what is left, and
// the remainder of a small number of equal ones. The tasks come largest first. No choice here changes a result.
template <class Flops>
std::int64_t count_shared(std::int64_t count, Flops&& flops_of) {
    constexpr double worth_sharing = 2e7;  // flops; below, meeting between products costs more than it gains
    const std::int64_t threads = get_num_threads();
    if (threads == 1) return 0;
    double left = 0;
    for (std::int64_t i = 0; i < count; ++i) left += flops_of(i);
    std::int64_t shared = 0;
    for (; shared < count; ++shared) {
        const double flops = flops_of(shared);
        if (flops < worth_sharing) break;
        const std::int64_t rest = count - shared;
        const bool dominates = flops * static_cast<double>(threads) > left;
        const bool odd_one = rest < 4 * threads && rest % threads != 0;
        if (!dominates && !odd_one) break;
        left -= flops;
    }
    return shared;
}

}  // namespace raphson
