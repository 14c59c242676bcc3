"""One contender in a process of its own: ``python -m bench.worker``, commands as JSON lines on stdin.

While it waits for a command it is blocked in a read, so that its runtime's threads go to sleep and the contender that
is being timed has the machine to itself. Answers go to a private copy of stdout; whatever libraries print goes to
stderr.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

Call = Callable[[], Any]


def as_float64(value: Any) -> npt.NDArray[np.float64]:
    """A result of any contender, for comparing."""
    if hasattr(value, "detach"):
        value = value.double().numpy()
    return np.asarray(value).astype(np.float64)


class Worker:
    def __init__(self) -> None:
        self.call: Call = lambda: None
        self.memory: list[npt.NDArray[np.float64]] = []

    def prepare(self, module: str, contender: str, case: dict[str, Any], save: str) -> dict[str, Any]:
        """Builds the contender's ways to compute `case`, keeps the fastest, writes its answer to `save`."""
        variants: dict[str, Call] = importlib.import_module(module).variants(contender, case)
        best, best_seconds = "", float("inf")
        for name, call in variants.items():
            for _ in range(2 if len(variants) > 1 else 1):  # the first call of several is a warm-up
                start = time.perf_counter()
                answer = call()
                seconds = time.perf_counter() - start
            if seconds < best_seconds:
                best, best_seconds = name, seconds
                np.save(save, as_float64(answer))
        self.call = variants[best]
        return {"variant": best, "seconds": best_seconds}

    def time(self, calls: int, warm: bool) -> dict[str, Any]:
        """Median seconds of a call."""
        call = self.call
        if warm:
            call()
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return {"seconds": float(np.median(seconds))}

    def fma(self, dtype: str, threads: int, seconds: float) -> dict[str, Any]:
        """Flops a second of multiply-adds that stay in registers, on all `threads` at once."""
        from raphson import _core

        with ThreadPoolExecutor(threads) as pool:
            return {"flops": sum(pool.map(lambda _: _core._fma_peak(dtype, seconds), range(threads)))}

    def read(self, threads: int, megabytes: int) -> dict[str, Any]:
        """Bytes a second of a streaming read, `threads` at once, each over memory of its own; the best of three."""
        from raphson import _core

        while len(self.memory) < threads:
            self.memory.append(np.ones(megabytes << 17))
        best = 0.0
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(3):
                start = time.perf_counter()
                list(pool.map(_core._read_once, self.memory[:threads]))
                best = max(best, threads * (megabytes << 20) / (time.perf_counter() - start))
        return {"bytes": best}

    def facts(self) -> dict[str, Any]:
        """Versions, and the instruction set and thread count that raphson took."""
        import raphson

        versions = {"python": sys.version.split()[0]}
        for package in ("numpy", "torch", "jax"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "absent"
        return {"versions": versions, "raphson": dict(raphson.build_info())}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # the parent raises it again, with this process's traceback on stderr
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
