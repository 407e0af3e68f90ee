"""A real PyTorch training: any module, optimiser and data. Also the readable twin of the batched one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset, TensorDataset, default_collate

from . import optimizers
from .errors import ConfigurationError, TrainingError
from .layers import Loss, ModelWithLoss, layer_hyperparameters
from .probe import OptimizerProbe
from .sampling import EpochSampler
from .signals import Interval
from .training import Values


class TorchTraining:
    """One PyTorch model in training; implements `envs.training.Training`.

    Hyperparameters are those of the optimiser, those of layers (see `envs.layers`), and `clip_norm`: gradients longer
    than this are scaled down to it.

    Example:
        >>> from functools import partial
        >>> import metatuner as mt
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.randn(200, 4)
        >>> task = mt.TorchTraining(
        ...     model=lambda: torch.nn.Linear(4, 2),
        ...     optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        ...     train=TensorDataset(x[:150], (x[:150, 0] > 0).long()),
        ...     val=TensorDataset(x[150:], (x[150:, 0] > 0).long()),
        ... )
        >>> env = mt.ScheduleEnv(task, adjust=("lr",), decisions=4, interval=5)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> info["val_loss"] < 10
        True

    Args:
        model: Makes a fresh module.
        optimizer: Makes its optimiser from the parameters, for example
            `functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)`; `start` then sets the starting values.
        train: Training examples (input, target): a map-style data set.
        val: Validation examples. Never test examples: rewards are computed from these.
        loss: Mean loss of a batch of outputs and targets; positive.
        batch_size: Examples a mini-batch.
        device: Where to train.

    Raises:
        ConfigurationError: `model` makes no fresh module each time, or the batch size is none.
        TrainingError: `start` was not called, a data set is empty, or the model has no parameters to train.
    """

    adaptive: float
    _clip_norm: float | None

    def __init__(
        self,
        model: Callable[[], nn.Module],
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        train: Dataset[Any],
        val: Dataset[Any],
        *,
        loss: Loss = nn.functional.cross_entropy,
        batch_size: int = 32,
        device: str | torch.device = "cpu",
    ) -> None:
        if isinstance(model, nn.Module) or not callable(model):
            raise ConfigurationError(f"expected model to make a fresh module, such as lambda: Net(), got {model!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        for name, data in (("train", train), ("val", val)):
            if len(data) == 0:  # type: ignore[arg-type]
                raise TrainingError(f"the {name} data set is empty: give at least one example")
        self._make_model, self._make_optimizer = model, optimizer
        self._train, self._val, self._loss = train, val, loss
        self._batch_size, self._device = batch_size, torch.device(device)
        self._whole: ModelWithLoss | None = None
        with self._randomness(seed=0):
            first = self._make_model()
            if self._make_model() is first:
                raise ConfigurationError("expected model to make a fresh module each time, and got the same one twice")
            self.adaptive = optimizers.adaptive(self._fresh_optimizer(first))

    @property
    def model(self) -> nn.Module:
        """The module in training."""
        return self._started.model

    def start(self, config: Mapping[str, float], seed: int) -> Interval:
        """See `Training.start`."""
        with self._randomness(seed=seed):
            self._whole = ModelWithLoss(self._make_model(), copy.deepcopy(self._loss)).to(self._device)
        self._optimizer, self._clip_norm = self._fresh_optimizer(self._whole.model), None
        self._of_layers = layer_hyperparameters(self._whole)
        self._set(config, 0)
        self._sampler = EpochSampler(len(self._train), self._batch_size, seed)  # type: ignore[arg-type]
        return Interval.of(val_loss=self.validate()[0], first_update=self._first_update())

    def advance(self, hyperparameters: Values, steps: int) -> Interval:
        """See `Training.advance`."""
        self._started.train()
        probe = OptimizerProbe(self._optimizer, steps)
        with self._randomness():
            for step, rows in enumerate(self._sampler.next(steps)):
                self._set(hyperparameters, step)
                loss = self._backward(rows)
                probe.before_step()
                self._optimizer.step()
                probe.after_step(loss)
        return probe.interval(self.validate()[0])

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Loss on the validation examples, and the share of them that is classified right (NaN for regression)."""
        whole = self._started.eval()
        inputs, targets = self._batch(self._val, torch.arange(len(self._val)))  # type: ignore[arg-type]
        outputs = whole.model(inputs)
        classifies = outputs.ndim == targets.ndim + 1 and not targets.is_floating_point()
        accuracy = float((outputs.argmax(-1) == targets).float().mean()) if classifies else float("nan")
        return float(whole.loss(outputs, targets)), accuracy

    def snapshot(self) -> dict[str, Any]:
        """See `Training.snapshot`."""
        return copy.deepcopy(
            {
                "model": self._started.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "sampler": self._sampler.state_dict(),
                "randomness": self._random_state,
                "clip_norm": self._clip_norm,
            }
        )

    def restore(self, snapshot: Any) -> None:
        """See `Training.restore`."""
        snapshot = copy.deepcopy(snapshot)
        self._started.load_state_dict(snapshot["model"])
        self._optimizer.load_state_dict(snapshot["optimizer"])
        self._sampler.load_state_dict(snapshot["sampler"])
        self._random_state, self._clip_norm = snapshot["randomness"], snapshot["clip_norm"]

    def close(self) -> None:
        """See `Training.close`."""
        self._whole = None

    def _first_update(self) -> float:
        """Looks at the gradient of the first mini-batch, and leaves no trace."""
        before = self.snapshot()
        self._started.train()
        with self._randomness():
            self._backward(self._sampler.next(1)[0])
        ratio = OptimizerProbe(self._optimizer, 1).first_update()
        self._optimizer.zero_grad()
        self.restore(before)
        return ratio

    def _backward(self, rows: Tensor) -> Tensor:
        """Leaves the gradients of a mini-batch, clipped where they are to be; returns its loss."""
        loss: Tensor = self._started(*self._batch(self._train, rows))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._started.parameters(), self._clip_norm)
        return loss

    @property
    def _started(self) -> ModelWithLoss:
        if self._whole is None:
            raise TrainingError("this training has not begun: call start(config, seed) first")
        return self._whole

    def _fresh_optimizer(self, model: nn.Module) -> Optimizer:
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise TrainingError(f"{type(model).__name__} has no parameters to train: give a module that has some")
        return self._make_optimizer(model.parameters())

    def _set(self, values: Values, step: int) -> None:
        for name, value in values.items():
            now = float(value) if isinstance(value, int | float | np.number) else float(value[step])
            if buffers := self._of_layers.get(name):
                for buffer in buffers:
                    buffer.fill_(now)
            elif name == "clip_norm":
                self._clip_norm = now
            else:
                optimizers.write(self._optimizer, name, [now] * len(self._optimizer.param_groups))

    def _batch(self, data: Dataset[Any], rows: Tensor) -> tuple[Tensor, Tensor]:
        examples = data[rows] if isinstance(data, TensorDataset) else default_collate([data[int(i)] for i in rows])
        inputs, targets = examples
        return inputs.to(self._device), targets.to(self._device)

    @contextmanager
    def _randomness(self, seed: int | None = None) -> Iterator[None]:
        """Dropout and the like draw from this training's own generator; the caller's is left as it was."""
        cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if cuda else []):
            if seed is not None:
                torch.manual_seed(seed)
            else:
                states = self._random_state
                torch.set_rng_state(states[0])
                if cuda:
                    torch.cuda.set_rng_state(states[1], self._device)
            yield
            self._random_state = [torch.get_rng_state()]
            if cuda:
                self._random_state.append(torch.cuda.get_rng_state(self._device))
