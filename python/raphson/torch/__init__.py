"""raphson inside PyTorch: a differentiable :func:`orthogonalize` and the optimizer :class:`Muon`.

Importing this package imports torch; ``import raphson`` alone never does.
"""

from raphson.torch._muon import Muon
from raphson.torch._orthogonalize import orthogonalize

__all__ = ["Muon", "orthogonalize"]
