#include "sketch/core.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dense/dense.h"
#include "table.h"

namespace raphson {

using std::int64_t;
using Matrix = std::vector<double>;

constexpr int64_t few_sides = 16;  // up to so many columns beside a triangle, one factorisation is faster than a second pass

namespace {

Matrix zeros(int64_t rows, int64_t cols) { return Matrix(static_cast<std::size_t>(rows * cols), 0.0); }

}  // namespace

void upper_triangle(double* a, int64_t rows, int64_t n, double* r) { HouseholderQr(a, n, rows, n).upper(r, n); }

void upper_triangle_beside(double* a, int64_t rows, int64_t n, int64_t k, double* r) {
    const int64_t p = n + k;
    if (k <= std::max(n, few_sides)) {  // as if they were columns of it
        Matrix whole = zeros(p, p);
        upper_triangle(a, rows, p, whole.data());
        std::copy_n(whole.data(), n * p, r);
        return;
    }
    const HouseholderQr factor(a, p, rows, n);
    factor.apply(true, a + n, p, k);
    factor.upper(r, p);
    for (int64_t i = 0; i < n; ++i) {
        double* const side = r + i * p + n;
        i < rows ? std::copy_n(a + i * p + n, k, side) : std::fill_n(side, k, 0.0);
    }
}

void shifted_triangle(const double* r, int64_t ld, int64_t n, double shift, Matrix& gram, double* out) {
    double squares = 0;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = i; j < n; ++j) squares += r[i * ld + j] * r[i * ld + j];
    }
    if (shift > 1e-12 * squares) {  // squaring does no harm: the shift is far above its rounding
        if (gram.empty()) {
            Matrix columns = zeros(n, n);
            gram = zeros(n, n);
            transpose(r, ld, n, n, columns.data(), n);
            for (int64_t j = 0; j < n; ++j) std::fill_n(columns.data() + j * n + j + 1, n - j - 1, 0.0);
            kernels().gemm.f64.gram(n, n, 1.0, columns.data(), n, gram.data(), n);
        }
        Matrix lower = gram;
        for (int64_t i = 0; i < n; ++i) lower[i * n + i] += shift;
        if (cholesky(lower.data(), n, n, 1e-300) == 0) {
            for (int64_t i = 0; i < n; ++i) std::fill_n(lower.data() + i * n + i + 1, n - i - 1, 0.0);
            transpose(lower.data(), n, n, n, out, n);
            return;
        }
    }
    Matrix stacked = zeros(2 * n, n);
    for (int64_t i = 0; i < n; ++i) {
        std::copy_n(r + i * ld + i, n - i, stacked.data() + i * n + i);
        stacked[(n + i) * n + i] = std::sqrt(shift);
    }
    upper_triangle(stacked.data(), 2 * n, n, out);
}

int64_t solve_wide(const double* a, int64_t rows, int64_t n, const double* b, int64_t k, double rcond, double* x,
                   double* largest, double* smallest) {
    const KernelTable& table = kernels();
    Matrix tall = zeros(n, rows), upper = zeros(rows, rows);
    transpose(a, n, rows, n, tall.data(), rows);
    const HouseholderQr factor(tall.data(), rows, n, rows);
    factor.upper(upper.data(), rows);
    table.sketch_core.extremes(table.dense, upper.data(), rows, rows, largest, smallest);
    std::fill_n(x, n * k, 0.0);
    const bool full = *smallest > rcond * *largest;
    int64_t rank = full ? rows : 0;
    Matrix u, s, v, y(static_cast<std::size_t>(rows)), inside(y.size());
    if (!full) {
        u = v = zeros(rows, rows);
        s.resize(static_cast<std::size_t>(rows));
        table.sketch_core.svd(upper.data(), rows, rows, u.data(), s.data(), v.data());
        while (rank < rows && s[rank] > rcond * s[0]) ++rank;
        if (rank == 0) return 0;
        *largest = s[0];
        *smallest = s[rank - 1];
    }
    for (int64_t column = 0; column < k; ++column) {
        for (int64_t i = 0; i < rows; ++i) y[i] = b[i * k + column];
        if (full) {
            table.dense.solve_triangle(upper.data(), rows, rows, true, true, y.data());
        } else {
            std::fill(inside.begin(), inside.end(), 0.0);
            for (int64_t q = 0; q < rank; ++q) {
                double sum = 0;
                for (int64_t i = 0; i < rows; ++i) sum += v[q * rows + i] * y[i];
                for (int64_t i = 0; i < rows; ++i) inside[i] += sum / s[q] * u[q * rows + i];
            }
            y = inside;
        }
        for (int64_t i = 0; i < rows; ++i) x[i * k + column] = y[i];
    }
    factor.apply(false, x, k, k);
    return rank;
}

}  // namespace raphson
