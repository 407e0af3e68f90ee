"""Many small networks of one shape, trained at once: what makes meta-training cheap.

Every network has its own data, weights, optimiser state and hyperparameters; `torch.func.vmap` turns the layers of all
of them into batched matrix products, `envs.traced` replays those without vmap's and autograd's bookkeeping, and the
optimiser works on one flat buffer. The readable twin is `envs.torch_training.TorchTraining`: same seeds, same losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.utils.data import TensorDataset

from .meter import IntervalMeter
from .sampling import EpochSampler
from .signals import Interval
from .torch_training import TorchTraining
from .traced import TensorFunction, trace


class BatchedOptimizer(StrEnum):
    """The update rules, as torch.optim defines them."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"

    @property
    def adaptive(self) -> float:
        """1.0 where steps are normalised by a running gradient size."""
        return float(self is not BatchedOptimizer.SGD)


@dataclass(frozen=True)
class BatchedData:
    """The data of n trainings.

    Attributes:
        inputs: Shape (n, rows, ...).
        targets: Shape (n, rows, ...).
        train_rows: Rows 0 .. train_rows[i] - 1 are training i's training examples, shape (n,).
        val_from: Rows from here on are everyone's validation examples.
    """

    inputs: Tensor
    targets: Tensor
    train_rows: Sequence[int]
    val_from: int

    def __len__(self) -> int:
        return len(self.inputs)


