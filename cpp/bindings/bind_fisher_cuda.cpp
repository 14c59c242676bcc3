// FisherInverse of gradients that lie on a CUDA device: the Python class's other half. Then its relatives, whose shapes the
// Python wrappers check.
#include <pybind11/numpy.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "cuda_views.h"
#include "ihvp/device_fisher.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned any_float = float64_float32_bfloat16 | bit(DType::float16) | and_cuda;
using Indices = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

// A vector is a row.
CudaView matrix(const Tensor& x) {
    const bool one = x.ndim() == 1;
    const std::int64_t rows = one ? 1 : x.shape()[0], columns = x.shape()[x.ndim() - 1];
    return {x.data(), x.dtype(), rows, columns, one ? columns : x.strides()[0], x.strides()[x.ndim() - 1]};
}

class PyCudaFisher {
public:
    PyCudaFisher(py::object grads, double damping, std::int64_t block_size) : array_(std::move(grads)), held_(array_, where, any_float) {
        const CudaTable& table = cuda(where.function, where.argument);
        require_cuda(held_);
        if (held_.ndim() != 2) throw py::value_error("FisherInverse: grads must have two axes, got " + held_.shape_text());
        if (held_.size() == 0) throw py::value_error("FisherInverse: grads must have rows and columns, got shape " + held_.shape_text());
        held_.hold();
        const py::gil_scoped_release released;
        fisher_.reset(table.make_fisher(matrix(held_), damping, block_size, *held_.cuda()));
    }

    py::tuple shape() const { return py::make_tuple(count(), dim()); }
    py::object solve(py::handle given) {
        Tensor x(given, {"solve", "x"}, any_float);
        require_same(held_, x, false);
        if ((x.ndim() != 1 && x.ndim() != 2) || x.shape()[x.ndim() - 1] != dim()) {
            throw py::value_error("solve: x must have shape (" + std::to_string(dim()) + ",) or (k, " + std::to_string(dim()) + "), got " +
                                  x.shape_text());
        }
        x.hold();
        NewArray fresh(x, x.dtype(), x.ndim(), x.shape());
        const CudaView from = matrix(x), to{fresh.batch().data, x.dtype(), from.rows, dim(), dim(), 1};
        locked([&] { fisher_->solve(from, to, *x.cuda()); });
        return fresh.finish();
    }
    py::object diagonal() {
        return fresh({dim()}, [&](double* to, CudaPlace place) { fisher_->diagonal(to, place); });
    }
    py::object scores(py::handle given, std::int64_t group) {
        Tensor w(given, {"obs_scores", "w"}, any_float);
        check_weights(w);
        const std::int64_t shape[] = {dim() / group};
        NewArray fresh(w, DType::float64, 1, shape);
        auto* const to = static_cast<double*>(fresh.batch().data);
        locked([&] { fisher_->scores(matrix(w), group, to, *w.cuda()); });
        return fresh.finish();
    }
    py::object submatrix(const Indices& rows, const Indices& cols) {
        const std::int64_t *r = rows.data(), *c = cols.data(), nr = rows.size(), nc = cols.size();
        return fresh({nr, nc}, [&](double* to, CudaPlace place) { fisher_->submatrix(r, nr, c, nc, to, place); });
    }
    double element(std::int64_t i, std::int64_t j) {
        const CudaPlace place = *Tensor(array_, where, any_float).cuda();
        return locked([&] { return fisher_->element(i, j, place); });
    }
    double logdet() {
        const CudaPlace place = *Tensor(array_, where, any_float).cuda();
        return locked([&] { return fisher_->logdet(place); });
    }
    // (weights, mask, loss_increase)
    py::tuple prune(py::handle given, std::int64_t group, std::int64_t removed, bool joint) {
        Tensor w(given, {"obs_prune", "w"}, any_float);
        check_weights(w);
        NewArray fresh(w, w.dtype(), 1, w.shape());
        py::array_t<bool> mask(static_cast<py::ssize_t>(dim()));
        auto* const kept = reinterpret_cast<std::uint8_t*>(mask.mutable_data());
        const CudaView to{fresh.batch().data, w.dtype(), dim(), 1, 1, 1};
        const double loss = locked([&] { return fisher_->prune(matrix(w), group, removed, joint, to, kept, *w.cuda()); });
        return py::make_tuple(fresh.finish(), mask, loss);
    }

private:
    static constexpr Where where{"FisherInverse", "grads"};

