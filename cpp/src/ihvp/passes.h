// The passes of the inverse-Hessian-vector products over long rows of stored gradients, and the sweeps over the small
// factor between them. Everything stored narrower than float64 is widened exactly, multiplied and added in float64.
// Column ranges are counted in elements from the start of a row. No pass starts threads: the drivers cut the columns.
#pragma once

#include <cstdint>

namespace raphson {

// How gradients lie in a window. float16 carries a power of two a row, int8 a float32 scale for every int8_block columns.
enum class Stored : std::uint8_t { float64, float32, bfloat16, float16, int8 };

constexpr std::int64_t stored_size(Stored type) {
    return type == Stored::float64 ? 8 : type == Stored::float32 ? 4 : type == Stored::int8 ? 1 : 2;
}
constexpr std::int64_t int8_block = 256;

// Columns 0 … width-1 of some rows. `scales` is int8's: of row j and the block of column k, scales[j·scale_stride + k/256].
struct Rows {
    Stored type;
    const void* data;
    std::int64_t stride;  // elements from row to row
    const float* scales;
    std::int64_t scale_stride;
    std::int64_t count;
};

// What a gradient holds: the largest magnitude (NaN or Inf if any entry is either).
struct VectorScan {
    double max_abs;
    bool finite;
};

struct IhvpTable {
    VectorScan (*scan)(Stored type, const void* x, std::int64_t width, const float* residual);
    // out[k] = x[k], widened, of float64, float32, bfloat16 or float16 (unscaled).
    void (*widen)(Stored type, const void* x, std::int64_t width, double* out);
    // out[k] = x[k] rounded to `type` (to nearest even): float64, float32, bfloat16 or float16.
    void (*narrow)(Stored type, const double* x, std::int64_t width, void* out);
    // Stores x·(1/row_scale) in the type of the row, int8 in blocks of its own with their scales, and gives back what was
    // stored, widened, in x: x[k] ← stored value (times row_scale). int8 scales are max|block|/127 in float32.
    void (*store_row)(Stored type, double* x, std::int64_t width, double row_scale, void* row, float* scales);
    // sums[j] += Σₖ rowⱼ[k]·x[k] for every row. Four rows at a time share the reads of x.
    void (*products)(const Rows& rows, std::int64_t width, const double* x, double* sums);
    // The same for x = one stored int8 row: 32-bit sums within a block, exact, then times both scales in float64.
    void (*products_int8)(const Rows& rows, std::int64_t width, const std::int8_t* x, const float* x_scales,
                          double* sums);
    // out[k] = Σⱼ coefficients[j]·rowⱼ[k], rows in order, eight at a time.
    void (*combine)(const Rows& rows, std::int64_t width, const double* coefficients, double* out);

    // The factor L of a window in time order, by columns: column t starts at factor + ((head + t) mod capacity)·capacity
    // and holds L[t][t], L[t+1][t], … contiguously, so that neither dropping nor appending a row moves anything.
    // One sweep over its n columns: L Lᵀ ← L Lᵀ + v vᵀ (v null: unchanged; v is used up), then b ← L⁻¹ b.
    void (*forward)(double* factor, std::int64_t capacity, std::int64_t head, std::int64_t n, double* v, double* b);
    // b ← L⁻ᵀ b.
    void (*backward)(const double* factor, std::int64_t capacity, std::int64_t head, std::int64_t n, double* b);
};

}  // namespace raphson
