"""Task families: seeded generators of tasks to meta-train on.

Groups are drawn whole: the networks of a group share shape, optimiser and mini-batch size, so that they can be trained
as one batch, and differ in everything else. Splits never share a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import architectures, synthetic_data
from .architectures import Style
from .batched_training import BatchedData, BatchedTraining
from .errors import ConfigurationError
from .layers import Loss
from .losses import SmoothedCrossEntropy, cross_entropy
from .synthetic_data import Draw
from .update_rules import BatchedOptimizer


class Split(StrEnum):
    """Which part of a family a task belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELD_OUT = "held_out"


class Architecture(StrEnum):
    """What a group's networks are."""

    PERCEPTRON = "perceptron"
    CONVNET = "convnet"
    TRANSFORMER = "transformer"
    RECURRENT = "recurrent"


@dataclass(frozen=True)
class TaskGroup:
    """n trainings of one shape, with what each starts from.

    Attributes:
        training: The trainings.
        start: Starting values by hyperparameter, each of shape (n,); all of them can be adjusted.
        seeds: A seed for each training.
        steps: Optimiser steps of the whole training.
        name: What the tasks are, for people.
    """

    training: BatchedTraining
    start: dict[str, NDArray[np.float64]]
    seeds: list[int]
    steps: int
    name: str


_FEWEST_TRAIN_ROWS, _FEW_TRAIN_ROWS, _TRAIN_ROWS = 64, 1024, 4096
_LENGTH, _SIDE = 8, 8
"""Of texts, and of images."""


@dataclass(frozen=True)
class SyntheticTasks:
    """Small networks of four architectures on made-up data.

    Perceptrons (classification and regression), convolutional networks, transformers (language modelling) and recurrent
    networks (classification and language modelling); with and without normalisation layers and regularisation, some
    with random gains on their weights; five optimisers. Easy tasks and hopeless ones; no, few and many wrong labels;
    rare classes; correlated and badly scaled inputs, often of a few factors; 64 to 4096 training rows, in half of
    the groups few; noisy validation losses (32 to 384 rows). Starting learning rates over five and more decades,
    horizons over one and a half.

    The held-out split has other architectures: residual perceptrons, convolutions with batch norm, transformers with
    the layer norm behind each part, and recurrent networks of another cell.

    Attributes:
        split: Which part of the family.
        steps: Least and most optimiser steps of a training; log-uniform between.
        copies: Each task stands so many times in a group, one copy behind the other: the same data, initial weights,
            mini-batches and starting values.
        clear: Whether the groups with much data have data whose losses fall far, see `synthetic_data.Draw`.
        mix: How often each architecture is drawn.
        device: Where to train.
    """

    split: Split = Split.TRAIN
    steps: tuple[int, int] = (50, 1600)
    copies: int = 1
    clear: bool = False
    mix: Mapping[Architecture, float] = field(
        default_factory=lambda: {
            Architecture.PERCEPTRON: 0.60,
            Architecture.CONVNET: 0.12,
            Architecture.TRANSFORMER: 0.14,
            Architecture.RECURRENT: 0.14,
        }
    )
    device: str = "cpu"

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """Group number `index` of a seed: `size` tasks, the same ones each time it is asked for.

        Raises:
            ConfigurationError: `size` is no multiple of `copies`.
        """
        if size % self.copies:
            raise ConfigurationError(f"a group of {size} trainings does not hold {self.copies} copies of each task")
        shape = self._shape(seed, index)
        problem, rule, rng = shape.problem, shape.rule, shape.rng
        tasks = size // self.copies
        data = _draw_data(problem, tasks, self.clear, rng).repeated(self.copies)
        seeds = rng.integers(2**31, size=tasks).repeat(self.copies).tolist()
        training = BatchedTraining(
            problem.model, rule, data, loss=problem.loss, batch_size=problem.batch_size, device=self.device
        )
        start = _draw_start(tasks, rule, training.hyperparameters, rng)
        if shape.style.regularised:
            start["clip_norm"] = np.exp(rng.uniform(np.log(0.1), np.log(30), tasks))
        return TaskGroup(
            training,
            {name: values.repeat(self.copies) for name, values in start.items()},
            seeds,
            shape.steps,
            f"{problem.name} {rule}",
        )

    def cost(self, seed: int, index: int) -> float:
        """About how long the group takes compared with others: the time of a step on one core, times the steps."""
        shape = self._shape(seed, index)
        return _STEP_COST[shape.architecture] * shape.steps

    def _shape(self, seed: int, index: int) -> _Shape:
        rng = np.random.default_rng([list(Split).index(self.split), seed, index])
        shares = np.array([self.mix.get(each, 0.0) for each in Architecture])
        architecture = list(Architecture)[rng.choice(len(shares), p=shares / shares.sum())]
        rule = BatchedOptimizer(rng.choice(["sgd", "nesterov", "adam", "adam", "adamw", "adamw", "rmsprop"]))
        style = Style(
            activation=rng.choice([nn.ReLU, nn.ReLU, nn.Tanh, nn.GELU]),  # type: ignore[arg-type]
            norm=str(rng.choice(["none", "none", "layer", "batch"])),
            regularised=bool(rng.random() < 0.35),
            reparametrised=bool(rng.random() < 0.25),
        )
        low, high = np.log(self.steps)
        steps = round(float(np.exp(rng.uniform(low, high))))
        problem = _PROBLEMS[architecture](rng, style, self.split is Split.HELD_OUT)
        return _Shape(architecture, problem, rule, style, steps, rng)


