"""Studies in a real Optuna storage against what a real MLflow store shows of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from metatuner.__main__ import main
from metatuner.agent.tune import tune
from metatuner.envs.errors import StoreError
from metatuner.tracking.audit import Difference, compare, repair
from metatuner.tracking.optuna_study import load, records
from metatuner.tracking.store import resolve
from metatuner.tracking.study_folder import run_of
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution

RUN = run_of("tune digits")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """A study of eight trials: five complete, one pruned, one failed, one running."""
    path = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=path, study_name="tune digits", sampler=optuna.samplers.RandomSampler(0))

    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        depth = trial.suggest_int("depth", 1, 4)
        for step in range(3):
            trial.report(lr + depth / (step + 1), step)
        if trial.number == 2:
            raise optuna.TrialPruned
        if trial.number == 3:
            raise RuntimeError("out of luck")
        return lr + depth / 3

    study.optimize(objective, n_trials=7, catch=RuntimeError)
    study.ask()
    _dispose(study)
    return path


def _dispose(study: optuna.Study) -> None:
    backend = getattr(study._storage, "_backend", study._storage)
    backend.engine.dispose()  # an open connection would be a warning when it is collected


def differences(storage: str, uri: str) -> list[Difference]:
    study = load(storage, "tune digits")
    try:
        return compare(records(study), RUN, resolve(uri), "digits")
    finally:
        _dispose(study)


def runs(uri: str) -> dict[str, Any]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_study_can_be_made_from_its_storage_alone(storage: str, uri: str) -> None:
    found = differences(storage, uri)
    assert [(each.trial, each.what) for each in found] == [(None, "the study's run is not there")] + [
        (trial, "it is not there") for trial in range(8)
    ]
    repair(found, resolve(uri), "digits")
    assert differences(storage, uri) == []
    made = runs(uri)
    study = optuna.load_study(study_name="tune digits", storage=storage)
    for trial in study.trials[:2]:
        run = made[f"#{trial.number} {trial.value:.4g} optuna"]
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert run.data.metrics["value"] == trial.value
        history = MlflowClient(uri).get_metric_history(run.info.run_id, "objective")
        assert {point.step: point.value for point in history} == trial.intermediate_values
    _dispose(study)
    assert made["#2 pruned optuna"].info.status == "FINISHED"
    assert made["#3 failed optuna"].info.status == "FAILED"
    assert made["#7 optuna"].info.status == "RUNNING"


def test_what_is_damaged_is_found_and_mended_once(storage: str, uri: str) -> None:
    repair(differences(storage, uri), resolve(uri), "digits")
    client, made = MlflowClient(uri), runs(uri)
    by_trial = {run.data.tags.get("metatuner.trial"): run for run in made.values()}
    client.delete_run(by_trial["0"].info.run_id)
    client.update_run(by_trial["1"].info.run_id, status="RUNNING")
    client.create_run(by_trial["4"].info.experiment_id, tags=by_trial["4"].data.tags)
    bare = {name: value for name, value in by_trial["5"].data.tags.items() if name != "metatuner.state"}
    client.delete_run(by_trial["5"].info.run_id)
    client.create_run(by_trial["5"].info.experiment_id, tags=bare)
    found = {(each.trial, each.what.split(":")[0]) for each in differences(storage, uri)}
    assert found == {
        (0, "it is not there"),
        (1, "it is finished, and MLflow shows RUNNING (finished)"),
        (4, "it is there twice"),
        (5, "params are missing"),
        (5, "4 metric values are missing"),
        (5, "it is finished, and MLflow shows RUNNING (None)"),
    }
    repair(differences(storage, uri), resolve(uri), "digits")
    assert differences(storage, uri) == []
    again = {run.info.run_id: run.data.metrics for run in runs(uri).values()}
    assert len(again) == 9
    repair(differences(storage, uri), resolve(uri), "digits")
    assert {run.info.run_id: run.data.metrics for run in runs(uri).values()} == again


def test_a_param_that_differs_is_told_and_left(storage: str, uri: str) -> None:
    repair([each for each in differences(storage, uri) if each.trial != 6], resolve(uri), "digits")
    client, parent = MlflowClient(uri), runs(uri)["tune digits"]
    tags = {"metatuner.key": f"{RUN}/6", "metatuner.trial": "6", "metatuner.attempt": "0"}
    run = client.create_run(parent.info.experiment_id, tags=tags)
    client.log_param(run.info.run_id, "depth", "99")
    repair(differences(storage, uri), resolve(uri), "digits")
    left = differences(storage, uri)
    assert [(each.trial, each.repair) for each in left] == [(6, ())]
    assert "depth" in left[0].what


@pytest.mark.parametrize(
    ("storage_url", "message"),
    [("sqlite:///nowhere.db", "no study storage"), ("nowhere.log", "no study storage"), ("what://x", "expected an")],
)
def test_a_storage_that_is_none_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage_url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=message):
        load(storage_url, "x")
    assert not list(tmp_path.glob("nowhere*"))


def test_a_study_that_is_not_in_its_storage_is_one_clear_error(storage: str) -> None:
    with pytest.raises(StoreError, match="expected one of 'tune digits'"):
        load(storage, "tune digit")


def test_a_journal_file_is_a_storage_too(tmp_path: Path, uri: str) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = str(tmp_path / "study.log")
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(path)), study_name="j")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    found = compare(records(load(path, "j")), run_of("j"), resolve(uri), "digits")
    assert [each.trial for each in found] == [None, 0, 1]


def test_the_doctor_tells_and_mends(storage: str, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    examine = ["doctor", "--study", "tune digits", "--storage", storage, "--tracking-uri", uri]
    assert main(examine) == 1
    assert "9 differences from its Optuna storage; mend them with --repair" in capsys.readouterr().out
    assert main([*examine, "--repair"]) == 0
    assert "mended  trial 7: it is not there" in capsys.readouterr().out
    assert main(examine) == 0
    assert "MLflow agrees with its Optuna storage" in capsys.readouterr().out
    # Without the storage only what is wrong in itself can be seen: trial 7 and the study are open.
    alone = ["doctor", "--study", "tune digits", "--tracking-uri", uri]
    assert main(alone) == 1
    assert (
        "trial 7: it is open, and no journal here is of it: if nobody records it elsewhere" in capsys.readouterr().out
    )
    assert main([*alone, "--repair"]) == 0
    assert main(alone) == 0


def test_the_doctor_does_not_know_a_study(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--study", "nothing", "--tracking-uri", uri]) == 2
    assert "has no study 'nothing'" in capsys.readouterr().err


def test_a_study_of_tune_is_known_by_its_key(tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is not its name; nothing is missing, and nothing is made twice."""
    journal = str(tmp_path / "study.log")
    tune(
        lambda config: config["x"],
        {"x": FloatDistribution(0.0, 1.0)},
        3,
        strategy="random",
        storage=journal,
        tracking_uri=uri,
        experiment="digits",
        name="tuned",
        constraints=lambda config: {"memory": config["x"] - 0.5},
    )
    before = len(runs(uri))
    examine = ["doctor", "--study", "tuned", "--storage", journal, "--tracking-uri", uri, "--experiment", "digits"]
    assert main([*examine, "--repair"]) == 0
    assert "agrees" in capsys.readouterr().out
    assert len(runs(uri)) == before
