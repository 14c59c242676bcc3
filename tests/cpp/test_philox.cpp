// The known answers of Random123's kat_vectors, and the layout that raphson puts on the counter.
#include <doctest/doctest.h>

#include <cstdint>
#include <set>

#include "common/philox.h"

using raphson::philox4x32;
using raphson::philox_at;
using raphson::philox_uniform;
using raphson::PhiloxBlock;
using raphson::PhiloxKey;

TEST_CASE("philox4x32-10: published vectors") {
    CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
          PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("philox: the seed's halves are the key") {
    constexpr PhiloxKey key = PhiloxKey::from_seed(0x299f31d0a4093822u);
    CHECK(key.lo == 0xa4093822u);
    CHECK(key.hi == 0x299f31d0u);
}

TEST_CASE("philox: rows and entries of 48 bits, streams of 32, all apart") {
    const PhiloxKey key = PhiloxKey::from_seed(7);
    CHECK(philox_at(5, 9, 3, key) == philox4x32({5, 9, 0, 3}, key));
    const std::uint64_t row = 0x123456789abcu, k = 0xfedcba987654u;
    CHECK(philox_at(row, k, 1, key) == philox4x32({0x56789abc, 0xba987654, 0xfedc1234, 1}, key));
    std::set<PhiloxBlock> seen;
    int asked = 0;
    for (const std::uint64_t r : {0ull, 1ull, 1ull << 31, 1ull << 32, 1ull << 47}) {
        for (const std::uint64_t c : {0ull, 1ull, 1ull << 31, 1ull << 32, 1ull << 47}) {
            for (const std::uint32_t stream : {0u, 1u, 0xffffffffu}) {
                seen.insert(philox_at(r, c, stream, key));
                ++asked;
            }
        }
    }
    CHECK(seen.size() == static_cast<std::size_t>(asked));
}

TEST_CASE("philox: uniform numbers lie in [0, 1) on a grid of 2^-53") {
    CHECK(philox_uniform(0, 0) == 0.0);
    CHECK(philox_uniform(0, 0x7ff) == 0.0);
    CHECK(philox_uniform(0, 0x800) == 0x1p-53);
    CHECK(philox_uniform(0x80000000u, 0) == 0.5);
    CHECK(philox_uniform(0xffffffffu, 0xffffffffu) == 1.0 - 0x1p-53);
    double sum = 0, squares = 0;
    constexpr int n = 20000;
    for (std::uint64_t i = 0; i < n / 2; ++i) {
        const PhiloxBlock block = philox_at(i, 0, 0, PhiloxKey::from_seed(42));
        for (const double u : {philox_uniform(block[0], block[1]), philox_uniform(block[2], block[3])}) {
            sum += u;
            squares += u * u;
        }
    }
    CHECK(sum / n == doctest::Approx(1.0 / 2).epsilon(0.02));
    CHECK(squares / n == doctest::Approx(1.0 / 3).epsilon(0.02));
}
