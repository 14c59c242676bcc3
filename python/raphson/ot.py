"""Entropic optimal transport: exact, at every regularisation, with a measured marginal error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from raphson import _core
from raphson._frameworks import back, like_of
from raphson._ot_forms import BatchTransportResult, DivergenceResult, starts_of
from raphson._ot_solve import (
    TransportState,
    Watch,
    hint,
    iterations_of,
    method_of,
    read,
    solve,
    solve_all,
    tolerance_of,
    warn_unless_converged,
)
from raphson._point_cloud import PointCloud, host
from raphson._results import warn_not_converged
from raphson._sparse_transport import SparseTransportResult, solve_sparse
from raphson._transport import TransportResult

__all__ = [
    "BatchTransportResult",
    "DivergenceResult",
    "PointCloud",
    "SparseTransportResult",
    "TransportResult",
    "TransportState",
    "monge_gap",
    "sinkhorn",
    "sinkhorn_batch",
    "sinkhorn_divergence",
    "sparse_transport",
]


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
    method : {"auto", "sinkhorn", "sns", "ssns", "splr"}
        ``auto``: continuation in reg with extrapolated duals; at each level fused Sinkhorn sweeps (log domain, then
        kernel domain) while the measured contraction makes them the cheaper way, else Newton steps of the semi-dual by
        preconditioned conjugate gradients or a Cholesky factor, on the large entries of the plan or on all of it.
        ``sinkhorn``: sweeps only. ``sns``: 20 sweeps, then Newton steps on the 16·max(n, m) largest entries with Armijo
        backtracking. ``ssns``: entries chosen by the error, shifted Hessian, acceptance by predicted decrease.
        ``splr``: quasi-Newton on fewer entries (0.1 % to 1 %, at least max(n, m)), with the BFGS correction of the last
        step and a strong Wolfe search. On CUDA the same drivers choose among passes of the device, without its kernel
        domain and without factors (what they take a pass to cost there is a guess, not yet measured); ``sinkhorn`` has
        continuation in reg too.
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
    SSNS (NeurIPS 2024); Wang and Qiu, SPLR (ICML 2025). Unlike them, rows are eliminated exactly from the Newton
    system, what a pattern drops is lumped into a rank-one term that keeps its row and column sums, and steps are
    accepted on the derivative along the direction.
    """
    result = solve(
        "sinkhorn", a, b, cost, reg, method, tol, max_iter, init, unbalanced, callback, progress, check_finite
    )
    warn_unless_converged("sinkhorn", result)
    return result


