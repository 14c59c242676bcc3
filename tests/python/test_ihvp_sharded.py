"""GradientWindow(comm=…): every rank holds a slice of the columns, and all agree with the single window."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raphson.ihvp import GradientWindow

DIM, CAPACITY = 61, 5


class Group:
    """Communicators of threads: ``allreduce`` adds in the order of ranks, so that all get the same bits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=20)
        self.parts: list[Any] = [None] * size

    def comm(self, rank: int) -> Any:
        group = self

        class Comm:
            def allreduce(self, value: Any) -> Any:
                group.parts[rank] = value
                group.barrier.wait()
                total = sum(group.parts[1:], start=group.parts[0])
                group.barrier.wait()
                return total

        return Comm()


def on_ranks(size: int, work: Callable[[Any, slice], Any]) -> list[Any]:
    """work(comm, columns) of every rank at once; an exception is its result. A hang breaks the barrier and shows."""
    group, results = Group(size), [None] * size
    bounds = np.linspace(0, DIM, size + 1).astype(int)

    def run(rank: int) -> None:
        try:
            results[rank] = work(group.comm(rank), slice(bounds[rank], bounds[rank + 1]))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=40)
        assert not thread.is_alive(), "a rank hangs"
    return results


def session(window: GradientWindow, g: np.ndarray, x: np.ndarray) -> dict[str, Any]:
    """What a caller sees, vectors for the columns this window holds."""
    steps = [window.precondition(row) for row in g]
    window.push(g[0])
    return {
        "steps": np.array(steps),
        "solve": window.solve(x),
        "recent": window.solve_recent([1.0, -0.5, 0.25]),
        "quadratic": window.quadratic(x),
        "row": window.quadratic(2),
        "logdet": window.logdet(),
        "influence": window.influence(),
        "damping": window.damping_in_use,
    }


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("damping", [0.01, ("relative", 0.1)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8"])
def test_ranks_agree_with_the_single_window(rng, size, damping, dtype):
    g = rng.standard_normal((12, DIM)).astype(np.float64 if dtype == "float64" else np.float32)
    x = rng.standard_normal(DIM).astype(g.dtype)
    if dtype == "int8":  # scales belong to a rank's own columns: whole numbers up to 127 are stored as they are
        g = np.round(20 * g).clip(-126, 126)
        g[:, ::2] = np.where(g[:, ::2] == 0, 1, g[:, ::2])
        g[:, [0, 21, 41]] = 127
    whole = session(GradientWindow(DIM, CAPACITY, damping, dtype=dtype), g, x)

    def work(comm: Any, columns: slice) -> dict[str, Any]:
        width = columns.stop - columns.start
        window = GradientWindow(width, CAPACITY, damping, dtype=dtype, comm=comm)
        return session(window, g[:, columns], x[columns])

    parts = on_ranks(size, work)
    for part in parts:
        assert isinstance(part, dict), part
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for name in ("steps", "solve", "recent"):
        got = np.concatenate([part[name] for part in parts], axis=-1)
        assert np.abs(got - whole[name]).max() <= tolerance * np.abs(whole[name]).max(), name
    for name in ("quadratic", "row", "logdet", "influence", "damping"):
        for part in parts:  # numbers are everybody's, to the bit
            assert np.array_equal(part[name], parts[0][name])
        np.testing.assert_allclose(parts[0][name], whole[name], rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("method", ["push", "precondition", "solve", "quadratic"])
@pytest.mark.parametrize("trouble", ["nan", "length", "dtype", "axes"])
def test_one_rank_refuses_and_all_raise(rng, size, method, trouble):
    g = rng.standard_normal((4, DIM)).astype(np.float32)

    def work(comm: Any, columns: slice) -> tuple[Any, bool, int]:
        window = GradientWindow(columns.stop - columns.start, CAPACITY, 0.1, comm=comm)
        window.push(g[0, columns])
        window.push(g[1, columns])
        before = window.state_dict()
        bad = g[2, columns].copy()
        if columns.start == 0:
            bad = {
                "nan": np.where(np.arange(bad.size) == 3, np.float32(np.nan), bad),
                "length": bad[:-1],
                "dtype": bad.astype(int),
                "axes": bad[None],
            }[trouble]
        error: Any = None
        try:
            getattr(window, method)(bad)
        except Exception as caught:
            error = caught
        after = window.state_dict()
        window.push(g[3, columns])  # nobody waits for anybody
        return error, all(np.array_equal(before[k], after[k]) for k in ("rows", "gram", "length", "head")), len(window)

    results = on_ranks(size, work)
    for result in results:
        assert isinstance(result, tuple), result
    assert isinstance(results[0][0], TypeError if trouble == "dtype" else ValueError)
    for error, unchanged, length in results[1:]:
        assert isinstance(error, RuntimeError)
        assert "another process" in str(error)
        assert unchanged
        assert length == 3
    assert results[0][1:] == (True, 3)


def test_blocks_stay_within_ranks(rng):
    """With block_size the ranks' blocks are those of the single window where slices end at blocks."""
    g, x = rng.standard_normal((9, 40)), rng.standard_normal(40)
    whole = session(GradientWindow(40, CAPACITY, 0.05, dtype="float64", block_size=10), g, x)
    group = Group(2)
    parts: list[Any] = [None, None]

    def run(rank: int) -> None:
        columns = slice(20 * rank, 20 * rank + 20)
        window = GradientWindow(20, CAPACITY, 0.05, dtype="float64", block_size=10, comm=group.comm(rank))
        parts[rank] = session(window, g[:, columns], x[columns])

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=40)
    assert None not in parts
    for name in ("steps", "solve", "recent"):
        np.testing.assert_allclose(
            np.concatenate([p[name] for p in parts], axis=-1), whole[name], rtol=1e-10, atol=1e-12
        )
    for name in ("quadratic", "row", "logdet", "influence"):
        np.testing.assert_allclose(parts[0][name], whole[name], rtol=1e-10)


MPI_PROGRAM = """
import numpy as np
from mpi4py import MPI
from raphson.ihvp import GradientWindow
comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)
g, x = rng.standard_normal((9, 60)), rng.standard_normal(60)
whole = GradientWindow(60, 4, 0.02, dtype="float64")
width = 60 // comm.size
columns = slice(width * comm.rank, width * comm.rank + width)
mine = GradientWindow(width, 4, 0.02, dtype="float64", comm=comm)
for row in g:
    np.testing.assert_allclose(mine.precondition(row[columns]), whole.precondition(row)[columns], rtol=1e-9, atol=1e-11)
np.testing.assert_allclose(mine.solve(x[columns]), whole.solve(x)[columns], rtol=1e-9, atol=1e-11)
try:
    mine.push(np.full(width, np.nan) if comm.rank == 0 else g[0, columns])
except (ValueError, RuntimeError) as error:
    print("refused:", type(error).__name__, flush=True)
assert len(mine) == 4
"""


@pytest.mark.parametrize("size", [2, 3])
def test_real_mpi(size, child_env):
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is None:
        pytest.skip("there is no mpiexec")
    command = [mpiexec, "--allow-run-as-root", "--oversubscribe", "-n", str(size), sys.executable, "-c", MPI_PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=child_env(), check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused:") == size
