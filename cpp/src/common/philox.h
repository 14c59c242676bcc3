// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter in, four
// independent 32-bit numbers out. Keyed by the user's seed and countered by position, so that a number depends on where
// it is used and on nothing else: not on the thread, not on what was drawn before.
#pragma once

#include <array>
#include <cstdint>

namespace raphson {

struct PhiloxKey {
    std::uint32_t lo, hi;

    static constexpr PhiloxKey from_seed(std::uint64_t seed) {
        return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    }
};

using PhiloxBlock = std::array<std::uint32_t, 4>;

// One block of four numbers. Not inline: callers are compiled for different ISAs.
PhiloxBlock philox4x32(PhiloxBlock counter, PhiloxKey key);

// The counter layout that all of raphson uses: row and k of an entry (48 and 48 bits) and the stream it belongs to (32
// bits), e.g. signs, positions and values of one sketch.
PhiloxBlock philox_at(std::uint64_t row, std::uint64_t k, std::uint32_t stream, PhiloxKey key);

// Uniform on [0, 1) with 53 bits, from two of a block's numbers.
double philox_uniform(std::uint32_t high, std::uint32_t low);

}  // namespace raphson
