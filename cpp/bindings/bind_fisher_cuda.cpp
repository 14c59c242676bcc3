// FisherInverse of gradients that lie on a CUDA device: the Python class's other half.
#include <pybind11/numpy.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings.h"
#include "cuda_module.h"
#include "ihvp/device_fisher.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned any_float = float64_float32_bfloat16 | bit(DType::float16) | and_cuda;
using Indices = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

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
    // A vector is a row.
    static CudaView matrix(const Tensor& x) {
        const bool one = x.ndim() == 1;
        return {x.data(), x.dtype(), one ? 1 : x.shape()[0], x.shape()[x.ndim() - 1], one ? x.shape()[0] : x.strides()[0], x.strides()[x.ndim() - 1]};
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
}

}  // namespace raphson::bindings
