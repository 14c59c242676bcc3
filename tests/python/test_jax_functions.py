"""raphson.jax: orthogonalisation, matrix functions and least squares under jit, vmap and grad; the calls from XLA."""

from __future__ import annotations

import contextlib
import copy
import importlib
import pickle
import threading
import warnings

import ml_dtypes
import numpy as np
import pytest

import raphson
from raphson import newton_schulz as ns

BF16 = np.dtype(ml_dtypes.bfloat16)
FUNCTIONS = {
    "sqrt": lambda module, a: module.sqrt(a),
    "inverse": lambda module, a: module.inverse(a),
    "inverse_root": lambda module, a: module.inverse_root(a, 3, ridge=0.1, relative_ridge=0.2),
}


@pytest.fixture(scope="module")
def rj(jax):
    return importlib.import_module("raphson.jax")


@pytest.fixture
def x64(jax):
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with home.enable_x64(True):
        yield


def bits(array) -> bytes:
    return np.asarray(array).tobytes()


def spd(rng, *shape) -> np.ndarray:
    a = rng.standard_normal((*shape, shape[-1]))
    return a @ a.swapaxes(-1, -2) + 0.5 * np.eye(shape[-1])


def close(got, truth, tol) -> bool:
    return bool(np.linalg.norm(np.asarray(got) - truth) <= tol * np.linalg.norm(truth))


def slope(function, point: np.ndarray, direction: np.ndarray) -> float:
    """Central differences of fourth order."""
    h = 1e-3
    ahead, behind = (function(point + s * h * direction) - function(point - s * h * direction) for s in (1, 2))
    return float((8 * ahead - behind) / (12 * h))


# ---- orthogonalize -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (2, 3, 4, 5), (0, 3, 4), (1, 7), (70, 130)], ids=str)
def test_orthogonalize_is_the_same_compiled(jax, rj, x64, rng, dtype, shape):
    values = rng.standard_normal(shape).astype(BF16 if dtype == "bfloat16" else dtype)
    j = jax.numpy.asarray(values)
    truth = raphson.orthogonalize(values, schedule="cans", steps=4)
    for run in (rj.orthogonalize, jax.jit(rj.orthogonalize, static_argnames=("schedule", "steps"))):
        got = run(j, schedule="cans", steps=4)
        assert (got.dtype, got.shape) == (j.dtype, j.shape)
        assert bits(got) == bits(truth)
    assert bits(j) == bits(values)


def test_mapped_axes_are_batch_axes(jax, rj, x64, rng):
    x, s = rng.standard_normal((3, 4, 5, 7)), rng.standard_normal((3, 4, 5, 7))
    truth = raphson.orthogonalize(x)
    assert bits(jax.vmap(jax.vmap(rj.orthogonalize))(x)) == bits(truth)
    inside = jax.vmap(rj.orthogonalize, in_axes=2, out_axes=2)(np.moveaxis(x, 0, 2))
    assert np.array_equal(np.moveaxis(inside, 2, 0), truth)
    bar = jax.vmap(lambda a, c: jax.vjp(rj.orthogonalize, a)[1](c)[0], in_axes=(None, 0))(x[0, 0], s[0])
    assert close(bar, np.stack([ns.orthogonalize_vjp(x[0, 0], one) for one in s[0]]), 1e-14)


def test_the_gradient_is_that_of_the_iteration(jax, rj, x64, rng):
    x, bar = rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 5, 8))
    settings = {"schedule": [[1.5, -0.5, 0.0]] * 3, "normalize": "gram", "method": "gram"}

    def loss(y):
        return (rj.orthogonalize(y, **settings) * bar).sum()

    truth = ns.orthogonalize_vjp(x, bar, schedule=settings["schedule"], normalize="gram")
    for run in (jax.grad(loss), jax.jit(jax.grad(loss))):
        assert close(run(x), truth, 1e-14)
    direction = rng.standard_normal(x.shape)
    assert np.isclose(slope(loss, x, direction), (truth * direction).sum(), rtol=1e-8)
    with pytest.raises(Exception, match=r"differentiated"):
        jax.jacrev(jax.grad(loss))(x)


