from __future__ import annotations

import json

from metatuner.envs.records import StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.description import describe
from metatuner.tracking.links import resolved
from metatuner.tracking.names import LONGEST_TAG
from metatuner.tracking.study_summary import StudySummary
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json

SPACE = {
    "lr": distribution_to_json(FloatDistribution(1e-5, 0.1, log=True)),
    "layers": distribution_to_json(IntDistribution(1, 9, step=2)),
    "activation": distribution_to_json(CategoricalDistribution(["relu", "tanh"])),
}


def study(trials: int, params: dict[str, object] | None = None) -> StudySummary:
    started = StudyStarted(name="a study", space=SPACE, budget="9 trials", command="metatuner tune f.py:f")
    summary = StudySummary(started)
    for trial in range(trials):
        record = TrialStarted(trial=trial, name="tpe", params=params or {"lr": 0.1 / (trial + 1)}, time_ms=0)
        summary.begin(record, f"s/{trial}")
        summary.end(TrialFinished(trial=trial, time_ms=90_000), 1.0 / (trial + 1))
    return summary


def test_it_says_what_how_far_and_how_again() -> None:
    text = describe(study(3), "s", "", over=False)
    assert text.startswith("# a study\n")
    assert "**0.3333** is the smallest `val/loss`: [#2 tpe](run:s/2)." in text
    assert "Trials: 3 finished. Budget: 9 trials." in text
    assert "| lr | 1e-05 to 0.1 (log) |" in text
    assert "| layers | 1 to 9, in steps of 2 |" in text
    assert "| activation | relu, tanh |" in text
    assert "metatuner tune f.py:f" in text
    assert "1 min 30 s" in text
    assert "## Result so far" in text and "## Result\n" in describe(study(3), "s", "", over=True)


def test_it_says_when_a_hyperparameter_is_there() -> None:
    started = StudyStarted(name="a study", space=SPACE, conditions={"lr": "model is 'svm' or model is 'net'"})
    row = next(line for line in describe(StudySummary(started), "key", "", over=False).splitlines() if "| lr |" in line)
    assert row.endswith(" (log), where model is 'svm' or model is 'net' |")


def test_a_study_without_trials_has_a_description() -> None:
    text = describe(study(0), "s", "# Mine\n\nwords", over=False)
    assert text.startswith("# Mine\n\nwords\n") and "Result" not in text


def test_links_lead_to_pages_of_the_store() -> None:
    ids = {"s": "0a", "s/0": "1b", "s/1": "2c"}
    text = resolved(describe(study(2), "s", "", over=True), "7", ids.get)
    assert "](#/experiments/7/runs/2c)" in text
    assert "(#/experiments/7/runs?searchFilter=tags.mlflow.parentRunId%20%3D%20%270a%27" in text
    assert '#/compare-runs?runs=["2c","1b"]&experiments=["7"]&workflowType=machine_learning' in text.replace(
        "%5B", "["
    ).replace("%5D", "]").replace("%22", '"').replace("%20", "").replace("%2C", ",")
    assert "(run:" not in text


def test_a_link_to_a_run_that_is_not_there_leads_nowhere() -> None:
    assert resolved("[a](run:x) [b](https://example.org)", "7", {}.get) == "[a](#) [b](https://example.org)"


def test_names_cannot_break_the_table() -> None:
    summary = study(2, {"lr": 1})
    record = TrialStarted(trial=2, name="a|b](x)\n# c", params={"lr": "<b>|`"}, time_ms=0)
    summary.begin(record, "s/2")
    summary.end(TrialFinished(trial=2, time_ms=10), 0.1)
    rows = [line for line in describe(summary, "s", "", over=True).splitlines() if line.startswith("| [#2")]
    assert rows == [r"| [#2 a\|b\](x) \# c](run:s/2) | 0.1 | \<b\>\|\` | 0.01 s |"]


def test_it_fits_into_a_tag_however_large_the_study() -> None:
    summary = study(300, {f"a rather long name {i}": "x" * 500 for i in range(50)})
    for trial in range(300, 400):
        record = TrialStarted(trial=trial, name="n" * 300, params={f"p{i}": trial for i in range(500)}, time_ms=0)
        summary.begin(record, f"s/{trial}")
        summary.end(TrialFinished(trial=trial, time_ms=10), -float(trial))
    choices = distribution_to_json(CategoricalDistribution([f"choice {i}" for i in range(50)]))
    space = dict.fromkeys((f"hyperparameter {i}" for i in range(500)), choices)
    summary.started = StudyStarted(name="s" * 300, space=space, conditions=dict.fromkeys(space, "m is 'a'" * 99))
    text = resolved(describe(summary, "s", "word " * 10_000, over=True), "123456789", lambda key: "0" * 32)
    assert len(text) < LONGEST_TAG
    assert "and 485 more" in text and "cut from 49999 characters" in text
    json.dumps(text)
