"""Inverse-Hessian-vector products with a damped empirical Fisher matrix: the M-FAC family."""

from __future__ import annotations

import operator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raphson import _core
from raphson._fisher import FisherInverse, OutOfRangeError, PruneResult
from raphson._fisher_relatives import gauss_newton_step, influence_scores, rank_one_inverse_update

__all__ = [
    "FisherInverse",
    "GradientWindow",
    "PruneResult",
    "gauss_newton_step",
    "influence_scores",
    "rank_one_inverse_update",
]

ArrayT = TypeVar("ArrayT")
Damping = float | tuple[str, float]


def _split(damping: Any, function: str) -> tuple[float, bool]:
    if isinstance(damping, (tuple, list)):
        if len(damping) != 2 or damping[0] != "relative":
            raise ValueError(f"{function}: damping must be a number or ('relative', c), got {damping!r}")
        return float(damping[1]), True
    return float(damping), False


def _cuda_device(device: Any) -> int | None:
    """None is the CPU."""
    if device == "cpu":
        return None
    kind, _, number = str(device).partition(":")
    if kind != "cuda" or not (number == "" or number.isdecimal()):
        raise ValueError(f"GradientWindow: device must be 'cpu', 'cuda' or 'cuda:<number>', got {device!r}")
    return int(number or 0)


