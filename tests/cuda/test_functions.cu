// What matrix functions on the device are made of, against loops in float64, and whole evaluations against the CPU library.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "device_support.h"
#include "newton_schulz/function_passes.h"

using namespace support;
using raphson::DType;
using raphson::function_numbers;
using raphson::cuda::Working;

namespace {

using Matrix = std::vector<double>;

Matrix product(const Matrix& a, const Matrix& b, int64_t m, int64_t k, int64_t n, bool b_transposed = false) {
    Matrix out(static_cast<std::size_t>(m * n));
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t q = 0; q < k; ++q) sum += a[i * k + q] * (b_transposed ? b[j * k + q] : b[q * n + j]);
            out[i * n + j] = sum;
        }
    }
    return out;
}
double off_identity(const Matrix& x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n * n; ++i) most = std::max(most, std::fabs(x[i] - (i % (n + 1) == 0 ? 1 : 0)));
    return most;
}
Matrix part(const Matrix& all, int64_t index, int64_t size) { return {all.begin() + index * size, all.begin() + (index + 1) * size}; }

Working on_device(Scratch& scratch, const Matrix& x, int64_t rows, int64_t cols, int64_t count) {
    return {upload(scratch, x), DType::float64, rows, cols, cols, rows * cols, count};
}
Working unwritten(Scratch& scratch, int64_t rows, int64_t cols, int64_t count) {
    return {poisoned<double>(scratch, rows * cols * count), DType::float64, rows, cols, cols, rows * cols, count};
}
Matrix back(const Working& x) { return download(static_cast<const double*>(x.data), x.rows * x.cols * x.count); }
double number(const double* numbers, int64_t matrix, int which) {
    return download(numbers + matrix * function_numbers, function_numbers)[static_cast<std::size_t>(which)];
}

}  // namespace

TEST_CASE("cuda matrix functions: Gauss-Jordan inverses, whole and in panels") {
    for (const int64_t n : {1, 2, 5, 33, 64, 168, 169, 170, 230}) {
        CAPTURE(n);
        const int64_t count = n > 100 ? 2 : 3;
        Scratch scratch(here);
        Matrix a = normals<double>(n * n * count, static_cast<std::uint64_t>(n));
        for (int64_t i = 0; i < n; ++i) a[i * n + i] = 0;  // no pivot where one would be without exchanges
        if (n == 1) a[0] = 3;
        const Working given = on_device(scratch, a, n, n, count), x = unwritten(scratch, n, n, count);
        int* const failed = poisoned<int>(scratch, count);
        raphson::cuda::invert(given, x, failed, scratch);
        const Matrix got = back(x);
        CHECK(download(failed, count) == std::vector<int>(static_cast<std::size_t>(count), 0));
        for (int64_t k = 0; k < count; ++k) {
            CHECK(off_identity(product(part(a, k, n * n), part(got, k, n * n), n, n, n), n) < 1e-10);
            CHECK(off_identity(product(part(got, k, n * n), part(a, k, n * n), n, n, n), n) < 1e-10);
        }
    }
}

TEST_CASE("cuda matrix functions: a singular or poisoned matrix fails alone") {
    for (const int64_t n : {6, 180}) {
        Scratch scratch(here);
        Matrix a = normals<double>(3 * n * n, 8);
        std::fill_n(a.begin() + n * n + 2 * n, n, 0.0);  // a row of zeros
        a[2 * n * n + n + 1] = NAN;
        const Working given = on_device(scratch, a, n, n, 3), x = unwritten(scratch, n, n, 3);
        int* const failed = poisoned<int>(scratch, 3);
        raphson::cuda::invert(given, x, failed, scratch);
        const auto flags = download(failed, 3);
        CHECK(flags[0] == 0);
        CHECK(flags[1] == 1);
        CHECK(off_identity(product(part(a, 0, n * n), part(back(x), 0, n * n), n, n, n), n) < 1e-10);
    }
}

