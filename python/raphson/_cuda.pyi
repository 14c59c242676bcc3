"""Types of the CUDA module, which is there only where nvcc was at build time."""

from types import CapsuleType

_table: CapsuleType

def device_count() -> int: ...
