from __future__ import annotations

import math
from typing import Any

import gymnasium
import metatuner.envs
import numpy as np
import pytest
from metatuner.agent.policy import Policy
from metatuner.agent.schedule_run import run_schedule
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.partial_fit_training import PartialFitTraining
from metatuner.envs.records import Artifact, Decision, Metrics, Record, TrialFinished, TrialStarted, TrialState
from metatuner.envs.schedule import ScheduleEnv
from sklearn.datasets import load_wine
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.preprocessing import scale


class Memory:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]


def training() -> PartialFitTraining:
    x, y = load_wine(return_X_y=True)
    x = scale(x)
    return PartialFitTraining(SGDClassifier(loss="log_loss"), x[::2], y[::2], x[1::2], y[1::2])


def environment(lr: float = 1e-4, **options: Any) -> ScheduleEnv:
    return ScheduleEnv(training(), adjust=("lr",), start={"lr": lr}, decisions=8, interval=5, **options)


def test_the_shipped_policy_drives_a_model_that_is_not_pytorchs_from_a_bad_start() -> None:
    env = ScheduleEnv(training(), adjust=("lr",), start={"lr": 1e-4}, decisions=20, interval=10)
    run, constant = run_schedule(env, seed=1), run_schedule(env, "zero", seed=1)
    assert run.val_loss < 0.3 * constant.val_loss
    assert run.start_loss == constant.start_loss
    assert {decision.values["lr"] for decision in constant.decisions} == {1e-4}


def test_zero_follows_the_reference_bit_for_bit() -> None:
    run = run_schedule(environment(0.01, reference="cosine"), "zero", seed=2)
    alone = training()
    alone.start({"lr": 0.01}, seed=2)
    rates = 0.01 * 0.5 * (1 + np.cos(np.pi * np.arange(40) / 40))
    assert run.val_loss == alone.advance({"lr": rates.tolist()}, 40).val_loss[0]


def test_it_is_recorded_like_other_schedules() -> None:
    memory = Memory()
    run = run_schedule(environment(), recorder=memory, seed=3)
    (started,), (finished,) = memory.of(TrialStarted), memory.of(TrialFinished)
    assert started.params == {"lr": 1e-4, "policy": "schedule-default", "seed": 3}
    assert started.tags == {"metatuner.strategy": "schedule-default"}
    assert finished.state is TrialState.FINISHED
    assert [artifact.path for artifact in memory.of(Artifact)] == ["policy/card.json"]
    decisions = memory.of(Decision)
    assert tuple(decisions) == run.decisions
    assert [(each.number, each.step) for each in decisions] == [(n, 5 * n) for n in range(8)]
    losses = {m.step: m.values["val/loss"] for m in memory.of(Metrics) if "val/loss" in m.values}
    assert list(losses) == [5 * n for n in range(9)]
    assert (losses[0], losses[40]) == (run.start_loss, run.val_loss)
    rewards = [each.reward for each in decisions[1:]] + [memory.of(Metrics)[-1].values["reward"]]
    assert math.isnan(decisions[0].reward)
    assert sum(rewards) == pytest.approx(math.log(run.start_loss / run.val_loss))


def test_an_interval_that_diverges_is_taken_back_and_told(lively: Policy) -> None:
    class Fragile(PartialFitTraining):
        def advance(self, hyperparameters: Any, steps: int) -> Any:
            return super().advance({"lr": 1e300}, steps)

    x, y = load_wine(return_X_y=True)
    env = ScheduleEnv(Fragile(SGDRegressor(), x, y, x, y), adjust=("lr",), start={"lr": 0.1}, decisions=6, interval=5)
    run = run_schedule(env, lively, seed=0)
    assert run.val_loss == run.start_loss
    notes = [decision.note for decision in run.decisions]
    assert notes[:2] == ["", "diverged: rolled back"]
    assert all(note.startswith("diverged: rolled back") for note in notes[1:])


def test_a_training_that_fails_is_recorded_as_failed() -> None:
    class Broken(PartialFitTraining):
        def advance(self, *_: Any) -> Any:
            raise OSError("no more")

    memory, x = Memory(), np.arange(8.0)[:, None]
    env = ScheduleEnv(Broken(SGDClassifier(), x, x[:, 0] > 3, x, x[:, 0] > 3), adjust=("lr",), start={"lr": 0.1})
    with pytest.raises(OSError, match="no more"):
        run_schedule(env, "zero", recorder=memory)
    (finished,) = memory.of(TrialFinished)
    assert (finished.state, finished.message) == (TrialState.FAILED, "OSError: no more")


def test_any_schedule_environment_will_do_and_no_other() -> None:
    assert metatuner.envs
    made = gymnasium.make("metatuner/Schedule-v0", task="wine", decisions=2, interval=2)
    assert len(run_schedule(made, "zero").decisions) == 2
    with pytest.raises(ConfigurationError, match="got str: what is to be trained is its task"):
        run_schedule("wine", "zero")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected a ScheduleEnv, got CartPole"):
        run_schedule(gymnasium.make("CartPole-v1"))  # type: ignore[arg-type]
