from __future__ import annotations

import contextlib
import math
import sqlite3
from pathlib import Path

import pytest
from metatuner.envs.errors import StoreError, UnknownExperimentError
from metatuner.envs.records import Metrics, StudyStarted, TrialFinished, TrialStarted, TrialState
from metatuner.tracking.history import read_history
from metatuner.tracking.recorder import MLflowRecorder


@pytest.fixture(scope="module")
def filled(served: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A server's address and its database, with a study of ours, and runs that others logged."""
    uri = f"sqlite:///{served[1]}"
    with MLflowRecorder(uri, "ours", plots=False, journal=tmp_path_factory.mktemp("journal")) as recorder:
        recorder.record(StudyStarted(name="study", params={"budget": 3}))
        for trial, state in enumerate((TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED)):
            recorder.record(TrialStarted(trial=trial, name=f"t{trial}", params={"lr": 0.1 * trial, "a@b": trial}))
            for step in (5, 0, 10):
                recorder.record(Metrics(trial=trial, step=step, values={"val/loss": trial + step / 10, "acc%": 0.5}))
            recorder.record(TrialFinished(trial=trial, state=state))
    _log_as_others_do(uri)
    return served


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, filled: tuple[str, Path]) -> str:
    url, database = filled
    return f"sqlite:///{database}" if request.param == "file" else url


def _log_as_others_do(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("theirs")
    run = client.create_run(experiment, run_name="by hand")
    client.log_param(run.info.run_id, "lr", "1e-3")
    for step, loss in enumerate((2.0, math.nan, 1.0)):
        client.log_metric(run.info.run_id, "val/loss", loss, step=step)
    client.set_terminated(run.info.run_id)
    client.create_run(experiment, run_name="nothing in it")


def test_our_trials_and_those_of_others_come_back(store: str) -> None:
    ours = {
        trial.name: trial for trial in read_history("ours", with_curves=["val/loss", "missing"], tracking_uri=store)
    }
    assert set(ours) == {"t0", "t1", "t2"}
    assert [ours[name].state for name in sorted(ours)] == [TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED]
    assert ours["t2"].params == {"lr": "0.2", "a@b": "2"}
    assert ours["t2"].metrics["acc%"] == 0.5
    assert list(ours["t2"].curves["val/loss"].items()) == [(0, 2.0), (5, 2.5), (10, 3.0)]
    assert set(ours["t2"].curves) == {"val/loss"}
    assert (ours["t0"].study, ours["t0"].experiment) == ("study", "ours")

    (theirs,) = read_history("theirs", with_curves=["val/loss"], tracking_uri=store)
    assert (theirs.name, theirs.params, theirs.study) == ("by hand", {"lr": "1e-3"}, None)
    first, second, third = theirs.curves["val/loss"].values()
    assert (first, third) == (2.0, 1.0)
    assert math.isnan(second)


def test_experiments_by_expression(store: str) -> None:
    assert len(list(read_history("ours|theirs", tracking_uri=store))) == 4
    assert len(list(read_history(["ours", "th.*"], tracking_uri=store))) == 4
    assert len(list(read_history("ours", filter_string="params.lr = '0.0'", tracking_uri=store))) == 1


def test_what_cannot_be_read_is_named(store: str) -> None:
    with pytest.raises(UnknownExperimentError, match="expected one of"):
        list(read_history("nobody", tracking_uri=store))
    with pytest.raises(UnknownExperimentError, match=r"\(\("):
        list(read_history("((", tracking_uri=store))
    with pytest.raises(StoreError, match="cannot be read"):
        list(read_history("ours", filter_string="nonsense ===", tracking_uri=store))


def test_more_points_than_one_answer_of_a_server_holds(served: tuple[str, Path]) -> None:
    """An answer holds 25,000: of two such runs it would be cut, and the third does not fit into one by itself."""
    from mlflow import MlflowClient

    url, file = served
    client = MlflowClient(url)
    experiment = client.create_experiment("long")
    lengths = {}
    for length in (14_000, 14_000, 26_000):
        run_id = client.create_run(experiment).info.run_id
        client.log_param(run_id, "lr", 1)
        lengths[run_id] = length
    with contextlib.closing(sqlite3.connect(file)) as database:
        for run_id, length in lengths.items():
            rows = [("loss", step / 2, step, run_id, step, False) for step in range(length)]
            columns = "key, value, timestamp, run_uuid, step, is_nan"
            database.executemany(f"INSERT INTO metrics ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)
        database.commit()
    found = read_history("long", with_curves=["loss"], tracking_uri=url)
    read = {trial.run_id: trial.curves["loss"] for trial in found}
    assert read.keys() == lengths.keys()
    for run_id, length in lengths.items():
        assert list(read[run_id].items()) == [(step, step / 2) for step in range(length)]
