from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import metatuner as mt
import mlflow
import numpy as np
import pytest
import torch
from metatuner.agent.own_modes import with_own_modes
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution


def modes() -> Iterator[bool]:
    yield torch.is_grad_enabled()
    with torch.no_grad():
        yield torch.is_grad_enabled()
        yield torch.is_grad_enabled()
    yield torch.is_grad_enabled()


def test_what_a_training_turns_off_is_off_for_itself_alone() -> None:
    training = with_own_modes(modes())
    assert [(next(training), torch.is_grad_enabled()) for _ in range(4)] == [
        (True, True),
        (False, True),
        (False, True),
        (True, True),
    ]
    assert list(training) == []


def test_a_training_begins_as_its_surroundings_are() -> None:
    training = with_own_modes(modes())
    with torch.no_grad():
        assert next(training) is False
        assert not torch.is_grad_enabled()
    training.close()
    assert torch.is_grad_enabled()


def test_one_that_is_closed_or_fails_in_no_grad_leaves_gradients_on() -> None:
    def failing() -> Iterator[float]:
        with torch.no_grad():
            yield 1.0
            raise ValueError

    for end in (lambda training: training.close(), lambda training: next(training, None)):
        training = with_own_modes(failing())
        next(training)
        with contextlib.suppress(ValueError):
            end(training)
        assert torch.is_grad_enabled()


def test_trainings_may_yield_within_no_grad() -> None:
    """While one of them is paused, another one needs its gradients."""

    def train(config: dict[str, Any]) -> Iterator[float]:
        weight = torch.tensor(1.0, requires_grad=True)
        for _ in range(8):
            (slope,) = torch.autograd.grad((weight - 3) ** 2, weight)
            with torch.no_grad():
                weight -= config["lr"] * slope
                yield float((weight - 3) ** 2)

    space = {"lr": FloatDistribution(1e-3, 1, log=True)}
    result = mt.tune(train, space, 3, units=8, recorder=NullRecorder(), seed=0)
    assert {trial.state.name for trial in result.trials} <= {"COMPLETE", "PRUNED"}
    assert "PRUNED" in {trial.state.name for trial in result.trials}


def _inference(config: dict[str, Any]) -> Iterator[float]:
    weight = torch.tensor(1.0, requires_grad=True)
    for _ in range(6):
        (slope,) = torch.autograd.grad((weight - 3) ** 2, weight)
        with torch.no_grad():
            weight -= config["lr"] * slope
        with torch.inference_mode():
            yield float((weight - 3) ** 2)


def _autocast(config: dict[str, Any]) -> Iterator[float]:
    assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        for unit in range(6):
            assert torch.is_autocast_enabled("cpu")
            yield config["lr"] + 1 / (unit + 1)


def _errors(config: dict[str, Any]) -> Iterator[float]:
    np.seterr(all="raise")
    for unit in range(6):
        yield config["lr"] + 1 / (unit + 1)
        assert np.geterr()["under"] == "raise"


def _run(config: dict[str, Any]) -> Iterator[float]:
    with mlflow.start_run(experiment_id="0") as run:
        for unit in range(6):
            active = mlflow.active_run()
            assert active is not None and active.info.run_id == run.info.run_id
            mlflow.log_metric("lr", config["lr"], step=unit)
            yield config["lr"] + 1 / (unit + 1)


@pytest.mark.parametrize("train", [_inference, _autocast, _errors, _run])
def test_trainings_that_pause_keep_their_modes_and_runs(train: Any, tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{tmp_path / 'own.db'}"
    mlflow.set_tracking_uri(uri)
    try:
        space = {"lr": FloatDistribution(1e-3, 0.4, log=True)}
        result = mt.tune(train, space, 3, units=6, recorder=NullRecorder(), seed=0)
        assert mlflow.active_run() is None
        found = mlflow.search_runs(search_all_experiments=True)
    finally:
        mlflow.set_tracking_uri(before)
    assert {trial.state.name for trial in result.trials} == {"COMPLETE", "PRUNED"}
    assert not torch.is_autocast_enabled("cpu") and np.geterr()["under"] == "ignore"
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    if train is _run:
        # A training that ran to its end has ended its run by itself.
        complete = sum(trial.state.name == "COMPLETE" for trial in result.trials)
        assert (found["status"] == "FINISHED").sum() == complete and len(found) > complete


def test_what_is_returned_after_yielding_is_warned_of() -> None:
    def train(config: dict[str, Any]) -> Generator[float, None, float]:
        yield config["lr"] + 1
        return config["lr"]

    with pytest.warns(UserWarning, match="after it has yielded"):
        mt.tune(train, {"lr": FloatDistribution(0, 1)}, 1, recorder=NullRecorder())


def test_the_default_type_of_tensors_does_not_matter() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        result = mt.tune(lambda config: config["lr"], {"lr": FloatDistribution(0, 1)}, 14, recorder=NullRecorder())
        assert result.best_value < 0.1
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        with mt.AdaptiveSchedule(optimizer, 40, recorder=NullRecorder()) as tuner:
            for _ in range(40):
                loss = (model(torch.ones(4, 2)) - 1).pow(2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                tuner.step(loss)
    finally:
        torch.set_default_dtype(before)
