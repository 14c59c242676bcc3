"""raphson: Newton-type numerical kernels for anyone who has an array.

Newton–Schulz matrix iterations, entropic optimal transport, inverse-Hessian-vector products, sketches, least squares
and generalized linear models. The README says what works.
"""

from raphson import _core
from raphson._config import build_info, get_num_threads, set_num_threads
from raphson._results import ConvergenceWarning
from raphson.ihvp import FisherInverse, GradientWindow
from raphson.newton import Equality, fit_glm, minimize
from raphson.newton_schulz import orthogonalize, orthogonalize_many, polar
from raphson.ot import PointCloud, sinkhorn
from raphson.sketch import lstsq

__version__: str = _core.build_info()["version"]  # not ours: that one looks for CUDA

__all__ = [
    "ConvergenceWarning",
    "Equality",
    "FisherInverse",
    "GradientWindow",
    "PointCloud",
    "__version__",
    "build_info",
    "fit_glm",
    "get_num_threads",
    "lstsq",
    "minimize",
    "orthogonalize",
    "orthogonalize_many",
    "polar",
    "set_num_threads",
    "sinkhorn",
]
