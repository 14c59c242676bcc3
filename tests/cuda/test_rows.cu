// Rows in the hands of a driver of the host: Gram matrices and squares of columns, losses along a line, weights, picks,
// sketches and predictions, against sums in long double.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "raphson/sketch.h"
#include "sketch/lstsq_rows.h"
#include "sketch_support.h"

using namespace support;
using raphson::CudaRows;
using raphson::CudaView;
using raphson::DType;
using raphson::RowLine;
using raphson::RowLink;
using raphson::RowLoss;
using raphson::RowSketch;
using raphson::RowSweep;
using raphson::cuda::GramLimits;

namespace {

template <class T>
CudaView view_of(const Matrix<T>& a, Scratch& scratch) {
    return {upload(scratch, a.x), type_of<T>(), a.n, a.d, a.ld, 1};
}
std::unique_ptr<CudaRows> rows_of(const CudaView& a) { return std::unique_ptr<CudaRows>(raphson::cuda_table().make_rows(a, here)); }

long double entropy(long double v) { return v > 0 ? v * std::log(v) : 0.0L; }

std::vector<double> some_roots(int64_t n) {
    auto root = some_weights(n);
    for (double& x : root) x = std::fabs(x);
    return root;
}

// [A 1] with weighted rows, and what its columns i and j make.
template <class T>
struct Truth {
    const Matrix<T>& a;
    const std::vector<double>* root;
    int64_t p() const { return a.d + border; }
    int border = 0;

