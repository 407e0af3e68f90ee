"""A study that several processes record: one of them leads, and whoever leads may die."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from metatuner.envs.records import (
    StudyFinished,
    StudyLed,
    StudyStarted,
    TrialFinished,
    TrialSeen,
    TrialStarted,
    TrialState,
    now_ms,
)
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.sync import sync
from mlflow import MlflowClient

DIES = """
import os, sys
from metatuner.envs.records import StudyLed, StudyStarted, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder

with MLflowRecorder(sys.argv[1], "shared") as recorder:
    recorder.record(StudyStarted(name="study", key="study", shared=True))
    recorder.record(StudyLed(leads=True))
    recorder.record(TrialStarted(trial=0, name="first", params={"x": 1}))
    recorder.flush()
    os._exit(9)
"""


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "journal"))
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def die(uri: str) -> None:
    assert subprocess.run([sys.executable, "-c", DIES, uri], check=False).returncode == 9


def work(uri: str, trial: int, *, leads: bool) -> None:
    """Records a trial, in the folder that the dead one has left."""
    with MLflowRecorder(uri, "shared") as recorder:
        recorder.record(StudyStarted(name="study", key="study", shared=True))
        if leads:
            recorder.record(StudyLed(leads=True))
        recorder.record(TrialStarted(trial=trial, name="another", params={"x": 2}))
        recorder.record(TrialFinished(trial=trial, value=1.0))
        recorder.record(StudyFinished())


def states(uri: str) -> dict[str, str]:
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "shared"]
    runs = client.search_runs([experiment.experiment_id])
    assert all(run.data.tags["metatuner.state"] == run.info.status.lower() for run in runs)
    return {run.data.tags.get("metatuner.trial", "study"): run.info.status for run in runs}


def test_a_leader_s_death_does_not_end_what_others_go_on_with(uri: str) -> None:
    die(uri)
    work(uri, 1, leads=False)
    assert states(uri) == {"study": "RUNNING", "0": "KILLED", "1": "FINISHED"}
    work(uri, 2, leads=True)
    assert states(uri) == {"study": "FINISHED", "0": "KILLED", "1": "FINISHED", "2": "FINISHED"}


def test_whoever_waits_for_a_leader_that_died_too_early_makes_the_study_s_run_itself(uri: str, tmp_path: Path) -> None:
    """Its own trial waits for that run, and the news that it leads now comes behind it."""
    with MLflowRecorder(uri, "shared") as recorder:
        recorder.record(StudyStarted(name="study", key="study", shared=True))
        recorder.record(TrialStarted(trial=3, name="waiting", params={"x": 2}))
        assert not recorder.flush(0.5)
        recorder.record(StudyLed(leads=True))
        recorder.record(TrialFinished(trial=3, value=1.0))
        recorder.record(StudyFinished())
    assert states(uri) == {"study": "FINISHED", "3": "FINISHED"}
    assert not list((tmp_path / "journal").rglob("refused.jsonl"))


def test_a_trial_that_ended_by_a_clock_that_is_behind_took_no_time(uri: str) -> None:
    why = "its worker was gone (was memory short?)"
    with MLflowRecorder(uri, "shared") as recorder:
        recorder.record(StudyStarted(name="study", key="study", shared=True))
        recorder.record(StudyLed(leads=True))
        seen = {"name": "another", "started_ms": 10_800_000, "time_ms": 5_000}
        recorder.record(TrialSeen(trial=0, state=TrialState.FAILED, message=why, **seen))
        recorder.record(StudyFinished())
    assert states(uri) == {"study": "FINISHED", "0": "FAILED"}
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("shared").experiment_id], "tags.`metatuner.trial` = '0'")
    assert run.info.end_time == run.info.start_time == 10_800_000
    assert run.data.tags["metatuner.message"] == why


def test_a_leader_whose_clock_is_behind_ends_what_the_one_before_began(uri: str) -> None:
    later_ms = now_ms() + 10_800_000
    with MLflowRecorder(uri, "shared") as recorder:
        recorder.record(StudyStarted(name="study", key="study", shared=True, time_ms=later_ms))
        recorder.record(StudyLed(leads=True, time_ms=later_ms))
        recorder.record(StudyLed(leads=False, time_ms=later_ms))
        recorder.record(StudyFinished(time_ms=later_ms))
    work(uri, 1, leads=True)
    assert states(uri) == {"study": "FINISHED", "1": "FINISHED"}
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("shared").experiment_id])
    assert all(run.info.end_time >= run.info.start_time for run in runs)


def test_where_nobody_goes_on_the_study_was_killed(uri: str, tmp_path: Path) -> None:
    die(uri)
    (synced,) = sync(tmp_path / "journal")
    assert synced.problem == ""
    assert states(uri) == {"study": "KILLED", "0": "KILLED"}


def test_what_a_dead_leader_left_to_send_does_not_end_a_study_that_has_ended(uri: str, tmp_path: Path) -> None:
    die(uri)
    (tmp_path / "journal").rename(tmp_path / "left")
    work(uri, 1, leads=True)
    sync(tmp_path / "left")
    assert states(uri) == {"study": "FINISHED", "0": "KILLED", "1": "FINISHED"}
