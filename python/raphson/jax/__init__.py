"""raphson inside JAX: :func:`orthogonalize`, :func:`orthogonalize_many`, :func:`polar`, :func:`sqrt`, :func:`inverse`,
:func:`inverse_root`, :func:`sinkhorn` and :func:`lstsq` for ``jit``, ``vmap`` and reverse-mode differentiation, and the
gradient transformation :func:`muon`.

Importing this package imports jax (0.5 or newer); ``import raphson`` alone never does. Concrete arrays behave as in
the array functions: errors raise, and what did not converge warns. Inside of transformations shapes and settings are
checked while a program is traced; what its data hold is told by certificates, arrays like the rest, and nothing warns.
Results are pytrees; ``status`` is a place in :data:`STATUSES`. Compiled programs run on the CPU; concrete CUDA arrays
are served as in the array functions.
"""

try:
    import jax.ffi  # noqa: F401
except ImportError as error:
    raise ImportError("raphson.jax needs jax 0.5 or newer: pip install jax") from error

from raphson._results import STATUSES
from raphson.jax._lstsq import LstsqResult, lstsq
from raphson.jax._matrix_functions import MatrixResult, PolarResult, inverse, inverse_root, polar, sqrt
from raphson.jax._muon import GradientTransformation, MuonState, muon
from raphson.jax._orthogonalize import orthogonalize, orthogonalize_many
from raphson.jax._sinkhorn import PointCloud, TransportResult, sinkhorn

__all__ = [
    "STATUSES",
    "GradientTransformation",
    "LstsqResult",
    "MatrixResult",
    "MuonState",
    "PointCloud",
    "PolarResult",
    "TransportResult",
    "inverse",
    "inverse_root",
    "lstsq",
    "muon",
    "orthogonalize",
    "orthogonalize_many",
    "polar",
    "sinkhorn",
    "sqrt",
]
