// Sketches on the device: the CPU's places and normal numbers, and sums of what they pick.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "common/philox.h"
#include "raphson/sketch.h"
#include "sketch/streams.h"
#include "sketch_support.h"
#include "table.h"

using namespace support;
using raphson::cuda::NormalEntries;
using raphson::cuda::SignEntries;

namespace {

constexpr std::uint32_t stream = 0x53534b31;

// What f(out) writes to a poisoned result (rows × cols, ld), twice: the same bits, and nothing beside the rows.
template <class Out, class F>
std::vector<Out> result_of(int64_t rows, int64_t cols, int64_t ld, F f) {
    std::vector<Out> first;
    for (int run = 0; run < 2; ++run) {
        Scratch scratch(here);
        auto* out = poisoned<Out>(scratch, rows * ld);
        f(DenseResult{out, type_of<Out>(), ld}, scratch);
        const auto got = download(out, rows * ld);
        if (run == 0) first = got;
        CHECK(same_bits(got, first));
        shake();
    }
    int64_t beside = 0, missing = 0;
    for (int64_t i = 0; i < rows * ld; ++i) {
        const bool written = first[i] == first[i];
        beside += i % ld >= cols && written;
        missing += i % ld < cols && !written;
    }
    CHECK(beside == 0);
    CHECK(missing == 0);
    return first;
}

std::vector<std::uint32_t> cpu_places(const SignEntries& s, int64_t n) {
    std::vector<std::uint32_t> place(static_cast<std::size_t>(n * s.nnz));
    raphson::kernels().sketch.places(s.seed, s.stream, s.first, n, s.rows, s.nnz, place.data());
    return place;
}

// ---- SparseSign ---------------------------------------------------------------------------------------------------------

template <class T, class Out>
void check_sketch(const SignEntries& s, int64_t n, int64_t d, int64_t ld, int64_t out_ld, bool weighted) {
    CAPTURE(s.rows);
    CAPTURE(s.nnz);
    CAPTURE(n);
    CAPTURE(d);
    const Matrix<T> a(n, d, ld, static_cast<std::uint64_t>(n + 3 * d));
    const auto weights = some_weights(n);
    const auto got = result_of<Out>(s.rows, d, out_ld, [&](const DenseResult& out, Scratch& scratch) {
        raphson::cuda::sign_sketch(s, a.on_device(scratch), weighted ? upload(scratch, weights) : nullptr, out, scratch);
    });
    const auto place = cpu_places(s, n);
    const double scale = 1 / std::sqrt(static_cast<double>(s.nnz));
    std::vector<long double> sum(static_cast<std::size_t>(s.rows * d)), size(sum.size());
    std::vector<int64_t> terms(static_cast<std::size_t>(s.rows));
    for (int64_t i = 0; i < n; ++i) {
        for (int k = 0; k < s.nnz; ++k) {
            const std::uint32_t p = place[i * s.nnz + k];
            ++terms[p >> 1];
            for (int64_t j = 0; j < d; ++j) {
                const long double term = static_cast<long double>(a.at(i, j)) * (weighted ? weights[i] : 1.0);
                sum[(p >> 1) * d + j] += (p & 1u) != 0 ? -term : term;
                size[(p >> 1) * d + j] += std::fabs(term);
            }
        }
    }
    Worst worst;
    for (int64_t r = 0; r < s.rows; ++r) {
        for (int64_t j = 0; j < d; ++j) {  // a rounding more for the weight, and one for the scale
            const long double truth = scale * sum[r * d + j], bound = roundings(terms[r] + 2) * scale * size[r * d + j];
            worst.account(to_double(got[r * out_ld + j]), truth, bound + rounding<Out>() * std::fabs(truth));
        }
    }
    CHECK(worst.ratio == 0);
}

}  // namespace