    long double at(int64_t row, int64_t column) const {
        const long double x = column < a.d ? static_cast<long double>(a.at(row, column)) : 1.0L;
        return root != nullptr ? (*root)[static_cast<std::size_t>(row)] * x : x;
    }
    void account(Worst& worst, double got, int64_t i, int64_t j) const {
        long double sum = 0, size = 0;
        for (int64_t row = 0; row < a.n; ++row) {
            const long double part = at(row, i) * at(row, j);
            sum += part;
            size += std::fabs(part);
        }
        worst.account(got, sum, roundings(a.n + 4) * size);
    }
};

template <class T>
void check_columns(int64_t n, int64_t d, int64_t ld, int border, bool weighted, const GramLimits& limits) {
    CAPTURE(n);
    CAPTURE(d);
    CAPTURE(border);
    CAPTURE(limits.panel_rows);
    const Matrix<T> a(n, d, ld, static_cast<std::uint64_t>(n + 31 * d));
    const auto root = some_roots(n);
    const Truth<T> truth{a, weighted ? &root : nullptr, border};
    const int64_t p = truth.p();
    std::vector<double> first;
    for (int run = 0; run < 2; ++run) {
        Scratch scratch(here);
        const auto* const there = weighted ? upload(scratch, root) : nullptr;
        auto* const to = poisoned<double>(scratch, p * p + p + 2);
        raphson::cuda::column_gram(a.on_device(scratch), there, border, to, scratch, limits);
        raphson::cuda::column_squares(a.on_device(scratch), there, border, to + p * p + 1, scratch);
        const auto got = download(to, p * p + p + 2);
        CHECK(std::isnan(got[p * p]));
        CHECK(std::isnan(got[p * p + p + 1]));
        if (run == 0) first = got;
        CHECK(same_bits(got, first));
        shake();
    }
    Worst gram, squares;
    bool symmetric = true;
    for (int64_t i = 0; i < p; ++i) {
        truth.account(squares, first[p * p + 1 + i], i, i);
        for (int64_t j = 0; j < p; ++j) {
            truth.account(gram, first[i * p + j], i, j);
            symmetric = symmetric && std::fabs(first[i * p + j] - first[j * p + i]) <= 1e-12 * std::sqrt(first[i * p + i] * first[j * p + j]);
        }
    }
    CHECK(gram.ratio == 0);
    CHECK(squares.ratio == 0);
    CHECK(symmetric);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda rows: Gram matrices and squares of columns", T, double, float) {
    const GramLimits usual, narrow{32, 32 * 200, 1 << 20}, alone{64, 1, 1};
    for (const int border : {0, 1}) {
        for (const bool weighted : {false, true}) {
            for (const GramLimits& limits : {usual, narrow, alone}) {
                check_columns<T>(1, 1, 1, border, weighted, limits);
                check_columns<T>(33, 5, 5, border, weighted, limits);
                check_columns<T>(97, 31, 40, border, weighted, limits);
                check_columns<T>(250, 32, 33, border, weighted, limits);
            }
            check_columns<T>(330, 65, 68, border, weighted, narrow);
        }
    }
    check_columns<T>(200, 257, 260, 1, true, usual);
    check_columns<T>(65, 0, 2, 1, true, usual);
}

TEST_CASE_TEMPLATE("cuda rows: matrices that are not contiguous are copied, and rows are read and picked", T, double, float) {
    const int64_t n = 57, d = 9;
    const Matrix<T> a(n, d, d, 3);
    std::vector<T> turned(a.x.size()), doubled(2 * a.x.size(), std::numeric_limits<T>::quiet_NaN()), back(a.x.size());
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < d; ++j) {
            turned[j * n + i] = a.x[i * d + j];
            doubled[2 * (i * d + j)] = a.x[i * d + j];
            back[(n - 1 - i) * d + j] = a.x[i * d + j];
        }
    }
    Scratch scratch(here);
    const DType type = type_of<T>();
    for (const CudaView& view : {CudaView{upload(scratch, a.x), type, n, d, d, 1}, CudaView{upload(scratch, turned), type, n, d, 1, n},
                                 CudaView{upload(scratch, doubled), type, n, d, 2 * d, 2},
                                 CudaView{upload(scratch, back) + (n - 1) * d, type, n, d, -d, 1}}) {
        const auto rows = rows_of(view);
        CHECK(rows->shape().rows == n);
        CHECK(rows->shape().cols == d);
        CHECK(rows->shape().type == type);
        std::vector<T> got(static_cast<std::size_t>(20 * d));
        rows->read_rows(11, 20, got.data());
        CHECK(std::equal(got.begin(), got.end(), a.x.begin() + 11 * d));
        const std::vector<int64_t> from{56, 0, 3, 3, 41};
        const std::unique_ptr<CudaRows> picked(rows->pick(from.data(), 5));
        got.assign(static_cast<std::size_t>(5 * d), 0);
        picked->read_rows(0, 5, got.data());
        for (int64_t i = 0; i < 5; ++i) CHECK(std::equal(got.begin() + i * d, got.begin() + (i + 1) * d, a.x.begin() + from[i] * d));
    }
    // the host's visits, block after block
    const auto rows = rows_of({upload(scratch, turned), type, n, d, 1, n});
    const raphson::RowSource visits = raphson::visiting_rows(*rows, 10 * d * static_cast<int64_t>(sizeof(T)) + 1);
    int64_t seen = 0;
    visits.visit([&](const raphson::RowBlock& block, int64_t first) {
        const auto* const values = static_cast<const T*>(block.values);
        CHECK(first == seen);
        CHECK(block.rows == std::min<int64_t>(10, n - first));
        CHECK(std::equal(values, values + block.rows * d, a.x.begin() + first * d));
        seen += block.rows;
    });
    CHECK(seen == n);
    // one row with any stride
    const auto one = rows_of({upload(scratch, a.x), type, 1, d, 0, 1});
    std::vector<T> got(static_cast<std::size_t>(d));
    one->read_rows(0, 1, got.data());
    CHECK(std::equal(got.begin(), got.end(), a.x.begin()));
}

