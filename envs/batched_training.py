"""Many small networks of one shape, trained at once: what makes meta-training cheap.

Every network has its own data, weights, optimiser state and hyperparameters; `torch.func.vmap` turns the layers of all
of them into batched matrix products, `envs.traced` replays those without vmap's and autograd's bookkeeping, and
the optimiser works on one flat buffer (`envs.networks`). The readable twin is `envs.torch_training.TorchTraining`: same
seeds, same losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from . import signals
from .batched_model import BatchedModel
from .layers import Loss
from .losses import cross_entropy
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

    def repeated(self, copies: int) -> BatchedData:
        """Each training's data so many times, one copy behind the other."""
        inputs, targets = (part.repeat_interleave(copies, dim=0) for part in (self.inputs, self.targets))
        return BatchedData(inputs, targets, np.repeat(self.train_rows, copies).tolist(), self.val_from)


class BatchedTraining:
    """The trainings of n networks of one shape.

    Has the methods of `envs.training.Training`, for arrays of n instead of single numbers. Hyperparameters are `lr`,
    `weight_decay` and `momentum`, those of layers (see `envs.layers`), and `clip_norm` where `start` gives it.

    Args:
        model: Makes a fresh module.
        optimizer: The update rule of all n.
        data: What to train on, one part for each training.
        loss: Mean loss of one network's mini-batch of outputs and targets; positive.
        batch_size: Examples a mini-batch; each training needs at least as many.
        device: Where to train.
    """

    def __init__(
        self,
        model: Callable[[], nn.Module],
        optimizer: BatchedOptimizer,
        data: BatchedData,
        *,
        loss: Loss = cross_entropy,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.size, self._device = len(data), torch.device(device)
        self._make_model, self._rule, self._data, self._batch_size = model, optimizer, data, batch_size
        self._loss, self._model = loss, BatchedModel(model, loss)
        self.adaptive = np.full(self.size, optimizer.adaptive)
        self._step = torch.zeros(self.size)
        names = ("lr", "weight_decay", "momentum", *self._model.hyperparameters)
        self._hyperparameters = {name: np.zeros(self.size) for name in names}
        inputs, targets = data.inputs.to(self._device), data.targets.to(self._device)
        self._networks = Networks(self._model, optimizer, inputs, targets, data.val_from, batch_size)
        state = self._networks.state
        # What a snapshot holds, apart from the samplers and the random state.
        self._memory = {"weights": state.weights, "momentum": state.momentum, "square": state.square}
        self._memory |= {"step": self._step, **{f"buffer {k}": v for k, v in self._networks.buffers.items()}}

    @property
    def hyperparameters(self) -> list[str]:
        """Names of the hyperparameters, in order."""
        return list(self._hyperparameters)

    def start(self, config: Mapping[str, ArrayLike], seeds: Sequence[int]) -> Interval:
        """Begins n trainings: config values are numbers or arrays of shape (n,); one seed each."""
        for i, seed in enumerate(seeds):
            weights, buffers = self._model.fresh(seed)
            self._memory["weights"][i] = weights
            for place, buffer in zip(self._networks.buffers.values(), buffers, strict=True):
                place[i] = buffer
        self._samplers = [
            EpochSampler(rows, self._batch_size, seed) for rows, seed in zip(self._data.train_rows, seeds, strict=True)
        ]
        for name in ("momentum", "square", "step"):
            self._memory[name].zero_()
        # What layers draw, such as dropout, is drawn for all at once: it follows from all seeds together.
        with self._randomness(seed=sum(seeds) % 2**31):
            self._hyperparameters.pop("clip_norm", None)
            self._schedule(config, 1)
        return Interval.of(val_loss=self.validate().cpu().numpy(), first_update=self._first_update())

    def advance(self, hyperparameters: Mapping[str, ArrayLike], steps: int) -> Interval:
        """Trains all on: values are numbers, arrays of shape (n,), or (steps, n) for one value a step."""
        values = self._schedule(hyperparameters, steps)
        number = self._step.double() + torch.arange(1, steps + 1)[:, None]
        lr, weight_decay, momentum = (values.pop(name) for name in ("lr", "weight_decay", "momentum"))
        factors = [f.to(self._device) for f in self._rule.coefficients(lr, weight_decay, momentum, number)]
        others = {name: value.float().to(self._device) for name, value in values.items()}
        clip_norm = others.pop("clip_norm", None)
        with self._randomness():
            meter = self._networks.train(self._next_rows(steps), factors, others, clip_norm)
        self._step += steps
        return meter.interval(self.validate())

    def validate(self) -> Tensor:
        """Validation losses, shape (n,)."""
        return self._networks.validate()

    def snapshot(self) -> dict[str, Any]:
        """The whole state."""
        memory = {name: part.clone() for name, part in self._memory.items()}
        samplers = [sampler.state_dict() for sampler in self._samplers]
        held = {name: np.array(value) for name, value in self._hyperparameters.items()}
        return {**memory, "hyperparameters": held, "samplers": samplers, "randomness": self._random_state}

    def restore(self, snapshot: Mapping[str, Any], where: NDArray[np.bool_] | None = None) -> None:
        """Back to a snapshot, for the trainings where `where` (shape (n,)) is true; None restores all.

        What layers draw is drawn for all at once, so it goes on where only some are restored.
        """
        chosen = torch.ones(self.size, dtype=torch.bool) if where is None else torch.as_tensor(where)
        for name, part in self._memory.items():
            place = chosen.to(part.device)
            part[place] = snapshot[name][place]
        for i in chosen.nonzero().flatten().tolist():
            self._samplers[i].load_state_dict(snapshot["samplers"][i])
        held, now = snapshot["hyperparameters"], self._hyperparameters
        self._hyperparameters = {name: np.where(chosen, held[name], now.get(name, held[name])) for name in held}
        if where is None:
            self._random_state = snapshot["randomness"]

    def close(self) -> None:
        """Holds nothing that needs closing."""

    def twin(self, i: int) -> TorchTraining:
        """Training i on its own, one network in torch.optim: slow and easy to read. Started alike, it trains alike.

        But for what layers draw: dropout and noise are of the same strength, not the same numbers.
        """
        rows, val_from = self._data.train_rows[i], self._data.val_from
        inputs, targets = self._data.inputs[i], self._data.targets[i]
        train, val = TensorDataset(inputs[:rows], targets[:rows]), TensorDataset(inputs[val_from:], targets[val_from:])
        optimizer = _TWIN_OPTIMIZERS[self._rule]
        return TorchTraining(self._make_model, optimizer, train, val, loss=self._loss, batch_size=self._batch_size)

    def _first_update(self) -> NDArray[np.float64]:
        """Looks at the gradients of the first mini-batches, and leaves no trace."""
        now = self._schedule({}, 1)
        lr, weights = now["lr"][0].numpy(), self._memory["weights"]
        norms = np.full(self.size, np.nan)
        if not self._rule.adaptive:
            before = self.snapshot()
            of_layers = {name: now[name][0].float().to(self._device) for name in self._model.hyperparameters}
            with self._randomness():
                gradient = self._networks.gradient(self._next_rows(1)[0], of_layers)
            self.restore(before)
            norms = torch.linalg.vector_norm(gradient, dim=1).double().cpu().numpy()
            if "clip_norm" in now:
                norms = np.minimum(norms, now["clip_norm"][0].numpy())
        weight_norms = torch.linalg.vector_norm(weights, dim=1).double().cpu().numpy()
        return signals.first_update(lr, self.adaptive, weights.shape[1], norms, weight_norms)

    def _next_rows(self, steps: int) -> Tensor:
        """Rows of the next mini-batches, of all trainings' examples laid end to end: shape (steps, n, batch size)."""
        rows = torch.stack([sampler.next(steps) for sampler in self._samplers])
        rows += torch.arange(self.size)[:, None, None] * self._data.inputs.shape[1]
        return rows.transpose(0, 1).to(self._device)

    def _schedule(self, values: Mapping[str, ArrayLike], steps: int) -> dict[str, Tensor]:
        """All hyperparameters at each step, each of shape (steps, n); what is not given stays."""
        for name, value in values.items():
            self._hyperparameters[name] = np.asarray(value, dtype=np.float64)
        shape = steps, self.size
        now = {name: np.broadcast_to(value, shape) for name, value in self._hyperparameters.items()}
        self._hyperparameters = {name: value[-1] for name, value in now.items()}
        return {name: torch.tensor(value) for name, value in now.items()}

    @contextmanager
    def _randomness(self, seed: int | None = None) -> Iterator[None]:
        """Layers draw from the trainings' own generator; the caller's is left as it was."""
        cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if cuda else []):
            if seed is not None:
                torch.manual_seed(seed)
            elif cuda:
                torch.cuda.set_rng_state(self._random_state, self._device)
            else:
                torch.set_rng_state(self._random_state)
            yield
            self._random_state = torch.cuda.get_rng_state(self._device) if cuda else torch.get_rng_state()


_TWIN_OPTIMIZERS: dict[BatchedOptimizer, Callable[..., torch.optim.Optimizer]] = {
    BatchedOptimizer.SGD: functools.partial(torch.optim.SGD, lr=1e-3),
    BatchedOptimizer.NESTEROV: functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True),
    BatchedOptimizer.ADAM: torch.optim.Adam,
    BatchedOptimizer.ADAMW: torch.optim.AdamW,
    BatchedOptimizer.RMSPROP: functools.partial(torch.optim.RMSprop, momentum=0.9),
}
