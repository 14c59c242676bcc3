"""What holds for every function: one framework, one dtype, no silent NaN, no overlap, one warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import raphson
import raphson._transport_vjp
from raphson import ihvp, newton, newton_schulz, ot, sketch

A = np.random.default_rng(1).standard_normal((30, 3))
B = A @ np.ones(3)
LABELS = (B > 0) * 1.0
COST = np.random.default_rng(2).random((5, 6))
SKETCH = sketch.SparseSign(8, 30)
G = np.random.default_rng(3).standard_normal((4, 6))
W = np.random.default_rng(4).standard_normal(6)


class Frame:
    """An object with nothing but __array__, as a DataFrame is to us."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def problem():
    """exp, smooth, with an irrational minimiser: nothing cancels to zero."""
    return (
        lambda v: float(np.exp(v).sum() - np.pi * v.sum() + 0.3 * v @ v),
        lambda v: np.exp(v) - np.pi + 0.6 * v,
        lambda v: np.diag(np.exp(v)) + 0.6 * np.eye(len(v)),
    )


# ---- one framework, one dtype ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda T: raphson.lstsq(T(A), B), "A comes from torch, b from numpy"),
        (lambda T: raphson.lstsq(A, T(B)), "A comes from numpy, b from torch"),
        (lambda T: raphson.fit_glm(T(A), LABELS), "X comes from torch, y from numpy"),
        (lambda T: raphson.fit_glm(A, T(LABELS)), "X comes from numpy, y from torch"),
        (lambda T: raphson.fit_glm(A, LABELS, sample_weight=T(np.ones(30))), "sample_weight from torch"),
        (lambda T: raphson.fit_glm(A, LABELS, init=T(np.ones(4))), "init from torch"),
        (lambda T: newton.solve_kkt(T(np.eye(3)), None, np.ones(3)), "B comes from torch, rhs from numpy"),
        (lambda T: newton.solve_kkt(np.eye(3), T(np.ones((1, 3))), np.ones(4)), "G from torch"),
        (lambda T: SKETCH.apply(T(A), weights=np.ones(30)), "A comes from torch, weights from numpy"),
        (lambda T: SKETCH.apply(T(A), out=np.ones((8, 3))), "torch"),
        (lambda T: raphson.PointCloud(T(A), A), "torch"),
        (lambda T: ihvp.rank_one_inverse_update(np.eye(6), T(W)), "inv comes from numpy, v from torch"),
        (lambda T: ihvp.gauss_newton_step(T(G), np.ones(4), damping=0.1), "jac comes from torch, residual from numpy"),
    ],
)
def test_frameworks_do_not_mix(call, names):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=names):
        call(torch.from_numpy)


@pytest.mark.parametrize(
    "call",
    [
        lambda: raphson.PointCloud(A, A.astype(np.float32)),
        lambda: ot.sinkhorn_divergence(A, A.astype(np.float32), 0.1),
        lambda: SKETCH.apply(A, out=np.empty((8, 3), np.float32)),
        lambda: SKETCH.apply(lambda: [A[:9], A[9:].astype(np.float32)]),
        lambda: raphson.lstsq(lambda: [A[:9], A[9:].astype(np.float32)], B),
        lambda: raphson.fit_glm(lambda: [A[:9], A[9:].astype(np.float32)], LABELS),
        lambda: raphson.GradientWindow(6, 3, 0.1).solve_recent(np.array([1 + 2j])),
        lambda: raphson.GradientWindow(6, 3, 0.1).solve_recent(["1.0"]),
    ],
)
def test_dtypes_do_not_mix(call):
    with pytest.raises(TypeError):
        call()


def test_results_come_in_the_framework_of_what_is_asked():
    torch = pytest.importorskip("torch")
    ours = raphson.fit_glm(A, LABELS, ridge=0.1)
    theirs = raphson.fit_glm(torch.from_numpy(A), torch.from_numpy(LABELS), ridge=0.1)
    assert isinstance(theirs.coef, torch.Tensor)
    assert isinstance(theirs.predict(A), np.ndarray)
    assert isinstance(ours.predict(torch.from_numpy(A)), torch.Tensor)
    np.testing.assert_array_equal(theirs.predict(A), ours.predict(torch.from_numpy(A)).numpy())
    out = torch.empty((8, 3), dtype=torch.float64)
    assert SKETCH.apply(torch.from_numpy(A), out=out) is out
    np.testing.assert_array_equal(out.numpy(), SKETCH @ A)