TEST_CASE("cuda rows: vectors of the device") {
    const int64_t n = 140000, k = 3;  // more than the threads of a launch
    Scratch scratch(here);
    const Matrix<double> a(n, 1, 1, 5);
    const auto rows = rows_of(view_of(a, scratch));
    auto values = normals<double>(n, 6);
    for (const int64_t at : {int64_t{0}, int64_t{255}, n - 1}) {
        auto with = values;
        with[at] = -77;
        CHECK(rows->largest(rows->vector(with.data(), n), n) == 77);
        with[at] = INFINITY;
        CHECK(rows->largest(rows->vector(with.data(), n), n) == INFINITY);
        with[at] = NAN;
        CHECK(rows->largest(rows->vector(with.data(), n), n) == INFINITY);
        CHECK(rows->largest(rows->vector(with.data(), at), at) <= 6);
    }
    const Matrix<float> b(40, k, k + 2, 7);
    const double* const columns = rows->columns(view_of(b, scratch));
    std::vector<double> got(static_cast<std::size_t>(40 * k));
    rows->read_vector(columns, 40 * k, got.data());
    for (int64_t i = 0; i < 40; ++i) {
        for (int64_t j = 0; j < k; ++j) CHECK(got[j * 40 + i] == b.at(i, j));
    }
}

TEST_CASE("cuda rows: losses along a line, and weights") {
    for (const int64_t n : {int64_t{1}, int64_t{700}, int64_t{140000}}) {
        Scratch scratch(here);
        const Matrix<float> a(n, 1, 1, 5);
        const auto rows = rows_of(view_of(a, scratch));
        const auto from = normals<double>(n, 11), to = normals<double>(n, 12);
        auto weight = some_roots(n);
        for (const RowLoss loss : {RowLoss::gaussian, RowLoss::logistic, RowLoss::poisson}) {
            auto y = normals<double>(n, 13);
            for (int64_t i = 0; i < n; ++i) {
                if (loss == RowLoss::logistic) y[i] = i % 7 == 0 ? 0.3 : y[i] > 0 ? 1.0 : 0.0;
                if (loss == RowLoss::poisson) y[i] = std::floor(3 * std::fabs(y[i]));
            }
            for (const bool weighted : {false, true}) {
                for (const bool saturated : {false, true}) {
                    RowLine line;
                    line.loss = loss;
                    line.y = rows->vector(y.data(), n);
                    line.weight = weighted ? rows->vector(weight.data(), n) : nullptr;
                    line.from = rows->vector(from.data(), n);
                    line.to = rows->vector(to.data(), n);
                    line.at = 0.7;
                    line.saturated = saturated;
                    double got[2] = {NAN, NAN}, again[2] = {NAN, NAN};
                    rows->along(line, got);
                    shake();
                    rows->along(line, again);
                    CHECK(std::memcmp(got, again, sizeof(got)) == 0);
                    long double sum = 0, slope = 0, size = 0, slopes = 0;
                    for (int64_t i = 0; i < n; ++i) {
                        const long double step = static_cast<long double>(to[i]) - from[i], m = from[i] + line.at * step, v = y[i];
                        const long double p = 1 / (1 + std::exp(-m)), mean = std::exp(m), w = weighted ? weight[i] : 1.0;
                        long double value = (m - v) * (m - v) / 2, least = 0, residual = m - v;
                        if (loss == RowLoss::logistic) {
                            value = std::log1p(std::exp(-std::fabs(m))) + std::fmax(m, 0.0L) - v * m;
                            least = -entropy(v) - entropy(1 - v);
                            residual = p - v;
                        } else if (loss == RowLoss::poisson) {
                            value = mean - v * m;
                            least = v - entropy(v);
                            residual = mean - v;
                        }
                        sum += w * (value - (saturated ? least : 0));
                        slope += w * residual * step;
                        size += w * (std::fabs(value) + mean + std::fabs(v * m) + std::fabs(least) + m * m + v * v);
                        slopes += w * (mean + std::fabs(v) + std::fabs(m) + 1) * std::fabs(step);
                    }
                    CHECK(std::fabs(got[0] - static_cast<double>(sum)) <= static_cast<double>(40 * unit * size));
                    CHECK(std::fabs(got[1] - static_cast<double>(slope)) <= static_cast<double>(40 * unit * slopes));
                }
            }
        }
        auto* const root = rows->vector(n);
        std::vector<double> curvature(from), got(static_cast<std::size_t>(n));
        for (double& x : curvature) x = x * x;
        curvature[0] = n > 1 ? INFINITY : curvature[0];  // of weight 0
        for (const bool weighted : {true, false}) {
            if (!weighted) curvature[0] = 2;
            rows->roots(weighted ? rows->vector(weight.data(), n) : nullptr, rows->vector(curvature.data(), n), root);
            rows->read_vector(root, n, got.data());
            bool right = true;
            for (int64_t i = 0; i < n; ++i) {
                const double w = weighted ? weight[i] : 1.0, truth = w > 0 ? std::sqrt(w * curvature[i]) : 0.0;
                right = right && std::fabs(got[i] - truth) <= 2 * unit * truth;
            }
            CHECK(right);
        }
    }
}

