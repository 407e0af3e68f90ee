"""Many networks of one shape side by side in memory, and what is done to all of them at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from .meter import IntervalMeter, measures_gradient
from .traced import Recording
from .update_rules import BatchedOptimizer, OptimizerState

PART_BYTES = 3 << 20
"""Networks are updated in parts with at most as much state: what one pass leaves in the cache the next one finds."""


class Networks:
    """n networks and their optimiser state.

    Args:
        loss: The loss of one network, from its weights, inputs and targets.
        shapes: Shapes of its weights.
        rule: The update rule.
        inputs: Shape (n, examples, ...).
        targets: Shape (n, examples, ...).
        val_from: Examples from here on are for validation.
        batch_size: Examples a mini-batch.

    Attributes:
        state: Weights and optimiser state; what is written there counts from then on.
    """

    def __init__(
        self,
        loss: Callable[..., Tensor],
        shapes: Sequence[torch.Size],
        rule: BatchedOptimizer,
        inputs: Tensor,
        targets: Tensor,
        val_from: int,
        batch_size: int,
    ) -> None:
        self._loss, self._rule, size = loss, rule, len(inputs)
        lengths = [shape.numel() for shape in shapes]
        self.state = OptimizerState.zeros(size, sum(lengths), rule)
        self._before = torch.zeros_like(self.state.weights)
        self._rows = math.ceil(size / math.ceil(self.state.nbytes / PART_BYTES))
        self._parts = self.state.split(self._rows)
        parts = zip(torch.split(self.state.weights, lengths, dim=1), shapes, strict=True)
        self._weights = [part.view(size, *shape) for part, shape in parts]
        self._examples = [part.flatten(0, 1) for part in (inputs, targets)]
        self._validation = [part[:, val_from:] for part in (inputs, targets)]
        self._batch = [part[:, :batch_size].clone(memory_format=torch.contiguous_format) for part in (inputs, targets)]
        self._batch_rows = [part.flatten(0, 1) for part in self._batch]

    def train(self, rows: Tensor, factors: Sequence[Tensor]) -> IntervalMeter:
        """Trains all for an interval.

        Args:
            rows: Which examples the mini-batches take, of all networks' examples laid end to end; shape
                (steps, n, batch size).
            factors: The update rule's factors, each of shape (steps, n).
        """
        losses, products = [], []
        of_parts = (_by_step_and_part(factor, self._rows) for factor in factors)
        for step, (chosen, *now) in enumerate(zip(rows.flatten(1), *of_parts, strict=True)):
            for examples, place in zip(self._examples, self._batch_rows, strict=True):
                torch.index_select(examples, 0, chosen, out=place)
            losses.append(self._gradients.replay()[-1].clone())
            if step == len(rows) - 1:
                self._before.copy_(self.state.weights)
            measured = measures_gradient(step, len(rows))
            for part, gradients, *mine in zip(self._parts, self._gradient_parts, *now, strict=True):
                torch.cat(gradients, 1, out=part.gradient)
                if measured:
                    products.append(torch.bmm(part.pair, part.pair.mT))
                self._rule.update(part, mine)
        return self._measured(torch.stack(losses), torch.cat(products).view(-1, len(self._before), 2, 2))

    @torch.no_grad()
    def validate(self) -> Tensor:
        """The validation losses, shape (n,)."""
        # Not recorded: it is called too seldom for that to pay.
        losses: Tensor = vmap(self._loss, randomness="different")(*self._weights, *self._validation)
        return losses

    def _measured(self, losses: Tensor, products: Tensor) -> IntervalMeter:
        """Takes the losses and, of each measured step, the products [[g.g, g.m], [m.g, m.m]], both steps first."""
        meter = IntervalMeter(len(losses))
        meter.losses(losses)
        meter.gradients(products[..., 0, 0], products[..., 0, 1], products[..., 1, 1])
        before = torch.linalg.vector_norm(self._before, dim=1).square()
        meter.update(torch.linalg.vector_norm(self._before.sub_(self.state.weights), dim=1).square(), before)
        return meter

    @functools.cached_property
    def _gradients(self) -> Recording:
        """For a mini-batch: the gradients of all weights, each of shape (n, ...) flattened, and the losses (n,)."""
        gradients = vmap(grad_and_value(self._loss, argnums=tuple(range(len(self._weights)))), randomness="different")

        def flat(*tensors: Tensor) -> list[Tensor]:
            of_weights, losses = gradients(*tensors)
            return [*(gradient.flatten(1) for gradient in of_weights), losses]

        return Recording(flat, *self._weights, *self._batch)

    @functools.cached_property
    def _gradient_parts(self) -> list[tuple[Tensor, ...]]:
        columns = (torch.split(gradient, self._rows) for gradient in self._gradients.outputs[:-1])
        return list(zip(*columns, strict=True))


def _by_step_and_part(factor: Tensor, rows: int) -> list[tuple[Tensor, ...]]:
    """A factor of shape (steps, n) as a column for each step and part."""
    return [torch.split(of_step, rows) for of_step in factor[..., None]]