def test_matrices_of_many_shapes_in_one_call(jax, rj, rng):
    given = [rng.standard_normal(shape).astype(np.float32) for shape in ((4, 6), (3, 5, 2), (1, 1), (80, 40))]
    truth = ns.orthogonalize_many(given, schedule="muon")
    arrays = [jax.numpy.asarray(x) for x in given]
    for run in (rj.orthogonalize_many, jax.jit(rj.orthogonalize_many, static_argnames="schedule")):
        got = run(arrays, schedule="muon")
        assert [bits(a) for a in got] == [bits(t) for t in truth]
    assert rj.orthogonalize_many([]) == []
    program = jax.jit(lambda many: rj.orthogonalize_many(many, schedule="muon")).lower(arrays).as_text()
    assert program.count("raphson_call") == 1
    assert r"\22schedule\22: \22muon\22" in program  # names, not numbers of this process
    mapped = jax.vmap(lambda s: rj.orthogonalize_many([arrays[0], s * arrays[3]]))(np.ones(3, np.float32))
    assert [m.shape for m in mapped] == [(3, 4, 6), (3, 80, 40)]
    assert close(mapped[0][2], raphson.orthogonalize(given[0]), 1e-6)
    gradient = jax.grad(lambda two: sum(y.sum() for y in rj.orthogonalize_many(two)))(arrays)
    assert bits(gradient[1]) == bits(ns.orthogonalize_vjp(given[1], np.ones_like(given[1])))


def test_nan_raises_outside_and_stays_nan_inside(jax, rj, rng):
    values = rng.standard_normal((3, 4, 5)).astype(np.float32)
    values[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"^orthogonalize: x contains NaN"):
        rj.orthogonalize(values)
    got = np.asarray(jax.jit(rj.orthogonalize)(values))
    assert np.isnan(got[1]).any()
    assert bits(got[::2]) == bits(raphson.orthogonalize(values[::2]))
    with pytest.raises(jax.errors.JaxRuntimeError, match="NaN or Inf"):
        jax.jit(lambda x: rj.orthogonalize(x, check_finite=True))(values).block_until_ready()


@pytest.mark.parametrize("transform", ["none", "jit"])
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda rj, x: rj.orthogonalize(x, schedule="nobody"), ValueError, "nobody"),
        (lambda rj, x: rj.orthogonalize(x, steps=-1), ValueError, "steps"),
        (lambda rj, x: rj.orthogonalize(x[0]), ValueError, r"at least 2 axes .*\(3,\)"),
        (lambda rj, x: rj.orthogonalize(x.astype(int)), TypeError, "int"),
        (lambda rj, x: rj.orthogonalize_many([x, x.astype("bfloat16")]), TypeError, "dtype"),
        (lambda rj, x: rj.polar(x, tol=-1.0), ValueError, "tol"),
        (lambda rj, x: rj.polar(x.astype("bfloat16")), TypeError, "bfloat16"),
        (lambda rj, x: rj.sqrt(x[:, :2]), ValueError, r"square.*\(3, 2\)"),
        (lambda rj, x: rj.inverse_root(x, 0), ValueError, "p must"),
        (lambda rj, x: rj.lstsq(x, x[0, :2]), ValueError, r"rows.*\(3, 3\) and \(2,\)"),
        (lambda rj, x: rj.lstsq(x[None], x[0]), ValueError, r"\(1, 3, 3\)"),
        (lambda rj, x: rj.lstsq(x, x[0], ridge=-1.0), ValueError, "ridge"),
        (lambda rj, x: rj.lstsq(x.astype(int), x[0]), TypeError, "A must"),
    ],
)
def test_wrong_use_is_found_when_a_program_is_traced(jax, rj, transform, call, error, text):
    x = jax.numpy.eye(3, dtype=np.float32)
    run = (lambda y: call(rj, y)) if transform == "none" else jax.jit(lambda y: call(rj, y))
    with pytest.raises(error, match=text):
        run(x)


