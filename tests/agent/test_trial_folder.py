"""Folders in which trainings keep what they must not lose."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metatuner.agent.trial_folder import trial_folder
from metatuner.agent.tune import tune
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution

SPACE = {"x": FloatDistribution(0.0, 1.0)}
WORKER = """
import os, signal, sys
from pathlib import Path
from metatuner.agent.tune import tune
from metatuner.agent.trial_folder import trial_folder
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution

folder, isolated = Path(sys.argv[1]), sys.argv[2] == "isolated"

def objective(config):
    kept = trial_folder() / "losses"
    done = len(kept.read_text()) if kept.exists() else 0
    for unit in range(4):
        if unit >= done:
            with (folder / "units").open("a") as trained:
                trained.write(f"{unit}\\n")
            kept.write_text("." * (unit + 1))
        yield float(unit)
        if unit == 1 and not done:
            os.kill(os.getppid() if isolated else os.getpid(), signal.SIGKILL)

storage = str(folder / "study.journal")
tune(objective, {"x": FloatDistribution(0.0, 1.0)}, 1, units=4, strategy="random", storage=storage,
     name="study", folder=folder / "trials", recorder=NullRecorder(), isolated=isolated)
"""


@pytest.mark.parametrize("where", ["here", "isolated"])
def test_who_tries_a_trial_again_finds_what_was_kept(tmp_path: Path, where: str) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path), where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "trials").rglob("losses"))) == 1
    if where == "isolated":
        time.sleep(0.5)  # the objective notices that nobody listens any more
    subprocess.run(command, check=True)
    assert (tmp_path / "units").read_text().split() == ["0", "1", "2", "3"]
    assert not any((tmp_path / "trials").iterdir())


def test_the_folder_of_a_trial_that_has_ended_is_gone_and_that_of_one_that_is_paused_is_not(tmp_path: Path) -> None:
    folders: dict[float, set[Path]] = {}
    trained: dict[float, list[int]] = {}

    def objective(config: dict[str, Any]) -> Iterator[float]:
        for unit in range(9):
            folder = trial_folder()
            folders.setdefault(config["x"], set()).add(folder)
            assert [int(each.name) for each in sorted(folder.iterdir())] == list(range(unit))
            (folder / str(unit)).touch()
            trained.setdefault(config["x"], []).append(unit)
            yield config["x"] + 1 / (1 + unit)

    tune(objective, SPACE, 8, units=9, folder=tmp_path / "trials", recorder=NullRecorder())
    assert any(len(units) < 9 for units in trained.values())  # some were stopped early
    assert all(units == list(range(len(units))) for units in trained.values())
    assert all(len(each) == 1 for each in folders.values())
    assert len(set.union(*folders.values())) == len(folders)
    assert not any((tmp_path / "trials").iterdir())


def test_a_failed_trial_leaves_no_folder_while_others_run(tmp_path: Path) -> None:
    seen: list[int] = []

    def objective(config: dict[str, Any]) -> float:
        seen.append(len(list(trial_folder().parent.iterdir())))
        raise ValueError(json.dumps(config))

    tune(objective, SPACE, 3, strategy="random", folder=tmp_path / "trials", recorder=NullRecorder())
    assert seen == [1, 1, 1]


def test_nobody_has_a_folder_outside_of_a_trial() -> None:
    with pytest.raises(ConfigurationError, match="within one"):
        trial_folder()
