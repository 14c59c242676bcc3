// Copies between layouts, and between the host and the device.
#include <doctest/doctest.h>

#include <cmath>
#include <type_traits>
#include <vector>

#include "cuda/copy.h"
#include "device_support.h"

using namespace support;
using raphson::CudaView;
using raphson::cuda::contiguous;

namespace {

struct Layout {
    int64_t row_stride, column_stride, first, size;
};

template <class T, class U>
void check_copy(int64_t rows, int64_t columns, const Layout& from, const Layout& to) {
    Scratch scratch(here);
    Random random{7};
    std::vector<T> given(static_cast<std::size_t>(from.size));
    for (T& x : given) x = static_cast<T>(random.uniform());
    auto* const source = upload(scratch, given);
    auto* const target = poisoned<U>(scratch, to.size);
    raphson::cuda::copy({source + from.first, type_of<T>(), rows, columns, from.row_stride, from.column_stride},
                        {target + to.first, type_of<U>(), rows, columns, to.row_stride, to.column_stride}, here);
    std::vector<U> found = download(target, to.size);
    bool equal = true, untouched = true;
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            const T x = given[static_cast<std::size_t>(from.first + i * from.row_stride + j * from.column_stride)];
            U& y = found[static_cast<std::size_t>(to.first + i * to.row_stride + j * to.column_stride)];
            equal = equal && y == static_cast<U>(x);
            y = static_cast<U>(NAN);
        }
    }
    for (const U y : found) untouched = untouched && std::isnan(y);
    CHECK(equal);
    CHECK(untouched);

    std::vector<T> read(static_cast<std::size_t>(rows * columns), static_cast<T>(NAN));
    raphson::cuda::read({source + from.first, type_of<T>(), rows, columns, from.row_stride, from.column_stride}, read.data(), here);
    bool as_given = true;
    for (int64_t k = 0; k < rows * columns; ++k) {
        as_given = as_given && read[k] == given[from.first + k / columns * from.row_stride + k % columns * from.column_stride];
    }
    CHECK(as_given);
}

template <class T, class U>
void check_layouts(int64_t rows, int64_t columns) {
    const int64_t size = rows * columns;
    const Layout whole{columns, 1, 0, size}, wide{columns + 3, 1, 2, rows * (columns + 3) + 2}, turned{1, rows, 0, size},
        reversed{-columns, -1, size - 1, size}, spread{2 * columns, 2, 1, 2 * size + 1}, repeated{0, 1, 0, columns};
    for (const Layout& from : {whole, wide, turned, reversed, spread, repeated}) {
        for (const Layout& to : {whole, wide, turned, reversed, spread}) check_copy<T, U>(rows, columns, from, to);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("cuda copy: any layout to any layout", T, double, float) {
    for (const int64_t rows : {1, 19}) {
        for (const int64_t columns : {1, 40}) {
            check_layouts<T, double>(rows, columns);
            check_layouts<T, float>(rows, columns);
        }
    }
}

TEST_CASE("cuda copy: nothing, and there and back") {
    Scratch scratch(here);
    raphson::cuda::copy(contiguous(nullptr, raphson::DType::float64, 0, 3), contiguous(nullptr, raphson::DType::float64, 0, 3), here);
    raphson::cuda::read(contiguous(nullptr, raphson::DType::float64, 3, 0), nullptr, here);
    raphson::cuda::write(nullptr, nullptr, 0, here);
    const std::vector<float> given{1, 2, 3};
    auto* const there = poisoned<float>(scratch, 3);
    raphson::cuda::write(given.data(), there, sizeof(float) * given.size(), here);
    std::vector<float> found(3);
    raphson::cuda::read(contiguous(there, raphson::DType::float32, 1, 3), found.data(), here);
    CHECK(found == given);
}
