"""What is trained: networks on real data that no policy was trained on, with rows held back for a test."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from metatuner.envs.architectures import Recurrent, ResidualPerceptron, Style, Transformer, perceptron
from metatuner.envs.batched_model import BatchedModel
from metatuner.envs.batched_training import BatchedData, BatchedTraining
from metatuner.envs.data_sets import fingerprint
from metatuner.envs.families import TaskGroup
from metatuner.envs.layers import Loss
from metatuner.envs.losses import cross_entropy
from metatuner.envs.update_rules import BatchedOptimizer
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]
Examples = tuple[Tensor, Tensor]

STARTS = np.geomspace(1e-5, 0.3, 12)
"""The starting learning rates of all strategies: four and a half decades."""
SEARCHED = np.geomspace(1e-5, 0.3 * (STARTS[1] / STARTS[0]) ** 0.5, 24)
"""The rates of the largest search: the starts, those halfway between, and one more above."""
WEIGHT_DECAY = {BatchedOptimizer.SGD: 1e-4, BatchedOptimizer.ADAM: 1e-4, BatchedOptimizer.ADAMW: 1e-2}
MOMENTUM = 0.9
TEXT = "tinyshakespeare.txt.gz"

_TRAIN_ROWS, _VAL_ROWS, _TEST_ROWS = 4096, 512, 1024
_TEXT_ROWS, _LENGTH = (8192, 128, 256), 32
_SGD, _ADAM, _ADAMW = BatchedOptimizer.SGD, BatchedOptimizer.ADAM, BatchedOptimizer.ADAMW


@dataclass(frozen=True)
class Split:
    """The data of one seed; each part is inputs (rows, ...) and targets (rows, ...)."""

    train: Examples
    val: Examples
    test: Examples


@dataclass(frozen=True)
class Problem:
    """A network and its data.

    Attributes:
        name: Architecture and data.
        architecture: For people.
        model: Makes a fresh network.
        loss: Mean loss of a mini-batch.
        batch_size: Examples a mini-batch.
        split: The data of a seed.
        optimizers: Which optimisers it is trained with.
        long: The optimiser of the long training; None where there is none.
    """

    name: str
    architecture: str
    model: Callable[[], nn.Module]
    loss: Loss
    batch_size: int
    split: Callable[[int], Split]
    optimizers: tuple[BatchedOptimizer, ...]
    long: BatchedOptimizer | None = None


@dataclass(frozen=True)
class Task:
    """A problem with an optimiser, a horizon and a seed; each starting rate is one training.

    Attributes:
        problem: What to train.
        optimizer: With which update rule.
        steps: Optimiser steps.
        seed: The split, the initial weights and the mini-batches follow from it.
    """

    problem: Problem
    optimizer: BatchedOptimizer
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """What it is called in the results, where all seeds are together."""
        return f"{self.problem.name} {self.optimizer}"

    @functools.cached_property
    def split(self) -> Split:
        """The data."""
        return self.problem.split(self.seed)

    @functools.cached_property
    def model(self) -> BatchedModel:
        """What its networks have in common."""
        return BatchedModel(self.problem.model, self.problem.loss)

    def data(self, copies: int) -> BatchedData:
        """Training and validation rows of so many trainings."""
        inputs, targets = (torch.cat([a, b])[None] for a, b in zip(self.split.train, self.split.val, strict=True))
        rows = len(self.split.train[0])
        return BatchedData(inputs, targets, [rows], rows).repeated(copies)

    def group(self, rates: Array) -> TaskGroup:
        """A training for each rate."""
        problem, n = self.problem, len(rates)
        training = BatchedTraining(
            problem.model, self.optimizer, self.data(n), loss=problem.loss, batch_size=problem.batch_size
        )
        start = {
            "lr": rates,
            "weight_decay": np.full(n, WEIGHT_DECAY[self.optimizer]),
            "momentum": np.full(n, MOMENTUM),
        }
        return TaskGroup(training, start, [self.seed] * n, self.steps, self.name)

    def test_losses(self, weights: Iterable[Tensor], buffers: Iterable[Sequence[Tensor]]) -> Array:
        """Losses of networks on the test rows: each one's weights as a vector, and its buffers."""
        shapes, losses = self.model.weights.values(), []
        for vector, mine in zip(weights, buffers, strict=True):
            parts = zip(torch.split(vector, [shape.numel() for shape in shapes]), shapes, strict=True)
            with torch.no_grad():
                loss = self.model.val_loss([part.view(shape) for part, shape in parts], [], mine, *self.split.test)
            losses.append(float(loss))
        return np.array(losses)

    def description(self, with_optimizer: bool = True) -> dict[str, object]:
        """All that a result depends on, for its key in the cache."""
        shown = f"{self.problem.model()!r} {[tuple(shape) for shape in self.model.weights.values()]}"
        described = {
            "problem": self.problem.name,
            "model": hashlib.sha256(shown.encode()).hexdigest()[:16],
            "data": fingerprint([*self.split.train, *self.split.val, *self.split.test]),
            "batch_size": self.problem.batch_size,
            "steps": self.steps,
            "seed": self.seed,
        }
        own = {"optimizer": str(self.optimizer), "weight_decay": WEIGHT_DECAY[self.optimizer], "momentum": MOMENTUM}
        return described | own if with_optimizer else described


