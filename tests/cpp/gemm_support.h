// The matrix products of every instruction set that runs here, matrices with guards around them, and a plain float64 triple
// loop as the truth.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "gemm/table.h"
#include "raphson/runtime.h"
#include "table.h"

namespace raphson {
#ifdef RAPHSON_TEST_BF16_EMULATION  // AVX512_BF16's and AMX's code with their instructions emulated: see tests/cpp/CMakeLists.txt
namespace v4_bf16emu {
extern const GemmTable gemm_table;
}
namespace v4_amxemu {
extern const GemmTable gemm_table;
}
#endif
}  // namespace raphson

namespace gemm_tests {

using namespace raphson;

struct Named {
    std::string isa;
    const GemmTable* gemm;
};

inline std::vector<Named> tables() {
    std::vector<Named> all;
    const BuiltTables built = built_tables();
    for (int i = 0; i < built.count; ++i) {
        if (built.first[i].runs_here) all.push_back({built.first[i].table->isa, &built.first[i].table->gemm});
#ifdef RAPHSON_TEST_BF16_EMULATION
        if (built.first[i].runs_here && built.first[i].table->isa == std::string("x86-64-v4")) {
            all.push_back({"x86-64-v4+emulated bf16", &v4_bf16emu::gemm_table});
            all.push_back({"x86-64-v4+emulated amx", &v4_amxemu::gemm_table});
        }
#endif
    }
    return all;
}

template <class T>
auto functions(const GemmTable& table) {
    if constexpr (std::is_same_v<T, double>) return table.f64;
    if constexpr (std::is_same_v<T, float>) return table.f32;
    if constexpr (std::is_same_v<T, bfloat16>) return table.bf16;
}

inline double value(double x) { return x; }
inline double value(float x) { return x; }
inline double value(bfloat16 x) {
    const std::uint32_t u = static_cast<std::uint32_t>(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, sizeof f);
    return f;
}
template <class T>
T make(double x) {
    if constexpr (std::is_same_v<T, bfloat16>) {
        const auto f = static_cast<float>(x);
        std::uint32_t u;
        std::memcpy(&u, &f, sizeof u);
        return {static_cast<std::uint16_t>(x == x ? (u + 0x7fffu + ((u >> 16) & 1u)) >> 16 : 0x7fc0u)};
    } else {
        return static_cast<T>(x);
    }
}

struct Random {
    std::uint64_t state;
    double operator()() {  // uniform in (-1, 1)
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<double>(static_cast<std::int64_t>(state) >> 11) * 0x1p-52;
    }
};

// A matrix inside a larger buffer of NaNs whose every byte outside the matrix must stay as it is.
template <class T>
struct Guarded {
    std::int64_t margin = 97;
    std::int64_t rows, cols, ld;
    std::vector<T> all, before;

    Guarded(std::int64_t rows_, std::int64_t cols_, std::int64_t extra, bool aligned = false)
        : rows(rows_), cols(cols_), ld(cols_ + extra),
          all(static_cast<std::size_t>(rows_ * ld + 2 * margin), make<T>(std::nan(""))) {
        while (aligned && reinterpret_cast<std::uintptr_t>(data()) % 64 != 0) --margin;
    }

    T* data() { return all.data() + margin; }
    T& at(std::int64_t i, std::int64_t j) { return data()[i * ld + j]; }
    double get(std::int64_t i, std::int64_t j) { return value(at(i, j)); }
    void fill(Random random) {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < cols; ++j) at(i, j) = make<T>(random());
        }
    }
    void fill_symmetric(Random random) {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j <= i; ++j) at(i, j) = at(j, i) = make<T>(random());
        }
    }
    [[gnu::noinline]] void remember() { before = all; }  // inlined, gcc 12 fears for a null pointer
    bool outside_untouched() {
        for (std::size_t p = 0; p < all.size(); ++p) {
            const std::int64_t q = static_cast<std::int64_t>(p) - margin;
            const bool inside = q >= 0 && q < rows * ld && q % ld < cols;
            if (!inside && std::memcmp(&all[p], &before[p], sizeof(T)) != 0) return false;
        }
        return true;
    }
    bool same_as(const Guarded& other) const {
        return std::memcmp(all.data(), other.all.data(), all.size() * sizeof(T)) == 0;
    }
    bool exactly_symmetric() {
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = 0; j < i; ++j) {
                if (std::memcmp(&at(i, j), &at(j, i), sizeof(T)) != 0) return false;
            }
        }
        return true;
    }
};

// What is checked of C = alpha·A·B + beta·D. Summing k products in any order and any tree is off by at most
// k·u·Σ|a||b| to first order; alpha, beta and their sum add three roundings. The float64 reference errs as much as a
// float64 result, hence twice the bound. bfloat16 has eight significant bits: it rounds by at most 2^-8 of the value.
template <class T, class A, class B, class D>
bool close(Guarded<T>& c, std::int64_t k, double alpha, A a, B b, double beta, D d) {
    const double unit = std::is_same_v<T, double> ? 0x1p-52 : 0x1p-24;
    const double round = std::is_same_v<T, bfloat16> ? 0x1p-8 : 0;
    const std::int64_t work = c.rows * c.cols * k;
    const std::int64_t checked = work > 4'000'000'000 ? 8 : work > 40'000'000 ? 24 : c.rows;  // rows; large ones are slow
    const std::int64_t row_step = c.rows > checked ? c.rows / checked : 1;
    std::vector<double> sum(static_cast<std::size_t>(c.cols)), size(static_cast<std::size_t>(c.cols));
    bool ok = true;
    for (std::int64_t i0 = 0; i0 < c.rows; i0 += row_step) {
        const std::int64_t i = row_step == 1 || c.rows - i0 > row_step ? i0 : c.rows - 1;
        sum.assign(sum.size(), 0.0);
        size.assign(size.size(), 0.0);
        for (std::int64_t p = 0; p < k; ++p) {
            const double x = a(i, p);
            for (std::size_t j = 0; j < sum.size(); ++j) {
                const double xy = x * b(p, static_cast<std::int64_t>(j));
                sum[j] += xy;
                size[j] += std::fabs(xy);
            }
        }
        for (std::int64_t j = 0; j < c.cols; ++j) {
            const auto q = static_cast<std::size_t>(j);
            const double bd = beta == 0 ? 0 : beta * d(i, j);
            const double exact = alpha * sum[q] + bd;
            const double magnitude = std::fabs(alpha) * size[q] + std::fabs(bd);
            const double bound = (static_cast<double>(k) + 3) * unit * magnitude + round * (std::fabs(exact) * 1.01);
            if (!(std::fabs(c.get(i, j) - exact) <= bound)) {
                MESSAGE("C(" << i << "," << j << ") = " << c.get(i, j) << ", want " << exact << " within " << bound);
                ok = false;
                j = c.cols;
            }
        }
    }
    return ok;
}

}  // namespace gemm_tests
