#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "device_support.h"
#include "gemm/product.h"

using namespace support;
using namespace raphson::cuda;
using raphson::DType;

namespace {

template <class T>
constexpr double unit() {  // half a last place
    return std::is_same_v<T, double> ? 0x1p-53 : std::is_same_v<T, float> ? 0x1p-24 : std::is_same_v<T, float16> ? 0x1p-11 : 0x1p-8;
}
template <class T>
constexpr double sum_unit() {
    return std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
}

enum class By { simt, wgmma, any };

struct Case {
    int64_t m, n, k, batch;
    bool b_transposed, symmetric, with_c;
    int64_t pad;  // elements between rows
};

// Every entry against sums in float64 of the very numbers that were uploaded: the bound is what k additions may lose.
template <class T>
void check_product(const Case& c, By by) {
    CAPTURE(c.m);
    CAPTURE(c.n);
    CAPTURE(c.k);
    CAPTURE(c.batch);
    CAPTURE(c.b_transposed);
    CAPTURE(c.symmetric);
    CAPTURE(c.with_c);
    Scratch scratch(here);
    const int64_t b_rows = c.b_transposed ? c.n : c.k, b_cols = c.b_transposed ? c.k : c.n;
    const int64_t lda = c.k + c.pad, ldb = b_cols + c.pad, ldc = c.n + c.pad, ldd = c.n + c.pad;
    auto a = normals<T>(c.batch * c.m * lda, 1), b = c.symmetric ? a : normals<T>(c.batch * b_rows * ldb, 2);
    auto add = normals<T>(c.batch * c.m * ldc, 3);
    if (c.symmetric) {  // so must be what is added
        for (int64_t s = 0; s < c.batch; ++s) {
            T* matrix = add.data() + s * c.m * ldc;
            for (int64_t i = 0; i < c.m; ++i) {
                for (int64_t j = 0; j < i; ++j) matrix[j * ldc + i] = matrix[i * ldc + j];
            }
        }
    }
    const double alpha = 1.25, beta = -0.5;
    auto* d = poisoned<T>(scratch, c.batch * c.m * ldd);
    ProductJob job;
    job.type = type_of<T>();
    job.m = c.m;
    job.n = c.n;
    job.k = c.k;
    job.batch = c.batch;
    job.alpha = alpha;
    job.a = {upload(scratch, a), lda, c.m * lda};
    job.b = {upload(scratch, b), ldb, b_rows * ldb};
    job.b_transposed = c.b_transposed;
    job.symmetric = c.symmetric;
    if (c.with_c) {
        job.beta = beta;
        job.c = {upload(scratch, add), ldc, c.m * ldc};
    }
    job.d = d;
    job.ldd = ldd;
    job.step_d = c.m * ldd;
    if (by == By::wgmma) {
        REQUIRE(wgmma_takes(job, here));
        wgmma_symmetric(job, here);
    } else if (by == By::simt) {
        simt_product(job, here);
    } else {
        product(job, scratch);
    }
    const auto got = download(d, c.batch * c.m * ldd);
    int64_t wrong = 0, asymmetric = 0;
    double worst = 0;
    for (int64_t s = 0; s < c.batch; ++s) {
        for (int64_t i = 0; i < c.m; ++i) {
            for (int64_t j = 0; j < c.n; ++j) {
                double sum = 0, size = 0;
                for (int64_t l = 0; l < c.k; ++l) {
                    const double x = to_double(a[static_cast<std::size_t>(s * c.m * lda + i * lda + l)]);
                    const double y = to_double(b[static_cast<std::size_t>(
                        s * b_rows * ldb + (c.b_transposed ? j * ldb + l : l * ldb + j))]);
                    sum += x * y;
                    size += std::fabs(x * y);
                }
                const double more = c.with_c ? beta * to_double(add[static_cast<std::size_t>(s * c.m * ldc + i * ldc + j)]) : 0;
                const double expected = alpha * sum + more;
                const auto at = static_cast<std::size_t>(s * c.m * ldd + i * ldd + j);
                const double bound = static_cast<double>(c.k + 2) * sum_unit<T>() * (alpha * size + std::fabs(more)) +
                                     1.01 * unit<T>() * std::fabs(expected) + (std::is_same_v<T, float16> ? 0x1p-25 : 0);
                const double error = std::fabs(to_double(got[at]) - expected);
                worst = std::max(worst, error / bound);
                wrong += !(error <= bound);
                if (c.symmetric) {
                    const auto mirrored = static_cast<std::size_t>(s * c.m * ldd + j * ldd + i);
                    asymmetric += std::memcmp(&got[at], &got[mirrored], sizeof(T)) != 0;
                }
            }
            for (int64_t j = c.n; j < ldd; ++j) {  // nothing is written between the rows
                const auto at = static_cast<std::size_t>(s * c.m * ldd + i * ldd + j);
                wrong += to_double(got[at]) == to_double(got[at]);
            }
        }
    }
    CAPTURE(worst);
    CHECK(wrong == 0);
    CHECK(asymmetric == 0);
}

const std::vector<Case> cases = {
    {1, 1, 1, 1, false, false, false, 0},   {3, 5, 7, 2, false, false, true, 1},   {64, 64, 16, 1, true, false, false, 0},
    {129, 65, 33, 1, false, false, true, 3}, {40, 200, 17, 3, true, false, true, 0}, {5, 5, 1, 1, true, true, false, 0},
    {130, 130, 40, 1, true, true, true, 2}, {257, 257, 9, 2, true, true, false, 0},
};

}  // namespace

