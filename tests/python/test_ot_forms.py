"""Batches, divergences, the Monge gap."""

from __future__ import annotations

import numpy as np
import pytest

import ot_reference as truth
import raphson
from raphson.ot import PointCloud, monge_gap, sinkhorn, sinkhorn_batch, sinkhorn_divergence


def test_batch_is_its_parts(rng):
    a, b, cost = rng.random((6, 11)), rng.random((6, 8)), rng.random((6, 11, 8))
    a, b = a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)
    batch = sinkhorn_batch(a, b, cost, 0.05)
    assert len(batch) == 6
    assert batch.all_converged is True
    assert batch.converged.shape == batch.status.shape == batch.iterations.shape == (6,)
    assert batch.plan.shape == (6, 11, 8)
    for k, one in enumerate(batch):
        alone = sinkhorn(a[k], b[k], cost[k], 0.05)
        np.testing.assert_array_equal(one.f, alone.f)
        np.testing.assert_array_equal(batch.f[k], alone.f)
        assert batch.objective[k] == alone.objective
        assert batch.marginal_error[k] == alone.marginal_error
    assert "6 of 6" in repr(batch)


def test_batch_shares(rng):
    a, cost = rng.random((3, 11)), rng.random((11, 8))
    a /= a.sum(1, keepdims=True)
    batch = sinkhorn_batch(a, None, cost, 0.05)
    np.testing.assert_array_equal(batch[1].g, sinkhorn(a[1], None, cost, 0.05).g)
    cloud = PointCloud(rng.random((11, 2)), rng.random((8, 2)))
    batch = sinkhorn_batch(a, None, cloud, 0.05)
    np.testing.assert_array_equal(batch[2].g, sinkhorn(a[2], None, cloud, 0.05).g)


def test_batch_says_what_failed(rng):
    cost = rng.random((3, 40, 40))
    with pytest.warns(raphson.ConvergenceWarning, match="2 of 3|3 of 3|1 of 3") as caught:
        batch = sinkhorn_batch(None, None, cost, 0.002, max_iter=5)
    assert len(caught) == 1
    assert not batch.all_converged


def test_batch_starts_where_it_is_told(rng):
    cost, near = rng.random((4, 9, 7)), 1e-6
    first = sinkhorn_batch(None, None, cost, 0.02)
    f, g = first.f, first.g
    for init in (first, (f, g), (None, g), [f, None], (f[0], g[0])):
        again = sinkhorn_batch(None, None, cost, 0.02, init=init)
        for k, one in enumerate(again):
            if init is first:
                start = first[k]
            else:
                start = tuple(given if given is None or given.ndim == 1 else given[k] for given in init)
            alone = sinkhorn(None, None, cost[k], 0.02, init=start)
            np.testing.assert_array_equal(one.f, alone.f)
            assert one.iterations == alone.iterations
    warm = sinkhorn_batch(None, None, cost + near, 0.02, init=first)
    assert (warm.iterations < first.iterations).all()
    for init, error, text in (
        (sinkhorn_batch(None, None, cost[:3], 0.02), ValueError, "init must have 4 results, got 3"),
        ((f[:3], g), ValueError, "init f must have 4 rows"),
        ((f, g[:, :3]), ValueError, r"init g must have shape \(7,\)"),
        ((f, np.where(g == g.max(), np.nan, g)), ValueError, "init g has NaN"),
        (first[0], TypeError, r"init must be \(f, g\) or a BatchTransportResult, got TransportResult"),
    ):
        with pytest.raises(error, match=f"^sinkhorn_batch: {text}"):
            sinkhorn_batch(None, None, cost, 0.02, init=init)


