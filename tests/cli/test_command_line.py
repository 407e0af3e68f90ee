from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from metatuner.__main__ import main
from metatuner.agent.demo import DemoSettings, run_demo
from metatuner.agent.policy import Policy
from metatuner.envs.records import NullRecorder
from mlflow import MlflowClient


def store(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def test_the_demo_prints_a_table_and_records_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "50"]) == 0
    printed = capsys.readouterr().out
    assert "best of 12 cosines" in printed
    assert "metatuner ui" in printed
    client = store(tmp_path)
    experiment = client.get_experiment_by_name("metatuner-demo")
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert "| schedule | start lr |" in parents[0].data.tags["mlflow.note.content"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == 18
    assert all(run.info.status == "FINISHED" for run in runs)
    adaptive = next(run for run in children if run.data.tags["metatuner.strategy"] == "schedule-default")
    assert len(client.get_metric_history(adaptive.info.run_id, "hp/lr")) == Policy.load("schedule-default").decisions
    assert {"val/loss", "val/accuracy", "train/loss", "resource/wall_s"} <= set(adaptive.data.metrics)
    files = {file.path for file in client.list_artifacts(adaptive.info.run_id)}
    assert {"decisions.csv", "plots", "policy"} <= files


def test_in_the_demo_zero_adjustment_of_the_cosine_is_the_cosine() -> None:
    result = run_demo(DemoSettings(25, "adam", 0), Policy.load("zero"), NullRecorder()).as_dict()
    assert [run["val_loss"] for run in result["policy"]] == [run["val_loss"] for run in result["cosine"]]


BRIEF = ["--decisions", "4", "6", "--horizon", "8", "12", "--groups", "2", "--group-size", "4"]


def test_train_makes_a_policy_that_the_demo_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--steps", "30", "--evaluation-groups", "0", "--seed", "1", "--workers", "1", *BRIEF]
    assert main(["train", "schedule", *options, "--out", "mine"]) == 0
    assert "policy saved in mine" in capsys.readouterr().out
    assert Policy.load(tmp_path / "mine").name == "mine"
    assert main(["train", "schedule", *options, "--out", "mine"]) == 2
    assert "has a policy that is done: give another --out, or --fresh" in capsys.readouterr().err
    assert main(["demo", "--steps", "25", "--policy", "mine", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)  # it is all there is on standard output
    assert [run["schedule"] for run in result["policy"]] == ["mine"] * 3
    assert [run["lr"] for run in result["policy"]] == [1e-5, 1e-3, 1e-1]
    assert len(result["search"]) == 12


def test_a_killed_meta_training_goes_on_when_the_command_is_given_again(tmp_path: Path) -> None:
    arguments = ["train", "schedule", "--steps", "120", "--workers", "1", *BRIEF]
    arguments += ["--evaluation-groups", "0", "--checkpoint-every", "1", "--out"]
    command = [sys.executable, "-m", "metatuner", *arguments, "killed"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for name in ("killed", "whole"):
        assert main([*arguments, name]) == 0
    weights = [(tmp_path / name / "policy.safetensors").read_bytes() for name in ("killed", "whole")]
    assert weights[0] == weights[1]
    # In MLflow it is one study whose first attempt was killed.
    named = "tags.`metatuner.study` = 'train killed'"
    runs = store(tmp_path).search_runs(["1"], named, order_by=["attributes.start_time"])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    attempts = [run for run in runs if run is not parent]
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in attempts] == ["KILLED", "FINISHED"]
    assert [run.data.tags["metatuner.attempt"] for run in attempts] == ["0", "1"]


def test_doctor_looks_at_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in ("torch", "threads", "devices", "not there yet", "nothing waits", "policy schedule-default"):
        assert word in printed
    (tmp_path / "broken.db").write_text("no database")
    assert main(["doctor", "--json", "--tracking-uri", f"sqlite:///{tmp_path / 'broken.db'}"]) == 1
    findings = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["store"]["ok"]
    assert findings["store"]["advice"]


def test_ui_opens_the_page_and_ends_with_its_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metatuner", "ui", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        with urllib.request.urlopen(url, timeout=10) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--policy", "no-such"], "no policy is called 'no-such'"),
        (["demo", "--policy", "bomb.pkl"], "can run any code"),
        (["demo", "--policy", "cut"], "cut short or altered"),
        (["demo", "--steps", "0"], "steps must be at least 1"),
        (["demo", "--seed", "-1"], "seed must be a whole number"),
        (["demo", "--experiment", ""], "expected the experiment's name"),
        (["demo", "--tracking-uri", "ftp://x"], "tracking"),
        (["train", "schedule", "--steps", "0", "--out", "x"], "steps must be at least 1"),
        (["train", "schedule", "--group-size", "0", "--out", "x"], "group_size must be at least 1"),
        (["train", "schedule", "--group-size", "6", "--out", "x"], "multiple of copies"),
        (["train", "schedule", "--horizon", "0", "5", "--out", "x"], "horizon must be at least 1"),
        (["train", "schedule", "--decisions", "9", "5", "--out", "x"], "the least before the most"),
        (["train", "schedule", "--device", "abacus", "--out", "x"], "a device that torch can use"),
        (["train", "search", "--steps", "0", "--out", "x"], "steps must be at least 1"),
        (["train", "search", "--algorithm", "sac", "--unlearn", "--out", "x"], "has no --algorithm, --unlearn"),
        (["train", "search", "--seed", "-3", "--out", "x"], "seed must be a whole number"),
        (["train", "schedule", "--checkpoint-every", "0", "--out", "x"], "checkpoint-every must be"),
        (["train", "schedule", "--evaluation-groups", "-1", "--out", "x"], "evaluation-groups must be"),
        (["train", "schedule", "--workers", "-5", "--out", "x"], "workers must be"),
        (["train", "dinner", "--out", "x"], "invalid choice"),
        (["demo", "--steps", "many"], "invalid int"),
        ([], "VERB"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({"a": 1}))
    folder = Policy.load("schedule-default").save(tmp_path / "cut")
    weights = (folder / "policy.safetensors").read_bytes()
    (folder / "policy.safetensors").write_bytes(weights[: len(weights) // 2])
    try:
        code = main(arguments)
    except SystemExit as stopped:  # argparse's own way
        code = int(stopped.code or 0)
    printed = capfd.readouterr()
    assert code == 2
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert len([line for line in printed.err.splitlines() if "error" in line]) == 1


def test_every_verb_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("demo", "train", "transfer", "policies", "ui", "sync", "doctor"):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert f"example: metatuner {verb}" in capsys.readouterr().out


def test_ctrl_c_is_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metatuner", "train", "schedule", "--steps", "100000"]
    command += [*BRIEF, "--checkpoint-every", "1", "--out", "x"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "x" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    runs = store(tmp_path).search_runs(["1"])
    assert {run.info.status for run in runs} == {"KILLED"}