def sinkhorn_batch(
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
) -> BatchTransportResult:
    """Many transport problems of one size, one a thread.

    On a CUDA device dense costs of up to 16,384 entries are solved side by side by ``method="sinkhorn"``, a block of
    threads each, to the bits of :func:`sinkhorn`; all else one after the other.

    Parameters
    ----------
    a, b : array (B, n), (B, m), or (n,), (m,) shared, or None
    cost : array (B, n, m), or (n, m) shared, or PointCloud (shared)
        At least one of the three has the batch axis.
    init : BatchTransportResult or (f, g), optional
        Where to start: of as many problems, or arrays (B, n) and (B, m), or shared ones, or None.
    callback, progress
        As in :func:`sinkhorn`, ``state.problem`` says which; problems are then solved one after another, all threads on
        each, to the same bits. True stops all that are left.
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

    parts = [
        read(
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
    dtype = parts[0][1] if parts else "float64"
    number, level, most = (
        method_of(method, function),
        tolerance_of(tol, dtype, function),
        iterations_of(max_iter, function),
    )
    framework = like_of(like)
    problems = [problem for problem, _, _ in parts]
    starts = starts_of(init, problems, function)
    with Watch(callback, progress, level, function, count) as watch:
        found = solve_all(problems, number, level, most, starts, watch)
    results = [
        TransportResult._from_core(problem, one, level, framework)
        for (problem, _, _), one in zip(parts, found, strict=True)
    ]
    batch = BatchTransportResult(
        tuple(results), framework, cost.shape if isinstance(cost, PointCloud) else (shape[-2], shape[-1])
    )
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

    Raises
    ------
    ValueError, TypeError
        As :func:`sinkhorn` and :class:`PointCloud`.

    Warns
    -----
    ConvergenceWarning
        One, when any of the three did not reach the tolerance.

    Notes
    -----
    Cost: three transports.
    """
    function = "sinkhorn_divergence"
    options = (method, tol, max_iter, None, unbalanced, callback, progress, check_finite)
    if isinstance(unbalanced, (tuple, list)):
        raise ValueError("sinkhorn_divergence: unbalanced must be one number: both sides are relaxed alike")

    def cloud(p: Any, q: Any) -> PointCloud:
        return PointCloud(p, q, metric=metric, scale=scale)

    xy = solve(function, a, b, cloud(x, y), reg, *options)
    xx = solve(function, a, a, cloud(x, x), reg, *options)
    yy = solve(function, b, b, cloud(y, y), reg, *options)
    warn_unless_converged(function, xy, xx, yy)
    assert xy._problem is not None
    difference = float(xy._problem.a.sum() - xy._problem.b.sum())
    value = float(xy.objective) - 0.5 * (float(xx.objective) + float(yy.objective)) + 0.5 * float(reg) * difference**2
    return DivergenceResult(back(value, xy._like), xy, xx, yy)


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
    callback: Callable[[TransportState], bool | None] | None = None,
    progress: bool = False,
    check_finite: bool | None = None,
) -> Any:
    """Mean c(xᵢ, T(xᵢ)) − min over couplings of x and T(x) of ⟨P, C⟩ + reg·Σ P log P, with uniform weights.

    At least reg·log n, since P = I/n is a coupling with Σ P log P = −log n; near it when T is an optimal map
    (Uscidda and Cuturi 2023; OTT's ``monge_gap_from_samples``). Cost: one :func:`sinkhorn`.

    Parameters
    ----------
    x, tx : array (n, d)
        Points and their images.
    reg, method, tol, max_iter, callback, progress, check_finite
        As in :func:`sinkhorn`; metric and scale as in :class:`PointCloud`.

    Returns
    -------
    float (NumPy), or a 0-d array

    Raises
    ------
    ValueError, TypeError
        As :func:`sinkhorn` and :class:`PointCloud`; different numbers of points.

    Warns
    -----
    ConvergenceWarning
        The transport did not reach the tolerance.
    """
    cloud = PointCloud(x, tx, metric=metric, scale=scale)
    n, m = cloud.shape
    if n != m:
        raise ValueError(f"monge_gap: x and tx must have the same number of points, got {n} and {m}")
    result = solve(
        "monge_gap", None, None, cloud, reg, method, tol, max_iter, None, None, callback, progress, check_finite
    )
    warn_unless_converged("monge_gap", result)
    left, right = cloud._read("x").astype(np.float64), cloud._read("y").astype(np.float64)
    difference = left - right
    if metric == "cityblock":
        moved = np.abs(difference).sum(axis=1)
    else:
        moved = (difference**2).sum(axis=1)
        moved = moved if metric == "sqeuclidean" else np.sqrt(moved)
    entropic = float(result.objective) - 2 * float(reg) * math.log(n)  # Σ P log P = KL(P | a⊗b) − 2 log n
    return back(float(scale) * float(moved.mean()) - entropic, result._like)


