"""Nothing is lost and nothing is counted twice: real servers and real programs, killed while they work."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from metatuner.__main__ import main
from metatuner.envs.records import (
    FileArtifact,
    Metrics,
    Record,
    StudyFinished,
    StudyLed,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.shipper import Shipper
from metatuner.tracking.store import resolve
from metatuner.tracking.study_folder import StudyFolder
from metatuner.tracking.transport import Transport
from metatuner.tracking.ui import UiServer

POINTS = 20
PROGRAM = f"""
import sys, time
from metatuner.envs.records import Artifact, Metrics, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder

uri, trials = sys.argv[1], int(sys.argv[2])
with MLflowRecorder(uri, "killed", flush_seconds=0.05, close_seconds=60, plots=False) as recorder:
    recorder.record(StudyStarted(name="study", key="the same study"))
    for trial in sorted(set(range(trials)) - recorder.finished):
        recorder.record(TrialStarted(trial=trial, name=f"trial {{trial}}", params={{"lr": 0.1 * trial}}))
        for step in range({POINTS}):
            recorder.record(Metrics(trial=trial, step=step, values={{"val/loss": 1 / (step + 1), "train/loss": step}}))
            time.sleep(0.001)
        recorder.record(Artifact(trial=trial, path="note.txt", text=f"of trial {{trial}}"))
        recorder.record(TrialFinished(trial=trial))
"""


def study_of(uri: str, experiment: str) -> tuple[Any, list[Any], Any]:
    """The client, the children and the one parent of an experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return client, children, parent


def runs_in(uri: str, experiment: str) -> int:
    """How many runs an experiment has so far."""
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        query = "SELECT count(*) FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = ?"
        return int(database.execute(query, (experiment,)).fetchone()[0])


def check_every_trial_once(uri: str, experiment: str, trials: int) -> list[Any]:
    """One parent, every trial finished once with every point once; returns the attempts that were killed."""
    client, children, parent = study_of(uri, experiment)
    assert parent.info.status == "FINISHED"
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert Counter(int(run.data.tags["metatuner.trial"]) for run in finished) == Counter(range(trials))
    for run in finished:
        for name in ("val/loss", "train/loss"):
            points = client.get_metric_history(run.info.run_id, name)
            assert [point.step for point in points] == list(range(POINTS))
        assert run.data.params == {"lr": str(0.1 * int(run.data.tags["metatuner.trial"]))}
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
        assert run.data.metrics["resource/wall_s"] > 0
    others = [run for run in children if run not in finished]
    assert {run.info.status for run in others} <= {"KILLED"}
    return others


def test_a_program_that_is_killed_again_and_again_loses_and_doubles_nothing(uri: str, journal: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, uri, "12"]
    clock = random.Random(4)
    kills = 0
    for _ in range(6):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(1.0 + clock.random() * 1.5)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    subprocess.run(command, check=True, timeout=300)
    assert kills
    killed = check_every_trial_once(uri, "killed", 12)
    assert all("ended before it did" in run.data.tags["metatuner.message"] for run in killed)
    assert not any(journal.iterdir()), "a study that has arrived leaves nothing behind"


def test_a_study_that_has_arrived_is_not_recorded_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_program(trials: int) -> None:
        monkeypatch.setattr(sys, "argv", ["program", uri, str(trials)])
        exec(PROGRAM, {})

    run_program(2)
    run_program(2)
    # Even from elsewhere, where no journal tells what was done.
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "elsewhere"))
    run_program(3)
    assert check_every_trial_once(uri, "killed", 3) == []


