"""What a search may still spend, and which trainings are worth to go on, with odd trials among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import metatuner as mt
import numpy as np
import pytest
from metatuner.envs.errors import SearchSpaceError
from metatuner.envs.records import NullRecorder
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

SPACE = {"x": FloatDistribution(-5, 5), "y": FloatDistribution(-5, 5)}


def loss(config: dict[str, Any]) -> float:
    return float((config["x"] - 2) ** 2 + (config["y"] + 1) ** 2)


def train(config: dict[str, Any]) -> Iterator[float]:
    for unit in range(1, 17):
        yield loss(config) + 1 / unit


def tuned(objective: Any, budget: int, space: Any = None, **more: Any) -> mt.TuneResult:
    return mt.tune(objective, space or SPACE, budget, recorder=NullRecorder(), **{"units": 16, **more})


def sources(result: mt.TuneResult) -> Counter[str]:
    return Counter(trial.user_attrs.get("metatuner:why", {}).get("source", "") for trial in result.trials)


def test_known_trials_cost_nothing() -> None:
    points = [{"x": float(x), "y": 4.0} for x in range(-5, 5)]
    known = [(point, loss(point)) for point in points]
    result = tuned(train, 10, known=known)
    assert sources(result)["chance"] == 0
    assert result.best_value < 1.0
    assert tuned(loss, 20, known=known, units=None).best_value < 0.5


def test_trainings_that_fail_at_once_leave_enough_to_finish_one() -> None:
    def half_fails(config: dict[str, Any]) -> Iterator[float]:
        if config["x"] < 0:
            raise ValueError
        yield from train(config)

    finished = [any(t.state is TrialState.COMPLETE for t in tuned(half_fails, 4, seed=i).trials) for i in range(6)]
    assert all(finished)


def test_trainings_that_end_early_cost_what_they_took() -> None:
    result = tuned(train, 2, units=160)
    assert sources(result)["chance"] <= 1
    assert sum(trial.state is TrialState.COMPLETE for trial in result.trials) >= 2


def test_a_metric_that_does_not_move_at_first_says_nothing() -> None:
    def wakes(config: dict[str, Any]) -> Iterator[float]:
        for unit in range(1, 9):
            yield 0.0 if unit <= 2 else 100 - loss(config) - 10 / unit

    for seed in range(3):
        result = tuned(wakes, 10, units=8, direction="maximize", seed=seed)
        assert sum(trial.state is TrialState.COMPLETE for trial in result.trials) >= 2


def test_what_is_forbidden_is_not_trained_on() -> None:
    result = tuned(train, 6, constraints=lambda config: {"sum": 1 - config["x"] - config["y"]})
    forbidden = [trial for trial in result.trials if any(value > 0 for value in trial.constraints.values())]
    assert forbidden
    assert max(len(trial.intermediate_values) for trial in forbidden) <= 1


def test_a_choice_that_others_hang_on_is_made_again() -> None:
    def branches(config: dict[str, Any]) -> float:
        return float(config["a"] if config["kind"] == "good" else 50 + config["b"])

    one = FloatDistribution(0, 1)
    space = {"kind": {"good": {"a": one}, "bad": {"b": one}, "worse": {"b": one}}}
    result = tuned(branches, 20, space, units=None)
    assert sources(result)["chance"] == 0
    assert sum(trial.params["kind"] == "good" for trial in result.trials) > 10


def test_all_has_been_tried_is_the_reason_where_it_is() -> None:
    result = tuned(lambda config: float(config["c"]), 5, {"c": CategoricalDistribution([1, 2])}, units=None)
    words = [trial.user_attrs["metatuner:why"]["words"] for trial in result.trials]
    assert sum("every configuration has been tried" in each for each in words) == 3


@pytest.mark.parametrize("choices", [(1, 1.0), ("a", True, 1), (0, "b", False)])
def test_choices_that_are_equal_are_refused(choices: tuple[Any, ...]) -> None:
    with pytest.raises(SearchSpaceError, match="takes for equal"):
        tuned(loss, 2, {**SPACE, "c": CategoricalDistribution(choices)})


def test_what_is_left_open_is_drawn_by_the_seed() -> None:
    drawn = [tuned(loss, 1, configs=[{"x": 0.5}], seed=seed, units=None).trials[0].params["y"] for seed in range(3)]
    assert len(set(drawn)) == 3


def test_a_search_is_the_same_in_any_unit() -> None:
    def scaled(factor: float) -> list[dict[str, Any]]:
        def objective(config: dict[str, Any]) -> Iterator[float]:
            yield from (factor * value for value in train(config))

        return [trial.params for trial in tuned(objective, 4).trials]

    assert scaled(1.0) == scaled(1024.0)
    assert np.isfinite([each["x"] for each in scaled(2.0**140)]).all()
