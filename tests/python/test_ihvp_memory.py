"""What a window takes from the system: its rows, O(dim) and O(capacity²), measured from outside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import re, sys
import numpy as np
import raphson

def peak():  # bytes ever resident
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])

dim, capacity, dtype, error_feedback = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "1"
g, out = np.ones(dim, np.float32), np.ones(dim, np.float32)
small = raphson.GradientWindow(1000, 4, 0.1)
small.precondition(np.ones(1000, np.float32))  # threads and their scratch
before = peak()
window = raphson.GradientWindow(dim, capacity, 0.1, dtype=dtype, error_feedback=error_feedback)
for k in range(capacity + 2):
    g[k] += 1
    window.precondition(g, out=out)
window.solve(g, out=out)
window.quadratic(g)
window.influence()
print(peak() - before, window.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
@pytest.mark.parametrize("error_feedback", [False, True])
def test_a_window_takes_its_rows_and_little_more(child_env, dtype, size, error_feedback):
    dim, capacity = 1_000_000, 60
    command = [sys.executable, "-c", PROGRAM, str(dim), str(capacity), dtype, "1" if error_feedback else "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=child_env())
    taken, told = map(int, done.stdout.split())
    rows = dim * (capacity + 1) * size
    assert rows <= told <= rows + 16 * dim + 100 * capacity**2
    # scratch of the threads and whole huge pages, neither of which grows with dim
    assert 0.95 * rows <= taken <= told + 24e6
