#include "dense/dense.h"

#include <algorithm>

#include "common/threads.h"
#include "common/workspace.h"
#include "dense/tiles.h"
#include "table.h"

namespace raphson {
namespace {

using std::int64_t;

constexpr int64_t block = 64;
constexpr int64_t tile = 256;  // rows and columns of a product that a task updates

}  // namespace

int64_t cholesky(double* a, int64_t lda, int64_t n, double floor) {
    const DenseTable& pass = kernels().dense;
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const transposed = scratch.take_array<double>(block * n);  // of the panel: the products want it so
    int64_t raised = 0;
    for (int64_t j = 0; j < n; j += block) {
        const int64_t width = std::min(block, n - j), next = j + width, rest = n - next;
        double* const corner = a + j * lda + j;
        raised += pass.factor_block(corner, lda, width, floor);
        if (rest == 0) break;
        const int64_t chunks = (rest + block - 1) / block;
        parallel_for(chunks, [&](int64_t chunk) {
            const int64_t first = next + chunk * block, rows = std::min(block, n - first);
            double* const panel = a + first * lda + j;
            pass.solve_rows(corner, lda, width, panel, lda, rows);
            for (int64_t i = 0; i < rows; ++i) {
                for (int64_t k = 0; k < width; ++k) transposed[k * rest + first - next + i] = panel[i * lda + k];
            }
        });
        each_triangle_tile(rest, tile, [&](int64_t i0, int64_t k0) {
            double* const target = a + (next + i0) * lda + next + k0;
            gemm.product(std::min(tile, rest - i0), std::min(tile, rest - k0), width, -1.0, a + (next + i0) * lda + j, lda,
                         transposed + k0, rest, 1.0, target, lda, target, lda);
        });
    }
    return raised;
}

void solve_lower(const double* l, int64_t ldl, int64_t n, double* x, int64_t ldx, int64_t cols) {
    const DenseTable& pass = kernels().dense;
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    for (int64_t j = 0; j < n; j += block) {
        const int64_t width = std::min(block, n - j);
        double* const here = x + j * ldx;
        if (j > 0) gemm.product(width, cols, j, -1.0, l + j * ldl, ldl, x, ldx, 1.0, here, ldx, here, ldx);
        pass.solve_columns(l + j * ldl + j, ldl, width, false, here, ldx, cols);
    }
}

void solve_lower_transposed(const double* l, int64_t ldl, int64_t n, double* x, int64_t ldx, int64_t cols) {
    const DenseTable& pass = kernels().dense;
    const GemmFunctions<double, double>& gemm = kernels().gemm.f64;
    Workspace scratch;
    double* const transposed = scratch.take_array<double>(block * n);
    for (int64_t j = (n - 1) / block * block; j >= 0; j -= block) {
        const int64_t width = std::min(block, n - j), next = j + width, rest = n - next;
        double* const here = x + j * ldx;
        if (rest > 0) {
            for (int64_t i = 0; i < rest; ++i) {
                for (int64_t k = 0; k < width; ++k) transposed[k * rest + i] = l[(next + i) * ldl + j + k];
            }
            gemm.product(width, cols, rest, -1.0, transposed, rest, x + next * ldx, ldx, 1.0, here, ldx, here, ldx);
        }
        pass.solve_columns(l + j * ldl + j, ldl, width, true, here, ldx, cols);
    }
}

}  // namespace raphson
