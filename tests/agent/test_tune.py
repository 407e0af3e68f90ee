from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from metatuner.agent.strategies import STRATEGIES
from metatuner.agent.tune import tune
from metatuner.agent.tune_result import TuneResult
from metatuner.envs.errors import ConfigurationError, MetatunerError, SearchSpaceError, TrainingError
from metatuner.envs.records import (
    Metrics,
    NullRecorder,
    ParamsChosen,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

SPACE = {"x": FloatDistribution(-5.0, 5.0), "n": IntDistribution(1, 4), "kind": CategoricalDistribution(("a", "b"))}


class Kept:
    """Keeps records in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)

    def of(self, kind: type[Record]) -> list[Any]:
        return [record for record in self.records if isinstance(record, kind)]


def bowl(config: Mapping[str, Any]) -> float:
    return (config["x"] - 2.0) ** 2 + config["n"] + (config["kind"] == "b")


def curve(config: Mapping[str, Any]) -> Iterator[float]:
    for unit in range(1, 10):
        yield bowl(config) + 1.0 / unit


def searched(objective: Any = bowl, space: Any = SPACE, budget: int = 8, **options: Any) -> tuple[TuneResult, Kept]:
    kept = Kept()
    return tune(objective, space, budget, recorder=kept, **{"strategy": "random", **options}), kept


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"manual", "portfolio"}))
def test_every_strategy_finds_a_good_configuration(strategy: str) -> None:
    result, kept = searched(curve, budget=30, strategy=strategy, units=9)
    assert result.best_value < 6.0
    assert bowl(result.best_config) == pytest.approx(result.best_value - 1 / 9)
    assert {trial.name for trial in kept.of(TrialStarted)} == {strategy}
    assert len(kept.of(TrialFinished)) == len(result.trials)
    # A training that goes on has its whole curve, and has paid for the rest.
    units = sum(trial.user_attrs["metatuner:units"] for trial in result.trials)
    # A grid may have fewer points, and the last trial may go over.
    assert (units == 9 * 18) if strategy == "grid" else (30 * 9 <= units < 31 * 9)
    if strategy in ("asha", "hyperband", "median"):
        assert len(result.trials) > 30


def test_a_study_follows_from_its_seed() -> None:
    values = [searched(strategy="tpe", seed=seed, budget=15)[0].study.trials_dataframe().value for seed in (1, 1, 2)]
    assert values[0].equals(values[1])
    assert not values[0].equals(values[2])


def test_everything_is_recorded_in_order() -> None:
    _, kept = searched(curve, budget=2, direction="maximize", metric="val/score")
    (study,) = kept.of(StudyStarted)
    assert (study.name, study.metric, study.direction, study.budget) == (
        "curve",
        "val/score",
        "maximize",
        "2 full trainings",
    )
    assert set(study.space) == set(SPACE)
    first = [record for record in kept.records if getattr(record, "trial", None) == 0]
    assert isinstance(first[0], TrialStarted)
    assert set(first[0].params) == set(SPACE)
    assert [record.step for record in first[1:-1] if isinstance(record, Metrics)] == list(range(1, 10))
    assert isinstance(first[-1], TrialFinished)
    assert first[-1].value == first[-2].values["val/score"]  # type: ignore[attr-defined]
    assert isinstance(kept.records[-1], StudyFinished)


def test_an_objective_may_be_optunas() -> None:
    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["line", "bowl"])
        x = trial.suggest_float("x", -1.0, 1.0)
        width = trial.suggest_float("width", 0.1, 1.0) if kind == "bowl" else 1.0
        for step in range(3):
            trial.report(x, step)
            if x > 0.5:
                raise optuna.TrialPruned("far too large")
        return x / width

    result, kept = searched(objective, None, budget=12)
    assert len(result.trials) == 12
    states = {end.trial: end.state for end in kept.of(TrialFinished)}
    assert TrialState.PRUNED in states.values()
    for trial in result.trials:
        chosen = [record.params for record in kept.of(ParamsChosen) if record.trial == trial.number]
        assert chosen == [trial.params]
        curve = {r.step: r.values["objective"] for r in kept.of(Metrics) if r.trial == trial.number}
        assert curve == trial.intermediate_values


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("abc", "gave 'abc'"),
        (None, "gave None"),
        (1 + 2j, "expected a number"),
        (float("nan"), "gave NaN"),
        ([1.0, 2.0], "expected a number"),
        (True, "gave True"),
        (np.zeros(3), "expected a number"),
    ],
)  # fmt: skip
def test_no_number_is_a_failed_trial_and_the_study_goes_on(given: Any, message: str) -> None:
    calls: list[Any] = []

    def objective(config: Mapping[str, Any]) -> Any:
        calls.append(config)
        return given if len(calls) == 1 else bowl(config)

    result, kept = searched(objective, budget=3)
    ends = kept.of(TrialFinished)
    assert [end.state for end in ends] == [TrialState.FAILED, TrialState.FINISHED, TrialState.FINISHED]
    assert message in ends[0].message
    assert len(result.trials) == 3


def test_numbers_of_other_libraries_are_numbers() -> None:
    for kind in (np.float32, np.float64, torch.tensor, int, np.array):
        result, _ = searched(lambda config, kind=kind: kind(3.0), budget=1)
        assert result.best_value == 3.0


def test_when_nothing_finishes_that_is_said_with_the_reason() -> None:
    def broken(config: Mapping[str, Any]) -> float:
        raise ValueError("no such layer")

    result, kept = searched(broken, budget=4)
    assert [end.message for end in kept.of(TrialFinished)] == ["ValueError: no such layer"] * 4
    with pytest.raises(TrainingError, match=r"none of the 4 trials has finished.*no such layer"):
        result.best_config  # noqa: B018


def test_a_generator_that_yields_nothing_fails_and_one_that_takes_too_long_is_stopped() -> None:
    def slow(config: Mapping[str, Any]) -> Iterator[float]:
        while True:
            time.sleep(0.03)
            yield 1.0

    _, kept = searched(slow, budget=1, trial_timeout=0.1)
    (end,) = kept.of(TrialFinished)
    assert end.state is TrialState.FAILED
    assert "more than 0.1 s" in end.message
    _, kept = searched(lambda config: (x for x in ()), budget=1)
    assert "yielded nothing" in kept.of(TrialFinished)[0].message


def test_a_study_on_disk_goes_on_and_its_budget_is_for_all_of_it(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    first = searched(storage=storage, budget=5)[0].trials
    again, kept = searched(storage=storage, budget=8)
    assert [trial.params for trial in again.trials[:5]] == [trial.params for trial in first]
    assert len({trial.params["x"] for trial in again.trials}) == 8
    assert len(kept.of(TrialStarted)) == 3
    nothing, kept = searched(storage=storage, budget=8)
    assert len(nothing.trials) == 8
    assert not kept.of(TrialStarted)
    with pytest.raises(ConfigurationError, match="to minimize, and you ask to maximize"):
        searched(storage=storage, direction="maximize")
    with pytest.raises(ConfigurationError, match="has a study 'bowl' already"):
        searched(storage=storage, resume=False)


def test_interrupted_it_keeps_what_it_has(tmp_path: Path) -> None:
    calls: list[Any] = []

    def objective(config: Mapping[str, Any]) -> float:
        calls.append(config)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return bowl(config)

    storage, kept = str(tmp_path / "study.journal"), Kept()
    with pytest.raises(KeyboardInterrupt):
        tune(objective, SPACE, 6, strategy="random", storage=storage, recorder=kept)
    assert [end.state for end in kept.of(TrialFinished)] == [
        TrialState.FINISHED,
        TrialState.FINISHED,
        TrialState.KILLED,
    ]
    result, _ = searched(objective, storage=storage, budget=6)
    finished = [trial for trial in result.trials if trial.state.name == "COMPLETE"]
    assert len(finished) == 6
    # The one that was cut off was tried again, and cost nothing.
    assert len({tuple(trial.params.items()) for trial in result.trials}) == len(result.trials) - 1


def test_given_configurations_come_first_and_known_ones_are_not_tried() -> None:
    best = {"x": 2.0, "n": 1, "kind": "a"}
    result, kept = searched(configs=[{"x": 1.0, "n": 1, "kind": "b"}, {"x": 3.0}], known=[(best, 1.0)], budget=3)
    recorded = kept.of(TrialStarted)
    assert [start.params for start in recorded if start.name == "known"] == [best]
    tried = [start.params for start in recorded if start.name != "known"]
    assert tried[0] == {"x": 1.0, "n": 1, "kind": "b"}
    assert tried[1]["x"] == 3.0
    assert len(tried) == 3
    assert (result.best_config, result.best_value) == (best, 1.0)
    result, kept = searched(strategy="manual", configs=[best, {**best, "n": 2}], budget=30)
    assert [start.params for start in kept.of(TrialStarted)] == [best, {**best, "n": 2}]


def test_constraints_are_heeded() -> None:
    result, _ = searched(
        lambda config: config["x"], {"x": FloatDistribution(0.0, 1.0)}, 40, strategy="tpe",
        constraints=lambda config: {"not too small": 0.5 - config["x"]},
    )  # fmt: skip
    late = [trial.params["x"] for trial in result.trials[20:]]
    assert np.mean(np.array(late) >= 0.5) > 0.4  # without constraints next to none is
    assert 0.5 <= result.best_value < 0.6


def test_constraints_that_fail_are_failed_trials() -> None:
    result, kept = searched(budget=2, constraints=lambda config: {"odd": 1 / 0})
    assert [end.message for end in kept.of(TrialFinished)] == ["ZeroDivisionError: division by zero"] * 2
    assert len(kept.of(TrialStarted)) == len(result.trials) == 2


def test_workers_share_a_study() -> None:
    at_once, most, lock = [0], [0], threading.Lock()

    def objective(config: Mapping[str, Any]) -> float:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        with lock:
            at_once[0] -= 1
        return bowl(config)

    result, kept = searched(objective, budget=12, n_workers=3)
    assert most[0] == 3
    assert len(result.trials) == 12
    assert len({start.thread for start in kept.of(TrialStarted)}) > 1


def test_progress_is_told() -> None:
    told: list[tuple[float, int, float | None]] = []
    result, _ = searched(budget=3, progress=lambda *now: told.append(now))
    assert [spent for spent, _, _ in told] == [1.0, 2.0, 3.0]
    assert told[-1] == (3.0, 3, result.best_value)
    told.clear()
    result, _ = searched(budget=2, progress=lambda *now: told.append(now), constraints=lambda config: {"never": 1.0})
    assert [best for _, _, best in told] == [None, None]
    with pytest.raises(TrainingError, match="none of the 2 trials that finished is allowed"):
        result.best_value  # noqa: B018


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"objective": 3}, ConfigurationError, "to be a function"),
        ({"space": {}}, SearchSpaceError, "expected a dict"),
        ({"space": [1, 2]}, SearchSpaceError, "expected a dict"),
        ({"space": {"x": (0, 1)}}, SearchSpaceError, "Optuna distributions"),
        ({"space": {3: FloatDistribution(0, 1)}}, SearchSpaceError, "expected names"),
        ({"budget": 0}, ConfigurationError, "budget must be"),
        ({"budget": 1.5}, ConfigurationError, "budget must be"),
        ({"n_workers": -1}, ConfigurationError, "n_workers must be"),
        ({"units": 0}, ConfigurationError, "units must be"),
        ({"direction": "up"}, ConfigurationError, "minimize or maximize"),
        ({"strategy": "manual"}, ConfigurationError, "given list"),
        ({"configs": [{"y": 1}]}, ConfigurationError, "no 'y'"),
        ({"configs": [{"n": 9}]}, ConfigurationError, "n=9 is not in"),
        ({"configs": [{"kind": "z"}]}, ConfigurationError, "kind='z' is not in"),
        ({"configs": [3]}, ConfigurationError, "as a dict"),
        ({"storage": "nowhere://x"}, MetatunerError, "cannot be opened"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        searched(**options)


MODELS: dict[str, Any] = {
    "lr": FloatDistribution(0.0, 1.0),
    "model": {
        "svm": {"c": FloatDistribution(0.1, 10.0), "kernel": {"rbf": {"gamma": IntDistribution(1, 9)}, "no": {}}},
        "forest": {"depth": IntDistribution(1, 9)},
        "mean": {},
    },
}  # fmt: skip


def of_a_model(config: Mapping[str, Any]) -> Iterator[float]:
    """Best where lr = 0.3 and a forest is 5 deep."""
    match dict(config):
        case {"lr": lr, "model": "forest", "depth": depth, **rest}:
            value = abs(depth - 5) / 4
        case {"lr": lr, "model": "svm", "c": c, "kernel": "rbf", "gamma": gamma, **rest}:
            value = 1.0 + c / 10 + gamma / 9
        case {"lr": lr, "model": "svm", "c": c, "kernel": "no", **rest}:
            value = 2.0 + c / 10
        case {"lr": lr, "model": "mean", **rest}:
            value = 3.0
        case _:
            raise AssertionError(config)
    assert not rest  # nothing that is not active
    for unit in range(1, 4):
        yield value + abs(lr - 0.3) + 1 / unit


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"manual", "portfolio"}))
def test_every_strategy_searches_a_space_with_conditions(strategy: str) -> None:
    result, kept = searched(of_a_model, MODELS, 30, strategy=strategy, units=3)
    assert {trial.state.name for trial in result.trials} <= {"COMPLETE", "PRUNED"}
    assert {trial.params["model"] for trial in result.trials} == {"svm", "forest", "mean"}
    assert result.best_config["model"] == "forest"
    assert result.best_value < 1.7
    assert set(result.best_config) == {"lr", "model", "depth"}
    assert [start.params for start in kept.of(TrialStarted)] == [trial.params for trial in result.trials]
    (study,) = kept.of(StudyStarted)
    assert set(study.space) == {"lr", "model", "c", "kernel", "gamma", "depth"}
    assert study.conditions["gamma"] == "kernel is 'rbf'"


def test_conditions_hold_in_processes_given_configurations_and_known_trials(tmp_path: Path) -> None:
    given = [{"model": "mean"}, {"model": "svm", "kernel": "rbf", "gamma": 3}]
    known = [({"lr": 0.3, "model": "forest", "depth": 5}, 0.0)]
    options: dict[str, Any] = {"storage": str(tmp_path / "study.journal"), "isolated": True, "n_workers": 2}
    result, kept = searched(of_a_model, MODELS, 3, configs=given, known=known, **options)
    tried = [start.params for start in kept.of(TrialStarted)]
    assert sum(params["model"] == "mean" and set(params) == {"lr", "model"} for params in tried) >= 1
    assert sum(params.get("gamma") == 3 and params["kernel"] == "rbf" and "c" in params for params in tried) >= 1
    assert [trial.state.name for trial in result.trials] == ["COMPLETE"] * 4
    assert result.best_value == 0.0
    for wrong, message in (
        ({"configs": [{"depth": 3}]}, "'depth' is there only where model is 'forest'"),
        ({"known": [({"lr": 0.3, "model": "forest"}, 1.0)]}, "lacks 'depth'"),
        ({"known": [({"lr": 0.3, "model": "mean", "depth": 5}, 1.0)]}, "only where model is 'forest'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            searched(of_a_model, MODELS, 3, **wrong)


def test_a_list_is_never_filled_up_with_other_trials() -> None:
    def stopped_early(config: Mapping[str, Any]) -> Iterator[float]:
        yield config["x"]
        raise optuna.TrialPruned

    for workers in (1, 3):
        result, _ = searched(
            stopped_early, {"x": FloatDistribution(0.0, 1.0)}, 9, strategy="manual", units=5, n_workers=workers,
            configs=[{"x": 0.25}, {"x": 0.5}],
        )  # fmt: skip
        assert sorted(trial.params["x"] for trial in result.trials) == [0.25, 0.5]
        assert len(result.trials) == 2


def test_a_generator_is_not_asked_for_more_than_a_full_training() -> None:
    result, _ = searched(curve, budget=3, units=4)
    assert [len(trial.intermediate_values) for trial in result.trials] == [4, 4, 4]


def test_a_notebook_shows_the_result_as_text() -> None:
    space = {"<b>": CategoricalDistribution(["<i>", "&"]), "x": FloatDistribution(-1, 1)}
    result = tune(lambda c: c["x"], space, 8, strategy="random", direction="maximize", recorder=NullRecorder())
    shown = result._repr_html_()
    assert (
        f"<strong>{result.best_value:.6g}</strong> is the largest value, of trial {result.best_trial.number}" in shown
    )
    assert "Trials: 8 finished." in shown and "<th>&lt;b&gt;</th>" in shown
    assert not re.search(r"<(b|i)>", shown)
    values = [float(row) for row in re.findall(r"<tr><td>\d+</td><td>([^<]*)</td>", shown)]
    assert len(values) == 5 and values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(result.best_value, rel=1e-5)


def test_a_notebook_shows_a_result_without_a_best_trial() -> None:
    result = tune(lambda c: math.nan, {"x": FloatDistribution(-1, 1)}, 2, strategy="random", recorder=NullRecorder())
    assert result._repr_html_() == "<p>No trial has finished with a number. Trials: 2 failed.</p>"


def test_a_notebook_shows_no_trial_that_is_not_allowed() -> None:
    result = tune(
        lambda c: c["x"],
        {"x": FloatDistribution(-1, 1)},
        8,
        strategy="random",
        recorder=NullRecorder(),
        constraints=lambda c: {"positive": -c["x"]},
    )
    values = re.findall(r"<tr><td>\d+</td><td>([^<]*)</td>", result._repr_html_())
    assert values and all(float(value) >= 0 for value in values)