TEST_CASE_TEMPLATE("cuda rows: sketches and their Gram matrices", T, double, float) {
    const int64_t n = 260, d = 11, k = 2;
    Scratch scratch(here);
    const Matrix<T> a(n, d, d + 1, 21);
    const Matrix<float> b(n, k, k, 22);
    const auto rows = rows_of(view_of(a, scratch));
    const auto root = some_roots(n);
    for (const RowSketch s : {RowSketch{132, 8, 5}, RowSketch{40, 8, 6}, RowSketch{4, 4, 7}}) {
        CAPTURE(s.rows);
        const raphson::SparseSign there(s.rows, n, s.nnz, s.seed);
        std::vector<int32_t> row(static_cast<std::size_t>(n * s.nnz));
        std::vector<int8_t> sign(row.size());
        there.entries(0, n, row.data(), sign.data());
        const auto truth_of = [&](auto&& at, int64_t p) {
            std::vector<long double> out(static_cast<std::size_t>(s.rows * p));
            for (int64_t i = 0; i < n; ++i) {
                for (int q = 0; q < s.nnz; ++q) {
                    const long double factor = (sign[i * s.nnz + q] < 0 ? -1 : 1) / std::sqrt(static_cast<long double>(s.nnz));
                    for (int64_t j = 0; j < p; ++j) out[row[i * s.nnz + q] * p + j] += factor * at(i, j);
                }
            }
            return out;
        };
        const auto compare = [](const std::vector<double>& got, const std::vector<long double>& truth, double bound) {
            double worst = 0;
            for (std::size_t i = 0; i < got.size(); ++i) worst = std::fmax(worst, std::fabs(got[i] - static_cast<double>(truth[i])));
            CHECK(worst <= bound);
        };
        std::vector<double> got(static_cast<std::size_t>(s.rows * d), NAN);
        rows->sketch(s, got.data());
        compare(got, truth_of([&](int64_t i, int64_t j) { return static_cast<long double>(a.at(i, j)); }, d), 1e-13);
        got.assign(static_cast<std::size_t>(s.rows * k), NAN);
        rows->sketch(s, view_of(b, scratch), got.data());
        compare(got, truth_of([&](int64_t i, int64_t j) { return static_cast<long double>(b.at(i, j)); }, k), 1e-13);
        for (const int border : {0, 1}) {
            const Truth<T> weighted{a, &root, border};
            const int64_t p = d + border;
            const auto sketched = truth_of([&](int64_t i, int64_t j) { return weighted.at(i, j); }, p);
            std::vector<long double> gram(static_cast<std::size_t>(p * p));
            for (int64_t r = 0; r < s.rows; ++r) {
                for (int64_t i = 0; i < p * p; ++i) gram[i] += sketched[r * p + i / p] * sketched[r * p + i % p];
            }
            got.assign(static_cast<std::size_t>(p * p), NAN);
            rows->sketched_gram(s, rows->vector(root.data(), n), border, got.data());
            compare(got, gram, 1e-11);
            got.assign(static_cast<std::size_t>(p * p), NAN);
            rows->gram(rows->vector(root.data(), n), border, got.data());
            std::vector<double> diagonal(static_cast<std::size_t>(p), NAN);
            rows->squares(rows->vector(root.data(), n), border, diagonal.data());
            for (int64_t i = 0; i < p; ++i) CHECK(std::fabs(diagonal[i] - got[i * p + i]) <= 1e-12 * diagonal[i]);
            for (const int64_t apart : {1, 3, 400}) {
                std::vector<double> thinned(got.size(), NAN), none(got.size(), NAN);
                const double share = rows->thinned_gram(rows->vector(root.data(), n), border, apart, thinned.data());
                auto some = root, rest = root;
                double part = 0, all = 0;
                for (int64_t i = 0; i < n; ++i) {
                    all += root[i] * root[i];
                    if (i % apart == 0) part += root[i] * root[i];
                    (i % apart == 0 ? rest : some)[i] = 0;
                }
                if (part == 0) {  // row 0 weighs nothing
                    CHECK(share == 1);
                    CHECK(same_bits(thinned, got));
                    continue;
                }
                CHECK(std::fabs(share - part / all) <= 1e-14);
                std::vector<double> expected(got.size(), NAN);
                rows->gram(rows->vector(some.data(), n), border, expected.data());
                for (int64_t i = 0; i < p * p; ++i) CHECK(std::fabs(thinned[i] - expected[i]) <= 1e-12 * (1 + std::fabs(expected[i])));
                CHECK(rows->thinned_gram(rows->vector(rest.data(), n), border, apart, none.data()) == 1);
            }
        }
    }
}

