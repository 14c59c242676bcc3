"""Who owns what: a thousand calls leave no reference and no memory behind."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from dlpack import Export, Producer
from raphson import orthogonalize

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((6, 9))


@pytest.fixture
def truth(x) -> np.ndarray:
    return orthogonalize(x)


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def calls_on(kind: str, request: pytest.FixtureRequest) -> tuple[Callable[[], object], list[object]]:
    """A call on 24 KiB of data, and the objects whose reference counts it must leave alone."""
    x = np.random.default_rng(0).standard_normal((48, 64))
    if kind == "numpy":
        return lambda: orthogonalize(x), [x]
    if kind == "numpy out":
        out = np.empty_like(x)
        return lambda: orthogonalize(x, out=out), [x, out]
    if kind == "numpy strided":
        view = x[::-1].T
        return lambda: orthogonalize(view), [x, view]
    if kind == "unaligned":
        records = np.zeros(x.shape, [("a", "f8"), ("b", "i1")])
        records["a"] = x
        view = records["a"]
        return lambda: orthogonalize(view), [records, view]
    if kind == "bfloat16":
        x16 = x.astype(BF16)
        return lambda: orthogonalize(x16), [x16, BF16]
    if kind == "list":
        rows = x[:4].tolist()
        return lambda: orthogonalize(rows), [rows]
    if kind == "capsule":
        return lambda: orthogonalize(x.__dlpack__(max_version=(1, 0))), [x]
    if kind == "producer":
        producer = Producer(Export(x))
        return lambda: (orthogonalize(producer), producer.calls.clear()), [producer, producer.export]
    if kind == "nan":
        bad, out = np.full_like(x, np.nan), np.empty_like(x)

        def refused() -> None:
            for keywords in ({}, {"out": out}):
                with pytest.raises(ValueError, match="NaN"):
                    orthogonalize(bad, **keywords)

        return refused, [bad, out]
    if kind == "table":
        table = np.ones((2, 3))
        return lambda: orthogonalize(x, schedule=table), [x, table]
    if kind == "name":
        return lambda: orthogonalize(x, schedule="".join(["mu", "on"])), [x]
    if kind.startswith("torch"):
        torch = request.getfixturevalue("torch")
        t = torch.from_numpy(x)
        if kind == "torch out":
            out = torch.empty_like(t)
            return lambda: orthogonalize(t, out=out), [t, out]
        if kind == "torch refused":
            leaf, sparse, bad = t.clone().requires_grad_(), t.to_sparse(), torch.full_like(t, torch.nan)

            def refused_tensors() -> None:
                for tensor in (leaf, sparse, bad):
                    with pytest.raises((TypeError, ValueError), match="orthogonalize"):
                        orthogonalize(tensor)

            return refused_tensors, [leaf, sparse, bad]
        return lambda: orthogonalize(t), [t]
    jax = request.getfixturevalue("jax")
    j = jax.numpy.asarray(x.astype(np.float32))
    return lambda: orthogonalize(j), [j]


KINDS = [
    "numpy",
    "numpy out",
    "numpy strided",
    "unaligned",
    "bfloat16",
    "list",
    "capsule",
    "producer",
    "nan",
    "table",
    "name",
]


@pytest.mark.parametrize("kind", [*KINDS, "torch", "torch out", "torch refused", "jax"])
def test_a_thousand_calls_leave_nothing_behind(kind, request):
    call, objects = calls_on(kind, request)
    slow = kind in {"nan", "torch refused", "jax"}
    repeats = 300 if slow else 1000
    for _ in range(repeats // 4):  # caches and allocators settle
        call()
    gc.collect()
    counts = [sys.getrefcount(o) for o in objects]
    resident = resident_bytes() if sys.platform == "linux" else 0
    for _ in range(repeats):
        call()
    gc.collect()
    assert [sys.getrefcount(o) for o in objects] == counts
    if sys.platform == "linux":
        assert resident_bytes() - resident < repeats * 24 * 1024 / 4  # a quarter of what leaking each result would take


@pytest.mark.parametrize("kind", [*KINDS, "torch"])
def test_no_python_memory_grows(kind, request):
    call, _ = calls_on(kind, request)
    grown = []
    tracemalloc.start()
    try:
        for _ in range(12):  # caches fill in the first rounds; a leak grows in all of them
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(60):
                call()
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
            if grown[-1] < 60 * 16:
                break
    finally:
        tracemalloc.stop()
    assert min(grown) < 60 * 16  # less than the smallest object a call


def test_a_result_outlives_its_input(x, truth, torch):
    got = orthogonalize(x)
    assert got.base is None
    assert got.flags.owndata
    t = torch.from_numpy(x.copy())
    result = orthogonalize(t)
    del t
    gc.collect()
    assert np.array_equal(result.numpy(), truth)