def sparse_transport(
    a: Any,
    b: Any,
    cost: Any,
    reg: float,
    *,
    cardinality: int | None = None,
    tol: float | None = None,
    max_iter: int | None = None,
    init: Any = None,
    callback: Callable[[TransportState], bool | None] | None = None,
    progress: bool = False,
    check_finite: bool | None = None,
) -> SparseTransportResult:
    r"""Transport with a sparse plan: min ⟨P, C⟩ + reg/2·‖P‖² over couplings of a and b, ‖·‖ being Frobenius's norm.

    The solution is P = max(f⊕g − C, 0)/reg. POT's ``ot.smooth.smooth_ot_dual(a, b, M, reg)`` and ``ot.solve(M, a, b,
    reg, reg_type="L2")`` have the same plan for the same reg; the second's value counts reg·‖P‖², without the half.

    Parameters
    ----------
    a, b : array (n,), (m,), or None
        Weights ≥ 0, as in :func:`sinkhorn`.
    cost : array (n, m) or PointCloud
        float64 or float32, on the CPU. ``+inf`` forbids a pair.
    reg : float
        > 0, in units of cost over mass: entries of the plan are about (spread of the costs)/reg, so that plans of
        weights 1/n become sparse at regs far above those of :func:`sinkhorn`.
    cardinality : int, optional
        At most so many entries in every **column** of the plan, as POT's ``max_nz`` with
        ``reg_type="sparsity_constrained"``: the dual of that problem is maximised, which is concave with kinks. Columns
        then fit exactly; rows fit, and the plan is optimal, where no column's k-th and next candidates tie at the
        maximum. Where they do, as is usual when the constraint cuts deep, plans with at most k entries that the dual
        leads to do not fit, and no tolerance can be reached: of the candidates that tie (to 1e-6 of what they exceed
        the column's threshold by) those are kept that fit the rows best, ``status="stalled"``, ``marginal_error`` is
        that of the plan, a warning is given, and ``dual_bound`` − ``dual_objective`` proves that the dual is solved.
        Transpose for the rows.
    tol : float, optional
        Bound on ‖P1 − a‖₁ + ‖Pᵀ1 − b‖₁; None: 1e-9, and 1e-5 where float32 data is involved.
    max_iter : int, optional
        Passes over the cost; None: 10000.
    init : (f, g), SparseTransportResult or TransportResult, optional
        Potentials to start from (g is read, with a cardinality f); continuation in reg is then left out.
    callback : callable, optional
        ``callback(state)`` after every pass with a :class:`TransportState`; True stops (status ``stopped``).
    progress : bool
        A tqdm bar of the decades of the error, if tqdm is installed.
    check_finite : bool, optional
        False leaves out the refusal of NaN and −Inf in the cost.

    Returns
    -------
    SparseTransportResult

    Raises
    ------
    ValueError, TypeError
        As :func:`sinkhorn`; a cardinality below 1.
    RuntimeError
        CUDA arrays.

    Warns
    -----
    ConvergenceWarning
        The tolerance was not reached.

    Notes
    -----
    Rows are eliminated: given g, row i of the plan is the projection of (g − Cᵢ)/reg on the simplex of mass aᵢ, found
    by reading the row twice while it is in cache (peaks that bound the threshold, then the few entries above it). What
    is left is convex in g, with the gradient Pᵀ1 − b and a Hessian which is the Laplacian of the support's graph over
    reg. Newton steps take it smoothed to the scale by which potentials still move, which tends to zero with the error:
    the support's neighbours count before they are in it, and the graph stays connected. Steps are accepted on the
    derivative along them; reg comes down by factors of 4. Columns without mass are raised until they touch the plan.
    Convergence is quadratic at the end. Where it stalls (tied costs, weights of very different sizes, reg next to zero:
    supports that are degenerate) and m ≤ 1536, a primal-dual interior point method solves the problem on the pairs near
    the support, 20 to 40 factors of order m, and on more of them where those cannot carry the marginals or the rest of
    the cost disagrees. A pass takes about 2 flops an entry of the cost; the Hessian's entries take 12
    bytes each, at most 0.35 of the cost's. The plan takes as much an entry. A cardinality transposes the cost once, and
    is eased: reg/2·Σ P²((1 − σ)/ζ + σ) with 0 ≤ ζ ≤ 1 and Σζ ≤ k a column (the perspective relaxation) is the plain
    problem at σ = 1 and has the limited problem's dual at σ = 0, and its own dual is smooth between; σ comes down by
    factors of 10 to 2.5e-6, with potentials extrapolated.

    Sources: Blondel, Seguy and Rolet 2018 (smooth and sparse optimal transport); Lorenz, Manns and Meyer 2021
    (semi-smooth Newton for quadratic regularisation); Liu, Puigcerver and Blondel 2023 (cardinality); Mehrotra 1992
    (interior point). The easing and the smoothing of
    the Hessian and the raising of starved columns are ours.
    """
    function = "sparse_transport"
    result = solve_sparse(function, a, b, cost, reg, cardinality, tol, max_iter, init, callback, progress, check_finite)
    if not result.converged:
        if cardinality is not None and result.status in ("stalled", "max_iter"):
            low, high = float(result.dual_objective), float(result.dual_bound)
            if result.status == "stalled" and high - low <= 1e-5 * max(abs(low), abs(high)):
                what = "The dual is solved: its maximum lies where candidates tie. Allow more, or take a smaller reg."
            else:
                what = "The dual's maximum may lie where candidates tie: allow more, or a smaller reg."
        elif result.status == "infeasible":
            what = "The pairs that cost=inf leaves cannot carry these marginals."
        elif result.status == "precision_floor":
            what = f"This is what float64 reaches with reg {result.reg:.3g}; ask for a larger tol."
        else:
            what = "Try a larger max_iter, or init= from a solve with larger reg."
        warn_not_converged(function, result.status, float(result.marginal_error), result.tol, what)
    return result