def test_weights_and_offsets_may_be_counts():
    plain = raphson.fit_glm(A, LABELS, sample_weight=np.full(30, 2.0), ridge=0.1)
    for counts in ([2] * 30, np.full(30, 2), np.full(30, 2, np.int8)):
        np.testing.assert_array_equal(raphson.fit_glm(A, LABELS, sample_weight=counts, ridge=0.1).coef, plain.coef)
    np.testing.assert_array_equal(plain.predict(A, offset=np.ones(30, int)), plain.predict(A, offset=np.ones(30)))


@pytest.mark.parametrize("wrap", [np.ndarray.tolist, Frame], ids=["list", "__array__"])
def test_lists_and_frames_are_arrays(wrap):
    inverse, cube = raphson.FisherInverse(G, 0.1), np.stack([G, -G], 1)
    pairs = [
        (ihvp.influence_scores(wrap(G), wrap(G), 0.1), ihvp.influence_scores(G, G, 0.1)),
        (
            ihvp.gauss_newton_step(wrap(G), wrap(np.ones(4)), damping=0.1),
            ihvp.gauss_newton_step(G, np.ones(4), damping=0.1),
        ),
        (
            ihvp.gauss_newton_step(wrap(cube), wrap(np.ones((4, 2))), damping=0.1),
            ihvp.gauss_newton_step(cube, np.ones((4, 2)), damping=0.1),
        ),
        (inverse.obs_scores(wrap(W)), inverse.obs_scores(W)),
        (inverse.obs_prune(wrap(W), count=2).weights, inverse.obs_prune(W, count=2).weights),
    ]
    for given, plain in pairs:
        assert isinstance(given, np.ndarray)
        np.testing.assert_array_equal(given, plain)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8"])
