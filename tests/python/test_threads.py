"""The pool: the same bits for any number of threads, callers side by side, fork, the GIL and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

import raphson
from raphson import orthogonalize

DTYPES = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)]
SHAPES = [
    (1, 1),
    (8, 8),
    (3, 700),
    (64, 64),
    (130, 70),
    (257, 300),
    (300, 301),
    (120, 700),
    (7, 40, 60),
    (3, 130, 250),
    (33, 16, 16),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_number_of_threads_changes_no_bit(rng, threads, shape, dtype):
    x = rng.standard_normal(shape).astype(dtype)
    results = {}
    for count in (1, 2, 3, 8):
        threads(count)
        assert raphson.get_num_threads() == count
        results[count] = [
            orthogonalize(x).tobytes(),
            orthogonalize(x, method="standard", schedule="muon").tobytes(),
            orthogonalize(x.swapaxes(-1, -2)[..., ::-1], normalize="gram").tobytes(),
        ]
    for count in (2, 3, 8):
        assert results[count] == results[1]


def test_repeated_calls_give_the_same_bits(rng, threads):
    x = rng.standard_normal((5, 90, 130)).astype(np.float32)
    threads(3)
    first = orthogonalize(x).tobytes()
    assert all(orthogonalize(x).tobytes() == first for _ in range(50))


def test_the_thread_count_may_change_at_any_time(rng, threads):
    x = rng.standard_normal((96, 200))
    truth = orthogonalize(x)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for count in (1, 2, 5, 3):
                raphson.set_num_threads(count)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        assert all(np.array_equal(orthogonalize(x), truth) for _ in range(100))
    finally:
        stop.set()
        changer.join()


def test_several_callers_at_once_get_right_results(rng, threads):
    threads(2)
    inputs = [
        rng.standard_normal(shape).astype(d) for shape in [(90, 200), (64, 64), (5, 40, 70), (300, 40)] for d in DTYPES
    ]
    truths = [orthogonalize(x).tobytes() for x in inputs]

    def work(seed: int) -> bool:
        order = np.random.default_rng(seed).permutation(len(inputs))
        return all(orthogonalize(inputs[i]).tobytes() == truths[i] for i in order)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(18)))


def test_callers_that_share_an_input(rng, threads):
    threads(2)
    x = rng.standard_normal((128, 256)).astype(np.float32)
    truth = orthogonalize(x).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert all(r.tobytes() == truth for r in pool.map(orthogonalize, [x] * 40))


def test_errors_of_one_caller_do_not_reach_another(rng, threads):
    threads(2)
    good, bad = rng.standard_normal((64, 128)), np.full((64, 128), np.nan)
    truth = orthogonalize(good)

    def work(i: int) -> bool:
        if i % 2:
            return np.array_equal(orthogonalize(good), truth)
        with pytest.raises(ValueError, match="NaN"):
            orthogonalize(bad)
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(200)))


@pytest.mark.parametrize("how", ["numpy", "torch"])
def test_other_python_threads_run_meanwhile(rng, threads, how, request):
    threads(1)
    x = rng.standard_normal((900, 900))
    if how == "torch":
        x = request.getfixturevalue("torch").from_numpy(x)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        start = time.monotonic()
        orthogonalize(x)
        end = time.monotonic()
    finally:
        stop.set()
        ticker.join()
    fifth = (end - start) / 5
    assert end - start > 0.05, "too fast to tell"
    assert len([t for t in ticks if start + fifth < t < end - fifth]) >= 10


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 1025, 10**6])
def test_thread_counts_out_of_range(threads, count):
    threads(2)
    with pytest.raises(ValueError, match=rf"count must be from 1 to 1024, got {count}"):
        raphson.set_num_threads(count)
    assert raphson.get_num_threads() == 2


@pytest.mark.parametrize("count", ["2", 2.5, None])
def test_thread_counts_of_the_wrong_type(count):
    with pytest.raises(TypeError):
        raphson.set_num_threads(count)


PRINT_THREADS = "import raphson; print(raphson.get_num_threads(), raphson.build_info()['threads'])"


@pytest.mark.parametrize("count", [1, 3, 17])
def test_the_environment_sets_the_count(run_python, count):
    assert run_python(PRINT_THREADS, RAPHSON_NUM_THREADS=str(count)).stdout.split() == [str(count)] * 2


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "3 threads", "1025", "99999999999999999999"])
def test_nonsense_in_the_environment_is_told_at_import(run_python, text):
    code = "try:\n import raphson\nexcept Exception as e:\n print(type(e).__name__, e)"
    said = run_python(code, RAPHSON_NUM_THREADS=text).stdout
    assert said.startswith("ValueError RAPHSON_NUM_THREADS must be an integer from 1 to 1024")
    assert f"'{text}'" in said


def test_an_empty_variable_is_no_setting(run_python):
    usual = run_python(PRINT_THREADS).stdout
    assert run_python(PRINT_THREADS, RAPHSON_NUM_THREADS="").stdout == usual


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity to ask for")
def test_the_default_is_the_cpus_this_process_may_use(run_python):
    cpus = sorted(os.sched_getaffinity(0))
    for allowed in {1, len(cpus)}:
        code = f"import os; os.sched_setaffinity(0, {cpus[:allowed]}); {PRINT_THREADS}"
        assert run_python(code).stdout.split()[0] == str(allowed)


# ---- fork -----------------------------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

FORK = """
import os, sys, threading, warnings
import numpy as np
import raphson
warnings.simplefilter("ignore")  # newer Pythons warn of any fork with threads
raphson.set_num_threads(3)
x = np.random.default_rng(0).standard_normal((200, 300))
truth = raphson.orthogonalize(x)
busy = None
if "busy" in sys.argv:
    big = np.random.default_rng(1).standard_normal((1000, 1000))
    busy = threading.Thread(target=raphson.orthogonalize, args=(big,))
    busy.start()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        ok = all(np.array_equal(raphson.orthogonalize(x), truth) for _ in range(3))
        if ok and os.fork() == 0:  # and in the child's child
            os._exit(0 if np.array_equal(raphson.orthogonalize(x), truth) else 1)
        ok = ok and os.waitstatus_to_exitcode(os.wait()[1]) == 0
        os._exit(0 if ok else 1)
    children.append(pid)
