"""What `tune` makes of trials that are not like others: stopped at the very end, known before, or meddling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import pytest
import torch
from metatuner.__main__ import main
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.records import NullRecorder
from mlflow import MlflowClient
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(-5, 5), "d": IntDistribution(1, 4)}


def final(config: Mapping[str, Any]) -> float:
    return float((config["x"] - 2) ** 2 + config["d"])


def train(config: Mapping[str, Any]) -> Iterator[float]:
    for epoch in range(1, 10):
        yield final(config) + 1 / epoch


@pytest.mark.parametrize("seed", range(4))
def test_a_training_that_has_run_to_its_end_was_not_stopped(seed: int) -> None:
    result = mt.tune(
        train,
        SPACE,
        15,
        strategy="asha",
        units=9,
        seed=seed,
        constraints=lambda config: {"big": config["x"] - 1},
        recorder=NullRecorder(),
    )
    whole = [trial for trial in result.trials if len(trial.intermediate_values) == 9]
    assert whole and {trial.state for trial in whole} == {TrialState.COMPLETE}
    assert result.best_value == min(trial.value for trial in whole if trial.params["x"] <= 1)  # type: ignore[type-var]


def test_a_known_trial_that_is_not_allowed_is_never_the_best_one() -> None:
    result = mt.tune(
        final,
        SPACE,
        3,
        strategy="random",
        known=[({"x": 2.0, "d": 1}, 0.001)],
        constraints=lambda config: {"a": config["x"] - 1},
        recorder=NullRecorder(),
    )
    assert result.best_config["x"] <= 1 and result.best_value > 0.001


def test_known_trials_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    known = [({"x": 2.0, "d": 1}, 0.001), ({"x": 1.0, "d": 2}, 3.0)]
    for _ in range(2):  # and once only, where the study goes on
        mt.tune(final, SPACE, 3, strategy="random", known=known, storage="a.journal", name="a", tracking_uri=uri)
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "metatuner"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + 3 + len(known)
    (study,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert study.data.metrics["best_value"] == 0.001
    capsys.readouterr()
    assert main(["doctor", "--study", "a", "--storage", "a.journal", "--tracking-uri", uri]) == 0
    assert "differ" not in capsys.readouterr().out


@pytest.mark.parametrize("value", ["1", True, np.True_, None])
def test_a_number_is_given_as_one(value: object) -> None:
    with pytest.raises(ConfigurationError, match="expected a number for x"):
        mt.tune(final, SPACE, 2, configs=[{"x": value, "d": 2}], recorder=NullRecorder())
    for fits in (1, np.float32(1), np.int64(1)):
        mt.tune(final, SPACE, 1, configs=[{"x": fits, "d": np.int64(2)}], recorder=NullRecorder())


def test_constraints_cannot_change_what_is_tried() -> None:
    def constraints(config: Any) -> dict[str, float]:
        config["x"] = 0.0
        return {"a": -1.0}

    seen: list[float] = []

    def objective(config: Mapping[str, Any]) -> float:
        seen.append(config["x"])
        return final(config)

    result = mt.tune(objective, SPACE, 2, strategy="random", constraints=constraints, recorder=NullRecorder())
    assert seen == [trial.params["x"] for trial in result.trials]


def test_hyperband_follows_from_its_seed_in_memory() -> None:
    found = [
        mt.tune(train, SPACE, 12, strategy="hyperband", units=9, seed=3, recorder=NullRecorder()).trials
        for _ in range(3)
    ]
    assert len({len(each) for each in found}) == 1
    assert [trial.params for trial in found[0]] == [trial.params for trial in found[1]]


@pytest.mark.parametrize("strategy", ["policy", "gp"])
def test_what_an_objective_leaves_behind_does_not_harm_who_proposes(strategy: str) -> None:
    def meddles(config: Mapping[str, Any]) -> float:
        np.seterr(all="raise")
        torch.set_grad_enabled(False)
        return final(config)

    result = mt.tune(meddles, SPACE, 13, strategy=strategy, seed=1, recorder=NullRecorder())
    assert {trial.state for trial in result.trials} == {TrialState.COMPLETE}
    assert torch.is_grad_enabled() and np.geterr()["under"] == "ignore"
