// The public class: views checked, the work is Fisher's.
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/threads.h"
#include "ihvp/check.h"
#include "ihvp/fisher.h"
#include "ihvp/vector.h"
#include "raphson/fisher.h"

namespace raphson {

using std::int64_t;

struct FisherInverse::Core {
    Fisher fisher;
};

namespace {

[[noreturn]] void refuse(const char* function, const std::string& what) {
    throw std::invalid_argument(std::string(function) + ": " + what);
}

// Rows of a view of two axes, or a view of one as its only row.
template <class T>
RowMatrix rows_of(const TensorView<T>& x, const char* function, const char* name) {
    const int last = x.ndim - 1;
    if (x.ndim != 1 && x.ndim != 2) refuse(function, std::string(name) + " must have one or two axes");
    const auto at = static_cast<std::size_t>(last);
    if (x.shape[at] > 1 && x.strides[at] != 1) refuse(function, std::string(name) + " must be contiguous along its last axis");
    return {x.data, dtype_of<T>(), x.ndim == 2 ? x.shape[0] : 1, x.shape[at], x.ndim == 2 ? x.strides[0] : x.shape[at]};
}

void require_finite_rows(const RowMatrix& rows, const char* function, const char* name) {
    for (int64_t i = 0; i < rows.rows; ++i) {
        char* const row = static_cast<char*>(const_cast<void*>(rows.data)) + i * rows.stride * itemsize(rows.dtype);
        require_finite({row, rows.dtype, rows.cols, 1}, function, name);
    }
}

template <class T>
void require_vector(const TensorView<T>& x, int64_t length, const char* function, const char* name) {
    if (x.ndim != 1 || x.shape[0] != length || (length > 1 && x.strides[0] != 1)) {
        refuse(function, std::string(name) + " must be contiguous and have " + std::to_string(length) + " entries");
    }
}

template <class T>
Fisher make(const TensorView<const T>& gradients, double damping, int64_t block_size) {
    constexpr const char* name = "FisherInverse";
    if (gradients.ndim != 2 || gradients.shape[0] < 1 || gradients.shape[1] < 1) refuse(name, "gradients must be (m, dim)");
    if (!(damping > 0) || std::isinf(damping)) refuse(name, "damping must be positive and finite");
    if (block_size < 0) refuse(name, "block_size must not be negative");
    const RowMatrix rows = rows_of(gradients, name, "gradients");
    require_finite_rows(rows, name, "gradients");
    Fisher fisher(rows, damping, block_size > 0 ? block_size : rows.cols);
    throw_if_cancelled();
    return fisher;
}

}  // namespace

template <class T>
FisherInverse::FisherInverse(TensorView<const T> gradients, double damping, int64_t block_size)
    : core_(new Core{make(gradients, damping, block_size)}) {}
FisherInverse::~FisherInverse() = default;
FisherInverse::FisherInverse(FisherInverse&&) noexcept = default;
FisherInverse& FisherInverse::operator=(FisherInverse&&) noexcept = default;

int64_t FisherInverse::dim() const { return core_->fisher.dim(); }
int64_t FisherInverse::count() const { return core_->fisher.count(); }
double FisherInverse::logdet() const { return core_->fisher.logdet(); }

template <class T>
void FisherInverse::solve(TensorView<const T> x, TensorView<T> out) const {
    const RowMatrix from = rows_of(x, "solve", "x"), to = rows_of(out, "solve", "out");
    if (from.cols != dim() || to.cols != dim() || from.rows != to.rows || (to.rows > 1 && to.stride != dim())) {
        refuse("solve", "x and out must be (k, " + std::to_string(dim()) + "), out contiguous");
    }
    require_finite_rows(from, "solve", "x");
    core_->fisher.solve(from, to.dtype, const_cast<void*>(to.data));
    throw_if_cancelled();
}

void FisherInverse::diagonal(TensorView<double> out) const {
    require_vector(out, dim(), "diagonal", "out");
    core_->fisher.diagonal(out.data);
    throw_if_cancelled();
}

void FisherInverse::submatrix(TensorView<const int64_t> rows, TensorView<const int64_t> cols, TensorView<double> out) const {
    constexpr const char* name = "submatrix";
    require_vector(rows, rows.size(), name, "rows");
    require_vector(cols, cols.size(), name, "cols");
    for (const auto& indices : {rows, cols}) {
        for (int64_t i = 0; i < indices.size(); ++i) {
            if (indices.data[i] < 0 || indices.data[i] >= dim()) refuse(name, "an index is out of range");
        }
    }
    if (out.ndim != 2 || out.shape[0] != rows.size() || out.shape[1] != cols.size() || out.strides[1] != 1 ||
        out.strides[0] != cols.size()) {
        refuse(name, "out must be contiguous, (rows, cols)");
    }
    core_->fisher.submatrix(rows.data, rows.size(), cols.data, cols.size(), out.data);
    throw_if_cancelled();
}

void FisherInverse::obs_scores(TensorView<const double> w, TensorView<double> scores, int64_t group) const {
    constexpr const char* name = "obs_scores";
    const Fisher& fisher = core_->fisher;
    if (group < 1 || dim() % group != 0 || fisher.block_width() % group != 0) {
        refuse(name, "group must divide dim and block_size");
    }
    require_vector(w, dim(), name, "w");
    require_vector(scores, dim() / group, name, "scores");
    require_finite({const_cast<double*>(w.data), DType::float64, dim(), 1}, name, "w");
    std::vector<double> multipliers(static_cast<std::size_t>(dim()));
    fisher.scores(w.data, group, scores.data, multipliers.data());
    throw_if_cancelled();
}

double FisherInverse::obs_remove(TensorView<const double> w, TensorView<const bool> kept, TensorView<double> change) const {
    constexpr const char* name = "obs_remove";
    require_vector(w, dim(), name, "w");
    require_vector(kept, dim(), name, "kept");
    require_vector(change, dim(), name, "change");
    require_finite({const_cast<double*>(w.data), DType::float64, dim(), 1}, name, "w");
    core_->fisher.remove(w.data, reinterpret_cast<const std::uint8_t*>(kept.data), change.data);
    throw_if_cancelled();
    const double increase = core_->fisher.energy(change.data);
    throw_if_cancelled();
    return increase;
}

#define RAPHSON_FISHER_OF(T)                                                               \
    template FisherInverse::FisherInverse(TensorView<const T>, double, std::int64_t);      \
    template void FisherInverse::solve<T>(TensorView<const T>, TensorView<T>) const;
RAPHSON_FISHER_OF(double)
RAPHSON_FISHER_OF(float)
RAPHSON_FISHER_OF(bfloat16)
#undef RAPHSON_FISHER_OF

}  // namespace raphson
