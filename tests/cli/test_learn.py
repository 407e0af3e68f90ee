from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from metatuner.__main__ import main
from metatuner.agent.search_policy import SearchPolicy
from metatuner.tracking.registry import versions
from mlflow import MlflowClient

SPACE = """
from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
nothing = 3
"""
LEARN = ["learn", "table:past.csv", "spaces.py:space", "--name", "mine", "--searches", "1", "--parallel", "1"]


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    (own_folder / "spaces.py").write_text(SPACE)
    write_past(tasks=5)


def write_past(tasks: int, seed: int = 0) -> None:
    """Bowls around points that differ little."""
    random = np.random.default_rng(seed)
    rows = ["task,x,y,value"]
    for task in range(tasks):
        for x, y in random.random((20, 2)):
            rows.append(f"task {task},{x},{y},{(x - 0.3 - 0.02 * task) ** 2 + (y - 0.6) ** 2}")
    Path("past.csv").write_text("\n".join(rows))


def test_what_is_not_better_is_registered_and_not_promoted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*LEARN, "--steps", "1", "--confidence", "0.999", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["promoted"] is (found["comparison"]["low"] > 0)
    (version,) = versions(name="mine")
    assert version.uri == found["uri"]
    assert (version.aliases == ("champion",)) is found["promoted"]
    assert version.tags["learnt_from"] == found["run_id"]
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(found["run_id"])
    assert "has learnt" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["metatuner.command"] == (
        "metatuner learn table:past.csv spaces.py:space --name mine --units 1 --metric objective --steps 1 --seed 0 "
        "--held-out 0.3 --searches 1 --parallel 1 --confidence 0.999"
    )
    assert len(SearchPolicy.load(version.uri).card["held_out"]) == 2


@pytest.mark.parametrize("name", ["a/b:c", "", " "])
def test_a_name_that_cannot_be_registered_is_told_before_the_learning(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*LEARN[:3], "--name", name]) == 2
    assert "expected a policy's name without '/', ':' and quotes" in capsys.readouterr().err
    assert not (tmp_path / ".metatuner").exists()


def test_several_addresses(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Two tables with too few tasks each."""
    write_past(tasks=4)
    Path("more.csv").write_text(Path("past.csv").read_text())
    write_past(tasks=4, seed=1)
    assert main([*LEARN, "--steps", "1"]) == 2
    assert "at least 5 past tasks" in capsys.readouterr().err
    # What is told of twice is one task: it must not be judged by what it has taught.
    Path("same.csv").write_text(Path("past.csv").read_text())
    assert main([*LEARN, "--prior", "table:same.csv", "--steps", "1"]) == 2
    assert "got 4 of 8" in capsys.readouterr().err
    assert main([*LEARN, "--prior", "table:more.csv", "--steps", "1", "--confidence", "0.999", "--json"]) == 0
    run = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(json.loads(capsys.readouterr().out)["run_id"])
    assert (run.data.params["prior"], run.data.params["tasks"]) == ("table:past.csv, table:more.csv", "8")


def test_what_is_better_becomes_the_champion(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The champion to beat does the contrary of what pays."""
    worse = SearchPolicy.load()
    worse.actor.sharpness.data.fill_(-50.0)
    worse.save(tmp_path / "worse")
    assert main([*LEARN, "--steps", "128", "--champion", "worse"]) == 0
    out = capsys.readouterr().out
    assert "now the champion" in out
    assert versions(name="mine")[0].aliases == ("champion",)
    # The next one begins from it.
    assert main([*LEARN, "--steps", "1", "--confidence", "0.999", "--out", "next", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["uri"] == "models:/mine/2"
    assert SearchPolicy.load("models:/mine/2").card["learnt_from"]["policy"] == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["learn", "table:past.csv", "spaces.py:nothing", "--name", "mine"], "dict of distributions"),
        (["learn", "table:none.csv", "spaces.py:space", "--name", "mine"], "none.csv"),
        ([*LEARN, "--steps", "0"], "steps must be at least 1"),
    ],
)
def test_bad_input_is_one_line(change: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(change) == 2
    assert message in capsys.readouterr().err


def test_too_few_tasks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write_past(tasks=3)
    assert main(LEARN) == 2
    assert "at least 5 past tasks" in capsys.readouterr().err
