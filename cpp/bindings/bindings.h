// One registration function a family.
#pragma once

#include <pybind11/pybind11.h>

namespace raphson::bindings {

void bind_runtime(pybind11::module_& m);
void bind_tensor(pybind11::module_& m);
void bind_newton_schulz(pybind11::module_& m);
void bind_newton_schulz_extra(pybind11::module_& m);
void bind_matrix_functions(pybind11::module_& m);
void bind_ot(pybind11::module_& m);
void bind_ot_cuda(pybind11::module_& m);
void bind_sketch(pybind11::module_& m);
void bind_completion(pybind11::module_& m);
void bind_sketch_cuda(pybind11::module_& m);
void bind_fisher(pybind11::module_& m);
void bind_fisher_cuda(pybind11::module_& m);
void bind_ihvp(pybind11::module_& m);
void bind_ihvp_cuda(pybind11::module_& m);
void bind_newton(pybind11::module_& m);
void bind_minimize(pybind11::module_& m);
void bind_rows(pybind11::module_& m);
void bind_rows_cuda(pybind11::module_& m);
void bind_xla(pybind11::module_& m);

}  // namespace raphson::bindings
