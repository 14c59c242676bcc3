#include "common/ceilings.h"

#include "gemm/format.h"

RAPHSON_ISA_BEGIN
namespace {

// Enough sums to hide the latency of two multiply-add units, few enough to stay in registers.
constexpr int sums = 12;

template <class F>
double multiply_adds(std::int64_t rounds, double* sink) {
    using V = Vec<typename F::Sum>;
    // Ones, and as pairs of bfloat16 ones too (0x3f80 3f80 differs from 1 by 2^-8): every sum only counts.
    typename F::Operand ones[panel_step<F>];
    for (auto& one : ones) one = typename F::Operand{};
    V x = F::row(ones), y = x, sum[sums];
    for (V& s : sum) s = zero<typename F::Sum>();
    for (std::int64_t r = 0; r < rounds; ++r) {
        RAPHSON_UNROLL
        for (int i = 0; i < sums; ++i) sum[i] = F::multiply_add(x, y, sum[i]);
    }
    typename F::Sum out[V::width];
    RAPHSON_UNROLL
    for (int i = 1; i < sums; ++i) sum[0] = add(sum[0], sum[i]);
    store(out, sum[0]);
    *sink = static_cast<double>(out[0]);
    return 2.0 * F::depth * V::width * sums * static_cast<double>(rounds);
}

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
