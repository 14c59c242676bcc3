"""Trains a small network on scikit-learn's digit images in NumPy: Muon beside SGD with momentum.

Run it with ``python -m raphson demo``. The network has layers of 64, 128, 128 and 10 units with ReLU between them and
is trained on softmax cross-entropy in float32, forward and backward written out below. Both optimizers start from the
same weights, see the same batches and lower their learning rate linearly to zero. That rate was chosen once for each,
by mean accuracy on a fifth of the training images after ten epochs over five seeds, from 0.05, 0.1, 0.15, 0.2 and 0.3
for SGD and 0.01, 0.015, 0.02, 0.03 and 0.05 for Muon; the held-out images took no part in it. Everything runs on one
thread: matrices this small gain nothing from more.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from raphson._config import get_num_threads, set_num_threads
from raphson.newton_schulz import orthogonalize

__all__ = ["SGD", "Curve", "MissingPackage", "Muon", "Network", "run", "train"]

Array = npt.NDArray[np.float32]

LAYERS = (64, 128, 128, 10)
BATCH = 64
MUON_RATE = 0.02
SGD_RATE = 0.15
BIAS_RATE = 0.02  # of the biases under Muon


class MissingPackage(ImportError):
    """A package of ``pip install 'raphson[demo]'`` is not there."""


def _need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(f"the demo needs more packages ({error}): pip install 'raphson[demo]'") from error


class Network:
    """Weights and biases of a fully connected network, and the gradient of its loss."""

    def __init__(self, layers: tuple[int, ...], rng: np.random.Generator) -> None:
        pairs = list(pairwise(layers))
        self.weights: list[Array] = [
            (rng.uniform(-1, 1, (out, inputs)) / np.sqrt(inputs)).astype(np.float32) for inputs, out in pairs
        ]
        self.biases: list[Array] = [np.zeros(out, np.float32) for _, out in pairs]

    def forward(self, images: Array) -> list[Array]:
        """What every layer gives, the images first and the scores of the classes last."""
        outputs = [images]
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            scores = outputs[-1] @ weight.T + bias
            outputs.append(scores if layer == last else np.maximum(scores, 0))
        return outputs

    def gradients(self, images: Array, labels: npt.NDArray[np.int64]) -> tuple[float, list[Array], list[Array]]:
        """Mean cross-entropy of a batch and its gradients by weights and by biases."""
        outputs = self.forward(images)
        logarithms = _log_softmax(outputs[-1])
        rows = np.arange(len(labels))
        loss = -float(np.mean(logarithms[rows, labels], dtype=np.float64))
        back = np.exp(logarithms)
        back[rows, labels] -= 1
        back /= np.float32(len(labels))
        by_weight: list[Array] = []
        by_bias: list[Array] = []
        for layer in range(len(self.weights) - 1, -1, -1):
            by_weight.insert(0, back.T @ outputs[layer])
            by_bias.insert(0, back.sum(axis=0))
            back = (back @ self.weights[layer]) * (outputs[layer] > 0)
        return loss, by_weight, by_bias

    def accuracy(self, images: Array, labels: npt.NDArray[np.int64]) -> float:
        """Fraction of images whose highest score is the right class."""
        return float(np.mean(self.forward(images)[-1].argmax(axis=1) == labels))

    def loss(self, images: Array, labels: npt.NDArray[np.int64]) -> float:
        """Mean cross-entropy."""
        logarithms = _log_softmax(self.forward(images)[-1])
        return -float(np.mean(logarithms[np.arange(len(labels)), labels], dtype=np.float64))


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


class SGD:
    """Nesterov momentum on every array."""

    name = "SGD with momentum"

    def __init__(self, network: Network, rate: float = SGD_RATE, momentum: float = 0.9) -> None:
        self._parameters = network.weights + network.biases
        self._velocities = [np.zeros_like(p) for p in self._parameters]
        self._rate, self._momentum = np.float32(rate), np.float32(momentum)

    def step(self, by_weight: list[Array], by_bias: list[Array], decay: float) -> None:
        rate = self._rate * np.float32(decay)
        for parameter, velocity, gradient in zip(self._parameters, self._velocities, by_weight + by_bias, strict=True):
            velocity *= self._momentum
            velocity += gradient
            parameter -= rate * (gradient + self._momentum * velocity)


class Muon:
    """Muon (Jordan et al. 2024): a weight matrix moves by the polar factor of its momentum, biases by plain momentum.

    The factor sqrt(max(1, rows / columns)) keeps the size of a step in terms of the layer's outputs.
    """

    name = "Muon"

    def __init__(
        self, network: Network, rate: float = MUON_RATE, momentum: float = 0.95, bias_rate: float = BIAS_RATE
    ) -> None:
        self._weights, self._biases = network.weights, network.biases
        self._velocities = [np.zeros_like(w) for w in self._weights]
        self._bias_velocities = [np.zeros_like(b) for b in self._biases]
        self._rates = [np.float32(rate * max(1.0, w.shape[0] / w.shape[1]) ** 0.5) for w in self._weights]
        self._momentum, self._bias_rate = np.float32(momentum), np.float32(bias_rate)

    def step(self, by_weight: list[Array], by_bias: list[Array], decay: float) -> None:
        share = np.float32(decay)
        momenta = zip(self._weights, self._velocities, by_weight, self._rates, strict=True)
        for weight, velocity, gradient, rate in momenta:
            velocity *= self._momentum
            velocity += gradient
            direction = gradient + self._momentum * velocity
            weight -= share * rate * orthogonalize(direction, out=direction)
        for bias, velocity, gradient in zip(self._biases, self._bias_velocities, by_bias, strict=True):
            velocity *= np.float32(0.9)
            velocity += gradient
            bias -= share * self._bias_rate * velocity


@dataclass
class Curve:
    """What a training run showed after each epoch, the start first."""

    name: str
    loss: list[float] = field(default_factory=list)  # on the training images
    accuracy: list[float] = field(default_factory=list)  # on the held-out images
    steps: int = 0
    seconds: float = 0.0  # in steps: gradients and updates, evaluation left out
    network: Network | None = None  # as trained

    @property
    def step_milliseconds(self) -> float:
        return 1e3 * self.seconds / max(1, self.steps)


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 numbers in [-1, 1], and their labels."""

    train_images: Array
    train_labels: npt.NDArray[np.int64]
    test_images: Array
    test_labels: npt.NDArray[np.int64]


