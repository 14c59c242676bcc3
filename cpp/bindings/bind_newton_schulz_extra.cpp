#include <cstdint>
#include <optional>

#include "bindings.h"
#include "cuda_module.h"
#include "how.h"
#include "newton_schulz/device_functions.h"
#include "newton_schulz/outliers.h"
#include "newton_schulz/vjp.h"
#include "tensor.h"

namespace raphson::bindings {
namespace {

constexpr unsigned dtypes = float64_float32_bfloat16 | and_cuda;

py::tuple soft_clip_array(py::handle given, double quantile) {
    Tensor x(given, {"soft_clip", "x"}, dtypes);
    check_soft_clip(x.batch(), quantile, x.batch(), x.batch());
    NewArray clipped(x, x.dtype(), x.ndim(), x.shape()), outliers(x, x.dtype(), x.ndim(), x.shape());
    const double flops = soft_clip_flops(x.batch());
    const BatchRef to_clipped = clipped.batch(), to_outliers = outliers.batch();
    if (flops >= worth_releasing || x.cuda() != nullptr) x.hold();
    if (x.cuda() == nullptr) {
        run_released(flops, [&] { soft_clip(x.batch(), quantile, to_clipped, to_outliers); });
    } else {
        const CudaFunctionTable& table = *cuda("soft_clip", "x").functions;
        const py::gil_scoped_release released;
        table.soft_clip(x.batch(), quantile, to_clipped, to_outliers, *x.cuda());
    }
    return py::make_tuple(clipped.finish(), outliers.finish());
}

py::object auon_array(py::handle given, double gamma, int hybrid_steps) {
    Tensor x(given, {"auon", "x"}, dtypes);
    check_auon(x.batch(), gamma, hybrid_steps, x.batch());
    NewArray out(x, x.dtype(), x.ndim(), x.shape());
    const double flops = auon_flops(x.batch(), hybrid_steps);
    const BatchRef to = out.batch();
    if (flops >= worth_releasing || x.cuda() != nullptr) x.hold();
    if (x.cuda() == nullptr) {
        run_released(flops, [&] { auon(x.batch(), gamma, hybrid_steps, to); });
    } else {
        const CudaTable& table = cuda("auon", "x");
        const py::gil_scoped_release released;
        auon_on_device(x.batch(), gamma, hybrid_steps, to, table, *x.cuda());
    }
    return out.finish();
}

py::object vjp_array(py::handle given, py::handle given_cotangent, py::handle schedule, py::handle steps,
                     py::handle normalize, py::handle precision, double eps, py::handle check_finite,
                     py::handle given_out) {
    constexpr const char* name = "orthogonalize_vjp";
    const How how(name, schedule, steps, normalize, py::none(), precision, eps, check_finite);
    Tensor x(given, {name, "x"}, dtypes);
    Tensor cotangent(given_cotangent, {name, "cotangent"}, dtypes);
    require_same(x, cotangent);
    check_orthogonalize_vjp(x.batch(), cotangent.batch(), x.batch(), how.options);

    std::optional<Tensor> out;
    std::optional<NewArray> fresh;
    const auto target = [&] {
        return fresh ? fresh->batch() : out ? out->batch() : given_out.is(given) ? x.batch() : cotangent.batch();
    };
    if (given_out.is_none()) {
        fresh.emplace(x, x.dtype(), x.ndim(), x.shape());
    } else if (given_out.is(given)) {
        x.require_writable({name, "out"});
        require_no_sharing(x, {name, "out"});
        if (!given.is(given_cotangent)) require_no_overlap(x, cotangent);
    } else if (given_out.is(given_cotangent)) {
        cotangent.require_writable({name, "out"});
        require_no_sharing(cotangent, {name, "out"});
        require_no_overlap(cotangent, x);
    } else {
        out.emplace(given_out, Where{name, "out"}, dtypes, Access::write);
        require_same(x, *out);
        out->require_writable({name, "out"});
        require_no_overlap(*out, x);
        require_no_overlap(*out, cotangent);
    }
    check_orthogonalize_vjp(x.batch(), cotangent.batch(), target(), how.options);
    const BatchRef matrix = x.batch();
    const OrthogonalizePlan plan = plan_orthogonalize_vjp(
        matrix.rows(), matrix.cols(), matrix.dtype, how.table(matrix.rows(), matrix.cols()), how.options);
    const double flops = plan.flops * static_cast<double>(matrix.count());
    const CudaPlace* const place = x.cuda();
    if (flops >= worth_releasing || place != nullptr) {
        x.hold();
        cotangent.hold();
        if (out) out->hold();
    }
    if (place == nullptr) {
        run_released(flops, [&] { orthogonalize_vjp(x.batch(), cotangent.batch(), target(), plan, how.options); });
    } else {
        const CudaFunctionTable& table = *cuda(name, "x").functions;
        const BatchRef to = target();
        const py::gil_scoped_release released;
        table.orthogonalize_vjp(x.batch(), cotangent.batch(), to, plan, how.options_on(place), *place);
    }
    return fresh ? fresh->finish() : py::reinterpret_borrow<py::object>(given_out);
}

}  // namespace

void bind_newton_schulz_extra(py::module_& m) {
    m.def("soft_clip", soft_clip_array);
    m.def("auon", auon_array);
    m.def("orthogonalize_vjp", vjp_array);
}

}  // namespace raphson::bindings
