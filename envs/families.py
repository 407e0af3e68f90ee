"""Task families: seeded generators of tasks to meta-train on.

Groups are drawn whole: the networks of a group share shape, optimiser and mini-batch size, so that they can be trained
as one batch, and differ in everything else. Splits never share a seed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .batched_training import BatchedData, BatchedTraining
from .errors import ConfigurationError
from .update_rules import BatchedOptimizer


class Split(StrEnum):
    """Which part of a family a task belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class TaskGroup:
    """n trainings of one shape, with what each starts from.

    Attributes:
        training: The trainings.
        start: Starting values by hyperparameter, each of shape (n,).
        seeds: A seed for each training.
        interval: Optimiser steps between two decisions.
    """

    training: BatchedTraining
    start: dict[str, NDArray[np.float64]]
    seeds: list[int]
    interval: int


_FEWEST_TRAIN_ROWS, _TRAIN_ROWS = 64, 1024
_VAL_ROWS = (32, 48, 96, 192, 384)


@dataclass(frozen=True)
class SyntheticClassification:
    """Perceptrons on made-up classification data: mixtures of Gaussians, and teachers that are networks themselves.

    Easy tasks and hopeless ones, no, few and many wrong labels, correlated and badly scaled inputs, 64 to 1024 training
    rows, noisy validation losses (32 to 384 rows), 2 to 10 classes; SGD with momentum, Adam and AdamW; starting
    learning rates over five and more decades. Nothing real: real data sets stay unseen.

    Attributes:
        split: Which part of the family.
        intervals: Optimiser steps between decisions, drawn for each group.
        copies: Each task stands so many times in a group, one copy behind the other: the same data, initial weights,
            mini-batches and starting values.
    """

    split: Split = Split.TRAIN
    intervals: tuple[int, ...] = (10, 20, 40)
    copies: int = 1

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """Group number `index` of a seed: `size` tasks, the same ones each time it is asked for.

        Raises:
            ConfigurationError: `size` is no multiple of `copies`.
        """
        if size % self.copies:
            raise ConfigurationError(f"a group of {size} trainings does not hold {self.copies} copies of each task")
        rng = np.random.default_rng([list(Split).index(self.split), seed, index])
        features = int(rng.choice([4, 8, 16, 32, 64]))
        classes = int(rng.integers(2, 11))
        width, depth = int(rng.choice([16, 32, 48, 64])), int(rng.choice([1, 2, 2, 3]))
        activation: type[nn.Module] = rng.choice([nn.ReLU, nn.ReLU, nn.Tanh, nn.GELU])  # type: ignore[arg-type]
        rule = BatchedOptimizer(rng.choice(["sgd", "sgd", "adam", "adamw"]))
        model = functools.partial(_perceptron, features, classes, width, depth, activation)
        tasks = size // self.copies
        data = _draw_data(tasks, features, classes, rng)
        seeds = rng.integers(2**31, size=tasks)
        start = {name: values.repeat(self.copies) for name, values in _draw_start(tasks, rule, rng).items()}
        batch_size, interval = int(rng.choice([16, 32, 64])), int(rng.choice(self.intervals))
        training = BatchedTraining(model, rule, _repeated(data, self.copies), batch_size=batch_size)
        return TaskGroup(training, start, seeds.repeat(self.copies).tolist(), interval)