TEST_CASE_TEMPLATE("cuda products: on the ordinary cores", T, double, float, raphson::bfloat16, float16) {
    for (const Case& c : cases) check_product<T>(c, By::simt);
}

TEST_CASE_TEMPLATE("cuda products: symmetric, on wgmma", T, raphson::bfloat16, float16) {
    if (traits(0).major != 9) return;
    check_product<T>({8, 8, 8, 1, true, true, false, 0}, By::wgmma);
    check_product<T>({24, 24, 72, 2, true, true, true, 0}, By::wgmma);
    check_product<T>({136, 136, 64, 1, true, true, false, 8}, By::wgmma);
    check_product<T>({200, 200, 136, 2, true, true, true, 0}, By::wgmma);
    check_product<T>({520, 520, 24, 1, true, true, true, 0}, By::wgmma);  // wide tiles, where the device has few processors
    check_product<T>({328, 328, 456, 1, true, true, false, 0}, By::wgmma);  // more blocks of k than stages
}

TEST_CASE_TEMPLATE("cuda products: whichever kernel is picked", T, double, float, raphson::bfloat16, float16) {
    for (const Case& c : cases) check_product<T>(c, By::any);
}

TEST_CASE("cuda products: the tiles of a triangle") {
    for (const int64_t ratio : {1, 2}) {
        for (int64_t rows = 1; rows < 40; ++rows) {
            int64_t t = 0;
            for (int64_t row = 0; row < rows; ++row) {
                for (int64_t col = 0; col <= row / ratio; ++col, ++t) {
                    const TriangleTile tile = triangle_tile(t, ratio);
                    REQUIRE(tile.row == row);
                    REQUIRE(tile.col == col);
                }
            }
            REQUIRE(triangle_tiles(rows, ratio) == t);
        }
    }
    for (const int64_t p : {int64_t{1000}, int64_t{94906265}, int64_t{3000000000 / 2}}) {  // beyond what a square root resolves
        const int64_t before = p * (p + 1) / 2;
        CHECK(triangle_tile(before, 1).row == p);
        CHECK(triangle_tile(before, 1).col == 0);
        CHECK(triangle_tile(before - 1, 1).row == p - 1);
        CHECK(triangle_tile(before - 1, 1).col == p - 1);
    }
}