assert np.array_equal(raphson.orthogonalize(x), truth)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
if busy:
    busy.join()
print(codes)
"""


@needs_fork
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_the_pool_is_rebuilt_after_a_fork(run_python, state):
    assert run_python(FORK, state).stdout.strip() == "[0, 0, 0]"


MULTIPROCESSING = """
import multiprocessing, warnings
import numpy as np
import raphson
warnings.simplefilter("ignore")
raphson.set_num_threads(2)
x = np.random.default_rng(0).standard_normal((6, 90, 120)).astype(np.float32)
truth = raphson.orthogonalize(x)
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.map(raphson.orthogonalize, list(x))
    assert np.array_equal(np.stack(got), truth)
    print("same")
"""


@needs_fork
def test_multiprocessing_by_fork(run_python):
    assert run_python(MULTIPROCESSING).stdout.strip() == "same"


def test_the_interpreter_ends_while_the_pool_waits(run_python):
    code = "import numpy, raphson; raphson.set_num_threads(4); raphson.orthogonalize(numpy.eye(300)); print('end')"
    done = run_python(code)
    assert done.stdout.strip() == "end"
    assert done.stderr == ""


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------

INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start with SIGINT ignored
import numpy as np
import raphson
rng = np.random.default_rng(0)
kind = sys.argv[1]
shape = {"single": (4096, 4096), "scan": (4096, 4096), "batch": (200, 300, 400)}[kind]
steps = [(1.875, -1.25, 0.375)] * 60  # seconds of work, on any machine
x = rng.standard_normal(shape, dtype=np.float32)
before = x.copy()
print("started", flush=True)
try:
    raphson.orthogonalize(x, schedule=steps, out=x)
except KeyboardInterrupt:
    end = time.monotonic()
else:
    sys.exit("was not interrupted")
if kind == "batch":
    for i in range(len(x)):
        if not np.array_equal(x[i], before[i]):
            assert np.array_equal(x[i], raphson.orthogonalize(before[i], schedule=steps)), f"matrix {i} is half done"
else:
    assert np.array_equal(x, before), "x was written"
assert np.isfinite(raphson.orthogonalize(before[:1] if kind == "batch" else before[:200, :200])).all()  # and goes on
print(end)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
@pytest.mark.parametrize("kind", ["single", "batch"])
@pytest.mark.parametrize("threads_used", ["1", "2"])
def test_ctrl_c_ends_a_long_call_and_leaves_whole_matrices(child_env, kind, threads_used):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, kind],
        env=child_env(RAPHSON_NUM_THREADS=threads_used),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        time.sleep(0.4)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        rest, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    assert float(rest) - sent <= 0.2 + 0.15  # the promise, and what a busy machine takes to wake both processes


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGALRM")
def test_a_signal_handler_runs_during_a_call_and_may_raise(run_python):
    code = """
import signal, time
import numpy as np, raphson
class Mine(Exception): pass
fired = []
def handler(number, frame):
    fired.append(time.monotonic())
    if len(fired) > 1: raise Mine
signal.signal(signal.SIGALRM, handler)
x = np.random.default_rng(0).standard_normal((2048, 2048))
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
start = time.monotonic()
try:
    raphson.orthogonalize(x)
except Mine:
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(len(fired), time.monotonic() - start < 1.5)
"""
    assert run_python(code).stdout.split() == ["2", "True"]
