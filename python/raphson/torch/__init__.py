"""raphson inside PyTorch: differentiable :func:`orthogonalize`, :func:`polar`, :func:`sqrt`, :func:`inverse`,
:func:`inverse_root`, :func:`sinkhorn` and :func:`lstsq`, and the optimizers :class:`Muon` and :class:`MFAC`.

Importing this package imports torch; ``import raphson`` alone never does. ``torch.compile`` calls all of them as they
are, between its graphs; of the array functions, with tensors, ask that by ``torch.compiler.disable``.
"""

from raphson.torch._lstsq import lstsq
from raphson.torch._matrix_functions import inverse, inverse_root, polar, sqrt
from raphson.torch._mfac import MFAC
from raphson.torch._muon import Muon
from raphson.torch._orthogonalize import orthogonalize
from raphson.torch._sinkhorn import PointCloud, TransportResult, sinkhorn

__all__ = [
    "MFAC",
    "Muon",
    "PointCloud",
    "TransportResult",
    "inverse",
    "inverse_root",
    "lstsq",
    "orthogonalize",
    "polar",
    "sinkhorn",
    "sqrt",
]
