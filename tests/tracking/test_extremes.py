"""What is out of the ordinary arrives whole, in a file and through a server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from metatuner.envs.records import Decision, Metrics, StudyFinished, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder
from mlflow import MlflowClient

MANY = 500


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("uri" if request.param == "file" else "server"))


class Arrived:
    """A study of one trial, as MLflow tells it; nothing was refused on the way."""

    def __init__(self, store: str, recorder: MLflowRecorder, journal: Path) -> None:
        assert not any(journal.iterdir())
        self.client = MlflowClient(store)
        self.parent: Any = self.client.get_run(recorder.run_id)
        self.child: Any = self.client.get_run(recorder.trial_run_id(0))

    def history(self, name: str) -> list[tuple[int, float]]:
        found = self.client.get_metric_history(self.child.info.run_id, name)
        return [(point.step, point.value) for point in sorted(found, key=lambda point: (point.step, point.timestamp))]

    def read(self, run: Any, path: str) -> str:
        return Path(self.client.download_artifacts(run.info.run_id, path)).read_text()


def test_five_hundred_hyperparameters(store: str, journal: Path) -> None:
    values = {f"group {i % 7}/p{i}": i / 7 for i in range(MANY)}
    space = {
        name: json.dumps({"name": "FloatDistribution", "attributes": {"low": 0.0, "high": 100.0, "log": False}})
        for name in values
    }
    with MLflowRecorder(store, "many") as recorder:
        recorder.record(StudyStarted(name="study", params=values, space=space))
        for trial in range(3):
            recorder.record(TrialStarted(trial=trial, name="t", params={n: v + trial for n, v in values.items()}))
            for number in range(2):
                recorder.record(
                    Decision(
                        trial=trial,
                        number=number,
                        step=number,
                        signals=values,
                        adjustments=dict.fromkeys(values, 0.5),
                        values={name: value + number for name, value in values.items()},
                        reward=0.0,
                    )
                )
            recorder.record(Metrics(trial=trial, step=2, values={"val/loss": 1 / (trial + 1)}))
            recorder.record(TrialFinished(trial=trial))
        recorder.record(StudyFinished())
    arrived = Arrived(store, recorder, journal)
    assert arrived.parent.data.params == {name: str(value) for name, value in values.items()}
    assert arrived.child.data.params == {name: str(value) for name, value in values.items()}
    for name, value in values.items():
        assert arrived.child.data.metrics[f"hp/{name}"] == value + 1
        assert arrived.child.data.metrics[f"adjust/{name}"] == 0.5
    header, *rows = arrived.read(arrived.child, "decisions.csv").splitlines()
    assert len(rows) == 2
    assert header.count(",") + 1 == 5 + 3 * MANY
    assert json.loads(arrived.read(arrived.parent, "search_space.json")).keys() == space.keys()
    assert arrived.parent.info.status == "FINISHED"


def test_values_and_names_out_of_the_ordinary(store: str, journal: Path) -> None:
    odd = {"50% of é@ü": 1.0, "../up": 2.0, "a//b": 3.0, "x" * 400: 4.0, "x" * 399 + "y": 5.0}
    with MLflowRecorder(store, "odd", plots=False) as recorder:
        params = {"long": "v" * 7_000, **dict.fromkeys(odd, "text\n")}
        recorder.record(TrialStarted(trial=0, name="t", params=params, tags=dict.fromkeys(odd, "tag")))
        for step, value in enumerate((math.nan, math.inf, -math.inf, 1e-320)):
            recorder.record(Metrics(trial=0, step=step, values={"val/loss": value}))
        recorder.record(Metrics(trial=0, step=0, values=odd))
    arrived = Arrived(store, recorder, journal)
    (_, first), (_, second), (_, third), (_, fourth) = arrived.history("val/loss")
    assert math.isnan(first)
    assert second > 1e308
    assert third < -1e308
    assert fourth == 1e-320
    data = arrived.child.data
    named = {data.tags.get(f"metatuner.name/{key}", key): value for key, value in data.metrics.items()}
    assert {name: named[name] for name in odd} == odd
    assert {data.tags.get(f"metatuner.name/{key}", key) for key in data.params} == params.keys()
    assert arrived.read(arrived.child, "params/long.txt") == params["long"]
    assert "all of it: artifact params/long.txt" in data.params["long"]


def test_a_clock_that_is_set_back(store: str, journal: Path) -> None:
    """Nothing is lost, nothing lasts less than no time, and what came last stays last."""
    noon, morning = 1_700_000_000_000, 1_699_990_000_000
    with MLflowRecorder(store, "clock", plots=False) as recorder:
        recorder.record(StudyStarted(name="study", time_ms=noon))
        recorder.record(TrialStarted(trial=0, name="t", time_ms=noon + 1))
        recorder.record(Metrics(trial=0, step=1, values={"val/loss": 3.0}, time_ms=noon + 2))
        recorder.record(Metrics(trial=0, step=2, values={"val/loss": 2.0}, time_ms=morning))
        for value in (9.0, 0.5, 0.25):  # the last of them is the smallest
            recorder.record(Metrics(trial=0, step=2, values={"val/loss": value}, time_ms=morning - 1))
        recorder.record(TrialFinished(trial=0, time_ms=morning + 5))
        recorder.record(TrialStarted(trial=1, name="left open", time_ms=morning + 6))
        recorder.record(StudyFinished(time_ms=morning + 7))
    arrived = Arrived(store, recorder, journal)
    assert arrived.history("val/loss") == [(1, 3.0), (2, 2.0), (2, 9.0), (2, 0.5), (2, 0.25)]
    assert arrived.child.data.metrics["val/loss"] == 0.25
    assert (arrived.child.info.start_time, arrived.child.info.end_time) == (noon + 1, noon + 1)
    assert (arrived.parent.info.start_time, arrived.parent.info.end_time) == (noon, noon)
    other = arrived.client.get_run(recorder.trial_run_id(1))
    assert (other.info.start_time, other.info.end_time) == (morning + 6, morning + 7)
    assert arrived.child.data.metrics["resource/wall_s"] >= 0
