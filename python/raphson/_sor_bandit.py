"""Relaxation parameters learned while a sequence of linear systems is solved."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._cheb_regression import ChebyshevCosts
from raphson._frameworks import as_array, back, like_of
from raphson._kkt import as_rows
from raphson._results import warn_not_converged
from raphson._rows import is_sparse
from raphson._seed import Seed, as_key

__all__ = ["SorBandit", "SorResult"]

Doubles = npt.NDArray[np.float64]

_METHODS = {"sor": 0, "ssor_cg": 1}
_STREAM = 0x534F5231  # of Philox: which arm is drawn
_HISTORY = np.dtype([("omega", "f8"), ("cost", "f8"), ("probability", "f8"), ("shift", "f8")])
_HINTS = {
    "max_iter": "Raise max_iter.",
    "precision_floor": "The system's conditioning does not allow more.",
    "breakdown": "A + shift·I must be symmetric positive definite.",
}


@dataclass(frozen=True, eq=False, repr=False)
class SorResult:
    """The solution of one system, and what it took.

    Attributes
    ----------
    x : array (n,)
        In b's framework and dtype.
    residual : float
        ‖b − (A + shift I) x‖ / ‖b‖, measured on x before it is rounded to b's dtype.
    converged, status : bool, str
        Whether ``residual`` is within ``tol``; one of :data:`raphson._results.STATUSES`.
    iterations : int
        The cost that the bandit learned from; each reads A once.
    omega, tol : float
    """

    x: Any
    residual: float
    converged: bool
    status: str
    iterations: int
    omega: float
    tol: float

    def __repr__(self) -> str:
        return (
            f"SorResult(x of shape {tuple(self.x.shape)}, {self.status}, residual={self.residual:.2g}, "
            f"iterations={self.iterations}, omega={self.omega:.4g})"
        )


class SorBandit:
    """Learns omega of SOR, or of CG preconditioned by SSOR, from the iterations that systems took.

    Parameters
    ----------
    omegas : sequence of float
        The candidates, each between 0 and 2; with ``grid`` the two ends of their interval.
    grid : int, optional
        How many candidates, evenly spaced. By default, for two numbers: ⌊(2·horizon)^⅓⌋, at least 2, or 10 without a
        horizon.
    horizon : int, optional
        How many systems there will be, if known.
    shifts : (float, float), optional
        Bounds of the shifts: the cost of every candidate is then learned as a function of the shift (ChebCB). Without
        them one choice is made for all (Tsallis-INF).
    degree : int
        Chebyshev polynomials of the shift, 1 or more: ChebCB's regression has so many coefficients a candidate.
    method : str
        What :meth:`solve` runs: ``"ssor_cg"`` or ``"sor"``.
    least : float
        The least cost there can be; counts of iterations start at 1. Of costs given to :meth:`update`, in their unit.
    seed : int or numpy.random.Generator
        Of the draws, by Philox: equal seeds and costs give equal choices.

    Raises
    ------
    ValueError
        Arguments out of range.

    Notes
    -----
    Tsallis-INF (Zimmert and Seldin 2021) as Khodak, Chow, Balcan and Talwalkar use it ("Learning to Relax", ICLR 2024,
    arXiv 2310.02246): probabilities pᵢ = 4/(η(kᵢ/s − x))², η = 2/√t, x such that they add up to 1; kᵢ sums (cost −
    least)/pᵢ of the draws of i, s is the mean of cost − least so far. ChebCB, from the same paper: every candidate's
    cost is regressed on Chebyshev polynomials of the shift, with coefficients bounded by the costs' range and slope;
    a candidate other than the best one has probability 1/(d + γ·gap), γ from the regressions' measured regret. Unlike
    their code, the squared errors of all candidates' fits are subtracted in it. d candidates, t systems: d or, for
    ChebCB, d·degree³ + t flops a choice.

    A bandit is not to be shared between threads.
    """

    def __init__(
        self,
        omegas: Sequence[float] | npt.NDArray[Any] = (1.0, 1.95),
        *,
        grid: int | None = None,
        horizon: int | None = None,
        shifts: tuple[float, float] | None = None,
        degree: int = 6,
        method: str = "ssor_cg",
        least: float = 1.0,
        seed: Seed = 0,
    ) -> None:
        function = "SorBandit"
        if method not in _METHODS:
            raise ValueError(f"{function}: method must be one of {', '.join(_METHODS)}, got {method!r}")
        self._omegas = _arms(omegas, grid, horizon, function)
        self._least = float(least)
        if not math.isfinite(self._least):
            raise ValueError(f"{function}: least must be finite, got {least!r}")
        self._method = method
        self._seed = as_key(seed, function=function)
        self._costs: ChebyshevCosts | None = None
        if shifts is not None:
            low, high = (float(end) for end in shifts)
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"{function}: shifts must be (low, high) with low < high, got {shifts!r}")
            if operator.index(degree) < 1:
                raise ValueError(f"{function}: degree must be at least 1, got {degree!r}")
            self._costs = ChebyshevCosts(len(self._omegas), operator.index(degree), low, high)
        self._sums = np.zeros(len(self._omegas))
        self._total = 0.0
        self._pending: tuple[int, float, float] | None = None  # arm, its probability, shift
        self._history: list[tuple[float, float, float, float]] = []

    @property
    def omegas(self) -> Doubles:
        """The candidates, ascending or as given."""
        return np.array(self._omegas)

    @property
    def history(self) -> npt.NDArray[Any]:
        """Structured array (omega, cost, probability, shift), one entry a system; shift is NaN where none was given."""
        return np.array(self._history, dtype=_HISTORY)

    @property
    def probabilities(self) -> Doubles:
        """Of the candidates, for the next system (ChebCB: :meth:`probabilities_at`)."""
        if self._costs is not None:
            raise ValueError("SorBandit: probabilities depend on the shift; ask probabilities_at(shift)")
        return self._tsallis()

    @property
    def omega(self) -> float:
        """The candidate that is most probable now (ChebCB: :meth:`best`)."""
        return float(self._omegas[np.argmax(self.probabilities)])

    def probabilities_at(self, shift: float) -> Doubles:
        """Of the candidates, for the next system where it has this shift."""
        if self._costs is None:
            return self._tsallis()
        return self._costs.probabilities(self._shift(shift, "probabilities_at"))

    def best(self, shift: float) -> float:
        """The most probable candidate for this shift."""
        return float(self._omegas[np.argmax(self.probabilities_at(shift))])

    def suggest(self, shift: float | None = None) -> float:
        """Draw omega for the next system; give its cost to :meth:`update`.

        Parameters
        ----------
        shift : float, optional
            Where the bandit was made with ``shifts``: within them.
        """
        if self._costs is not None:
            place = self._shift(shift, "suggest")
            chances = self._costs.probabilities(place)
        else:
            place, chances = (math.nan if shift is None else float(shift)), self._tsallis()
        t = len(self._history)
        high, low, *_ = _core._philox((t & 0xFFFFFFFF, t >> 32, 0, _STREAM), self._seed)
        draw = ((high << 32 | low) >> 11) * 2.0**-53
        ends = np.cumsum(chances)
        arm = min(int(np.searchsorted(ends, draw * ends[-1], side="right")), len(ends) - 1)
        self._pending = (arm, float(chances[arm]), place)
        return float(self._omegas[arm])

    def update(self, cost: float) -> None:
        """What the system took that the last :meth:`suggest` was for: iterations, or any other cost above ``least``."""
        if self._pending is None:
            raise ValueError("SorBandit.update: there is no suggestion to learn from; call suggest first")
        value = float(cost)
        if not math.isfinite(value):
            raise ValueError(f"SorBandit.update: cost must be finite, got {cost!r}")
        arm, chance, shift = self._pending
        above = max(value - self._least, 0.0)
        self._sums[arm] += above / chance
        self._total += above
        if self._costs is not None:
            self._costs.update(arm, shift, above)
        self._history.append((float(self._omegas[arm]), value, chance, shift))
        self._pending = None

    def solve(
        self, A: Any, b: Any, *, shift: float | None = None, tol: float = 1e-8, max_iter: int = 10000, init: Any = None
    ) -> SorResult:
        """Solve (A + shift·I) x = b with a drawn omega, and learn from the iterations.

        Parameters
        ----------
        A : SciPy sparse, or array (n, n)
            float64 or float32, symmetric positive definite with the shift (not checked; a positive diagonal is).
            Arithmetic in float64.
        b : array (n,)
        shift : float, optional
            By default 0. The bandit's context where it was made with ``shifts``.
        tol : float
            Of ‖b − (A + shift I) x‖ / ‖b‖.
        max_iter : int
            A system that takes longer has this cost.
        init : array (n,), optional
            Where to start; by default 0.

        Returns
        -------
        SorResult

        Raises
        ------
        ValueError
            Shapes that do not fit, NaN or Inf, a diagonal that is not positive.
        TypeError
            Integer or complex data.
        RuntimeError
            CUDA arrays.

        Warns
        -----
        ConvergenceWarning
            ``residual`` is above ``tol``.

        Notes
        -----
        4 flops an entry of A an iteration (sor), 3 with ssor_cg in Eisenstat's form (1981), and one read of A: sweeps
        wait for their own results, so one thread runs them.
        """
        function = "SorBandit.solve"
        if is_sparse(A) and A.dtype not in (np.float64, np.float32):
            raise TypeError(f"{function}: A must be float64 or float32, got {A.dtype}")
        given = A if is_sparse(A) else _compress(A, function)
        core, size = as_rows(given, function, "A")
        if size[0] != size[1]:
            raise ValueError(f"{function}: A must be square, got shape {size}")
        if not np.isfinite(given.data).all():
            raise ValueError(f"{function}: A has NaN or Inf")
        right = _vector(b, size[0], function, "b")
        level, most = float(tol), operator.index(max_iter)
        if not 0 < level < math.inf:
            raise ValueError(f"{function}: tol must be positive, got {tol!r}")
        if most < 1:
            raise ValueError(f"{function}: max_iter must be at least 1, got {max_iter!r}")
        added = 0.0 if shift is None else float(shift)
        if not math.isfinite(added):
            raise ValueError(f"{function}: shift must be finite, got {shift!r}")
        start = None if init is None else _vector(init, size[0], function, "init")
        omega = self.suggest(added if self._costs is not None else shift)
        try:
            found = _core.relax(core, right, omega, added, _METHODS[self._method], level, most, start)
        except BaseException:
            self._pending = None
            raise
        self.update(found["iterations"])
        status = found["status"]
        result = SorResult(
            x=back(found["x"], like_of(b), _core._as_numpy(as_array(b), function, "b").dtype.name),
            residual=found["residual"],
            converged=status == "converged",
            status=status,
            iterations=found["iterations"],
            omega=omega,
            tol=level,
        )
        if not result.converged:
            warn_not_converged(function, status, result.residual, level, _HINTS.get(status, ""))
        return result

    def _shift(self, shift: float | None, function: str) -> float:
        assert self._costs is not None
        low, high = self._costs.low, self._costs.high
        if shift is None or not low <= float(shift) <= high:
            raise ValueError(f"SorBandit.{function}: shift must lie in [{low:g}, {high:g}], got {shift!r}")
        return float(shift)

    def _tsallis(self) -> Doubles:
        t, d = len(self._history) + 1, len(self._omegas)
        mean = self._total / max(t - 1, 1)
        if not mean > 0:
            return np.full(d, 1 / d)
        eta, costs = 2 / math.sqrt(t), self._sums / mean
        costs = costs - costs.min()
        x = -2 / eta  # here the cheapest alone has probability 1; a convex function falls to its root from above
        for _ in range(60):
            chances = 4 / np.square(eta * (costs - x))
            step = (chances.sum() - 1) / (eta * (chances**1.5).sum())
            x -= step
            if abs(step) <= 1e-15 * abs(x):
                break
        chances = 4 / np.square(eta * (costs - x))
        return np.asarray(chances / chances.sum())

    def __len__(self) -> int:
        return len(self._history)

    def __repr__(self) -> str:
        kind = "tsallis_inf" if self._costs is None else f"chebcb on [{self._costs.low:g}, {self._costs.high:g}]"
        ends = f"{len(self._omegas)} omegas from {self._omegas.min():.4g} to {self._omegas.max():.4g}"
        return f"SorBandit({ends}, {self._method}, {kind}, {len(self)} systems so far)"


def _arms(omegas: Sequence[float] | npt.NDArray[Any], grid: int | None, horizon: int | None, function: str) -> Doubles:
    arms = np.array(omegas, dtype=np.float64)
    if arms.ndim != 1 or len(arms) == 0:
        raise ValueError(f"{function}: omegas must have shape (d,), got {arms.shape}")
    if not ((arms > 0) & (arms < 2)).all():
        raise ValueError(f"{function}: omegas must lie between 0 and 2, got {omegas!r}")
    rounds = None if horizon is None else operator.index(horizon)
    if rounds is not None and rounds < 1:
        raise ValueError(f"{function}: horizon must be at least 1, got {horizon!r}")
    if grid is None and len(arms) != 2:
        return arms
    if len(arms) != 2:
        raise ValueError(f"{function}: with a grid, omegas must be (low, high), got {len(arms)} numbers")
    usual = 10 if rounds is None else max(2, int((2 * rounds) ** (1 / 3) + 1e-9))
    count = usual if grid is None else operator.index(grid)
    if count < 1:
        raise ValueError(f"{function}: grid must be at least 1, got {grid!r}")
    return np.linspace(arms[0], arms[1], count)


def _compress(dense: Any, function: str) -> Any:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

    view = _core._as_numpy(as_array(dense), function, "A")
    if view.ndim != 2:
        raise ValueError(f"{function}: A must have two axes, got shape {view.shape}")
    return csr_array(view)


def _vector(given: Any, n: int, function: str, name: str) -> Doubles:
    view = _core._as_numpy(as_array(given), function, name)
    if view.shape != (n,):
        raise ValueError(f"{function}: {name} must have shape ({n},), got {view.shape}")
    if not np.isfinite(view).all():
        raise ValueError(f"{function}: {name} has NaN or Inf")
    return np.ascontiguousarray(view, dtype=np.float64)
