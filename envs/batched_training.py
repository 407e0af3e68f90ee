"""Many small networks of one shape, trained at once: what makes meta-training cheap.

Every network has its own data, weights, optimiser state and hyperparameters; `torch.func.vmap` turns the layers of all
of them into batched matrix products, `envs.traced` replays those without vmap's and autograd's bookkeeping, and
the optimiser works on one flat buffer (`envs.networks`). The readable twin is `envs.torch_training.TorchTraining`: same
seeds, same losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from .networks import Networks
from .sampling import EpochSampler
from .signals import Interval
from .torch_training import TorchTraining
from .update_rules import BatchedOptimizer


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
        self._step = torch.zeros(self.size)
        self._hyperparameters = {name: np.zeros(self.size) for name in ("lr", "weight_decay", "momentum")}
        with torch.device("meta"):
            skeleton = model()
        shapes = {name: weight.shape for name, weight in skeleton.named_parameters()}

        def loss_of_one(*tensors: Tensor) -> Tensor:
            *weights, inputs, targets = tensors
            named = dict(zip(shapes, weights, strict=True))
            return loss(functional_call(skeleton, named, (inputs,)), targets)

        self._networks = Networks(
            loss_of_one, list(shapes.values()), optimizer, data.inputs, data.targets, data.val_from, batch_size
        )
        state = self._networks.state
        # What a snapshot holds, apart from the samplers.
        self._buffers = {"weights": state.weights, "momentum": state.momentum, "square": state.square}
        self._buffers["step"] = self._step

    def start(self, config: Mapping[str, ArrayLike], seeds: Sequence[int]) -> Interval:
        """Begins n trainings: config values are numbers or arrays of shape (n,); one seed each."""
        for i, seed in enumerate(seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                fresh = nn.utils.parameters_to_vector(self._make_model().parameters())
            self._buffers["weights"][i] = fresh.detach()
        self._samplers = [
            EpochSampler(rows, self._batch_size, seed) for rows, seed in zip(self._data.train_rows, seeds, strict=True)
        ]
        for name in ("momentum", "square", "step"):
            self._buffers[name].zero_()
        self._schedule(config, 1)
        return Interval.of(val_loss=self.validate().numpy())

    def advance(self, hyperparameters: Mapping[str, ArrayLike], steps: int) -> Interval:
        """Trains all on: values are numbers, arrays of shape (n,), or (steps, n) for one value a step."""
        number = self._step.double() + torch.arange(1, steps + 1)[:, None]
        factors = self._rule.coefficients(**self._schedule(hyperparameters, steps), step=number)
        rows = torch.stack([sampler.next(steps) for sampler in self._samplers])
        rows += torch.arange(self.size)[:, None, None] * self._data.inputs.shape[1]
        meter = self._networks.train(rows.transpose(0, 1), factors)
        self._step += steps
        return meter.interval(self.validate())

    def validate(self) -> Tensor:
        """Validation losses, shape (n,)."""
        return self._networks.validate()

    def snapshot(self) -> dict[str, Any]:
        """The whole state."""
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        return {**buffers, "samplers": [sampler.state_dict() for sampler in self._samplers]}

    def restore(self, snapshot: Mapping[str, Any], where: NDArray[np.bool_] | None = None) -> None:
        """Back to a snapshot, for the trainings where `where` (shape (n,)) is true; None restores all."""
        chosen = torch.ones(self.size, dtype=torch.bool) if where is None else torch.as_tensor(where)
        for name, buffer in self._buffers.items():
            buffer[chosen] = snapshot[name][chosen]
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

    def _schedule(self, values: Mapping[str, ArrayLike], steps: int) -> dict[str, Tensor]:
        """Learning rate, weight decay and momentum at each step, each of shape (steps, n); what is not given stays."""
        for name, value in values.items():
            self._hyperparameters[name] = np.asarray(value, dtype=np.float64)
        shape = steps, self.size
        now = {name: np.broadcast_to(value, shape) for name, value in self._hyperparameters.items()}
        self._hyperparameters = {name: value[-1] for name, value in now.items()}
        return {name: torch.tensor(value) for name, value in now.items()}


_TWIN_OPTIMIZERS: dict[BatchedOptimizer, Callable[..., torch.optim.Optimizer]] = {
    BatchedOptimizer.SGD: functools.partial(torch.optim.SGD, lr=1e-3),
    BatchedOptimizer.ADAM: torch.optim.Adam,
    BatchedOptimizer.ADAMW: torch.optim.AdamW,
}