TEST_CASE_TEMPLATE("cuda rows: sweeps and predictions", T, double, float) {
    for (const int64_t d : {3, 600}) {
        const int64_t n = 130;
        Scratch scratch(here);
        const Matrix<T> a(n, d, d, 31);
        const auto rows = rows_of(view_of(a, scratch));
        const auto y = normals<double>(n, 32), offset = normals<double>(n, 33);
        for (const int border : {0, 1}) {
            const auto v = normals<double>(d + border, 34, 1 / std::sqrt(static_cast<double>(d)));
            std::vector<long double> t(static_cast<std::size_t>(n)), gradient(v.size());
            long double loss = 0;
            for (int64_t i = 0; i < n; ++i) {
                t[i] = border != 0 ? v[d] : 0.0;
                for (int64_t j = 0; j < d; ++j) t[i] += static_cast<long double>(a.at(i, j)) * v[j];
                for (int64_t j = 0; j < d + border; ++j) gradient[j] += (t[i] - y[i]) * (j < d ? static_cast<long double>(a.at(i, j)) : 1.0L);
                loss += (t[i] - y[i]) * (t[i] - y[i]) / 2;
            }
            std::vector<double> out(v.size() + 1, -5.0);
            double totals[2] = {NAN, NAN};
            RowSweep what;
            what.loss = RowLoss::gaussian;
            what.v = v.data();
            what.border = border;
            what.y = rows->vector(y.data(), n);
            what.out = out.data();
            what.totals = totals;
            rows->sweep(what);
            for (std::size_t j = 0; j < v.size(); ++j) CHECK(std::fabs(out[j] - static_cast<double>(gradient[j])) <= 1e-11);
            CHECK(out.back() == -5.0);  // nothing beyond
            CHECK(std::fabs(totals[0] - static_cast<double>(loss)) <= 1e-12 * static_cast<double>(loss));
            for (const bool with_offset : {false, true}) {
                for (const RowLink link : {RowLink::identity, RowLink::probability, RowLink::exponential, RowLink::positive}) {
                    auto* const to = poisoned<double>(scratch, n + 1);
                    rows->predict(v.data(), border, with_offset ? rows->vector(offset.data(), n) : nullptr, link, to);
                    const auto got = download(to, n + 1);
                    CHECK(std::isnan(got[n]));
                    for (int64_t i = 0; i < n; ++i) {
                        const long double m = t[i] + (with_offset ? offset[i] : 0.0);
                        const long double truth = link == RowLink::identity      ? m
                                                  : link == RowLink::probability ? 1 / (1 + std::exp(-m))
                                                  : link == RowLink::exponential ? std::exp(m)
                                                                                 : (m > 0 ? 1.0L : 0.0L);
                        CHECK(std::fabs(got[i] - static_cast<double>(truth)) <= 1e-12 * (1 + std::fabs(static_cast<double>(truth))));
                    }
                }
            }
        }
    }
}
