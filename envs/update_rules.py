"""The update rules of torch.optim, for many networks at once: each row of a tensor is one network.

What a rule needs of the hyperparameters is worked out beforehand for all steps of an interval, in double precision as
torch.optim does; a step is then a few passes over whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import torch
from torch import Tensor

_BETA2, _EPS, _ALPHA = 0.999, 1e-8, 0.99


class BatchedOptimizer(StrEnum):
    """The update rules, as torch.optim defines them."""

    SGD = "sgd"
    NESTEROV = "nesterov"
    ADAM = "adam"
    ADAMW = "adamw"
    RMSPROP = "rmsprop"

    @property
    def adaptive(self) -> float:
        """1.0 where steps are normalised by a running gradient size."""
        return float(self not in (BatchedOptimizer.SGD, BatchedOptimizer.NESTEROV))

    def coefficients(self, lr: Tensor, weight_decay: Tensor, momentum: Tensor, step: Tensor) -> list[Tensor]:
        """The factors of some steps, each of shape (steps, n).

        Args:
            lr: Learning rates, float64 like the others, of shape (steps, n) like all.
            weight_decay: Weight decay.
            momentum: Momentum, of Adam and AdamW beta1.
            step: Number of each step, from 1.
        """
        if self in (BatchedOptimizer.SGD, BatchedOptimizer.NESTEROV, BatchedOptimizer.RMSPROP):
            factors = [momentum, weight_decay, -lr]
            if not momentum.all():
                factors.append(momentum != 0)
        else:
            correction1, correction2 = 1 - momentum**step, (1 - _BETA2**step).sqrt()
            decay = 1 - lr * weight_decay if self is BatchedOptimizer.ADAMW else weight_decay
            # Numerator and denominator of torch.optim's step, both times the second correction: one pass less.
            factors = [1 - momentum, decay, -lr * correction2 / correction1, _EPS * correction2]
        return [factor.float() for factor in factors]

    def update(self, state: OptimizerState, factors: Sequence[Tensor]) -> None:
        """One step with these factors, each of shape (n, 1)."""
        _UPDATES[self](state, *factors)


@dataclass(frozen=True)
class OptimizerState:
    """What a step reads and writes, one row a network.

    Attributes:
        weights: The weights, shape (n, weights of a network).
        gradient: Their gradient; a step uses it up.
        momentum: Running mean of the gradient.
        pair: Gradient and momentum in the same memory, as a matrix for each network: shape (n, 2, weights).
        square: Running mean of the gradient's square; without columns where the rule has none.
        scratch: For results between; without columns for SGD.
    """

    weights: Tensor
    gradient: Tensor
    momentum: Tensor
    pair: Tensor
    square: Tensor
    scratch: Tensor

    @classmethod
    def zeros(cls, size: int, weights: int, rule: BatchedOptimizer, device: torch.device) -> OptimizerState:
        """The state of `size` networks at their first step."""
        pair = torch.zeros(2, size, weights, device=device)
        square, scratch = torch.zeros(2, size, weights if rule.adaptive else 0, device=device)
        own = torch.zeros(size, weights, device=device)
        return cls(own, pair[0], pair[1], pair.transpose(0, 1), square, scratch)

    @property
    def nbytes(self) -> int:
        """Size of the memory."""
        return sum(part.nbytes for part in (self.weights, self.pair, self.square, self.scratch))

    def split(self, rows: int) -> list[OptimizerState]:
        """The same memory in parts of so many networks."""
        columns = (torch.split(getattr(self, field.name), rows) for field in fields(self))
        return [OptimizerState(*part) for part in zip(*columns, strict=True)]


def _sgd(
    state: OptimizerState, momentum: Tensor, decay: Tensor, rate: Tensor, has_momentum: Tensor | None = None
) -> None:
    torch.addcmul(state.gradient, state.momentum, momentum, out=state.momentum)
    state.momentum.addcmul_(state.weights, decay)
    state.weights.addcmul_(state.momentum, rate)
    _forget(state, has_momentum)


def _nesterov(
    state: OptimizerState, momentum: Tensor, decay: Tensor, rate: Tensor, has_momentum: Tensor | None = None
) -> None:
    state.gradient.addcmul_(state.weights, decay)
    torch.addcmul(state.gradient, state.momentum, momentum, out=state.momentum)
    state.gradient.addcmul_(state.momentum, momentum)
    state.weights.addcmul_(state.gradient, rate)
    _forget(state, has_momentum)


def _rmsprop(
    state: OptimizerState, momentum: Tensor, decay: Tensor, rate: Tensor, has_momentum: Tensor | None = None
) -> None:
    state.gradient.addcmul_(state.weights, decay)
    state.square.mul_(_ALPHA).addcmul_(state.gradient, state.gradient, value=1 - _ALPHA)
    state.gradient.div_(torch.sqrt(state.square, out=state.scratch).add_(_EPS))
    torch.addcmul(state.gradient, state.momentum, momentum, out=state.momentum)
    state.weights.addcmul_(state.momentum, rate)
    _forget(state, has_momentum)


def _forget(state: OptimizerState, has_momentum: Tensor | None) -> None:
    if has_momentum is not None:
        # torch.optim keeps no buffer without momentum.
        state.momentum.mul_(has_momentum)


def _adam(state: OptimizerState, rest: Tensor, decay: Tensor, rate: Tensor, eps: Tensor) -> None:
    state.gradient.addcmul_(state.weights, decay)
    _adaptive_step(state, rest, rate, eps)


def _adamw(state: OptimizerState, rest: Tensor, decay: Tensor, rate: Tensor, eps: Tensor) -> None:
    state.weights.mul_(decay)
    _adaptive_step(state, rest, rate, eps)


def _adaptive_step(state: OptimizerState, rest: Tensor, rate: Tensor, eps: Tensor) -> None:
    state.momentum.lerp_(state.gradient, rest)
    state.square.mul_(_BETA2).addcmul_(state.gradient, state.gradient, value=1 - _BETA2)
    torch.sqrt(state.square, out=state.scratch).add_(eps)
    torch.mul(state.momentum, rate, out=state.gradient)
    state.weights.addcdiv_(state.gradient, state.scratch)


_UPDATES: dict[BatchedOptimizer, Callable[..., None]] = {
    BatchedOptimizer.SGD: _sgd,
    BatchedOptimizer.NESTEROV: _nesterov,
    BatchedOptimizer.ADAM: _adam,
    BatchedOptimizer.ADAMW: _adamw,
    BatchedOptimizer.RMSPROP: _rmsprop,
}