class GradientWindow:
    r"""The newest gradients, and products with the inverse of F = λI + (1/m) Σ gᵢgᵢᵀ (dynamic M-FAC).

    Parameters
    ----------
    dim : int
        Length d of a gradient.
    capacity : int
        m, the number of gradients kept; the oldest leaves when one more comes.
    damping : float or ("relative", float)
        λ > 0, or λ = c·trace(GGᵀ)/(m·d), refreshed when it has moved by 10 %. Can be set later.
    dtype : {"float32", "float64", "bfloat16", "float16", "int8"}
        Of the stored rows. float16 rows carry a power of two, int8 rows a float32 scale for every 256 columns.
    scale : {"capacity", "count"}
        The m of 1/m while the window fills: the capacity (M-FAC's choice), or the number of gradients it holds.
    block_size : int, optional
        F is block-diagonal over this many columns each, one core a block.
    error_feedback : bool
        What rounding takes from a gradient is added to the next one.
    device : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``: where the window lies, and its gradients must.
    comm : mpi4py communicator, optional
        Every process holds a slice of the columns (``dim`` is the slice's) and calls the same methods in the same
        order; m numbers are summed by ``comm.allreduce`` in a push. With ``block_size`` no block crosses processes.

    Raises
    ------
    ValueError
        Parameters out of range. MemoryError when the window does not fit.

    Notes
    -----
    Stored values are multiplied and added in float64 and rounded once; every product is with the row as it is stored.
    Memory: (m + 1)·d stored elements, O(d) with error feedback, 16(m + 1)² bytes a block.

    ======================  ==============================  =============================================
    method                  reads of the window             float64 core
    ======================  ==============================  =============================================
    push                    1                               2m² for the factor (rank-one update, one solve)
    precondition            2 (1 with small blocks)         3m²
    solve                   2                               2m²
    quadratic               1; of a row of the window: 0    m²
    solve_recent            1                               2m²
    logdet, influence       0                               m; 2m³
    ======================  ==============================  =============================================

    A changed damping, ``scale="count"`` while the window fills, or a pivot lost to rounding factors GGᵀ + mλI anew
    from the Gram matrix (m³/3). Pivots below mλ, which exact arithmetic never meets, are raised to it.

    Source: Frantar, Kurtic, Alistarh, M-FAC (arXiv 2107.03356). F⁻¹g of a row of the window is computed as
    m·Gᵀ(GGᵀ + mλI)⁻¹e, which does not cancel; the paper's formula loses ‖g‖²/(mλ) in digits there.

    Every method may be called from several threads; calls wait for each other. A call that raises leaves the window
    as it was.

    On CUDA, ``push``, ``precondition`` and ``solve`` run on the stream of their array and return before the work is
    done; so do ``solve_recent`` and ``influence``, which answer with arrays of the newest gradient's library (NumPy
    arrays where no gradient has come since a state was loaded). What answers with numbers waits for the device. A
    gradient that is not finite, or too large for the dtype, is found only on the device: it enters as a row of zeros,
    and ``precondition`` answers with NaN. States go from one device to another. The capacity is limited by a block's
    shared memory (about 11,900 gradients), and ``comm`` must be None.
    """

    def __init__(
        self,
        dim: int,
        capacity: int,
        damping: Damping,
        *,
        dtype: str = "float32",
        scale: str = "capacity",
        block_size: int | None = None,
        error_feedback: bool = False,
        device: str = "cpu",
        comm: Any = None,
    ) -> None:
        value, relative = _split(damping, "GradientWindow")
        if scale not in ("capacity", "count"):
            raise ValueError(f"GradientWindow: scale must be 'capacity' or 'count', got {scale!r}")
        cuda = _cuda_device(device)
        if cuda is not None and comm is not None:
            raise ValueError("GradientWindow: comm= works on the CPU only")
        if block_size is not None and operator.index(block_size) < 1:
            raise ValueError(f"GradientWindow: block_size must be at least 1, got {block_size}")
        self._dim, self._capacity = operator.index(dim), operator.index(capacity)
        if not isinstance(dtype, str):
            raise TypeError(f"GradientWindow: dtype must be a name such as 'float32', got {dtype!r}")
        self._dtype, self._scale = dtype, scale
        self._block_size, self._error_feedback = block_size, bool(error_feedback)
        self._damping: Damping = ("relative", value) if relative else value
        self._comm, self._device = comm, "cpu" if cuda is None else f"cuda:{cuda}"
        arguments = (self._dim, self._capacity, value, relative, self._dtype, scale == "count", block_size or 0)
        self._core: _core.GradientWindow | _core.CudaGradientWindow
        if cuda is None:
            reduce = None if comm is None else self._reduce
            self._core = _core.GradientWindow(*arguments, self._error_feedback, reduce)
        else:
            self._core = _core.CudaGradientWindow(*arguments, self._error_feedback, cuda)

    def _reduce(self, values: npt.NDArray[np.float64]) -> None:
        values[:] = self._comm.allreduce(values.copy())

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Length of a gradient."""
        return self._dim

    @property
    def capacity(self) -> int:
        """Number of gradients kept."""
        return self._capacity

    @property
    def dtype(self) -> str:
        """Of the stored rows."""
        return self._dtype

    @property
    def scale(self) -> str:
        """``"capacity"`` or ``"count"``."""
        return self._scale

    @property
    def block_size(self) -> int | None:
        """Columns of a diagonal block of F, None for one block."""
        return self._block_size

    @property
    def error_feedback(self) -> bool:
        """Whether rounding errors go into the next gradient."""
        return self._error_feedback

    @property
    def device(self) -> str:
        """``"cpu"``, or ``"cuda:0"`` and so on."""
        return self._device

    @property
    def nbytes(self) -> int:
        """Memory the window takes, in bytes."""
        return self._core.nbytes

    @property
    def damping(self) -> Damping:
        """What was set: λ, or ("relative", c). Setting it costs m³/3 at the next query."""
        return self._damping

    @damping.setter
    def damping(self, damping: Damping) -> None:
        value, relative = _split(damping, "damping")
        self._core.set_damping(value, relative)
        self._damping = ("relative", value) if relative else value

    @property
    def damping_in_use(self) -> float:
        """λ itself; 0 for relative damping of a window that holds nothing but zeros."""
        return self._core.damping_in_use()

    def __len__(self) -> int:
        return len(self._core)

    def __repr__(self) -> str:
        more = "" if self._block_size is None else f", block_size={self._block_size}"
        return (
            f"GradientWindow(dim={self._dim}, capacity={self._capacity}, damping={self._damping!r}, "
            f"dtype={self._dtype!r}, scale={self._scale!r}{more}): {len(self)} gradients, {self.nbytes / 2**20:.1f} MiB"
        )

    # ---- gradients in, products out --------------------------------------------------------------

    def _vector(self, x: Any) -> Any:
        """Lists of floats in the width that the window takes; arrays as they are."""
        values = np.asarray(x) if isinstance(x, (list, tuple)) else x
        narrow = isinstance(x, (list, tuple)) and values.dtype == np.float64 and self._dtype != "float64"
        return values.astype(np.float32) if narrow else values

    def push(self, g: Any) -> None:
        """Store a gradient, in place of the oldest when the window is full.

        Parameters
        ----------
        g : array (dim,)
            float32 or the window's dtype; any stride.

        Raises
        ------
        TypeError, ValueError
            Wrong dtype or length, NaN or Inf, entries that the stored dtype cannot hold (float64: above 1e150). The
            window is as it was.
        """
        self._core.push(self._vector(g))

    def precondition(self, g: ArrayT, *, out: Any = None) -> ArrayT:
        """Store a gradient and return F⁻¹g̃ of the stored row g̃: one optimizer step.

        Parameters
        ----------
        g : array (dim,)
            As for :meth:`push`.
        out : array (dim,), optional
            Written and returned; g itself is allowed.

        Returns
        -------
        array (dim,)
            In g's framework and dtype.
        """
        result: ArrayT = self._core.precondition(self._vector(g), out)
        return result

    def solve(self, x: ArrayT, *, out: Any = None) -> ArrayT:
        """F⁻¹x = (x − Gᵀ(GGᵀ + mλI)⁻¹Gx)/λ.

        Where x lies in the span of the rows the difference cancels ‖G‖²/(mλ) in digits of float64;
        :meth:`precondition` and :meth:`solve_recent` do not.

        Parameters
        ----------
        x : array (dim,)
            float64, float32, bfloat16 or float16; any stride.
        out : array (dim,), optional
            Written and returned; x itself is allowed.

        Returns
        -------
        array (dim,)
            In x's framework and dtype.

        Raises
        ------
        ValueError
            Empty window, wrong length, NaN or Inf.
        """
        result: ArrayT = self._core.solve(self._vector(x), out)
        return result

    def solve_recent(self, weights: Any) -> Any:
        """F⁻¹ Σ wₛ g₍newest−s₎: a momentum of stored gradients, preconditioned without a pass for its products.

        Parameters
        ----------
        weights : sequence of float (k,)
            ``weights[0]`` multiplies the newest; k ≤ len(self), else ValueError.

        Returns
        -------
        array (dim,)
            float64 for a float64 window, else float32; NumPy's on the CPU.
        """
        if not hasattr(weights, "__dlpack__"):
            weights = np.asarray(weights)
            weights = weights.astype(np.float64) if weights.dtype.kind in "iu" or weights.size == 0 else weights
        values = _core._as_numpy(weights, "solve_recent", "weights").astype(np.float64)
        if values.ndim != 1:
            raise ValueError(f"solve_recent: weights must have one axis, got shape {values.shape}")
        if isinstance(self._core, _core.CudaGradientWindow):
            return self._core.solve_recent(values)
        dtype = np.float64 if self._dtype == "float64" else np.float32
        out = np.empty(self._dim, dtype=dtype)
        self._core.solve_recent(values, out)
        return out

    def quadratic(self, x: Any) -> float:
        """xᵀF⁻¹x of an array (dim,), or of the row with that index (0 = oldest), which costs no pass."""
        if isinstance(x, (bool, np.bool_)):
            raise TypeError("quadratic: x must be an array or an index, got bool")
        if not hasattr(x, "__index__") or getattr(x, "ndim", 0) != 0:
            return self._core.quadratic_vector(x)
        index = operator.index(x)
        if len(self) > 0 and not 0 <= index < len(self):
            raise OutOfRangeError(f"quadratic: index {index} is out of range for a window of {len(self)} gradients")
        return self._core.quadratic_index(index)

    def logdet(self) -> float:
        """log det F."""
        return self._core.logdet()

    def influence(self) -> Any:
        """G F⁻¹ Gᵀ, (len, len), oldest first, as m·K(K + mλI)⁻¹, which does not cancel; 2·len³ flops a block."""
        return self._core.influence()

    def clear(self) -> None:
        """Forget every gradient."""
        self._core.clear()

    # ---- state -----------------------------------------------------------------------------------

    def _kind(self) -> dict[str, Any]:
        return {
            "dim": self._dim,
            "capacity": self._capacity,
            "dtype": self._dtype,
            "scale": self._scale,
            "block_size": self._block_size,
            "error_feedback": self._error_feedback,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything it holds as plain arrays and numbers: rows, their scales, Gram matrix, factor, counters.

        Loading it gives a window that goes on bit for bit. bfloat16 rows come as uint16.
        """
        return self._core.state_dict() | self._kind() | {"damping": self._damping}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a :meth:`state_dict`.

        Raises
        ------
        ValueError
            A state of another dim, capacity, dtype, scale, block_size or error_feedback, or with parts missing; nothing
            has changed.
        """
        for name, mine in self._kind().items():
            if name not in state:
                raise ValueError(f"load_state_dict: {name!r} is missing")
            if state[name] != mine:
                raise ValueError(f"load_state_dict: the state's {name} is {state[name]!r}, this window's {mine!r}")
        if "damping" not in state:
            raise ValueError("load_state_dict: 'damping' is missing")
        value, relative = _split(state["damping"], "load_state_dict")
        self._core.load_state_dict(state, value, relative)
        self._damping = ("relative", value) if relative else value

    def __getstate__(self) -> dict[str, Any]:
        if self._comm is not None:
            raise TypeError("a GradientWindow with comm= cannot be pickled; use state_dict on every process")
        return self.state_dict() | {"device": self._device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        keywords = {name: state[name] for name in ("dtype", "scale", "block_size", "error_feedback")}
        device = state.get("device", "cpu")
        GradientWindow.__init__(self, state["dim"], state["capacity"], state["damping"], device=device, **keywords)
        self.load_state_dict(state)
