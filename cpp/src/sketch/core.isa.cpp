#include "sketch/core.h"

#include <Eigen/Cholesky>
#include <Eigen/QR>

#include <algorithm>
#include <cmath>

#include "isa.h"

RAPHSON_ISA_BEGIN
namespace {

using std::int64_t;
using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Columns = Eigen::MatrixXd;
using Triangle = Eigen::Map<const Rows, 0, Eigen::OuterStride<>>;

Triangle triangle(const double* r, int64_t ld, int64_t n) { return Triangle(r, n, n, Eigen::OuterStride<>(ld)); }

void qr(double* a, int64_t rows, int64_t n, double* r) {
    Columns work = Eigen::Map<const Rows>(a, rows, n);
    const Eigen::HouseholderQR<Eigen::Ref<Columns>> factor(work);
    Eigen::Map<Rows> to(r, n, n);
    to.setZero();
    const int64_t top = std::min(rows, n);
    to.topRows(top) = work.topRows(top).template triangularView<Eigen::Upper>();
}

// One-sided Jacobi (Hestenes): columns are turned until they are orthogonal. Accurate for small singular values too, and
// plain to compile, where Eigen's two took half a minute an instruction set; 7 n³ flops a sweep, some eight sweeps, and only
// where the rank is cut.
void turn(double* x, double* y, int64_t n, double cosine, double sine) {
    for (int64_t i = 0; i < n; ++i) {
        const double left = x[i], right = y[i];
        x[i] = cosine * left - sine * right;
        y[i] = sine * left + cosine * right;
    }
}

// a (n columns of n) becomes u·diag(s), s descending; v, where it is not null, the right singular vectors by columns.
void jacobi(Columns& a, Eigen::VectorXd& s, Columns* v) {
    const int64_t n = a.cols();
    if (v != nullptr) *v = Columns::Identity(n, n);
    constexpr int most_sweeps = 40;
    constexpr double small = 1e-15;
    for (int sweep = 0; sweep < most_sweeps; ++sweep) {
        bool turned = false;
        for (int64_t p = 0; p + 1 < n; ++p) {
            for (int64_t q = p + 1; q < n; ++q) {
                const double pp = a.col(p).squaredNorm(), qq = a.col(q).squaredNorm(), pq = a.col(p).dot(a.col(q));
                if (!(std::fabs(pq) > small * std::sqrt(pp) * std::sqrt(qq))) continue;
                turned = true;
                const double zeta = (qq - pp) / (2 * pq);
                const double t = (zeta >= 0 ? 1.0 : -1.0) / (std::fabs(zeta) + std::hypot(1.0, zeta));
                const double cosine = 1 / std::hypot(1.0, t), sine = cosine * t;
                turn(a.col(p).data(), a.col(q).data(), n, cosine, sine);
                if (v != nullptr) turn(v->col(p).data(), v->col(q).data(), n, cosine, sine);
            }
        }
        if (!turned) break;
    }
    s = a.colwise().norm();
    for (int64_t i = 0; i < n; ++i) {  // by selection: few columns
        int64_t top = i;
        for (int64_t j = i + 1; j < n; ++j) top = s[j] > s[top] ? j : top;
        if (top == i) continue;
        std::swap(s[i], s[top]);
        a.col(i).swap(a.col(top));
        if (v != nullptr) v->col(i).swap(v->col(top));
    }
}

void svd(const double* r, int64_t ld, int64_t n, double* u, double* s, double* v) {
    Columns a = triangle(r, ld, n), right;
    Eigen::VectorXd values;
    jacobi(a, values, &right);
    for (int64_t j = 0; j < n; ++j) {
        if (values[j] > 0) a.col(j) /= values[j];  // columns of zeros stay: nobody reads u beyond the rank
    }
    Eigen::Map<Columns>(u, n, n) = a;
    Eigen::Map<Columns>(v, n, n) = right;
    Eigen::Map<Eigen::VectorXd>(s, n) = values;
}

void solve(const double* r, int64_t ld, int64_t n, bool transposed, double* x) {
    Eigen::Map<Eigen::VectorXd> to(x, n);
    const Triangle upper = triangle(r, ld, n);
    if (transposed) {
        upper.triangularView<Eigen::Upper>().transpose().solveInPlace(to);
    } else {
        upper.triangularView<Eigen::Upper>().solveInPlace(to);
    }
}

constexpr int64_t exact_limit = 64;
constexpr int power_steps = 40;

void extremes(const double* r, int64_t ld, int64_t n, double* largest, double* smallest) {
    *largest = *smallest = 0;
    if (n == 0) return;
    const Triangle upper = triangle(r, ld, n);
    if (n <= exact_limit) {
        Columns full = upper.triangularView<Eigen::Upper>();
        Eigen::VectorXd values;
        jacobi(full, values, nullptr);
        *largest = values[0];
        *smallest = values[n - 1];
        return;
    }
    Eigen::VectorXd x(n);
    for (int64_t j = 0; j < n; ++j) x[j] = 1 + 0.5 * std::sin(static_cast<double>(j));  // no direction left out
    x.normalize();
    for (int step = 0; step < power_steps; ++step) {
        Eigen::VectorXd y = upper.triangularView<Eigen::Upper>() * x;
        *largest = y.norm();
        x = upper.triangularView<Eigen::Upper>().transpose() * y;
        const double norm = x.norm();
        if (!(norm > 0) || !std::isfinite(norm)) break;
        x /= norm;
    }
    if (!(upper.diagonal().array().abs().minCoeff() > 0)) return;
    for (int64_t j = 0; j < n; ++j) x[j] = 1 + 0.5 * std::cos(static_cast<double>(j));
    x.normalize();
    for (int step = 0; step < power_steps; ++step) {
        upper.triangularView<Eigen::Upper>().transpose().solveInPlace(x);
        const double half = x.norm();
        if (!std::isfinite(half)) {
            *smallest = 0;
            return;
        }
        *smallest = 1 / half;
        upper.triangularView<Eigen::Upper>().solveInPlace(x);
        const double norm = x.norm();
        if (!std::isfinite(norm)) {
            *smallest = 0;
            return;
        }
        x /= norm;
    }
}

void shifted(const double* r, int64_t ld, int64_t n, double shift, double* out) {
    const Columns full = triangle(r, ld, n).triangularView<Eigen::Upper>();
    Eigen::Map<Rows> to(out, n, n);
    to.setZero();
    if (shift > 1e-12 * full.squaredNorm()) {  // squaring does no harm: the shift is far above its rounding
        Columns gram = Columns::Zero(n, n);
        gram.selfadjointView<Eigen::Upper>().rankUpdate(full.transpose());
        gram.diagonal().array() += shift;
        const Eigen::LLT<Eigen::Ref<Columns>, Eigen::Upper> factor(gram);
        if (factor.info() == Eigen::Success) {
            to.triangularView<Eigen::Upper>() = gram;
            return;
        }
    }
    Columns stacked(2 * n, n);
    stacked.topRows(n) = full;
    stacked.bottomRows(n) = Columns::Identity(n, n) * std::sqrt(shift);
    const Eigen::HouseholderQR<Eigen::Ref<Columns>> factor(stacked);
    to = stacked.topRows(n).triangularView<Eigen::Upper>();
}

int64_t wide(double* a, int64_t rows, int64_t n, const double* b, int64_t k, double rcond, double* x, double* largest,
             double* smallest) {
    Eigen::Map<Columns> transposed(a, n, rows);
    const Eigen::HouseholderQR<Eigen::Ref<Columns>> factor(transposed);
    const Rows upper = transposed.topRows(rows).triangularView<Eigen::Upper>();
    extremes(upper.data(), rows, rows, largest, smallest);
    Columns y = Eigen::Map<const Rows>(b, rows, k);
    int64_t rank = rows;
    if (*smallest > rcond * *largest) {
        upper.triangularView<Eigen::Upper>().transpose().solveInPlace(y);
    } else {
        Columns left = upper, right;
        Eigen::VectorXd values;
        jacobi(left, values, &right);
        rank = 0;
        while (rank < rows && values[rank] > rcond * values[0]) ++rank;
        if (rank > 0) {
            Columns inside = right.leftCols(rank).transpose() * y;
            for (int64_t i = 0; i < rank; ++i) inside.row(i) /= values[i] * values[i];  // left holds u·s
            y = left.leftCols(rank) * inside;
            *largest = values[0];
            *smallest = values[rank - 1];
        } else {
            y.setZero();
        }
    }
    Columns full = Columns::Zero(n, k);
    full.topRows(rows) = y;
    full.applyOnTheLeft(factor.householderQ());
    Eigen::Map<Rows>(x, n, k) = full;
    return rank;
}

bool cholesky(double* g, int64_t n) {
    Eigen::Map<Columns> matrix(g, n, n);
    const Eigen::LLT<Eigen::Ref<Columns>> factor(matrix);
    return factor.info() == Eigen::Success;
}

void cholesky_solve(const double* factor, int64_t n, double* x) {
    const Eigen::Map<const Columns> matrix(factor, n, n);
    Eigen::Map<Eigen::VectorXd> to(x, n);
    matrix.triangularView<Eigen::Lower>().solveInPlace(to);
    matrix.triangularView<Eigen::Lower>().adjoint().solveInPlace(to);
}

}  // namespace

extern const SketchCoreTable sketch_core_table;
const SketchCoreTable sketch_core_table{qr, svd, solve, extremes, shifted, wide, cholesky, cholesky_solve};

RAPHSON_ISA_END
