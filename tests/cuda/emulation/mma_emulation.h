// cpp/src/gemm/mma.h in plain C++: lanes show each other their registers, as the PTX manual lays them out.
#pragma once

#include <cstdint>
#include <cstring>

namespace raphson::cuda {

template <bool turned>
void load_tiles(std::uint32_t (&r)[4], const void* row) {
    const int lane = emulation::lane();
    for (int tile = 0; tile < 4; ++tile) {
        std::uint16_t pair[2];
        for (int e = 0; e < 2; ++e) {
            const int from_row = turned ? lane % 4 * 2 + e : lane / 4, from_column = turned ? lane / 4 : lane % 4 * 2 + e;
            const auto* line = static_cast<const std::uint16_t*>(emulation::exchange(row, 8 * tile + from_row));
            pair[e] = line[from_column];
        }
        std::memcpy(&r[tile], pair, 4);
    }
}

template <class T>
void emulate_multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    struct Shown {
        std::uint32_t a[4], b[2];
    };
    const int g = emulation::lane() / 4, t = emulation::lane() % 4;
    const Shown mine{{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const auto number = [](std::uint32_t pair, int which) {
        return static_cast<double>(widen(T{static_cast<std::uint16_t>(which == 0 ? pair & 0xffff : pair >> 16)}));
    };
    Shown rows[4], columns[2][4];  // of the lanes that hold this one's rows, and its two columns
    std::memcpy(emulation::warp_slot(emulation::lane()), &mine, sizeof mine);
    emulation::warp_barrier();  // one exchange for all
    for (int k = 0; k < 4; ++k) {
        std::memcpy(&rows[k], emulation::warp_slot(4 * g + k), sizeof mine);
        for (int e = 0; e < 2; ++e) std::memcpy(&columns[e][k], emulation::warp_slot(4 * (2 * t + e) + k), sizeof mine);
    }
    emulation::warp_barrier();
    for (int i = 0; i < 2; ++i) {
        for (int e = 0; e < 2; ++e) {
            double sum = 0;
            for (int k = 0; k < 16; ++k) {
                const int lane = k % 8 / 2, high = k / 8;
                sum += number(rows[lane].a[2 * high + i], k % 2) * number(columns[e][lane].b[high], k % 2);
            }
            c[2 * i + e] += static_cast<float>(sum);
        }
    }
}
inline void multiply_tiles(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, bfloat16) {
    emulate_multiply<bfloat16>(c, a, b0, b1);
}
inline void multiply_tiles(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float16) {
    emulate_multiply<float16>(c, a, b0, b1);
}
inline void multiply_tiles(double (&c)[4], const double (&a)[2], double b) {
    const int g = emulation::lane() / 4, t = emulation::lane() % 4;
    const double mine[3] = {a[0], a[1], b};
    std::memcpy(emulation::warp_slot(emulation::lane()), mine, sizeof mine);
    const auto shown = [](int lane, int which) {
        double value;
        std::memcpy(&value, static_cast<const char*>(emulation::warp_slot(lane)) + which * sizeof value, sizeof value);
        return value;
    };
    emulation::warp_barrier();  // one exchange for all: these products are the emulation's slowest
    for (int k = 0; k < 4; ++k) {
        for (int i = 0; i < 2; ++i) {
            for (int e = 0; e < 2; ++e) c[2 * i + e] = fma(shown(4 * g + k, i), shown(4 * (2 * t + e) + k, 2), c[2 * i + e]);
        }
    }
    emulation::warp_barrier();
}

}  // namespace raphson::cuda
