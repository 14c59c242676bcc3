"""Types of the compiled core; kept by hand, since its arguments are any array."""

from collections.abc import Sequence
from typing import Any, TypedDict

class _BuildInfo(TypedDict):
    version: str
    isa: str
    isas: list[str]
    threads: int
    eigen: str

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
def _fma_peak(dtype: str, seconds: float) -> float: ...
def _read_once(memory: Any) -> float: ...
def _philox(counter: Sequence[int], key: int) -> list[int]: ...
def _touch3(a: Any, b: Any, c: Any) -> None: ...
def _nothing3(a: Any, b: Any, c: Any) -> None: ...
