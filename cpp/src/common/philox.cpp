#include "common/philox.h"

namespace raphson {

PhiloxBlock philox4x32(PhiloxBlock c, PhiloxKey key) {
    constexpr std::uint64_t m0 = 0xD2511F53, m1 = 0xCD9E8D57;
    constexpr std::uint32_t w0 = 0x9E3779B9, w1 = 0xBB67AE85;
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = m0 * c[0], p1 = m1 * c[2];
        c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ key.lo, static_cast<std::uint32_t>(p1),
             static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ key.hi, static_cast<std::uint32_t>(p0)};
        key.lo += w0;
        key.hi += w1;
    }
    return c;
}

PhiloxBlock philox_at(std::uint64_t row, std::uint64_t k, std::uint32_t stream, PhiloxKey key) {
    const auto high = static_cast<std::uint32_t>((row >> 32 & 0xFFFF) | (k >> 32 & 0xFFFF) << 16);
    return philox4x32({static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(k), high, stream}, key);
}

double philox_uniform(std::uint32_t high, std::uint32_t low) {
    const std::uint64_t bits = (static_cast<std::uint64_t>(high) << 32 | low) >> 11;
    return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace raphson
