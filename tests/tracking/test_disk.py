"""Disks that are full or read-only: nothing raises into a training, and what is lost says so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from metatuner.envs.errors import StoreError
from metatuner.envs.records import FileArtifact, Metrics, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.file_copy import NotCopiedError, copy_file
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.sync import sync
from mlflow import MlflowClient


class SmallDisk:
    """A file system of its own, with next to no room."""

    def __init__(self, path: Path, fill: Callable[[Path], None]) -> None:
        self._path, self._fill = path, fill
        self.journal = path / "journal"

    def fill(self) -> None:
        """Leaves no room at all."""
        self._fill(self._path)

    def free(self) -> None:
        (self._path / "ballast").unlink()

    def set(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self._path)], check=True)


@pytest.fixture
def small_disk(disk: Path, fill_disk: Callable[[Path], None]) -> SmallDisk:
    return SmallDisk(disk, fill_disk)


def record_trial(recorder: MLflowRecorder, trial: int, points: int = 20) -> None:
    recorder.record(TrialStarted(trial=trial, name="t", params={"lr": trial}))
    for step in range(points):
        recorder.record(Metrics(trial=trial, step=step, values={"val/loss": 1 / (step + 1)}))
    recorder.record(TrialFinished(trial=trial))


def check_trials(uri: str, experiment: str, points: list[int]) -> None:
    """Every trial is there once with so many points, and nothing is open."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = {int(run.data.params["lr"]): run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(runs) == len(points) + 1
    for trial, expected in enumerate(points):
        history = client.get_metric_history(children[trial].info.run_id, "val/loss")
        assert [point.step for point in history] == list(range(expected))


def test_a_file_that_does_not_fit_is_missed_aloud_and_the_study_goes_on(
    uri: str, small_disk: SmallDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = tmp_path / "large.bin", tmp_path / "small.bin"
    large.write_bytes(b"l" * 2_000_000)  # twice the disk
    small.write_bytes(b"s" * 1000)
    with MLflowRecorder(uri, "full", journal=small_disk.journal) as recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        for number in range(3):
            recorder.record(FileArtifact(trial=0, path=f"checkpoints/{number}.bin", source=str(large)))
        assert not any(small_disk.journal.glob("*/files/*")), "half a copy takes up room for nothing"
        recorder.record(FileArtifact(trial=0, path="small.bin", source=str(small)))
    (warning,) = caplog.messages
    assert "checkpoints/0.bin (2,000,000 bytes) was not kept" in warning
    assert "No space left on device" in warning
    assert "Make room in" in warning
    client = MlflowClient(uri)
    run = client.get_run(recorder.trial_run_id(0))
    assert run.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"small.bin", "checkpoints"}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "checkpoints")] == [
        f"checkpoints/{number}.bin.not-kept.txt" for number in range(3)
    ]
    note = Path(client.download_artifacts(run.info.run_id, "checkpoints/2.bin.not-kept.txt")).read_text()
    assert "2,000,000 bytes" in note


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("missing", FileNotFoundError),
        (".", IsADirectoryError),
        pytest.param(
            "/proc/self/mem",  # opens, but its first page cannot be read
            OSError,
            marks=pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs /proc"),
        ),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(
    uri: str, tmp_path: Path, journal: Path, source: str, error: type[OSError]
) -> None:
    with MLflowRecorder(uri, "unreadable") as recorder:
        recorder.record(TrialStarted(trial=0, name="t"))
        with pytest.raises(error):
            recorder.record(FileArtifact(trial=0, path="a.bin", source=str(tmp_path / source)))
        assert not any(journal.glob("*/files/*"))


