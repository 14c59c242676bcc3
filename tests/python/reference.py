"""Slow, obvious float64 truths, written from the formulas."""

from __future__ import annotations

import numpy as np

# Published tables, as listed by their authors. Jordan et al., Muon:
MUON = np.array([[3.4445, -4.7750, 2.0315]] * 5)
# You Jiacheng, the default of microsoft/dion:
YOU = np.array(
    [
        [4.0848, -6.8946, 2.9270],
        [3.9505, -6.3029, 2.6377],
        [3.7418, -5.5913, 2.3037],
        [2.8769, -3.1427, 1.2046],
        [2.8366, -3.0525, 1.2012],
    ]
)
# Amsel et al., Polar Express, as in microsoft/dion; to be used on X / (1.02 ‖X‖_F):
POLAR_EXPRESS = np.array(
    [
        [8.156554524902461, -22.48329292557795, 15.878769915207462],
        [4.042929935166739, -2.808917465908714, 0.5000178451051316],
        [3.8916678022926607, -2.772484153217685, 0.5060648178503393],
        [3.285753657755655, -2.3681294933425376, 0.46449024233003106],
        [2.3465413258596377, -1.7097828382687081, 0.42323551169305323],
    ]
)
# Turbo-Muon: the last four rows of YOU on the AOL-scaled matrix.
TURBO = YOU[1:]

#: name -> (table, factor on the norm, normalisation)
SCHEDULES = {
    "muon": (MUON, 1.0, "frobenius"),
    "you": (YOU, 1.0, "frobenius"),
    "polar_express": (POLAR_EXPRESS, 1.02, "frobenius"),
    "turbo": (TURBO, 1.0, "aol"),
}


def with_steps(table: np.ndarray, steps: int) -> np.ndarray:
    """The table cut to `steps` rows, or its last row repeated."""
    return np.array([table[min(i, len(table) - 1)] for i in range(steps)])


def normalized(x: np.ndarray, normalize: str = "frobenius", factor: float = 1.0, eps: float = 1e-7) -> np.ndarray:
    """One wide float64 matrix, divided as the first step wants it."""
    largest = np.abs(x).max(initial=0.0)
    if largest == 0:
        return x.copy()
    x = x / largest  # no square below leaves float64
    a = np.abs(x @ x.T)
    if normalize == "frobenius":
        return x / max(factor * np.sqrt((x * x).sum()), eps)
    if normalize == "gram":
        return x / (factor * np.sqrt(min(a.sum(axis=1).max(), np.sqrt((a * a).sum()))))
    if normalize == "aol":
        rows = a.sum(axis=1)
        return x / (factor * np.sqrt(np.maximum(rows, eps * rows.max())))[:, None]
    raise ValueError(normalize)


def polynomial_steps(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """X ← aX + b(XXᵀ)X + c(XXᵀ)²X for every row of the table."""
    for a, b, c in table:
        gram = x @ x.T
        x = a * x + b * (gram @ x) + c * (gram @ (gram @ x))
    return x


def newton_schulz(
    x: np.ndarray, table: np.ndarray, factor: float = 1.0, normalize: str = "frobenius", eps: float = 1e-7
) -> np.ndarray:
    """Every matrix of x (..., m, n) on its wide side, in float64."""
    x = np.asarray(x).astype(np.float64)
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-2]):
        matrix = x[index]
        if matrix.size == 0:
            continue
        tall = matrix.shape[0] > matrix.shape[1]
        wide = matrix.T if tall else matrix
        wide = polynomial_steps(normalized(wide, normalize, factor, eps), table)
        result[index] = wide.T if tall else wide
    return result


def named(x: np.ndarray, schedule: str = "polar_express", steps: int | None = None) -> np.ndarray:
    """:func:`newton_schulz` with a published table and the normalisation it was made for."""
    table, factor, normalize = SCHEDULES[schedule]
    return newton_schulz(x, table if steps is None else with_steps(table, steps), factor, normalize)


def rounded_bfloat16(x: np.ndarray) -> np.ndarray:
    """To bfloat16 and back, by way of float32, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def newton_schulz_bfloat16(x: np.ndarray, table: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """One matrix over its Frobenius norm: X, A = XXᵀ and bA + cA² are rounded when stored."""
    x = np.asarray(x).astype(np.float64)
    tall = x.shape[0] > x.shape[1]
    x = rounded_bfloat16(normalized(x.T if tall else x, "frobenius", factor))
    for a, b, c in table.astype(np.float32).astype(np.float64):
        gram = rounded_bfloat16(x @ x.T)
        poly = rounded_bfloat16(b * gram + c * (gram @ gram))
        x = rounded_bfloat16(a * x + poly @ x)
    return x.T if tall else x


def polar_factor(x: np.ndarray) -> np.ndarray:
    """U Vᵀ of the singular value decomposition."""
    u, _, vt = np.linalg.svd(np.asarray(x, dtype=np.float64), full_matrices=False)
    return u @ vt


def with_singular_values(rng: np.random.Generator, m: int, n: int, sigma: np.ndarray) -> np.ndarray:
    """A random m × n matrix with the given singular values."""
    u = np.linalg.qr(rng.standard_normal((m, len(sigma))))[0]
    v = np.linalg.qr(rng.standard_normal((n, len(sigma))))[0]
    return (u * sigma) @ v.T


def philox4x32(counter: tuple[int, ...], key: int) -> tuple[int, ...]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011), in Python's integers."""
    x0, x1, x2, x3 = counter
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * x2, 1 << 32)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return x0, x1, x2, x3


def polar_by_svd(x):
    """The polar factors of full-rank x (m, n): U and H with x = U H (m ≥ n) or H U."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    basis = right.T if x.shape[0] >= x.shape[1] else left
    return left @ right, (basis * values) @ basis.T
