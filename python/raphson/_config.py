"""What holds for the whole process: threads and build information."""

from __future__ import annotations

import importlib.util
from typing import TypedDict

from raphson import _core

_core._check_environment()  # an unknown RAPHSON_ISA or RAPHSON_NUM_THREADS is told at import, not in the first call

__all__ = ["BuildInfo", "build_info", "get_num_threads", "set_num_threads"]


class BuildInfo(TypedDict):
    """What :func:`build_info` returns."""

    version: str
    isa: str
    isas: list[str]
    cuda_built: bool
    cuda_available: bool
    threads: int
    eigen: str


def _cuda_available() -> bool:
    try:
        from raphson import _cuda

        return _cuda.device_count() > 0
    except (ImportError, RuntimeError):  # not built, or no working driver: both mean no CUDA here
        return False


def build_info() -> BuildInfo:
    """What this installation is and runs on.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set in use (``RAPHSON_ISA`` caps it at import time); ``isas``, those
        built, lowest first; ``cuda_built`` and ``cuda_available`` (a device is there and its driver works);
        ``threads``; ``eigen``, the version of the vendored Eigen.
    """
    info = _core.build_info()
    return {
        "version": info["version"],
        "isa": info["isa"],
        "isas": info["isas"],
        "cuda_built": importlib.util.find_spec("raphson._cuda") is not None,
        "cuda_available": _cuda_available(),
        "threads": info["threads"],
        "eigen": info["eigen"],
    }


def get_num_threads() -> int:
    """Number of threads a computation uses, the caller's included.

    The default is ``RAPHSON_NUM_THREADS`` when it is set, else the number of CPUs this process may run on.
    """
    return _core.get_num_threads()


def set_num_threads(count: int) -> None:
    """Set the number of threads, the caller's included, for the whole process.

    The count never changes a bit of a result: work is cut by shape alone.

    Parameters
    ----------
    count : int
        From 1 to 1024, else ``ValueError``.
    """
    _core.set_num_threads(count)
