"""Types of the compiled core; kept by hand, since its arguments are any array."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

class _BuildInfo(TypedDict):
    version: str
    isa: str
    isas: list[str]
    threads: int
    eigen: str

def _check_environment() -> None: ...
def build_info() -> _BuildInfo: ...
def get_num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def orthogonalize(
    x: Any,
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    method: str,
    precision: Any,
    eps: float,
    check_finite: bool | None,
    out: Any,
) -> Any: ...
def orthogonalize_many(
    arrays: list[Any],
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    method: str,
    precision: Any,
    eps: float,
    check_finite: bool | None,
    out: Any,
) -> list[Any]: ...
def plan(
    rows: int,
    cols: int,
    dtype: str,
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    method: str,
    precision: str | None,
) -> dict[str, Any]: ...
def soft_clip(x: Any, quantile: float) -> Any: ...
def auon(x: Any, gamma: float, hybrid_steps: int) -> Any: ...
def orthogonalize_vjp(
    x: Any,
    cotangent: Any,
    schedule: Any,
    steps: int | None,
    normalize: str | None,
    precision: Any,
    eps: float,
    check_finite: bool | None,
    out: Any,
) -> Any: ...
def schedule_names() -> list[str]: ...
def schedule(name: str, steps: int, rows: int, cols: int) -> npt.NDArray[np.float64]: ...
def minimax_schedule(
    lower: float, steps: int, degree: int, safety: float, cushion: float
) -> npt.NDArray[np.float64]: ...
def _time_orthogonalize(x: Any, out: Any, repeats: int) -> float: ...
def _fma_peak(dtype: str, seconds: float) -> float: ...
def _read_once(memory: Any) -> float: ...
def _philox(counter: Sequence[int], key: int) -> list[int]: ...
def _touch3(a: Any, b: Any, c: Any) -> None: ...
def _nothing3(a: Any, b: Any, c: Any) -> None: ...
