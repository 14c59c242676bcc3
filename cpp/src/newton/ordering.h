// Elimination orders for sparse symmetric matrices.
#pragma once

#include <cstdint>

namespace raphson {

struct OrderingTable {
    // order[k] = which row is eliminated k-th, by approximate minimum degree (Amestoy, Davis, Duff 1996). The pattern (CSR,
    // both triangles, ascending) is symmetric.
    void (*minimum_degree)(std::int64_t n, const std::int64_t* starts, const std::int32_t* index, std::int32_t* order);
};

}  // namespace raphson