def problems(folder: Path | None, validation: bool = False) -> list[Problem]:
    """All problems; those whose data are not in the folder are left out with a message.

    Args:
        folder: Where the data sets lie that scikit-learn does not bring.
        validation: Whether those are wanted, on other data, that choices between policies are made by.
    """
    found = [] if validation else _of_scikit_learn()
    for file, (names, make) in (_OF_VALIDATION if validation else _OF_FILES).items():
        if folder is not None and (folder / file).is_file():
            found += make(folder / file)
        else:
            print(f"left out, for want of {file} in --data: {', '.join(names)}", flush=True)
    return found


def _of_scikit_learn() -> list[Problem]:
    digits = _digits()
    return [
        _convnet("cnn digits", digits, (_ADAM, _SGD), _SGD),
        Problem(
            "gru digits by rows", "GRU", functools.partial(Recurrent, 8, 10, 48, Style()), cross_entropy, 32,
            functools.partial(_split, digits[0][:, 0], digits[1]), (_ADAM, _ADAMW),
        ),
        _regression("mlp diabetes", *_diabetes(), (_ADAM, _SGD)),
    ]  # fmt: skip


def _digits() -> Examples:
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    return torch.as_tensor(x, dtype=torch.float32).view(-1, 1, 8, 8), torch.as_tensor(y, dtype=torch.long)


def _diabetes() -> Examples:
    x, y = sklearn.datasets.load_diabetes(return_X_y=True)
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)[:, None]


def _arrays(path: Path) -> tuple[NDArray[np.float32], NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["X"].astype(np.float32), arrays["y"]


def _classes(path: Path) -> Examples:
    x, y = _arrays(path)
    _, classes = np.unique(y, return_inverse=True)
    return torch.from_numpy(x), torch.from_numpy(classes)


def _values(path: Path) -> Examples:
    x, y = _arrays(path)
    return torch.from_numpy(x), torch.from_numpy(y.astype(np.float32))[:, None]


def _classifier(
    name: str,
    optimizers: tuple[BatchedOptimizer, ...],
    long: BatchedOptimizer | None = None,
    *,
    residual: bool = False,
    path: Path,
) -> list[Problem]:
    x, classes = _classes(path)
    network, width = (ResidualPerceptron, 48) if residual else (perceptron, 64)
    model = functools.partial(network, x.shape[1], int(classes.max()) + 1, width, 2, Style())
    split, architecture = functools.partial(_split, x, classes), "residual MLP" if residual else "MLP"
    return [Problem(name, architecture, model, cross_entropy, 32, split, optimizers, long)]


def _houses(name: str, path: Path) -> list[Problem]:
    x, y = _arrays(path)
    # Prices, in logarithms as usual.
    targets = torch.from_numpy(np.log1p(y.astype(np.float64)).astype(np.float32))[:, None]
    return [_regression(name, torch.from_numpy(x), targets, (_ADAMW, _SGD))]


def _residual(
    name: str, optimizers: tuple[BatchedOptimizer, ...], long: BatchedOptimizer | None = None, *, path: Path
) -> list[Problem]:
    x, y = _values(path)
    model = functools.partial(ResidualPerceptron, x.shape[1], 1, 48, 2, Style())
    mse, split = nn.functional.mse_loss, functools.partial(_split, x, y)
    return [Problem(name, "residual MLP", model, mse, 32, split, optimizers, long)]


def _strokes(path: Path) -> list[Problem]:
    x, classes = _classes(path)
    # Eight points of a pen's way.
    points, model = x.view(-1, 8, 2), functools.partial(Recurrent, 2, 10, 48, Style())
    split = functools.partial(_split, points, classes)
    return [Problem("gru pendigits", "GRU", model, cross_entropy, 32, split, (_ADAM, _ADAMW))]


def _pixels(path: Path) -> list[Problem]:
    x, y = _arrays(path)
    images = torch.from_numpy(x).view(-1, 1, 16, 15)
    return [_convnet("cnn mfeat_pixel", (images, torch.from_numpy(y.astype(np.int64))), (_ADAMW, _SGD), None)]


def _texts(path: Path) -> list[Problem]:
    text = np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8)
    characters, tokens = np.unique(text, return_inverse=True)
    size, split = len(characters), functools.partial(_split_text, torch.from_numpy(tokens))
    transformer = functools.partial(Transformer, size, _LENGTH, 48, 2, 4, Style(nn.GELU))
    gru = functools.partial(Recurrent, size, size, 48, Style(), reads_text=True, at_every_place=True)
    return [
        Problem("transformer text", "transformer", transformer, cross_entropy, 16, split, (_ADAMW, _SGD), _ADAMW),
        Problem("gru text", "GRU", gru, cross_entropy, 16, split, (_ADAM, _SGD), _ADAM),
    ]