@dataclass(frozen=True)
class _Problem:
    """A shape of network, and how to draw a data set for it."""

    name: str
    model: Callable[[], nn.Module]
    draw_data: Callable[[int, Draw], tuple[Tensor, Tensor]]
    loss: Loss
    batch_size: int
    val_rows: int


@dataclass(frozen=True)
class _Shape:
    """What the trainings of a group have in common, and where the rest comes from."""

    architecture: Architecture
    problem: _Problem
    rule: BatchedOptimizer
    style: Style
    steps: int
    rng: np.random.Generator


def _perceptron(rng: np.random.Generator, style: Style, held_out: bool) -> _Problem:
    features = int(rng.choice([4, 8, 16, 32, 64]))
    width, depth = int(rng.choice([16, 32, 48, 64])), int(rng.choice([1, 2, 2, 3]))
    regression = rng.random() < 0.25
    outputs = int(rng.integers(1, 4) if regression else rng.integers(2, 11))
    make: Any = architectures.ResidualPerceptron if held_out else architectures.perceptron
    return _Problem(
        "perceptron, regression" if regression else "perceptron",
        partial(make, features, outputs, width, depth, style),
        partial(_values if regression else _classes, features, outputs),
        nn.functional.mse_loss if regression else _classification_loss(style),
        int(rng.choice([16, 32, 64])),
        int(rng.choice([32, 48, 96, 192, 384])),
    )


def _convnet(rng: np.random.Generator, style: Style, held_out: bool) -> _Problem:
    channels, classes = int(rng.choice([1, 1, 3])), int(rng.integers(2, 11))
    norm = "batch" if held_out else {"batch": "layer"}.get(style.norm, style.norm)
    style = Style(style.activation, norm, style.regularised, style.reparametrised)
    width, depth = int(rng.choice([4, 6, 8])), int(rng.choice([2, 2, 3]))
    return _Problem(
        "convnet",
        partial(architectures.convnet, channels, _SIDE, classes, width, depth, style),
        partial(_images, channels, classes),
        _classification_loss(style),
        16,
        int(rng.choice([48, 96])),
    )


def _transformer(rng: np.random.Generator, style: Style, held_out: bool) -> _Problem:
    tokens = int(rng.choice([8, 12, 20]))
    width, depth = int(rng.choice([16, 24])), int(rng.choice([1, 1, 1, 2]))
    return _Problem(
        "transformer",
        partial(architectures.Transformer, tokens, _LENGTH, width, depth, 2, style, norm_first=not held_out),
        partial(_text, tokens),
        _classification_loss(style),
        8,
        int(rng.choice([32, 48])),
    )


def _recurrent(rng: np.random.Generator, style: Style, held_out: bool) -> _Problem:
    reads_text = bool(rng.random() < 0.5)
    inputs = int(rng.choice([8, 12, 20] if reads_text else [3, 6]))
    outputs, width = inputs if reads_text else int(rng.integers(2, 11)), int(rng.choice([16, 24, 32]))
    cell: Any = architectures.MinimalGatedCell if held_out else architectures.GatedCell
    model = partial(
        architectures.Recurrent, inputs, outputs, width, style,
        reads_text=reads_text, at_every_place=reads_text, cell=cell,
    )  # fmt: skip
    return _Problem(
        "recurrent, text" if reads_text else "recurrent",
        model,
        partial(_text, inputs) if reads_text else partial(_sequences, inputs, outputs),
        _classification_loss(style),
        int(8 if reads_text else rng.choice([16, 32])),
        int(rng.choice([48, 96])),
    )


