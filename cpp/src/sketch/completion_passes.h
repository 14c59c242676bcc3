// The pass of matrix completion: one row's entries met by the other factor's rows.
#pragma once

#include <cstdint>

#include "raphson/view.h"

namespace raphson {

constexpr std::int64_t factor_unit = 8;  // factors' rows are padded with zeros to a multiple of it

// The entries of one row (or column) of a matrix, and the factor that its regression is on.
struct RowEntries {
    std::int64_t count = 0;
    const std::int32_t* index = nullptr;  // rows of the factor
    const void* values = nullptr;
    DType type = DType::float64;   // or float32
    const double* factor = nullptr;
    std::int64_t ld = 0;  // numbers in a row of it
};

struct RowSums {
    double errors = 0, values = 0, factor = 0;  // Σ r², Σ a², Σ ‖v‖²
};

struct CompletionTable {
    // r = a − u·v for every entry; g (ld) = Σ r v; gram (ld×ld, null: not wanted) = Σ v vᵀ, on and above the diagonal.
    RowSums (*row_pass)(const RowEntries& row, const double* u, double* g, double* gram);
    // The same entries side by side: x (count × ld) and r.
    void (*gather)(const RowEntries& row, const double* u, double* x, double* r);
    // g ← (gram + ridge I)⁻¹ g for the first k rows and columns, by Cholesky's factor; gram is lost. False, and g lost too,
    // where a pivot is not above `floor`. k³/3 flops.
    bool (*solve)(double* gram, std::int64_t ld, std::int64_t k, double ridge, double floor, double* g);
};

}  // namespace raphson
