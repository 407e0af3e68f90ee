from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from metatuner.agent.child import Child
from metatuner.agent.tune import tune
from metatuner.envs.errors import ConfigurationError, TrainingError
from metatuner.envs.records import Record, TrialFinished, TrialStarted, TrialState
from optuna.distributions import FloatDistribution

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_returns_what_the_objective_does_and_tells_its_costs() -> None:
    with Child(lambda config: [len(config), config["x"] + 0.5][1], {"x": 1.0}) as child:
        assert list(child.units()) == []
    assert child.value == 1.5
    assert child.costs["resource/cpu_s"] > 0.0
    assert not runs(child.pid)


def test_what_an_objective_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    def leaves(config: dict[str, Any]) -> float:
        import subprocess

        return float(subprocess.Popen(["sleep", "60"]).pid)

    with Child(leaves, {}) as child:
        assert list(child.units()) == []
    deadline = time.monotonic() + 5
    while runs(int(child.value)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(int(child.value))


def test_a_process_with_many_open_files_has_children_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Child(lambda config: 1.0, {}) as child:
            assert list(child.units()) == []
        assert child.value == 1.0
    finally:
        for each in files:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_units_come_one_by_one_and_whoever_leaves_stops_the_objective(tmp_path: Path) -> None:
    ended = tmp_path / "ended"

    def objective(config: Mapping[str, Any]) -> Iterator[float]:
        try:
            for unit in range(100):
                yield config["x"] * unit
        finally:
            ended.touch()

    with Child(objective, {"x": 2.0}) as child:
        for unit, value in enumerate(child.units()):
            assert value == 2.0 * unit
            if unit == 3:
                break
    assert ended.exists()
    assert not runs(child.pid)


def test_an_error_is_told() -> None:
    def objective(config: Mapping[str, Any]) -> float:
        raise ValueError("no such layer")

    with Child(objective, {}) as child, pytest.raises(TrainingError, match="ValueError: no such layer"):
        list(child.units())


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os.abort(), "was killed by SIGABRT"),
        (lambda: sys.exit(3), "ended with exit code 3"),
        (lambda: os._exit(0), "ended with exit code 0"),
    ],
)
def test_a_process_that_ends_early_is_told(end: Any, message: str) -> None:
    with Child(lambda config: end(), {}) as child, pytest.raises(TrainingError, match=message):
        list(child.units())


def test_one_that_hangs_is_ended_in_time_with_all_that_it_started(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def objective(config: Mapping[str, Any]) -> float:
        import subprocess

        started.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)
        return 0.0

    before = time.monotonic()
    with Child(objective, {}, timeout_s=2.0) as child, pytest.raises(TrainingError, match="more than 2 s"):
        list(child.units())
    assert time.monotonic() - before < 20
    assert not runs(child.pid)
    grandchild = int(started.read_text())
    for _ in range(100):
        # Whoever adopts it collects it, if anybody does.
        status = Path(f"/proc/{grandchild}/stat")
        if not status.exists() or status.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the process that the objective started still runs")


def test_what_cannot_be_sent_is_refused() -> None:
    lock = threading.Lock()
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        Child(lambda config: lock.locked(), {})


def test_a_study_outlives_its_trials() -> None:
    records: list[Record] = []

    class Keep:
        def record(self, record: Record, /) -> None:
            records.append(record)

    def objective(config: Mapping[str, Any]) -> float:
        if config["x"] > 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        return float(config["x"])

    result = tune(
        objective, SPACE, 8, strategy="random", seed=1, n_workers=2, isolated=True, recorder=Keep(),
    )  # fmt: skip
    assert result.best_value == min(trial.params["x"] for trial in result.trials)
    ends = {record.trial: record for record in records if isinstance(record, TrialFinished)}
    starts = {record.trial: record for record in records if isinstance(record, TrialStarted)}
    assert len(ends) == len(starts) == 8
    assert len({start.process for start in starts.values()}) == 8
    for number, end in ends.items():
        crashed = starts[number].params["x"] > 0.5  # type: ignore[operator]
        assert end.state is (TrialState.FAILED if crashed else TrialState.FINISHED)
        assert ("was memory short?" in end.message) == crashed
        assert "resource/cpu_s" in end.costs


def test_isolated_trials_can_be_stopped_early() -> None:
    def objective(config: Mapping[str, Any]) -> Iterator[float]:
        for _ in range(9):
            yield config["x"]

    result = tune(objective, SPACE, 4, strategy="asha", units=9, isolated=True, recorder=_Nobody())
    assert {trial.state.name for trial in result.trials} == {"COMPLETE", "PRUNED"}


class _Nobody:
    def record(self, record: Record, /) -> None:
        """Drops it."""
