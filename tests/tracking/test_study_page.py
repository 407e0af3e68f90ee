"""What a person finds on the page of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from metatuner.envs.data_sets import data_set_used, fingerprint
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.records import Metrics, Record, StudyFinished, StudyStarted, TrialFinished, TrialStarted, TrialState
from metatuner.tracking.operations import Describe, Draw, Log, StartRun, merged
from metatuner.tracking.projection import Projection
from metatuner.tracking.recorder import MLflowRecorder
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution, distribution_to_json

SPACE = {"lr": distribution_to_json(FloatDistribution(1e-4, 1.0, log=True))}


def trial(number: int, value: float, state: TrialState = TrialState.FINISHED, at: int = 1_000) -> list[Record]:
    params = {"lr": 10.0 ** -(number % 5), "width": 8 * (number + 1)}
    return [
        TrialStarted(trial=number, name="tpe", params=params, time_ms=at),
        Metrics(trial=number, step=10, values={"val/loss": value}, time_ms=at + 5),
        TrialFinished(trial=number, state=state, time_ms=at + 10),
    ]


def record_all(recorder: MLflowRecorder, records: list[Record]) -> None:
    for record in records:
        recorder.record(record)


def children(client: MlflowClient, recorder: MLflowRecorder) -> list[Any]:
    return list(
        client.search_runs(
            [recorder.experiment_id],
            f"tags.mlflow.parentRunId = '{recorder.run_id}'",
            order_by=["attributes.start_time ASC"],
        )
    )


def test_a_search_can_be_read_by_a_person(uri: str) -> None:
    data = [torch.arange(6.0).reshape(3, 2), torch.arange(3)]
    with MLflowRecorder(uri, "digits") as recorder:
        recorder.record(StudyStarted(name="search", space=SPACE, budget="12 trials", time_ms=0))
        recorder.record(data_set_used("toy", data, context="training", source="made up"))
        for number in range(10):
            record_all(recorder, trial(number, 1 + abs(number - 4), at=1_000 + 1_000 * number))
        record_all(recorder, trial(10, 9.0, TrialState.PRUNED, at=20_000))
        record_all(recorder, trial(11, 9.0, TrialState.FAILED, at=21_000))
        recorder.record(StudyFinished(time_ms=30_000))
    client = MlflowClient(uri)
    parent, runs = client.get_run(recorder.run_id), children(client, recorder)
    assert [run.info.run_name for run in runs[3:6]] == ["#3 2 tpe", "#4 1 tpe", "#5 2 tpe"]
    assert [run.info.run_name for run in runs[10:]] == ["#10 pruned tpe", "#11 failed tpe"]
    assert [run.data.metrics.get("value") for run in runs[9:]] == [6.0, 9.0, None]
    history = client.get_metric_history(recorder.run_id, "best_value")
    assert [(point.step, point.value) for point in history] == [(1, 5), (2, 4), (3, 3), (4, 2), (5, 1)]

    plots = {Path(file.path).name for file in client.list_artifacts(recorder.run_id, "plots")}
    assert plots == {"history.png", "importance.png", "parallel_coordinates.png"}
    space = json.loads(Path(client.download_artifacts(recorder.run_id, "search_space.json")).read_text())
    assert space["lr"]["attributes"]["high"] == 1.0

    text = parent.data.tags["mlflow.note.content"]
    best = runs[4].info.run_id
    assert f"**1** is the smallest `val/loss`: [#4 tpe](#/experiments/{recorder.experiment_id}/runs/{best})" in text
    assert "Trials: 10 finished, 1 pruned, 1 failed. Budget: 12 trials." in text
    assert "| lr | 0.0001 to 1 (log) |" in text

    used = parent.inputs.dataset_inputs[0]
    assert (used.dataset.name, used.dataset.digest) == ("toy", fingerprint(data))
    assert (used.tags[0].value, json.loads(used.dataset.profile)["rows"]) == ("training", 3)


def test_a_study_that_goes_on_still_shows_what_it_found_before(uri: str) -> None:
    started = StudyStarted(name="search", key="k", space=SPACE)
    with MLflowRecorder(uri, "digits") as recorder:
        record_all(recorder, [started, *trial(0, 0.25), *trial(1, 0.5)])
    with MLflowRecorder(uri, "digits") as recorder:
        record_all(recorder, [started, *trial(2, 0.75)])
    client = MlflowClient(uri)
    text = client.get_run(recorder.run_id).data.tags["mlflow.note.content"]
    assert "**0.25** is the smallest `val/loss`: [#0 tpe](#/experiments/" in text
    assert "Trials: 3 finished." in text
    # What was the best already is not the best anew.
    assert [point.value for point in client.get_metric_history(recorder.run_id, "best_value")] == [0.25]


@pytest.mark.parametrize("wrong", [{"direction": "down"}, {"space": {"lr": "0.1"}}, {"space": {"lr": "from 0 to 1"}}])
def test_a_study_that_makes_no_sense_is_refused_and_stops_nothing(uri: str, wrong: dict[str, Any]) -> None:
    with MLflowRecorder(uri, "digits") as recorder:
        record_all(recorder, [StudyStarted(name="first"), *trial(0, 0.5)])
        with pytest.raises(ConfigurationError, match="expected"):
            recorder.record(StudyStarted(name="second", **wrong))
        record_all(recorder, trial(1, 0.25, at=2_000))
    assert [run.info.run_name for run in children(MlflowClient(uri), recorder)] == ["#0 0.5 tpe", "#1 0.25 tpe"]


def test_an_explicit_value_stands_before_the_metric(uri: str) -> None:
    with MLflowRecorder(uri, "digits") as recorder:
        record_all(recorder, trial(0, 0.5)[:2])
        recorder.record(TrialFinished(trial=0, value=0.125))
    run = children(MlflowClient(uri), recorder)[0]
    assert (run.info.run_name, run.data.metrics["value"]) == ("#0 0.125 tpe", 0.125)


def project(trials: int, apart_ms: int) -> list[Any]:
    projection = Projection("s")
    operations = projection.take(StudyStarted(name="search", time_ms=0))
    for number in range(trials):
        for record in trial(number, 1.0 / (number + 1), at=number * apart_ms):
            operations += projection.take(record)
    return [*operations, *projection.take(StudyFinished(time_ms=trials * apart_ms))]


def test_pictures_are_made_anew_at_a_bounded_rate() -> None:
    fast, slow = project(1_000, apart_ms=20), project(50, apart_ms=5_000)
    for operations, seconds in ((fast, 20), (slow, 250)):
        described = sum(isinstance(operation, Describe) for operation in operations)
        drawn = [operation.path for operation in operations if isinstance(operation, Draw) and operation.run == "s"]
        assert seconds / 10 <= described <= seconds / 10 + 3
        assert seconds / 60 <= drawn.count("plots/history.png") <= seconds / 60 + 2


def test_what_is_sent_late_draws_once() -> None:
    operations = merged(project(200, apart_ms=5_000))
    drawn = [operation.path for operation in operations if isinstance(operation, Draw) and operation.run == "s"]
    assert drawn == ["plots/history.png", "plots/parallel_coordinates.png", "plots/importance.png"]
    descriptions = [operation for operation in operations if isinstance(operation, Describe)]
    assert len(descriptions) == 1 and "Trials: 200 finished." in descriptions[0].markdown
    assert sum(isinstance(operation, Log) for operation in operations) == 201
    titles = [operation.name for operation in operations if isinstance(operation, StartRun)]
    assert titles[:3] == ["search", "#0 1 tpe", "#1 0.5 tpe"]
    assert not any("mlflow.runName" in operation.tags for operation in operations if isinstance(operation, Log))
