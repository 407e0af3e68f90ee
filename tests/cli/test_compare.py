from __future__ import annotations

import json
from pathlib import Path

import pytest
from metatuner.__main__ import main
from mlflow import MlflowClient

OBJECTIVE = """
from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(-5, 5)}

def train(config):
    return (config["x"] - 1) ** 2
"""


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    (own_folder / "objective.py").write_text(OBJECTIVE)


COMMAND = ["compare", "objective.py:train", "--strategies", "random,qmc", "--budget", "2", "--repeats", "2"]


def test_what_never_works_is_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "never_works.py").write_text(
        "from optuna.distributions import FloatDistribution\n"
        "space = {'x': FloatDistribution(0, 1)}\n"
        "def train(config):\n    raise ValueError('no data')\n"
    )
    assert main([COMMAND[0], "never_works.py:train", *COMMAND[2:]]) == 2
    assert "none of the 8 trials gave a value" in (told := capsys.readouterr().err) and "no data" in told


def test_it_compares_reports_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["strategy"] for each in found["strategies"]} == {"random", "qmc"}
    assert [len(each) for each in found["best_by_repeat"].values()] == [2, 2]
    report = (tmp_path / "compare-train.html").read_text()
    assert found["report"] == "compare-train.html"
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("metatuner-compare")
    query = "tags.`metatuner.comparison` = 'train'"
    runs = client.search_runs([experiment.experiment_id], query, max_results=100)
    assert len(runs) == 5  # four studies, and what came of them
    assert (Path(client.download_artifacts(found["run_id"], "comparison.html"))).read_text() == report
    below = f"tags.mlflow.parentRunId = '{found['run_id']}'"
    lines = {run.data.params["strategy"]: run for run in client.search_runs([experiment.experiment_id], below)}
    assert set(lines) == {"random", "qmc"}
    for each in found["strategies"]:
        metrics = lines[each["strategy"]].data.metrics
        assert metrics["comparison/mean_rank"] == each["mean_rank"]
        assert metrics["objective"] == pytest.approx(each["median"])
    # Again: nothing is run, and nothing is recorded twice.
    assert main(COMMAND) == 0
    said = capsys.readouterr().out
    assert "mean rank" in said
    assert "too few for the paired tests" in said
    assert len(client.search_runs([experiment.experiment_id], query, max_results=100)) == 5
    assert len(client.search_runs([experiment.experiment_id], below)) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--strategies", "random,magic"], "expected one of the strategies policy, random, grid"),
        (["--repeats", "1"], "repeats must be a whole number of at least 2"),
        (["--baseline", "gp"], "expected the baseline to be one of random, qmc"),
        (["--output", "nowhere/report.html"], "expected --output to be a file in a folder that exists"),
        (["--strategies", "random,asha"], "give `units`"),
    ],
)
def test_bad_input_gives_one_line(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, *options]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
