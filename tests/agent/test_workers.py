"""Several processes that share a study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from metatuner.agent.cut_off_trials import MOST_TRIES, is_cut_off
from metatuner.agent.roll_call import RollCall
from metatuner.agent.storages import open_storage
from metatuner.agent.study_settings import settings_of
from metatuner.agent.tune import tune
from metatuner.envs.errors import ConfigurationError, StoreError
from metatuner.envs.records import (
    OWNER_ATTRIBUTE,
    VOID_ATTRIBUTE,
    NullRecorder,
    Record,
    StudyLed,
    TrialFinished,
    TrialSeen,
    TrialStarted,
    TrialState,
)
from optuna.distributions import IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

SPACE = {"x": IntDistribution(0, 5), "y": IntDistribution(0, 4)}
BEAT_S = 0.2
WORKER = """
import sys, time
from pathlib import Path
from metatuner.agent.tune import tune
from metatuner.envs.records import NullRecorder
from optuna.distributions import IntDistribution

storage, strategy, budget, seconds, folder = sys.argv[1:]

def objective(config):
    Path(folder, f"{config['x']}-{config['y']}-{time.monotonic_ns()}").touch()
    time.sleep(float(seconds))
    return config["x"] + config["y"]

space = {"x": IntDistribution(0, 5), "y": IntDistribution(0, 4)}
tune(objective, space, int(budget), strategy=strategy, storage=storage, name="study", heartbeat=0.2,
     recorder=NullRecorder())
