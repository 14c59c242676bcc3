"""orthogonalize_many: each matrix as if alone, whatever the shapes."""

from __future__ import annotations

import numpy as np
import pytest

from agreement import BF16, DTYPES, dtype_id
from raphson import orthogonalize
from raphson.newton_schulz import orthogonalize_many

SHAPES = [(5, 8), (8, 5), (5, 8), (1, 1), (40, 30), (2, 3, 12, 12), (0, 4), (130, 200), (5, 8)]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    "options", [{}, {"schedule": "root"}, {"schedule": "turbo", "steps": 3}, {"method": "gram"}], ids=str
)
def test_each_is_as_if_alone_bit_for_bit(rng, dtype, options):
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    results = orthogonalize_many(arrays, **options)
    assert type(results) is list
    for x, got in zip(arrays, results, strict=True):
        assert got.shape == x.shape
        assert got.dtype == dtype
        assert got.tobytes() == orthogonalize(x, **options).tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_number_of_threads_changes_no_bit(rng, threads, count):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    threads(1)
    alone = orthogonalize_many(arrays)
    threads(count)
    assert [a.tobytes() for a in orthogonalize_many(arrays)] == [a.tobytes() for a in alone]


def test_no_arrays_give_no_results():
    assert orthogonalize_many([]) == []


def test_outputs_are_written_and_returned(rng):
    arrays = [rng.standard_normal(shape) for shape in SHAPES]
    truths = [orthogonalize(x) for x in arrays]
    outs = [np.empty_like(x) for x in arrays]
    returned = orthogonalize_many(arrays, out=outs)
    assert all(r is o for r, o in zip(returned, outs, strict=True))
    assert all(np.array_equal(o, t) for o, t in zip(outs, truths, strict=True))
    returned = orthogonalize_many(arrays, out=arrays)
    assert all(r is x for r, x in zip(returned, arrays, strict=True))
    assert all(np.array_equal(x, t) for x, t in zip(arrays, truths, strict=True))


def test_outputs_that_overlap_other_arrays_are_refused(rng):
    a, b, spare = (rng.standard_normal((6, 6)) for _ in range(3))
    before = a.copy(), b.copy()
    for outs in ([b, a], [spare, spare], [spare, a], [b, spare]):
        with pytest.raises(ValueError, match="overlap"):
            orthogonalize_many([a, b], out=outs)
    assert np.array_equal(a, before[0])
    assert np.array_equal(b, before[1])


def test_one_bad_array_and_nothing_is_written(rng):
    arrays = [rng.standard_normal((5, 8)) for _ in range(3)]
    arrays[1][2, 2] = np.nan
    before = [x.copy() for x in arrays]
    with pytest.raises(ValueError, match="NaN or Inf"):
        orthogonalize_many(arrays, out=arrays)
    assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(arrays, before, strict=True))


def test_lengths_dtypes_and_frameworks_must_agree(rng, torch):
    x = rng.standard_normal((5, 8))
    with pytest.raises(ValueError, match=r"out has 1 arrays, arrays has 2"):
        orthogonalize_many([x, x], out=[np.empty_like(x)])
    for other in (x.astype(np.float32), x.astype(BF16), torch.from_numpy(x.copy())):
        with pytest.raises(TypeError, match=r"orthogonalize"):
            orthogonalize_many([x, other])
    with pytest.raises(ValueError, match=r"at least 2 axes"):
        orthogonalize_many([x, x[0]])


def test_torch_tensors_stay_torch_tensors(rng, torch):
    tensors = [torch.from_numpy(rng.standard_normal(shape)) for shape in SHAPES]
    for t, got in zip(tensors, orthogonalize_many(tensors), strict=True):
        assert type(got) is torch.Tensor
        assert torch.equal(got, orthogonalize(t))
