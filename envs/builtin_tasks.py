"""Built-in tasks: small real data sets of scikit-learn, split into training and validation examples.

There is no test part here: whoever reports test figures keeps one back before a task is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from .errors import ConfigurationError
from .torch_training import TorchTraining

_LOADERS = {
    "digits": "load_digits",
    "breast_cancer": "load_breast_cancer",
    "wine": "load_wine",
    "iris": "load_iris",
}
DATA_SETS = tuple(_LOADERS)
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": functools.partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-4),
    "adamw": functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4),
    "sgd": functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=1e-4),
}


def load_examples(name: str) -> tuple[Tensor, Tensor]:
    """Inputs (rows, features), float32, and class numbers (rows,), in the data set's own order.

    Raises:
        ConfigurationError: No such data set.
    """
    if name not in _LOADERS:
        raise ConfigurationError(f"expected one of the built-in data sets {', '.join(_LOADERS)}, got {name!r}")
    import sklearn.datasets

    data: Any = getattr(sklearn.datasets, _LOADERS[name])()
    return torch.as_tensor(data.data, dtype=torch.float32), torch.as_tensor(data.target, dtype=torch.long)


def split_examples(inputs: Tensor, targets: Tensor, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Shuffles, splits 70 : 30 into training and validation, and standardises by the training part's statistics."""
    order = torch.as_tensor(np.random.default_rng(seed).permutation(len(inputs)))
    cut = int(0.7 * len(inputs))
    train, val = order[:cut], order[cut:]
    mean, std = inputs[train].mean(0), inputs[train].std(0)
    inputs = (inputs - mean) / torch.where(std > 0, std, torch.ones_like(std))
    return TensorDataset(inputs[train], targets[train]), TensorDataset(inputs[val], targets[val])


def mlp(features: int, classes: int, width: int = 48, depth: int = 2) -> nn.Module:
    """A plain perceptron with `depth` hidden ReLU layers."""
    widths = [features, *[width] * depth]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def builtin_task(name: str, optimizer: str = "adam", split_seed: int = 0) -> TorchTraining:
    """A perceptron on a built-in data set.

    Args:
        name: One of `DATA_SETS`.
        optimizer: "adam", "adamw" or "sgd" (with momentum).
        split_seed: Which rows become validation examples.

    Raises:
        ConfigurationError: No such data set or optimiser.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigurationError(f"expected one of the optimisers {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    inputs, targets = load_examples(name)
    train, val = split_examples(inputs, targets, split_seed)
    model = functools.partial(mlp, inputs.shape[1], int(targets.max()) + 1)
    return TorchTraining(model, OPTIMIZERS[optimizer], train, val)
