"""Matrix functions with a certificate: polar factors, sign, square root, inverse, inverse roots.

CUDA arrays are worked on where they lie, on their stream, by other algorithms (see :func:`polar` and
:func:`inverse_root`); a call waits for its certificates. NaN or Inf in a matrix is no error there: its result is NaN,
its status ``breakdown``, and the other matrices of a batch are what they are without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from raphson import _core
from raphson._results import STATUSES, warn_not_converged

__all__ = ["MatrixResult", "PolarResult", "inverse", "inverse_root", "polar", "sign", "sqrt"]

ResultT = TypeVar("ResultT")


def _worst(result: MatrixResult | PolarResult) -> str:
    if isinstance(result.converged, bool):
        return f"{result.status}, residual {result.residual:.2g}, iterations={result.iterations}, tol={result.tol:.2g}"
    size = np.size(result.converged)
    worst = np.max(result.residual, initial=0.0)
    return f"{np.count_nonzero(result.converged)} of {size} converged, largest residual {worst:.2g}"


@dataclass(frozen=True, eq=False, repr=False)
class PolarResult:
    """A polar decomposition and what was measured on it.

    For batched input ``residual``, ``orthogonality``, ``converged``, ``status``, ``iterations``, ``tol`` and ``cond``
    are NumPy arrays of the batch shape, else Python scalars.

    Attributes
    ----------
    unitary : array (..., m, n)
        U, orthonormal columns (m ≥ n) or rows (m < n), in x's framework and dtype.
    hermitian : array (..., k, k), k = min(m, n)
        H, symmetric positive semidefinite: (XᵀX)^½ or (XXᵀ)^½.
    side : {"right", "left"}
        X = U H (m ≥ n) or X = H U (m < n).
    residual : float
        ‖UH − X‖_F / ‖X‖_F in float64, of the arrays as they are here; 0 for X = 0.
    orthogonality : float
        ‖UᵀU − I‖_F / √k.
    converged, status : bool, str
        Whether ``residual`` is within ``tol``; one of :data:`raphson._results.STATUSES`.
    iterations : int
        Newton and Newton–Schulz steps.
    tol, cond : float
        What ``residual`` was judged by; ‖X‖_F ‖X⁻¹‖_F, infinite where X is singular to working precision.
    """

    unitary: Any
    hermitian: Any
    side: str
    residual: Any
    orthogonality: Any
    converged: Any
    status: Any
    iterations: Any
    tol: Any
    cond: Any

    @property
    def all_converged(self) -> bool:
        """Whether every matrix of the batch converged."""
        return bool(np.all(self.converged))

    def __repr__(self) -> str:
        shape = tuple(self.unitary.shape)
        return f"PolarResult(unitary {shape}, side={self.side!r}, {_worst(self)})"


@dataclass(frozen=True, eq=False, repr=False)
class MatrixResult:
    """A matrix function's value and what was measured on it.

    For batched input everything but the arrays ``value`` and ``inverse_sqrt`` is a NumPy array of the batch shape.

    Attributes
    ----------
    value : array (..., n, n)
        In the argument's framework and dtype.
    inverse_sqrt : array (..., n, n) or None
        :func:`sqrt` only: the inverse of ``value``. None for one singular matrix; in a batch its block is NaN.
    residual : float
        In float64, of ``value`` as it is here; each function says of what.
    converged, status : bool, str
        Whether ``residual`` is within ``tol``; one of :data:`raphson._results.STATUSES`.
    iterations : int
        Steps of the iteration; of symmetric arguments, those that the slowest eigenvalue took, of QL or for a root of a
        secular equation, on CUDA sweeps of Jacobi's rotations.
    tol, cond : float
        What ``residual`` was judged by; the condition number of the matrix (with its ridge), at most √n too large.
    inverse_residual : float
        :func:`sqrt` only: max|A Z² − I| of ``inverse_sqrt``; infinite where there is none. Not judged by ``tol``.
    """

    value: Any
    inverse_sqrt: Any
    residual: Any
    converged: Any
    status: Any
    iterations: Any
    tol: Any
    cond: Any
    inverse_residual: Any

    @property
    def all_converged(self) -> bool:
        """Whether every matrix of the batch converged."""
        return bool(np.all(self.converged))

    def __repr__(self) -> str:
        return f"MatrixResult(value {tuple(self.value.shape)}, {_worst(self)})"


_HINTS = {
    "polar": "Ask for a larger tol or more max_steps.",
    "sign": "A has an eigenvalue on or near the imaginary axis.",
    "sqrt": "A has an eigenvalue on or near the closed negative real axis.",
    "inverse": "A is singular, or nearly so for its dtype.",
    "inverse_root": "A is not positive definite, or nearly singular for its dtype: add a ridge.",
}
_FLOOR = "This is what the precision reaches for this matrix; ask for a larger tol."


def _are_matrices(a: Any) -> bool:
    """A list of arrays, and not the entries of one."""
    return isinstance(a, (list, tuple)) and all(len(getattr(item, "shape", ())) >= 2 for item in a)


def _evaluate(
    function: str,
    a: Any,
    build: Callable[[dict[str, Any], dict[str, Any]], ResultT],
    *,
    p: int = 1,
    tol: float | None,
    max_steps: int,
    errors: str | None,
    ridge: float = 0.0,
    relative_ridge: float = 0.0,
) -> Any:
    if errors not in (None, "raise", "status"):
        raise ValueError(f"{function}: errors must be None, 'raise' or 'status', got {errors!r}")
    many = _are_matrices(a)
    outcomes = _core.matrix_function(function, a if many else [a], p, tol, max_steps, ridge, relative_ridge)
    results: list[ResultT] = []
    failed: list[tuple[str, float, float]] = []
    broken = ""
    for index, outcome in enumerate(outcomes):
        codes = np.asarray(outcome["status"])
        names = np.array(STATUSES)[codes]
        residuals, tols = np.asarray(outcome["residual"]), np.asarray(outcome["tol"])
        failed += (
            [(str(names[at]), float(residuals[at]), float(tols[at])) for at in zip(*np.nonzero(codes), strict=True)]
            if codes.ndim
            else [(str(names), float(residuals), float(tols))] * bool(codes)
        )
        if not broken and np.any(names == "breakdown"):
            where = f" (array {index} of the list)" if many else ""
            first = f" (matrix {int(np.argmax(names.ravel() == 'breakdown'))} of the batch)" if codes.ndim else ""
            broken = where + first
            single = codes.ndim == 0 and not many
            if errors == "raise" or (errors is None and single):
                raise np.linalg.LinAlgError(f"{function}: breakdown{broken}. {_HINTS[function]}")
        certificate = {
            "residual": outcome["residual"],
            "converged": codes == 0 if codes.ndim else bool(codes == 0),
            "status": names if codes.ndim else str(names),
            "iterations": outcome["iterations"],
            "tol": outcome["tol"],
            "cond": outcome["cond"],
        }
        results.append(build(outcome, certificate))
    if failed:
        status, residual, level = max(failed, key=lambda entry: entry[1])
        total = sum(np.size(outcome["status"]) for outcome in outcomes)
        count = f"{len(failed)} of {total} matrices. " if total > 1 else ""
        hint = _FLOOR if status == "precision_floor" else _HINTS[function]
        warn_not_converged(function, status, residual, level, count + hint, stacklevel=4)
    return results if many else results[0]


def _polar_result(outcome: dict[str, Any], certificate: dict[str, Any]) -> PolarResult:
    m, n = outcome["value"].shape[-2:]
    return PolarResult(
        unitary=outcome["value"],
        hermitian=outcome["second"],
        side="right" if m >= n else "left",
        orthogonality=outcome["orthogonality"],
        **certificate,
    )


def _matrix_result(outcome: dict[str, Any], certificate: dict[str, Any]) -> MatrixResult:
    has_inverse = outcome["second"] is not None and not (
        np.ndim(outcome["inverse_residual"]) == 0 and np.isinf(outcome["inverse_residual"])
    )
    return MatrixResult(
        value=outcome["value"],
        inverse_sqrt=outcome["second"] if has_inverse else None,
        inverse_residual=outcome["inverse_residual"],
        **certificate,
    )


def polar(x: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> Any:
    r"""Polar decomposition X = U H (m ≥ n) or X = H U (m < n) of every matrix, to working precision.

    Parameters
    ----------
    x : array (..., m, n), or list of such
        float64 or float32; any strides. Matrices of a list may differ in shape; they run in one dispatch, on CUDA in
        one for every shape.
    tol : float, optional
        Bound of ‖UH − X‖_F / ‖X‖_F. None: 64 ε of the dtype, 1.4e-14 or 7.6e-6.
    max_steps : int
        Limit of Newton steps and polynomials together; 5 to 9 are usual, on CUDA 9 to 44.
    errors : {None, "raise", "status"}
        Whether a breakdown raises; None: for one matrix, not in a batch or list.

    Returns
    -------
    PolarResult, or a list of them for a list

    Raises
    ------
    TypeError
        dtype, framework or device that is not taken; tensors that require grad (use ``raphson.torch``).
    ValueError
        Fewer than two axes, NaN or Inf (not on CUDA), parameters out of range.
    numpy.linalg.LinAlgError
        Breakdown (an overflow; no finite matrix is known to cause one; on CUDA, NaN or Inf), as ``errors`` says.

    Notes
    -----
    Newton's iteration X ← ½(μX + μ⁻¹X⁻ᵀ) with the scaling μ⁴ = ‖X⁻¹‖₁‖X⁻¹‖_∞ / (‖X‖₁‖X‖_∞) (Higham, "Functions of
    Matrices", 2008, section 8.6), on the triangle of a Householder QR where m ≠ n; the inverses by Gauss–Jordan
    elimination, in which all but narrow panels are products. After one to three such steps the singular values lie in
    an interval that the odd quintics nearest to 1 bring to 1 in three to five steps (:func:`minimax_schedule`). From a
    condition of 1e8 on the triangle is multiplied by a random orthogonal matrix first, without which elimination loses
    digits on some. Always in float64, rounded once. 2k³ flops a Newton step, 4k³ a polynomial, 5k³ at the end,
    k = min(m, n), and 8k²(max(m, n) − k).

    On CUDA by products alone, 4k²·max(m, n) + 2k³ flops a step: X ← aX + bGX + cG²X, G = XXᵀ, with Jordan's
    coefficients, which multiply small singular values by 3.4, and every five steps two of Newton–Schulz, of fifth
    order, until G is near I; each is backward stable (Nakatsukasa and Higham, SIAM J. Matrix Anal. Appl. 33, 2012).
    ``cond`` is H's, by its inverse.

    Where X is singular to working precision a fixed perturbation of half an ulp of ‖X‖_F gives its null space a basis
    (another where the residual shows that the first was unlucky): U is then the partial isometry completed to
    orthonormal columns (rows). Which completion is arbitrary, H is not.
    """
    return _evaluate("polar", x, _polar_result, tol=tol, max_steps=max_steps, errors=errors)


def sign(a: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> Any:
    r"""Matrix sign: S with S² = I that commutes with A and has the signs of the real parts of A's eigenvalues.

    Parameters
    ----------
    a : array (..., n, n), or list of such
        float64 or float32, symmetric or not.
    tol : float, optional
        Bound of max\|S² − I\|. None: 4(n + 8)ε times the condition number of S, estimated as ‖S‖_F²/n, at most 0.1.
    max_steps, errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult, or a list of them for a list
        ``residual`` = max\|S² − I\|.

    Raises
    ------
    TypeError, ValueError
        As :func:`polar`; a that is not square.
    numpy.linalg.LinAlgError
        Eigenvalues on the imaginary axis (zero among them), as ``errors`` says.

    Notes
    -----
    Symmetric A: from its eigenvalues, at most 7n³ flops. Else Newton's S ← ½(μS + μ⁻¹S⁻¹), μ² = ‖S⁻¹‖_F/‖S‖_F until the
    steps are small (Higham 2008, section 5.3), 2n³ flops a step, in float64. S² = I says nothing about S belonging
    to A: of ill-conditioned A it moves by cond·ε, as with any method.
    """
    return _evaluate("sign", a, _matrix_result, tol=tol, max_steps=max_steps, errors=errors)


def sqrt(a: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> Any:
    r"""Principal square root of every matrix, and its inverse.

    Parameters
    ----------
    a : array (..., n, n), or list of such
        float64 or float32. Symmetric positive semidefinite, or any matrix without eigenvalues on the closed negative
        real axis.
    tol : float, optional
        Bound of ‖X² − A‖_F / ‖A‖_F. None: 4(n + 8)ε·max(1, ‖X‖_F²/‖A‖_F) (1 for symmetric A), at most 0.1.
    max_steps, errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult, or a list of them for a list
        ``residual`` = ‖X² − A‖_F / ‖A‖_F, ``inverse_sqrt`` = X⁻¹ and ``inverse_residual`` = max\|A X⁻² − I\|.

    Raises
    ------
    TypeError, ValueError
        As :func:`polar`; a that is not square.
    numpy.linalg.LinAlgError
        Negative eigenvalues beyond rounding (n·ε·λmax of a symmetric A), zero too where A is not symmetric.

    Notes
    -----
    Symmetric to 16 ulp: from the eigenvalues, at most 11n³ flops; negative ones within rounding count as zeros. Else
    the iteration of Denman and Beavers, scaled, 4n³ flops a step (Higham 2008, section 6.3), whose error is
    cond(A)^½·ε, and then Newton's own correction, XD + DX = A − X², solved by Roberts' sign iteration, 6n³ a step. In
    float64.
    """
    return _evaluate("sqrt", a, _matrix_result, tol=tol, max_steps=max_steps, errors=errors)


def inverse(a: Any, *, tol: float | None = None, max_steps: int = 100, errors: str | None = None) -> Any:
    r"""Inverse of every matrix, measured.

    Parameters
    ----------
    a : array (..., n, n), or list of such
        float64 or float32.
    tol : float, optional
        Bound of max\|A X − I\|. None: 4(n + 8)ε·cond(A), at most 0.1.
    max_steps, errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult, or a list of them for a list
        ``residual`` = max\|A X − I\|. Of a singular matrix (``errors="status"``) ``value`` is Aᵀ/(‖A‖₁‖A‖_∞), where a
        Newton iteration would begin.

    Raises
    ------
    TypeError, ValueError
        As :func:`polar`; a that is not square.
    numpy.linalg.LinAlgError
        A singular matrix, as ``errors`` says.

    Notes
    -----
    Gauss–Jordan elimination with partial pivoting in float64, 2n³ flops, and steps X ← X + X(I − AX) as long as one is
    needed for ``tol`` and halves the residual, 4n³ each. 2n³ for the residual.
    """
    return _evaluate("inverse", a, _matrix_result, tol=tol, max_steps=max_steps, errors=errors)


def inverse_root(
    a: Any,
    p: int,
    *,
    ridge: float = 0.0,
    relative_ridge: float = 0.0,
    tol: float | None = None,
    max_steps: int = 100,
    errors: str | None = None,
) -> Any:
    r"""(A + (ridge + relative_ridge·λmax) I)^(−1/p) of every symmetric positive definite matrix.

    What Shampoo-type optimizers and whitening need: the residual is that of the returned matrix, not a coupled
    iterate's, which says 1e-7 where the truth is 6e-3 (float32, condition 1e6).

    Parameters
    ----------
    a : array (..., n, n), or list of such
        float64 or float32; symmetric to 1000 ulp of its largest entry, and the mean of both triangles counts.
    p : int
        At least 1.
    ridge, relative_ridge : float
        Not negative; λmax is the largest eigenvalue, exactly.
    tol : float, optional
        Bound of max\|(A + …) Xᵖ − I\|. None: 4(n + 8 + 2p)ε·cond of the matrix with its ridge, at most 0.1.
    max_steps : int
        Steps that an eigenvalue may take, of QL or for a root of a secular equation; 5 to 15 are usual. On CUDA
        Jacobi's sweeps, 60 at most; 6 to 20 are usual.
    errors
        As for :func:`polar`.

    Returns
    -------
    MatrixResult, or a list of them for a list
        ``residual`` = max\|(A + …) Xᵖ − I\|. Of a matrix that is not positive definite (``errors="status"``) ``value``
        is the root on the span of its positive eigenvalues.

    Raises
    ------
    TypeError, ValueError
        As :func:`polar`; a that is not square or not symmetric; p < 1; a negative ridge.
    numpy.linalg.LinAlgError
        A + … is not positive definite, as ``errors`` says.

    Notes
    -----
    By eigenvalues, in float64 for both dtypes: Householder's tridiagonal form, divide and conquer (Gu and Eisenstat
    1995), and half a product; at most 6n³ flops. That is fewer than the products of a coupled iteration, accurate at
    any condition, and differentiable. The residual costs 2n³(1 + log₂ p) more. On CUDA by cyclic Jacobi
    (Golub and Van Loan, "Matrix Computations", 8.5), about 6n³ flops a sweep, and a Newton–Schulz step on the vectors.
    """
    if not isinstance(p, (int, np.integer)) or isinstance(p, bool):
        raise TypeError(f"inverse_root: p must be an integer, got {type(p).__name__}")
    return _evaluate(
        "inverse_root",
        a,
        _matrix_result,
        p=int(p),
        tol=tol,
        max_steps=max_steps,
        errors=errors,
        ridge=ridge,
        relative_ridge=relative_ridge,
    )
