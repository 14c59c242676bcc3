#include "gemm/ceilings.h"

#include "gemm/format.h"
#if defined(RAPHSON_TILE_REGISTERS)
#include "gemm/tile_registers.h"
#endif

RAPHSON_ISA_BEGIN
namespace {

// Enough sums to hide the latency of two multiply-add units, few enough to stay in registers.
constexpr int sums = 12;

// Nothing the optimiser could foresee, merge or move out of the loop: each sum starts elsewhere, each product needs the
// sum before it. They tend to 2.
template <class F>
Vec<typename F::Sum> advance(Vec<typename F::Sum> half, Vec<typename F::Sum> one, Vec<typename F::Sum> sum) {
    if constexpr (F::depth == 1) {
        return fma(half, sum, one);
    } else {
        return F::multiply_add(half, one, sum);
    }
}

template <class F>
double multiply_adds(std::int64_t rounds, double* sink) {
    using V = Vec<typename F::Sum>;
    volatile typename F::Sum seed = 0.5;
    const V half = splat(seed), one = splat(static_cast<typename F::Sum>(2 * seed));
    V sum[sums];
    for (int i = 0; i < sums; ++i) sum[i] = mul(splat(static_cast<typename F::Sum>(i)), half);
    for (std::int64_t r = 0; r < rounds; ++r) {
        RAPHSON_UNROLL
        for (int i = 0; i < sums; ++i) sum[i] = advance<F>(half, one, sum[i]);
    }
    typename F::Sum out[V::width];
    RAPHSON_UNROLL
    for (int i = 1; i < sums; ++i) sum[0] = add(sum[0], sum[i]);
    store(out, sum[0]);
    *sink = static_cast<double>(out[0]);
    return 2.0 * F::depth * V::width * sums * static_cast<double>(rounds);
}

#if defined(RAPHSON_TILE_REGISTERS)
// Registers alone, as above; no tile of C waits for itself.
template <>
double multiply_adds<Bf16>(std::int64_t rounds, double* sink) {
    const TileRegisters setup;
    alignas(64) bfloat16 halves[512];
    alignas(64) float out[256];
    for (bfloat16& x : halves) x = narrow(0.5f);
    tile_load<4>(halves, tile_row_bytes);
    tile_load<5>(halves, tile_row_bytes);
    tile_load<6>(halves, tile_row_bytes);
    tile_load<7>(halves, tile_row_bytes);
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (std::int64_t r = 0; r < rounds; ++r) {
        tile_multiply_add<0, 4, 6>();
        tile_multiply_add<1, 4, 7>();
        tile_multiply_add<2, 5, 6>();
        tile_multiply_add<3, 5, 7>();
    }
    tile_store<0>(out, tile_row_bytes);
    *sink = static_cast<double>(out[0]);
    return 2.0 * 4 * 16 * 16 * Bf16::depth * static_cast<double>(rounds);
}
#endif

double fma_loop(DType dtype, std::int64_t rounds, double* sink) {
    switch (dtype) {
        case DType::float64: return multiply_adds<Plain<double>>(rounds, sink);
        case DType::bfloat16: return multiply_adds<Bf16>(rounds, sink);
        default: return multiply_adds<Plain<float>>(rounds, sink);
    }
}

double read_loop(const void* data, std::int64_t bytes) {
    using V = Vec<double>;
    constexpr std::int64_t streams = 4, stride = V::width;
    const auto* p = static_cast<const double*>(data);
    const auto* end = p + bytes / static_cast<std::int64_t>(sizeof(double));
    V sum[streams];
    for (V& s : sum) s = zero<double>();
    for (; p < end; p += streams * stride) {
        RAPHSON_UNROLL
        for (int i = 0; i < streams; ++i) sum[i] = add(sum[i], load(p + i * stride));
    }
    double out[V::width], total = 0;
    store(out, add(add(sum[0], sum[1]), add(sum[2], sum[3])));
    for (const double x : out) total += x;
    return total;
}

}  // namespace

extern const CeilingTable ceiling_table;
const CeilingTable ceiling_table{fma_loop, read_loop};

RAPHSON_ISA_END
