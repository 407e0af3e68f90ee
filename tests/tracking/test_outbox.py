"""What happens when a store does not answer: on a real store whose client is made to fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from metatuner.envs.records import Metrics, StudyStarted, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder


@pytest.fixture
def recorder(uri: str) -> MLflowRecorder:
    return MLflowRecorder(uri, "digits", flush_seconds=60)


def failing(code: str) -> Callable[..., Any]:
    from mlflow.exceptions import MlflowException

    def fail(*arguments: object, **options: object) -> Any:
        error = MlflowException("out of order")
        error.error_code = code
        raise error

    return fail


def runs(recorder: MLflowRecorder, uri: str) -> list[Any]:
    from mlflow import MlflowClient

    return list(MlflowClient(uri).search_runs([recorder.experiment_id]))


def test_what_cannot_be_sent_is_sent_later(
    recorder: MLflowRecorder, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    with monkeypatch.context() as broken:
        for method in ("create_run", "log_batch", "get_experiment"):
            broken.setattr(MlflowClient, method, failing("INTERNAL_ERROR"))
        recorder.record(TrialStarted(trial=0, name="t", params={"lr": 1}))
        recorder.record(Metrics(trial=0, step=1, values={"val/loss": 0.5}))
        assert recorder.run_id is None
        assert recorder.unsent > 0
    recorder.close()
    assert recorder.unsent == 0
    child, parent = sorted(runs(recorder, uri), key=lambda run: "mlflow.parentRunId" not in run.data.tags)
    assert (child.data.params, child.data.metrics["val/loss"], child.info.status) == ({"lr": "1"}, 0.5, "FINISHED")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert caplog.text.count("cannot be written now") == 1


def test_a_store_that_does_not_answer_does_not_slow_a_training_down(
    recorder: MLflowRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    attempts = 0

    def slow_failure(*arguments: object, **options: object) -> None:
        nonlocal attempts
        attempts += 1
        time.sleep(0.2)
        raise ConnectionError("nobody there")

    recorder.record(TrialStarted(trial=0, name="t"))
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", slow_failure)
        started = time.monotonic()
        for step in range(5_000):
            recorder.record(Metrics(trial=0, step=step, values={"train/loss": 1.0}))
        assert time.monotonic() - started < 5
        assert attempts == 1
    recorder.close()


def test_a_run_that_was_made_without_our_knowing_is_not_made_twice(
    recorder: MLflowRecorder, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    create = MlflowClient.create_run

    def create_and_lose_the_answer(*arguments: Any, **options: Any) -> Any:
        create(*arguments, **options)
        raise ConnectionError("the answer got lost")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "create_run", create_and_lose_the_answer)
        recorder.record(StudyStarted(name="s"))
    recorder.close()
    assert len(runs(recorder, uri)) == 1
    assert recorder.run_id == runs(recorder, uri)[0].info.run_id


def test_what_the_store_refuses_is_dropped_and_said(
    recorder: MLflowRecorder, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    recorder.record(TrialStarted(trial=0, name="t"))
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", failing("INVALID_PARAMETER_VALUE"))
        recorder.record(Metrics(trial=0, step=1, values={"val/loss": 0.5}))
        recorder.flush()
    recorder.close()
    assert "refused a Log" in caplog.text
    assert {run.info.status for run in runs(recorder, uri)} == {"FINISHED"}


def test_what_is_left_at_the_end_is_said(
    recorder: MLflowRecorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "create_run", failing("TEMPORARILY_UNAVAILABLE"))
        recorder.record(StudyStarted(name="s"))
        recorder.close()
    assert recorder.unsent > 0
    assert "they are lost" in caplog.text
