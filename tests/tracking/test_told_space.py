from __future__ import annotations

import pytest
from metatuner.envs.errors import StoreError
from metatuner.envs.records import TrialState
from metatuner.tracking.told_space import told_space
from metatuner.tracking.told_trials import ToldTrial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution


def trials(*params: dict[str, str], task: str = "t") -> list[ToldTrial]:
    return [ToldTrial(task, each, 1.0) for each in params]


def test_ranges_and_kinds_are_what_was_seen() -> None:
    told = trials(
        {"lr": "1e-4", "depth": "3", "width": "8", "dropout": "0.5", "kind": "a", "same": "7"},
        {"lr": "0.1", "depth": "9", "width": "1024", "dropout": "0", "kind": "b", "same": "7"},
    )
    assert told_space(told, "x") == {
        "lr": FloatDistribution(1e-4, 0.1, log=True),
        "depth": IntDistribution(3, 9),
        "width": IntDistribution(8, 1024, log=True),
        "dropout": FloatDistribution(0, 0.5),
        "kind": CategoricalDistribution(["a", "b"]),
    }


def test_what_few_tasks_know_and_what_nobody_chooses_is_left_out() -> None:
    paths = [{"x": str(i), "path": f"/data/{i}"} for i in range(50)]
    told = trials(*paths) + trials({"x": "0.5", "rare": "1"}, {"x": "2", "rare": "2"}, task="u")
    told += trials({"x": "1"}, task="v")
    assert told_space(told, "x") == {"x": FloatDistribution(0, 49)}


def test_numbers_that_are_none_make_it_a_choice() -> None:
    assert told_space(trials({"x": "1"}, {"x": "None"}, {"x": "inf"}), "x") == {
        "x": CategoricalDistribution(["1", "None", "inf"])
    }


def test_nothing_to_choose_is_an_error() -> None:
    silent = [ToldTrial("t", {"x": str(i)}, None, state=TrialState.KILLED) for i in range(3)]
    with pytest.raises(StoreError, match="none of the 3 past trials of 'here' tells a value"):
        told_space(silent, "here")
    with pytest.raises(StoreError, match="'here' was varied in at least half of its 1 tasks"):
        told_space(trials({"x": "1"}, {"x": "1"}), "here")


def test_what_tells_tasks_apart_and_what_few_configurations_have_is_no_hyperparameter() -> None:
    told: list[ToldTrial] = []
    for task in range(3):
        for i in range(6):
            branch = {"gamma": str(i)} if i % 2 else {"degree": str(i)}
            told += trials({"x": str(i), "rows": str(100 * task), **branch}, task=str(task))
    assert told_space(told, "x") == {"x": IntDistribution(0, 5)}
    with pytest.raises(StoreError, match="'here' was varied"):
        told_space(trials({"x": "1"}, {"x": "1"}), "here")
