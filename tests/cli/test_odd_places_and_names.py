"""Folders and names that addresses, tables, fonts and files cannot hold as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from metatuner.__main__ import main
from mlflow import MlflowClient

OBJECTIVE = """import math
from optuna.distributions import FloatDistribution
space = {"x": FloatDistribution(-1, 1), "a | b<i>": FloatDistribution(0, 1)}
def train(config):
    return config["x"] ** 2
def falls(config):
    for unit in range(1, 5):
        yield config["x"] ** 2 + 1 / unit
def overflows(config):
    return -math.inf if config["x"] > 0 else config["x"] ** 2
def all_overflow(config):
    return math.inf
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    place = tmp_path / "100%20é#a;b"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "objective.py").write_text(OBJECTIVE)
    return place


def test_a_folder_with_a_percent_sign_has_its_own_database(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoy = folder.parent / "100 é#a;b"
    decoy.mkdir()
    assert main(["tune", "objective.py:falls", "--budget", "3", "--units", "4", "--strategy", "random"]) == 0
    assert list(decoy.iterdir()) == [] and (folder / "mlflow.db").exists()
    assert main(["doctor", "--study", "falls", "--storage", ".metatuner/studies/falls.journal"]) == 0
    assert main(["report", "falls"]) == 0
    page = (folder / "report-falls.html").read_text()
    assert "Learning curves" in page
    # How to do it again.
    assert "metatuner tune objective.py:falls --budget 3 --strategy random --metric objective --units 4" in page
    capsys.readouterr()


def test_an_infinite_value_is_not_the_best(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "objective.py:overflows", "--budget", "6", "--strategy", "random", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best_value"] == told["best_config"]["x"] ** 2
    assert main(["tune", "objective.py:all_overflow", "--budget", "2", "--strategy", "random", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best_value"] is None


def test_names_of_hyperparameters_do_not_break_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "objective.py:train", "--budget", "3", "--strategy", "random", "--name", "学习 study"]) == 0
    assert "Glyph" not in capsys.readouterr().err
    assert main(["doctor", "--study", "学习 study"]) == 0  # where the store is: its address has no percent sign
    address = f"sqlite:///{str(folder / 'mlflow.db').replace('%', '%25')}"
    client = MlflowClient(address)
    experiments = [each.experiment_id for each in client.search_experiments()]
    (study,) = [run for run in client.search_runs(experiments) if "mlflow.parentRunId" not in run.data.tags]
    note = study.data.tags["mlflow.note.content"]
    header = next(line for line in note.splitlines() if line.startswith("| trial |"))
    assert "a \\| b\\<i\\>" in header


@pytest.mark.parametrize("verb", ["tune", "compare"])
def test_names_that_are_empty_or_long(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [verb, "objective.py:train", "--budget", "2"]
    command += ["--strategy", "random"] if verb == "tune" else ["--strategies", "random,grid", "--repeats", "2"]
    assert main([*command, "--name", ""]) == 2
    assert "expected a name with --name" in capsys.readouterr().err
    assert main([*command, "--name", "é" * 150]) == 0


def test_a_study_whose_records_wait_is_told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = "http://127.0.0.1:9"
    command = ["tune", "objective.py:train", "--budget", "2", "--strategy", "random", "--tracking-uri", nowhere]
    assert main([*command, "--name", "waits"]) == 0
    for verb in (["doctor", "--study", "waits"], ["report", "waits"]):
        assert main(verb) == 2
        told = capsys.readouterr().err
        assert f"its journal waits to be sent to {nowhere}, experiment 'metatuner': metatuner sync" in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_output_that_has_no_room_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "metatuner", "policies", "list"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
