"""Strategies side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from metatuner.agent.comparison import COMPARISON_TAG, ComparisonSettings, compare
from metatuner.envs.comparison_summary import ComparisonSummary
from metatuner.envs.errors import ConfigurationError, SearchSpaceError
from metatuner.envs.records import NullRecorder, Record, StudyStarted, TrialState
from metatuner.envs.strategy_comparison import ComparedRun, ComparedTrial, StrategyComparison
from optuna.distributions import CategoricalDistribution, FloatDistribution

SPACE = {"x": FloatDistribution(-5, 5), "kind": CategoricalDistribution(["a", "b"])}


def train(config: dict[str, Any]) -> float:
    return (config["x"] - 1) ** 2 + (config["kind"] == "a")


def by_unit(config: dict[str, Any]) -> Iterator[float]:
    for unit in range(1, 4):
        yield train(config) + 1 / unit


def settings(*strategies: str, **more: Any) -> ComparisonSettings:
    return ComparisonSettings(**{"name": "t", "strategies": strategies, "budget": 5, "repeats": 2, **more})


class Kept:
    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)

    @property
    def studies(self) -> list[StudyStarted]:
        return [record for record in self.records if isinstance(record, StudyStarted)]


def values(comparison: StrategyComparison) -> list[list[float | None]]:
    return [[trial.value for trial in run.trials] for run in comparison.runs]


def test_everybody_gets_the_same_budget_and_seeds_and_takes_turns() -> None:
    recorder, told = Kept(), []
    found = compare(
        train,
        SPACE,
        settings("random", "tpe", "qmc", seed=7),
        recorder=recorder,
        progress=lambda spent, which: told.append(spent),
    )
    assert [(run.strategy, run.repeat, run.seed) for run in found.runs] == [
        ("random", 0, 7),
        ("tpe", 0, 7),
        ("qmc", 0, 7),
        ("qmc", 1, 8),
        ("tpe", 1, 8),
        ("random", 1, 8),
    ]
    assert all([trial.spent for trial in run.trials] == [1, 2, 3, 4, 5] for run in found.runs)
    assert told == sorted(told)
    assert told[-1] == 30
    # TPE begins at random: with the seed it is random search so far.
    assert values(found)[0] == values(found)[1]
    assert found.finals[:, 0] == pytest.approx([min(values(found)[0]), min(values(found)[5])])
    assert [study.tags[COMPARISON_TAG] for study in recorder.studies] == ["t"] * 6


def test_a_training_that_is_stopped_early_costs_its_share() -> None:
    found = compare(by_unit, SPACE, settings("policy", "asha", units=3), recorder=NullRecorder())
    policy = found.of("policy")[0].trials
    assert policy[0].spent == pytest.approx(1 / 3)
    assert policy[0].state is TrialState.PRUNED
    assert policy[0].value is None
    assert all(run.trials[-1].spent >= 5 for run in found.runs)
    curves = found.by_spent("policy", np.array([0.0, 5.0]))
    assert np.isinf(curves[:, 0]).all()
    assert curves[:, 1].tolist() == found.finals[:, 0].tolist()
    # The nearest one is known from the second proposal on, the best one once a training was finished.
    assert policy[0].to_nearest is None
    assert policy[1].to_nearest is not None
    assert any(trial.to_best is not None for trial in policy)


def test_seconds_in_the_objective_are_told_from_the_others() -> None:
    def slow(config: dict[str, Any]) -> float:
        time.sleep(0.02)
        return train(config)

    found = compare(slow, SPACE, settings("random", "qmc", budget=2), recorder=NullRecorder())
    for run in found.runs:
        assert 0.04 <= run.training_s < run.wall_s[-1]
        assert run.wall_s[-1] == pytest.approx(run.training_s + run.proposing_s)
        assert run.proposing_s > 0


def test_failures_are_counted_and_cost_as_much() -> None:
    def fails(config: dict[str, Any]) -> float:
        raise ValueError("no")

    found = compare(fails, SPACE, settings("random", "qmc", budget=2), recorder=NullRecorder())
    assert [run.failed for run in found.runs] == [2] * 4
    assert "ValueError: no" in found.runs[0].trials[0].message
    assert np.isinf(found.finals).all()


def test_more_is_better_where_it_is_asked_for() -> None:
    found = compare(train, SPACE, settings("random", "qmc", direction="maximize"), recorder=NullRecorder())
    best = max(value for value in values(found)[0] if value is not None)
    assert found.finals[0, 0] == -best


def test_what_is_bought_over_the_budget_does_not_count() -> None:
    def trial(spent: float, value: float) -> ComparedTrial:
        return ComparedTrial(spent, TrialState.FINISHED, value, 0.0, 0.0)

    runs = [
        ComparedRun(name, repeat, repeat, (trial(1.5, 2.0), trial(2.0 + over, 1.0)))
        for name, over in (("a", 0.0), ("b", 0.5))
        for repeat in range(2)
    ]
    found = StrategyComparison("t", "train", "objective", "minimize", 2, 4, ("a", "b"), 2, tuple(runs))
    assert found.finals.tolist() == [[1.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_value_that_overflowed_is_not_the_best(direction: str) -> None:
    def overflows(config: dict[str, Any]) -> float:
        return math.copysign(math.inf, config["x"]) if abs(config["x"]) > 2.5 else float(config["x"])

    found = compare(overflows, SPACE, settings("random", "qmc", direction=direction), recorder=NullRecorder())
    assert any(value is None for each in values(found) for value in each)
    assert np.isfinite(found.finals).all()


def test_that_nothing_depends_on_what_is_tuned_is_said() -> None:
    found = compare(lambda config: 1.0, SPACE, settings("random", "qmc"), recorder=NullRecorder())
    assert any("may not depend" in each for each in ComparisonSummary.of(found, "random").cautions)


def test_an_optuna_objective_is_compared_too() -> None:
    def asks(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1)

    found = compare(asks, None, settings("random", "tpe"), recorder=NullRecorder())
    assert all(math.isfinite(final) for final in found.finals.ravel())
    assert found.runs[0].trials[1].to_nearest is not None


def test_runs_of_another_objective_are_not_taken_for_its_own(tmp_path: Path) -> None:
    def other(config: dict[str, Any]) -> float:
        return 100 + train(config)

    both = settings("random", "qmc")
    first = compare(train, SPACE, both, recorder=NullRecorder(), storage=tmp_path / "runs")
    assert first.over == 0
    again = compare(train, SPACE, both, recorder=NullRecorder(), storage=tmp_path / "runs")
    assert (again.over, values(again)) == (4, values(first))
    with pytest.raises(ConfigurationError, match=r"with objective .*train, and you ask for .*other"):
        compare(other, SPACE, both, recorder=NullRecorder(), storage=tmp_path / "runs")


def test_an_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    calls = 0

    def interrupted(config: dict[str, Any]) -> float:
        nonlocal calls
        calls += 1
        if calls == 8:  # in the middle of the second run
            raise KeyboardInterrupt
        return train(config)

    both = settings("random", "qmc")
    with pytest.raises(KeyboardInterrupt):
        compare(interrupted, SPACE, both, recorder=NullRecorder(), storage=tmp_path / "runs")
    recorder = Kept()
    resumed = compare(interrupted, SPACE, both, recorder=recorder, storage=tmp_path / "runs")
    assert calls == 21  # 20, and the one that was cut off
    assert len(recorder.studies) == 3  # the first run was over
    whole = compare(train, SPACE, both, recorder=NullRecorder())
    assert values(resumed)[0] == values(whole)[0]
    assert [len(run.trials) for run in resumed.runs] == [5] * 4
    again = Kept()
    repeated = compare(interrupted, SPACE, both, recorder=again, storage=tmp_path / "runs")
    assert (calls, again.studies) == (21, [])
    assert values(repeated) == values(resumed)


def test_runs_with_other_settings_are_not_mixed(tmp_path: Path) -> None:
    two = settings("random", "qmc", budget=1)
    first = compare(train, SPACE, two, recorder=NullRecorder(), storage=tmp_path)
    with pytest.raises(ConfigurationError, match="budget 1, and you ask for 2"):
        compare(train, SPACE, settings("random", "qmc", budget=2), recorder=NullRecorder(), storage=tmp_path)
    with pytest.raises(ConfigurationError, match="space"):
        compare(train, {"x": SPACE["x"], "kind": SPACE["x"]}, two, recorder=NullRecorder(), storage=tmp_path)
    more = settings("random", "tpe", "qmc", budget=1, repeats=3)
    third = compare(train, SPACE, more, recorder=NullRecorder(), storage=tmp_path)
    assert values(third)[0] == values(first)[0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: settings("random", "magic"), "expected one of the strategies policy, random"),
        (lambda: settings("random"), "at least two"),
        (lambda: settings("random", "tpe", "random"), "random more than once"),
        (lambda: settings("random", "manual"), "leave it out"),
        (lambda: settings("random", "tpe", repeats=1), "repeats must be a whole number of at least 2"),
        (lambda: settings("random", "tpe", budget=0), "budget must be"),
        (lambda: settings("random", "tpe", seed=2**32 - 1), "seed must be"),
    ],
)
def test_what_makes_no_sense_is_said_at_once(wrong: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        wrong()


def test_what_a_strategy_lacks_is_said_before_anything_runs() -> None:
    recorder = Kept()
    with pytest.raises(ConfigurationError, match="units"):
        compare(train, SPACE, settings("random", "asha"), recorder=recorder)
    with pytest.raises(SearchSpaceError):
        compare(train, {}, settings("random", "tpe"), recorder=recorder)
    assert recorder.records == []
