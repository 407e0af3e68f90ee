from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import metatuner
import pytest
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.records import (
    Artifact,
    Decision,
    Description,
    Metrics,
    ParamsChosen,
    Recorder,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.sampling import SamplingDistances

OFTEN = SamplingDistances(first_s=0, growth=0, least_s=0)
STUCK_SECONDS = 200.0
PNG = b"\x89PNG\r\n\x1a\n"


def decision(number: int, *, trial: int = 0, lr: float = 0.1, reward: float = math.nan, note: str = "") -> Decision:
    return Decision(
        trial=trial,
        number=number,
        step=number * 10,
        signals={"progress": number / 3, "slope": -0.25},
        adjustments={"lr": 0.5},
        values={"lr": lr},
        reward=reward,
        note=note,
        time_ms=1_000 + number,
    )


class Page:
    """What the store holds, as MLflow tells it."""

    def __init__(self, recorder: MLflowRecorder, uri: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        self.recorder = recorder

    @property
    def parent(self) -> Any:
        return self.client.get_run(self.recorder.run_id)

    def child(self, trial: int = 0) -> Any:
        return self.client.get_run(self.recorder.trial_run_id(trial))

    def history(self, run: Any, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]

    def read(self, run: Any, path: str) -> bytes:
        return Path(self.client.download_artifacts(run.info.run_id, path)).read_bytes()


@pytest.fixture
def recorder(uri: str) -> MLflowRecorder:
    return MLflowRecorder(uri, "digits")


@pytest.fixture
def page(recorder: MLflowRecorder, uri: str) -> Page:
    return Page(recorder, uri)


def test_it_is_a_recorder(recorder: MLflowRecorder) -> None:
    assert isinstance(recorder, Recorder)
    recorder.close()


@pytest.mark.parametrize(
    "record",
    [
        {"a": 1},
        TrialStarted(trial="x", name="a"),  # type: ignore[arg-type]
        TrialFinished(trial=0, state="done"),  # type: ignore[arg-type]
        Metrics(trial=0, step=1, values={"a": None, "b": 1.0}),  # type: ignore[dict-item]
    ],
)
def test_what_could_not_be_read_again_is_refused_at_once(recorder: MLflowRecorder, record: Any) -> None:
    recorder.record(TrialStarted(trial=0, name="a"))
    with pytest.raises(ConfigurationError):
        recorder.record(record)
    recorder.record(TrialFinished(trial=0))


def test_a_whole_study(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(StudyStarted(name="study 1", params={"budget": 2}, tags={"family": "images"}, time_ms=500))
        recorder.record(Description(markdown="# First\n\nNot this."))
        recorder.record(Description(markdown="# Digits\n\nRead **this** first."))
        recorder.record(Artifact(trial=None, path="policy/card.json", text='{"schema": 1}'))
        for trial in range(2):
            recorder.record(
                TrialStarted(trial=trial, name=f"start {trial}", params={"lr": 0.1, "layers": [8, 8]}, time_ms=1_000)
            )
            recorder.record(decision(0, trial=trial))
            for step in range(20):
                recorder.record(Metrics(trial=trial, step=step, values={"train/loss": 2 / (step + 1)}))
            recorder.record(Metrics(trial=trial, step=20, values={"val/loss": 0.75}))
            recorder.record(decision(1, trial=trial, lr=0.05, reward=0.3, note="diverged: rolled back"))
            recorder.record(Metrics(trial=trial, step=30, values={"val/loss": 0.5}))
            recorder.record(Artifact(trial=trial, path="notes.txt", text="äöü"))
            recorder.record(TrialFinished(trial=trial, time_ms=9_000))
        recorder.record(Metrics(trial=None, step=2, values={"trials": 2}))
        recorder.record(StudyFinished(time_ms=10_000))

    parent, child = page.parent, page.child()
    assert (parent.info.status, parent.info.run_name) == ("FINISHED", "study 1")
    assert (parent.info.start_time, parent.info.end_time) == (500, 10_000)
    assert parent.data.params == {"budget": "2"}
    assert parent.data.tags["mlflow.note.content"].startswith("# Digits\n\nRead **this** first.\n\n## Result\n")
    assert parent.data.tags["family"] == "images"
    assert parent.data.tags["metatuner.version"] == metatuner.__version__
    assert parent.data.tags["metatuner.state"] == "finished"
    assert parent.data.metrics == {"trials": 2, "best_value": 0.5}
    assert page.read(parent, "policy/card.json") == b'{"schema": 1}'
    assert page.read(parent, "plots/schedules.png").startswith(PNG)

    children = page.client.search_runs(
        [recorder.experiment_id], f"tags.mlflow.parentRunId = '{recorder.run_id}'", order_by=["attributes.run_name"]
    )
    assert [run.info.run_name for run in children] == ["#0 0.5 start 0", "#1 0.5 start 1"]
    assert (child.info.status, child.info.start_time, child.info.end_time) == ("FINISHED", 1_000, 9_000)
    assert child.data.params == {"lr": "0.1", "layers": "[8, 8]"}
    assert child.data.tags["metatuner.study"] == "study 1"
    assert child.data.tags["metatuner.trial"] == "0"
    assert child.data.tags["metatuner.state"] == "finished"
    assert page.history(child, "train/loss") == [(step, 2 / (step + 1)) for step in range(20)]
    assert page.history(child, "val/loss") == [(20, 0.75), (30, 0.5)]
    assert page.history(child, "hp/lr") == [(0, 0.1), (10, 0.05)]
    assert page.history(child, "adjust/lr") == [(0, 0.5), (10, 0.5)]
    assert page.history(child, "reward") == [(10, 0.3)]
    assert not [name for name in child.data.metrics if "signal" in name or "slope" in name]
    assert page.read(child, "notes.txt").decode() == "äöü"
    assert page.read(child, "plots/schedule.png").startswith(PNG)

    rows = list(csv.DictReader(page.read(child, "decisions.csv").decode().splitlines()))
    assert rows[1] == {
        "number": "1",
        "step": "10",
        "time_ms": "1001",
        "reward": "0.3",
        "note": "diverged: rolled back",
        "hp/lr": "0.05",
        "adjust/lr": "0.5",
        "signal/progress": repr(1 / 3),
        "signal/slope": "-0.25",
    }
    assert [row["reward"] for row in rows] == ["nan", "0.3"]


def test_facts_about_the_system(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(StudyStarted(name="s"))
    tags = page.parent.data.tags
    assert {"package.mlflow", "package.torch", "package.numpy", "mlflow.user", "mlflow.source.name"} <= set(tags)
    assert json.loads(page.read(page.parent, "environment.json"))["packages"]["mlflow"] == tags["package.mlflow"]


def test_resources_of_a_trial(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        recorder.record(Metrics(trial=0, step=7, values={"val/loss": 1.0}))
        time.sleep(0.05)
    assert 0.05 <= page.child().data.metrics["resource/wall_s"] < 30
    assert page.child().data.metrics["resource/cpu_s"] >= 0
    assert page.child().data.metrics["resource/peak_rss_mb"] > 10
    assert page.history(page.child(), "resource/wall_s")[0][0] == 7


def test_a_long_trial_is_sampled_also_while_it_is_silent(uri: str) -> None:
    with MLflowRecorder(uri, "digits", flush_seconds=0.05, sampling=OFTEN) as recorder:
        page = Page(recorder, uri)
        recorder.record(TrialStarted(trial=0, name="t"))
        recorder.record(Metrics(trial=0, step=4, values={"val/loss": 1.0}))
        assert recorder.flush()
        deadline = time.monotonic() + 20
        while [step for step, _ in page.history(page.child(), "resource/cpu_percent")].count(4) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert page.child().data.tags["metatuner.resource_scope"] == "process"


def test_sampling_holds_up_neither_records_nor_the_end(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """All threads sample all the time, and studies end under it."""
    began = time.monotonic()
    recorder = MLflowRecorder(
        uri, "digits", flush_seconds=0.001, sampling=OFTEN, plots=False, close_seconds=STUCK_SECONDS
    )

    def run(trial: int) -> None:
        recorder.record(TrialStarted(trial=trial, name="t", thread=threading.get_ident()))
        for step in range(100):
            recorder.record(Metrics(trial=trial, step=step, values={"val/loss": 1.0}))
            time.sleep(0.001)
        recorder.record(TrialFinished(trial=trial))

    points = 0
    for number in range(3):
        recorder.record(StudyStarted(name=f"s{number}"))
        threads = [threading.Thread(target=run, args=(trial,)) for trial in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        recorder.record(StudyFinished())
        page = Page(recorder, uri)
        assert page.parent.info.status == "FINISHED"
        for trial in range(2):
            assert page.child(trial).info.status == "FINISHED"
            assert len(page.history(page.child(trial), "val/loss")) == 100
            points += len(page.history(page.child(trial), "resource/cpu_percent"))
    recorder.close()
    assert points >= 3
    assert time.monotonic() - began < STUCK_SECONDS  # so long an end waits for a thread that is stuck
    assert not caplog.messages  # such as of records that came after an end, or could not be sent


@pytest.mark.parametrize(
    ("state", "status"),
    [("finished", "FINISHED"), ("pruned", "FINISHED"), ("failed", "FAILED"), ("killed", "KILLED")],
)
def test_statuses_are_true(recorder: MLflowRecorder, page: Page, state: str, status: str) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        recorder.record(TrialFinished(trial=0, state=TrialState(state), message="because"))
    tags = page.child().data.tags
    assert (page.child().info.status, tags["metatuner.state"], tags["metatuner.message"]) == (status, state, "because")
    assert page.parent.info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "KILLED")]
)
def test_an_exception_ends_what_is_open(
    recorder: MLflowRecorder, page: Page, error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), recorder:
        recorder.record(TrialStarted(trial=0, name="done"))
        recorder.record(TrialFinished(trial=0))
        recorder.record(TrialStarted(trial=1, name="open"))
        recorder.record(decision(0, trial=1))
        raise error
    assert page.child(0).info.status == "FINISHED"
    assert page.child(1).info.status == page.parent.info.status == status
    assert type(error).__name__ in page.parent.data.tags["metatuner.message"]
    assert b"progress" in page.read(page.child(1), "decisions.csv")


def test_leaving_cleanly_finishes_what_is_open(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
    assert page.child().info.status == page.parent.info.status == "FINISHED"


def test_a_trial_without_a_study_gets_one(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="t", time_ms=4_000))
    assert (page.parent.info.run_name, page.parent.info.start_time) == ("digits", 4_000)
    assert page.child().data.tags["mlflow.parentRunId"] == recorder.run_id


def test_one_recorder_may_record_several_studies(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(StudyStarted(name="one"))
        assert recorder.flush()
        first = recorder.run_id
        recorder.record(TrialStarted(trial=0, name="t"))
        recorder.record(StudyStarted(name="two"))
        recorder.record(TrialStarted(trial=0, name="t"))
    assert recorder.run_id != first
    assert page.client.get_run(first).info.status == "FINISHED"
    assert page.parent.info.run_name == "two"
    assert page.child().data.tags["mlflow.parentRunId"] == recorder.run_id


def test_after_close_nothing_is_sent(recorder: MLflowRecorder, page: Page, caplog: pytest.LogCaptureFixture) -> None:
    recorder.record(TrialStarted(trial=0, name="t"))
    recorder.close()
    recorder.close(TrialState.FAILED)
    recorder.record(Metrics(trial=0, step=0, values={"late": 1.0}))
    recorder.flush()
    assert "after the recorder was closed" in caplog.text
    assert "late" not in page.child().data.metrics
    assert page.parent.info.status == "FINISHED"


def test_a_user_s_own_active_run_is_untouched(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_name="mine") as mine:
            with MLflowRecorder(uri, "digits") as recorder:
                recorder.record(TrialStarted(trial=0, name="t", params={"lr": 1}))
                assert mlflow.active_run().info.run_id == mine.info.run_id
            assert mlflow.active_run().info.run_id == mine.info.run_id
        after = mlflow.get_run(mine.info.run_id)
        assert (after.info.status, after.data.params, after.data.metrics) == ("FINISHED", {}, {})
        assert mlflow.get_run(recorder.run_id).data.tags.get("mlflow.parentRunId") is None
    finally:
        mlflow.set_tracking_uri(before)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_many_metrics_arrive_exactly(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="t", params={f"p{i}": i for i in range(250)}))
        for step in range(2_500):
            recorder.record(Metrics(trial=0, step=step, values={"train/loss": step / 7}, time_ms=step))
    assert page.history(page.child(), "train/loss") == [(step, step / 7) for step in range(2_500)]
    assert page.child().data.params == {f"p{i}": str(i) for i in range(250)}


def test_a_running_trial_can_be_watched(uri: str) -> None:
    with MLflowRecorder(uri, "digits", flush_seconds=0.2) as recorder:
        page = Page(recorder, uri)
        recorder.record(TrialStarted(trial=0, name="t"))
        assert recorder.flush()
        recorder.record(decision(0))
        deadline = time.monotonic() + 20
        while "hp/lr" not in page.child().data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert page.child().info.status == "RUNNING"
        assert b"progress" in page.read(page.child(), "decisions.csv")


def test_values_that_are_no_numbers_are_kept(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        recorder.record(Metrics(trial=0, step=1, values={"val/loss": math.nan}))
        recorder.record(Metrics(trial=0, step=2, values={"val/loss": math.inf}))
        recorder.record(Metrics(trial=0, step=3, values={"val/loss": 1.0}))
    (_, first), (_, second), (_, third) = page.history(page.child(), "val/loss")
    assert math.isnan(first)
    assert second > 1e308
    assert third == 1.0


def test_forbidden_names_are_made_valid_and_noted(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(TrialStarted(trial=0, name="50% $x$", params={"a@b": 1}, tags={"c#": "d"}))
        recorder.record(Metrics(trial=0, step=0, values={"acc%": 0.5, "x" * 400: 1.0}))
    data = page.child().data
    assert data.params == {"a_x40_b": "1"}
    assert data.metrics["acc_x25_"] == 0.5
    assert data.tags["c_x23_"] == "d"
    assert data.tags["metatuner.name/acc_x25_"] == "acc%"
    assert "x" * 400 in data.tags.values()


def test_long_values_are_kept_whole(recorder: MLflowRecorder, page: Page) -> None:
    with recorder:
        recorder.record(StudyStarted(name="s"))
        recorder.record(Description(markdown="d" * 9_000))
        recorder.record(TrialStarted(trial=0, name="t", params={"long": "v" * 7_000, "limit": "w" * 6_000}))
        recorder.record(TrialFinished(trial=0, state=TrialState.FAILED, message="m" * 9_000))
    assert page.child().data.params["limit"] == "w" * 6_000
    assert page.child().data.params["long"].endswith("(cut from 7000 characters; all of it: artifact params/long.txt)")
    assert page.read(page.child(), "params/long.txt") == b"v" * 7_000
    assert page.read(page.child(), "message.txt") == b"m" * 9_000
    assert page.read(page.parent, "description.md") == b"d" * 9_000


def test_records_that_make_no_sense(recorder: MLflowRecorder, caplog: pytest.LogCaptureFixture) -> None:
    with recorder:
        with pytest.raises(ConfigurationError, match="was not started"):
            recorder.record(Metrics(trial=3, step=0, values={"a": 1.0}))
        recorder.record(TrialStarted(trial=0, name="t"))
        with pytest.raises(ConfigurationError, match="started before"):
            recorder.record(TrialStarted(trial=0, name="t"))
        for path in ("/etc/passwd", "../up", "a//b", "a\\b", ""):
            with pytest.raises(ConfigurationError, match="relative"):
                recorder.record(Artifact(trial=0, path=path, text=""))
        recorder.record(TrialFinished(trial=0))
        recorder.record(Metrics(trial=0, step=0, values={"a": 1.0}))
    assert "came after its end" in caplog.text


def test_without_plots(uri: str) -> None:
    with MLflowRecorder(uri, plots=False) as recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        for number in range(3):
            recorder.record(decision(number))
    page = Page(recorder, uri)
    assert [file.path for file in page.client.list_artifacts(recorder.trial_run_id(0))] == ["decisions.csv"]


def test_the_command_to_look(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MLflowRecorder(uri) as named:
        assert named.ui_command == f"metatuner ui --tracking-uri {uri}"
        assert named.tracking_uri == uri
    monkeypatch.chdir(tmp_path)
    with MLflowRecorder() as default:
        assert default.ui_command == "metatuner ui"


@pytest.mark.parametrize(("end", "status"), [("", "FINISHED"), ("raise ValueError('boom')", "FAILED")])
def test_nobody_closes_it(uri: str, end: str, status: str) -> None:
    """As in a script that passes a recorder along and simply ends."""
    program = f"""
from metatuner.envs.records import TrialStarted, Metrics
from metatuner.tracking.recorder import MLflowRecorder
recorder = MLflowRecorder({uri!r}, "digits", flush_seconds=60)
recorder.record(TrialStarted(trial=0, name="t"))
recorder.record(Metrics(trial=0, step=1, values={{"val/loss": 0.5}}))
recorder.flush()
print(recorder.trial_run_id(0))
{end}
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    from mlflow import MlflowClient

    run = MlflowClient(uri).get_run(answer.stdout.strip())
    assert (run.info.status, run.data.metrics["val/loss"]) == (status, 0.5), answer.stderr


def test_a_killed_program_leaves_what_was_flushed(uri: str) -> None:
    program = f"""
import os, signal, time
from metatuner.envs.records import TrialStarted, Metrics
from metatuner.tracking.recorder import MLflowRecorder
recorder = MLflowRecorder({uri!r}, "digits")
recorder.record(TrialStarted(trial=0, name="t"))
recorder.record(Metrics(trial=0, step=1, values={{"val/loss": 0.5}}))
recorder.flush()
print(recorder.trial_run_id(0), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    from mlflow import MlflowClient

    run = MlflowClient(uri).get_run(answer.stdout.strip())
    assert (run.info.status, run.data.metrics["val/loss"]) == ("RUNNING", 0.5), answer.stderr


def test_params_may_become_known_one_by_one(recorder: MLflowRecorder, uri: str) -> None:
    with recorder:
        recorder.record(StudyStarted(name="study", space={}))
        recorder.record(TrialStarted(trial=0, name="t", params={"kind": "line"}))
        recorder.record(ParamsChosen(trial=0, params={"kind": "line", "slope": 0.5}))
        recorder.record(TrialFinished(trial=0, value=1.0))
        recorder.record(StudyFinished())
    assert Page(recorder, uri).child().data.params == {"kind": "line", "slope": "0.5"}
