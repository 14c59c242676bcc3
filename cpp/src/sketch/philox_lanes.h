// Philox4x32-10 (common/philox.cpp) at many positions at once: plain loops that compilers turn into vectors.
#pragma once

#include <cstdint>

#include "isa.h"

RAPHSON_ISA_BEGIN

constexpr int lanes = 64;

struct Numbers {
    std::uint64_t x[4][lanes];  // 32 bits each
};

// The blocks at (first … first + lanes-1, k) of a stream.
inline void philox_at_positions(Numbers& c, std::uint64_t first, std::uint64_t k, std::uint32_t stream, std::uint64_t seed) {
    constexpr std::uint64_t low = 0xFFFFFFFF;
    auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int l = 0; l < lanes; ++l) {
        const std::uint64_t position = first + static_cast<std::uint64_t>(l);
        c.x[0][l] = position & low;
        c.x[1][l] = k & low;
        c.x[2][l] = (position >> 32 & 0xFFFF) | (k >> 32 & 0xFFFF) << 16;
        c.x[3][l] = stream;
    }
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < lanes; ++i) {
            const std::uint64_t p0 = (c.x[0][i] & low) * 0xD2511F53u, p1 = (c.x[2][i] & low) * 0xCD9E8D57u;
            const std::uint64_t a = (p1 >> 32) ^ c.x[1][i] ^ key0, b = (p0 >> 32) ^ c.x[3][i] ^ key1;
            c.x[0][i] = a;
            c.x[1][i] = p1 & low;
            c.x[2][i] = b;
            c.x[3][i] = p0 & low;
        }
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

RAPHSON_ISA_END
