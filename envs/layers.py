"""Layers whose hyperparameters are buffers: they can change while a model trains, also in a batch of networks.

A buffer is found by its name, which is the hyperparameter's: all dropout layers of a model share one `dropout`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of a batch of outputs and targets; a module where it has hyperparameters of its own."""

LAYER_HYPERPARAMETERS = ("dropout", "augmentation", "label_smoothing")
"""Names of hyperparameters that are buffers of layers, here and in `envs.losses`."""


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) at a rate in [0, 1) that can change."""

    dropout: Tensor

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("dropout", torch.tensor(float(rate)))

    def forward(self, x: Tensor) -> Tensor:
        """Zeroes some of x and scales up the rest; x itself in evaluation mode."""
        if not self.training:
            return x
        return x * (torch.rand_like(x) >= self.dropout) / (1 - self.dropout)


class NoisyInput(nn.Module):
    """Augmentation of any input: Gaussian noise (Bishop 1995) of a strength in [0, 1], of which 1 is as large as it."""

    augmentation: Tensor

    def __init__(self, strength: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("augmentation", torch.tensor(float(strength)))

    def forward(self, x: Tensor) -> Tensor:
        """Adds noise to x; x itself in evaluation mode."""
        if not self.training:
            return x
        scale = x.square().mean().sqrt()
        return x + self.augmentation * scale * torch.randn_like(x)


class Reparametrised(nn.Module):
    """The same function of other weights: a layer's output is multiplied by a gain that its weights are divided by.

    The loss is the same to begin with; the gradient is `gain` times and the best learning rate for SGD 1 / gain^2 times
    as large, which is different for every layer.

    Args:
        layer: Linear in its weights, such as nn.Linear or nn.Conv2d.
        spread: Standard deviation of the log of the gain, which is drawn at random.
    """

    gain: Tensor

    def __init__(self, layer: nn.Module, spread: float = 0.7) -> None:
        super().__init__()
        self.layer = layer
        gain = math.exp(spread * float(torch.randn((), device="cpu")))
        self.register_buffer("gain", torch.tensor(gain))
        with torch.no_grad():
            for weight in layer.parameters():
                weight.div_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output times the gain."""
        output: Tensor = self.layer(x) * self.gain
        return output


class ModelWithLoss(nn.Module):
    """A module and its loss as one module, so that the hyperparameters of both are its buffers."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return self.loss(self.model(inputs), targets)


def layer_hyperparameters(model: nn.Module) -> dict[str, list[Tensor]]:
    """The buffers that are hyperparameters, by hyperparameter; only those that the model has."""
    found: dict[str, list[Tensor]] = {}
    for place, buffer in model.named_buffers():
        if (name := place.rpartition(".")[2]) in LAYER_HYPERPARAMETERS:
            found.setdefault(name, []).append(buffer)
    return found
