from __future__ import annotations

import json
from pathlib import Path

import pytest
from metatuner.__main__ import main
from metatuner.envs.records import StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder


def test_a_study_becomes_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with MLflowRecorder(plots=False, sampling=None) as recorder:
        recorder.record(StudyStarted(name="a/b <c>"))
        recorder.record(TrialStarted(trial=0, name="random", params={"x": 1}))
        recorder.record(TrialFinished(trial=0, value=0.25))
    assert main(["report", "a/b <c>"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a/b <c>: trials: 1 finished",
        "  best val/loss: 0.25 (trial 0)",
        "report written to report-a-b-c.html",
    ]
    assert "<title>a/b &lt;c&gt;</title>" in Path("report-a-b-c.html").read_text()
    assert main(["report", str(recorder.run_id), "--json", "--output", "other.html"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["best"]["value"], facts["best"]["params"], facts["file"]) == (0.25, {"x": "1"}, "other.html")
    assert Path("other.html").read_text() == Path("report-a-b-c.html").read_text()
    for arguments, message in (
        (["a/b <c>", "--output", "missing/report.html"], "a file in a folder that exists, got 'missing/report.html'"),
        (["none"], "has no study 'none': it has 'a/b <c>'"),
        (["a/b <c>", "--experiment", "none"], "has no experiment 'none'"),
        (["a/b <c>", "--tracking-uri", "sqlite:///none.db"], "there is no store"),
    ):
        assert main(["report", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["report", "--help"])
    assert stopped.value.code == 0
    assert "example: metatuner report" in capsys.readouterr().out
