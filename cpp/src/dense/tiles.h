// The tiles on one side of a square matrix's diagonal, and on it, as tasks.
#pragma once

#include <cstdint>

#include "common/threads.h"

namespace raphson {

// update(high, low) for every tile: the row where it begins and its column, or the other way about; high ≥ low. The
// small matrices of sparse factors have one tile, which is no task.
template <class Update>
void each_triangle_tile(std::int64_t size, std::int64_t tile, const Update& update) {
    const std::int64_t tiles = (size + tile - 1) / tile;
    if (tiles == 1) {
        update(std::int64_t{0}, std::int64_t{0});
        return;
    }
    parallel_for(tiles * (tiles + 1) / 2, [&](std::int64_t index) {
        std::int64_t high = 0;
        while ((high + 1) * (high + 2) / 2 <= index) ++high;
        update(high * tile, (index - high * (high + 1) / 2) * tile);
    });
}

}  // namespace raphson
