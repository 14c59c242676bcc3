"""Transports one digit image into another: displacement interpolation along an entropic plan.

Pixels of two of scikit-learn's digit images, enlarged, are two measures on a grid; the plan between them is found for
the squared distance at a small regularisation, and every entry of it is drawn on its way from pixel x to pixel y.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson.ot import PointCloud, TransportResult, sinkhorn

__all__ = ["SIDE", "between", "measure", "transport"]

Array = npt.NDArray[np.float64]

SIDE = 40  # pixels of an enlarged image
REGULARISATION = 2e-5  # of the squared diagonal
TIMES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PAIRS = ((0, 1), (3, 8), (4, 7))


def measure(image: npt.NDArray[Any]) -> Array:
    """An 8×8 image as weights of SIDE×SIDE pixels, bilinearly enlarged; the background stays exactly zero."""
    at = np.clip((np.arange(SIDE) + 0.5) * image.shape[0] / SIDE - 0.5, 0, image.shape[0] - 1)
    low = np.minimum(at.astype(int), image.shape[0] - 2)
    part = at - low
    weight = np.zeros((SIDE, image.shape[0]))
    weight[np.arange(SIDE), low] = 1 - part
    weight[np.arange(SIDE), low + 1] = part
    enlarged = weight @ image.astype(np.float64) @ weight.T
    enlarged[enlarged < 0.05 * enlarged.max()] = 0
    return np.asarray(enlarged.ravel() / enlarged.sum())


def between(plan: Any, pixels: Array, time_: float) -> Array:
    """The measure at a time in [0, 1]: each entry of the (sparse) plan rests at (1 - t)x + ty, on its four pixels."""
    entries = plan.tocoo()
    rows, columns = entries.coords
    place = ((1 - time_) * pixels[rows] + time_ * pixels[columns]) * (SIDE - 1)
    low = np.minimum(place.astype(int), SIDE - 2)
    part = place - low
    image = np.zeros((SIDE, SIDE))
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1]) * entries.data
            np.add.at(image, (low[:, 0] + down, low[:, 1] + right), share)
    return image


def transport(images: npt.NDArray[Any], labels: npt.NDArray[np.int64], *, out: str) -> list[TransportResult]:
    """Prints what the solves cost and how well they fit, and draws digits that turn into others.

    Parameters
    ----------
    images, labels : array (k, 8, 8), (k,)
        scikit-learn's digits.
    out : str
        Where the PNG goes.

    Returns
    -------
    list of TransportResult
        One for each of :data:`PAIRS`.
    """
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2) / (SIDE - 1)
    cost = PointCloud(grid, grid)
    results, pictures = [], []
    print(f"\ntransport of {SIDE}×{SIDE} digit images, reg {REGULARISATION:g} of the largest cost")
    for source, target in PAIRS:
        a, b = (measure(images[np.argmax(labels == digit)]) for digit in (source, target))
        start = time.perf_counter()
        result = sinkhorn(a, b, cost, 2 * REGULARISATION)
        seconds = time.perf_counter() - start
        plan = result.sparse_plan(1e-6)
        print(
            f"{source} → {target}: {1e3 * seconds:6.1f} ms, marginal error {result.marginal_error:.1e}, "
            f"{result.iterations} sweeps, {result.newton_iterations} Newton steps, {plan.nnz} of {plan.shape[0] ** 2} "
            f"entries hold all but 1e-6 of the mass"
        )
        results.append(result)
        pictures.append([between(plan, grid, t) for t in TIMES])
    _draw(pictures, out)
    print(f"\npictures: {out}")
    return results


def _draw(pictures: list[list[Array]], out: str) -> None:
    plt: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(
        len(pictures), len(TIMES), figsize=(7.2, 1.25 * len(pictures)), dpi=150, layout="constrained"
    )
    for row, (shown, frames) in enumerate(zip(axes, pictures, strict=True)):
        for place, frame, t in zip(shown, frames, TIMES, strict=True):
            place.imshow(frame, cmap="magma", vmin=0, vmax=max(frames[0].max(), frames[-1].max()))
            place.set(xticks=[], yticks=[])
            if row == 0:
                place.set_title(f"t = {t:g}", fontsize=8)
    figure.savefig(out)
    plt.close(figure)
