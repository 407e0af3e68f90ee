"""`metatuner worker`: who may join a study, and with what."""

from __future__ import annotations

from pathlib import Path

import pytest
from metatuner.__main__ import main

OBJECTIVE = """import os
from optuna.distributions import FloatDistribution
space = {"x": FloatDistribution(0, 1)}
wider = {"x": FloatDistribution(0, 2)}
def train(config):
    return config["x"]
def other(config):
    return -config["x"]
def wanders(config):
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    return config["x"]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_workers_of_a_study_try_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "joined.py").write_text(OBJECTIVE)
    study = ["--study", "mine", "--storage", "mine.journal"]
    assert main(["worker", "joined.py:train", *study, "--budget", "2", "--strategy", "random"]) == 0
    assert main(["worker", "joined.py:train", *study]) == 0
    capsys.readouterr()
    for joins, what in (["--space", "wider"], "space"), ([], "objective"):
        function = "train" if joins else "other"
        assert main(["worker", f"joined.py:{function}", *joins, *study]) == 2
        assert f"expected the {what} of the study 'mine'" in capsys.readouterr().err


def test_an_objective_may_change_the_working_directory(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "wandering.py").write_text(OBJECTIVE)
    assert main(["tune", "wandering.py:wanders", "--budget", "3", "--strategy", "random"]) == 0
    assert "best of 3 trials" in capsys.readouterr().out