def _made(make: Callable[..., list[Problem]], *args: Any, **kwargs: Any) -> Callable[[Path], list[Problem]]:
    return lambda path: make(*args, **kwargs, path=path)


_OF_FILES: Mapping[str, tuple[list[str], Callable[[Path], list[Problem]]]] = {
    "letter.npz": (["mlp letter"], _made(_classifier, "mlp letter", (_ADAM, _SGD), _ADAM)),
    "537_houses.npz": (["mlp houses"], _made(_houses, "mlp houses")),
    "201_pol.npz": (["resmlp pol"], _made(_residual, "resmlp pol", (_ADAM, _ADAMW), _ADAM)),
    "mfeat_pixel.npz": (["cnn mfeat_pixel"], _pixels),
    TEXT: (["transformer text", "gru text"], _texts),
}
_OF_VALIDATION: Mapping[str, tuple[list[str], Callable[[Path], list[Problem]]]] = {
    "texture.npz": (["mlp texture"], _made(_classifier, "mlp texture", (_ADAM, _SGD))),
    "vowel.npz": (["mlp vowel"], _made(_classifier, "mlp vowel", (_ADAM, _SGD))),
    "krkopt.npz": (["resmlp krkopt"], _made(_classifier, "resmlp krkopt", (_ADAM,), residual=True)),
    "344_mv.npz": (["resmlp mv"], _made(_residual, "resmlp mv", (_ADAMW,))),
    "218_house_8L.npz": (["mlp house_8L"], _made(_houses, "mlp house_8L")),
    "pendigits.npz": (["gru pendigits"], _strokes),
}


def _regression(name: str, x: Tensor, y: Tensor, optimizers: tuple[BatchedOptimizer, ...]) -> Problem:
    model = functools.partial(perceptron, x.shape[1], 1, 64, 2, Style(nn.Tanh))
    return Problem(name, "MLP", model, nn.functional.mse_loss, 32, functools.partial(_split, x, y), optimizers)


def _convnet(
    name: str, data: Examples, optimizers: tuple[BatchedOptimizer, ...], long: BatchedOptimizer | None
) -> Problem:
    images, classes = data
    height, width = images.shape[2:]
    model = functools.partial(convnet, height, width, int(classes.max()) + 1)
    split = functools.partial(_split, images, classes)
    return Problem(name, "CNN with batch norm", model, cross_entropy, 32, split, optimizers, long)


def convnet(height: int, width: int, classes: int) -> nn.Module:
    """Three convolutions of 3 x 3 with batch norm and 8, 16 and 32 channels; the last two halve the image."""
    layers: list[nn.Module] = []
    for inner, outer, stride in ((1, 8, 1), (8, 16, 2), (16, 32, 2)):
        norm = nn.BatchNorm2d(outer)
        # A counter that a running mean of fixed rate has no use for.
        norm.num_batches_tracked = None
        layers += [nn.Conv2d(inner, outer, 3, stride=stride, padding=1), norm, nn.ReLU()]
        height, width = -(-height // stride), -(-width // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * height * width, classes))


def _split(inputs: Tensor, targets: Tensor, seed: int) -> Split:
    """Shuffled, 60 : 20 : 20 (of large sets fewer), standardised by the training rows; images as a whole."""
    order = torch.as_tensor(np.random.default_rng([seed, 0]).permutation(len(inputs)))
    a, b = int(0.6 * len(order)), int(0.8 * len(order))
    parts = order[:a][:_TRAIN_ROWS], order[a:b][:_VAL_ROWS], order[b:][:_TEST_ROWS]
    inputs = _standardised(inputs, parts[0], tuple(range(inputs.ndim)) if inputs.ndim > 2 else (0,))
    if targets.is_floating_point():
        targets = _standardised(targets, parts[0], (0,))
    return Split(*((inputs[part], targets[part]) for part in parts))


def _standardised(values: Tensor, rows: Tensor, over: tuple[int, ...]) -> Tensor:
    mean, std = values[rows].mean(over, keepdim=True), values[rows].std(over, keepdim=True)
    return (values - mean) / torch.where(std > 0, std, torch.ones_like(std))


def _split_text(tokens: Tensor, seed: int) -> Split:
    """Random passages of the first 80 % of a text, the next 10 % and the last."""
    rng, a, b = np.random.default_rng([seed, 0]), int(0.8 * len(tokens)), int(0.9 * len(tokens))
    parts = []
    for part, rows in zip((tokens[:a], tokens[a:b], tokens[b:]), _TEXT_ROWS, strict=True):
        first = torch.as_tensor(rng.choice(len(part) - _LENGTH, rows, replace=False))
        passages = part[first[:, None] + torch.arange(_LENGTH + 1)]
        parts.append((passages[:, :-1].contiguous(), passages[:, 1:].contiguous()))
    return Split(*parts)
