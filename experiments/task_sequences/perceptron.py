"""A perceptron tuned on four data sets of scikit-learn in turn: what one teaches makes the next one cheaper.

    python experiments/task_sequences/perceptron.py [--seed 0] [--out FOLDER]

Two hidden layers with dropout, AdamW, six hyperparameters. All four data sets are real: digits, breast cancer, wine
and iris. Each is split 40 : 40 : 20 into training, validation and test examples: iris has 150, and fewer would not tell
configurations apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import sequence
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "weight_decay": FloatDistribution(1e-6, 1.0, log=True),
    "beta1": FloatDistribution(0.5, 0.99),
    "dropout": FloatDistribution(0.0, 0.8),
    "width": IntDistribution(8, 256, log=True),
    "batch_size": IntDistribution(16, 128, log=True),
}
LOADERS = {
    "digits": datasets.load_digits,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
}
EXAMPLES_A_UNIT = 600
"""Examples that are seen between two validations: a unit costs much the same on every data set."""

Part = tuple[Tensor, Tensor]


def train(config: sequence.Config, data: dict[str, Part], seed: int, judged_on: str = "val") -> Iterator[float]:
    """Trains a perceptron; yields its cross-entropy on validation examples after each unit."""
    inputs, targets = data["train"]
    random = torch.Generator().manual_seed(seed)
    # Trainings that pause take turns, and weights and dropout draw from torch's one generator: each unit seeds it anew.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = perceptron(inputs.shape[1], int(targets.max()) + 1, config["width"], config["dropout"])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config["lr"], betas=(config["beta1"], 0.999), weight_decay=config["weight_decay"]
    )
    rows = torch.empty(0, dtype=torch.long)
    for unit in range(sequence.UNITS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * sequence.UNITS + unit)
            model.train()
            for _ in range(EXAMPLES_A_UNIT // config["batch_size"]):
                if len(rows) < config["batch_size"]:
                    rows = torch.cat([rows, torch.randperm(len(inputs), generator=random)])
                batch, rows = rows.tensor_split([config["batch_size"]])
                loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            inputs_there, targets_there = data[judged_on]
            value = float(nn.functional.cross_entropy(model(inputs_there), targets_there))
        yield value


def test(config: sequence.Config, data: dict[str, Part], seed: int) -> float:
    """The cross-entropy of a full training on test examples."""
    *_, last = train(config, data, seed, judged_on="test")
    return last


def perceptron(features: int, classes: int, width: int, dropout: float) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(features, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, classes),
    )


def tasks(seed: int) -> list[sequence.Task]:
    """One a data set."""
    found = []
    for number, (name, load) in enumerate(LOADERS.items()):
        data = split(load, seed)
        of_data = functools.partial(train, data=data, seed=seed), functools.partial(test, data=data, seed=seed)
        found.append(sequence.Task(name, *of_data, seed * len(LOADERS) + number))
    return found


def split(load: Callable[..., Any], seed: int) -> dict[str, Part]:
    """Inputs and classes of three parts, standardised by the training part."""
    inputs, targets = load(return_X_y=True)
    rest, test_inputs, targets_of_rest, test_targets = train_test_split(
        inputs, targets, test_size=0.2, random_state=seed, stratify=targets
    )
    train_inputs, val_inputs, train_targets, val_targets = train_test_split(
        rest, targets_of_rest, test_size=0.5, random_state=seed, stratify=targets_of_rest
    )
    scaler = StandardScaler().fit(train_inputs)
    parts = {
        "train": (train_inputs, train_targets),
        "val": (val_inputs, val_targets),
        "test": (test_inputs, test_targets),
    }
    return {
        part: (torch.as_tensor(scaler.transform(x), dtype=torch.float32), torch.as_tensor(y, dtype=torch.long))
        for part, (x, y) in parts.items()
    }


EXAMPLE = sequence.Example("perceptron", SPACE, tasks, "cross-entropy on validation and test examples")

if __name__ == "__main__":
    sequence.main(EXAMPLE, __doc__)
