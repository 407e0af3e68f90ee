"""Studies that ran elsewhere: what MLflow has of them, once and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import optuna
import pytest
from hyperopt import STATUS_FAIL, STATUS_OK, Trials, fmin, hp, rand
from metatuner.envs.errors import ConfigurationError, StoreError
from metatuner.tracking.operations import VALUE_METRIC
from mlflow import MlflowClient

Runs = list[Any]


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "journal"))
    return f"sqlite:///{tmp_path / 'runs.db'}"


def children(uri: str, parent: str | None) -> Runs:
    assert parent is not None
    client = MlflowClient(uri)
    experiment = client.get_run(parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'", max_results=500)
    return sorted(runs, key=lambda run: run.info.start_time)


def test_an_optuna_study_is_recorded_once_and_goes_on(uri: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        for step in range(3):
            trial.report(x + step, step)
        if trial.number == 2:
            raise optuna.TrialPruned
        return x

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0), study_name="mine")
    study.optimize(objective, n_trials=4)
    run = mt.record_study(study, uri, "elsewhere")
    found = children(uri, run)
    assert sorted(float(each.data.params["x"]) for each in found) == sorted(t.params["x"] for t in study.trials)
    assert {each.data.metrics.get("resource/wall_s", -1) >= 0 for each in found} == {True}
    # What was not measured is not made up.
    assert not any(name.startswith("resource/cpu") for each in found for name in each.data.metrics)
    study.optimize(objective, n_trials=2)
    assert mt.record_study(study, uri, "elsewhere") == run
    assert mt.record_study(study, uri, "elsewhere") == run
    assert len(children(uri, run)) == 6


def test_a_trial_that_runs_is_recorded_once_it_has_ended(uri: str) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(0), study_name="mine")
    with pytest.raises(StoreError, match="trials that have ended"):
        mt.record_study(study, uri, "elsewhere")
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) / 2, n_trials=2)
    running = study.ask()
    running.suggest_float("x", -1, 1)
    run = mt.record_study(study, uri, "elsewhere")
    assert len(children(uri, run)) == 2
    running.report(0.1, 1)
    study.tell(running, 0.99)
    assert mt.record_study(study, uri, "elsewhere") == run
    assert max(each.data.metrics[VALUE_METRIC] for each in children(uri, run)) == 0.99
    assert MlflowClient(uri).get_run(str(run)).data.metrics["best_value"] == 0.99


def test_hyperopts_trials_are_recorded_with_what_failed(uri: str) -> None:
    def objective(config: dict[str, Any]) -> dict[str, Any]:
        if config["depth"] == 0:
            return {"status": STATUS_FAIL}
        return {"loss": config["x"] ** 2, "status": STATUS_OK}

    trials = Trials()
    space = {"x": hp.uniform("x", -1, 1), "depth": hp.choice("depth", [0, 3, 5])}
    fmin(
        objective,
        space,
        algo=rand.suggest,
        max_evals=12,
        trials=trials,
        rstate=np.random.default_rng(0),
        show_progressbar=False,
    )
    run = mt.record_study(trials, uri, name="forest")
    assert mt.record_study(trials, uri, name="forest") == run
    found = children(uri, run)
    failed = sum(result["status"] == STATUS_FAIL for result in trials.results)
    assert 0 < failed < 12
    assert [each.info.status for each in found].count("FAILED") == failed
    assert len(found) == 12
    assert all({"x", "depth"} <= set(each.data.params) for each in found)
    best = min(each.data.metrics[VALUE_METRIC] for each in found if each.info.status == "FINISHED")
    assert best == pytest.approx(min(loss for loss in trials.losses() if loss is not None))


def test_hyperopts_odd_documents_are_recorded(uri: str) -> None:
    def objective(config: dict[str, float]) -> dict[str, Any]:
        if config["x"] > 0.6:
            raise ValueError("too large")
        bad = config["x"] > 0.3
        return {"loss": None if bad else config["x"], "status": STATUS_FAIL if bad else STATUS_OK}

    trials = Trials()
    # A result that was known before has no times.
    [number] = trials.new_trial_ids(1)
    misc = {"tid": number, "cmd": None, "idxs": {"x": [number]}, "vals": {"x": [0.25]}}
    [known] = trials.new_trial_docs([number], [None], [{"loss": 0.25, "status": STATUS_OK}], [misc])
    trials.insert_trial_docs([{**known, "state": 2}])
    trials.refresh()
    options = {"catch_eval_exceptions": True, "show_progressbar": False, "rstate": np.random.default_rng(0)}
    fmin(objective, {"x": hp.uniform("x", 0, 1)}, algo=rand.suggest, max_evals=16, trials=trials, **options)
    found = children(uri, mt.record_study(trials, uri, "elsewhere"))
    states = [each.info.status for each in found]
    assert len(found) == len(trials._dynamic_trials) and {"FINISHED", "FAILED"} == set(states)
    raised = sum(document["state"] == 3 for document in trials._dynamic_trials)
    assert raised and states.count("FAILED") > raised


def test_another_study_of_the_same_name_has_its_own_run(uri: str) -> None:
    runs = []
    for base in (100, 0):
        study = optuna.create_study(study_name="again")
        study.optimize(lambda trial, base=base: base + trial.suggest_float("x", 0, 1), n_trials=3)
        runs.append(mt.record_study(study, uri, "elsewhere"))
        assert mt.record_study(study, uri, "elsewhere") == runs[-1]
    assert len(set(runs)) == 2
    assert [len(children(uri, run)) for run in runs] == [3, 3]


def test_what_is_no_study_is_told(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="expected an Optuna study or hyperopt's Trials, got list"):
        mt.record_study([], uri)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="the trials are empty"):
        mt.record_study(Trials(), uri)
