from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from metatuner.__main__ import main

OBJECTIVE = """
from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(-1, 1)}

def train(config):
    return config["x"] ** 2
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setitem(sys.modules, "objective", None)
    for name in ("MLFLOW_TRACKING_URI", "METATUNER_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    Path("objective.py").write_text(OBJECTIVE)


def test_a_tuned_study_becomes_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["tune", "objective.py:train", "--name", "a/b <c>", "--budget", "3", "--strategy", "random", "--json"]
    assert main(command) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert main(["report", "a/b <c>"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a/b <c>: trials: 3 finished",
        f"  best objective: {tuned['best_value']:.6g} (trial {_best(tuned, capsys)})",
        "report written to report-a-b-c.html",
    ]
    assert "<title>a/b &lt;c&gt;</title>" in Path("report-a-b-c.html").read_text()
    assert main(["report", tuned["run_id"], "--output", "missing/report.html"]) == 2
    said = capsys.readouterr().err
    assert "cannot be written to missing/report.html" in said and said.count("\n") == 1
    assert main(["report", "none"]) == 2
    assert "has no study 'none': it has 'a/b <c>'" in capsys.readouterr().err


def _best(tuned: dict[str, str], capsys: pytest.CaptureFixture[str]) -> int:
    assert main(["report", tuned["run_id"], "--json", "--output", "other.html"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["best"]["value"], facts["file"], facts["strategy"]) == (tuned["best_value"], "other.html", "random")
    return int(facts["best"]["trial"])


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", "--help"])
    assert stopped.value.code == 0
    assert "example: metatuner report" in capsys.readouterr().out
