"""Types of the CUDA module, which is there only where nvcc was at build time."""

_table: object

def device_count() -> int: ...
