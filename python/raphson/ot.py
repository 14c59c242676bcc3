"""Entropic optimal transport: exact, at every regularisation, with a measured marginal error."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from raphson import _core
from raphson._ot_forms import BatchTransportResult, DivergenceResult
from raphson._point_cloud import PointCloud, host
from raphson._results import warn_not_converged
from raphson._transport import MASS_TOLERANCE, Problem, TransportResult, _back, relaxations, start_of, weights_of
from raphson._transport_cuda import CudaProblem

__all__ = [
    "BatchTransportResult",
    "DivergenceResult",
    "PointCloud",
    "TransportResult",
    "TransportState",
    "monge_gap",
    "sinkhorn",
    "sinkhorn_batch",
    "sinkhorn_divergence",
]

METHODS = ("auto", "sinkhorn", "sns", "ssns")
DEFAULT_TOL = {"float64": 1e-9, "float32": 1e-5}
DEFAULT_ITERATIONS = 10000


class TransportState(NamedTuple):
    """What a callback of :func:`sinkhorn` sees after every sweep."""

    stage: str
    iteration: int
    marginal_error: float
    reg: float
    seconds: float


def _method(method: Any, function: str) -> int:
    if method == "splr":
        raise ValueError(f"{function}: method 'splr' is not there yet; one of {', '.join(METHODS)}")
    if method not in METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(METHODS)}, got {method!r}")
    return METHODS.index(method)


def _tolerance(tol: Any, dtype: str, function: str) -> float:
    if tol is None:
        return DEFAULT_TOL[dtype]
    value = float(tol)
    if not value > 0:
        raise ValueError(f"{function}: tol must be positive, got {tol}")
    return value


def _iterations(max_iter: Any, function: str) -> int:
    if max_iter is None:
        return DEFAULT_ITERATIONS
    count = operator.index(max_iter)
    if not 1 <= count < 2**31:
        raise ValueError(f"{function}: max_iter must be at least 1, got {max_iter}")
    return count


def _read(
    a: Any,
    b: Any,
    cost: Any,
    reg: Any,
    unbalanced: Any,
    check_finite: bool | None,
    function: str,
    *,
    part: int | None = None,
) -> tuple[Problem, str, Any]:
    """The problem, the dtype of its data, and the array whose framework results take (None: NumPy).

    ``part``: one of a batch, whose weights have been read; which of the costs, or -1 where there is one.
    """
    like: Any = cost.x if isinstance(cost, PointCloud) else cost
    on_device = _core._is_cuda(like)
    rows: Any = cost
    shape: tuple[int, ...]
    if isinstance(cost, PointCloud):
        shape, dtype = cost.shape, cost.dtype
    elif on_device:
        shape, dtype = _core._describe(cost, function, "cost")
        shape = shape[1:] if part is not None and part >= 0 else shape
    else:
        view = _core._as_numpy(cost, function, "cost")
        shape, dtype = view.shape, view.dtype.name
        rows = np.ascontiguousarray(view)
    if len(shape) != 2:
        raise ValueError(f"{function}: cost must have shape (n, m), got {shape}")
    n, m = shape
    for name, given in (("a", a), ("b", b)):
        if given is not None and part is None:
            _core._require_same(like, given, function, "cost", name)
    weights_a, dtype_a = weights_of(a, n, function, "a")
    weights_b, dtype_b = weights_of(b, m, function, "b")
    narrow = "float32" in (dtype, dtype_a, dtype_b)
    arguments = (
        weights_a,
        weights_b,
        rows,
        float(reg),
        relaxations(unbalanced, function),
        MASS_TOLERANCE["float32" if narrow else "float64"],
        function,
        bool(check_finite) if on_device else check_finite is not False,
    )
    problem = CudaProblem(*arguments, -1 if part is None else part) if on_device else Problem(*arguments)
    return problem, "float32" if narrow else "float64", None if _core._is_numpy(like) else like


def hint(status: str, reg: float, span: float) -> str:
    """What to try, one sentence."""
    if status == "precision_floor":
        return f"This is what float64 reaches with reg {reg:.3g} beside costs up to {span:.3g}; ask for a larger tol."
    if status == "infeasible":
        return "The pairs that cost=inf leaves cannot carry these marginals; allow more, or relax them by unbalanced=."
    if status == "breakdown":
        return "A number left the finite range; check_finite=True says whether the cost has NaN or -Inf, and where."
    if status == "stalled":
        return "Try method='sinkhorn' from this result (init=), or a larger reg."
    return "Try method='auto', a larger max_iter, or init= from a solve with larger reg."


def sinkhorn(
    a: Any,
    b: Any,
    cost: Any,
    reg: float,
    *,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    unbalanced: Any = None,
    callback: Callable[[TransportState], bool | None] | None = None,
    progress: bool = False,
    check_finite: bool | None = None,
) -> TransportResult:
    r"""Entropic optimal transport: min ⟨P, C⟩ + reg·KL(P | a⊗b) + Σ ρ·KL(marginal | target) over P ≥ 0.

    KL is the generalised Kullback-Leibler divergence. The solution is P = a⊗b·exp((f⊕g − C)/reg).

    Parameters
    ----------
    a, b : array (n,), (m,), or None
        Weights ≥ 0, float64 or float32; None is uniform (1/n, 1/m). Zero weights are fine. Balanced, masses must
        agree to 1e-9 (1e-5 in float32), relatively; b is then scaled by the difference.
    cost : array (n, m) or PointCloud
        float64 or float32 (potentials and sums are float64 all the same). ``+inf`` forbids a pair.
    reg : float
        Regularisation > 0, in units of the cost.
    method : {"auto", "sinkhorn", "sns", "ssns"}
        ``auto``: continuation in reg with extrapolated duals; at each level fused Sinkhorn sweeps (log domain, then
        kernel domain) while the measured contraction makes them the cheaper way, else Newton steps of the semi-dual by
        preconditioned conjugate gradients or a Cholesky factor, on the large entries of the plan or on all of it.
        ``sinkhorn``: sweeps only. ``sns``: 20 sweeps, then Newton steps on the 16·max(n, m) largest entries with Armijo
        backtracking. ``ssns``: entries chosen by the error, shifted Hessian, acceptance by predicted decrease. On CUDA
        the same drivers choose among passes of the device, without its kernel domain and without factors (what they
        take a pass to cost there is a guess, not yet measured); ``sinkhorn`` has continuation in reg too.
    tol : float, optional
        Bound on ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁ (with ``unbalanced`` the L1 optimality residual); None: 1e-9, and 1e-5 where
        float32 data is involved. Below what float64 reaches (about 2e-16·max|C|/reg) the status is ``precision_floor``.
    max_iter : int, optional
        Sweeps; None: 10000.
    init : (f, g) or TransportResult, optional
        Potentials to start from, in units of the cost; continuation in reg is then left out.
    unbalanced : float or (float, float), optional
        ρ of the relaxed marginals (POT's ``reg_m`` with ``reg_type="kl"``; OTT's tau is ρ/(ρ + reg)). Inf: held
        exactly.
    callback : callable, optional
        ``callback(state)`` after every sweep with a :class:`TransportState`; True stops (status ``stopped``). With
        ``sinkhorn`` on CUDA after every look at the error, at most eight sweeps apart.
    progress : bool
        A tqdm bar of the decades of the error, if tqdm is installed.
    check_finite : bool, optional
        False leaves out the refusal of NaN and −Inf in the cost. None: True on the CPU; on CUDA False, and then they
        make every number of the result NaN, with status ``breakdown``.

    Returns
    -------
    TransportResult

    Raises
    ------
    ValueError
        Shapes that do not fit, negative or non-finite weights, unequal masses, reg ≤ 0, NaN or −Inf in the cost, a
        row or column with mass whose pairs are all forbidden, connected parts of the allowed pairs with unequal masses.
    TypeError
        Integer or complex data, arrays of different frameworks.
    RuntimeError
        A CUDA array that cannot be served here.

    Warns
    -----
    ConvergenceWarning
        The tolerance was not reached.

    Notes
    -----
    A sweep reads the cost once: exponentials of a row, its sum and potential, and its share of the column sums while
    it is in cache; one exponential and about 25 flops an entry. Memory: the cost, a kernel as large where it is worth
    it, the large entries of the plan (at most a fifth, 12 bytes each).

    A CUDA cost is read where it lies and on the caller's stream (once copied where its rows are not contiguous); f, g,
    plan and products come back on its device. Weights and potentials, n + m numbers, pass through the host (with
    ``sinkhorn`` at the ends, else with every sweep), and the call returns when it has the certificate. A Newton step
    reads the cost twice more, for the plan's large entries, 24 bytes each, and looks at its conjugate gradients every 8
    to 32 steps. A float32 cost is swept in float32 by ``auto`` where the tolerance is at least 5e-6 of the mass, by
    ``sinkhorn`` always. Where ``+inf`` forbids pairs the cost visits the host once, which finds
    the parts that they fall into.

    Sources: Cuturi 2013; Tang, Shavlovsky, Rahmanian et al., Sinkhorn-Newton-Sparse (arXiv 2401.12253); Tang and Qiu,
    SSNS (NeurIPS 2024). Unlike both, rows are eliminated exactly from the Newton system, what a pattern drops is lumped
    into a rank-one term that keeps its row and column sums, and steps are accepted on the derivative along the
    direction.
    """
    function = "sinkhorn"
    problem, dtype, like = _read(a, b, cost, reg, unbalanced, check_finite, function)
    number, level, most = _method(method, function), _tolerance(tol, dtype, function), _iterations(max_iter, function)
    f, g = start_of(init, problem, function)
    if callback is not None and not callable(callback):
        raise TypeError(f"{function}: callback must be callable, got {type(callback).__name__}")
    problem.core()  # checks the rest, before anything shows on the screen
    with _Watch(callback, progress, level) as watch:
        found = problem.solve(number, level, most, (f, g), watch.hook)
    result = TransportResult._from_core(problem, found, level, like)
    if not result.converged:
        warn_not_converged(
            function,
            result.status,
            found["marginal_error"],
            level,
            hint(result.status, problem.reg, problem.span()),
        )
    return result


class _Watch:
    """The caller's callback and a progress bar, as one hook for the core."""

    def __init__(self, callback: Callable[[TransportState], bool | None] | None, progress: bool, tol: float) -> None:
        self._callback, self._tol, self._bar, self._reached = callback, tol, None, 0.0
        if progress:
            try:
                from tqdm.auto import tqdm  # type: ignore[import-untyped]
            except ImportError:
                return
            self._bar = tqdm(total=0.0, unit="decade", desc="sinkhorn")

    @property
    def hook(self) -> Callable[..., bool] | None:
        return None if self._callback is None and self._bar is None else self._call

    def _call(self, stage: str, iteration: int, error: float, reg: float, seconds: float) -> bool:
        if self._bar is not None and 0 < error < math.inf:
            left = max(math.log10(error / self._tol), 0.0)
            if self._bar.total == 0:
                self._bar.total = left
            reached = max(self._bar.total - left, 0.0)
            self._bar.update(max(reached - self._reached, 0.0))
            self._reached = max(self._reached, reached)
            self._bar.set_postfix(error=f"{error:.1e}", reg=f"{reg:.2g}", refresh=False)
        if self._callback is None:
            return False
        return bool(self._callback(TransportState(stage, iteration, error, reg, seconds)))

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def sinkhorn_batch(
    a: Any,
    b: Any,
    cost: Any,
    reg: float,
    *,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
    unbalanced: Any = None,
    check_finite: bool | None = None,
) -> BatchTransportResult:
    """Many transport problems of one size, one a thread; on a CUDA device one after the other.

    Parameters
    ----------
    a, b : array (B, n), (B, m), or (n,), (m,) shared, or None
    cost : array (B, n, m), or (n, m) shared, or PointCloud (shared)
        At least one of the three has the batch axis.
    reg, method, tol, max_iter, unbalanced, check_finite
        As in :func:`sinkhorn`.

    Returns
    -------
    BatchTransportResult
        A sequence of results with arrays of the batch; ConvergenceWarning once when some did not converge.

    Raises
    ------
    ValueError, TypeError
        As :func:`sinkhorn`, for any of them, before any is solved; batch sizes that differ.
    """
    function = "sinkhorn_batch"
    views: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    like = cost.x if isinstance(cost, PointCloud) else cost
    on_device = _core._is_cuda(like)
    for name, given, rank in (("a", a, 1), ("b", b, 1), ("cost", cost, 2)):
        if given is None or isinstance(given, PointCloud):
            views[name] = given
            continue
        if name != "cost":
            _core._require_same(like, given, function, "cost", name)
        # a cost on a device is read there, and its parts with it
        stays = on_device and name == "cost"
        views[name] = given if stays else np.ascontiguousarray(host(given, function, name))
        shape = _core._describe(given, function, name)[0]
        if len(shape) not in (rank, rank + 1):
            raise ValueError(f"{function}: {name} must have {rank} axes, or one more for the batch, got shape {shape}")
        if len(shape) == rank + 1:
            sizes[name] = shape[0]
    if not sizes:
        raise ValueError(f"{function}: one of a, b and cost must have a batch axis; sinkhorn solves a single problem")
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{function}: batch sizes must agree, got " + ", ".join(f"{k} {v}" for k, v in sizes.items()))
    count = next(iter(sizes.values()))

    def part(name: str, k: int) -> Any:
        return views[name][k] if name in sizes and not (on_device and name == "cost") else views[name]

    read = [
        _read(
            part("a", k),
            part("b", k),
            part("cost", k),
            reg,
            unbalanced,
            check_finite,
            function,
            part=k if "cost" in sizes else -1,
        )
        for k in range(count)
    ]
    dtype = read[0][1] if read else "float64"
    number, level, most = _method(method, function), _tolerance(tol, dtype, function), _iterations(max_iter, function)
    framework = None if _core._is_numpy(like) else like
    problems = [problem for problem, _, _ in read]
    found = (CudaProblem if on_device else Problem).solve_batch(problems, number, level, most)
    results = [
        TransportResult._from_core(problem, one, level, framework)
        for (problem, _, _), one in zip(read, found, strict=True)
    ]
    batch = BatchTransportResult(tuple(results), framework)
    if not batch.all_converged:
        worst = max((r for r in results if not r.converged), key=lambda r: float(r.marginal_error))
        warn_not_converged(
            function,
            worst.status,
            float(worst.marginal_error),
            level,
            f"{sum(not r.converged for r in results)} of {count} did not. " + hint(worst.status, float(reg), math.nan),
        )
    return batch


