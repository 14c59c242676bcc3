"""Out of core: solvers that read blocks keep a few blocks and what they state, not the data; measured from outside."""

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

rows, cols, count = 10_000, 150, 40
rng = np.random.default_rng(0)
base = rng.standard_normal((rows, cols))
y = (rng.random(rows * count) < 0.5).astype(float)

def blocks():
    for k in range(count):
        yield np.roll(base, k, axis=1) * (1 + k / 10)

small = lambda: iter([base])
if sys.argv[1] == "lstsq":
    run = lambda x, z: raphson.lstsq(x, z, method="sketch")
elif sys.argv[1] == "sketch":
    run = lambda x, z: raphson.sketch.SparseSign(600, len(z)).apply(x)
else:
    run = lambda x, z: raphson.fit_glm(x, z, ridge=1e-3, tol=1e-4)
run(small, y[:rows])  # threads and their scratch
before = peak()
result = run(blocks, y)
print(peak() - before, 8 * rows * cols * count, 8 * rows * cols)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("what", ["lstsq", "sketch", "fit_glm"])
def test_blocks_are_not_kept(child_env, what):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=child_env())
    taken, data, block = map(int, done.stdout.split())
    assert data == 480_000_000
    assert taken <= 3 * block + 8 * 400_000 * 8 + 24e6  # blocks on their way, numbers for every row, scratch