TEST_CASE("cuda matrix functions: eigenvalues by Jacobi, whole and by pairs") {
    for (const int64_t n : {1, 2, 3, 16, 37, 64, 118, 119, 150, 193}) {
        CAPTURE(n);
        const int64_t count = n > 100 ? 1 : 3, order = raphson::cuda::eigh_order(n, 0);
        CHECK(order == (n <= 100 || order < n + 2 ? (n + 1) / 2 * 2 : (n + 63) / 64 * 64));
        Scratch scratch(here);
        Matrix a = normals<double>(n * n * count, static_cast<std::uint64_t>(n));
        for (int64_t k = 0; k < count; ++k) {
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t j = 0; j < i; ++j) a[k * n * n + i * n + j] = a[k * n * n + j * n + i];
            }
        }
        const Working given = on_device(scratch, a, n, n, count), v = unwritten(scratch, order, order, count);
        double* const values = poisoned<double>(scratch, order * count);
        double* const numbers = poisoned<double>(scratch, function_numbers * count);
        raphson::cuda::eigh(given, v, values, 100, numbers, scratch);
        CHECK(back(given) == a);
        const Matrix vectors = back(v), found = download(values, order * count);
        for (int64_t k = 0; k < count; ++k) {
            const Matrix mine = part(vectors, k, order * order);
            Matrix own(static_cast<std::size_t>(n * n)), scaled(own.size());
            for (int64_t i = 0; i < n; ++i) {
                for (int64_t j = 0; j < n; ++j) {
                    own[i * n + j] = mine[i * order + j];
                    scaled[i * n + j] = mine[i * order + j] * found[k * order + j];
                }
            }
            for (int64_t i = 0; i < order; ++i) {  // nothing of the padding
                for (int64_t j = n; j < order; ++j) {
                    if (i < n) CHECK(mine[i * order + j] == 0);
                    if (i < n) CHECK(mine[j * order + i] == 0);
                }
            }
            CHECK(off_identity(product(own, own, n, n, n, true), n) < 1e-14);
            const Matrix again = product(scaled, own, n, n, n, true);
            double most = 0;
            for (int64_t i = 0; i < n * n; ++i) most = std::max(most, std::fabs(again[i] - a[k * n * n + i]));
            CHECK(most < 2e-14 * std::sqrt(static_cast<double>(n)));
            CHECK(number(numbers, k, raphson::number_limited) == 0);
            CHECK(number(numbers, k, raphson::number_iterations) <= 15);
        }
    }
}

TEST_CASE("cuda matrix functions: NaN ends the sweeps") {
    for (const int64_t n : {20, 130}) {
        const int64_t order = raphson::cuda::eigh_order(n, 0);
        Scratch scratch(here);
        Matrix a(static_cast<std::size_t>(n * n), NAN);
        const Working given = on_device(scratch, a, n, n, 1), v = unwritten(scratch, order, order, 1);
        double* const numbers = poisoned<double>(scratch, function_numbers);
        raphson::cuda::eigh(given, v, poisoned<double>(scratch, order), 100, numbers, scratch);
        CHECK(number(numbers, 0, raphson::number_iterations) == 0);
    }
}

TEST_CASE("cuda matrix functions: orthonormal factors of a batch of every condition") {
    const int64_t m = 21, n = 50, count = 5;
    Scratch scratch(here);
    Matrix x = normals<double>(m * n * count, 4);
    for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
            x[m * n + i * n + j] *= std::pow(0.3, static_cast<double>(i));                   // 1e-11 at the end
            x[2 * m * n + i * n + j] = i < 15 ? x[2 * m * n + i * n + j] : 0.0;              // rank 15
            x[3 * m * n + i * n + j] = 0;
        }
    }
    x[4 * m * n + 3] = NAN;
    const Working given = on_device(scratch, x, m, n, count), z = unwritten(scratch, m, n, count);
    double* const numbers = poisoned<double>(scratch, function_numbers * count);
    raphson::cuda::orthonormal_factor(given, z, 100, numbers, scratch);
    const Matrix got = back(z);
    const auto steps = [&](int64_t k) { return number(numbers, k, raphson::number_iterations); };
    for (int64_t k = 0; k < 4; ++k) {
        CAPTURE(k);
        const Matrix u = part(got, k, m * n), own = part(x, k, m * n);
        CHECK(off_identity(product(u, u, m, n, m, true), m) < 1e-14);
        CHECK(number(numbers, k, raphson::number_limited) == 0);
        const Matrix h = product(own, u, m, n, m, true);  // symmetric, and X = H U
        double asymmetry = 0, size = 0, off = 0;
        const Matrix again = product(h, u, m, m, n);
        for (int64_t i = 0; i < m * m; ++i) asymmetry = std::max(asymmetry, std::fabs(h[i] - h[i % m * m + i / m]));
        for (int64_t i = 0; i < m * n; ++i) {
            size += own[i] * own[i];
            off += (again[i] - own[i]) * (again[i] - own[i]);
        }
        CHECK(asymmetry <= 2e-15 * std::sqrt(size));
        CHECK(off <= 2.5e-29 * size);
    }
    CHECK(steps(0) < steps(1));
    CHECK(steps(1) < steps(2));
    CHECK(steps(2) < 60);
    CHECK(steps(3) == 1);
    CHECK(steps(4) <= 1);
}