TEST_CASE("cuda sketch: places are the CPU's, bit for bit") {
    for (const int nnz : {1, 3, 4, 8, 33}) {
        for (const int64_t first : {int64_t{0}, int64_t{7}, (int64_t{1} << 32) - 50, (int64_t{1} << 47) + 5}) {
            for (const int64_t rows : {int64_t{33}, int64_t{1000}, (int64_t{1} << 31) - 1}) {
                const SignEntries s{0x123456789abcdefu + static_cast<std::uint64_t>(nnz), stream, rows, nnz, first};
                const int64_t n = 131;
                Scratch scratch(here);
                auto* place = poisoned<std::uint32_t>(scratch, n * nnz);
                raphson::cuda::sign_places(s, n, place, here);
                CHECK(download(place, n * nnz) == cpu_places(s, n));
            }
        }
    }
}

TEST_CASE_TEMPLATE("cuda sketch: SparseSign by tiles", T, double, float) {
    const int64_t far = (int64_t{1} << 32) - 100;
    for (const int nnz : {1, 2, 4, 7}) {  // one chunk and several, one part and several
        check_sketch<T, double>({11, stream, 7, nnz, far}, 701, 5, 5, 5, nnz % 2 == 0);
        check_sketch<T, double>({12, stream, 7, nnz, 0}, 1, 1, 1, 1, true);
    }
    check_sketch<T, T>({13, stream, 250, 4, 0}, 333, 66, 68, 70, true);
    check_sketch<T, T>({14, stream, 300, 8, 0}, 700, 9, 9, 9, false);
    check_sketch<T, float>({15, stream, 601, 4, 0}, 600, 17, 20, 21, true);
    check_sketch<T, double>({16, stream, 1100, 4, 3}, 1200, 3, 4, 3, true);
    check_sketch<T, double>({17, stream, 2048, 3, 3}, 40, 2, 8, 2, false);
    check_sketch<T, double>({18, stream, 2100, 4, 0}, 1100, 9, 12, 9, true);   // two tiles of the sketch's rows
    check_sketch<T, double>({19, stream, 4100, 4, 0}, 200, 1, 4, 1, false);  // three
}

TEST_CASE_TEMPLATE("cuda sketch: SparseSign by rows", T, double, float) {
    check_sketch<T, double>({21, stream, 700, 1, 0}, 1500, 12, 12, 12, true);
    check_sketch<T, T>({22, stream, 512, 1, (int64_t{1} << 40) + 1}, 300, 1, 1, 3, false);
    check_sketch<T, double>({23, stream, 900, 1, 0}, 20000, 1, 2, 1, true);  // two chunks
    check_sketch<T, float>({24, stream, 60, 9, 0}, 200, 600, 604, 601, true);
    check_sketch<T, double>({25, stream, 40, 40, 0}, 33, 7, 7, 7, false);
    check_sketch<T, double>({26, stream, 8200, 4, 0}, 500, 3, 3, 3, true);
}

TEST_CASE("cuda sketch: SparseSign of nothing") {
    check_sketch<float, double>({1, stream, 5, 2, 0}, 0, 3, 3, 3, false);  // zeros, written
    check_sketch<float, double>({1, stream, 600, 1, 0}, 0, 3, 3, 3, false);
    check_sketch<float, double>({1, stream, 5, 2, 0}, 3, 0, 4, 4, false);
}