def sinkhorn_divergence(
    x: Any,
    y: Any,
    reg: float,
    *,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    scale: float = 1.0,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
    unbalanced: float | None = None,
    callback: Callable[[TransportState], bool | None] | None = None,
    progress: bool = False,
    check_finite: bool | None = None,
) -> DivergenceResult:
    """OT(x, y) − ½OT(x, x) − ½OT(y, y) (+ ½reg·(Σa − Σb)²), OT being the objective of :func:`sinkhorn`.

    Nonnegative, zero only for equal measures (Feydy et al. 2019; unbalanced: Séjourné et al. 2019).

    Parameters
    ----------
    x, y : array (n, d), (m, d)
        Points, with weights ``a``, ``b`` (None: uniform).
    reg, method, tol, max_iter, unbalanced, callback, progress, check_finite
        As in :func:`sinkhorn`; metric and scale as in :class:`PointCloud`. ``unbalanced`` is one number.

    Returns
    -------
    DivergenceResult
        ``value`` and the three transport results ``xy``, ``xx``, ``yy``.
    """
    options: dict[str, Any] = {
        "method": method,
        "tol": tol,
        "max_iter": max_iter,
        "unbalanced": unbalanced,
        "callback": callback,
        "progress": progress,
        "check_finite": check_finite,
    }
    if isinstance(unbalanced, (tuple, list)):
        raise ValueError("sinkhorn_divergence: unbalanced must be one number: both sides are relaxed alike")

    def cloud(p: Any, q: Any) -> PointCloud:
        return PointCloud(p, q, metric=metric, scale=scale)

    xy = sinkhorn(a, b, cloud(x, y), reg, **options)
    xx = sinkhorn(a, a, cloud(x, x), reg, **options)
    yy = sinkhorn(b, b, cloud(y, y), reg, **options)
    assert xy._problem is not None
    difference = float(xy._problem.a.sum() - xy._problem.b.sum())
    value = float(xy.objective) - 0.5 * (float(xx.objective) + float(yy.objective)) + 0.5 * float(reg) * difference**2
    return DivergenceResult(_back(value, xy._like), xy, xx, yy)


