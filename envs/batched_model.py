"""A module with its loss as plain functions of weights, buffers and examples: what `torch.func` can batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .layers import LAYER_HYPERPARAMETERS, Loss, ModelWithLoss


class BatchedModel:
    """What n networks of one shape have in common.

    Args:
        make_model: Makes a fresh module.
        loss: Mean loss of outputs and targets; a module where it has hyperparameters of its own.

    Attributes:
        weights: Shapes of the weights by name.
        hyperparameters: Names of the hyperparameters that are buffers of layers, see `envs.layers`.
        buffers: All other buffers by name (on the meta device): running statistics, and constants.
    """

    def __init__(self, make_model: Callable[[], nn.Module], loss: Loss) -> None:
        self._make_model, self._loss = make_model, loss
        # A model may draw numbers where it is made; those are not the caller's.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            self._training = ModelWithLoss(make_model(), copy.deepcopy(loss)).train()
        self._evaluating = copy.deepcopy(self._training).eval()
        self.weights = {name: weight.shape for name, weight in self._training.named_parameters()}
        buffers = dict(self._training.named_buffers())
        self._places = {name: [b for b in buffers if b.rpartition(".")[2] == name] for name in LAYER_HYPERPARAMETERS}
        self.hyperparameters = [name for name, places in self._places.items() if places]
        set_from_outside = {place for places in self._places.values() for place in places}
        self.buffers = {name: buffer for name, buffer in buffers.items() if name not in set_from_outside}

    def fresh(self, seed: int) -> tuple[Tensor, list[Tensor]]:
        """Initial weights as one vector, and buffers."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ModelWithLoss(self._make_model(), self._loss)
        named = dict(model.named_buffers())
        return nn.utils.parameters_to_vector(model.parameters()).detach(), [named[name] for name in self.buffers]

    def train_loss(
        self, weights: Sequence[Tensor], values: Sequence[Tensor], buffers: Sequence[Tensor], *examples: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The loss of a mini-batch, and the buffers after it.

        Args:
            weights: In the order of `weights`.
            values: Of the layers' hyperparameters, in the order of `hyperparameters`.
            buffers: In the order of `buffers`.
            examples: Inputs and targets.
        """
        # Layers change their buffers in place; those that were given stay as they are.
        changed = [buffer.clone() for buffer in buffers]
        loss: Tensor = functional_call(self._training, self._named(weights, values, changed), examples)
        return loss, changed

    def val_loss(
        self, weights: Sequence[Tensor], values: Sequence[Tensor], buffers: Sequence[Tensor], *examples: Tensor
    ) -> Tensor:
        """The loss of validation examples, in evaluation mode; arguments as for `train_loss`."""
        loss: Tensor = functional_call(self._evaluating, self._named(weights, values, buffers), examples)
        return loss

    def _named(
        self, weights: Sequence[Tensor], values: Sequence[Tensor], buffers: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        named = {**dict(zip(self.weights, weights, strict=True)), **dict(zip(self.buffers, buffers, strict=True))}
        for name, value in zip(self.hyperparameters, values, strict=True):
            named |= dict.fromkeys(self._places[name], value)
        return named
