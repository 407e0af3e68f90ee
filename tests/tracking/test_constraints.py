"""What is not allowed is recorded as such, and is nobody's best, here and in the store."""

from __future__ import annotations

import enum
import math
import sys
from pathlib import Path
from typing import Any

import metatuner as mt
import mlflow
import numpy as np
import optuna
import pytest
from metatuner.envs.constraints import is_allowed
from metatuner.envs.records import StudyLed, StudyStarted, TrialSeen
from metatuner.tracking.audit import compare, repair
from metatuner.tracking.optuna_study import records
from metatuner.tracking.recorded_study import read_study
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.report import report_page
from metatuner.tracking.store import resolve
from metatuner.tracking.told_trials import told_runs
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.distributions import FloatDistribution

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def at_least_half(config: dict[str, Any]) -> dict[str, float]:
    return {"not too small": 0.5 - config["x"]}


def runs(uri: str, kind: str) -> list[Run]:
    client = MlflowClient(uri)
    ids = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`metatuner.kind` = '{kind}'"))


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def tuned(uri: str, budget: int, **options: Any) -> mt.TuneResult:
    return mt.tune(
        lambda config: config["x"], SPACE, budget, strategy="random", constraints=at_least_half, tracking_uri=uri,
        experiment="e", name="s", **options,
    )  # fmt: skip


def test_the_store_tells_what_exceeds_and_the_best_is_allowed(uri: str) -> None:
    result = tuned(uri, 12)
    assert result.best_value >= 0.5
    (study,) = runs(uri, "study")
    assert study.data.metrics["best_value"] == result.best_value
    excess = {run.data.params["x"]: run.data.metrics["constraint/not too small"] for run in runs(uri, "trial")}
    assert len(excess) == 12
    assert all(value == pytest.approx(0.5 - float(x)) for x, value in excess.items())
    assert min(float(x) for x in excess) < 0.5  # or nothing was at stake
    recorded = read_study("s", "e", uri)
    assert recorded.summary.best is not None
    assert recorded.summary.best.value == result.best_value


def test_the_report_counts_what_is_not_allowed_apart(uri: str) -> None:
    result = tuned(uri, 12)
    page = report_page(read_study("s", "e", uri))
    forbidden = sum(trial.params["x"] < 0.5 for trial in result.trials)
    assert 0 < forbidden < 12
    assert f"{forbidden} not allowed" in page
    assert f"of {12 - forbidden} trials that finished with a number and are allowed" in page


def test_a_study_that_goes_on_elsewhere_knows_what_was_not_allowed(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = str(tmp_path / "journal.log")
    before = tuned(uri, 2, storage=storage, seed=1)
    assert any(trial.params["x"] < 0.5 for trial in before.trials)
    best_before = before.best_value
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "elsewhere"))
    result = tuned(uri, 6, storage=storage, seed=1)
    (study,) = runs(uri, "study")
    assert study.data.metrics["best_value"] == result.best_value
    assert 0.5 <= result.best_value < best_before


def test_past_trials_that_were_not_allowed_count_as_bad(uri: str) -> None:
    tuned(uri, 12)
    told = list(told_runs("e", metric="value", tracking_uri=uri))
    assert {trial.failed for trial in told} == {True, False}
    assert all(trial.failed == (float(trial.params["x"]) < 0.5) for trial in told)


