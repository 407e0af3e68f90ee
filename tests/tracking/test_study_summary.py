from __future__ import annotations

import math

import pytest
from metatuner.envs.records import StudyStarted, TrialFinished, TrialStarted, TrialState
from metatuner.tracking.study_summary import StudySummary, run_title


def study(values: dict[int, float | None], state: TrialState = TrialState.FINISHED, **settings: str) -> StudySummary:
    summary = StudySummary(StudyStarted(name="s", **settings))  # type: ignore[arg-type]
    for trial, value in values.items():
        summary.begin(TrialStarted(trial=trial, name="tpe", params={"lr": trial}, time_ms=1_000), f"s/{trial}")
        summary.end(TrialFinished(trial=trial, state=state, time_ms=3_500), value)
    return summary


def test_the_best_trial_is_the_smallest_or_the_largest() -> None:
    values = {0: 3.0, 1: 1.0, 2: 2.0, 3: 1.0}
    assert [trial.trial for trial in study(values).ranked()] == [1, 3, 2, 0]
    best = study(values).best
    assert best is not None and (best.trial, best.seconds) == (1, 2.5)
    assert [trial.trial for trial in study(values, direction="maximize").ranked()] == [0, 2, 1, 3]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_trial_without_a_finite_value_is_never_the_best(value: float | None) -> None:
    summary = study({0: value, 1: 5.0, 2: value})
    assert summary.best is not None and summary.best.trial == 1
    assert len(summary.ranked()) == 1


def test_a_trial_that_was_cut_off_is_never_the_best() -> None:
    summary = study({0: 1.0}, TrialState.PRUNED)
    assert summary.best is None and summary.states() == {"pruned": 1}


def test_a_next_attempt_takes_the_place_of_the_one_before() -> None:
    summary = study({0: 1.0}, TrialState.FAILED)
    summary.begin(TrialStarted(trial=0, name="tpe", attempt=1), "s/0.1")
    assert summary.states() == {"running": 1}
    summary.end(TrialFinished(trial=0), 0.5)
    assert summary.best is not None and summary.best.run == "s/0.1"


def test_what_the_store_remembers_does_not_replace_what_is_known() -> None:
    summary = study({1: 1.0})
    past = [
        TrialStarted(trial=0, name="tpe", time_ms=0),
        TrialFinished(trial=0, state=TrialState.KILLED, time_ms=5),
        TrialStarted(trial=0, name="tpe", attempt=1, time_ms=10),
        TrialFinished(trial=0, value=0.25, time_ms=20),
        TrialStarted(trial=1, name="tpe", time_ms=30),
        TrialFinished(trial=1, value=0.1, time_ms=40),
    ]
    summary.remember(past, "s")
    assert [(trial.run, trial.value) for trial in summary.ranked()] == [("s/0.1", 0.25), ("s/1", 1.0)]


def test_a_title_says_number_value_and_strategy() -> None:
    assert run_title(3, 0, "tpe") == "#3 tpe"
    assert run_title(3, 0, "tpe", TrialState.FINISHED, 0.091234) == "#3 0.09123 tpe"
    assert run_title(3, 1, "tpe", TrialState.PRUNED, 0.5) == "#3 pruned tpe (attempt 2)"
    assert run_title(3, 0, "", TrialState.FAILED) == "#3 failed"