namespace {

template <class T, class Out>
void check_adjoint(const SignEntries& s, int64_t n, int64_t d, int64_t ld, int64_t out_ld) {
    CAPTURE(s.nnz);
    CAPTURE(d);
    const Matrix<T> b(s.rows, d, ld, 31);
    const auto got = result_of<Out>(n, d, out_ld, [&](const DenseResult& out, Scratch& scratch) {
        raphson::cuda::sign_adjoint(s, b.on_device(scratch), n, out, here);
    });
    const auto place = cpu_places(s, n);
    const double scale = 1 / std::sqrt(static_cast<double>(s.nnz));
    Worst worst;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < d; ++j) {
            long double sum = 0, size = 0;
            for (int k = 0; k < s.nnz; ++k) {
                const std::uint32_t p = place[i * s.nnz + k];
                const long double term = b.at(p >> 1, j);
                sum += (p & 1u) != 0 ? -term : term;
                size += std::fabs(term);
            }
            worst.account(to_double(got[i * out_ld + j]), scale * sum,
                          (s.nnz + 1) * unit * scale * size + rounding<Out>() * std::fabs(scale * sum));
        }
    }
    CHECK(worst.ratio == 0);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda sketch: adjoint of SparseSign", T, double, float) {
    for (const int nnz : {1, 4, 32, 70}) {
        check_adjoint<T, T>({41, stream, 80, nnz, 9}, 19, 150, 152, 151);
        check_adjoint<T, double>({42, stream, 71, nnz, 0}, 1, 1, 1, 1);
        check_adjoint<T, float>({43, stream, 99, nnz, (int64_t{1} << 33)}, 9, 7, 9, 7);
    }
}

// ---- Gaussian -----------------------------------------------------------------------------------------------------------

namespace {

// The device rounds the same polynomials differently where it fuses: 16 roundings of numbers up to the largest radius.
constexpr double largest_radius = 6.77, entry_error = 16 * unit * largest_radius;

std::vector<double> cpu_normals(const NormalEntries& s, int64_t n) {
    std::vector<double> out(static_cast<std::size_t>(s.rows * n));
    raphson::kernels().dense_sketch.normals(s.seed, s.stream, s.first, n, s.rows, s.scale, out.data(), n);
    return out;
}

template <class T, class Out>
void check_gaussian(const NormalEntries& s, int64_t n, int64_t d, int64_t ld, int64_t out_ld, bool weighted) {
    CAPTURE(s.rows);
    CAPTURE(n);
    CAPTURE(d);
    const Matrix<T> a(n, d, ld, 51);
    const auto weights = some_weights(n);
    const auto got = result_of<Out>(s.rows, d, out_ld, [&](const DenseResult& out, Scratch& scratch) {
        raphson::cuda::normal_sketch(s, a.on_device(scratch), weighted ? upload(scratch, weights) : nullptr, out, scratch);
    });
    const auto entry = cpu_normals(s, n);
    Worst worst;
    for (int64_t r = 0; r < s.rows; ++r) {
        for (int64_t j = 0; j < d; ++j) {
            long double sum = 0, size = 0, entries = 0;
            for (int64_t i = 0; i < n; ++i) {
                const long double x = static_cast<long double>(a.at(i, j)) * (weighted ? weights[i] : 1.0);
                const long double term = entry[r * n + i] * x;
                sum += term;
                size += std::fabs(term);
                entries += s.scale * entry_error * std::fabs(x);
            }
            const long double bound = roundings(n + 2) * size + entries;
            worst.account(to_double(got[r * out_ld + j]), sum, bound + rounding<Out>() * std::fabs(sum));
        }
    }
    CHECK(worst.ratio == 0);
}

}  // namespace

