#include "rows_cuda.h"

#include "bindings.h"
#include "cuda_module.h"

namespace raphson::bindings {

PyCudaRows::Here::Here(const PyCudaRows& self)
    : array_(self.array_, {self.function_.c_str(), self.name_.c_str()}, float64_float32_cuda),
      table_(cuda(self.function_.c_str(), self.name_.c_str())) {
    require_real(array_);
    if (array_.cuda() == nullptr) throw py::type_error(self.function_ + ": " + self.name_ + " has left its CUDA device");
    if (array_.ndim() != 2) throw py::value_error(self.function_ + ": " + self.name_ + " must have two axes, got shape " + array_.shape_text());
    array_.hold();
}

void PyCudaRows::Here::hold(Tensor& beside) const {
    require_real(beside);
    require_same(array_, beside, false);
    beside.hold();
}

std::unique_ptr<CudaRows> PyCudaRows::Here::rows() const { return std::unique_ptr<CudaRows>(table_.make_rows(view(array_), *array_.cuda())); }

void bind_rows_cuda(py::module_& m) { py::class_<PyCudaRows>(m, "CudaRows").def(py::init<std::string, std::string, py::object>()); }

}  // namespace raphson::bindings
