// Tall matrices as the library reads them: block after block of consecutive rows, as many times as a method needs.
#pragma once

#include <cstdint>
#include <functional>

#include "raphson/view.h"

namespace raphson {

// Consecutive rows, dense (contiguous along the columns) or compressed (CSR).
struct RowBlock {
    DType type = DType::float64;  // or float32
    const void* values = nullptr;
    std::int64_t rows = 0, cols = 0;
    std::int64_t stride = 0;               // dense: numbers from row to row
    const std::int64_t* starts = nullptr;  // CSR: rows + 1 offsets into values and index; null: dense
    const std::int32_t* index = nullptr;   // CSR: columns

    // Rows first … first + count - 1 of this block.
    RowBlock part(std::int64_t first, std::int64_t count) const {
        RowBlock b = *this;
        b.rows = count;
        if (starts != nullptr) {
            b.starts = starts + first;
        } else {
            b.values = static_cast<const char*>(values) + first * stride * itemsize(type);
        }
        return b;
    }
    // The rows 0, apart, 2·apart, … of a dense block.
    RowBlock thinned(std::int64_t apart) const {
        RowBlock b = *this;
        b.rows = (rows + apart - 1) / apart;
        b.stride = stride * apart;
        return b;
    }
    // Numbers that a pass reads.
    std::int64_t size() const { return starts != nullptr ? starts[rows] - starts[0] : rows * cols; }
};

// A tall matrix. visit(body) calls body(block, first row) for all blocks in order; blocks live until body returns.
struct RowSource {
    using Body = std::function<void(const RowBlock&, std::int64_t first)>;

    std::int64_t rows = 0, cols = 0;
    std::function<void(const Body&)> visit;
    const RowBlock* whole = nullptr;  // all rows at once, where they lie in memory

    static RowSource of(const RowBlock& block) {  // the block must outlive the source
        RowSource source;
        source.rows = block.rows;
        source.cols = block.cols;
        source.whole = &block;
        source.visit = [&block](const Body& body) { body(block, 0); };
        return source;
    }
};

template <class T>
RowBlock dense_rows(TensorView<const T> a) {
    RowBlock block;
    block.type = dtype_of<T>();
    block.values = a.data;
    block.rows = a.shape[0];
    block.cols = a.shape[1];
    block.stride = a.strides[0];
    return block;
}

}  // namespace raphson
