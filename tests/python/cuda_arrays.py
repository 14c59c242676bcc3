"""CUDA arrays for tests: torch's on a GPU, or without one host memory that says it is on a device.

RAPHSON_EMULATED_CUDA names a build of the kernels for the CPU (tests/cuda), which then serves as raphson._cuda. It is
set for a run of its own: other tests want to see a machine without CUDA.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dlpack

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]

_DTYPES = {(2, 64): np.float64, (2, 32): np.float32, (2, 16): np.float16, (4, 16): np.uint16}


class DeviceArray:
    """Host memory that says it lies on a CUDA device; bfloat16 is kept as its bits."""

    def __init__(self, array: np.ndarray, *, bfloat16: bool = False, device: int = 0) -> None:
        self.array, self.bfloat16, self.device = array, bfloat16, device
        self.streams: list[object] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(self, *, stream: object = None, max_version: object = None) -> Any:
        self.streams.append(stream)
        code = dlpack.BFLOAT if self.bfloat16 else dlpack.FLOAT
        return dlpack.Export(self.array, code=code, device=(dlpack.CUDA, self.device)).capsule()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __float__(self) -> float:  # as torch, JAX and CuPy
        return float(self.array)

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceArray:
        return DeviceArray(self.array.copy(), bfloat16=self.bfloat16, device=self.device)

    def __array_namespace__(self) -> SimpleNamespace:
        return SimpleNamespace(from_dlpack=from_dlpack)


def from_dlpack(exporter: Any) -> DeviceArray:
    """What a library that only imports does with a result."""
    device_type, device = exporter.__dlpack_device__()
    assert device_type == dlpack.CUDA
    capsule = exporter.__dlpack__(stream=1, max_version=(1, 3))
    tensor = ctypes.cast(
        _pointer_of(capsule, b"dltensor_versioned"), ctypes.POINTER(dlpack.Versioned)
    ).contents.dl_tensor
    assert tensor.device.device_type == dlpack.CUDA
    shape = list((ctypes.c_int64 * tensor.ndim).from_address(tensor.shape)) if tensor.ndim else []
    dtype = np.dtype(_DTYPES[tensor.dtype.code, tensor.dtype.bits])
    count = int(np.prod(shape)) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * count).from_address(tensor.data + tensor.byte_offset), dtype=dtype)
    copy = flat.reshape(shape).copy()  # the capsule may go
    return DeviceArray(copy, bfloat16=tensor.dtype.code == dlpack.BFLOAT, device=device)


def bits(x: np.ndarray) -> np.ndarray:
    """float32 to the nearest bfloat16, as bits."""
    u = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


class Emulated:
    emulated = True

    def put(self, array: np.ndarray, *, bfloat16: bool = False) -> DeviceArray:
        return DeviceArray(bits(array) if bfloat16 else array, bfloat16=bfloat16)

    def get(self, result: Any) -> np.ndarray:
        assert isinstance(result, DeviceArray)
        if not result.bfloat16:
            return result.array
        return (result.array.astype(np.uint32) << 16).view(np.float32)


class OnTorch:
    emulated = False

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def put(self, array: np.ndarray, *, bfloat16: bool = False) -> Any:
        tensor = self.torch.as_tensor(np.ascontiguousarray(array)).cuda()
        if not array.flags.c_contiguous:  # keep the strides
            spread = self.torch.empty_strided(
                array.shape, [s // array.itemsize for s in array.strides], dtype=tensor.dtype, device="cuda"
            )
            tensor = spread.copy_(tensor)
        return tensor.bfloat16() if bfloat16 else tensor

    def get(self, result: Any) -> np.ndarray:
        assert result.is_cuda
        return (result.float() if result.dtype == self.torch.bfloat16 else result).cpu().numpy()


def stored(on: Emulated | OnTorch, x: np.ndarray, dtype: str) -> tuple[np.ndarray, Any]:
    """Numbers in float64 as a dtype keeps them, and those on the device."""
    if dtype == "bfloat16":
        rounded = (bits(x).astype(np.uint32) << 16).view(np.float32)
        return rounded.astype(np.float64), on.put(rounded, bfloat16=True)
    return x.astype(dtype).astype(np.float64), on.put(x.astype(dtype))


def device() -> Emulated | OnTorch:
    """What tests put arrays on; skips where there is neither a GPU nor an emulation."""
    path = os.environ.get("RAPHSON_EMULATED_CUDA")
    if path:
        spec = importlib.util.spec_from_file_location("_cuda_emulated", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["raphson._cuda"] = module
        return Emulated()
    try:
        from raphson import _cuda

        found = _cuda.device_count() > 0
    except (ImportError, RuntimeError):
        found = False
    if not found:
        pytest.skip("no CUDA device, and RAPHSON_EMULATED_CUDA is not set", allow_module_level=True)
    return OnTorch(pytest.importorskip("torch"))
