"""GradientWindow against exact algebra on the rows as they are stored."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import raphson
from ihvp_reference import (
    DEGENERATE,
    UNIT,
    WINDOW_DTYPES,
    Fisher,
    answers,
    assert_holds,
    assert_near,
    damping_seen,
    fisher_matrix,
    gradient_dtype,
    gradients,
    same,
    stored,
    tolerance,
)
from raphson.ihvp import GradientWindow

# dim, capacity: one of everything; below, at and above widths that vectors, tiles and factor blocks come in.
SHAPES = [(1, 1), (1, 5), (7, 1), (2, 3), (64, 16), (257, 9), (1000, 33), (300, 130), (5001, 6), (20000, 3)]


# ---- against the truth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WINDOW_DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_query_while_filling_and_when_full(rng, shape, dtype):
    dim, capacity = shape
    window = GradientWindow(dim, capacity, 0.01, dtype=dtype)
    count = capacity + capacity // 2 + 2 if dim * capacity > 10000 else 3 * capacity + 1
    g = gradients(rng, count, dim, dtype)
    rows = stored(g, dtype)
    for i in range(count):
        assert window.push(g[i]) is None
        if i in (0, capacity // 2, capacity - 1, capacity, count - 1):
            assert_holds(window, rows[max(0, i + 1 - capacity) : i + 1], 0.01, rng)


@pytest.mark.parametrize("dtype", WINDOW_DTYPES)
@pytest.mark.parametrize("scale", ["capacity", "count"])
@pytest.mark.parametrize("block_size", [None, 300, 1, 5000])
def test_precondition_is_the_inverse_times_the_stored_row(rng, dtype, scale, block_size):
    dim, capacity = 1000 if block_size != 1 else 12, 7
    window = GradientWindow(dim, capacity, 0.01, dtype=dtype, scale=scale, block_size=block_size)
    g = gradients(rng, 17, dim, dtype)
    rows = stored(g, dtype, block_size)
    for i in range(len(g)):
        held = rows[max(0, i + 1 - capacity) : i + 1]
        truth = Fisher(held, 0.01, capacity if scale == "capacity" else len(held), block_size)
        got = window.precondition(g[i])
        assert type(got) is np.ndarray
        assert got.dtype == g.dtype
        assert_near(got, truth.combination(np.arange(len(held)) == len(held) - 1), tolerance(truth, got.dtype))
    assert_holds(window, rows[-capacity:], 0.01, rng)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("block_size", [None, 300])
def test_rows_are_rounded_as_promised(rng, dtype, block_size):
    """Where λ is a power of four beyond ‖g‖² 2⁵⁵, F⁻¹g̃ is g̃/λ to the last bit."""
    ties = np.arange(1000) % 255 / 2 - 63.5
    for g in [
        rng.standard_normal(1000),
        np.exp(4 * rng.standard_normal(1000)),
        1e-3 * ties,
        127 * ties / np.abs(ties).max(),
        np.where(np.arange(1000) // 256 == 1, 0, rng.standard_normal(1000)),
        np.zeros(1000),
        np.full(1000, 2.0**13),
        np.full(1000, np.nextafter(np.float32(2), np.float32(0))),
        1e8 * rng.standard_normal(1000),
        1e-8 * rng.standard_normal(1000),
    ]:
        g = g.astype(np.float32)
        damping = 2.0**56 * 4.0 ** math.frexp(np.linalg.norm(g))[1]
        window = GradientWindow(1000, 4, damping, dtype=dtype, block_size=block_size)
        got = window.precondition(g).astype(np.float64) * damping
        # What float32 rounds on the way out: an int8 times its scale, and denormal numbers.
        np.testing.assert_allclose(got, stored(g, dtype, block_size), rtol=2.0**-24, atol=2.0**-150 * damping)


@pytest.mark.parametrize("norm", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_large_and_small_gradients(rng, dtype, norm):
    g = gradients(rng, 9, 500, "float32", norm=norm)
    window = GradientWindow(500, 6, 0.01 * norm**2, dtype=dtype)
    for row in g:
        window.push(row)
    rows = stored(g, dtype)[-6:]
    truth = Fisher(rows, 0.01 * norm**2)
    assert_near(window.solve_recent([1.0]), truth.combination(np.arange(6) == 5), tolerance(truth, "float32"))
    assert_near(window.solve(rows[2]), truth.solve(rows[2]), tolerance(truth))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_error_feedback_loses_nothing(rng, dtype):
    window = GradientWindow(700, 1, 2.0**60, dtype=dtype, error_feedback=True)
    plain = GradientWindow(700, 1, 2.0**60, dtype=dtype)
    g = (0.3 + 0.1 * rng.standard_normal((200, 700))).astype(np.float32)
    given, kept, kept_plain = np.zeros(700), np.zeros(700), np.zeros(700)
    half_step = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "int8": 0.5 / 127}[dtype]  # of entries in [½, 1)
    for row in g:
        given += row
        kept += window.precondition(row).astype(np.float64) * 2.0**60
        kept_plain += plain.precondition(row).astype(np.float64) * 2.0**60
        assert np.abs(given - kept).max() <= half_step + 200 * 2.0**-24  # every row so far came out as float32
    assert np.abs(given - kept_plain).max() > 2 * np.abs(given - kept).max()
    residual = np.asarray(window.state_dict()["residual"])
    assert np.abs(kept + residual - given).max() <= 200 * 2.0**-24
    window.clear()
    assert np.array_equal(window.precondition(g[0]), GradientWindow(700, 1, 2.0**60, dtype=dtype).precondition(g[0]))


def test_relative_damping_follows_the_gradients(rng):
    for scale in ("capacity", "count"):
        window = GradientWindow(400, 5, ("relative", 0.1), scale=scale)
        assert window.damping == ("relative", 0.1)
        g = gradients(rng, 40, 400, "float32") * np.repeat([1, 10, 0.1, 1e-3], 10)[:, None].astype(np.float32)
        for i, row in enumerate(g):
            window.push(row)
            rows = g[max(0, i - 4) : i + 1].astype(np.float64)
            m = 5 if scale == "capacity" else len(rows)
            damping = damping_seen(window, rows)
            asked = 0.1 * (rows * rows).sum() / (m * 400)
            assert asked / 1.1 <= damping * (1 + 1e-9)
            assert damping <= asked * 1.1 * (1 + 1e-9)
            assert_holds(window, rows, damping, rng)


def test_damping_changes_between_pushes(rng):
    window = GradientWindow(300, 8, 1.0, dtype="float64")
    g = gradients(rng, 30, 300, "float64")
    for i, row in enumerate(g):
        damping = [1.0, 1e-3, 100.0, 0.5][i % 4]
        window.damping = damping
        assert window.damping == damping
        if i % 3:
            window.push(row)
        else:
            window.precondition(row)
        assert_holds(window, g[max(0, i - 7) : i + 1], damping, rng)
        window.damping = 2 * damping
        assert_holds(window, g[max(0, i - 7) : i + 1], 2 * damping, rng)
    window.damping = ("relative", 0.5)
    assert window.damping == ("relative", 0.5)
    window.push(g[0])
    window.damping = 3
    assert_holds(window, np.vstack([g[-7:], g[:1]]), 3.0, rng)


@pytest.mark.parametrize("block_size", [1, 4, 64, 256, 300, 999, 1000, 4000])
@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_block_diagonal(rng, block_size, dtype):
    dim = 1000 if block_size > 4 else 30
    window = GradientWindow(dim, 5, 0.01, dtype=dtype, block_size=block_size, scale="count")
    g = gradients(rng, 12, dim, dtype)
    rows = stored(g, dtype, block_size)
    for i, row in enumerate(g):
        window.push(row)
        if i in (0, 3, 11):
            assert_holds(window, rows[max(0, i - 4) : i + 1], 0.01, rng)
    x = rng.standard_normal(dim)
    dense = np.linalg.solve(fisher_matrix(rows[-5:], 0.01, 5, block_size), x)
    assert_near(window.solve(x), dense, 1e-11)


# ---- accuracy figures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, 700])
def test_accuracy_where_the_published_formula_has_no_digit(rng, block_size):
    """Norm 30, λ = 1e-5, float32: 1e-6 is the promise; the reference implementation errs by 1,500 %."""
    window = GradientWindow(2000, 64, 1e-5, block_size=block_size)
    g = gradients(rng, 140, 2000, "float32", norm=30)
    for i, row in enumerate(g):
        got = window.precondition(row)
        if i in (0, 40, 63, 64, 100, 139):
            rows = g[max(0, i - 63) : i + 1]
            truth = Fisher(rows, 1e-5, 64, block_size)
            assert_near(got, truth.combination(np.arange(len(rows)) == len(rows) - 1), 1e-6)
            momentum = 0.9 ** np.arange(len(rows))
            assert_near(window.solve_recent(momentum), truth.combination(momentum[::-1]), 1e-6)


def test_no_drift_in_5000_pushes(rng):
    g = gradients(rng, 5000, 200, "float32")
    window = GradientWindow(200, 32, 1e-3)
    for i, row in enumerate(g):
        (window.push if i % 5 else window.precondition)(row)
    assert_holds(window, g[-32:].astype(np.float64), 1e-3, rng)
    dense = np.linalg.solve(fisher_matrix(g[-32:], 1e-3), g[0])
    assert_near(window.solve(g[0].astype(np.float64)), dense, 2.0**-48 * 1e3)  # condition 1 + 1/λ


@pytest.mark.parametrize("damping", [1e-10, 1e-5, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_gradients(rng, case, dtype, damping):
    g = DEGENERATE[case](rng, 50)
    g = (30 * g / max(np.linalg.norm(g, axis=1).max(), 1e-300)).astype(gradient_dtype(dtype))
    window = GradientWindow(50, 8, damping, dtype=dtype)
    rows = stored(g, dtype)
    for i, row in enumerate(g):
        got = window.precondition(row)
        assert np.isfinite(got).all()
        held = rows[max(0, i - 7) : i + 1]
        truth = Fisher(held, damping, 8)
        exact = truth.combination(np.arange(len(held)) == len(held) - 1)
        # Backward stable in GGᵀ + mλI and nothing better: the condition, times what cancels in the combination.
        bound = UNIT[gradient_dtype(dtype).name] + 2.0**-48 * truth.condition
        if bound < 0.1:
            size = np.linalg.norm(held, 2) / np.sqrt(8 * damping)  # of Gᵀ(GGᵀ + mλI)⁻½, at most 1, times (…)^-½
            assert np.linalg.norm(got - exact) <= bound * max(np.linalg.norm(exact), min(size, 1) / np.sqrt(damping))
    x = rng.standard_normal(50)
    assert np.isfinite(window.solve(x)).all()
    assert np.isfinite(window.influence()).all()
    assert np.isfinite(window.solve_recent(np.ones(8))).all()
    assert window.quadratic(x) >= 0
    assert -1e-9 <= window.quadratic(0) <= 8 * (1 + 1e-9)
    assert math.isfinite(window.logdet())
    assert window.logdet() >= 50 * math.log(damping) - 1e-6


# ---- what it is -----------------------------------------------------------------------------------------------------


def test_attributes_and_length(rng):
    options = {"dtype": "bfloat16", "scale": "count", "block_size": 4, "error_feedback": True}
    window = GradientWindow(11, 3, 1e-2, **options)
    assert (window.dim, window.capacity, window.damping) == (11, 3, 1e-2)
    assert {name: getattr(window, name) for name in options} == options
    assert raphson.GradientWindow is GradientWindow
    plain = GradientWindow(11, 3, 1)
    assert (plain.dtype, plain.scale, plain.block_size, plain.error_feedback) == ("float32", "capacity", None, False)
    assert len(plain) == 0
    for i in range(5):
        plain.push(np.ones(11, dtype=np.float32))
        assert len(plain) == min(i + 1, 3)
    assert len(repr(plain).splitlines()) <= 5


def test_clear_forgets_everything(rng):
    g = gradients(rng, 9, 40, "float32")
    window, fresh = GradientWindow(40, 4, 0.1), GradientWindow(40, 4, 0.1)
    for row in g[:6]:
        window.push(row)
    assert window.clear() is None
    assert len(window) == 0
    for row in g[6:]:
        assert np.array_equal(window.precondition(row), fresh.precondition(row))
    assert answers(window, np.ones(40)) == answers(fresh, np.ones(40))


@pytest.mark.parametrize("dtype", WINDOW_DTYPES)
def test_memory_is_the_window_and_little_more(dtype):
    size = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[dtype]
    dim, capacity = 100000, 40
    window = GradientWindow(dim, capacity, 1.0, dtype=dtype)
    rows = (capacity + 1) * dim * (size + (4 / 256 if dtype == "int8" else 0))
    assert capacity * dim * size <= window.nbytes <= 1.05 * rows + 16 * dim + 32 * (capacity + 1) ** 2


# ---- determinism, copies, state -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WINDOW_DTYPES)
@pytest.mark.parametrize("block_size", [None, 6000])
def test_thread_count_changes_no_bit(rng, threads, dtype, block_size):
    g = gradients(rng, 8, 30011, dtype)

    def bits() -> list[Any]:
        window = GradientWindow(30011, 5, 1e-3, dtype=dtype, block_size=block_size)
        return [window.precondition(row).tobytes() for row in g] + answers(window, np.ones(30011))

    threads(1)
    truth = bits()
    for count in (2, 3):
        threads(count)
        assert bits() == truth


def copies(window: GradientWindow) -> Iterator[GradientWindow]:
    yield pickle.loads(pickle.dumps(window))
    yield copy.deepcopy(window)
    options = {name: getattr(window, name) for name in ("dtype", "scale", "block_size", "error_feedback")}
    other = GradientWindow(window.dim, window.capacity, 7.0, **options)
    other.load_state_dict(pickle.loads(pickle.dumps(window.state_dict())))
    yield other


@pytest.mark.parametrize("dtype", WINDOW_DTYPES)
@pytest.mark.parametrize("damping", [0.02, ("relative", 0.1)], ids=str)
@pytest.mark.parametrize("pushes", [0, 1, 3, 11])
def test_copies_go_on_bit_for_bit(rng, dtype, damping, pushes):
    g = gradients(rng, pushes + 9, 600, dtype)
    options = {"scale": "count", "block_size": 250} if pushes == 3 else {"error_feedback": True}
    window = GradientWindow(600, 4, damping, dtype=dtype, **options)
    for row in g[:pushes]:
        window.push(row)
    before = copy.deepcopy(window.state_dict())
    others = list(copies(window))
    for other in others:
        assert same(other.state_dict(), before)
        assert other.damping == damping
        assert len(other) == len(window)
    for row in g[pushes:]:
        bits = window.precondition(row).tobytes()
        assert [other.precondition(row).tobytes() for other in others] == [bits] * 3
    x = rng.standard_normal(600)
    assert all(answers(other, x) == answers(window, x) for other in others)
    assert not same(window.state_dict(), before)  # the state is a copy, no view


def test_several_threads_share_a_window(rng):
    window = GradientWindow(3000, 6, 0.1)
    g = gradients(rng, 6, 3000, "float32")

    def work(k: int) -> None:
        for _ in range(30):
            window.push(g[k])
            assert np.isfinite(window.solve(g[k])).all()
            assert window.influence().shape[0] >= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for row in g:
        window.push(row)
    assert_holds(window, g.astype(np.float64), 0.1, rng)


# ---- arrays in, arrays out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_torch_in_torch_out(torch, rng, dtype):
    g = gradients(rng, 5, 90, dtype)
    t = torch.from_numpy(g.astype(np.float64)).to(getattr(torch, dtype))
    window, other = GradientWindow(90, 3, 0.1, dtype=dtype), GradientWindow(90, 3, 0.1, dtype=dtype)
    for row, tensor in zip(g, t, strict=True):
        truth, got = window.precondition(row), other.precondition(tensor)
        assert type(got) is torch.Tensor
        assert got.dtype == tensor.dtype
        assert np.array_equal(got.to(torch.float64).numpy(), truth.astype(np.float64))
    for kind in (torch.float32, torch.float64):
        x = torch.from_numpy(rng.standard_normal(90)).to(kind)
        got = other.solve(x)
        assert type(got) is torch.Tensor
        assert got.dtype == kind
        assert np.array_equal(got.numpy(), window.solve(x.numpy()))
        assert other.solve(x, out=x) is x
        assert torch.equal(x, got)
    assert type(other.influence()) is np.ndarray
    with pytest.raises(TypeError, match="requires grad"):
        other.push(t[0].clone().requires_grad_())


def test_out_is_written_and_returned(rng):
    g = gradients(rng, 4, 501, "float32")
    window, other = GradientWindow(501, 3, 0.1), GradientWindow(501, 3, 0.1)
    for row in g:
        truth = other.precondition(row)
        out = np.full(501, np.nan, dtype=np.float32)
        assert window.precondition(row, out=out) is out
        assert np.array_equal(out, truth)
    g, x = gradients(rng, 1, 501, "float32")[0], rng.standard_normal(501)
    truth, out = window.solve(x), np.full((501, 2), np.nan)[:, 0]
    for given in (out, x):
        assert window.solve(x, out=given) is given
        assert np.array_equal(given, truth)
    truth = other.precondition(g)
    assert window.precondition(g, out=g) is g
    assert np.array_equal(g, truth)


def test_strided_gradients_and_lists(rng):
    base = gradients(rng, 1, 900, "float64")[0]
    windows = [GradientWindow(300, 3, 0.1, dtype="float64") for _ in range(3)]
    results = [
        w.precondition(g) for w, g in zip(windows, [base[::3], base[::3].copy(), base[::3].tolist()], strict=True)
    ]
    assert all(np.array_equal(r, results[0]) for r in results)
    backwards = windows[0].solve(base[::-3])
    assert np.array_equal(backwards, windows[0].solve(base[::-3].copy()))