"""


class Workers:
    """Processes that work on one study, each begun trial of which leaves a file."""

    def __init__(self, folder: Path, strategy: str, budget: int, seconds: float, storage: str = "") -> None:
        self.begun = folder / "begun"
        self.begun.mkdir()
        self.storage = storage or str(folder / "study.journal")
        self._arguments = [self.storage, strategy, str(budget), str(seconds), str(self.begun)]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER, *self._arguments])

    def wait_for(self, trials: int) -> None:
        deadline = time.monotonic() + 60
        while len(list(self.begun.iterdir())) < trials:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def study(self) -> Study:
        return optuna.load_study(study_name="study", storage=open_storage(self.storage))


def finished(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE"]


def test_a_small_space_is_exhausted_together_and_the_budget_is_never_overspent(tmp_path: Path) -> None:
    workers = Workers(tmp_path, "policy", 30, 0.01)
    processes = [workers.start() for _ in range(3)]
    assert [each.wait(60) for each in processes] == [0, 0, 0]
    done = finished(workers.study)
    assert len(done) == 30
    assert len({tuple(trial.params.items()) for trial in done}) == 30
    assert len(list(workers.begun.iterdir())) == 30  # nothing was begun for nothing
    assert len({trial.user_attrs[OWNER_ATTRIBUTE] for trial in done}) > 1


@pytest.mark.parametrize("where", ["study.journal", "sqlite:///{}/study.db"])
def test_a_killed_worker_s_trial_is_tried_again_once_and_those_of_the_living_are_left_alone(
    tmp_path: Path, where: str
) -> None:
    storage = where.format(tmp_path) if "{" in where else str(tmp_path / where)
    workers = Workers(tmp_path, "random", 6, 0.5, storage)
    victim = workers.start()
    workers.wait_for(1)
    others = [workers.start() for _ in range(2)]
    workers.wait_for(2)
    time.sleep(0.1)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert [each.wait(60) for each in others] == [0, 0]
    study = workers.study
    cut_off = [trial for trial in study.trials if is_cut_off(trial) and VOID_ATTRIBUTE not in trial.user_attrs]
    assert len(finished(study)) == 6
    assert len(cut_off) == 1
    assert [trial.params for trial in study.trials].count(cut_off[0].params) == 2
    assert str(victim.pid) in cut_off[0].user_attrs[OWNER_ATTRIBUTE]


def new_study(storage: str) -> Study:
    return optuna.create_study(study_name="study", storage=open_storage(storage))


def test_whoever_is_silent_is_gone_but_not_before_it_was_watched_for_long_enough(tmp_path: Path) -> None:
    study = new_study(str(tmp_path / "study.journal"))
    first = RollCall(study, BEAT_S, made=True)
    second = RollCall(study, BEAT_S)
    assert (first.leads, second.leads) == (True, False)
    first.look()
    assert first.others() == [second.name]
    time.sleep(8 * BEAT_S)
    first.look()  # it has not looked for long, and knows nothing of that time
    assert not first.is_gone(second.name)
    deadline = time.monotonic() + 10
    while not first.is_gone(second.name):
        assert time.monotonic() < deadline
        time.sleep(BEAT_S / 2)
        first.look()
    second.show()
    first.look()
    assert not first.is_gone(second.name)
    first.leave()
    second.look()
    assert second.leads
    assert second.is_gone(first.name)


def test_a_configuration_that_kills_whoever_tries_it_is_given_up(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    gone = f"elsewhere/1/{os.getpid()}"
    study = new_study(storage)
    study.set_user_attr(f"metatuner:worker:{gone}", 0)
    for _ in range(MOST_TRIES):
        trial = study.ask()
        trial.suggest_int("x", 0, 5)
        trial.set_user_attr(OWNER_ATTRIBUTE, gone)
        tune(lambda config: 1 / 0, {"x": IntDistribution(0, 5)}, 1, storage=storage, name="study", timeout=1e-9,
             recorder=NullRecorder())  # fmt: skip
        if study.trials[-1].state.name == "WAITING":
            continue
    assert sum(trial.state.name == "FAIL" for trial in study.trials) == MOST_TRIES
    assert [is_cut_off(trial) for trial in study.trials if trial.state.name == "FAIL"] == [True] * (MOST_TRIES - 1) + [
        False
    ]


def test_what_two_workers_enqueue_at_the_same_moment_is_tried_once(tmp_path: Path) -> None:
    storage, given = str(tmp_path / "study.journal"), [{"x": 1, "y": 2}, {"x": 3}]
    options: dict[str, Any] = {"storage": storage, "name": "study", "strategy": "random", "recorder": NullRecorder()}
    tune(lambda config: 0.0, SPACE, 1, configs=given, **options)
    study = optuna.load_study(study_name="study", storage=open_storage(storage))
    for config in given:  # another one that looked before the first one wrote
        study.enqueue_trial(config, user_attrs={"metatuner:given": True})
    tried: list[dict[str, int]] = []
    tune(lambda config: float(tried.append(config) or 0), SPACE, 4, **options)
    assert [config["x"] for config in tried[:1]] == [3]
    assert len(tried) == 3
    assert sum(VOID_ATTRIBUTE in trial.user_attrs for trial in study.trials) == 2
    assert len(finished(study)) == 4


@pytest.mark.parametrize("settings", [[1], {"budget": 3}, "text"])
def test_settings_that_were_altered_are_refused(tmp_path: Path, settings: Any) -> None:
    storage = str(tmp_path / "study.journal")
    new_study(storage).set_user_attr("metatuner:settings", settings)
    with pytest.raises(StoreError, match="was begun with"):
        settings_of(storage, "study")


class Kept:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)


def test_the_leader_s_recorder_is_told_what_other_workers_trials_came_to(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    options: dict[str, Any] = {"strategy": "random", "storage": storage, "name": "study"}
    tune(lambda config: config["x"], SPACE, 3, recorder=NullRecorder(), **options)
    kept = Kept()
    tune(lambda config: config["x"], SPACE, 5, recorder=kept, **options)
    kinds = Counter(type(record) for record in kept.records)
    assert (kinds[StudyLed], kinds[TrialStarted], kinds[TrialFinished]) == (1, 2, 2)
    seen = {record.trial: record for record in kept.records if isinstance(record, TrialSeen)}
    assert seen.keys() == set(range(5))
    assert all(record.state is TrialState.FINISHED and record.value == record.params["x"] for record in seen.values())


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("grpc://host", (ConfigurationError, ImportError), r"grpc://HOST:PORT|metatuner\[grpc\]"),
        ("nonsense://host", StoreError, "cannot be opened"),
        ("mysql://root@127.0.0.1:1/studies", (StoreError, ImportError), r"cannot be opened|metatuner\[mysql\]"),
    ],
)
def test_odd_addresses_are_refused(address: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        tune(lambda config: 0.0, SPACE, 1, storage=address, recorder=NullRecorder())
