"""Past runs as past tasks: those of metatuner, those of others, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import metatuner as mt
import pytest
from metatuner.envs.errors import ConfigurationError, StoreError, UnknownExperimentError
from metatuner.tracking.past_studies import past_studies
from mlflow import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "depth": IntDistribution(1, 5),
    "kind": CategoricalDistribution(["a", "b"]),
}


def train(config: dict[str, float]) -> Iterator[float]:
    for epoch in range(1, 5):
        yield (config["lr"] - 0.01) ** 2 + abs(config["depth"] - 3) + (config["kind"] == "a") + 1 / epoch


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "journal"))
    return f"sqlite:///{tmp_path / 'runs.db'}"


def log_run(uri: str, experiment: str, params: dict[str, object], score: float | None) -> None:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    run = client.create_run(found.experiment_id if found else client.create_experiment(experiment))
    for name, value in params.items():
        client.log_param(run.info.run_id, name, value)
    if score is not None:
        client.log_metric(run.info.run_id, "score", score)
    client.set_terminated(run.info.run_id)


def test_tuned_studies_come_back_as_they_were_and_tell_where_to_begin(uri: str) -> None:
    before = mt.tune(
        train, SPACE, budget=10, strategy="hyperband", units=4, tracking_uri=uri, experiment="first", name="monday"
    )
    (study,) = past_studies("fir.*", SPACE, tracking_uri=uri).studies
    assert study.study_name == "monday"
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    there, back = (
        sorted((t.params["lr"], t.params["depth"], t.state.name, len(t.intermediate_values)) for t in found)
        for found in (before.study.get_trials(states=states), study.get_trials(states=states))
    )
    assert back == there
    assert study.best_value == pytest.approx(before.best_trial.value)
    now = mt.tune(
        train, SPACE, budget=1, units=4, tracking_uri=uri, experiment="second", name="tuesday", prior="mlflow:first"
    )
    assert now.best_trial.value <= before.best_trial.value + 0.6


def test_runs_of_others_count_where_they_fit(uri: str) -> None:
    good = {"lr": 0.1, "depth": 2, "kind": "b", "more": "x"}
    for params, score in (
        (good, 1.0),
        ({**good, "depth": 5}, 2.0),
        ({**good, "depth": 6}, 3.0),
        ({**good, "lr": "fast"}, 4.0),
        ({**good, "kind": "c"}, 5.0),
        ({"lr": 0.1}, 6.0),
        (good, None),
    ):
        log_run(uri, "theirs", params, score)
    (study,) = past_studies("theirs", SPACE, metric="score", direction="maximize", tracking_uri=uri).studies
    assert sorted(trial.value for trial in study.trials) == [1.0, 2.0]
    assert {key: study.best_params[key] for key in SPACE} == {"lr": 0.1, "depth": 5, "kind": "b"}
    with pytest.raises(StoreError, match="7 without a value of 'objective'; name another metric"):
        past_studies("theirs", SPACE, tracking_uri=uri)


def test_studies_tell_themselves_what_they_are_judged_by(uri: str) -> None:
    mt.tune(train, SPACE, 6, units=4, strategy="asha", metric="error", tracking_uri=uri, experiment="e", name="then")
    told = [past_studies("e", SPACE, metric=name, tracking_uri=uri, units=4) for name in ("error", "objective")]
    assert told[0].match.trials == told[1].match.trials == told[0].match.read
    curves = [[trial.intermediate_values for trial in each.studies[0].trials] for each in told]
    assert curves[0] == curves[1] and all(curves[0])


def test_what_is_no_prior_is_told(uri: str) -> None:
    log_run(uri, "theirs", {"lr": 0.1}, 1.0)
    for prior in ("first", "mlflow:", 3):
        with pytest.raises(ConfigurationError, match="expected a prior such as 'mlflow:EXPERIMENT'"):
            mt.tune(train, SPACE, budget=1, tracking_uri=uri, prior=prior)  # type: ignore[arg-type]
    with pytest.raises(UnknownExperimentError, match="no experiment is called 'nobody'"):
        mt.tune(train, SPACE, budget=1, tracking_uri=uri, prior="mlflow:nobody")
    with pytest.raises(ConfigurationError, match="needs the search space"):
        mt.tune(lambda trial: trial.suggest_float("x", 0, 1), budget=1, tracking_uri=uri, prior="mlflow:theirs")
