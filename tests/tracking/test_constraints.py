"""What is not allowed is recorded as such, and is nobody's best, here and in the store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import metatuner as mt
import optuna
import pytest
from metatuner.envs.records import StudyLed, StudyStarted, TrialSeen, TrialState
from metatuner.tracking.recorded_study import read_study
from metatuner.tracking.recorder import MLflowRecorder
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
        recorder.record(StudyStarted(name="study", key="study", shared=True))
        recorder.record(StudyLed(leads=True))
        for trial, value, by in ((0, 2.0, 0.0), (1, 1.0, excess)):
            recorder.record(
                TrialSeen(
                    trial=trial, name="x", started_ms=1, state=TrialState.FINISHED, value=value, excess={"memory": by}
                )
            )
    (study,) = runs(uri, "study")
    assert study.data.metrics["best_value"] == best
    assert {run.data.metrics["constraint/memory"] for run in runs(uri, "trial")} >= {0.0}