def _perceptron(features: int, classes: int, width: int, depth: int, activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for inner in [features, *[width] * (depth - 1)]:
        layers += [nn.Linear(inner, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def _draw_start(size: int, rule: BatchedOptimizer, rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    low, high = (1e-6, 1.0) if rule.adaptive else (1e-5, 3.0)
    return {
        "lr": np.exp(rng.uniform(np.log(low), np.log(high), size)),
        "weight_decay": np.exp(rng.uniform(np.log(1e-6), np.log(1e-2), size)),
        "momentum": 1.0 - np.exp(rng.uniform(np.log(0.02), np.log(0.3), size)),
    }


def _draw_data(size: int, features: int, classes: int, rng: np.random.Generator) -> BatchedData:
    rows = _TRAIN_ROWS + int(rng.choice(_VAL_ROWS))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    inputs, targets = torch.empty(size, rows, features), torch.empty(size, rows, dtype=torch.long)
    for i in range(size):
        draw = _gaussian_mixture if rng.random() < 1 / 3 else _teacher
        x, y = draw(rows, features, classes, rng, generator)
        inputs[i], targets[i] = _rescaled(x, rng, generator), _noisy(y, classes, rng, generator)
    # Small data sets more often than large ones: there it is that the time to stop must be seen.
    share = rng.beta(1, 2, size)
    train_rows = (_FEWEST_TRAIN_ROWS * (_TRAIN_ROWS / _FEWEST_TRAIN_ROWS) ** share).astype(int).tolist()
    return BatchedData(inputs, targets, train_rows, _TRAIN_ROWS)


def _repeated(data: BatchedData, copies: int) -> BatchedData:
    if copies == 1:
        return data
    inputs, targets = (part.repeat_interleave(copies, dim=0) for part in (data.inputs, data.targets))
    return BatchedData(inputs, targets, np.repeat(data.train_rows, copies).tolist(), data.val_from)


def _gaussian_mixture(
    rows: int, features: int, classes: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    clusters = classes * int(rng.integers(1, 5))
    centres = torch.randn(clusters, features, generator=generator) * rng.uniform(0.3, 2.0)
    cluster = torch.randint(0, clusters, (rows,), generator=generator)
    return centres[cluster] + torch.randn(rows, features, generator=generator), cluster % classes


def _teacher(
    rows: int, features: int, classes: int, rng: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    # Examples near a class border are left out, up to three quarters of them: real classes often lie apart.
    wanted, rows = rows, int(rows / (1 - rng.uniform(0, 0.75)))
    hidden = int(rng.integers(4, 65))
    x = torch.randn(rows, features, generator=generator)
    first = torch.randn(features, hidden, generator=generator) / math.sqrt(features) * rng.uniform(1, 3)
    bias = torch.randn(hidden, generator=generator) * 0.5
    second = torch.randn(hidden, classes, generator=generator) / math.sqrt(hidden) * rng.uniform(1, 6)
    activation = torch.tanh if rng.random() < 0.5 else torch.relu
    logits = activation(x @ first + bias) @ second
    logits = logits - logits.mean(0) + torch.randn(rows, classes, generator=generator) * rng.uniform(0, 0.5)
    best, y = logits.topk(2, dim=1)
    clear = (best[:, 0] - best[:, 1]).topk(wanted, sorted=False).indices.sort().values
    return x[clear], y[clear, 0]


def _noisy(y: Tensor, classes: int, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    # A few wrong labels among clear ones make the validation loss fall far and then rise: the time to stop.
    share = rng.choice([0.0, math.exp(rng.uniform(math.log(0.005), math.log(0.05))), rng.uniform(0.05, 0.3)])
    wrong = torch.rand(len(y), generator=generator) < share
    return torch.where(wrong, torch.randint(0, classes, (len(y),), generator=generator), y)


def _rescaled(x: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    features = x.shape[1]
    if rng.random() < 0.5:
        # Correlated inputs: a random rotation, and a spectrum that falls off.
        rotation = torch.linalg.qr(torch.randn(features, features, generator=generator)).Q
        spectrum = torch.arange(1, features + 1).float() ** -rng.uniform(0, 1.5)
        x = x * spectrum @ rotation
    if rng.random() < 0.5:
        return (x - x.mean(0)) / (x.std(0) + 1e-6)
    x = x * torch.exp(torch.randn(features, generator=generator) * rng.uniform(0, 1))
    return (x - x.mean(0)) / (x.std() + 1e-6) * math.exp(0.3 * rng.normal())
