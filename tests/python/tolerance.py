"""Tolerances by dtype and purpose, each with its reason. All are relative to the 2- or Frobenius norm of the truth."""

from __future__ import annotations

import numpy as np

#: Half an ulp at 1: the relative error of one rounding.
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-9}

#: Gaussian input of at least 24 rows against the float64 transcription, in the Frobenius norm. float64 and float32 are
#: the promise of the interface. bfloat16: 5 steps × 3 stores of 2⁻⁹ in quadrature are 0.008, and the slope of the steps
#: behind a store multiplies it; the transcription that rounds at the same places errs by 0.004 to 0.044.
GAUSSIAN = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.05}

#: The same by the Gram method: float32 rounding of R = XXᵀ, 6e-8 of its largest eigenvalue, moves the small ones, and
#: two steps without a restart multiply that by a₁²·a₂ (8.16² · 4.04 = 270: 1.6e-5).
GRAM = {"float64": 1e-12, "float32": 4e-5, "bfloat16": 0.05}

#: bfloat16 against the transcription that rounds at the same places. A float32 and a float64 sum of n products differ
#: by about 2⁻²², so one store in 2¹³ flips by an ulp (2⁻⁸) of its element; in the first Gram matrix of a small problem
#: the slope of the later steps makes 0.0074 of one flip (340 matrices). Most results have none and agree bit for bit.
BFLOAT16_EMULATED = 0.012


def rounding_bound(table: np.ndarray, sigma: np.ndarray, dtype: str) -> float:
    """First-order bound of the rounding error of the iteration on a matrix with singular values `sigma`, in the 2-norm.

    `sigma` are those of the normalised matrix. A step's terms are as large as |a|s + |b|s³ + |c|s⁵, so that times the
    unit is what it adds; the steps behind it multiply that by their slope (differences of singular values) or by the
    ratio they change a singular value by (rotations). Sums of n products in blocks add a small factor, taken as 4.
    """
    unit = UNIT[dtype]
    s = np.asarray(sigma, dtype=np.float64)
    s = s[s > 0]
    if s.size == 0:
        return 0.0
    added, values, slopes = [s.max()], [s], []
    for a, b, c in table:
        added.append(np.max(abs(a) * s + abs(b) * s**3 + abs(c) * s**5))
        slopes.append(a + 3 * b * s**2 + 5 * c * s**4)
        s = a * s + b * s**3 + c * s**5
        values.append(s)
    total = 0.0
    slope = np.ones_like(s)
    for t in range(len(table), -1, -1):
        growth = max(np.abs(slope).max(), np.abs(s / values[t]).max())
        total += growth * added[t]
        if t > 0:
            slope = slope * slopes[t - 1]
    return float(4 * unit * total)