# ---- matrix functions --------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5, 5), (2, 6, 4), (2, 3, 3, 7)], ids=str)
def test_polar_with_its_certificate(jax, rj, x64, rng, shape):
    x = rng.standard_normal(shape)
    truth = raphson.polar(x)
    for run in (rj.polar, jax.jit(rj.polar)):
        got = run(x)
        assert got.side == truth.side
        assert got.residual.shape == shape[:-2]
        for name in ("unitary", "hermitian", "residual", "orthogonality", "converged", "iterations", "cond"):
            assert np.array_equal(getattr(got, name), getattr(truth, name)), name
        assert np.all(got.status == 0)
        assert bool(got.all_converged)
        assert repr(got).startswith(f"PolarResult({shape}, {int(np.prod(shape[:-2]))} of")


@pytest.mark.parametrize("function", list(FUNCTIONS))
def test_functions_with_their_certificates(jax, rj, x64, rng, function):
    a = spd(rng, 3, 5)
    truth = FUNCTIONS[function](ns, a)
    for run in (rj, jax.jit, jax.vmap):
        got = FUNCTIONS[function](rj, a) if run is rj else run(lambda m: FUNCTIONS[function](rj, m))(a)
        for name in ("value", "residual", "converged", "iterations", "cond"):
            assert np.array_equal(getattr(got, name), getattr(truth, name)), name
        assert (got.inverse_sqrt is None) == (function != "sqrt")
        if function == "sqrt":
            assert np.array_equal(got.inverse_sqrt, truth.inverse_sqrt)


def losses(jax, rj, rng):
    weight = rng.standard_normal((4, 4))
    np_ = jax.numpy
    return {
        "polar": lambda a: (
            (rj.polar(a[:, :3]).unitary * weight[:, :3]).sum() + (rj.polar(a[:, :3]).hermitian ** 2).sum()
        ),
        "polar wide": lambda a: np_.sin(rj.polar(a[:3]).unitary).sum() + rj.polar(a[:3]).hermitian[0, 1],
        "sqrt": lambda a: (rj.sqrt(a).value * weight).sum(),
        "inverse_sqrt": lambda a: np_.trace(rj.sqrt(a).inverse_sqrt),  # its cotangent has zeros
        "inverse": lambda a: (rj.inverse(a).value * weight).sum(),
        "inverse_root": lambda a: (rj.inverse_root((a + a.T) / 2, 4, relative_ridge=0.3).value * weight).sum(),
    }


@pytest.mark.parametrize("which", ["polar", "polar wide", "sqrt", "inverse_sqrt", "inverse", "inverse_root"])
def test_gradients_of_matrix_functions(jax, rj, x64, rng, which):
    loss = losses(jax, rj, rng)[which]
    a = spd(rng, 4) + 0.2 * rng.standard_normal((4, 4))
    gradient = jax.grad(loss)(a)
    for _ in range(2):
        direction = rng.standard_normal(a.shape)
        assert np.isclose(slope(loss, a, direction), (gradient * direction).sum(), rtol=1e-7)
    assert close(jax.jit(jax.grad(loss))(a), gradient, 1e-13)
    both = jax.vmap(jax.grad(loss))(np.stack([a, a.T + np.eye(4)]))
    assert close(both[0], gradient, 1e-13)
    assert close(both[1], jax.grad(loss)(a.T + np.eye(4)), 1e-12)