TEST_CASE("cuda sketch: normal numbers are the CPU's") {
    for (const int64_t rows : {1, 2, 7, 64}) {
        const int64_t n = 300, ld = 307;
        const NormalEntries s{99, 0x53474131, rows, (int64_t{1} << 32) - 20, 0.25};
        const auto got = result_of<double>(rows, n, ld, [&](const DenseResult& out, Scratch&) {
            raphson::cuda::normal_entries(s, n, static_cast<double*>(out.data), ld, here);
        });
        const auto cpu = cpu_normals(s, n);
        Worst by_cpu, by_library;
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t i = 0; i < n; ++i) {
                by_cpu.account(got[r * ld + i], cpu[r * n + i], s.scale * entry_error);
                const auto x = raphson::philox_at(static_cast<std::uint64_t>(s.first + i), static_cast<std::uint64_t>(r / 4),
                                                  s.stream, raphson::PhiloxKey::from_seed(s.seed));
                const std::size_t pair = static_cast<std::size_t>(r % 4 / 2 * 2);
                const long double u = (x[pair] + 0.5L) * 0x1p-32L, turn = 2 * std::acos(-1.0L) * (x[pair + 1] + 0.5L) * 0x1p-32L;
                const long double size = s.scale * std::sqrt(-2 * std::log(u));
                by_library.account(got[r * ld + i], size * (r % 2 == 0 ? std::cos(turn) : std::sin(turn)), 2e-10L * size);
            }
        }
        CHECK(by_cpu.ratio == 0);
        CHECK(by_library.ratio == 0);
    }
}

TEST_CASE_TEMPLATE("cuda sketch: Gaussian", T, double, float) {
    check_gaussian<T, double>({61, 5, 1, 0, 1}, 1, 1, 1, 1, true);
    check_gaussian<T, T>({62, 5, 66, 3, 0.125}, 100, 131, 133, 140, true);
    check_gaussian<T, float>({63, 5, 7, (int64_t{1} << 32) - 9, 0.3}, 1100, 5, 5, 5, false);  // several parts
    check_gaussian<T, double>({64, 5, 30, 0, 0.3}, 0, 2, 2, 2, false);
    check_gaussian<T, double>({65, 5, 130, 0, 0.1}, 33, 3, 4, 3, false);
}

// ---- SRHT ---------------------------------------------------------------------------------------------------------------

TEST_CASE_TEMPLATE("cuda sketch: SRHT by its definition", T, double, float) {
    for (const auto& shape : {std::array<int64_t, 3>{1, 1, 1}, {100, 9, 7}, {700, 8, 130}, {2500, 3, 1100}}) {
        const int64_t n = shape[0], d = shape[1], rows = shape[2];
        CAPTURE(n);
        Scratch scratch(here);
        const Matrix<T> a(n, d, d + 3, 91);
        const std::vector<double> weights = some_weights(n);
        const raphson::SRHT s(rows, n, 12345);
        const std::vector<int64_t> picked = s.picked();
        const int64_t ld = d + 1;
        double* const out = poisoned<double>(scratch, rows * ld);
        raphson::cuda::hadamard_sketch({12345, raphson::srht_sign_stream, rows, upload(scratch, picked), 0.5}, a.on_device(scratch),
                                       upload(scratch, weights), {out, raphson::DType::float64, ld}, scratch);
        const std::vector<double> got = download(out, rows * ld);
        Worst worst;
        for (int64_t r = 0; r < rows; r += 1 + rows / 50) {
            for (int64_t j = 0; j < d; ++j) {
                long double sum = 0, size = 0;
                for (int64_t i = 0; i < n; ++i) {
                    const auto block = raphson::philox_at(static_cast<std::uint64_t>(i / 128), 0, raphson::srht_sign_stream,
                                                          raphson::PhiloxKey::from_seed(12345));
                    int turns = static_cast<int>(block[static_cast<std::size_t>(i % 128 / 32)] >> (i % 32) & 1);
                    for (std::uint64_t both = static_cast<std::uint64_t>(i & picked[static_cast<std::size_t>(r)]); both != 0; both &= both - 1) ++turns;
                    const long double term = 0.5L * weights[static_cast<std::size_t>(i)] * a.at(i, j);
                    sum += turns % 2 == 0 ? term : -term;
                    size += std::fabs(term);
                }
                worst.account(got[static_cast<std::size_t>(r * ld + j)], sum, roundings(n + 4) * size);
            }
        }
        CHECK(worst.ratio == 0);
        for (int64_t r = 0; r < rows; ++r) CHECK(std::isnan(got[static_cast<std::size_t>(r * ld + d)]));
    }
}
