"""Signals brought to one scale while a policy learns.

In a long training the loss changes by a hundredth between two decisions, in a short one by half: on its raw scale a
network would see the first for noise. When the learning is over, the standardisation is folded into the actor's first
layers, so that a policy takes observations as they are.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..envs.controller import HYPERPARAMETER_SIGNALS
from .actor import Actor, ActorShape

LEAST_DEVIATION = 0.05
"""Signals that spread less are not scaled up further: a flag that is hardly ever set would be enormous when it is."""

ENOUGH = 500_000
"""After so many observations the scale stays as it is."""

_FLAGS = {"adjusted", *(name for name in HYPERPARAMETER_SIGNALS if name.startswith("is_"))}


def adjusted(blocks: Tensor) -> Tensor:
    """1 where a block (n, h, o) is of a hyperparameter that is adjusted, 0 where there is none; shape (n, h)."""
    return blocks[..., HYPERPARAMETER_SIGNALS.index("adjusted")]


class Standardiser(nn.Module):
    """Running means and standard deviations of all signals (Chan et al. 1979), flags left alone; and their ranges.

    Args:
        shape: How many signals there are.
    """

    signals_mean: Tensor
    signals_variance: Tensor
    own_mean: Tensor
    own_variance: Tensor
    counts: Tensor
    signals_low: Tensor
    signals_high: Tensor

    def __init__(self, shape: ActorShape) -> None:
        super().__init__()
        self.shape = shape
        for name, size in (("signals", shape.global_signals), ("own", shape.own_signals)):
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"{name}_variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("signals_low", torch.full((shape.global_signals,), torch.inf))
        self.register_buffer("signals_high", torch.full((shape.global_signals,), -torch.inf))

    def forward(self, observation: Tensor) -> Tensor:
        """Observations (n, g + h * o) on the new scale, laid out as before."""
        signals, blocks = self._split(observation)
        own = (blocks - self._shift(self.own_mean)) / self._scale(self.own_variance)
        scaled = (signals - self._shift(self.signals_mean)) / self._scale(self.signals_variance)
        return torch.cat([scaled, own.flatten(-2)], dim=-1)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Takes in observations, shape (n, g + h * o)."""
        if self.counts[0] >= ENOUGH:
            return
        signals, blocks = self._split(observations.double())
        there = blocks[adjusted(blocks) > 0]
        self._merge(0, self.signals_mean, self.signals_variance, signals)
        self._merge(1, self.own_mean, self.own_variance, there)
        flags = torch.tensor([name in _FLAGS for name in HYPERPARAMETER_SIGNALS])
        self.own_mean[flags], self.own_variance[flags] = 0.0, 1.0

    @torch.no_grad()
    def widen_ranges(self, observations: Tensor) -> None:
        """Notes the least and the greatest value of each signal, of observations of shape (n, g + h * o)."""
        signals, _ = self._split(observations)
        torch.minimum(self.signals_low, signals.amin(0), out=self.signals_low)
        torch.maximum(self.signals_high, signals.amax(0), out=self.signals_high)

    @torch.no_grad()
    def folded_into(self, actor: Actor) -> Actor:
        """An actor that does to observations as they are what `actor` does to standardised ones."""
        folded = copy.deepcopy(actor)
        own = self._shift(self.own_mean), self._scale(self.own_variance)
        inner = actor.shape.summary + actor.shape.memory
        unscaled = torch.zeros(inner), torch.ones(inner)
        everything = (torch.cat(parts) for parts in zip(self._of_signals, unscaled, own, strict=True))
        for layer, scale in ((folded.encoder.block[0], own), (folded.body[0], everything)):
            assert isinstance(layer, nn.Linear)
            _fold(layer.weight, layer.bias, *scale)
        return folded

    @torch.no_grad()
    def folded_into_memory(self, memory: nn.LSTM) -> nn.LSTM:
        """A memory of signals as they are that does what `memory` does with standardised ones."""
        folded = copy.deepcopy(memory)
        _fold(folded.get_parameter("weight_ih_l0"), folded.get_parameter("bias_ih_l0"), *self._of_signals)
        return folded

    @property
    def _of_signals(self) -> tuple[Tensor, Tensor]:
        return self._shift(self.signals_mean), self._scale(self.signals_variance)

    def _merge(self, which: int, mean: Tensor, variance: Tensor, rows: Tensor) -> None:
        count = self.counts[which].clone()
        total = count + len(rows)
        change = rows.mean(0) - mean
        squares = variance * count + rows.var(0, correction=0) * len(rows) + change.square() * count * len(rows) / total
        mean += change * len(rows) / total
        variance.copy_(squares / total)
        self.counts[which] = total

    def _split(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        signals, flat = observation.tensor_split([self.shape.global_signals], dim=-1)
        return signals, flat.reshape(*flat.shape[:-1], -1, self.shape.own_signals)

    @staticmethod
    def _shift(mean: Tensor) -> Tensor:
        return mean.float()

    @staticmethod
    def _scale(variance: Tensor) -> Tensor:
        return variance.sqrt().clamp(min=LEAST_DEVIATION).float()


def _fold(weight: Tensor, bias: Tensor, shift: Tensor, scale: Tensor) -> None:
    """Makes a linear layer do to x what it did to (x - shift) / scale."""
    weight.div_(scale)
    bias.sub_(weight @ shift)
