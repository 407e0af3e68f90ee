"""What is tuned: a PyTorch perceptron on scikit-learn's digits, by its cross-entropy on examples that were kept apart.

It yields a value after each of eight epochs, so that a training may be stopped early.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

space = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "weight_decay": FloatDistribution(1e-6, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 0.8),
    "width": IntDistribution(8, 128, log=True),
    "batch_size": IntDistribution(32, 256, log=True),
    "activation": CategoricalDistribution(["relu", "tanh", "gelu"]),
}
EPOCHS = 8
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def train(config: Mapping[str, Any]) -> Iterator[float]:
    """Trains; the cross-entropy on validation examples after each epoch."""
    random = torch.Generator().manual_seed(0)
    # Trainings that pause take turns, and weights and dropout draw from torch's one generator: each epoch seeds it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(64, config["width"]),
            _ACTIVATIONS[config["activation"]](),
            nn.Dropout(config["dropout"]),
            nn.Linear(config["width"], 10),
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    for epoch in range(EPOCHS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1 + epoch)
            model.train()
            for rows in torch.randperm(len(_INPUTS), generator=random).split(config["batch_size"]):
                loss = nn.functional.cross_entropy(model(_INPUTS[rows]), _TARGETS[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            value = float(nn.functional.cross_entropy(model(_VAL_INPUTS), _VAL_TARGETS))
        yield value


def _parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and classes: 700 examples to train on, the others to judge by."""
    inputs, targets = load_digits(return_X_y=True)
    parts = train_test_split(inputs / 16, targets, train_size=700, random_state=0, stratify=targets)
    inputs, val_inputs = (torch.as_tensor(each, dtype=torch.float32) for each in parts[:2])
    targets, val_targets = (torch.as_tensor(each, dtype=torch.long) for each in parts[2:])
    return inputs, targets, val_inputs, val_targets


_INPUTS, _TARGETS, _VAL_INPUTS, _VAL_TARGETS = _parts()
