from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from metatuner.__main__ import main
from mlflow import MlflowClient

SPACE = """
from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(0, 2), "y": FloatDistribution(0, 1)}
nothing = 3
"""
TRANSFER = ["transfer", "--prior", "table:past.csv", "--trials", "2", "--repeats", "2"]


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    (own_folder / "spaces.py").write_text(SPACE)
    write_past(tasks=2)


def write_past(tasks: int, seed: int = 0) -> None:
    """Bowls around points that differ little."""
    random = np.random.default_rng(seed)
    rows = ["task,x,y,value"]
    for task in range(tasks):
        for x, y in random.random((12, 2)):
            rows.append(f"task {task},{x},{y},{(x - 0.8 - 0.02 * task) ** 2 + (y - 0.9) ** 2}")
    Path("past.csv").write_text("\n".join(rows))


def test_a_report_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRANSFER, "--output", "report.html"]) == 0
    printed = capsys.readouterr()
    for words in ("zero-shot", "few-shot, 1 past task", "TPE", "random search", "negative transfer", "report.html"):
        assert words in printed.out
    assert "of 28 searches" in printed.err
    assert printed.out.count("after 1 ") == printed.out.count("after 2 ") == 1
    assert "<svg" in Path("report.html").read_text()


def test_json_and_a_space_that_is_given(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    assert main([*TRANSFER, "--space", "spaces.py:space", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["tasks"] == ["task 0", "task 1"]
    assert [(pair["past"], pair["target"]) for pair in found["pairs"]] == [("task 0", "task 1"), ("task 1", "task 0")]
    assert len(found["curves"][0]["regrets"]) == 2
    assert "searches" not in printed.err
    client = MlflowClient(f"sqlite:///{own_folder / 'mlflow.db'}")
    study = client.get_run(found["run_id"])
    assert study.data.params["prior"] == "table:past.csv"
    assert [file.path for file in client.list_artifacts(study.info.run_id, "")].count("transfer.html") == 1
    nested = f"tags.`mlflow.parentRunId` = '{study.info.run_id}'"
    ways = client.search_runs([study.info.experiment_id], nested, order_by=["attributes.start_time"])
    named = {run.info.run_name.split(" ", 2)[2]: run.info.run_id for run in ways}  # behind number and value
    assert sorted(named) == [
        "TPE",
        "few-shot, 1 past task",
        "random search",
        "surrogate alone",
        "surrogate alone, 1 past task",
        "zero-shot",
    ]
    regrets = client.get_metric_history(named["zero-shot"], "regret")
    assert [point.step for point in regrets] == [1, 2]
    assert [point.value for point in regrets] == [regret["mean"] for regret in found["curves"][0]["regrets"]]


def test_several_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks of two places may be called the same; a place or a task that is given twice counts once."""
    Path("same.csv").write_text(Path("past.csv").read_text().replace("task ", "copy "))
    write_past(tasks=2, seed=1)
    Path("more.csv").write_text(Path("past.csv").read_text().replace("task 1", "task 2"))
    write_past(tasks=2)
    more = ["--prior", "table:more.csv", "--prior", "table:past.csv", "--prior", "table:same.csv"]
    assert main([*TRANSFER, *more, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == ["task 0", "task 1", "task 0 (2)", "task 2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--prior", "table:none.csv"], "there is no table none.csv"),
        (["--prior", "past.csv"], "expected mlflow:EXPERIMENT or table:FILE.csv"),
        (["--policy", "nobody"], "no policy is called 'nobody'"),
        (["--policy", "schedule-default"], "one for a search is needed"),
        (["--space", "spaces.py:nothing"], "dict of distributions"),
        (["--trials", "0"], "trials must be at least 1"),
        (["--repeats", "1"], "repeats must be at least 2"),
        (["--units", "0"], "units must be a whole number of at least 1"),
        (["--output", "no/such/folder.html"], "a file in a folder that exists"),
    ],
)
def test_bad_input_is_one_line(change: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRANSFER, *change]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_single_task_is_not_enough(capsys: pytest.CaptureFixture[str]) -> None:
    write_past(tasks=1)
    assert main(TRANSFER) == 2
    assert "at least 2 past tasks" in capsys.readouterr().err
