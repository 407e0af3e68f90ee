"""Many networks of one shape side by side in memory, and what is done to all of them at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from .batched_model import BatchedModel
from .meter import IntervalMeter, measures_gradient
from .traced import Recording
from .update_rules import BatchedOptimizer, OptimizerState

PART_BYTES = 3 << 20
"""Networks are updated in parts with at most as much state: what one pass leaves in the cache the next one finds."""


class Networks:
    """n networks and their optimiser state.

    Args:
        model: What they have in common.
        rule: The update rule.
        inputs: Shape (n, examples, ...), on the device where the networks are to be.
        targets: Shape (n, examples, ...).
        val_from: Examples from here on are for validation.
        batch_size: Examples a mini-batch.

    Attributes:
        state: Weights and optimiser state; what is written there counts from then on.
        buffers: Buffers by name, each of shape (n, ...); likewise.
        values: The layers' hyperparameters by name, each of shape (n,); likewise.
    """

    def __init__(
        self,
        model: BatchedModel,
        rule: BatchedOptimizer,
        inputs: Tensor,
        targets: Tensor,
        val_from: int,
        batch_size: int,
    ) -> None:
        self._model, self._rule, size, device = model, rule, len(inputs), inputs.device
        lengths = [shape.numel() for shape in model.weights.values()]
        self.state = OptimizerState.zeros(size, sum(lengths), rule, device)
        self.buffers = {
            name: torch.zeros(size, *buffer.shape, dtype=buffer.dtype, device=device)
            for name, buffer in model.buffers.items()
        }
        self.values = {name: torch.zeros(size, device=device) for name in model.hyperparameters}
        self._before = torch.zeros_like(self.state.weights)
        self._rows = math.ceil(size / math.ceil(self.state.nbytes / PART_BYTES))
        self._parts = self.state.split(self._rows)
        parts = zip(torch.split(self.state.weights, lengths, dim=1), model.weights.values(), strict=True)
        self._weights = [part.view(size, *shape) for part, shape in parts]
        self._examples = [part.flatten(0, 1) for part in (inputs, targets)]
        self._validation = [part[:, val_from:] for part in (inputs, targets)]
        self._batch = [part[:, :batch_size].clone(memory_format=torch.contiguous_format) for part in (inputs, targets)]
        self._batch_rows = [part.flatten(0, 1) for part in self._batch]

    def train(
        self,
        rows: Tensor,
        factors: Sequence[Tensor],
        values: Mapping[str, Tensor],
        clip_norm: Tensor | None = None,
    ) -> IntervalMeter:
        """Trains all for an interval.

        Args:
            rows: Which examples the mini-batches take, of all networks' examples laid end to end; shape
                (steps, n, batch size).
            factors: The update rule's factors, each of shape (steps, n).
            values: The layers' hyperparameters, each of shape (steps, n).
            clip_norm: Gradients longer than this are scaled down to it, shape (steps, n); None clips none.
        """
        losses, products = [], []
        of_parts = (_by_step_and_part(factor, self._rows) for factor in factors)
        for step, (chosen, *now) in enumerate(zip(rows, *of_parts, strict=True)):
            losses.append(self._differentiate(chosen, {name: value[step] for name, value in values.items()}))
            for buffer, changed in zip(self.buffers.values(), self._changed_buffers, strict=True):
                buffer.copy_(changed)
            if step == len(rows) - 1:
                self._before.copy_(self.state.weights)
            measured = measures_gradient(step, len(rows))
            self._gather_gradients()
            if clip_norm is not None:
                _clip(self.state.gradient, clip_norm[step])
            for part, *mine in zip(self._parts, *now, strict=True):
                if measured:
                    products.append(torch.bmm(part.pair, part.pair.mT))
                self._rule.update(part, mine)
        return self._measured(torch.stack(losses), torch.cat(products).view(-1, len(self._before), 2, 2))

    def gradient(self, rows: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Gradients of all weights on a mini-batch, shape (n, weights): a look, no step.

        Args:
            rows: Which examples it takes, shape (n, batch size); as for `train`.
            values: The layers' hyperparameters, each of shape (n,).
        """
        self._differentiate(rows, values)
        self._gather_gradients()
        return self.state.gradient

    @torch.no_grad()
    def validate(self) -> Tensor:
        """The validation losses, shape (n,)."""
        # Not recorded: it is called too seldom for that to pay.
        losses: Tensor = vmap(self._model.val_loss)(
            self._weights, list(self.values.values()), list(self.buffers.values()), *self._validation
        )
        return losses

    def _differentiate(self, rows: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Leaves gradients and changed buffers in the recording's outputs; returns the losses, shape (n,)."""
        for examples, place in zip(self._examples, self._batch_rows, strict=True):
            torch.index_select(examples, 0, rows.flatten(), out=place)
        for name, value in values.items():
            self.values[name].copy_(value)
        return self._gradients.replay()[-1].clone()

    def _gather_gradients(self) -> None:
        for part, gradients in zip(self._parts, self._gradient_parts, strict=True):
            torch.cat(gradients, 1, out=part.gradient)

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
        """Of a mini-batch: gradients of all weights, each (n, ...) flattened, buffers after it, losses (n,)."""
        groups = (self._weights, list(self.values.values()), list(self.buffers.values()), self._batch)
        ends = torch.tensor([len(group) for group in groups]).cumsum(0).tolist()[:-1]
        gradients = vmap(grad_and_value(self._model.train_loss, has_aux=True), randomness="different")

        def flat(*tensors: Tensor) -> list[Tensor]:
            first, second, third = ends
            weights, values, buffers, batch = (
                list(part) for part in (tensors[:first], tensors[first:second], tensors[second:third], tensors[third:])
            )
            of_weights, (losses, changed) = gradients(weights, values, buffers, *batch)
            return [*(gradient.flatten(1) for gradient in of_weights), *changed, losses]

        return Recording(flat, *(tensor for group in groups for tensor in group))

    @functools.cached_property
    def _changed_buffers(self) -> Sequence[Tensor]:
        return self._gradients.outputs[len(self._weights) : -1]

    @functools.cached_property
    def _gradient_parts(self) -> list[tuple[Tensor, ...]]:
        columns = (torch.split(gradient, self._rows) for gradient in self._gradients.outputs[: len(self._weights)])
        return list(zip(*columns, strict=True))


def _by_step_and_part(factor: Tensor, rows: int) -> list[tuple[Tensor, ...]]:
    """A factor of shape (steps, n) as a column for each step and part."""
    return [torch.split(of_step, rows) for of_step in factor[..., None]]


def _clip(gradient: Tensor, norm: Tensor) -> None:
    """As `torch.nn.utils.clip_grad_norm_` does, a row a network."""
    length = torch.linalg.vector_norm(gradient, dim=1)
    gradient.mul_((norm / (length + 1e-6)).clamp_(max=1.0)[:, None])