def test_a_trial_that_failed_is_started_again_as_its_next_attempt(uri: str) -> None:
    for state in (TrialState.FAILED, TrialState.KILLED, TrialState.FINISHED):
        with MLflowRecorder(uri, "attempts") as recorder:
            recorder.record(StudyStarted(name="study", key="k"))
            assert recorder.finished == frozenset()
            recorder.record(TrialStarted(trial=0, name="t"))
            recorder.record(TrialFinished(trial=0, state=state))
            assert recorder.flush()
    _, children, _ = study_of(uri, "attempts")
    found = {run.data.tags["metatuner.attempt"]: run.info.status for run in children}
    assert found == {"0": "FAILED", "1": "KILLED", "2": "FINISHED"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill(server: UiServer) -> None:
    assert server._process is not None
    os.killpg(server._process.pid, signal.SIGKILL)
    server.stop()


def test_a_server_that_is_killed_and_comes_back_gets_everything_once(uri: str) -> None:
    port = free_port()
    server = UiServer(uri, port=port)
    command = [sys.executable, "-c", PROGRAM, server.url, "40"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while runs_in(uri, "killed") < 5:
        assert process.poll() is None
        time.sleep(0.02)
    kill(server)
    time.sleep(1.0)
    with UiServer(uri, port=port):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert check_every_trial_once(server.url, "killed", 40) == []


def test_without_a_server_a_study_runs_at_full_speed_and_is_sent_later(
    uri: str, journal: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with MLflowRecorder(address, "later") as recorder:
        assert "no MLflow server answers" in caplog.text
        started = time.monotonic()
        recorder.record(StudyStarted(name="study"))
        for trial in range(20):
            recorder.record(TrialStarted(trial=trial, name="t", params={"lr": trial}))
            for step in range(POINTS):
                recorder.record(Metrics(trial=trial, step=step, values={"val/loss": 1.0}))
            recorder.record(TrialFinished(trial=trial))
        assert time.monotonic() - started < 10, "MLflow's own clients would have waited minutes"
    assert "are still to be sent" in caplog.text
    assert "metatuner sync" in caplog.text

    assert main(["sync", "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    assert result["remaining"] > 20 * POINTS
    with UiServer(uri, port=port):
        assert main(["sync"]) == 0
        assert "records sent to later in" in capsys.readouterr().out
        assert main(["sync"]) == 0
        assert "nothing waits" in capsys.readouterr().out
        client, children, parent = study_of(uri, "later")
        assert parent.info.status == "FINISHED"
        assert sorted(int(run.data.params["lr"]) for run in children) == list(range(20))
        for run in children:
            assert len(client.get_metric_history(run.info.run_id, "val/loss")) == POINTS


def sixty_trials_that_wait(journal: Path, experiment: str, *last: Record) -> StudyFolder:
    """The journal of a study whose store does not answer; it is shared where records come last that say whose it is."""
    with MLflowRecorder("http://127.0.0.1:9", experiment, close_seconds=0, plots=False) as recorder:
        recorder.record(StudyStarted(name="study", key="a study", shared=bool(last)))
        for trial in range(60):
            recorder.record(TrialStarted(trial=trial, name="t", params={"lr": trial}))
            recorder.record(TrialFinished(trial=trial))
        for record in last:
            recorder.record(record)
    (folder,) = StudyFolder.all(journal)
    return folder


def test_what_was_sent_is_noted_on_the_way_so_that_who_goes_on_does_not_begin_anew(uri: str, journal: Path) -> None:
    folder = sixty_trials_that_wait(journal, "later")
    waiting = folder.remaining
    assert Shipper(folder, Transport(resolve(uri), "later")).ship()  # and then it is killed
    assert 0 < folder.remaining < waiting
    another = Shipper(folder, Transport(resolve(uri), "later"))
    while another.ship():
        pass
    assert folder.remaining == 0
    assert len(study_of(uri, "later")[1]) == 60


def test_a_run_that_is_this_process_s_to_make_is_made_however_late_that_was_said(uri: str, journal: Path) -> None:
    folder = sixty_trials_that_wait(journal, "led", StudyLed(leads=True), StudyFinished())
    shipper = Shipper(folder, Transport(resolve(uri), "led"))
    while shipper.ship():
        pass
    assert folder.remaining == 0
    assert len(study_of(uri, "led")[1]) == 60


def test_closing_waits_as_long_as_the_store_takes_something(uri: str, journal: Path) -> None:
    with MLflowRecorder(uri, "slow", flush_seconds=60, close_seconds=0.5, plots=False) as recorder:
        recorder.record(StudyStarted(name="study"))
        for trial in range(100):
            recorder.record(TrialStarted(trial=trial, name="t", params={"lr": trial}))
            recorder.record(TrialFinished(trial=trial))
    assert len(study_of(uri, "slow")[1]) == 100


def test_a_refused_value_is_kept_with_its_reason_and_costs_no_other(uri: str, journal: Path) -> None:
    with MLflowRecorder(uri, "refused", flush_seconds=0.05) as recorder:
        recorder.record(StudyStarted(name="study", key="k", params={"a": 1, "b": 2}))
        recorder.flush()
    with MLflowRecorder(uri, "refused") as recorder:
        # MLflow lets nobody change a param: the second value of `a` is refused, the new `c` is not.
        recorder.record(StudyStarted(name="study", key="k", params={"a": 9, "c": 3}))
        recorder.record(TrialStarted(trial=0, name="t"))
        recorder.record(Metrics(trial=0, step=0, values={"val/loss": 0.5}))
    _, (child,), parent = study_of(uri, "refused")
    assert parent.data.params == {"a": "1", "b": "2", "c": "3"}
    assert (child.info.status, child.data.metrics["val/loss"]) == ("FINISHED", 0.5)
    (file,) = journal.glob("*/refused.jsonl")
    (refused,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert refused["params"] == {"a": "9"}
    assert "INVALID_PARAMETER_VALUE" in refused["reason"] or "Changing param" in refused["reason"]


def test_a_file_is_kept_as_it_was_when_it_was_recorded(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    checkpoint = tmp_path / "model.bin"
    with MLflowRecorder(uri, "files") as recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        checkpoint.write_bytes(b"first")
        recorder.record(FileArtifact(trial=0, path="checkpoints/model.bin", source=str(checkpoint)))
        checkpoint.write_bytes(b"second")
    client = MlflowClient(uri)
    path = client.download_artifacts(recorder.trial_run_id(0), "checkpoints/model.bin")
    assert Path(path).read_bytes() == b"first"


def test_two_processes_do_not_record_one_study(uri: str) -> None:
    from metatuner.envs.errors import StoreError

    with MLflowRecorder(uri, "one") as first, MLflowRecorder(uri, "one") as second:
        first.record(StudyStarted(name="study", key="k"))
        with pytest.raises(StoreError, match="another process records this study"):
            second.record(StudyStarted(name="study", key="k"))


def test_a_journal_that_cannot_be_written_is_one_clear_line(uri: str, tmp_path: Path) -> None:
    from metatuner.envs.errors import StoreError

    (tmp_path / "file").write_text("")
    with (
        MLflowRecorder(uri, journal=tmp_path / "file" / "journal") as recorder,
        pytest.raises(StoreError, match="name another folder with"),
    ):
        recorder.record(StudyStarted(name="study"))


def test_a_store_that_can_be_read_and_takes_nothing_is_waited_for(uri: str, tmp_path: Path) -> None:
    """As one that is full, locked, out of its rate, or behind a proxy that has lost it."""

    def ask(*statements: str) -> None:
        with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
            for each in statements:
                database.execute(each)

    tables = ("runs", "experiment_tags")
    with MLflowRecorder(uri, "full", flush_seconds=0.01, close_seconds=2.0, plots=False) as recorder:
        recorder.record(StudyStarted(name="study"))
        recorder.flush()
        ask(*(f"CREATE TRIGGER no_{t} BEFORE INSERT ON {t} BEGIN SELECT RAISE(ABORT, 'no'); END" for t in tables))
        for trial in range(2):
            recorder.record(TrialStarted(trial=trial, name="t", params={"lr": 0.1}))
            recorder.record(TrialFinished(trial=trial, value=1.0))
    assert not list(tmp_path.rglob("refused.jsonl"))
    ask(*(f"DROP TRIGGER no_{t}" for t in tables))
    assert main(["sync"]) == 0
    _, children, _ = study_of(uri, "full")
    assert len(children) == 2
