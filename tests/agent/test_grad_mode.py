from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import metatuner as mt
import torch
from metatuner.agent.grad_mode import with_own_grad_mode
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution


def modes() -> Iterator[bool]:
    yield torch.is_grad_enabled()
    with torch.no_grad():
        yield torch.is_grad_enabled()
        yield torch.is_grad_enabled()
    yield torch.is_grad_enabled()


def test_what_a_training_turns_off_is_off_for_itself_alone() -> None:
    training = with_own_grad_mode(modes())
    assert [(next(training), torch.is_grad_enabled()) for _ in range(4)] == [
        (True, True),
        (False, True),
        (False, True),
        (True, True),
    ]
    assert list(training) == []


def test_a_training_begins_as_its_surroundings_are() -> None:
    training = with_own_grad_mode(modes())
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
        training = with_own_grad_mode(failing())
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