def test_windows_take_lists(dtype):
    listed, window = (raphson.GradientWindow(6, 3, 0.1, dtype=dtype) for _ in range(2))
    given = W.astype(np.float64 if dtype == "float64" else np.float32)
    listed.push(W.tolist())
    window.push(given)
    np.testing.assert_array_equal(listed.precondition(W.tolist()), window.precondition(given))
    np.testing.assert_array_equal(listed.solve(W.tolist()), window.solve(given))
    with pytest.raises(TypeError):
        listed.push([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_of_torch(dtype):
    torch = pytest.importorskip("torch")
    g, w, one = (torch.from_numpy(x).to(getattr(torch, dtype)) for x in (G, W, np.ones(4)))
    wide, v = g.double().numpy(), w.double().numpy()
    inverse, truth = raphson.FisherInverse(g, 0.1), raphson.FisherInverse(wide, 0.1)
    np.testing.assert_allclose(inverse.obs_scores(w).numpy(), truth.obs_scores(v), rtol=1e-12)
    pruned = inverse.obs_prune(w, count=2)
    assert pruned.weights.dtype == g.dtype
    np.testing.assert_array_equal(pruned.mask, truth.obs_prune(v, count=2).mask)
    expected = torch.from_numpy(truth.obs_prune(v, count=2).weights).to(g.dtype)
    torch.testing.assert_close(pruned.weights, expected, rtol=0.01, atol=1e-3)
    step = ihvp.gauss_newton_step(g, one, damping=0.1)
    assert step.dtype == g.dtype
    expected = torch.from_numpy(ihvp.gauss_newton_step(wide, np.ones(4), damping=0.1)).to(g.dtype)
    torch.testing.assert_close(step, expected, rtol=0.01, atol=1e-3)
    updated = ihvp.rank_one_inverse_update(torch.eye(6).to(g.dtype), w)
    expected = torch.from_numpy(ihvp.rank_one_inverse_update(np.eye(6), v)).to(g.dtype)
    torch.testing.assert_close(updated, expected, rtol=0.01, atol=1e-3)
    scores = ihvp.influence_scores(lambda: [g[:3], g[3:]], g, 0.1)
    np.testing.assert_allclose(scores, ihvp.influence_scores(wide, wide, 0.1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda g, w: raphson.FisherInverse(G, 0.1).obs_scores(w),
        lambda g, w: raphson.FisherInverse(G, 0.1).obs_prune(w, count=2),
        lambda g, w: ihvp.gauss_newton_step(g.detach(), w[:4], damping=0.1),
        lambda g, w: ihvp.rank_one_inverse_update(np.eye(6), w),
        lambda g, w: ihvp.rank_one_inverse_update(g.detach().new_ones(6, 6), w),
        lambda g, w: ihvp.influence_scores(lambda: [g], g.detach(), 0.1),
        lambda g, w: raphson.GradientWindow(6, 3, 0.1).solve_recent(w),
    ],
)
def test_tensors_that_require_grad(call):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError):
        call(torch.from_numpy(G).requires_grad_(), torch.from_numpy(W).requires_grad_())


def test_influence_by_blocks_is_influence():
    g, q = np.random.default_rng(5).standard_normal((11, 9)), G[:, [0, 1, 2, 3, 4, 5, 0, 1, 2]]
    whole = ihvp.influence_scores(g, q, 0.3, block_size=4)
    parts = ihvp.influence_scores(lambda: [g[:2], g[2:7], g[7:]], lambda: [q[:1], q[1:]], 0.3, block_size=4)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_prune_results_compare_as_objects():
    result = raphson.FisherInverse(G, 0.1).obs_prune(W, count=2)
    assert result == result
    assert result != raphson.FisherInverse(G, 0.1).obs_prune(W, count=2)
    assert len({result}) == 1


# ---- NaN, overlaps, sizes -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ot.sinkhorn(None, None, COST, 0.1).apply(np.full(6, np.nan)), "v has NaN"),
        (lambda: raphson.fit_glm(A, LABELS, ridge=0.1).predict(A * np.nan), "X has NaN"),
        (lambda: raphson.fit_glm(A, LABELS, ridge=0.1).predict(A, offset=np.full(30, np.inf)), "offset has NaN or Inf"),
        (lambda: SKETCH.apply(np.full((30, 2), 3e38, np.float32), weights=np.full(30, 100.0)), "S A has NaN or Inf"),
        (lambda: raphson.fit_glm(A[:, :0], LABELS, fit_intercept=False), r"X must have .* column, got shape \(30, 0\)"),
        (lambda: newton_schulz.plan((-4, 3), dtype="float32", schedule="muon"), "not be negative"),
        (lambda: newton_schulz.schedule("root", shape=(100,)), r"shape must be \(m, n\)"),
        (lambda: SKETCH.adjoint(np.ones((3, 3, 3))), r"B must have shape \(8, d\)"),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_out_that_overlaps_or_shares():
    b = A.copy()
    with pytest.raises(ValueError, match="overlaps"):
        SKETCH.apply(b, out=b[:8])
    np.testing.assert_array_equal(b, A)
    with pytest.raises(ValueError, match="out"):
        SKETCH.apply(A, out=np.lib.stride_tricks.as_strided(np.zeros(3), (8, 3), (0, 8)))
    frozen = np.zeros((8, 3))
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="out"):
        SKETCH.apply(A, out=frozen)


def test_out_of_a_rank_one_update_that_overlaps_v():
    memory = np.arange(1.0, 13)
    with pytest.raises(ValueError, match="out overlaps v"):
        ihvp.rank_one_inverse_update(np.eye(3), memory[:3], out=memory[:9].reshape(3, 3))
    np.testing.assert_array_equal(memory, np.arange(1.0, 13))


def test_fresh_results_of_one_matrix_twice():
    x = np.eye(3)
    first, second = raphson.orthogonalize_many([x, x], out=[None, None])
    np.testing.assert_array_equal(first, raphson.orthogonalize(x))
    np.testing.assert_array_equal(first, second)


def test_nothing_in_nothing_out():
    assert (SKETCH @ np.empty((30, 0))).shape == (8, 0)
    assert SKETCH.apply(lambda: [np.empty((30, 0))]).shape == (8, 0)
    assert sketch.SparseSign(8, 0).apply(np.empty((0, 4))).shape == (8, 4)
    assert SKETCH.adjoint(np.empty((8, 0))).shape == (30, 0)
    batch = ot.sinkhorn_batch(None, None, COST[None][:0], 0.1)
    assert (batch.f.shape, batch.g.shape, batch.plan.shape, batch.cost.shape) == ((0, 5), (0, 6), (0, 5, 6), (0,))