TEST_CASE("cuda matrix functions: sums of matrices of many parts, and of none") {
    using namespace raphson;
    for (const int64_t rows : {3, 64, 300}) {
        const int64_t cols = rows;
        Scratch scratch(here);
        const Matrix a = normals<double>(2 * rows * cols, 1), b = normals<double>(2 * rows * cols, 2);
        const Working x = on_device(scratch, a, rows, cols, 2), y = on_device(scratch, b, rows, cols, 2);
        double* const numbers = poisoned<double>(scratch, 2 * function_numbers);
        cuda::sum_squares(x, numbers, here);
        cuda::largest_off_identity(x, numbers + 1, here);
        cuda::squares_off_identity(x, numbers + 2, here);
        cuda::squares_between(x, y, numbers + 3, here);
        for (int64_t k = 0; k < 2; ++k) {
            double squares = 0, off = 0, between = 0;
            for (int64_t i = 0; i < rows * cols; ++i) {
                const double here_is = a[k * rows * cols + i], other = b[k * rows * cols + i], one = i % (cols + 1) == 0 ? 1 : 0;
                squares += here_is * here_is;
                off += (here_is - one) * (here_is - one);
                between += (here_is - other) * (here_is - other);
            }
            CHECK(number(numbers, k, 0) == doctest::Approx(squares).epsilon(1e-13));
            CHECK(number(numbers, k, 1) == off_identity(part(a, k, rows * cols), rows));
            CHECK(number(numbers, k, 2) == doctest::Approx(off).epsilon(1e-13));
            CHECK(number(numbers, k, 3) == doctest::Approx(between).epsilon(1e-13));
        }
    }
}

TEST_CASE("cuda matrix functions: what is returned is symmetric to the bit, and rounded once") {
    using namespace raphson;
    const int64_t n = 37;
    const Matrix a = normals<double>(2 * n * n, 3);
    for (const bool narrow : {false, true}) {
        Scratch scratch(here);
        const Working x = on_device(scratch, a, n, n, 2), y = on_device(scratch, a, n, n, 2);
        cuda::settle(x, true, narrow, here);
        cuda::settle(y, false, narrow, here);
        const Matrix even = back(x), plain = back(y);
        const auto rounded = [&](double value) { return narrow ? static_cast<double>(static_cast<float>(value)) : value; };
        bool same = true;
        for (int64_t k = 0; k < 2 * n * n; ++k) {
            const int64_t mirrored = k / (n * n) * n * n + k % n * n + k / n % n;
            same = same && even[k] == rounded(0.5 * (a[k] + a[mirrored])) && plain[k] == rounded(a[k]);
        }
        CHECK(same);
    }
}

namespace {

// Every third number of every other row, matrices far apart; the rest stays as it was.
struct Spread {
    int64_t count, rows, cols;
    std::vector<int64_t> shape{count, rows, cols}, strides{rows * cols * 7, cols * 6, 3};

