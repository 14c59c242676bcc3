"""DLPack capsules and the objects that make them: what is read, refused, consumed and deleted."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest

import dlpack
from dlpack import Export, OldProducer, Producer
from raphson import build_info, orthogonalize

BF16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((6, 9))


@pytest.fixture
def truth(x) -> np.ndarray:
    return orthogonalize(x)


def bits(array: object) -> bytes:
    return np.asarray(array).tobytes()


# ---- capsules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"null_strides": True}, {"byte_offset": 24}, {"device": (dlpack.CUDA_HOST, 0)}, {"no_deleter": True}],
    ids=str,
)
def test_a_capsule_is_read_and_deleted_once(x, truth, versioned, options):
    export = Export(x, versioned=versioned, **options)
    capsule = export.capsule()
    got = orthogonalize(capsule)
    assert type(got) is np.ndarray
    assert np.array_equal(got, truth)
    assert dlpack.capsule_name(capsule) == ("used_dltensor_versioned" if versioned else "used_dltensor")
    assert export.deleted == (0 if "no_deleter" in options else 1)


@pytest.mark.parametrize("make", [Producer, OldProducer])
@pytest.mark.parametrize("versioned", [True, False])
def test_a_producer_is_asked_and_deleted_once(x, truth, make, versioned):
    export = Export(x, versioned=versioned)
    producer = make(export)
    got = orthogonalize(producer)
    assert np.array_equal(got, truth)
    assert export.deleted == 1
    assert len(producer.calls) == 1
    if make is Producer:
        assert producer.calls[0]["max_version"][0] == 1
        assert producer.calls[0].get("stream") is None  # CPU producers take nothing else


@pytest.mark.parametrize("versioned", [True, False])
def test_a_consumed_capsule_says_so(x, versioned):
    capsule = Export(x, versioned=versioned, no_deleter=True).capsule()
    orthogonalize(capsule)
    with pytest.raises(ValueError, match=r"^orthogonalize: x .*consumed"):
        orthogonalize(capsule)
    with pytest.raises(ValueError, match=r"^orthogonalize: out .*consumed"):
        orthogonalize(x, out=capsule)
    mine = x.__dlpack__(max_version=(1, 0))
    np.from_dlpack(Producer(Export(x)))  # NumPy consumes as we do
    orthogonalize(mine)
    with pytest.raises(ValueError, match="consumed"):
        orthogonalize(mine)


def test_a_capsule_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"^orthogonalize: x .*no DLPack capsule"):
        orthogonalize(dlpack.foreign_capsule())


def test_another_major_version_is_not_looked_into(x):
    export = Export(x, major=2)
    export.managed.dl_tensor.data = 16  # reading any of these would end the process
    export.managed.dl_tensor.shape = 16
    export.managed.dl_tensor.strides = 16
    with pytest.raises(TypeError, match=r"^orthogonalize: x speaks DLPack 2"):
        orthogonalize(export.capsule())
    assert export.deleted == 1
    with pytest.raises(TypeError, match="speaks DLPack 2"):
        orthogonalize(Producer(export))
    assert export.deleted == 2


REFUSED = {
    "two lanes": ({"lanes": 2}, TypeError, "got float64x2"),
    "integers": ({"code": 0}, TypeError, "got int64"),
    "complex": ({"code": 5, "bits": 128}, TypeError, "got complex128"),
    "bool": ({"code": 6, "bits": 8}, TypeError, "got bool"),
    "float16": ({"bits": 16}, TypeError, "got float16"),
    "80 bits": ({"bits": 80}, TypeError, "got float80"),
    "wide bfloat": ({"code": dlpack.BFLOAT, "bits": 32}, TypeError, "got bfloat32"),
    "float8": ({"code": 10, "bits": 8}, TypeError, "got "),
    "unknown code": ({"code": 200}, TypeError, "got "),
    "no memory": ({"null_data": True}, TypeError, "no memory"),
    "ROCm": ({"device": (dlpack.ROCM, 0)}, TypeError, "device"),
    "unknown device": ({"device": (77, 0)}, TypeError, "device type 77"),
}
if not build_info()["cuda_available"]:
    REFUSED["CUDA"] = ({"device": (dlpack.CUDA, 0)}, RuntimeError, "CUDA")
    REFUSED["managed CUDA"] = ({"device": (dlpack.CUDA_MANAGED, 0)}, RuntimeError, "CUDA")


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_what_a_capsule_cannot_hold_is_refused_and_still_deleted_once(x, case, versioned):
    options, kind, text = REFUSED[case]
    export = Export(x, versioned=versioned, **options)
    with pytest.raises(kind, match=r"^orthogonalize: x ") as error:
        orthogonalize(export.capsule())
    assert text in str(error.value)
    assert export.deleted == 1
    with pytest.raises(kind, match=r"^orthogonalize: x "):
        orthogonalize(Producer(export))
    assert export.deleted == 2


@pytest.mark.parametrize("case", ["shape", "nan", "option", "dtype"])
def test_every_error_deletes_once(x, case):
    given, out = Export(x[0] if case == "shape" else x), Export(np.zeros((6, 9), "f4" if case == "dtype" else "f8"))
    if case == "nan":
        x[0, 0] = np.nan
    with pytest.raises((ValueError, TypeError), match="orthogonalize"):
        orthogonalize(given.capsule(), out=out.capsule(), eps=-1.0 if case == "option" else 0.0)
    assert given.deleted == 1
    assert out.deleted == 1


def test_a_capsule_of_bfloat16(x):
    x16 = x.astype(BF16)
    export = Export(x16.view(np.uint16), code=dlpack.BFLOAT)
    got = orthogonalize(export.capsule())
    assert got.dtype == BF16
    assert bits(got) == bits(orthogonalize(x16))


def test_a_capsule_without_elements_may_have_no_memory():
    got = orthogonalize(Export(np.zeros((0, 3, 4)), null_data=True).capsule())
    assert got.shape == (0, 3, 4)


def test_strided_and_scalar_capsules(x):
    assert np.array_equal(orthogonalize(Export(x[::-1, ::2]).capsule()), orthogonalize(x[::-1, ::2]))
    with pytest.raises(ValueError, match=r"at least 2 axes.*\(\)"):
        orthogonalize(Export(np.array(1.0), null_strides=True).capsule())


def test_a_writable_versioned_capsule_is_an_output(x, truth):
    out = np.zeros_like(x)
    export = Export(out)
    capsule = export.capsule()
    assert orthogonalize(x, out=capsule) is capsule
    assert np.array_equal(out, truth)
    assert export.deleted == 1
    inplace = x.copy()
    capsule = Export(inplace).capsule()
    assert orthogonalize(capsule, out=capsule) is capsule
    assert np.array_equal(inplace, truth)


@pytest.mark.parametrize("options", [{"versioned": False}, {"flags": dlpack.READ_ONLY}], ids=["legacy", "read-only"])
@pytest.mark.parametrize("inplace", [False, True])
def test_legacy_and_read_only_capsules_are_no_output(x, options, inplace):
    memory = x.copy()
    export = Export(memory, **options)
    capsule = export.capsule()
    with pytest.raises(ValueError, match=r"^orthogonalize: out cannot be written"):
        orthogonalize(capsule if inplace else x, out=capsule)
    assert np.array_equal(memory, x)
    assert export.deleted == 1


def test_a_read_only_or_legacy_producer_is_no_output(x):
    for options in ({"versioned": False}, {"flags": dlpack.READ_ONLY}):
        memory = x.copy()
        producer = Producer(Export(memory, **options))
        with pytest.raises(ValueError, match=r"^orthogonalize: out cannot be written"):
            orthogonalize(producer, out=producer)
        assert np.array_equal(memory, x)


def test_a_producer_without_a_namespace_gets_numpy(x, truth):
    class Nowhere(Producer):
        pass

    Nowhere.__module__ = "a_module_that_is_not_there.inner"
    got = orthogonalize(Nowhere(Export(x)))
    assert type(got) is np.ndarray
    assert np.array_equal(got, truth)


def test_a_producer_gets_its_results_from_its_own_namespace(x, truth):
    class Space:
        @staticmethod
        def from_dlpack(exporter: object) -> tuple[str, np.ndarray]:
            return "mine", np.from_dlpack(exporter)

    class Array(Producer):
        def __array_namespace__(self) -> type[Space]:
            return Space

    name, got = orthogonalize(Array(Export(x)))
    assert name == "mine"
    assert np.array_equal(got, truth)
    got[...] = 0  # our memory is its owner's to write


@pytest.mark.parametrize("kind", [KeyError, BufferError, RuntimeError])
def test_a_producers_own_error_passes_through(kind):
    class Broken:
        def __dlpack__(self, **_: object) -> None:
            raise kind("its own words")

        def __dlpack_device__(self) -> tuple[int, int]:
            return dlpack.CPU, 0

    with pytest.raises(kind, match="its own words"):
        orthogonalize(Broken())


@pytest.mark.parametrize("answer", [None, 3, "dltensor", b"x"], ids=repr)
def test_a_producer_that_gives_no_capsule(answer):
    class Odd:
        def __dlpack__(self, **_: object) -> object:
            return answer

    with pytest.raises(TypeError, match=r"^orthogonalize: x gave no DLPack capsule"):
        orthogonalize(Odd())


def test_the_exporter_of_results_follows_the_protocol(x, truth):
    """What libraries that only import, such as JAX, are given."""
    seen = []

    class Space:
        from_dlpack = staticmethod(seen.append)

    class Array(Producer):
        def __array_namespace__(self) -> type[Space]:
            return Space

    orthogonalize(Array(Export(x)))
    (exporter,) = seen
    assert exporter.__dlpack_device__() == (dlpack.CPU, 0)
    assert dlpack.capsule_name(exporter.__dlpack__()) == "dltensor"
    assert dlpack.capsule_name(exporter.__dlpack__(max_version=(0, 8))) == "dltensor"
    assert dlpack.capsule_name(exporter.__dlpack__(max_version=(1, 3))) == "dltensor_versioned"
    assert dlpack.capsule_name(exporter.__dlpack__(stream=None, dl_device=(1, 0), copy=False)) == "dltensor"
    with pytest.raises(BufferError):
        exporter.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        exporter.__dlpack__(dl_device=(2, 0))
    with pytest.raises(ValueError, match="stream"):
        exporter.__dlpack__(stream=1)
    got = np.from_dlpack(exporter)
    del exporter, seen
    gc.collect()
    assert np.array_equal(got, truth)
    assert got.ctypes.data % 64 == 0


# ---- devices --------------------------------------------------------------------------------------------------------


class Elsewhere:
    """Lives on another device; must be refused before it is asked for its memory."""

    def __init__(self, device: int) -> None:
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, **_: object) -> None:
        raise AssertionError("asked for memory that the CPU cannot read")


@pytest.mark.skipif(build_info()["cuda_available"], reason="of machines without a GPU")
@pytest.mark.parametrize("device", [dlpack.CUDA, dlpack.CUDA_MANAGED])
@pytest.mark.parametrize("argument", ["x", "out"])
def test_a_cuda_array_gives_one_clear_sentence(x, device, argument):
    arguments = {"x": x, argument: Elsewhere(device)}
    with pytest.raises(RuntimeError, match=rf"^orthogonalize: {argument} is a CUDA array, but ") as error:
        orthogonalize(arguments.pop("x"), **arguments)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("device", [4, 7, 8, dlpack.ROCM, 12, 14, 99, -1])
def test_an_unknown_device_is_named(device):
    with pytest.raises(TypeError, match=rf"^orthogonalize: x .*device.* {device}\)"):
        orthogonalize(Elsewhere(device))