def test_batch_is_watched(rng, capsys):
    cost = rng.random((3, 12, 11))
    plain = sinkhorn_batch(None, None, cost, 0.01)
    seen = []
    watched = sinkhorn_batch(None, None, cost, 0.01, callback=lambda state: seen.append(state) and None)
    np.testing.assert_array_equal(watched.f, plain.f)
    warm = sinkhorn_batch(None, None, cost, 0.01, init=plain, callback=lambda state: None)
    np.testing.assert_array_equal(warm.f, sinkhorn_batch(None, None, cost, 0.01, init=plain).f)
    assert (warm.iterations < plain.iterations).all()
    for k in range(3):
        mine = [state for state in seen if state.problem == k]
        assert [state.marginal_error for state in mine] == list(plain[k].history["marginal_error"])
    assert [state.problem for state in seen] == sorted(state.problem for state in seen)
    with pytest.warns(raphson.ConvergenceWarning, match="stopped"):
        stopped = sinkhorn_batch(None, None, cost, 0.01, callback=lambda state: state.problem == 1)
    np.testing.assert_array_equal(stopped.status, ["converged", "stopped", "stopped"])
    assert stopped.iterations[2] <= 2
    with pytest.raises(TypeError, match=r"^sinkhorn_batch: callback must be callable"):
        sinkhorn_batch(None, None, cost, 0.01, callback=3)
    pytest.importorskip("tqdm")
    sinkhorn_batch(None, None, cost, 0.01, progress=True)
    bar = capsys.readouterr().err
    assert "sinkhorn_batch" in bar
    assert "100%" in bar


def test_batch_of_torch(torch):
    cost = torch.rand(3, 5, 6)
    batch = sinkhorn_batch(None, None, cost, 0.1)
    assert isinstance(batch.f, torch.Tensor)
    assert tuple(batch.plan.shape) == (3, 5, 6)


def test_divergence(rng):
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((50, 3)) + 0.5
    found = sinkhorn_divergence(x, y, 0.5)

    def value(p, q):
        cost = ((p[:, None] - q[None]) ** 2).sum(-1)
        u, v = np.full(len(p), 1 / len(p)), np.full(len(q), 1 / len(q))
        return truth.objective(u, v, cost, 0.5, (np.inf, np.inf), truth.sinkhorn(u, v, cost, 0.5)[2])

    assert found.value == pytest.approx(value(x, y) - (value(x, x) + value(y, y)) / 2, abs=1e-7)
    assert found.value == pytest.approx(found.xy.objective - (found.xx.objective + found.yy.objective) / 2)
    assert float(found) == found.value > 0
    assert found.converged
    assert sinkhorn_divergence(x, x, 0.5).value == pytest.approx(0, abs=1e-8)
    assert sinkhorn_divergence(x, x[::-1], 0.01).value == pytest.approx(0, abs=1e-8)


def test_divergence_of_unequal_masses(rng):
    x, y = rng.standard_normal((20, 2)), rng.standard_normal((30, 2))
    a, b = rng.random(20) + 0.1, rng.random(30) + 0.1
    found = sinkhorn_divergence(x, y, 0.5, a=a, b=b, unbalanced=1.0)
    assert found.value > 0
    same = sinkhorn_divergence(x, x, 0.5, a=a, b=a, unbalanced=1.0)
    assert same.value == pytest.approx(0, abs=1e-7)
    scaled = sinkhorn_divergence(x, x, 0.5, a=a, b=2 * a, unbalanced=1.0)
    assert scaled.value > 0.1


def test_monge_gap(rng):
    x = rng.standard_normal((60, 2))
    for reg in (0.5, 0.01):
        monotone, shuffled = monge_gap(x, 1.5 * x + 1, reg), monge_gap(x, rng.permutation(x), reg)
        assert monotone > -1e-9
        assert shuffled > monotone + 1
    cost = ((x[:, None] - (2 * x)[None]) ** 2).sum(-1)
    u = np.full(60, 1 / 60)
    plan = truth.sinkhorn(u, u, cost, 2.0)[2]
    entropic = np.sum(plan * cost) + 2.0 * np.sum(plan * np.log(plan))
    assert monge_gap(x, 2 * x, 2.0) == pytest.approx((x**2).sum(1).mean() - entropic, abs=1e-7)
    with pytest.raises(ValueError, match="same number"):
        monge_gap(x, x[:-1], 0.3)


def test_top_level_names():
    assert raphson.sinkhorn is sinkhorn
    assert raphson.PointCloud is PointCloud