def test_a_study_of_optuna_is_recorded_with_its_constraints(uri: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.set_constraint("not too small", 0.5 - x)
        return x

    study = optuna.create_study(study_name="theirs", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, 12)
    mt.record_study(study, tracking_uri=uri)
    (parent,) = runs(uri, "study")
    allowed = [trial.value for trial in study.trials if trial.params["x"] >= 0.5]
    assert parent.data.metrics["best_value"] == min(each for each in allowed if each is not None)
    assert all("constraint/not too small" in run.data.metrics for run in runs(uri, "trial"))


@pytest.mark.parametrize(("excess", "best"), [(-1.0, 1.0), (0.0, 1.0), (0.1, 2.0), (math.nan, 2.0), (math.inf, 2.0)])
def test_trials_of_other_workers_are_allowed_or_not(uri: str, excess: float, best: float) -> None:
    with MLflowRecorder(uri, "shared", plots=False) as recorder:
        lead(recorder, seen(0, 2.0, 0.0), seen(1, 1.0, excess))
    (study,) = runs(uri, "study")
    assert study.data.metrics["best_value"] == best
    told = {run.data.tags["metatuner.trial"]: run.data.metrics["constraint/memory"] for run in runs(uri, "trial")}
    assert told["0"] == 0
    assert told["1"] == excess or (math.isnan(told["1"]) and math.isnan(excess)) or told["1"] == sys.float_info.max


def test_who_learns_late_that_the_best_is_not_allowed_has_another_best(uri: str) -> None:
    with MLflowRecorder(uri, "shared", plots=False) as recorder:
        lead(recorder, seen(0, 2.0, 0.0), TrialSeen(trial=1, name="x", started_ms=1, value=1.0), seen(1, 1.0, 0.1))
    (study,) = runs(uri, "study")
    assert study.data.metrics["best_value"] == 2.0


class Limit(enum.Enum):
    MEMORY = "memory"


def test_names_of_any_kind_and_numbers_of_numpy_will_do(uri: str) -> None:
    result = mt.tune(
        lambda config: config["x"], SPACE, 3, strategy="random", tracking_uri=uri,
        constraints=lambda config: {Limit.MEMORY: np.float32(-1), 7: np.int64(0)},
    )  # fmt: skip
    assert {trial.state.name for trial in result.trials} == {"COMPLETE"}
    assert all(run.data.metrics["constraint/7"] == 0 for run in runs(uri, "trial"))


def test_constraints_that_tell_no_numbers_fail_their_trial_in_words(uri: str) -> None:
    result = mt.tune(
        lambda config: config["x"], SPACE, 1, strategy="random", tracking_uri=uri, constraints=lambda config: None
    )
    (run,) = runs(uri, "trial")
    assert result.trials[0].state.name == "FAIL"
    assert "numbers by name" in run.data.tags["metatuner.message"]


def test_what_others_call_a_constraint_is_no_failure(uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("theirs")
    with mlflow.start_run():
        mlflow.log_param("x", 0.3)
        mlflow.log_metrics({"loss": 0.2, "constraint/kl": 0.7})
    (told,) = told_runs("theirs", metric="loss", tracking_uri=uri)
    assert not told.failed


@pytest.mark.parametrize("altered", [None, "x", [1]])
def test_constraints_of_a_study_that_was_altered_are_refused(altered: object) -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), 1)
    study._storage.set_trial_system_attr(study._storage.create_new_trial(study._study_id), "constraints:a", altered)
    study.tell(1, 0.5)
    with pytest.raises(mt.MetatunerError, match="altered"):
        list(records(study))
    with pytest.raises(mt.MetatunerError, match="altered"):
        is_allowed(study.trials[1])


def test_an_infinite_excess_is_what_the_store_has(uri: str) -> None:
    study = optuna.create_study(study_name="theirs")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    study._storage.set_trial_system_attr(
        study._storage.create_new_trial(study._study_id), "constraints:memory", math.inf
    )
    study.tell(1, 0.5)
    store = resolve(uri)
    repair(compare(records(study), "theirs", store, "e"), store, "e")
    assert compare(records(study), "theirs", store, "e") == []


def seen(trial: int, value: float, excess: float) -> TrialSeen:
    return TrialSeen(trial=trial, name="x", started_ms=1, value=value, excess={"memory": excess})


def lead(recorder: MLflowRecorder, *trials: TrialSeen) -> None:
    recorder.record(StudyStarted(name="study", key="study", shared=True))
    recorder.record(StudyLed(leads=True))
    for trial in trials:
        recorder.record(trial)
