"""Prunes the demo's network: by magnitude, and by the optimal brain surgeon with and without its joint form.

Sparsity grows through the levels of :data:`SPARSITIES` without training in between. At every level each method prunes
its own network, and the two surgeons take new gradients: of the loss of single training images, at the weights they
have now. All 25,856 weights compete; biases stay.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson.demo import Array, Digits, Network
from raphson.ihvp import FisherInverse

__all__ = ["METHODS", "SPARSITIES", "gradients_of_single_images", "prune"]

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
METHODS = ("magnitude", "OBS, one by one", "OBS, jointly")
RELATIVE_DAMPING = 1e-3  # of the mean eigenvalue of GᵀG/m


def gradients_of_single_images(network: Network, images: Array, labels: npt.NDArray[np.int64]) -> Array:
    """The gradient of every image's cross-entropy by all weights, (images, weights)."""
    outputs = network.forward(images)
    scores = outputs[-1] - outputs[-1].max(axis=1, keepdims=True)
    back = np.exp(scores)
    back /= back.sum(axis=1, keepdims=True)
    back[np.arange(len(labels)), labels] -= 1
    parts: list[Array] = []
    for layer in range(len(network.weights) - 1, -1, -1):
        parts.insert(0, np.einsum("no,ni->noi", back, outputs[layer]).reshape(len(labels), -1))
        back = (back @ network.weights[layer]) * (outputs[layer] > 0)
    return np.concatenate(parts, axis=1)


def _flat(network: Network) -> Array:
    return np.concatenate([weight.ravel() for weight in network.weights])


def _with_weights(network: Network, flat: Array) -> Network:
    copy = Network.__new__(Network)
    ends = np.cumsum([weight.size for weight in network.weights])[:-1]
    shapes = [weight.shape for weight in network.weights]
    copy.weights = [part.reshape(shape) for part, shape in zip(np.split(flat, ends), shapes, strict=True)]
    copy.biases = network.biases
    return copy


def _pruned(network: Network, digits: Digits, sparsity: float, method: str, images: int) -> Network:
    weights = _flat(network)
    if method == "magnitude":
        kept = np.ones(weights.size, dtype=bool)
        kept[np.argsort(np.abs(weights), kind="stable")[: round(sparsity * weights.size)]] = False
        return _with_weights(network, np.where(kept, weights, np.float32(0)))
    grads = gradients_of_single_images(network, digits.train_images[:images], digits.train_labels[:images])
    damping = RELATIVE_DAMPING * float(np.mean(np.square(grads, dtype=np.float64)))
    inverse = FisherInverse(grads, max(damping, float(np.finfo(np.float32).tiny)))
    return _with_weights(network, inverse.obs_prune(weights, fraction=sparsity, joint=method == METHODS[2]).weights)


def prune(network: Network, digits: Digits, *, out: str, images: int) -> dict[str, list[float]]:
    """Prints and draws held-out accuracy against sparsity.

    Parameters
    ----------
    network : Network
        Trained; it is not changed.
    digits : Digits
        Gradients come from the first ``images`` training images, accuracy from the held-out ones.
    out : str
        Where the PNG goes.

    Returns
    -------
    dict
        Accuracies by method, one for each of :data:`SPARSITIES`.
    """
    dense = network.accuracy(digits.test_images, digits.test_labels)
    results: dict[str, list[float]] = {}
    for method in METHODS:
        current, results[method] = network, []
        for sparsity in SPARSITIES:
            current = _pruned(current, digits, sparsity, method, images)
            results[method].append(current.accuracy(digits.test_images, digits.test_labels))
    print(f"\nheld-out accuracy of the pruned network ({dense:.2%} before; no training in between)")
    print(f"{'weights removed':<18}" + "".join(f"{sparsity:>8.0%}" for sparsity in SPARSITIES))
    for method, accuracies in results.items():
        print(f"{method:<18}" + "".join(f"{accuracy:>8.1%}" for accuracy in accuracies))
    _draw(results, dense, out)
    print(f"\ncurves: {out}")
    return results


def _draw(results: dict[str, list[float]], dense: float, out: str) -> None:
    plt: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = plt.subplots(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    percent = 100 * np.array(SPARSITIES)
    for (method, accuracies), colour in zip(results.items(), ("0.45", "#d1671a", "#0b6e99"), strict=True):
        axes.plot(percent, 100 * np.array(accuracies), "o-", color=colour, markersize=4, label=method)
    axes.axhline(100 * dense, color="0.7", linewidth=0.8, linestyle="--", label="not pruned")
    axes.set(xlabel="weights removed, per cent", ylabel="held-out accuracy, per cent", ylim=(0, 102))
    axes.legend(frameon=False, loc="lower left")
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)
    plt.close(figure)
