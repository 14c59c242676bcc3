"""FisherInverse and its relatives against dense float64 matrices and the published recursions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ihvp_reference as truth
import raphson
from ihvp_reference import UNIT, Fisher, assert_near, correlated, tolerance
from raphson.ihvp import FisherInverse, gauss_newton_step, influence_scores, rank_one_inverse_update

DTYPES = ["float64", "float32"]
SHAPES = [(1, 1), (1, 9), (5, 1), (3, 2), (20, 60), (70, 40), (33, 501)]  # m, dim


def problem(rng: np.random.Generator, m: int, dim: int, dtype: str = "float64", norm: float = 1.0) -> np.ndarray:
    return correlated(rng, m, dim, norm=norm).astype(dtype)


def values(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


# ---- the truth itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [1.0, 1e-3])
@pytest.mark.parametrize("block_size", [None, 7])
def test_the_truths_agree(rng, damping, block_size):
    g = problem(rng, 9, 40)
    inverse = np.linalg.inv(truth.fisher_matrix(g, damping, block_size=block_size))
    f = Fisher(g, damping, block_size=block_size)
    assert_near(f.solve(np.eye(40)), inverse, 2.0**-46 / damping)
    assert_near(truth.mfac_inverse(g, damping, block_size), inverse, 2.0**-46 / damping)
    assert_near(f.influence(), g @ inverse @ g.T, 2.0**-46 / damping)
    assert f.logdet() == pytest.approx(-np.linalg.slogdet(inverse)[1], rel=1e-12)


# ---- FisherInverse --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 1, 16, 17, 1000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_query(rng, shape, block_size, dtype):
    m, dim = shape
    g = problem(rng, m, dim, dtype)
    f, exact = FisherInverse(g, 0.01, block_size=block_size), Fisher(g, 0.01, block_size=block_size)
    inverse, bound = exact.solve(np.eye(dim)), tolerance(exact)
    bound_here = tolerance(exact, dtype)
    for kind in DTYPES:
        for x in (rng.standard_normal(dim), rng.standard_normal((5, dim)), rng.standard_normal((1, dim))):
            x = x.astype(kind)
            got = f.solve(x)
            assert got.dtype == kind
            assert_near(got, exact.solve(x), tolerance(exact, kind))
    assert_near(f.diagonal(), np.diag(inverse).copy(), bound_here)
    i, j = dim // 3, dim - 1
    entry = 2 * bound_here * np.abs(inverse).max()
    assert float(f.element(i, j)) == pytest.approx(inverse[i, j], rel=0, abs=entry)
    assert float(f.element(j, j)) == pytest.approx(inverse[j, j], rel=0, abs=entry)
    rows, cols = rng.integers(0, dim, 6), rng.integers(0, dim, 3)
    for r, c in ((rows, cols), (np.arange(dim), np.arange(dim)), ([j, i, j], [i])):
        part = values(f.submatrix(r, c))
        assert part.shape == (len(r), len(c))
        assert np.abs(part - inverse[np.ix_(r, c)]).max() <= entry
    assert type(f.logdet()) is float
    assert f.logdet() == pytest.approx(exact.logdet(), rel=0, abs=bound * (dim * 5 + abs(exact.logdet())))
    assert raphson.FisherInverse is FisherInverse


@pytest.mark.parametrize("damping", [1.0, 1e-3, 1e-5])
@pytest.mark.parametrize("block_size", [None, 13])
def test_state_equals_the_published_recursion(rng, damping, block_size):
    g = problem(rng, 24, 80)
    inverse = truth.mfac_inverse(g, damping, block_size)
    f = FisherInverse(g, damping, block_size=block_size)
    bound = 2.0**-46 * (1 + 1 / damping)  # rows of norm 1: the condition of F
    assert_near(f.solve(np.eye(80)), inverse, bound)
    assert_near(f.submatrix(np.arange(80), np.arange(80)), inverse, bound)
    assert_near(f.diagonal(), np.diag(inverse).copy(), bound)


@pytest.mark.parametrize("m", [1, 40])
def test_gradients_that_say_nothing_new(rng, m):
    for g in (np.zeros((m, 30)), np.repeat(rng.standard_normal((1, 30)), m, axis=0)):
        for damping in (1e-10, 1.0, 1e3):
            f = FisherInverse(g, damping)
            x = rng.standard_normal(30)
            x -= g[0] * (g[0] @ x) / max(g[0] @ g[0], 1e-300)
            assert_near(f.solve(x), x / damping, 2.0**-46 * (1 + (g[0] @ g[0]) / damping))
            assert (values(f.diagonal()) > 0).all()
            assert np.isfinite(f.logdet())


def test_float32_gradients_keep_float64_accuracy(rng):
    """A float32 GGᵀ is off by 6e-8·‖g‖², which is 5 times λ here."""
    g = problem(rng, 50, 300, "float32", norm=30)
    f, exact = FisherInverse(g, 1e-5), Fisher(g, 1e-5)
    x = rng.standard_normal(300)
    assert_near(f.solve(x), exact.solve(x), 1e-9)
    assert f.logdet() == pytest.approx(exact.logdet(), rel=1e-9)
    assert_near(f.diagonal(), np.diag(exact.solve(np.eye(300))).copy(), 1e-6)


@pytest.mark.parametrize("block_size", [None, 700])
def test_thread_count_changes_no_bit(rng, threads, block_size):
    g, w, x = problem(rng, 40, 9001, "float32"), rng.standard_normal(9001), rng.standard_normal((3, 9001))

    def bits() -> list[Any]:
        f = FisherInverse(g, 0.01, block_size=block_size)
        pruned = f.obs_prune(w, count=4000, joint=True)
        arrays = [f.solve(x), f.diagonal(), f.obs_scores(w), pruned.weights, f.submatrix([5, 9000], [1, 2, 3])]
        return [*(np.asarray(a).tobytes() for a in arrays), f.logdet(), pruned.loss_increase]

    threads(1)
    one = bits()
    for count in (2, 3):
        threads(count)
        assert bits() == one


def test_copies_and_torch(torch, rng):
    g, x = problem(rng, 12, 50), rng.standard_normal((4, 50))
    f = FisherInverse(g, 0.1, block_size=20)
    for other in (
        pickle.loads(pickle.dumps(f)),
        copy.deepcopy(f),
        FisherInverse(torch.from_numpy(g), 0.1, block_size=20),
    ):
        assert np.array_equal(other.solve(x), f.solve(x))
        assert np.array_equal(values(other.diagonal()), values(f.diagonal()))
        assert other.logdet() == f.logdet()
    got = f.solve(torch.from_numpy(x).float())
    assert type(got) is torch.Tensor
    assert got.dtype == torch.float32
    assert np.array_equal(got.numpy(), f.solve(x.astype(np.float32)))
    strided = np.zeros((12, 100))[:, ::2]
    strided[:] = g
    assert np.array_equal(FisherInverse(strided, 0.1, block_size=20).solve(x), f.solve(x))
    assert len(repr(f).splitlines()) <= 5


# ---- pruning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 12])
@pytest.mark.parametrize("group", [1, 2, 4, 12])
def test_obs_scores(rng, group, block_size, dtype):
    g, w = problem(rng, 20, 60, dtype), rng.standard_normal(60).astype(dtype)
    inverse = Fisher(g, 0.01, block_size=block_size).solve(np.eye(60))
    got = FisherInverse(g, 0.01, block_size=block_size).obs_scores(w, group=group)
    scores = truth.obs_scores(inverse, w.astype(np.float64), group)
    np.testing.assert_allclose(values(got), scores, rtol=4 * UNIT[dtype] + 2.0**-46 * 100)  # λ⁻¹: the condition


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 20])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("count", [0, 4, 32, 56, 60])
@pytest.mark.parametrize("joint", [False, True])
def test_obs_prune(rng, joint, count, group, block_size, dtype):
    g, w = problem(rng, 20, 60, dtype), rng.standard_normal(60).astype(dtype)
    dense, wide = truth.fisher_matrix(g, 0.01, block_size=block_size), w.astype(np.float64)
    f = FisherInverse(g, 0.01, block_size=block_size)
    got = f.obs_prune(w, count=count, group=group, joint=joint)
    left, loss = truth.obs_prune(dense, wide, count, group, joint)
    assert got.weights.dtype == w.dtype
    assert got.mask.dtype == bool
    assert np.array_equal(got.mask, ~truth.obs_removed(np.linalg.inv(dense), wide, count, group))
    assert (got.mask == 0).sum() == count
    assert (got.weights[~got.mask] == 0).all()
    # Solving for the removed weights has at most the condition of F, 1/λ.
    scale = np.linalg.norm(wide)
    assert np.linalg.norm(values(got.weights) - left) <= scale * (1.01 * UNIT[dtype] + 2.0**-46 * 100)
    assert type(got.loss_increase) is float
    assert got.loss_increase == pytest.approx(loss, rel=1e-10 if dtype == "float64" else 1e-5, abs=1e-12)
    same = f.obs_prune(w, fraction=count / 60, group=group, joint=joint)
    assert np.array_equal(same.mask, got.mask)
    assert np.array_equal(same.weights, got.weights)


@pytest.mark.parametrize("block_size", [None, 30])
def test_joint_removal_is_optimal(rng, block_size):
    g, w = problem(rng, 30, 90), rng.standard_normal(90)
    dense = truth.fisher_matrix(g, 0.01, block_size=block_size)
    f = FisherInverse(g, 0.01, block_size=block_size)
    for count in (1, 30, 80):
        joint, single = f.obs_prune(w, count=count, joint=True), f.obs_prune(w, count=count)
        assert np.array_equal(joint.mask, single.mask)
        change = joint.weights - w
        slope = dense @ change
        assert np.abs(slope[joint.mask]).max() <= 1e-12 * np.abs(slope).max() * 100  # no kept weight can do better
        assert joint.loss_increase == pytest.approx(0.5 * change @ slope, rel=1e-11)
        change = single.weights - w
        assert single.loss_increase == pytest.approx(0.5 * change @ dense @ change, rel=1e-11)
        assert joint.loss_increase <= single.loss_increase * (1 + 1e-12)
        if count == 1:
            assert np.allclose(joint.weights, single.weights, rtol=0, atol=1e-11)
            assert joint.loss_increase == pytest.approx(values(f.obs_scores(w)).min(), rel=1e-11)


def test_pruning_in_torch_leaves_the_input(torch, rng):
    w = torch.from_numpy(rng.standard_normal(24)).float()
    before = w.clone()
    got = FisherInverse(problem(rng, 5, 24), 0.1).obs_prune(w, fraction=0.5)
    assert type(got.weights) is torch.Tensor
    assert got.weights.dtype == torch.float32
    assert torch.equal(w, before)
    assert int((got.weights == 0).sum()) == 12


# ---- Gauss–Newton ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["none", "positive", "softmax", "zero"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 1, 50), (5, 3, 70), (20, 4, 30), (3, 5, 2003)], ids=str)
def test_gauss_newton_step(rng, shape, kind, dtype):
    b, c, dim = shape
    jac, residual = rng.standard_normal(shape).astype(dtype), rng.standard_normal((b, c)).astype(dtype)
    root = rng.standard_normal((b, c, c))
    hessian = {
        "none": None,
        "positive": root @ root.swapaxes(1, 2),
        "softmax": truth.softmax_hessian(rng, b, c),
        "zero": np.zeros((b, c, c)),
    }[kind]
    hessian = None if hessian is None else hessian.astype(dtype)
    keywords = {} if hessian is None else {"loss_hessian": hessian}
    got = gauss_newton_step(jac, residual, damping=0.1, **keywords)
    assert got.dtype == dtype
    exact = truth.gauss_newton(jac, residual, hessian, 0.1)
    largest = 1 if hessian is None else np.linalg.norm(hessian.astype(float), 2, axis=(1, 2)).max()
    condition = 1 + largest * np.linalg.norm(jac.reshape(-1, dim).astype(float), 2) ** 2 / (b * 0.1)
    assert_near(got, exact, 1.01 * UNIT[dtype] + 2.0**-47 * condition)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", [False, True])
def test_gauss_newton_step_of_one_output(rng, given, dtype):
    jac, residual = rng.standard_normal((9, 300)).astype(dtype), rng.standard_normal(9).astype(dtype)
    hessian = rng.random(9).astype(dtype) if given else None
    got = gauss_newton_step(jac, residual, loss_hessian=hessian, damping=1e-2)
    assert got.shape == (300,)
    exact = truth.gauss_newton(jac, residual, hessian, 1e-2)
    assert_near(got, exact, 1.01 * UNIT[dtype] + 2.0**-47 * (1 + 600 / 9e-2))  # ‖J‖² < 600


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_gauss_newton_step_by_a_square_root_of_q(rng, columns):
    jac, residual = rng.standard_normal((6, 3, 40)), rng.standard_normal((6, 3))
    root = rng.standard_normal((6, 3, columns))
    got = gauss_newton_step(jac, residual, loss_hessian_sqrt=root, damping=0.1)
    assert_near(got, truth.gauss_newton(jac, residual, root @ root.swapaxes(1, 2), 0.1), 1e-12)
    flat = gauss_newton_step(jac[:, 0], residual[:, 0], loss_hessian_sqrt=root[:, 0, 0], damping=0.1)
    assert_near(flat, truth.gauss_newton(jac[:, 0], residual[:, 0], root[:, 0, 0] ** 2, 0.1), 1e-12)


def test_gauss_newton_step_in_torch(torch, rng):
    jac, residual, hessian = (torch.from_numpy(rng.random(s)) for s in ((4, 2, 8), (4, 2), (4, 1, 1)))
    hessian = hessian * torch.eye(2, dtype=torch.float64)
    got = gauss_newton_step(jac, residual, loss_hessian=hessian, damping=0.1)
    assert type(got) is torch.Tensor
    plain = gauss_newton_step(jac.numpy(), residual.numpy(), loss_hessian=hessian.numpy(), damping=0.1)
    assert np.array_equal(got.numpy(), plain)


# ---- inverses of Kronecker factors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["ema", "mkor"])
@pytest.mark.parametrize("n", [1, 2, 37, 200])
def test_rank_one_inverse_update(rng, n, mode, dtype):
    root = rng.standard_normal((n, n))
    inv = (np.linalg.inv(root @ root.T / n + np.eye(n))).astype(dtype)
    inv = (inv + inv.T) / 2
    v = rng.standard_normal(n).astype(dtype)
    before = inv.copy()
    for decay in (0.95, 0.5):
        exact = truth.rank_one_update(inv, v, decay, mode)
        got = rank_one_inverse_update(inv, v, decay=decay, mode=mode)
        assert got.dtype == dtype
        # The subtracted term is as large as inv/decay, and the truth's inverses have condition 5 and 10.
        assert_near(got, exact, 4 * UNIT[dtype] + 2.0**-44)
        assert np.abs(values(got) - values(got).T).max() <= 4 * UNIT[dtype] * np.abs(values(got)).max()
    assert np.array_equal(inv, before)
    default = rank_one_inverse_update(inv, v)
    assert np.array_equal(default, rank_one_inverse_update(inv, v, decay=0.95, mode="ema"))
    assert rank_one_inverse_update(inv, v, out=inv) is inv
    assert np.array_equal(inv, default)


def test_moving_average_stays_an_inverse(rng):
    """1,000 updates in place; the covariance beside it, averaged the plain way."""
    covariance, inv = np.eye(30), np.eye(30)
    for _ in range(1000):
        v = rng.standard_normal(30)
        covariance = 0.99 * covariance + 0.01 * np.outer(v, v)
        rank_one_inverse_update(inv, v, decay=0.99, out=inv)
    assert_near(inv, np.linalg.inv(covariance), 1e-9)  # the covariance has condition < 100, over 100 updates' memory


# ---- influence ------------------------------------------------------------------------------------------------------


def blocks_of(array: np.ndarray, size: int) -> Any:
    def fresh() -> Iterator[np.ndarray]:
        return iter([array[i : i + size] for i in range(0, len(array), size)])

    return fresh


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_size", [None, 64, 77])
@pytest.mark.parametrize("shape", [(1, 1, 1), (30, 200, 7), (50, 20, 1), (12, 5001, 3)], ids=str)
def test_influence_scores(rng, tmp_path, shape, block_size, dtype):
    m, dim, q = shape
    train, query = problem(rng, m, dim, dtype), rng.standard_normal((q, dim)).astype(dtype)
    exact = Fisher(train, 0.01, block_size=block_size)
    scores = query.astype(np.float64) @ exact.solve(train).T
    got = influence_scores(train, query, 0.01, block_size=block_size)
    # Relative to |q||F⁻¹gᵀ| and not to the sum, where float64 cancels.
    reach = np.linalg.norm(query.astype(float), axis=1)[:, None] * np.linalg.norm(exact.solve(train), axis=1)
    limit = reach * (1.01 * UNIT[dtype] + 2.0**-48 * exact.condition)

    def assert_scores(found: Any) -> None:
        assert np.asarray(found).shape == (q, m)
        assert (np.abs(values(found) - scores) <= limit).all()

    assert_scores(got)
    mapped = np.memmap(tmp_path / "train", dtype=dtype, mode="w+", shape=train.shape)
    mapped[:] = train
    assert_scores(influence_scores(mapped, query, 0.01, block_size=block_size))
    for size in (1, 7, 1000):
        streamed = influence_scores(blocks_of(train, size), blocks_of(query, 2), 0.01, block_size=block_size)
        assert_scores(streamed)
    assert_scores(influence_scores(blocks_of(train, 5), query, 0.01, block_size=block_size))


def test_influence_of_the_training_set_on_itself(rng):
    g = problem(rng, 25, 300)
    got = values(influence_scores(g, g, 0.1))
    assert_near(got, Fisher(g, 0.1).influence(), 2.0**-46 * 11)
    assert (np.diag(got) > 0).all()  # +qF⁻¹gᵀ, not minus


def test_influence_in_torch(torch, rng):
    train, query = torch.from_numpy(rng.random((6, 40))).float(), torch.from_numpy(rng.random((2, 40))).float()
    got = influence_scores(train, query, 0.1)
    assert type(got) is torch.Tensor
    assert np.array_equal(got.numpy(), influence_scores(train.numpy(), query.numpy(), 0.1))