def test_a_bad_matrix_harms_no_other(jax, rj, x64, rng):
    a = spd(rng, 4, 3)
    a[1, 0, 0], a[2] = np.nan, 0.0
    got = jax.jit(rj.inverse)(a)
    assert [rj.STATUSES[k] for k in got.status] == ["converged", "breakdown", "breakdown", "converged"]
    assert np.isnan(got.value[1]).all()
    assert np.array_equal(got.value[::3], ns.inverse(a[::3]).value)
    root = jax.jit(rj.sqrt)(a)
    assert np.array_equal(root.value[2], np.zeros((3, 3)))
    assert np.isnan(root.inverse_sqrt[2]).all()
    gradient = jax.grad(lambda m: rj.polar(m).unitary[:, 0, 1].sum())(a)
    assert [bool(np.isfinite(g).all()) for g in gradient] == [True, False, False, True]
    with pytest.raises(np.linalg.LinAlgError, match=r"^inverse: breakdown"):
        rj.inverse(a[2])
    with pytest.raises(ValueError, match="NaN"):
        rj.inverse(a)
    with pytest.raises(ValueError, match=r"^polar: errors='raise' needs concrete arrays"):
        jax.jit(lambda m: rj.polar(m, errors="raise"))(a)


def test_nothing_warns_inside(jax, rj, rng):
    a = spd(rng, 4).astype(np.float32)
    with pytest.warns(raphson.ConvergenceWarning, match=r"^polar did not converge"):
        outside = rj.polar(a, tol=1e-30, max_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = jax.jit(lambda m: rj.polar(m, tol=1e-30, max_steps=1))(a)
    assert not bool(inside.converged)
    assert int(inside.status) == int(outside.status) == rj.STATUSES.index("max_iter")


# ---- least squares -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [(), (2,)], ids=["vector", "columns"])
def test_lstsq_with_its_certificate(jax, rj, x64, rng, columns):
    A, b = rng.standard_normal((30, 4)), rng.standard_normal((30, *columns))
    truth = raphson.lstsq(A, b, ridge=0.3)
    for run in (rj.lstsq, jax.jit(rj.lstsq, static_argnames="ridge")):
        got = run(A, b, ridge=0.3)
        for name in ("x", "residual_norm", "backward_error", "cond", "rank", "iterations", "converged"):
            assert np.array_equal(getattr(got, name), getattr(truth, name)), name
        assert int(got.status) == 0
        assert "1 of 1 converged" in repr(got)


@pytest.mark.parametrize("rows", [7, 3])
@pytest.mark.parametrize("ridge", [0.0, 0.4])
@pytest.mark.parametrize("columns", [(), (2,)], ids=["vector", "columns"])
def test_gradients_of_lstsq(jax, rj, x64, rng, rows, ridge, columns):
    A, b = rng.standard_normal((rows, 4)), rng.standard_normal((rows, *columns))

    def loss(matrix, right):
        return jax.numpy.sin(rj.lstsq(matrix, right, ridge=ridge).x).sum()

    by_a, by_b = jax.jit(jax.grad(loss, argnums=(0, 1)))(A, b)
    direction = rng.standard_normal(A.shape)
    assert np.isclose(slope(lambda m: loss(m, b), A, direction), (by_a * direction).sum(), rtol=1e-6)
    direction = rng.standard_normal(b.shape)
    assert np.isclose(slope(lambda r: loss(A, r), b, direction), (by_b * direction).sum(), rtol=1e-6)


def test_lstsq_of_mapped_problems(jax, rj, x64, rng):
    A, b = rng.standard_normal((3, 9, 4)), rng.standard_normal((2, 9))
    got = jax.vmap(jax.vmap(rj.lstsq, in_axes=(None, 0)), in_axes=(0, None))(A, b)
    assert got.x.shape == (3, 2, 4)
    assert np.array_equal(got.x[2, 1], raphson.lstsq(A[2], b[1]).x)
    A[1, 0, 0] = np.nan
    got = jax.vmap(rj.lstsq, in_axes=(0, None))(A, b[0])
    assert [rj.STATUSES[k] for k in got.status] == ["converged", "breakdown", "converged"]
    assert np.isnan(got.x[1]).all()
    A[1] = A[0]
    A[1, :, 1] = A[1, :, 0]  # rank 3
    slopes = jax.vmap(jax.grad(lambda m: rj.lstsq(m, b[0]).x.sum()))(A)
    assert [bool(np.isnan(s).all()) for s in slopes] == [False, True, False]


# ---- as parts of programs ----------------------------------------------------------------------------------
def test_inside_of_loops_branches_and_checkpoints(jax, rj, x64, rng):
    x = rng.standard_normal((4, 6))

    def step(carry, _):
        return rj.orthogonalize(carry * 3), rj.polar(carry).residual

    last, residuals = jax.jit(lambda y: jax.lax.scan(step, y, None, length=5))(x)
    truth = x
    for _ in range(5):
        truth = raphson.orthogonalize(truth * 3)
    assert close(last, truth, 1e-13)
    assert residuals.shape == (5,)
    chosen = jax.jit(lambda y: jax.lax.cond(y[0, 0] > 9, lambda z: z, rj.orthogonalize, y))(x)
    assert close(chosen, raphson.orthogonalize(x), 1e-13)
    loss = jax.checkpoint(lambda y: (rj.orthogonalize(y) ** 3).sum())
    assert close(jax.jit(jax.grad(loss))(x), jax.grad(lambda y: (rj.orthogonalize(y) ** 3).sum())(x), 1e-12)


def test_results_are_trees_and_pickle(jax, rj, x64, rng):
    results = [rj.polar(rng.standard_normal((3, 2))), rj.sqrt(spd(rng, 3)), rj.lstsq(spd(rng, 3), np.ones(3))]
    for result in results:
        leaves = jax.tree.leaves(result)
        for other in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), jax.tree.map(lambda y: y, result)):
            assert type(other) is type(result)
            assert [bits(a) for a in jax.tree.leaves(other)] == [bits(a) for a in leaves]
        inside: list[str] = []
        jax.eval_shape(lambda r, into=inside: into.append(repr(r)), result)
        assert "traced" in inside[0]