    int64_t elements() const { return count * rows * cols * 7; }
    std::size_t at(int64_t k, int64_t i, int64_t j) const { return static_cast<std::size_t>(k * strides[0] + i * strides[1] + j * 3); }
    raphson::BatchRef on(void* data, DType type) const { return {data, type, 3, shape.data(), strides.data()}; }
};

template <class T>
void check_against_cpu(raphson::MatrixFunction function, int64_t p, int64_t rows, int64_t cols, double ridge) {
    using namespace raphson;
    CAPTURE(static_cast<int>(function));
    CAPTURE(rows);
    const int64_t count = 3, k = std::min(rows, cols);
    const Spread in{count, rows, cols}, small{count, k, k};
    std::vector<T> x = normals<T>(in.elements(), static_cast<std::uint64_t>(17 * rows + cols));
    if (function == MatrixFunction::sqrt || function == MatrixFunction::inverse_root) {  // diagonally dominant, symmetric
        for (int64_t m = 0; m < count; ++m) {
            for (int64_t i = 0; i < rows; ++i) {
                for (int64_t j = 0; j < i; ++j) x[in.at(m, i, j)] = x[in.at(m, j, i)];
                x[in.at(m, i, i)] = static_cast<T>(4 * rows + i);
            }
        }
    }
    const bool two = function == MatrixFunction::polar || function == MatrixFunction::sqrt;
    MatrixFunctionOptions options;
    options.ridge = ridge;
    std::vector<T> value(x.size()), second(static_cast<std::size_t>(small.elements()));
    std::vector<MatrixReport> expected(count), reports(count);
    const auto item = [&](T* a, T* of_value, T* of_second, MatrixReport* to) {
        return FunctionItem{in.on(a, type_of<T>()), in.on(of_value, type_of<T>()),
                            two ? small.on(of_second, type_of<T>()) : BatchRef{}, to};
    };
    const FunctionItem here_item = item(x.data(), value.data(), second.data(), expected.data());
    evaluate(function, p, &here_item, 1, options);

    Scratch scratch(here);
    T *const device_value = poisoned<T>(scratch, in.elements()), *const device_second = poisoned<T>(scratch, small.elements());
    const FunctionItem there = item(upload(scratch, x), device_value, device_second, reports.data());
    evaluate_on_device(function, p, &there, 1, options, *cuda_table().functions, here);
    const double allowed = std::is_same_v<T, double> ? 1e-11 : 1e-5;
    const auto compare = [&](const std::vector<T>& cpu, const std::vector<T>& device, const Spread& layout) {
        double most = 0, size = 0;
        int64_t written = 0;
        for (int64_t m = 0; m < count; ++m) {
            for (int64_t i = 0; i < layout.rows; ++i) {
                for (int64_t j = 0; j < layout.cols; ++j) {
                    const double right = static_cast<double>(cpu[layout.at(m, i, j)]);
                    most = std::max(most, std::fabs(static_cast<double>(device[layout.at(m, i, j)]) - right));
                    size = std::max(size, std::fabs(right));
                }
            }
        }
        for (const T& one : device) written += one == one;
        CHECK(most <= allowed * size);
        CHECK(written == count * layout.rows * layout.cols);  // and nothing else
    };
    compare(value, download(device_value, in.elements()), in);
    if (two) compare(second, download(device_second, small.elements()), small);
    for (std::size_t m = 0; m < reports.size(); ++m) {
        CHECK(reports[m].status == expected[m].status);
        CHECK(reports[m].tol == doctest::Approx(expected[m].tol).epsilon(1e-2));
        CHECK(reports[m].residual <= reports[m].tol);
        CHECK(reports[m].cond == doctest::Approx(expected[m].cond).epsilon(1e-2));
        CHECK(reports[m].iterations >= 1);
    }
}

}  // namespace

TEST_CASE_TEMPLATE("cuda matrix functions: whole evaluations against the CPU library, any strides", T, double, float) {
    using raphson::MatrixFunction;
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{9, 9}, {20, 7}, {5, 33}}) {
        check_against_cpu<T>(MatrixFunction::polar, 1, rows, cols, 0);
    }
    check_against_cpu<T>(MatrixFunction::inverse, 1, 11, 11, 0);
    check_against_cpu<T>(MatrixFunction::sqrt, 1, 12, 12, 0);
    check_against_cpu<T>(MatrixFunction::inverse_root, 3, 13, 13, 0.5);
}