def monge_gap(
    x: Any,
    tx: Any,
    reg: float,
    *,
    metric: str = "sqeuclidean",
    scale: float = 1.0,
    method: str = "auto",
    tol: float | None = None,
    max_iter: int | None = None,
) -> Any:
    """Mean c(xᵢ, T(xᵢ)) − min over couplings of x and T(x) of ⟨P, C⟩ + reg·Σ P log P, with uniform weights.

    Nonnegative, since P = I/n is a coupling of entropy term −log n ≤ 0 … small when T is an optimal map
    (Uscidda and Cuturi 2023; OTT's ``monge_gap_from_samples``).

    Parameters
    ----------
    x, tx : array (n, d)
        Points and their images.
    reg, method, tol, max_iter
        As in :func:`sinkhorn`; metric and scale as in :class:`PointCloud`.

    Returns
    -------
    float (NumPy), or a 0-d array
    """
    cloud = PointCloud(x, tx, metric=metric, scale=scale)
    n, m = cloud.shape
    if n != m:
        raise ValueError(f"monge_gap: x and tx must have the same number of points, got {n} and {m}")
    result = sinkhorn(None, None, cloud, reg, method=method, tol=tol, max_iter=max_iter)
    left, right = cloud._read("x").astype(np.float64), cloud._read("y").astype(np.float64)
    difference = left - right
    if metric == "cityblock":
        moved = np.abs(difference).sum(axis=1)
    else:
        moved = (difference**2).sum(axis=1)
        moved = moved if metric == "sqeuclidean" else np.sqrt(moved)
    entropic = float(result.objective) - 2 * float(reg) * math.log(n)  # Σ P log P = KL(P | a⊗b) − 2 log n
    return _back(float(scale) * float(moved.mean()) - entropic, result._like)
