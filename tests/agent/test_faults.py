"""Disks that are full, trials that take all memory, clocks that are wrong."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from metatuner.agent.child import Child
from metatuner.agent.cut_off_trials import MOST_TRIES, is_cut_off, retry_cut_off
from metatuner.agent.patient_storage import PatientStorage
from metatuner.agent.storages import open_storage
from metatuner.agent.study_journal import open_journal
from metatuner.agent.study_news import StudyNews
from metatuner.agent.tune import tune
from metatuner.envs.errors import StoreUnreachableError, TrainingError
from metatuner.envs.records import OWNER_ATTRIBUTE, NullRecorder, Record, TrialFinished, TrialSeen, TrialState
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, RDBStorage

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def at(disk: Path, kind: str) -> BaseStorage:
    return open_journal(f"{disk}/study.journal") if kind == "journal" else RDBStorage(f"sqlite:///{disk}/study.db")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_full_disk_is_waited_for_then_told_in_a_line_and_harms_nothing(
    disk: Path, fill_disk: Callable[[Path], None], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study(study_name="study", storage=PatientStorage(at(disk, kind), patience_s=0.3))
    study.set_user_attr("before", 1)
    fill_disk(disk)
    began = time.monotonic()
    with pytest.raises(StoreUnreachableError, match=r"disk that is full.*free some space, and give the same command"):
        study.set_user_attr("meanwhile", "x" * 10_000)
    assert "\n" not in caplog.records[-1].getMessage()
    assert sum("is full: free some space" in each for each in caplog.messages) == 1
    assert study.user_attrs["before"] == 1  # it can be read
    with pytest.raises(StoreUnreachableError):
        study.set_user_attr("meanwhile", "x" * 10_000)
    assert time.monotonic() - began < 3.0  # a second call has not waited as long again
    (disk / "ballast").unlink()
    study.set_user_attr("after", 2)
    again = optuna.load_study(study_name="study", storage=at(disk, kind))
    assert again.user_attrs == {"before": 1, "after": 2}


def test_half_a_line_that_a_living_worker_left_is_not_written_behind(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = optuna.create_study(study_name="study", storage=open_journal(str(path)))
    with path.open("ab") as file:
        file.write(b'{"op_code":2,"worker_id":"another","study_id":0,"us')
    study.set_user_attr("after", 1)
    assert study.user_attrs == {"after": 1}
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_study_goes_on_by_itself_when_there_is_room_again(disk: Path, fill_disk: Callable[[Path], None]) -> None:
    calls: list[float] = []

    def objective(config: dict[str, float]) -> float:
        calls.append(config["x"])
        if len(calls) == 2:
            fill_disk(disk)
            threading.Timer(0.3, (disk / "ballast").unlink).start()
        return config["x"]

    study = tune(objective, SPACE, 4, strategy="random", storage=disk / "study.journal", recorder=NullRecorder()).study
    assert [trial.value for trial in study.trials] == calls
    assert len(calls) == 4


def test_the_same_call_goes_on_after_it_gave_up(disk: Path, fill_disk: Callable[[Path], None]) -> None:
    storage = PatientStorage(at(disk, "journal"), patience_s=0.2)
    calls: list[float] = []

    def objective(config: dict[str, float]) -> Iterator[float]:
        calls.append(config["x"])
        if len(calls) == 3:
            fill_disk(disk)  # but for what is left of the journal's last page, which takes a few of the units
        yield from (1.0 for _ in range(39))
        yield config["x"]

    kept = Kept()
    options: dict[str, Any] = {"strategy": "random", "storage": storage, "name": "study", "units": 40, "heartbeat": 0.1}
    with pytest.raises(StoreUnreachableError, match="free some space"):
        tune(objective, SPACE, 5, recorder=kept, **options)
    last = [each for each in kept.records if isinstance(each, TrialFinished)][-1:]
    (disk / "ballast").unlink()
    study = tune(objective, SPACE, 5, recorder=NullRecorder(), **options).study
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(done) == 5
    assert [each.value for each in last] == [calls[1]]
    assert sorted(calls) == sorted([*(trial.value or 0.0 for trial in done), calls[2]])  # the third, twice
    assert [is_cut_off(trial) for trial in study.trials].count(True) == 1


class Kept:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)


def take_all(config: dict[str, float]) -> float:
    """Takes memory until there is none at all, not even for words."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2**25
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    taken: Any = None
    for size in (2**22, 2**16, *range(2**9, 0, -8)):
        try:
            while True:
                taken = (taken, b"x" * size)
        except MemoryError:
            continue
    raise MemoryError


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_trial_without_any_memory_left_says_so() -> None:
    with Child(take_all, {}) as child, pytest.raises(TrainingError, match="MemoryError"):
        list(child.units())


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="needs /proc")
def test_where_memory_is_short_the_trial_goes_before_its_worker() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    with Child(lambda config: int(Path("/proc/self/oom_score_adj").read_text()), {}) as child:
        list(child.units())
    assert child.value == min(own + 300, 1000)


def test_a_configuration_that_kills_its_workers_fails_with_words(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    study = optuna.create_study(study_name="study", storage=open_storage(storage))
    study.enqueue_trial({"x": 0.5})
    for _ in range(MOST_TRIES):
        study.ask(SPACE).set_user_attr(OWNER_ATTRIBUTE, "elsewhere/1/1")
        retry_cut_off(study, lambda trial: True)
    kept = Kept()
    StudyNews(study, kept, "random").tell(True)
    seen = [each for each in kept.records if isinstance(each, TrialSeen)]
    assert [each.state for each in seen] == [TrialState.KILLED] * (MOST_TRIES - 1) + [TrialState.FAILED]
    assert ["memory" in each.message for each in seen] == [False] * (MOST_TRIES - 1) + [True]
    assert len(study.trials) == MOST_TRIES
