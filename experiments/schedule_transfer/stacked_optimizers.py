"""Any torch optimiser for many networks of one shape at once, with the gradients of the batched machinery.

The networks are the rows of one matrix. A row is a parameter of its own, so that an optimiser with a group for each row
(or one optimiser for each) steps on all of them while their gradients are computed together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from metatuner.envs.sampling import EpochSampler
from metatuner.envs.traced import Recording
from tasks import Array, Task
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.optim import Optimizer


class StackedNetworks:
    """The networks of a task, with the initial weights and mini-batches that `Task.group` gives them.

    Args:
        task: What to train.
        copies: How many networks.

    Attributes:
        rows: Each network's weights as one parameter, with its gradient.
        weights: The same memory, shape (n, weights of a network).
        buffers: By name, each of shape (n, ...).
    """

    def __init__(self, task: Task, copies: int) -> None:
        self._model, data = task.model, task.data(copies)
        weights, buffers = self._model.fresh(task.seed)
        self.buffers = {name: torch.stack([b] * copies) for name, b in zip(self._model.buffers, buffers, strict=True)}
        self.weights = weights.repeat(copies, 1)
        self._gradient = torch.zeros_like(self.weights)
        self.rows = [nn.Parameter(row) for row in self.weights]
        for row, gradient in zip(self.rows, self._gradient, strict=True):
            row.grad = gradient
        lengths = [shape.numel() for shape in self._model.weights.values()]
        parts = zip(torch.split(self.weights, lengths, dim=1), self._model.weights.values(), strict=True)
        self._weights = [part.view(-1, *shape) for part, shape in parts]
        self._first = torch.arange(copies)[:, None] * data.inputs.shape[1]
        self._examples = [part.flatten(0, 1) for part in (data.inputs, data.targets)]
        self._validation = [part[:, data.val_from :] for part in (data.inputs, data.targets)]
        self._batch = [part[:, : task.problem.batch_size].clone() for part in (data.inputs, data.targets)]
        self._sampler = EpochSampler(data.train_rows[0], task.problem.batch_size, task.seed)
        self._recording = Recording(self._gradients, *self._weights, *self.buffers.values(), *self._batch)

    def train(self, steps: int, optimizers: Sequence[Optimizer], after: Callable[[], object] = lambda: None) -> None:
        """Trains all on; `after` is called after each step."""
        for _ in range(steps):
            self._forward_and_backward()
            for optimizer in optimizers:
                optimizer.step()
            after()

    def settle_buffers(self, batches: int) -> None:
        """Lets running statistics follow the weights, which stay as they are, for so many mini-batches."""
        for _ in range(batches if self.buffers else 0):
            self._forward_and_backward()

    def validate(self) -> Array:
        """Validation losses, shape (n,)."""
        with torch.no_grad():
            losses = vmap(self._model.val_loss)(self._weights, [], list(self.buffers.values()), *self._validation)
        result: Array = losses.double().numpy()
        return result

    def _forward_and_backward(self) -> None:
        chosen = (self._sampler.next(1) + self._first).flatten()
        for examples, place in zip(self._examples, self._batch, strict=True):
            torch.index_select(examples, 0, chosen, out=place.flatten(0, 1))
        *gradients, _ = self._recording.replay()
        of_weights, changed = gradients[: len(self._weights)], gradients[len(self._weights) :]
        torch.cat(of_weights, 1, out=self._gradient)
        for buffer, new in zip(self.buffers.values(), changed, strict=True):
            buffer.copy_(new)

    def _gradients(self, *tensors: Tensor) -> list[Tensor]:
        """Gradients, each (n, ...) flattened, buffers after the mini-batch, and the losses (n,)."""
        w, b = len(self._weights), len(self.buffers)
        gradients = vmap(grad_and_value(self._model.train_loss, has_aux=True))
        weights, buffers, batch = list(tensors[:w]), list(tensors[w : w + b]), tensors[w + b :]
        of_weights, (losses, changed) = gradients(weights, [], buffers, *batch)
        return [*(gradient.flatten(1) for gradient in of_weights), *changed, losses]


class Hypergradient(Optimizer):
    """SGD with momentum, Adam or AdamW, whose learning rate descends its own gradient (Baydin et al. 2018).

    The rate of each group grows by `hypergradient_lr` times the product of the gradient with the group's last update
    direction (equation 5 and algorithms 4 to 6 of the paper, with heavy-ball momentum).

    Args:
        params: Groups of parameters.
        lr: The rate to start from.
        momentum: Of SGD; of Adam beta1.
        weight_decay: Added to the gradient, or to the direction where it is decoupled.
        adam: Whether it is Adam.
        decoupled: Whether it is AdamW.
        hypergradient_lr: None takes the paper's: 1e-3, for Adam 1e-7.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        adam: bool = False,
        decoupled: bool = False,
        hypergradient_lr: float | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adam": adam, "decoupled": decoupled}
        rate = (1e-7 if adam else 1e-3) if hypergradient_lr is None else hypergradient_lr
        super().__init__(params, defaults | {"hypergradient_lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that are there."""
        del closure
        for group in self.param_groups:
            decay, decoupled = group["weight_decay"], group["decoupled"]
            gradients = [p.grad if decoupled else p.grad + decay * p for p in group["params"]]
            for p, gradient in zip(group["params"], gradients, strict=True):
                if "direction" in self.state[p]:
                    group["lr"] += group["hypergradient_lr"] * float(torch.sum(gradient * self.state[p]["direction"]))
            for p, gradient in zip(group["params"], gradients, strict=True):
                direction = self._direction(self.state[p], gradient, group)
                self.state[p]["direction"] = direction + decay * p if decoupled else direction
                p.sub_(group["lr"] * self.state[p]["direction"])

    def _direction(self, state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> Tensor:
        momentum, zero = group["momentum"], torch.zeros_like(gradient)
        if not group["adam"]:
            state["mean"] = gradient + momentum * state.get("mean", zero)
            mean: Tensor = state["mean"]
            return mean
        state["step"] = state.get("step", 0) + 1
        state["mean"] = torch.lerp(state.get("mean", zero), gradient, 1 - momentum)
        state["square"] = torch.lerp(state.get("square", zero), gradient.square(), 1e-3)
        size = (state["square"] / (1 - 0.999 ** state["step"])).sqrt() + 1e-8
        direction: Tensor = state["mean"] / (1 - momentum ** state["step"]) / size
        return direction