def test_a_copy_that_cannot_be_made_is_another_error(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("text")
    (tmp_path / "file").touch()
    with pytest.raises(NotCopiedError, match="File exists"):
        copy_file(tmp_path / "source", tmp_path / "file" / "copy")
    copy_file(tmp_path / "source", tmp_path / "folder" / "copy")
    assert (tmp_path / "folder" / "copy").read_text() == "text"


def test_what_a_full_disk_has_no_room_for_arrives_when_there_is_room(
    uri: str, small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with MLflowRecorder(uri, "full", journal=small_disk.journal, plots=False) as recorder:
        record_trial(recorder, 0)
        small_disk.fill()
        for trial in (1, 2):
            record_trial(recorder, trial, points=200)
        assert sum("records wait in memory" in message for message in caplog.messages) == 1
        small_disk.free()
        record_trial(recorder, 3)
    assert not any(small_disk.journal.iterdir())
    check_trials(uri, "full", [20, 200, 200, 20])


def test_closing_waits_for_room(uri: str, small_disk: SmallDisk) -> None:
    with MLflowRecorder(uri, "full", journal=small_disk.journal, plots=False) as recorder:
        recorder.record(StudyStarted(name="study"))
        small_disk.fill()
        for trial in range(3):
            record_trial(recorder, trial)
        threading.Timer(0.5, small_disk.free).start()
    check_trials(uri, "full", [20, 20, 20])
    assert not any(small_disk.journal.iterdir())


def test_what_never_fitted_is_counted_and_its_study_is_not_left_running(
    uri: str, small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    with MLflowRecorder(uri, "full", journal=small_disk.journal, close_seconds=0.5) as recorder:
        recorder.record(StudyStarted(name="study"))
        assert recorder.flush()
        small_disk.fill()
        record_trial(recorder, 0, points=300)
    assert "records are lost: the disk of the journal" in caplog.text
    small_disk.free()
    (result,) = sync(small_disk.journal)
    assert not result.problem
    assert MlflowClient(uri).get_run(recorder.run_id).info.status == "KILLED"


DIES = """
import os, sys
from metatuner.envs.records import StudyStarted, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder
recorder = MLflowRecorder(sys.argv[1], "full", journal=sys.argv[2])
recorder.record(StudyStarted(name="study"))
for trial in range(40):  # their ends take more room than is left in the journal's last block
    recorder.record(TrialStarted(trial=trial, name="t"))
assert recorder.flush()
print(recorder.run_id)
sys.stdout.flush()
os._exit(9)
"""


def test_a_study_is_not_forgotten_before_its_end_fits_on_the_disk(uri: str, small_disk: SmallDisk) -> None:
    command = [sys.executable, "-c", DIES, uri, str(small_disk.journal)]
    run_id = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout.strip()
    small_disk.fill()
    (result,) = sync(small_disk.journal)
    assert "No space left on device" in result.problem
    assert MlflowClient(uri).get_run(run_id).info.status == "RUNNING"
    small_disk.free()
    (result,) = sync(small_disk.journal)
    assert result.problem == ""
    assert MlflowClient(uri).get_run(run_id).info.status == "KILLED"


def test_a_study_that_cannot_be_journalled_does_not_start(uri: str, small_disk: SmallDisk) -> None:
    with MLflowRecorder(uri, "full", journal=small_disk.journal) as recorder:
        small_disk.fill()
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\).*name another folder"):
            recorder.record(StudyStarted(name="study"))


def test_a_disk_that_can_only_be_read(uri: str, small_disk: SmallDisk) -> None:
    with MLflowRecorder("http://127.0.0.1:9", "later", journal=small_disk.journal, close_seconds=0) as recorder:
        recorder.record(StudyStarted(name="study", key="k"))
    small_disk.set("ro")
    with (
        MLflowRecorder("http://127.0.0.1:9", "later", journal=small_disk.journal, close_seconds=0) as recorder,
        pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\).*name another folder"),
    ):
        recorder.record(StudyStarted(name="study", key="k"))
    (result,) = sync(small_disk.journal, uri)
    assert "Read-only file system" in result.problem
    assert result.remaining > 0
    small_disk.set("rw")
    (result,) = sync(small_disk.journal, uri)
    assert (result.problem, result.remaining) == ("", 0)
