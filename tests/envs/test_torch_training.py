from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.envs.builtin_tasks import DATA_SETS, builtin_task, split_examples
from metatuner.envs.errors import ConfigurationError, TrainingError
from metatuner.envs.signals import Interval
from metatuner.envs.testing import check_training, same_interval
from metatuner.envs.torch_training import TorchTraining
from metatuner.envs.training import Values
from torch import nn
from torch.utils.data import Dataset, TensorDataset


class Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A map-style data set that hands out one example at a time."""

    def __init__(self, rows: int) -> None:
        self.x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i], self.x[i, :1] * 2


def regression() -> TorchTraining:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    return TorchTraining(
        model, functools.partial(torch.optim.RMSprop, lr=1e-3), Pairs(50), Pairs(20), loss=nn.functional.mse_loss
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_builtin_digits_conform(optimizer: str) -> None:
    check_training(lambda: builtin_task("digits", optimizer), {"lr": 0.01, "weight_decay": 1e-4, "momentum": 0.9})


def test_any_module_loss_and_data_set_conform() -> None:
    check_training(regression, {"lr": 0.01, "clip_norm": 0.5})


def test_numbers_of_numpy_are_numbers() -> None:
    training = regression()
    training.start({"lr": np.float32(0.01)}, 0)
    one = training.advance({"lr": np.float32(0.5)}, 2)
    training.start({"lr": 0.01}, 0)
    assert training.advance({"lr": float(np.float32(0.5))}, 2).val_loss == one.val_loss


def test_a_measurement_that_does_not_exist_is_told_of() -> None:
    with pytest.raises(TypeError, match="no valloss"):
        Interval.of(valloss=0.5)


def test_the_callers_random_numbers_are_left_alone() -> None:
    training = regression()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.start({"lr": 0.01}, seed=0)
    training.advance({}, 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("rule", [torch.optim.SGD, torch.optim.Adam])
def test_the_first_update_is_told_beforehand(rule: type[torch.optim.Optimizer]) -> None:
    """Of a first step that is a small one, the forecast is what the step then is."""
    model = functools.partial(nn.Linear, 4, 3)
    rows = TensorDataset(torch.randn(64, 4), torch.randint(0, 3, (64,)))
    training = TorchTraining(model, functools.partial(rule, lr=1e-4), rows, rows)
    started = training.start({}, seed=0)
    assert training.advance({}, 1).relative_update[0] == pytest.approx(started.first_update[0], rel=1e-3)


def test_the_suite_finds_a_training_that_forgets_its_dropout_state() -> None:
    class Forgetful(TorchTraining):
        def restore(self, snapshot: object) -> None:
            randomness = self._random_state
            super().restore(snapshot)
            self._random_state = randomness

    def make() -> TorchTraining:
        def model() -> nn.Module:
            return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 1))

        return Forgetful(model, torch.optim.Adam, Pairs(50), Pairs(20), loss=nn.functional.mse_loss)

    with pytest.raises(AssertionError, match="bit for bit"):
        check_training(make, {"lr": 0.01})


class Descent:
    """A bowl; what it does wrong is its name."""

    adaptive = 0.0

    def __init__(self, wrong: str = "") -> None:
        self._wrong, self._x, self._rate = wrong, np.zeros(2), 0.1

    def start(self, config: Mapping[str, float], seed: int) -> Interval:
        self._x = np.random.default_rng(seed).normal(size=2) + 3
        self._rate = self._first = 0.1 if self._wrong == "deaf at the start" else config["lr"]
        return Interval.of(val_loss=self._loss())

    def advance(self, hyperparameters: Values, steps: int) -> Interval:
        losses = []
        if self._wrong == "forgetful" and "lr" not in hyperparameters:
            self._rate = self._first
        for step in range(steps):
            if "lr" in hyperparameters:
                rate = hyperparameters["lr"]
                first = self._wrong == "one for all"
                self._rate = float(rate if isinstance(rate, int | float) else rate[0 if first else step])
            losses.append(self._loss())
            with np.errstate(all="ignore"):
                self._x = self._x * (1 - self._rate)
        finite = bool(np.isfinite(self._loss()))
        return Interval.of(
            first_loss=losses[0], train_loss=float(np.mean(losses)), val_loss=self._loss(), diverged=not finite
        )

    def _loss(self) -> float:
        with np.errstate(all="ignore"):
            return float(self._x @ self._x) + 1e-3

    def snapshot(self) -> object:
        return self._x.copy(), self._rate

    def restore(self, snapshot: Any) -> None:
        self._x, self._rate = snapshot[0].copy(), snapshot[1]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("deaf at the start", "start must set the hyperparameters"),
        ("forgetful", "not named must stay"),
        ("one for all", "each step must take its own value"),
    ],
)
def test_the_suite_finds_a_training_that_takes_values_otherwise(wrong: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_training(lambda: Descent(wrong), {"lr": 0.1})
    check_training(Descent, {"lr": 0.1})  # though nothing in it but its start is random
    for arguments in ((Descent(), {"lr": 0.1}), (Descent, {})):
        with pytest.raises(ConfigurationError):
            check_training(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DATA_SETS)
def test_builtin_tasks_learn(name: str) -> None:
    training = builtin_task(name)
    before = training.start({"lr": 0.01}, seed=0)
    after = training.advance({}, 60)
    assert after.val_loss[0] < 0.7 * before.val_loss[0]
    assert training.validate()[1] > 0.6


def test_validation_rows_are_never_training_rows() -> None:
    x = torch.arange(100.0)[:, None]
    train, val = split_examples(x, torch.zeros(100, dtype=torch.long))
    assert len(train) == 70
    assert not set(train.tensors[0].flatten().tolist()) & set(val.tensors[0].flatten().tolist())


def test_what_cannot_be_trained_is_refused() -> None:
    some = TensorDataset(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))
    none = TensorDataset(torch.ones(0, 2), torch.zeros(0, dtype=torch.long))
    with pytest.raises(TrainingError, match="no parameters"):
        TorchTraining(nn.Flatten, torch.optim.Adam, some, some)
    net = nn.Linear(2, 2)
    for model in (net, lambda: net):
        with pytest.raises(ConfigurationError, match="a fresh module"):
            TorchTraining(model, torch.optim.Adam, some, some)
    with pytest.raises(ConfigurationError, match="batch_size"):
        TorchTraining(functools.partial(nn.Linear, 2, 2), torch.optim.Adam, some, some, batch_size=0)
    with pytest.raises(TrainingError, match="val data set is empty"):
        TorchTraining(functools.partial(nn.Linear, 2, 2), torch.optim.Adam, some, none)
    with pytest.raises(TrainingError, match="start"):
        TorchTraining(functools.partial(nn.Linear, 2, 2), torch.optim.Adam, some, some).advance({}, 1)
    with pytest.raises(ConfigurationError, match="built-in data sets"):
        builtin_task("mnist")
    with pytest.raises(ConfigurationError, match="optimisers"):
        builtin_task("digits", "lion")


def test_diverging_is_reported() -> None:
    training = builtin_task("iris", "sgd")
    training.start({"lr": 1e20}, seed=0)
    assert training.advance({}, 10).diverged[0]
    training.start({"lr": 0.01}, seed=0)
    assert not same_interval(training.advance({}, 3), training.advance({}, 3))
