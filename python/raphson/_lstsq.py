"""Least squares on tall matrices: sketch, precondition, refine, measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from raphson import _core
from raphson._frameworks import back, require_one_framework
from raphson._results import warn_not_converged
from raphson._rows import tall
from raphson._seed import Seed, as_key

__all__ = ["LstsqResult", "lstsq", "solve"]

_METHODS = {"auto": 0, "direct": 1, "gram": 2, "sketch": 3, "fossils": 4, "cg": 5}
_LEVEL = {"float64": 1e-15, "float32": 1e-6}
_HINTS = {
    "precision_floor": "The data's precision does not reach it; ask for a larger tol.",
    "breakdown": "A or b has NaN or Inf.",
}


@dataclass(frozen=True, eq=False)
class LstsqResult:
    """The least-squares solution and how far it is from being one.

    Attributes
    ----------
    x : array (n,) or (n, k)
        In A's framework and dtype.
    residual_norm : float, or array (k,)
        ‖b − A x‖ (not squared, without the ridge), measured on x as it is here.
    backward_error : float
        Karlson and Waldén's estimate of the smallest relative change ‖ΔA‖_F / ‖A‖_F that makes x an exact solution,
        measured on x, of A with its columns scaled to norm 1 (that of A itself is at most √n times it); of several
        columns of b the largest. Where A was cut to a lower rank: of the cut problem, unscaled. ``method="cg"``:
        Stewart's ‖Aᵀr‖ / (‖A‖_F ‖r‖), of [A; √ridge I], or ‖r‖ / (‖A‖_F ‖x‖) without a ridge, which are no smaller.
        m < n: the same.
    rank : int
        Singular values that were kept.
    cond : float
        Condition number of A (with the ridge, without what was cut), by power iterations; from a sketch within its
        distortion, about 30 %. NaN for ``method="cg"``.
    iterations, sweeps : int
        Steps of the iteration, and reads of A.
    converged, status : bool, str
        Whether ``backward_error`` is within ``tol``; one of :data:`raphson._results.STATUSES`.
    method : str
        The one that ran.
    tol : float
    """

    x: Any
    residual_norm: Any
    backward_error: float
    rank: int
    cond: float
    iterations: int
    sweeps: int
    converged: bool
    status: str
    method: str
    tol: float

    def __repr__(self) -> str:
        return (
            f"LstsqResult(x of shape {tuple(self.x.shape)}, {self.status}, backward_error={self.backward_error:.2g}, "
            f"rank={self.rank}, cond={self.cond:.3g}, iterations={self.iterations}, method={self.method!r})"
        )


def lstsq(
    A: Any,
    b: Any,
    *,
    ridge: float = 0.0,
    rcond: float | None = None,
    method: str = "auto",
    tol: float | None = None,
    seed: Seed = 0,
) -> LstsqResult:
    """Solve min ‖A x − b‖² + ridge‖x‖², of least norm where there are several solutions.

    Parameters
    ----------
    A : array (m, n), SciPy CSR or CSC, memory map, or a callable
        float64 or float32; a CUDA array, too. A callable returns a fresh iterator of blocks of consecutive rows each
        time it is called; it is called for every read of A.
    b : array (m,) or (m, k)
        float64 or float32.
    ridge : float
        Not negative; in units of A squared.
    rcond : float, optional
        Singular values up to ``rcond`` times the largest are taken as zeros, as in :func:`numpy.linalg.lstsq`. By
        default the cut is ε·max(30, n), of A with its columns scaled to norm 1 (so a badly scaled column is no cause);
        where it applies, it is made on A as it is. ε = 2.2e-16, for float32 data too: the arithmetic is float64.
    method : str
        ``"gram"``: Cholesky factor of AᵀA, steps by measured residuals until ``tol`` is met; where the condition (of A
        with its columns at norm 1) is above 1e6, a rank is to be cut or ``tol`` is not met, what auto would take
        without it. ``"sketch"``: SparseSign sketch of 12 n rows, its triangle as preconditioner and its solution as
        start, then refinements by conjugate gradients (SPIR-CG), two or more. ``"fossils"``: the same by heavy-ball
        steps. ``"direct"``: Householder QR of A by blocks of rows. ``"cg"``: conjugate gradients on columns scaled to
        norm 1. ``"auto"``: gram from 2 rows a column on where AᵀA costs less than the rest of the others and 4 n rows,
        evenly spaced, say that the condition allows it (a callable and CSR: without that look). Else direct up to 40
        rows a column (CUDA: 16), up to 2e7 flops and for m < n, cg for CSR with more than 4096 columns, else sketch.
    tol : float, optional
        Of the backward error; by default 1e-15, for float32 data 1e-6 (x is rounded to float32); for m < n ten times
        that.
    seed : int or numpy.random.Generator
        Key of the sketch.

    Returns
    -------
    LstsqResult

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or Inf (CUDA: they give NaNs and ``status="breakdown"``), ridge < 0, rcond outside
        [0, 1), tol not positive, x beyond the range of A's dtype.
    TypeError
        Integer or complex data.

    Warns
    -----
    ConvergenceWarning
        The backward error is above ``tol``.

    Notes
    -----
    Gram: m n² flops (CSR: the squares of the rows' lengths), n³/3, 4/3 n³ a column of b, and 3 to 7 reads of A for up
    to 16 columns at once (CUDA: for each), at 4 flops an entry and a column. Sketch: 16 flops an entry of A, QR of the
    sketch 24 n³ flops, then about 30 reads of A a column of b at 4 flops an entry, A v and Aᵀ u in one. Direct: 2 m n²
    flops and 4 m n for each column of b. Memory beyond A and b: 20 n² float64 (gram), 17 n² (sketch), 150 n² (direct),
    the last two and 20 n for each column of b beyond n of them; m < n: A twice.

    CUDA: A and b stay on the device, small matrices (a sketch: 12 n × n float64) are factored on the host, a read of
    A sends up and takes back n numbers. ``"direct"`` and m < n copy A to the host by blocks, and so does ``"auto"`` up
    to 16 rows a column or 2e7 flops where it does not take the Gram matrix. A whose squares leave the range of float64
    (norms beyond 1e±70) is read from the host.

    Sources: Epperly, Meier and Nakatsukasa 2024 (SPIR, FOSSILS); Karlson and Waldén 1997 (backward error); Björck 1987
    (refinement of the seminormal equations).
    """
    result = solve(A, b, ridge, rcond, method, tol, seed)
    if not result.converged:
        hint = _HINTS.get(result.status, "Try method='direct', a ridge, or a larger rcond.")
        warn_not_converged("lstsq", result.status, result.backward_error, result.tol, hint)
    return result


def solve(A: Any, b: Any, ridge: float, rcond: float | None, method: str, tol: float | None, seed: Seed) -> LstsqResult:
    """:func:`lstsq` without a warning."""
    function = "lstsq"
    require_one_framework(function, "A", A, beside_cuda=True, b=b)
    on_device = _core._is_cuda(A)
    right: Any = b if on_device else _core._as_numpy(b, function, "b")
    shape = _core._describe(b, function, "b")[0] if on_device else right.shape
    if len(shape) not in (1, 2):
        raise ValueError(f"{function}: b must have shape (m,) or (m, k), got {shape}")
    matrix = tall(A, function, "A", shape[0])
    if method not in _METHODS:
        raise ValueError(f"{function}: method must be one of {', '.join(_METHODS)}, got {method!r}")
    usual = _LEVEL[matrix.dtype] if matrix.shape[0] >= matrix.shape[1] else 10 * _LEVEL[matrix.dtype]
    penalty, level = float(ridge), usual if tol is None else float(tol)
    if not penalty >= 0 or math.isinf(penalty):
        raise ValueError(f"{function}: ridge must be finite and not negative, got {ridge!r}")
    if not level > 0:
        raise ValueError(f"{function}: tol must be positive, got {tol!r}")
    cut = -1.0 if rcond is None else float(rcond)
    if rcond is not None and not 0 <= cut < 1:
        raise ValueError(f"{function}: rcond must lie in [0, 1), got {rcond!r}")
    if not on_device:
        right = np.ascontiguousarray(right if right.ndim == 2 else right[:, None], dtype=np.float64)
        if not np.isfinite(right).all():
            raise ValueError(f"{function}: b has NaN or Inf")
    key = as_key(seed, function=function)
    found = _core.lstsq(matrix.core, right, matrix.dtype == "float32", penalty, cut, _METHODS[method], level, key)
    x = found["x"] if len(shape) == 2 else found["x"][:, 0]
    norms = found["residual_norm"]
    return LstsqResult(
        x=back(np.ascontiguousarray(x), matrix.like, matrix.dtype),
        residual_norm=back(norms if len(shape) == 2 else float(norms[0]), matrix.like),
        backward_error=float(found["backward_error"].max(initial=0.0)),
        rank=found["rank"],
        cond=found["cond"],
        iterations=found["iterations"],
        sweeps=found["sweeps"],
        converged=found["status"] == "converged",
        status=found["status"],
        method=found["method"],
        tol=level,
    )
