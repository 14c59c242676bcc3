#include <chrono>
#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "ot/solve.h"
#include "table.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {
using Vector = py::array_t<double, py::array::c_style>;

py::dict try_solve(const Vector& a, const Vector& b, const py::array& cost, double reg, double tol, int method, int max_iter) {
    TransportProblem p;
    p.n = a.size(); p.m = b.size();
    p.a.assign(a.data(), a.data() + p.n); p.b.assign(b.data(), b.data() + p.m);
    p.cost.dense = {cost.itemsize() == 8 ? DType::float64 : DType::float32, cost.data(), p.m, p.n, p.m};
    p.reg = reg;
    p.lowest_cost = 0; 
    for (std::int64_t k = 0; k < p.n * p.m; ++k) {
        double c = cost.itemsize() == 8 ? static_cast<const double*>(cost.data())[k] : static_cast<const float*>(cost.data())[k];
        p.highest_cost = std::max(p.highest_cost, c); 
    }
    SolveOptions o; o.tol = tol; o.method = static_cast<TransportMethod>(method); o.max_iter = max_iter;
    TransportSolution s = solve_transport(p, o);
    py::dict d;
    d["f"] = s.f; d["g"] = s.g; d["status"] = to_string(s.status); d["error"] = s.marginal_error; d["iterations"] = s.iterations;
    d["newton"] = s.newton_iterations; d["cg"] = s.cg_iterations; d["cost"] = s.cost;
    py::list h;
    for (auto& r : s.history) h.append(py::make_tuple(to_string(r.stage), r.error, r.reg, r.seconds));
    d["history"] = h;
    return d;
}
double time_pass(int which, const py::array_t<double>& cost, double reg, int repeats) {
    const std::int64_t n = cost.shape(0), m = cost.shape(1);
    std::vector<double> psi(m + 8, 0), u(n, 0), a(n, 1.0 / double(n)), rs(n), col(m + 8), scratch(5 * (m + 8));
    (void)which;
    LogBlock b{}; b.cost = {DType::float64, cost.data(), m, n, m}; b.inverse_reg = 1 / reg; b.psi = psi.data(); b.mass = a.data(); b.exponent = 1; b.update = true;
    b.u = u.data(); b.row_sum = rs.data(); b.columns = col.data(); b.scratch = scratch.data();
    auto t = std::chrono::steady_clock::now();
    for (int r = 0; r < repeats; ++r) kernels().ot.log_sweep(b);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count() / repeats;
}
}  // namespace
void bind_ot(py::module_& m) {
    m.def("_ot_try", try_solve);
    m.def("_ot_time", time_pass);
    m.def("_ot_exp", [](const py::array_t<double, py::array::c_style | py::array::forcecast>& x) {
        py::array_t<double> out(x.size());
        kernels().ot.exp2(x.data(), x.size(), out.mutable_data());
        return out;
    });
}
}