    std::int64_t count() const { return held_.shape()[0]; }
    std::int64_t dim() const { return held_.shape()[1]; }
    static void require_cuda(const Tensor& x) {
        if (x.cuda() == nullptr) throw py::type_error(std::string(x.where().function) + ": " + x.where().argument + " must be on a CUDA device");
    }
    void check_weights(Tensor& w) const {
        require_same(held_, w, false);
        if (w.ndim() != 1 || w.shape()[0] != dim()) {
            const Where here = w.where();
            throw py::value_error(std::string(here.function) + ": w must have shape (" + std::to_string(dim()) + ",), got " + w.shape_text());
        }
        w.hold();
    }
    // float64, in the framework of the gradients and on its stream of now.
    template <class Work>
    py::object fresh(const std::vector<std::int64_t>& shape, Work&& work) {
        const Tensor now(array_, where, any_float);
        NewArray made(now, DType::float64, static_cast<int>(shape.size()), shape.data());
        auto* const to = static_cast<double*>(made.batch().data);
        locked([&] { work(to, *now.cuda()); });
        return made.finish();
    }
    // Whoever waits for another call lets go of the GIL.
    template <class Work>
    std::invoke_result_t<Work&> locked(Work&& work) {
        const py::gil_scoped_release released;
        const std::lock_guard<std::mutex> held(mutex_);
        return work();
    }

    std::mutex mutex_;
    py::object array_;
    Tensor held_;
    std::unique_ptr<CudaFisher> fisher_;
};

py::object influence(py::handle train, py::handle query, double damping, std::int64_t block_size) {
    constexpr const char* name = "influence_scores";
    Tensor g(train, {name, "train_grads"}, any_float), x(query, {name, "query_grads"}, any_float);
    require_same(g, x);
    g.hold();
    x.hold();
    const CudaTable& table = cuda(name, "train_grads");
    const std::int64_t shape[] = {x.shape()[0], g.shape()[0]};
    NewArray fresh(g, DType::float64, 2, shape);
    auto* const to = static_cast<double*>(fresh.batch().data);
    {
        const CudaPlace place = *g.cuda();
        const py::gil_scoped_release released;
        const std::unique_ptr<CudaFisher> fisher(table.make_fisher(matrix(g), damping, block_size, place));
        fisher->influence(matrix(x), to, place);
    }
    return fresh.finish();
}

// (b, rows, columns), (b, columns) or (b,): the axes that are not there have one entry.
CudaStack stack(const Tensor& x) {
    const int n = x.ndim();
    const std::int64_t *shape = x.shape(), *strides = x.strides();
    const std::int64_t rows = n == 3 ? shape[1] : 1, columns = n > 1 ? shape[n - 1] : 1;
    return {{x.data(), x.dtype(), rows, columns, n == 3 ? strides[1] : 0, n > 1 ? strides[n - 1] : 1}, shape[0], strides[0]};
}

// hessian: None is the identity.
py::object gauss_newton(py::handle given, py::handle residual, py::handle hessian, bool root, double damping) {
    constexpr const char* name = "gauss_newton_step";
    Tensor jac(given, {name, "jac"}, any_float), r(residual, {name, "residual"}, any_float);
    require_same(jac, r, false);
    jac.hold();
    r.hold();
    std::optional<Tensor> q;
    std::optional<CudaStack> hessians;
    if (!hessian.is_none()) {
        q.emplace(hessian, Where{name, root ? "loss_hessian_sqrt" : "loss_hessian"}, any_float);
        require_same(jac, *q, false);
        q->hold();
        hessians = stack(*q);
    }
    const CudaTable& table = cuda(name, "jac");
    const std::int64_t d = jac.shape()[jac.ndim() - 1];
    NewArray fresh(jac, jac.dtype(), 1, &d);
    const CudaView out{fresh.batch().data, jac.dtype(), d, 1, 1, 1};
    {
        const py::gil_scoped_release released;
        table.relatives->gauss_newton(stack(jac), view(r), hessians ? &*hessians : nullptr, root, damping, out, *jac.cuda());
    }
    return fresh.finish();
}

}  // namespace

void bind_fisher_cuda(py::module_& m) {
    py::class_<PyCudaFisher>(m, "CudaFisherInverse")
        .def(py::init<py::object, double, std::int64_t>())
        .def_property_readonly("shape", &PyCudaFisher::shape)
        .def("solve", &PyCudaFisher::solve)
        .def("diagonal", &PyCudaFisher::diagonal)
        .def("scores", &PyCudaFisher::scores)
        .def("submatrix", &PyCudaFisher::submatrix)
        .def("element", &PyCudaFisher::element)
        .def("logdet", &PyCudaFisher::logdet)
        .def("prune", &PyCudaFisher::prune);
    m.def("cuda_influence", influence);
    m.def("cuda_gauss_newton", gauss_newton);
}

}  // namespace raphson::bindings
