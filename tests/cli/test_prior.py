from __future__ import annotations

import json
from pathlib import Path

import pytest
from metatuner.__main__ import main

OBJECTIVE = """
from optuna.distributions import FloatDistribution, IntDistribution

space = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "depth": IntDistribution(1, 5)}

def train(config):
    return config["lr"] + config["depth"]
"""

TABLE = "task,value,lr,width\n" + "".join(f"t,{i},{0.01 / (i + 1)},{i}\n" for i in range(6)) + "u,7,5,1\n"


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    (own_folder / "objective.py").write_text(OBJECTIVE)
    (own_folder / "past.csv").write_text(TABLE)


def test_a_store_becomes_a_table_that_tells_where_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "objective.py:train", "--name"]
    assert main([*command, "before", "--budget", "8", "--strategy", "random", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert main(["prior", "export", "metatuner", "--out", "shared.csv", "--anonymous", "--exclude", "depth"]) == 0
    said = capsys.readouterr().out
    assert "8 trials of 1 tasks written to shared.csv" in said and "hyperparameters: lr\n" in said
    assert "before" not in Path("shared.csv").read_text() and "depth" not in Path("shared.csv").read_text()
    assert main(["prior", "show", "table:shared.csv", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tasks"] == {"task 1": {"trials": 8, "failed": 0, "best_value": before["best_value"]}}
    assert main([*command, "now", "--budget", "1", "--prior", "mlflow:metatuner", "--prior", "table:shared.csv"]) == 0
    told = capsys.readouterr()
    assert "prior mlflow:metatuner: 8 trials of 8 count, of 1 past task\n  known by every task: lr, depth" in told.err
    assert "prior table:shared.csv: 8 trials of 8 count, of 1 past task\n" in told.err and "new here: depth" in told.err
    assert "best of 1 trials" in told.out


def test_show_tells_what_is_there_and_how_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prior", "show", "table:past.csv", "objective.py:train", "--maximize"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "table:past.csv: 7 of 7 trials tell something, of 2 tasks"
    assert [line.split() for line in lines if line.startswith(("t ", "u ", "width"))] == [
        ["t", "6", "0", "5"],
        ["u", "1", "0", "7"],
        ["width", "2", "7", "0", "to", "5"],
    ]
    assert "prior table:past.csv: 6 trials of 7 count, of 1 past task" in lines
    assert "  trials left out: 1 out of today's ranges" in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prior", "show", "past.csv"], "expected mlflow:EXPERIMENT or table:FILE.csv, got 'past.csv'"),
        (["prior", "show", "table:none.csv"], "there is no table none.csv"),
        (["prior", "show", "table:past.csv", "none.py:train"], "a file that exists"),
        (["prior", "show", "table:past.csv", "plain.py"], "no search space: name its variable with --space"),
        (["tune", "objective.py:train", "--prior", "table:damaged.csv"], "damaged.csv, line 2: expected a number"),
        (["tune", "objective.py:train", "--prior", "file:past.csv"], "expected a prior such as 'mlflow:EXPERIMENT'"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("damaged.csv").write_text("task,value\nt,bad\n")
    Path("plain.py").write_text("x = 1\n")
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
