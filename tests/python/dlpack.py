"""DLPack capsules made by hand with ctypes, to show raphson what well-behaved libraries never produce."""

from __future__ import annotations

import ctypes
from typing import Any, ClassVar

import numpy as np

FLOAT, BFLOAT = 2, 4
CPU, CUDA, CUDA_HOST, CUDA_MANAGED, ROCM = 1, 2, 3, 13, 10
READ_ONLY = 1


class DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", DLDataType),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Legacy(ctypes.Structure):
    _fields_ = [("dl_tensor", DLTensor), ("manager_ctx", ctypes.c_void_p), ("deleter", Deleter)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("dl_tensor", DLTensor),
    ]


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype = ctypes.c_char_p
_name_of.argtypes = [ctypes.py_object]


class Export:
    """One managed tensor over the memory of a NumPy array, every field of which can be falsified.

    `deleted` counts the calls of the deleter. Once a capsule is made, the object stays.
    """

    kept: ClassVar[set[Export]] = set()

    def __init__(
        self,
        array: np.ndarray,
        *,
        versioned: bool = True,
        major: int = 1,
        minor: int = 0,
        flags: int = 0,
        code: int = FLOAT,
        bits: int | None = None,
        lanes: int = 1,
        device: tuple[int, int] = (CPU, 0),
        null_strides: bool = False,
        null_data: bool = False,
        byte_offset: int = 0,
        no_deleter: bool = False,
    ) -> None:
        self.array = array
        self.deleted = 0
        self.versioned = versioned
        self.managed = Versioned() if versioned else Legacy()
        if isinstance(self.managed, Versioned):
            self.managed.major, self.managed.minor, self.managed.flags = major, minor, flags
        if not no_deleter:
            self.managed.deleter = Deleter(self._delete)
        tensor = self.managed.dl_tensor
        tensor.data = None if null_data else array.ctypes.data - byte_offset
        tensor.byte_offset = byte_offset
        tensor.device = DLDevice(*device)
        tensor.ndim = array.ndim
        tensor.dtype = DLDataType(code, 8 * array.itemsize if bits is None else bits, lanes)
        self._shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        self._strides = (ctypes.c_int64 * max(array.ndim, 1))(*(s // array.itemsize for s in array.strides))
        tensor.shape = ctypes.addressof(self._shape)
        tensor.strides = None if null_strides else ctypes.addressof(self._strides)

    def _delete(self, managed: int) -> None:
        assert managed == ctypes.addressof(self.managed)
        self.deleted += 1

    def capsule(self) -> Any:
        self.kept.add(self)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return _new_capsule(ctypes.addressof(self.managed), name, None)


def capsule_name(capsule: Any) -> str:
    return _name_of(capsule).decode()


_something_else = ctypes.c_int64(0)


def foreign_capsule() -> Any:
    """A capsule that holds something else."""
    return _new_capsule(ctypes.addressof(_something_else), b"not a tensor", None)


class Producer:
    """An array of some library that speaks versioned DLPack only through its methods."""

    def __init__(self, export: Export, device: tuple[int, int] = (CPU, 0)) -> None:
        self.export = export
        self.device = device
        self.calls: list[dict[str, object]] = []

    def __dlpack__(self, **keywords: object) -> Any:
        self.calls.append(keywords)
        return self.export.capsule()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class OldProducer(Producer):
    """From before max_version."""

    def __dlpack__(self, stream: object = None) -> Any:
        self.calls.append({"stream": stream})
        return self.export.capsule()
