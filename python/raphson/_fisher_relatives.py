"""The relatives of FisherInverse: Gauss–Newton steps, rank-one updates of inverses, influence scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from raphson import _core
from raphson._fisher import Doubles, block_width, positive
from raphson._frameworks import as_array, back, doubles, like_of, require_one_framework

ArrayT = TypeVar("ArrayT")


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _require_shape(given: Any, shape: tuple[int, ...], function: str, name: str) -> None:
    if _shape(given) != shape:
        raise ValueError(f"{function}: {name} must have shape {shape}, got {_shape(given)}")


def gauss_newton_step(
    jac: Any, residual: Any, *, loss_hessian: Any = None, loss_hessian_sqrt: Any = None, damping: float
) -> Any:
    r"""The damped Gauss–Newton direction d = −(JᵀQJ/b + λI)⁻¹Jᵀr/b from the rows of J (EGN).

    Parameters
    ----------
    jac : array (b, d) or (b, c, d)
        Jacobians of c outputs for each of b samples; float64, float32, bfloat16 or float16.
    residual : array (b,) or (b, c)
        Gradients of the loss with respect to the outputs.
    loss_hessian : array (b,) or (b, c, c), optional
        Q, the Hessians of the loss with respect to the outputs, symmetric positive semidefinite; None is the identity.
    loss_hessian_sqrt : array (b,) or (b, c, k), optional
        In place of Q a square root S of it, Q = S Sᵀ; k is any number of columns.
    damping : float
        λ > 0.

    Returns
    -------
    array (d,)
        In jac's framework and dtype.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not agree, NaN or Inf, λ ≤ 0, both Q and S given.

    Notes
    -----
    d = −Jᵀ(Q JJᵀ + bλI)⁻¹r (Duncan–Guttman), which does not cancel as λ → 0 where the rows of J are independent: two
    reads of J, (bc)²d flops, and a float64 LU factorisation of order bc.

    On CUDA, all arrays are of jac's library and device, and the call returns before the work is done. Without Q and S
    a Cholesky factorisation takes the place of LU; with them the matrix is inverted with pivots (2(bc)³ flops, up to
    about 14,000 rows of J). Nothing is scanned there: NaN or Inf, and a matrix that rounding has made singular, give
    NaN; Inf in the residual alone may give Inf.

    Source: Korbit, Adeoye, Bemporad, Zanon (arXiv 2405.14402).
    """
    name = "gauss_newton_step"
    lam = positive(damping, name)
    jac = as_array(jac)
    shape = _shape(jac)
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"{name}: jac must have shape (b, d) or (b, c, d), none of them 0, got {shape}")
    if loss_hessian is not None and loss_hessian_sqrt is not None:
        raise ValueError(f"{name}: give loss_hessian or loss_hessian_sqrt, not both")
    hessians_given = {"loss_hessian": loss_hessian, "loss_hessian_sqrt": loss_hessian_sqrt}
    require_one_framework(name, "jac", jac, residual=residual, **hessians_given)
    flat = len(shape) == 2
    b, c = shape[0], 1 if flat else shape[1]
    root = loss_hessian_sqrt is not None
    q_name, q = ("loss_hessian_sqrt", loss_hessian_sqrt) if root else ("loss_hessian", loss_hessian)
    last = _shape(q)[-1] if root and len(_shape(q)) == 3 else c
    q_shape = (b,) if flat else (b, c, last)
    if _core._is_cuda(jac):
        _require_shape(residual, shape[:-1], name, "residual")
        if q is not None:
            _require_shape(q, q_shape, name, q_name)
        return _core.cuda_gauss_newton(jac, residual, q, root, lam)
    r = doubles(residual, shape[:-1], name, "residual").reshape(-1)
    rows = jac if flat else jac.reshape(-1, shape[-1])
    system = _core.gram(rows, name, "jac")
    if q is not None:
        hessians = doubles(q, q_shape, name, q_name).reshape(b, c, -1)
        if root:
            hessians = hessians @ hessians.swapaxes(1, 2)
        system = np.einsum("bij,bjk->bik", hessians, system.reshape(b, c, b * c)).reshape(b * c, b * c)
    system[np.diag_indices(b * c)] += b * lam
    return _core.combine_rows(rows, -np.linalg.solve(system, r).astype(np.float64, copy=False))


def rank_one_inverse_update(inv: ArrayT, v: Any, *, decay: float = 0.95, mode: str = "ema", out: Any = None) -> ArrayT:
    r"""The inverse of a Kronecker factor after one more statistic v.

    Parameters
    ----------
    inv : array (n, n)
        M, the inverse so far; float64, float32, bfloat16 or float16.
    v : array (n,)
        The statistic.
    decay : float
        γ in (0, 1).
    mode : {"ema", "mkor"}
        ``"ema"``: the exact inverse of γS + (1 − γ)vvᵀ with S = M⁻¹. ``"mkor"``: what MKOR's published code does,
        P = γM + (1 − γ)I, M ← P − (Pv)(vᵀP)/(1 + vᵀPv): no moving average of S, but bounded.
    out : array (n, n), optional
        Written and returned; inv itself is allowed. C-contiguous.

    Returns
    -------
    array (n, n)
        In inv's framework and dtype.

    Raises
    ------
    TypeError, ValueError
        Shapes that do not agree, NaN or Inf, parameters out of range, M not positive along v. Nothing has been written.

    Notes
    -----
    Three reads and a write of M, 8n² flops in float64, rounded once. Source: MKOR (arXiv 2306.01685), whose printed
    formula for the moving average has another sign; this one is Sherman and Morrison's.

    On CUDA, v and out are arrays of inv's library and device. The call waits for one number, 1 + vᵀPv, to refuse what
    is not positive before anything is written. Nothing is scanned there: NaN or Inf, or a number that overflows,
    makes NaN of the whole result, or is refused where it makes that number −Inf.
    """
    name = "rank_one_inverse_update"
    if not 0 < decay < 1:
        raise ValueError(f"{name}: decay must lie in (0, 1), got {decay}")
    if mode not in ("ema", "mkor"):
        raise ValueError(f"{name}: mode must be 'ema' or 'mkor', got {mode!r}")
    values = v
    if not _core._is_cuda(inv):
        require_one_framework(name, "inv", inv, v=v)
        if isinstance(out, np.ndarray) and isinstance(v, np.ndarray) and np.may_share_memory(out, v):
            raise ValueError(f"{name}: out overlaps v")
        values = _core._widened(v, name, "v")
    alpha, beta, weight = (1 / decay, 0.0, 1 - decay) if mode == "ema" else (decay, 1 - decay, 1.0)
    result: ArrayT = _core.rank_one_inverse(inv, values, alpha, beta, weight, out)
    return result


RowBlocks = Any | Callable[[], Iterable[Any]]


def _blocks(rows: RowBlocks) -> Iterator[Any]:
    if not callable(rows):
        yield as_array(rows)
        return
    for block in rows():
        yield as_array(block)


def influence_scores(
    train_grads: RowBlocks, query_grads: RowBlocks, damping: float, *, block_size: int | None = None
) -> Any:
    r"""+q F⁻¹gᵀ of every query and training gradient, F = λI + (1/m) Σ gᵢgᵢᵀ over the training gradients.

    Parameters
    ----------
    train_grads, query_grads : arrays (m, d) and (q, d)
        float64, float32, bfloat16 or float16; a memmap, or a callable that returns a fresh iterator of row blocks
        (k, d), which is called once more for every block it gives.
    damping : float
        λ > 0.
    block_size : int, optional
        F is block-diagonal over this many columns each.

    Returns
    -------
    array (q, m)
        float64, in the framework of train_grads (NumPy for a callable).

    Raises
    ------
    TypeError, ValueError
        Rows of different lengths, nothing to read, NaN or Inf, λ ≤ 0.

    Notes
    -----
    Exact Woodbury as m·(QGᵀ)(GGᵀ + mλI)⁻¹, which does not cancel: m²d + 2qmd flops in float64 and (m + q)·m numbers a
    block of columns.

    On CUDA, both are arrays of one library and device, and the call returns before the work is done; there are no
    callables. Nothing is scanned there: NaN or Inf in a training gradient makes NaN of every score, in a query
    gradient of its row.
    """
    name = "influence_scores"
    lam, width = positive(damping, name), block_width(block_size, name)

    def require_rows(a: tuple[int, ...], b: tuple[int, ...], names: tuple[str, str]) -> None:
        if len(a) != 2 or len(b) != 2 or a[1] != b[1] or 0 in (*a, *b):
            raise ValueError(f"{name}: {names[0]} and {names[1]} must have rows, all of one length, got {a} and {b}")

    if _core._is_cuda(train_grads) or _core._is_cuda(query_grads):
        if callable(train_grads) or callable(query_grads):
            raise TypeError(f"{name}: with a CUDA array both train_grads and query_grads must be arrays, not callables")
        require_one_framework(name, "train_grads", train_grads, query_grads=query_grads)
        require_rows(_shape(query_grads), _shape(train_grads), ("query_grads", "train_grads"))
        return _core.cuda_influence(train_grads, query_grads, lam, width)

    def products(left: RowBlocks, right: RowBlocks, names: tuple[str, str]) -> list[list[list[Doubles]]]:
        """[column block][row block of left][row block of right]; of equal sides on and below the diagonal."""
        table: list[list[list[Doubles]]] = []
        for i, a in enumerate(_blocks(left)):
            row: list[list[Doubles]] = []
            for j, b in enumerate(_blocks(right)):
                require_rows(tuple(a.shape), tuple(b.shape), names)
                step = width or a.shape[1]
                columns = [slice(p, p + step) for p in range(0, a.shape[1], step)]
                if left is right and i == j:
                    row.append([_core.gram(a[:, part], name, names[0]) for part in columns])
                    break
                row.append([_core.cross(a[:, part], b[:, part], name, *names) for part in columns])
            table.append(row)
        if not table or not table[0]:
            raise ValueError(f"{name}: {names[0]} or {names[1]} holds no gradients")
        return [[[cell[p] for cell in row] for row in table] for p in range(len(table[0][0]))]

    total: Doubles | None = None
    grams = products(train_grads, train_grads, ("train_grads", "train_grads"))
    crosses = products(query_grads, train_grads, ("query_grads", "train_grads"))
    for inner, outer in zip(grams, crosses, strict=True):
        count = len(inner)
        gram = np.block([[inner[i][j] if j <= i else inner[j][i].T for j in range(count)] for i in range(count)])
        mixed = np.block(outer)
        m = gram.shape[0]
        gram[np.diag_indices(m)] += m * lam
        part = m * np.linalg.solve(gram, mixed.T).T
        total = part if total is None else total + part
    assert total is not None
    return total if callable(train_grads) else back(total, like_of(as_array(train_grads)))
