from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from metatuner.__main__ import main
from mlflow import MlflowClient

OBJECTIVE = """
import ctypes
import math
import sys
import time
from optuna.distributions import FloatDistribution, IntDistribution

space = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "depth": IntDistribution(1, 5)}
pause = 0.0

def train(config):
    for epoch in range(1, 5):
        time.sleep(pause)
        yield abs(math.log10(config["lr"]) + 3) + abs(config["depth"] - 3) + 1 / epoch

def talks(config):
    print("here I am", flush=True)
    ctypes.CDLL(None).printf(b"and here")
    sys.__stdout__.write("here, too")
    return config["lr"]

def slow(config):
    time.sleep(0.3)
    return config["lr"]

def asks(trial):
    return trial.suggest_float("x", -1.0, 1.0) ** 2
"""


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    (own_folder / "objective.py").write_text(OBJECTIVE)


def runs(folder: Path) -> list[dict[str, object]]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    found = client.search_runs([experiment.experiment_id], max_results=100)
    return [{"status": run.info.status, **run.data.tags, **run.data.params} for run in found]


def test_it_tunes_resumes_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "objective.py:train", "--units", "4", "--json"]
    assert main([*command, "--budget", "3", "--strategy", "random"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["trials"] == 3
    assert set(first["best_config"]) == {"lr", "depth"}
    assert main([*command, "--budget", "5", "--strategy", "tpe"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["trials"] == 5
    assert second["run_id"] == first["run_id"]
    assert second["best_value"] <= first["best_value"]
    (study,) = (run for run in runs(tmp_path) if "mlflow.parentRunId" not in run)
    assert (study["metatuner.budget"], study["metatuner.strategy"]) == ("5 full trainings", "tpe")
    trials = [run for run in runs(tmp_path) if "mlflow.parentRunId" in run]
    assert len(trials) == 5
    assert all(run["status"] == "FINISHED" and {"lr", "depth"} <= set(run) for run in trials)


def test_two_files_whose_functions_have_one_name_are_two_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--budget", "2", "--strategy", "random", "--json"]
    assert main(["tune", "objective.py:train", *command]) == 0
    (tmp_path / "another.py").write_text((tmp_path / "objective.py").read_text())
    assert main(["tune", "another.py:train", *command]) == 2
    assert "of objective.train, and you ask to tune another.train" in capsys.readouterr().err
    assert main(["tune", "another.py:train", *command, "--name", "train"]) == 0  # it was moved


def test_a_worker_joins_with_the_settings_that_the_study_was_begun_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--storage", f"sqlite:///{tmp_path / 'studies.db'}", "--json"]
    assert (
        main(["tune", "objective.py:train", "--name", "shared", "--budget", "3", "--strategy", "random", *where]) == 0
    )
    capsys.readouterr()
    assert main(["worker", "objective.py:train", "--study", "shared", "--budget", "9", *where]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["trials"] == 3  # the budget is the study's
    assert captured.err == "budget 9 is not heeded: the study 'shared' was begun with 3\n"
    assert main(["worker", "objective.py:train", "--study", "new", "--budget", "2", *where]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["trials"] == 2
    assert "not heeded" not in captured.err
    assert main(["worker", "objective.py:train", "--study", "new", "--storage", "nonsense://host"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_of_a_file_its_own_functions_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.py").write_text("from math import *\nfrom typing import Any\n" + OBJECTIVE)
    assert main(["tune", "more.py:nowhere"]) == 2
    told = capsys.readouterr().err
    assert "train" in told.split("it has ")[1] and "Any" not in told and "sqrt" not in told


def test_past_studies_tell_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "objective.py:train", "--units", "4", "--json"]
    assert main([*command, "--name", "before", "--budget", "12", "--strategy", "random"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert main([*command, "--name", "now", "--budget", "1", "--past", "before"]) == 0
    now = json.loads(capsys.readouterr().out)
    assert now["best_value"] < before["best_value"] + 0.3
    Path("other.py").write_text(OBJECTIVE.replace('"lr"', '"q"').replace('"depth"', '"z"'))
    assert main(["tune", "other.py:train", "--name", "other", "--budget", "6", "--strategy", "random", "--json"]) == 0
    assert main([*command[:-1], "--name", "more", "--budget", "1", "--past", "before", "--past", "other"]) == 0
    printed = capsys.readouterr().out
    assert "past before: 12 of 12 trials count" in printed
    assert "past other: nothing counts" in printed


def test_an_optuna_objective_needs_no_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "objective.py:asks", "--space", "none", "--budget", "4"]) == 0
    assert "best of 4 trials" in capsys.readouterr().out
    assert all("x" in run for run in runs(tmp_path) if "mlflow.parentRunId" in run)


@pytest.mark.parametrize("isolated", [[], ["--isolated"]])
def test_what_an_objective_prints_is_not_in_the_json(isolated: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "objective.py:talks", "--budget", "2", "--strategy", "random", "--json", *isolated]
    assert main(command) == 0
    seen = capfd.readouterr()
    assert json.loads(seen.out)["trials"] == 2
    assert seen.err.count("here I am") == 2


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metatuner", "tune", "objective.py:slow", "--budget", "60", "--strategy", "random"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / ".metatuner" / "studies" / "slow.journal"
    while not journal.exists() or journal.read_text().count('"op_code":6') < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in printed
    states = {run["metatuner.state"] for run in runs(tmp_path)}
    assert {"finished", "killed"} == states


def test_killed_it_goes_on_with_the_trial_that_was_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", "objective.py:slow", "--budget", "5", "--strategy", "random"]
    process = subprocess.Popen([sys.executable, "-m", "metatuner", *arguments], cwd=tmp_path)
    journal = tmp_path / ".metatuner" / "studies" / "slow.journal"
    while not journal.exists() or journal.read_text().count('"op_code":6') < 2:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    trials = [run for run in runs(tmp_path) if "mlflow.parentRunId" in run]
    finished = [run["lr"] for run in trials if run["metatuner.state"] == "finished"]
    killed = [run["lr"] for run in trials if run["metatuner.state"] == "killed"]
    assert len(finished) == len(set(finished)) == 5
    assert set(killed) <= set(finished)
    assert told["trials"] == 5 + len(killed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py:train"], "a file that exists"),
        (["objective.py"], "names no function"),
        (["objective.py:tran"], "no function 'tran': it has"),
        (["objective.py:train", "--strategy", "magic"], "expected one of the strategies"),
        (["objective.py:train", "--strategy", "asha"], "give `units`"),
        (["objective.py:train", "--budget", "0"], "budget must be"),
        (["objective.py:train", "--past", "never"], "no study storage"),
        (["broken.py:train"], "SyntaxError"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.py").write_text("def train(:")
    assert main(["tune", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_when_every_trial_fails_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("objective.py").write_text("from optuna.distributions import *\nspace = {'x': FloatDistribution(0, 1)}\n"
                                    "def train(config):\n    return 1 / 0\n")  # fmt: skip
    assert main(["tune", "objective.py:train", "--budget", "2"]) == 2
    assert "none of the 2 trials has finished; the last one failed with ZeroDivisionError" in capsys.readouterr().err
