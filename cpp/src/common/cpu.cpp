#include "common/cpu.h"

#include <string_view>

#if defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace raphson {
namespace {

#if defined(__x86_64__) && !defined(_MSC_VER)
// Feature by feature: not every compiler's builtin knows the "x86-64-v3" names.
bool has_v2() {
    return __builtin_cpu_supports("sse3") && __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") &&
           __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}
bool has_v3() {
    return has_v2() && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    // f16c, lzcnt and movbe complete v3; every CPU with AVX2 and FMA has them and older compilers cannot ask.
}
bool has_v4() {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_bf16() { return has_v4() && __builtin_cpu_supports("avx512bf16"); }
#if defined(__linux__)
bool has_amx() {
    constexpr unsigned bf16 = 1u << 22, tiles = 1u << 24;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a = 0, b = 0, c = 0, d = 0;
    return has_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (bf16 | tiles)) == (bf16 | tiles) &&
           syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#else
bool has_amx() { return false; }
#endif
#elif defined(_MSC_VER) && defined(_M_X64)
bool leaf_has(int leaf, int reg, unsigned mask) {
    int r[4];
    __cpuidex(r, leaf, 0);
    return (static_cast<unsigned>(r[reg]) & mask) == mask;
}
bool os_saves(unsigned long long mask) { return leaf_has(1, 2, 1u << 27) && (_xgetbv(0) & mask) == mask; }
bool has_v2() { return leaf_has(1, 2, (1u << 0) | (1u << 9) | (1u << 19) | (1u << 20) | (1u << 23)); }
bool has_v3() { return has_v2() && os_saves(0x6) && leaf_has(1, 2, (1u << 12) | (1u << 28)) && leaf_has(7, 1, 0x128); }
bool has_v4() { return has_v3() && os_saves(0xe6) && leaf_has(7, 1, 0xd0030000); }
bool has_bf16() { return false; }
bool has_amx() { return false; }
#else
bool has_v2() { return false; }
bool has_v3() { return false; }
bool has_v4() { return false; }
bool has_bf16() { return false; }
bool has_amx() { return false; }
#endif

}  // namespace

bool cpu_runs(const char* isa) {
    const std::string_view name(isa);
    if (name == "v2") return has_v2();
    if (name == "v3") return has_v3();
    if (name == "v4") return has_v4();
    if (name == "v4_bf16") return has_bf16();
    if (name == "v4_amx") return has_amx();
    return name == "baseline";
}

}  // namespace raphson