def load_digits(seed: int) -> Digits:
    """scikit-learn's 1797 images, a quarter of them held out."""
    data: Any = _need("sklearn.datasets").load_digits()
    images = (data.data / 8 - 1).astype(np.float32)
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, rest = np.split(order, [len(labels) // 4])
    return Digits(images[rest], labels[rest], images[test], labels[test])


def train(
    digits: Digits,
    make: Callable[[Network], SGD | Muon],
    *,
    epochs: int,
    seed: int,
    over_epochs: Callable[[Iterable[int], str], Iterable[int]] = lambda epochs, name: epochs,
) -> Curve:
    """One training run; equal seeds give equal first weights and equal batches."""
    rng = np.random.default_rng(seed)
    network = Network(LAYERS, rng)
    optimizer = make(network)
    curve = Curve(optimizer.name, network=network)

    def evaluate() -> None:
        curve.loss.append(network.loss(digits.train_images, digits.train_labels))
        curve.accuracy.append(network.accuracy(digits.test_images, digits.test_labels))

    evaluate()
    total = epochs * (len(digits.train_labels) // BATCH)
    for _ in over_epochs(range(epochs), optimizer.name):
        start = time.perf_counter()
        for batch in _batches(len(digits.train_labels), rng):
            _, by_weight, by_bias = network.gradients(digits.train_images[batch], digits.train_labels[batch])
            optimizer.step(by_weight, by_bias, 1 - curve.steps / total)
            curve.steps += 1
        curve.seconds += time.perf_counter() - start
        evaluate()
    return curve


def _batches(count: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    order = rng.permutation(count)
    for start in range(0, count - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def run(
    *,
    out: str = "raphson_demo.png",
    epochs: int = 20,
    runs: int = 5,
    seed: int = 0,
    pruned: str | None = None,
    images: int = 400,
    transported: str | None = None,
) -> list[list[Curve]]:
    """Trains with both optimizers, prints what came out and draws the curves.

    Parameters
    ----------
    out : str
        Where the PNG goes.
    epochs, runs : int
        Length of a training run, and how many there are, with seeds seed, seed + 1, ...
    seed : int
        First seed; it also splits the images.
    pruned : str, optional
        Where the picture of pruning the first Muon run's network goes; None leaves that part out.
    images : int
        Training images whose gradients the pruning uses.
    transported : str, optional
        Where the picture of digits that turn into others goes; None leaves that part out.

    Returns
    -------
    list of list of Curve
        The runs of Muon, then those of SGD.
    """
    if epochs < 1 or runs < 1:
        raise ValueError(f"the demo needs at least one epoch and one run, got {epochs} and {runs}")
    matplotlib = _need("matplotlib")
    digits = load_digits(seed)
    print(
        f"{len(digits.train_labels)} images to train on, {len(digits.test_labels)} held out; "
        f"{epochs} epochs, {runs} run{'s' if runs > 1 else ''}"
    )
    kinds: tuple[Callable[[Network], SGD | Muon], ...] = (Muon, SGD)
    seeds = range(seed, seed + runs)
    with _one_thread():
        results = [[train(digits, make, epochs=epochs, seed=s, over_epochs=_progress) for s in seeds] for make in kinds]
    print(f"\n{'':<18} {'held-out accuracy':>18} {'training loss':>14} {'ms a step':>10}")
    for curves in results:
        accuracy, loss = np.median([c.accuracy[-1] for c in curves]), np.median([c.loss[-1] for c in curves])
        milliseconds = np.median([c.step_milliseconds for c in curves])
        print(f"{curves[0].name:<18} {accuracy:>17.2%} {loss:>14.1e} {milliseconds:>10.2f}")
    matplotlib.use("Agg")
    _draw(results, out)
    print(f"\ncurves: {out}")
    if pruned is not None:
        from raphson._demo_prune import prune

        network = results[0][0].network
        assert network is not None
        prune(network, digits, out=pruned, images=images)
    if transported is not None:
        from raphson._demo_transport import transport

        data = _need("sklearn.datasets").load_digits()
        transport(data.images, data.target, out=transported)
    return results


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for raphson, and for NumPy's products by threadpoolctl, which scikit-learn brings."""
    before = get_num_threads()
    set_num_threads(1)
    try:
        with _need("threadpoolctl").threadpool_limits(1):
            yield
    finally:
        set_num_threads(before)


def _progress(epochs: Iterable[int], name: str) -> Iterable[int]:
    if not sys.stderr.isatty():
        return epochs
    try:
        bar: Iterable[int] = importlib.import_module("tqdm").tqdm(epochs, desc=name, unit="epoch", leave=False)
    except ImportError:
        return epochs
    return bar


def _draw(results: list[list[Curve]], out: str) -> None:
    plt: Any = importlib.import_module("matplotlib.pyplot")
    ticker: Any = importlib.import_module("matplotlib.ticker")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=150, layout="constrained")
    runs = len(results[0])
    for curves, colour in zip(results, ("#0b6e99", "#d1671a"), strict=True):
        milliseconds = np.median([c.step_milliseconds for c in curves])
        label = f"{curves[0].name} ({milliseconds:.1f} ms a step)"
        for axes, values in (
            (left, np.array([c.loss for c in curves])),
            (right, 100 * np.array([c.accuracy for c in curves])),
        ):
            epochs = np.arange(values.shape[1])
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
            axes.plot(epochs, np.median(values, axis=0), color=colour, linewidth=1.8, label=label)
    left.set(yscale="log", title="Training loss", ylabel="mean cross-entropy")
    right.set(ylim=(88, 100.2), title="Accuracy on held-out images", ylabel="per cent")
    right.yaxis.set_major_locator(ticker.MultipleLocator(2))
    left.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        axes.set(xlabel="epoch", xlim=(0, len(results[0][0].loss) - 1))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    note = f"median of {runs} runs, band from lowest to highest" if runs > 1 else "one run"
    layers = "-".join(map(str, LAYERS))
    figure.suptitle(f"scikit-learn's digits, network {layers}, batches of {BATCH}; {note}", fontsize=10)
    figure.savefig(out)
    plt.close(figure)