def test_from_several_threads(jax, rj, rng):
    run = jax.jit(rj.orthogonalize)
    given = [rng.standard_normal((40, 60)).astype(np.float32) for _ in range(4)]
    truth = [bits(raphson.orthogonalize(x)) for x in given]
    wrong = []

    def work(k: int) -> None:
        wrong.extend(k for _ in range(50) if bits(run(given[k])) != truth[k])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- the bridge --------------------------------------------------------------------------------------------
def test_inputs_cannot_be_written_and_errors_keep_their_kind(jax, rj):
    calls = importlib.import_module("raphson.jax._call")
    found = {}

    @calls.serves("test")
    def serve(settings, inputs, outputs):
        found.update(settings=settings, inputs=inputs[0].flags.writeable, outputs=outputs[0].flags.c_contiguous)
        with contextlib.suppress(ValueError):
            inputs[0][...] = 7
        outputs[0][...] = inputs[0]
        if settings["error"]:
            raise {"memory": MemoryError, "value": ValueError, "other": ZeroDivisionError}[settings["error"]](
                "too much"
            )

    def run(x, error=""):
        settings = calls.dump(error=error, pi=np.float64(0.1), table=np.eye(2))
        return jax.jit(lambda y: calls.call("test", settings, calls.like(y.shape, y.dtype), y))(x)

    x = jax.numpy.arange(6.0).reshape(2, 3)
    assert np.array_equal(run(x), x)
    assert found == {
        "settings": {"error": "", "pi": 0.1, "table": [[1.0, 0.0], [0.0, 1.0]]},
        "inputs": False,
        "outputs": True,
    }
    for dtype in ("bool", "int32", "float16", "bfloat16"):
        assert run(x.astype(dtype)).dtype == dtype
    for error, code in (("memory", "RESOURCE_EXHAUSTED"), ("value", "INVALID_ARGUMENT"), ("other", "INTERNAL")):
        with pytest.raises(jax.errors.JaxRuntimeError, match=rf"^{code}: .*too much"):
            run(x, error).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="dtype"):
        run(x.astype("complex64")).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="nobody"):
        jax.jit(lambda y: calls.call("nobody", "{}", calls.like((), "float32"), y))(x).block_until_ready()
    missing = jax.ffi.ffi_call("raphson_call", calls.like((), "float32"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="settings"):
        jax.jit(lambda y: missing(y, call="test"))(x).block_until_ready()
