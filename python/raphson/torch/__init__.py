"""raphson inside PyTorch: differentiable :func:`orthogonalize`, :func:`polar`, :func:`sqrt`, :func:`inverse` and
:func:`inverse_root`, and the optimizer :class:`Muon`.

Importing this package imports torch; ``import raphson`` alone never does.
"""

from raphson.torch._matrix_functions import inverse, inverse_root, polar, sqrt
from raphson.torch._muon import Muon
from raphson.torch._orthogonalize import orthogonalize

__all__ = ["Muon", "inverse", "inverse_root", "orthogonalize", "polar", "sqrt"]
