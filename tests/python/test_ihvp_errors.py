"""Bad input to raphson.ihvp: a clear error, and an object that is as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ihvp_reference import correlated, same
from raphson.ihvp import FisherInverse, GradientWindow, gauss_newton_step, influence_scores, rank_one_inverse_update

DIM = 12
BAD = [np.nan, np.inf, -np.inf]
BAD_DAMPING = [0.0, -1e-3, np.nan, np.inf, -np.inf]


def filled(rng: np.random.Generator, dtype: str = "float32", pushes: int = 5, **options: Any) -> GradientWindow:
    window = GradientWindow(DIM, 3, 0.1, dtype=dtype, **options)
    for row in correlated(rng, pushes, DIM):
        window.push(row.astype(np.float32))
    if pushes:
        window.solve(np.ones(DIM))  # what queries compute once is there now
    return window


@pytest.fixture(params=["float64", "float32", "bfloat16", "float16", "int8"])
def window(request, rng) -> GradientWindow:
    return filled(rng, request.param)


@contextmanager
def refused(window: GradientWindow, kind: Any, match: str | None = None) -> Iterator[None]:
    before, x = copy.deepcopy(window.state_dict()), np.linspace(-1, 1, DIM)
    count, damping = len(window), window.damping
    answer = window.solve(x).tobytes() if count else b""
    with pytest.raises(kind, match=match):
        yield
    assert (len(window), window.damping) == (count, damping)
    assert same(window.state_dict(), before)
    assert (window.solve(x).tobytes() if count else b"") == answer


def all_fail(kind: Any, match: str | None, call: Callable[[Any], Any], cases: Iterable[Any]) -> None:
    for case in cases:
        with pytest.raises(kind, match=match):
            call(case)


def g(value: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
    return np.full(DIM, value).astype(dtype)


def poisoned(x: np.ndarray, at: int = 1, bad: float = np.nan) -> np.ndarray:
    broken = x.copy()
    broken.flat[at] = bad
    return broken


# ---- making a window ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("dim", v) for v in (0, -1, -(2**40))),
        *(("capacity", v) for v in (0, -1, -(2**40))),
        *(("damping", v) for v in BAD_DAMPING),
        *(("damping", ("relative", v)) for v in BAD_DAMPING),
        *(("damping", v) for v in (("absolute", 1.0), ("relative",), ("relative", 1.0, 2.0))),
        *(("scale", v) for v in ("len", "", None)),
        *(("block_size", v) for v in (0, -1)),
        ("device", "abacus"),
    ],
)
def test_parameters_out_of_range(name, value):
    arguments = {"dim": 5, "capacity": 3, "damping": 0.1, name: value}
    with pytest.raises(ValueError, match=name):
        GradientWindow(**arguments)


def test_parameters_of_the_wrong_type():
    dtypes = [{"dtype": d} for d in ("float8", "int16", "complex64", "bool", "object", None, 7)]
    others = [{"dim": 5.5}, {"dim": "5"}, {"capacity": 2.5}, {"capacity": None}, {"block_size": 1.5}]
    calls = [{"dim": 5, "capacity": 3, "damping": 0.1} | keywords for keywords in dtypes + others]
    all_fail((TypeError, ValueError), None, lambda keywords: GradientWindow(**keywords), calls)
    all_fail((MemoryError, ValueError), None, lambda dim: GradientWindow(dim, 2**12, 0.1), [2**45, 2**59, 2**63 - 1])


@pytest.mark.parametrize("value", [None, "much", [0.1, 0.2, 0.3], 1j])
def test_damping_of_the_wrong_type(rng, value):
    with pytest.raises((TypeError, ValueError)):
        GradientWindow(5, 3, value)
    window = filled(rng)
    with refused(window, (TypeError, ValueError)):
        window.damping = value


@pytest.mark.parametrize("value", [*BAD_DAMPING, *(("relative", v) for v in BAD_DAMPING), ("absolute", 1.0)])
def test_setting_a_damping_out_of_range(window, value):
    with refused(window, ValueError, "damping"):
        window.damping = value


# ---- gradients ------------------------------------------------------------------------------------------------------

TAKES_GRADIENTS = ["push", "precondition"]


@pytest.mark.parametrize("method", [*TAKES_GRADIENTS, "solve", "quadratic"])
@pytest.mark.parametrize("shape", [(0,), (1,), (DIM - 1,), (DIM + 1,), (1, DIM), (DIM, 1), (2, 6), ()], ids=str)
def test_wrong_shapes(window, method, shape):
    name, call = "g" if method in TAKES_GRADIENTS else "x", getattr(window, method)
    if method == "quadratic" and shape == ():  # perhaps meant as an index: the words may differ
        with refused(window, (TypeError, ValueError)):
            call(np.float32(1))
        return
    with refused(window, ValueError, rf"^{method}: {name}\b" + (rf".*{DIM}.*{shape[0]}" if len(shape) == 1 else "")):
        call(np.ones(shape, dtype=np.float32))


@pytest.mark.parametrize("method", [*TAKES_GRADIENTS, "solve", "quadratic"])
@pytest.mark.parametrize("bad", BAD)
def test_nan_and_inf(window, method, bad):
    for at in (0, DIM // 2, DIM - 1):
        with refused(window, ValueError, "NaN or Inf"):
            getattr(window, method)(poisoned(g(), at, bad))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("options", [{}, {"block_size": 5000}, {"error_feedback": True, "dtype": "int8"}], ids=str)
def test_one_nan_in_a_long_gradient(rng, bad, options):
    window = GradientWindow(30011, 2, 0.1, **options)
    row = rng.standard_normal(30011).astype(np.float32)
    window.push(row)
    before = copy.deepcopy(window.state_dict())
    for at in (0, 4096, 20000, 30010):
        for call in (window.push, window.precondition):
            all_fail(ValueError, "NaN or Inf", call, [poisoned(row, at, bad)])
        assert same(window.state_dict(), before)


@pytest.mark.parametrize("method", [*TAKES_GRADIENTS, "solve", "quadratic"])
@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "complex64", "object", "U5"])
def test_data_that_is_no_real_number(window, method, dtype):
    with refused(window, TypeError):
        getattr(window, method)(g(1, dtype))


@pytest.mark.parametrize("method", TAKES_GRADIENTS)
def test_gradients_of_another_dtype(rng, method):
    half, brain = np.float16, ml_dtypes.bfloat16
    takes = {"float64": np.float64, "bfloat16": brain, "float16": half}
    for dtype in ("float64", "float32", "bfloat16", "float16", "int8"):
        others = {np.float64, brain, half} - {takes.get(dtype)}
        window = filled(rng, dtype)
        for other in others:
            with refused(window, TypeError, rf"^{method}: g\b"):
                getattr(window, method)(g(1, other))


@pytest.mark.parametrize("method", TAKES_GRADIENTS)
def test_gradients_too_large_for_what_is_stored(rng, method):
    for dtype, value, kind in (("bfloat16", 3.4e38, np.float32), ("float64", 1e200, np.float64)):
        window = filled(rng, dtype)
        with refused(window, ValueError, "large"):
            getattr(window, method)(g(value, kind))
    for dtype in ("float32", "float16", "int8"):  # these hold them: nothing is refused, nothing overflows
        window = filled(rng, dtype)
        getattr(window, method)(g(3e38))
        assert np.isfinite(window.solve(np.ones(DIM))).all()


@pytest.mark.parametrize("method", ["precondition", "solve"])
def test_outputs_that_do_not_fit(window, method):
    call: Callable[..., Any] = getattr(window, method)
    frozen = g()
    frozen.flags.writeable = False
    for out in (np.zeros(DIM + 1, np.float32), np.zeros((1, DIM), np.float32), np.zeros(0, np.float32), frozen):
        with refused(window, ValueError, "out"):
            call(g(), out=out)
    for out in (np.zeros(DIM, np.int32), np.zeros(DIM, np.complex64), [0.0] * DIM, "out", 3):
        with refused(window, (TypeError, ValueError), "out"):
            call(g(), out=out)
    buffer = np.ones(2 * DIM, dtype=np.float32)
    for given, out in ((buffer[:DIM], buffer[1 : DIM + 1]), (buffer[:DIM], buffer[DIM - 1 :: -1])):
        with refused(window, ValueError, "overlap"):
            call(given, out=out)
    assert (buffer == 1).all()
    with refused(window, ValueError, "NaN or Inf"):
        call(poisoned(g(), 3), out=buffer[:DIM])
    assert (buffer == 1).all()


# ---- queries --------------------------------------------------------------------------------------------------------

QUERIES: dict[str, Callable[[GradientWindow], Any]] = {
    "solve": lambda w: w.solve(g()),
    "solve_recent": lambda w: w.solve_recent([1.0]),
    "quadratic": lambda w: w.quadratic(g()),
    "quadratic of a row": lambda w: w.quadratic(0),
    "logdet": lambda w: w.logdet(),
    "influence": lambda w: w.influence(),
}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("damping", [0.1, ("relative", 0.1)], ids=str)
def test_an_empty_window_answers_nothing(rng, query, damping):
    window = GradientWindow(DIM, 3, damping)
    with refused(window, ValueError, "empty"):
        QUERIES[query](window)
    window.push(g())
    QUERIES[query](window)
    window.clear()
    with refused(window, ValueError, "empty"):
        QUERIES[query](window)


@pytest.mark.parametrize("pushes", [1, 2, 3, 7])
def test_indices_and_weights_beyond_the_window(rng, pushes):
    window = filled(rng, pushes=pushes)
    for index in (len(window), len(window) + 1, -len(window) - 1, 2**31, -(2**31), 2**70):
        with refused(window, IndexError, "out of range"):
            window.quadratic(index)
        with pytest.raises(ValueError, match="out of range"):  # the same error is both
            window.quadratic(index)
    for weights in (np.ones(len(window) + 1), np.ones(1000)):
        with refused(window, ValueError):
            window.solve_recent(weights)


@pytest.mark.parametrize("weights", [[np.nan], [1.0, np.inf], [[1.0]], 1.0, "newest", [1j], None])
def test_weights_that_are_none(window, weights):
    with refused(window, (TypeError, ValueError)):
        window.solve_recent(weights)


# ---- state ----------------------------------------------------------------------------------------------------------


OTHERS = [{"dim": DIM + 1}, {"capacity": 4}, {"scale": "count"}, {"block_size": 5}, {"error_feedback": True}]


@pytest.mark.parametrize("other", OTHERS + [{"dtype": d} for d in ("float64", "float16", "int8")], ids=str)
def test_states_of_another_window(rng, other):
    arguments = {"dim": DIM, "capacity": 3, "damping": 0.1} | other
    stranger = GradientWindow(**arguments)
    stranger.push(np.ones(arguments["dim"], dtype=np.float32))
    window = filled(rng)
    with refused(window, ValueError, "load_state_dict"):
        window.load_state_dict(stranger.state_dict())


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("block_size", [None, 5])
def test_states_that_are_damaged(rng, dtype, block_size):
    window = filled(rng, dtype, block_size=block_size)
    state = filled(rng, dtype, block_size=block_size, pushes=2).state_dict()
    arrays = [key for key, value in state.items() if isinstance(value, np.ndarray) and value.size]
    assert "rows" in arrays
    for key, value in state.items():
        with refused(window, (KeyError, ValueError), key):
            window.load_state_dict({k: v for k, v in state.items() if k != key})
        if key in arrays:
            wrong = [value[..., :-1], np.zeros(0, value.dtype), value.astype(complex), value.astype(object), "rows"]
            wrong += [value.astype(np.float16)]
            for broken in wrong:
                with refused(window, (TypeError, ValueError)):
                    window.load_state_dict(state | {key: broken})
        elif not isinstance(value, np.ndarray):
            with refused(window, (TypeError, ValueError)):
                window.load_state_dict(state | {key: "nonsense"})
    for broken in ({}, None, 3, [1, 2]):
        with refused(window, (TypeError, ValueError, AttributeError)):
            window.load_state_dict(broken)
    window.load_state_dict(state)
    assert len(window) == 2


# ---- FisherInverse --------------------------------------------------------------------------------------------------


def test_fisher_parameters():
    rows = np.ones((3, 5))
    all_fail(ValueError, "grads", lambda s: FisherInverse(np.ones(s), 0.1), [(), (5,), (0, 5), (2, 3, 4)])
    all_fail(ValueError, "damping", lambda v: FisherInverse(rows, v), BAD_DAMPING)
    all_fail(ValueError, "block_size", lambda v: FisherInverse(rows, 0.1, block_size=v), [0, -1])
    all_fail(ValueError, "NaN or Inf", lambda at: FisherInverse(poisoned(rows, at), 0.1), [0, 7, 14])
    all_fail(TypeError, None, lambda dtype: FisherInverse(rows.astype(dtype), 0.1), [int, bool, complex, object])


def test_fisher_queries(rng):
    f, w = FisherInverse(correlated(rng, 4, DIM), 0.1), rng.standard_normal(DIM)
    before = f.solve(w)
    shapes = [(), (DIM + 1,), (2, DIM - 1), (DIM, 2), (1, 2, DIM)]
    all_fail(ValueError, r"^solve: x", lambda s: f.solve(np.ones(s)), shapes)
    outside = [(DIM, 0), (0, DIM), (2**62, 0), (0, -DIM - 1)]
    all_fail((IndexError, ValueError), r"\b[ij]\b|range", lambda ij: f.element(*ij), outside)
    all_fail((IndexError, ValueError), r"rows|cols|range", lambda ij: f.submatrix([1, ij[0]], [ij[1], 2]), outside)
    all_fail((TypeError, ValueError, IndexError), None, lambda rows: f.submatrix(rows, [0]), [[0.5], [[0]], ["a"]])
    for call in (f.obs_scores, lambda x: f.obs_prune(x, count=1)):
        all_fail(ValueError, r"\bw\b", lambda s, call=call: call(np.ones(s)), [(DIM + 1,), (1, DIM), ()])
    for call in (f.solve, f.obs_scores, lambda x: f.obs_prune(x, count=1)):
        all_fail(ValueError, "NaN or Inf", call, [poisoned(w), poisoned(w, 2, np.inf)])
        all_fail(TypeError, None, call, [g(1, int), g(1, complex)])
    assert np.array_equal(f.solve(w), before)


FRACTIONS = [{}, {"fraction": 0.5, "count": 3}, *({"fraction": v} for v in (-0.1, 1.1, np.nan))]
COUNTS = [*({"count": v} for v in (-1, DIM + 1, 2**62)), {"count": 3, "group": 2}]


@pytest.mark.parametrize(
    "keywords", [*FRACTIONS, *COUNTS, *({"count": 2, "group": v} for v in (0, -1, 5, 13))], ids=str
)
def test_pruning_that_cannot_be(rng, keywords):
    f, w = FisherInverse(correlated(rng, 4, DIM), 0.1), rng.standard_normal(DIM)
    for joint in (False, True):
        with pytest.raises(ValueError, match=r"fraction|count|group"):
            f.obs_prune(w, joint=joint, **keywords)


# ---- relatives ------------------------------------------------------------------------------------------------------


def test_gauss_newton_misuse(torch):
    jac, residual, q = np.ones((4, 2, 6)), np.ones((4, 2)), np.ones((4, 1, 1)) * np.eye(2)

    def step(jac: Any = jac, residual: Any = residual, q: Any = q, damping: float = 0.1) -> Any:
        return gauss_newton_step(jac, residual, loss_hessian=q, damping=damping)

    all_fail(ValueError, "damping", lambda v: step(damping=v), BAD_DAMPING)
    shapes = [(4,), (8,), (4, 3), (3, 2), (2, 4), (4, 2, 1), ()]
    all_fail(ValueError, "residual", lambda s: step(residual=np.ones(s)), shapes)
    shapes = [(2, 2), (4, 2, 3), (3, 2, 2), (4, 3, 3), (1, 4, 2, 2), ()]
    all_fail(ValueError, "loss_hessian", lambda s: step(q=np.ones(s)), shapes)
    all_fail(ValueError, "jac", lambda s: step(jac=np.ones(s)), [(), (4,), (4, 2, 3, 1)])
    broken = [{"jac": poisoned(jac)}, {"residual": poisoned(residual)}, {"q": poisoned(q)}]
    all_fail(ValueError, "NaN or Inf", lambda keywords: step(**keywords), broken)
    mixed = [{"jac": jac.astype(int)}, {"residual": torch.ones(4, 2, dtype=torch.float64)}]
    all_fail(TypeError, None, lambda keywords: step(**keywords), mixed)
    for shape in [(4, 2), (4, 3, 2), (3, 2, 2), ()]:
        with pytest.raises(ValueError, match="loss_hessian_sqrt"):
            gauss_newton_step(jac, residual, loss_hessian_sqrt=np.ones(shape), damping=0.1)
    with pytest.raises(ValueError, match="not both"):
        gauss_newton_step(jac, residual, loss_hessian=q, loss_hessian_sqrt=q, damping=0.1)
    with pytest.raises(TypeError):
        gauss_newton_step(jac, residual)  # no damping is no default


def test_rank_one_misuse():
    inv, v, out = np.eye(4), np.ones(4), np.full((4, 4), 7.0)
    keywords = [*({"decay": d} for d in (-0.1, 0.0, 1.5, np.nan)), {"mode": "kfac"}, {"mode": None}]
    all_fail(ValueError, r"decay|mode", lambda k: rank_one_inverse_update(inv, v, out=out, **k), keywords)
    shapes = [((4, 3), (4,)), ((4,), (4,)), ((4, 4), (3,)), ((4, 4), (4, 1)), ((4, 4), ())]
    all_fail(ValueError, None, lambda s: rank_one_inverse_update(np.ones(s[0]), np.ones(s[1]), out=out), shapes)
    for mode in ("ema", "mkor"):
        broken = [(poisoned(inv), v), (inv, poisoned(v))]
        all_fail(ValueError, "NaN or Inf", lambda a, m=mode: rank_one_inverse_update(*a, mode=m, out=out), broken)
    all_fail(ValueError, "out", lambda s: rank_one_inverse_update(inv, v, out=np.ones(s)), [(4, 5), (4,), (3, 3)])
    with pytest.raises(TypeError):
        rank_one_inverse_update(inv.astype(int), v)
    for wrong in (-100 * inv, 1e300 * inv):  # 1 + vᵀPv is negative, or leaves float64
        with pytest.raises(ValueError, match="nothing was written"):
            rank_one_inverse_update(wrong, 1e5 * v, out=out)
    assert (out == 7).all()
    assert np.array_equal(inv, np.eye(4))


def test_influence_misuse(rng):
    train, query = correlated(rng, 6, DIM), rng.standard_normal((2, DIM))
    all_fail(ValueError, "damping", lambda v: influence_scores(train, query, v), BAD_DAMPING)
    all_fail(ValueError, "block_size", lambda v: influence_scores(train, query, 0.1, block_size=v), [0, -1])
    shapes = [(train, query[:, 1:]), (train[:, 1:], query), (train[0], query), (train, query[0]), (train[:0], query)]
    all_fail(ValueError, r"train_grads|query_grads", lambda pair: influence_scores(*pair, 0.1), shapes)
    broken, lost = poisoned(train, 20), poisoned(query, 20)
    pairs = [(broken, query), (train, lost), (lambda: iter([broken]), query), (train, lambda: iter([lost]))]
    all_fail(ValueError, "NaN or Inf", lambda pair: influence_scores(*pair, 0.1), pairs)
    all_fail(TypeError, None, lambda kind: influence_scores(train.astype(kind), query.astype(kind), 0.1), [int, bool])


def test_influence_of_iterators_that_fail(rng):
    train, query = correlated(rng, 6, DIM), rng.standard_normal((2, DIM))

    def breaks() -> Iterator[np.ndarray]:
        yield train[:3]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        influence_scores(breaks, query, 0.1)
    blocks = [[], [train[:3], train[3:, 1:]], [train[:3], train[3]], [train[:3], "rows"], [train, None]]
    wrong = (TypeError, ValueError)
    all_fail(wrong, None, lambda b: influence_scores(lambda: iter(b), query, 0.1), blocks)
    all_fail(wrong, None, lambda b: influence_scores(train, lambda: iter(b), 0.1), blocks[1:])
    all_fail(wrong, None, lambda v: influence_scores(lambda: v, query, 0.1), [7, None])
    once = iter([train[:3], train[3:]])
    try:  # read a second time it is empty: an error, unless one reading was enough
        got = influence_scores(lambda: once, query, 0.1)
    except ValueError:
        return
    np.testing.assert_allclose(got, influence_scores(train, query, 0.1), rtol=1e-12)