_PROBLEMS = {
    Architecture.PERCEPTRON: _perceptron,
    Architecture.CONVNET: _convnet,
    Architecture.TRANSFORMER: _transformer,
    Architecture.RECURRENT: _recurrent,
}


_STEP_COST = {
    Architecture.PERCEPTRON: 2.0,
    Architecture.CONVNET: 9.0,
    Architecture.TRANSFORMER: 9.0,
    Architecture.RECURRENT: 5.0,
}
"""Milliseconds that a step of 32 networks takes, roughly."""


def _classification_loss(style: Style) -> Loss:
    return SmoothedCrossEntropy() if style.regularised else cross_entropy


def _classes(features: int, classes: int, rows: int, draw: Draw) -> tuple[Tensor, Tensor]:
    source = synthetic_data.gaussian_mixture if draw.rng.random() < 1 / 3 else synthetic_data.teacher_classes
    x, y = source(rows, features, classes, draw)
    return synthetic_data.rescaled(x, draw), synthetic_data.mislabelled(y, classes, draw)


def _values(features: int, outputs: int, rows: int, draw: Draw) -> tuple[Tensor, Tensor]:
    x, y = synthetic_data.teacher_values(rows, features, outputs, draw)
    return synthetic_data.rescaled(x, draw), y


def _images(channels: int, classes: int, rows: int, draw: Draw) -> tuple[Tensor, Tensor]:
    source = synthetic_data.shifted_shapes if draw.rng.random() < 0.5 else synthetic_data.teacher_images
    x, y = source(rows, channels, _SIDE, classes, draw)
    return x, synthetic_data.mislabelled(y, classes, draw)


def _sequences(features: int, classes: int, rows: int, draw: Draw) -> tuple[Tensor, Tensor]:
    x, y = synthetic_data.teacher_sequences(rows, 8, features, classes, draw)
    return x, synthetic_data.mislabelled(y, classes, draw)


def _text(tokens: int, rows: int, draw: Draw) -> tuple[Tensor, Tensor]:
    return synthetic_data.markov_text(rows, _LENGTH, tokens, draw)


def _draw_data(problem: _Problem, tasks: int, clear: bool, rng: np.random.Generator) -> BatchedData:
    # Half of the groups have little data: there it is that the time to stop must be seen. But from such data alone
    # policies learn to be timid, since there is little to win.
    many = rng.random() < 0.5
    clear = clear and many
    most, of_many = (_TRAIN_ROWS, (2.5 if clear else 1.5, 1.0)) if many else (_FEW_TRAIN_ROWS, (1.0, 2.0))
    share = rng.beta(*of_many, tasks)
    train_rows = (_FEWEST_TRAIN_ROWS * (most / _FEWEST_TRAIN_ROWS) ** share).astype(int).tolist()
    drawn = [problem.draw_data(most + problem.val_rows, Draw(rng, clear=clear)) for _ in range(tasks)]
    inputs, targets = (torch.stack(part) for part in zip(*drawn, strict=True))
    return BatchedData(inputs, targets, train_rows, most)


def _draw_start(
    tasks: int, rule: BatchedOptimizer, names: list[str], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    low, high = (1e-6, 1.0) if rule.adaptive else (1e-5, 3.0)
    ranges: dict[str, Callable[[], NDArray[np.float64]]] = {
        "lr": lambda: np.exp(rng.uniform(np.log(low), np.log(high), tasks)),
        "weight_decay": lambda: np.exp(rng.uniform(np.log(1e-6), np.log(1e-2), tasks)),
        "momentum": lambda: 1.0 - np.exp(rng.uniform(np.log(0.02), np.log(0.3), tasks)),
        "dropout": lambda: rng.uniform(0.01, 0.6, tasks),
        "augmentation": lambda: rng.uniform(0.01, 0.8, tasks),
        "label_smoothing": lambda: rng.uniform(0.005, 0.3, tasks),
    }
    return {name: ranges[name]() for name in names}
