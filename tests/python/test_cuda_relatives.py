"""The relatives of FisherInverse on CUDA arrays against the formulas in float64 and against the CPU's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cuda_arrays
import ihvp_reference as truth
from ihvp_reference import UNIT, Fisher, assert_near, correlated, softmax_hessian
from raphson.ihvp import gauss_newton_step, influence_scores, rank_one_inverse_update

device = cuda_arrays.device()

DTYPES = ["float64", "float32", "bfloat16", "float16"]


def stored(x: np.ndarray, dtype: str) -> tuple[np.ndarray, Any]:
    return cuda_arrays.stored(device, x, dtype)


def unchanged(arrays: list[Any], call: Any) -> Any:
    """What a call gives that must leave its arguments alone."""
    before = [device.get(a).copy() for a in arrays]
    result = call(*arrays)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(device.get(a), b)
    return result


# ---- inverses of Kronecker factors ----------------------------------------------------------------------------------


def factor_inverse(rng: np.random.Generator, n: int) -> np.ndarray:
    """Positive definite, but not symmetric: rows and columns must not be mistaken for each other."""
    root = rng.standard_normal((n, n))
    return np.linalg.inv(root @ root.T / n + np.eye(n)) + 0.05 / n * rng.standard_normal((n, n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["ema", "mkor"])
@pytest.mark.parametrize("n", [1, 2, 37, 200, 300])
def test_rank_one_inverse_update(rng, n, mode, dtype):
    inv, there = stored(factor_inverse(rng, n), dtype)
    for kind in (dtype, "float64", "float32"):
        v, v_there = stored(rng.standard_normal(n), kind)
        for decay in (0.95, 0.5):

            def update(m: Any, v: Any, decay: float = decay) -> Any:
                return rank_one_inverse_update(m, v, decay=decay, mode=mode)

            got = unchanged([there, v_there], update)
            assert device.get(got).dtype == ("float32" if dtype == "bfloat16" else dtype)
            exact = truth.rank_one_update(inv, v, decay, mode)
            assert_near(device.get(got), exact, 1.01 * UNIT[dtype] + 2.0**-44)
            on_cpu = update(inv, v)
            np.testing.assert_allclose(
                device.get(got), on_cpu, rtol=1.01 * UNIT[dtype], atol=1e-13 if dtype != "float16" else 2.0**-25
            )
            np.testing.assert_array_equal(device.get(update(there, v_there)), device.get(got))
    default = rank_one_inverse_update(there, v_there)
    out = device.put(np.zeros((n, n)).astype("float32" if dtype == "bfloat16" else dtype), bfloat16=dtype == "bfloat16")
    assert rank_one_inverse_update(there, v_there, decay=0.95, mode="ema", out=out) is out
    np.testing.assert_array_equal(device.get(out), device.get(default))
    assert rank_one_inverse_update(there, v_there, out=there) is there
    np.testing.assert_array_equal(device.get(there), device.get(default))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_rank_one_update_of_any_layout(rng, dtype):
    n = 45
    inv, v = factor_inverse(rng, n).astype(dtype), rng.standard_normal(n).astype(dtype)
    expected = device.get(rank_one_inverse_update(device.put(inv), device.put(v), mode="mkor"))
    wide = np.full((n, 64), np.nan, dtype)
    wide[:, 7 : 7 + n] = inv
    apart = np.full((2 * n, 3 * n), np.nan, dtype)
    apart[::2, ::3] = inv
    spread = np.full(3 * n, np.nan, dtype)
    spread[::3] = v
    for layout in (wide[:, 7 : 7 + n], apart[::2, ::3], np.asfortranarray(inv)):
        for vector in (v, spread[::3]):
            got = rank_one_inverse_update(device.put(layout), device.put(vector), mode="mkor")
            np.testing.assert_array_equal(device.get(got), expected)


def test_rank_one_updates_in_place_stay_an_inverse(rng):
    n = 20
    covariance, inv = np.eye(n), device.put(np.eye(n))
    for _ in range(50):
        v = rng.standard_normal(n)
        covariance = 0.9 * covariance + 0.1 * np.outer(v, v)
        rank_one_inverse_update(inv, device.put(v), decay=0.9, out=inv)
    assert_near(device.get(inv), np.linalg.inv(covariance), 1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rank_one_nan_goes_through(rng, bad):
    for dtype in ("float64", "float32", "float16"):
        inv, v = np.eye(40).astype(dtype), rng.standard_normal(40).astype(dtype)
        lost = v.copy()
        lost[35] = bad
        for mode in ("ema", "mkor"):
            assert np.isnan(device.get(rank_one_inverse_update(device.put(inv), device.put(lost), mode=mode))).all()
            spoilt = inv.copy()
            spoilt[33, 33] = bad
            assert np.isnan(device.get(rank_one_inverse_update(device.put(spoilt), device.put(v), mode=mode))).all()


def test_rank_one_of_nothing():
    got = rank_one_inverse_update(device.put(np.ones((0, 0))), device.put(np.ones(0)))
    assert device.get(got).shape == (0, 0)


def test_rank_one_misuse():
    inv, v, out = device.put(np.eye(4)), device.put(np.ones(4)), device.put(np.full((4, 4), 7.0))
    for keywords in ({"decay": 0.0}, {"decay": 1.0}, {"decay": np.nan}, {"mode": "kfac"}):
        with pytest.raises(ValueError, match=r"decay|mode"):
            rank_one_inverse_update(inv, v, out=out, **keywords)
    for m_shape, v_shape in (((4, 3), (4,)), ((4, 4), (3,)), ((4, 4), (4, 1)), ((4, 4), ())):
        with pytest.raises(ValueError, match=r"inv must be \(n, n\) and v \(n,\)"):
            rank_one_inverse_update(device.put(np.ones(m_shape)), device.put(np.ones(v_shape)), out=out)
    with pytest.raises(ValueError, match="inv must have two axes"):
        rank_one_inverse_update(v, v)
    with pytest.raises(ValueError, match=r"out must have shape \(4, 4\), got \(4, 5\)"):
        rank_one_inverse_update(inv, v, out=device.put(np.ones((4, 5))))
    with pytest.raises(ValueError, match="out must be C-contiguous"):
        rank_one_inverse_update(inv, v, out=device.put(np.asfortranarray(np.ones((4, 4)))))
    with pytest.raises(ValueError, match=r"not positive definite along v.*nothing was written"):
        rank_one_inverse_update(device.put(-100 * np.eye(4)), v, out=out)
    with pytest.raises(TypeError, match="out"):
        rank_one_inverse_update(inv, v, out=device.put(np.ones((4, 4), np.float32)))
    for other in (np.ones(4), [1.0] * 4):
        with pytest.raises(TypeError, match=r"inv is a .* array and v a numpy array"):
            rank_one_inverse_update(inv, other, out=out)
    with pytest.raises(TypeError, match=r"inv is a .* array and out a numpy array"):
        rank_one_inverse_update(inv, v, out=np.ones((4, 4)))
    with pytest.raises(TypeError, match=r"v .*|.*numpy"):
        rank_one_inverse_update(np.eye(4), v)
    assert (device.get(out) == 7).all()
    assert (device.get(inv) == np.eye(4)).all()


# ---- Gauss–Newton ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["none", "positive", "softmax", "zero"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 1, 50), (5, 3, 70), (20, 4, 30), (3, 5, 2003)], ids=str)
def test_gauss_newton_step(rng, shape, kind, dtype):
    b, c, dim = shape
    jac, jac_there = stored(rng.standard_normal(shape), dtype)
    residual, residual_there = stored(rng.standard_normal((b, c)), dtype)
    root = rng.standard_normal((b, c, c))
    given = {
        "none": None,
        "positive": root @ root.swapaxes(1, 2),
        "softmax": softmax_hessian(rng, b, c),
        "zero": np.zeros((b, c, c)),
    }[kind]
    hessian, hessian_there = (None, None) if given is None else stored(given, dtype)
    arrays = [jac_there, residual_there, *([] if given is None else [hessian_there])]

    def step(jac: Any, residual: Any, hessian: Any = None) -> Any:
        return gauss_newton_step(jac, residual, loss_hessian=hessian, damping=0.1)

    got = unchanged(arrays, step)
    assert device.get(got).dtype == ("float32" if dtype == "bfloat16" else dtype)
    largest = 1 if given is None else np.linalg.norm(hessian, 2, axis=(1, 2)).max()
    condition = 1 + largest * np.linalg.norm(jac.reshape(-1, dim), 2) ** 2 / (b * 0.1)
    bound = 1.01 * UNIT[dtype] + 2.0**-47 * condition
    assert_near(device.get(got), truth.gauss_newton(jac, residual, hessian, 0.1), bound)
    assert_near(device.get(got), step(jac, residual, hessian), bound)
    np.testing.assert_array_equal(device.get(step(*arrays)), device.get(got))


@pytest.mark.parametrize("given", [False, True])
def test_gauss_newton_step_of_one_output(rng, given):
    jac, residual, hessian = rng.standard_normal((9, 300)), rng.standard_normal(9), rng.random(9) if given else None
    keywords = {"loss_hessian": device.put(hessian)} if given else {}
    got = device.get(gauss_newton_step(device.put(jac), device.put(residual), damping=1e-2, **keywords))
    assert got.shape == (300,)
    assert_near(got, truth.gauss_newton(jac, residual, hessian, 1e-2), 2.0**-47 * (1 + 600 / 9e-2))  # ‖J‖² < 600


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_gauss_newton_step_by_a_square_root_of_q(rng, columns):
    jac, residual = rng.standard_normal((6, 3, 40)), rng.standard_normal((6, 3))
    root = rng.standard_normal((6, 3, columns))
    exact = truth.gauss_newton(jac, residual, root @ root.swapaxes(1, 2), 0.1)
    for layout in (root, np.asfortranarray(root)):
        got = gauss_newton_step(
            device.put(jac), device.put(residual), loss_hessian_sqrt=device.put(layout), damping=0.1
        )
        assert_near(device.get(got), exact, 1e-12)
    flat = [device.put(np.ascontiguousarray(x)) for x in (jac[:, 0], residual[:, 0], root[:, 0, 0])]
    got = gauss_newton_step(flat[0], flat[1], loss_hessian_sqrt=flat[2], damping=0.1)
    assert_near(device.get(got), truth.gauss_newton(jac[:, 0], residual[:, 0], root[:, 0, 0] ** 2, 0.1), 1e-12)


@pytest.mark.parametrize("kind", ["none", "softmax"])
@pytest.mark.parametrize("damping", [1e-3, 1e-7])
def test_gauss_newton_step_keeps_what_the_cpu_keeps(rng, damping, kind):
    """More rows than columns and a small λ: elimination in panels of rows, a system of condition 1e6 and 1e10."""
    b, c, dim = 60, 3, 40
    jac, residual, q = rng.standard_normal((b, c, dim)), rng.standard_normal((b, c)), softmax_hessian(rng, b, c)
    hessian = None if kind == "none" else q
    exact = truth.gauss_newton(jac, residual, hessian, damping)
    there = None if hessian is None else device.put(hessian)
    got = gauss_newton_step(device.put(jac), device.put(residual), loss_hessian=there, damping=damping)
    on_cpu = gauss_newton_step(jac, residual, loss_hessian=hessian, damping=damping)
    lost = np.linalg.norm(on_cpu - exact) / np.linalg.norm(exact)
    assert_near(device.get(got), exact, 1e-13 + 10 * lost)


def test_gauss_newton_step_of_any_layout(rng):
    b, c, dim = 4, 3, 33
    jac, residual = rng.standard_normal((b, c, dim)), rng.standard_normal((b, c))
    q = softmax_hessian(rng, b, c)
    exact = truth.gauss_newton(jac, residual, q, 0.3)
    samples_apart, rows_apart, columns_apart, all_apart = (
        np.full((b * i, c * j, dim * k), np.nan) for i, j, k in ((2, 1, 1), (1, 2, 1), (1, 1, 3), (2, 2, 3))
    )
    layouts = [samples_apart[::2], rows_apart[:, ::2], columns_apart[:, :, ::3], all_apart[::2, ::2, ::3]]
    cut = np.full((b, c + 2, dim + 5), np.nan)  # samples further apart than their rows say
    for layout in (*layouts, cut[:, 1 : 1 + c, 2 : 2 + dim], np.asfortranarray(jac)):
        layout[:] = jac
        got = gauss_newton_step(
            device.put(layout),
            device.put(np.asfortranarray(residual)),
            loss_hessian=device.put(np.asfortranarray(q)),
            damping=0.3,
        )
        assert_near(device.get(got), exact, 1e-13)
    for flat in (np.full((b, 2 * dim), np.nan)[:, ::2], np.full((3 * b, dim), np.nan)[::3]):
        flat[:] = jac[:, 0]
        got = gauss_newton_step(device.put(flat), device.put(residual[:, 0]), damping=0.3)
        assert_near(device.get(got), truth.gauss_newton(jac[:, 0], residual[:, 0], None, 0.3), 1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gauss_newton_nan_goes_through(rng, bad, dtype):
    arrays = {"jac": rng.standard_normal((4, 2, 30)), "residual": rng.standard_normal((4, 2))}
    for keywords in (arrays, arrays | {"loss_hessian": softmax_hessian(rng, 4, 2)}):
        for name in keywords:
            spoilt = {key: value.astype(dtype) for key, value in keywords.items()}
            spoilt[name].reshape(-1)[-2] = bad
            got = gauss_newton_step(damping=0.1, **{key: device.put(value) for key, value in spoilt.items()})
            assert not np.isfinite(device.get(got)).any(), name
            if name != "residual":
                assert np.isnan(device.get(got)).all(), name


def test_a_gauss_newton_system_that_rounding_makes_singular_is_nan():
    jac, residual, hessian = np.full((1, 2, 3), 1e10), np.ones((1, 2)), np.ones((1, 2, 2))
    got = gauss_newton_step(device.put(jac), device.put(residual), loss_hessian=device.put(hessian), damping=0.1)
    assert np.isnan(device.get(got)).all()


def test_gauss_newton_misuse(rng):
    jac, residual, q = (device.put(np.ones(s)) for s in ((4, 2, 6), (4, 2), (4, 2, 2)))
    for damping in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="damping must be positive"):
            gauss_newton_step(jac, residual, damping=damping)
    for shape in ((4,), (4, 3), (2, 4), (4, 2, 1), ()):
        with pytest.raises(ValueError, match=r"residual must have shape \(4, 2\)"):
            gauss_newton_step(jac, device.put(np.ones(shape)), damping=0.1)
    for shape in ((2, 2), (4, 2, 3), (3, 2, 2), ()):
        with pytest.raises(ValueError, match=r"loss_hessian must have shape \(4, 2, 2\)"):
            gauss_newton_step(jac, residual, loss_hessian=device.put(np.ones(shape)), damping=0.1)
    for shape in ((4, 2), (4, 3, 2), (3, 2, 2), ()):
        with pytest.raises(ValueError, match=r"loss_hessian_sqrt must have shape"):
            gauss_newton_step(jac, residual, loss_hessian_sqrt=device.put(np.ones(shape)), damping=0.1)
    for shape in ((), (4,), (4, 2, 3, 1), (0, 2, 6), (4, 2, 0)):
        with pytest.raises(ValueError, match="jac must have shape"):
            gauss_newton_step(device.put(np.ones(shape)), residual, damping=0.1)
    with pytest.raises(ValueError, match="not both"):
        gauss_newton_step(jac, residual, loss_hessian=q, loss_hessian_sqrt=q, damping=0.1)
    with pytest.raises(TypeError, match=r"jac comes from .*, residual from numpy"):
        gauss_newton_step(jac, np.ones((4, 2)), damping=0.1)
    with pytest.raises(TypeError, match=r"jac comes from .*, loss_hessian from numpy"):
        gauss_newton_step(jac, residual, loss_hessian=np.ones((4, 2, 2)), damping=0.1)
    with pytest.raises(TypeError, match=r"jac comes from numpy, residual from"):
        gauss_newton_step(np.ones((4, 2, 6)), residual, damping=0.1)


# ---- influence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 64, 77])
@pytest.mark.parametrize("shape", [(1, 1, 1), (30, 200, 7), (70, 20, 1), (12, 5001, 70)], ids=str)
def test_influence_scores(rng, shape, block_size, dtype):
    m, dim, q = shape
    train, train_there = stored(correlated(rng, m, dim), dtype)
    query, query_there = stored(rng.standard_normal((q, dim)), dtype)

    def score(a: Any, b: Any) -> Any:
        return influence_scores(a, b, 0.01, block_size=block_size)

    got = device.get(unchanged([train_there, query_there], score))
    assert got.shape == (q, m)
    assert got.dtype == np.float64
    exact = Fisher(train, 0.01, block_size=block_size)
    columns = exact.solve(train)
    # Relative to |q||F⁻¹gᵀ| and not to the sum, where float64 cancels.
    reach = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(columns, axis=1)
    limit = reach * 2.0**-46 * exact.condition
    assert (np.abs(got - query @ columns.T) <= limit).all()
    assert (np.abs(got - score(train, query)) <= limit).all()
    np.testing.assert_array_equal(device.get(score(train_there, query_there)), got)


def test_influence_of_the_training_set_on_itself(rng):
    g = correlated(rng, 25, 300)
    there = device.put(g)
    got = device.get(influence_scores(there, there, 0.1))
    assert_near(got, Fisher(g, 0.1).influence(), 2.0**-46 * 11)
    assert (np.diag(got) > 0).all()  # +qF⁻¹gᵀ, not minus


def test_more_queries_than_go_at_once(rng):
    train, query = rng.standard_normal((3, 5)), rng.standard_normal((1030, 5))
    got = device.get(influence_scores(device.put(train), device.put(query), 0.1))
    np.testing.assert_allclose(got, influence_scores(train, query, 0.1), rtol=0, atol=1e-12)


def test_influence_of_any_layout(rng):
    train, query = correlated(rng, 6, 40).astype(np.float32), rng.standard_normal((5, 40)).astype(np.float32)
    expected = device.get(influence_scores(device.put(train), device.put(query), 0.1, block_size=16))
    wide = np.full((12, 99), np.nan, np.float32)
    wide[::2, 3:83:2] = train
    for a in (wide[::2, 3:83:2], np.asfortranarray(train)):
        for b in (np.asfortranarray(query), np.repeat(query, 2, axis=1)[:, ::2]):
            got = influence_scores(device.put(a), device.put(b), 0.1, block_size=16)
            np.testing.assert_allclose(device.get(got), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


def test_influence_nan_goes_through(rng):
    train, query = rng.standard_normal((6, 30)), rng.standard_normal((4, 30))
    for bad in (np.nan, np.inf):
        spoilt, lost = train.copy(), query.copy()
        spoilt[2, 11] = lost[1, 7] = bad
        got = device.get(influence_scores(device.put(train), device.put(lost), 0.1))
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[[0, 2, 3]]).all()
        assert np.isnan(device.get(influence_scores(device.put(spoilt), device.put(query), 0.1))).all()


def test_influence_misuse(rng):
    host = rng.standard_normal((4, 30))
    there = device.put(host)
    for damping in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="damping must be positive"):
            influence_scores(there, there, damping)
    for block_size in (0, -1):
        with pytest.raises(ValueError, match="block_size"):
            influence_scores(there, there, 0.1, block_size=block_size)
    for other in (host[:, 1:], host[0], host[:0]):
        for pair in ((there, device.put(other)), (device.put(other), there)):
            with pytest.raises(ValueError, match="query_grads and train_grads must have rows, all of one length"):
                influence_scores(*pair, 0.1)
    for pair in ((there, host), (host, there), (there, host.tolist())):
        with pytest.raises(TypeError, match=r"train_grads (comes from|is a) .*query_grads"):
            influence_scores(*pair, 0.1)
    with pytest.raises(TypeError, match="train_grads"):
        influence_scores(there, device.put(host.astype(np.float32)), 0.1)
    for pair in ((there, lambda: iter([host])), (lambda: iter([host]), there)):
        with pytest.raises(TypeError, match="must be arrays, not callables"):
            influence_scores(*pair, 0.1)
