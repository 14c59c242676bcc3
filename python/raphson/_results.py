"""How solvers say what they reached, at the end and on the way: one vocabulary for all families."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["STATUSES", "ConvergenceWarning", "Progress", "warn_not_converged", "warnings_as"]

#: Every ``status`` a result can carry.
#:
#: ``converged``        the residual, measured on what is returned, is within the tolerance;
#: ``max_iter``         the iteration limit came first;
#: ``precision_floor``  the tolerance lies below what the precision can reach, and that level was reached;
#: ``stalled``          no further progress, although neither was reached;
#: ``stopped``          a callback or an interrupt ended the run;
#: ``infeasible``       the problem has no solution;
#: ``breakdown``        the iteration left the finite numbers; the last finite iterate is returned.
STATUSES: Final = ("converged", "max_iter", "precision_floor", "stalled", "stopped", "infeasible", "breakdown")


class ConvergenceWarning(UserWarning):
    """A solver stopped before its residual reached the tolerance; given once a call."""


_category: ContextVar[tuple[type[ConvergenceWarning], int]] = ContextVar("category", default=(ConvergenceWarning, 0))


@contextmanager
def warnings_as(category: type[ConvergenceWarning], above: int) -> Iterator[None]:
    """What solvers warn with meanwhile, in this thread: a subclass that the filters of another library know, too.

    ``above``: so many calls lie between the solver's caller and the user.
    """
    token = _category.set((category, above))
    try:
        yield
    finally:
        _category.reset(token)


def warn_not_converged(
    function: str, status: str, residual: float, tol: float, hint: str, *, stacklevel: int = 3
) -> None:
    """Give the one :class:`ConvergenceWarning` of a call.

    Parameters
    ----------
    function : str
        Name the user called.
    status : str
        One of :data:`STATUSES`.
    residual, tol : float
        The residual measured on what is returned, and what was asked for.
    hint : str
        One sentence on what to try.
    """
    if status not in STATUSES:
        raise ValueError(f"unknown status {status!r}")
    message = f"{function} did not converge ({status}): residual {residual:.3g}, tolerance {tol:.3g}. {hint}"
    category, above = _category.get()
    warnings.warn(message, category, stacklevel=stacklevel + above)


class Progress:
    """A bar of decades, where tqdm is there and wanted; it never moves back."""

    def __init__(self, wanted: bool, description: str, total: float = 0.0) -> None:
        self._bar, self._reached = None, 0.0
        if wanted:
            try:
                from tqdm.auto import tqdm  # type: ignore[import-untyped]
            except ImportError:
                return
            self._bar = tqdm(total=total, unit="decade", desc=description)

    @property
    def silent(self) -> bool:
        return self._bar is None

    def left(self, decades: float, **postfix: str) -> None:
        """So many decades are left; the first call sets a total that was not known."""
        if self._bar is None:
            return
        if self._bar.total == 0:
            self._bar.total = decades
        reached = min(max(self._bar.total - decades, self._reached), self._bar.total)
        self._bar.update(reached - self._reached)
        self._reached = reached
        if postfix:
            self._bar.set_postfix(postfix, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
