// raphson._core: every family registers itself.
#include <pybind11/pybind11.h>

#include "bindings.h"

PYBIND11_MODULE(_core, m) {
    m.doc() = "Compiled core of raphson; use the raphson package.";
    raphson::bindings::bind_runtime(m);
    raphson::bindings::bind_tensor(m);
    raphson::bindings::bind_newton_schulz(m);
    raphson::bindings::bind_newton_schulz_extra(m);
    raphson::bindings::bind_matrix_functions(m);
    raphson::bindings::bind_fisher(m);
    raphson::bindings::bind_fisher_cuda(m);
    raphson::bindings::bind_ihvp(m);
    raphson::bindings::bind_ihvp_cuda(m);
    raphson::bindings::bind_ot(m);
    raphson::bindings::bind_ot_cuda(m);
    raphson::bindings::bind_rows(m);
    raphson::bindings::bind_rows_cuda(m);
    raphson::bindings::bind_sketch(m);
    raphson::bindings::bind_sketch_cuda(m);
    raphson::bindings::bind_completion(m);
    raphson::bindings::bind_newton(m);
    raphson::bindings::bind_minimize(m);
    raphson::bindings::bind_xla(m);
}