_BETA2, _EPS = 0.999, 1e-8


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of `torch.nn.functional.cross_entropy`, for one network's logits (batch, classes).

    Taken over columns, where the softmax over few classes vectorises: three times as fast in a batch of networks.
    """
    log_probabilities = nn.functional.log_softmax(logits.mT.contiguous(), dim=0)
    return -log_probabilities.gather(0, targets[None]).mean()


class BatchedTraining:
    """The trainings of n networks of one shape.

    Has the methods of `envs.training.Training`, for arrays of n instead of single numbers.

    Args:
        model: Makes a fresh module; it must hold no buffers that training changes (no batch norm statistics).
        optimizer: The update rule of all n.
        data: What to train on, one part for each training.
        loss: Mean loss of one network's mini-batch of outputs and targets; positive.
        batch_size: Examples a mini-batch; each training needs at least as many.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        optimizer: BatchedOptimizer,
        data: BatchedData,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        batch_size: int = 32,
    ) -> None:
        self.size = len(data)
        self._make_model, self._rule, self._data, self._batch_size = model, optimizer, data, batch_size
        self._loss = loss
        self.adaptive = np.full(self.size, optimizer.adaptive)
        with torch.device("meta"):
            self._skeleton = model()
        shapes = {name: weight.shape for name, weight in self._skeleton.named_parameters()}
        total = sum(shape.numel() for shape in shapes.values())
        self._weights, self._gradient, self._scratch = (torch.zeros(self.size, total) for _ in range(3))
        self._momentum, self._square = torch.zeros(self.size, total), torch.zeros(self.size, total)
        self._weight_views, self._gradient_views = _views(self._weights, shapes), _views(self._gradient, shapes)
        self._hyperparameters = {name: torch.zeros(self.size) for name in ("lr", "weight_decay", "momentum")}
        self._step = torch.zeros(self.size)

    def start(self, config: Mapping[str, ArrayLike], seeds: Sequence[int]) -> Interval:
        """Begins n trainings: config values are numbers or arrays of shape (n,); one seed each."""
        for i, seed in enumerate(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                fresh = nn.utils.parameters_to_vector(self._make_model().parameters())
            self._weights[i] = fresh.detach()
        self._samplers = [
            EpochSampler(rows, self._batch_size, seed) for rows, seed in zip(self._data.train_rows, seeds, strict=True)
        ]
        for buffer in (self._momentum, self._square, self._step):
            buffer.zero_()
        self._set(config, 0)
        return Interval.of(val_loss=self.validate().numpy())

    def advance(self, hyperparameters: Mapping[str, ArrayLike], steps: int) -> Interval:
        """Trains all on: values are numbers, arrays of shape (n,), or (steps, n) for one value a step."""
        meter = IntervalMeter(steps)
        rows = torch.stack([sampler.next(steps) for sampler in self._samplers], dim=1)
        rows += torch.arange(self.size)[:, None] * self._data.inputs.shape[1]
        for step in range(steps):
            self._set(hyperparameters, step)
            loss = self._differentiate(*self._batch(rows[step]))
            if meter.wants_gradient:
                meter.gradient(*self._gradient_statistics())
            before = self._weights.clone() if meter.wants_update else None
            self._update()
            if before is not None:
                meter.update((self._weights - before).square().sum(1), before.square().sum(1))
            meter.loss(loss)
        return meter.interval(self.validate())

    @torch.no_grad()
    def validate(self) -> Tensor:
        """Validation losses, shape (n,)."""
        inputs, targets = self._data.inputs[:, self._data.val_from :], self._data.targets[:, self._data.val_from :]
        # Not traced: it is called too seldom for that to pay.
        losses: Tensor = vmap(self._one_loss, randomness="different")(*self._weight_views.values(), inputs, targets)
        return losses

    def snapshot(self) -> dict[str, Any]:
        """The whole state."""
        buffers = {name: getattr(self, name).clone() for name in _BUFFERS}
        return {**buffers, "samplers": [sampler.state_dict() for sampler in self._samplers]}

    def restore(self, snapshot: Mapping[str, Any], where: NDArray[np.bool_] | None = None) -> None:
        """Back to a snapshot, for the trainings where `where` (shape (n,)) is true; None restores all."""
        chosen = torch.ones(self.size, dtype=torch.bool) if where is None else torch.as_tensor(where)
        for name in _BUFFERS:
            getattr(self, name)[chosen] = snapshot[name][chosen]
        for i in chosen.nonzero().flatten().tolist():
            self._samplers[i].load_state_dict(snapshot["samplers"][i])

    def close(self) -> None:
        """Holds nothing that needs closing."""

    def twin(self, i: int) -> TorchTraining:
        """Training i on its own, one network in torch.optim: slow and easy to read. Started alike, it trains alike."""
        rows, val_from = self._data.train_rows[i], self._data.val_from
        inputs, targets = self._data.inputs[i], self._data.targets[i]
        train, val = TensorDataset(inputs[:rows], targets[:rows]), TensorDataset(inputs[val_from:], targets[val_from:])
        optimizer = _TWIN_OPTIMIZERS[self._rule]
        loss = nn.functional.cross_entropy if self._loss is cross_entropy else self._loss
        return TorchTraining(self._make_model, optimizer, train, val, loss=loss, batch_size=self._batch_size)

    def _set(self, values: Mapping[str, ArrayLike], step: int) -> None:
        for name, value in values.items():
            array = np.asarray(value, dtype=np.float64)
            now = torch.from_numpy(np.atleast_1d(array[step] if array.ndim == 2 else array))
            self._hyperparameters[name] = now.float().expand(self.size)

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Examples at rows of the data of all trainings laid end to end, shape (n, batch size)."""
        inputs, targets = (
            part.flatten(0, 1).index_select(0, rows.flatten()).view(*rows.shape, *part.shape[2:])
            for part in (self._data.inputs, self._data.targets)
        )
        return inputs, targets

    @functools.cached_property
    def _gradients(self) -> TensorFunction:
        """Weights, inputs and targets of n networks to their gradients and losses (n,), for a mini-batch."""
        count = len(self._weight_views)
        gradients = vmap(grad_and_value(self._one_loss, argnums=tuple(range(count))), randomness="different")

        def flat(*tensors: Tensor) -> list[Tensor]:
            of_weights, losses = gradients(*tensors)
            return [*of_weights, losses]

        inputs, targets = self._data.inputs[:, : self._batch_size], self._data.targets[:, : self._batch_size]
        return trace(flat, *self._weight_views.values(), inputs, targets)

    def _one_loss(self, *tensors: Tensor) -> Tensor:
        """The loss of one network, from its weights, inputs and targets."""
        *weights, inputs, targets = tensors
        named = dict(zip(self._weight_views, weights, strict=True))
        return self._loss(functional_call(self._skeleton, named, (inputs,)), targets)

    def _differentiate(self, inputs: Tensor, targets: Tensor) -> Tensor:
        *gradients, losses = self._gradients(*self._weight_views.values(), inputs, targets)
        for view, gradient in zip(self._gradient_views.values(), gradients, strict=True):
            view.copy_(gradient)
        return losses

    def _gradient_statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        g, m = self._gradient, self._momentum
        squared, momentum_squared = (torch.linalg.vector_norm(each, dim=1).square() for each in (g, m))
        return squared, torch.linalg.vecdot(g, m), momentum_squared

    @torch.no_grad()
    def _update(self) -> None:
        """One optimiser step for all n; the formulas are those of torch.optim."""
        lr, decay, momentum = (self._hyperparameters[name][:, None] for name in ("lr", "weight_decay", "momentum"))
        self._step += 1
        w, g = self._weights, self._gradient
        if self._rule is BatchedOptimizer.ADAMW:
            w.mul_(1 - lr * decay)
        else:
            g.addcmul_(w, decay)
        if self._rule is BatchedOptimizer.SGD:
            self._momentum.mul_(momentum).add_(g)
            w.addcmul_(self._momentum, -lr)
            if not momentum.all():
                # torch.optim.SGD keeps no buffer without momentum.
                self._momentum.mul_(momentum != 0)
            return
        self._momentum.lerp_(g, 1 - momentum)
        self._square.mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
        step = self._step[:, None].double()
        correction1, correction2 = 1 - momentum.double() ** step, 1 - _BETA2**step
        torch.sqrt(self._square, out=self._scratch)
        self._scratch.div_(correction2.sqrt().float()).add_(_EPS)
        torch.div(self._momentum, self._scratch, out=self._scratch)
        w.addcmul_(self._scratch, (-lr / correction1).float())


_TWIN_OPTIMIZERS: dict[BatchedOptimizer, Callable[..., torch.optim.Optimizer]] = {
    BatchedOptimizer.SGD: functools.partial(torch.optim.SGD, lr=1e-3),
    BatchedOptimizer.ADAM: torch.optim.Adam,
    BatchedOptimizer.ADAMW: torch.optim.AdamW,
}
_BUFFERS = ("_weights", "_momentum", "_square", "_step")


def _views(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Views of a (n, total) buffer as named weights of shape (n, *shape)."""
    parts = torch.split(flat.detach(), [shape.numel() for shape in shapes.values()], dim=1)
    return {name: part.view(len(flat), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