# ---- certificates ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x, y: ot.sinkhorn(None, None, raphson.PointCloud(x, y), 1e-3, max_iter=1), "sinkhorn"),
        (lambda x, y: ot.sinkhorn_divergence(x, y, 1e-3, max_iter=1), "sinkhorn_divergence"),
        (lambda x, y: ot.monge_gap(x, y, 1e-3, max_iter=1), "monge_gap"),
    ],
)
def test_one_warning_under_the_name_that_was_called(call, name, rng):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = call(rng.random((9, 2)), rng.random((9, 2)))
    assert [str(w.message).split(" ")[0] for w in seen] == [name]
    assert seen[0].filename == __file__
    if name == "sinkhorn_divergence":
        assert result.status == "max_iter"
        assert not result.converged
        assert result.iterations == result.xy.iterations + result.xx.iterations + result.yy.iterations


@pytest.mark.parametrize(("reg", "max_iter"), [(1e-1, None), (1e-3, None), (1e-3, 2), (1e-6, 2)])
def test_the_residual_of_the_adjoint_system_is_measured(reg, max_iter):
    rng = np.random.default_rng(1)
    cost, weight = rng.random((30, 40)), rng.standard_normal((30, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = ot.sinkhorn(None, None, cost, reg, max_iter=max_iter, method="sinkhorn")
    plan = result.plan
    right, below = (weight * plan).sum(1), (weight * plan).sum(0)
    alpha, beta, said = result._problem.core().hessian(result._f, result._g, right, below)
    off = plan.sum(1) * alpha + plan @ beta - right, plan.sum(0) * beta + plan.T @ alpha - below
    true = sum(np.abs(part).sum() for part in off) / (np.abs(right).sum() + np.abs(below).sum())
    assert abs(said - true) <= 1e-3 * true + 1e-13


def test_vjp_warns_where_its_system_is_not_solved(monkeypatch):
    monkeypatch.setitem(raphson._transport_vjp.SYSTEM_TOLERANCE, "float64", 1e-30)
    with pytest.warns(raphson.ConvergenceWarning, match="sinkhorn"):
        result = ot.sinkhorn(None, None, COST, 0.1, tol=1e-30)
    with pytest.warns(raphson.ConvergenceWarning, match=r"TransportResult\.vjp") as seen:
        result.vjp(plan_bar=COST)
    assert seen[0].filename == __file__


@pytest.mark.parametrize("how", ["gns", "lazy", "damped", "products", "constrained"])
def test_minimize_says_that_the_precision_ends(how):
    fun, jac, hess = problem()
    options = {"method": how} if how in ("gns", "lazy", "damped") else {}
    if how == "products":
        options["hessp"] = lambda x, v: hess(x) @ v
    else:
        options["hess"] = hess
    if how == "constrained":
        options["constraints"] = newton.Equality(
            lambda v: np.array([v @ v - np.pi]), lambda v: 2 * v[None], lambda v, k: 2 * k[0] * np.eye(2)
        )
    with pytest.warns(raphson.ConvergenceWarning, match="precision_floor.*larger tol"):
        result = newton.minimize(fun, np.array([0.5, 1.0]), jac=jac, tol=1e-30, **options)
    assert result.status == "precision_floor"
    assert not result.converged
    assert max(result.optimality, result.constraint_violation) < 1e-14
    assert result.nit < 100


def test_a_wrong_gradient_is_no_precision_floor():
    fun, jac, hess = problem()
    with pytest.warns(raphson.ConvergenceWarning, match="stalled"):
        result = newton.minimize(fun, np.array([0.5, 1.0]), jac=lambda v: jac(v) + 1e-3, hess=hess, tol=1e-30)
    assert result.status == "stalled"


def test_minimize_results_are_mappings_too():
    result = newton.minimize(lambda v: float(v @ v), [1.0], jac=lambda v: 2 * v)
    assert "x" in result
    assert "y" not in result
    assert list(result) == list(result.keys())
    assert dict(result.items())["fun"] == result.fun == result.get("fun")
    assert result.get("nothing", 3) == 3
    assert len(list(result.values())) == len(result)
    with pytest.raises(KeyError):
        result["nothing"]


def test_the_hint_of_a_floor_is_not_that_of_a_breakdown():
    a = np.diag([1.0, 2.0, 3.0]) + 0.1
    with pytest.warns(raphson.ConvergenceWarning, match="larger tol"):
        result = newton_schulz.inverse(a, tol=1e-30)
    assert result.status == "precision_floor"
