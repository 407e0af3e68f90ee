from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from metatuner.envs.child_process import wait_with_costs
from metatuner.envs.records import Decision, Metrics, Record, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.completion import Completion
from metatuner.tracking.sampling import SamplingDistances

ALWAYS = SamplingDistances(first_s=0, growth=0, least_s=0)


def running(trial: TrialStarted, distances: SamplingDistances = ALWAYS) -> Completion:
    completion = Completion(distances=distances)
    completion.complete(StudyStarted(name="s"))
    completion.complete(trial)
    return completion


def metrics(records: list[Record]) -> list[Metrics]:
    return [record for record in records if isinstance(record, Metrics)]


@pytest.mark.parametrize(
    ("trial", "scope"),
    [
        (TrialStarted(trial=0, name="t"), "process"),
        (TrialStarted(trial=0, name="t", process=os.getpid()), "process"),
        (TrialStarted(trial=0, name="t", thread=threading.get_ident()), "thread"),
        (TrialStarted(trial=0, name="t", process=os.getppid()), "subprocess"),
    ],
)
def test_a_trial_tells_whose_its_figures_are(trial: TrialStarted, scope: str) -> None:
    completion = Completion()
    completion.complete(StudyStarted(name="s"))
    (started,) = completion.complete(trial)
    assert isinstance(started, TrialStarted)
    assert started.tags == {"metatuner.resource_scope": scope}


def test_points_stand_at_the_latest_step() -> None:
    completion = running(TrialStarted(trial=3, name="t"))
    steps = [metrics(completion.sample())[0].step]
    completion.complete(Metrics(trial=3, step=7, values={"train/loss": 1.0}))
    steps.append(metrics(completion.sample())[0].step)
    completion.complete(Decision(trial=3, number=0, step=9, signals={}, adjustments={}, values={"lr": 0.1}, reward=0.0))
    (point,) = metrics(completion.sample())
    assert [*steps, point.step] == [0, 7, 9]
    assert point.trial == 3
    assert "resource/cpu_percent" in point.values
    (totals,) = metrics(completion.complete(TrialFinished(trial=3)))
    assert totals.step == 9
    assert completion.sample() == []


def test_a_short_trial_has_totals_alone() -> None:
    completion = running(TrialStarted(trial=0, name="t"), SamplingDistances())
    assert completion.sample() == []
    (totals,) = metrics(completion.complete(TrialFinished(trial=0)))
    assert {"resource/wall_s", "resource/cpu_s", "resource/peak_rss_mb"} == set(totals.values)


def test_what_the_end_says_stands_before_what_was_measured() -> None:
    command = [sys.executable, "-I", "-S", "-c", "import time\nwhile time.process_time() < 0.1: pass"]
    process = subprocess.Popen(command)
    completion = running(TrialStarted(trial=0, name="t", process=process.pid))
    costs = wait_with_costs(process)
    assert completion.sample() == []  # it is gone
    (totals,) = metrics(completion.complete(TrialFinished(trial=0, costs=costs | {"resource/energy_j": 5.0})))
    assert totals.values.items() >= costs.items()
    assert totals.values["resource/cpu_s"] >= 0.1
    assert totals.values["resource/energy_j"] == 5


def test_trials_run_side_by_side() -> None:
    completion = running(TrialStarted(trial=0, name="a"))
    completion.complete(TrialStarted(trial=1, name="b", thread=threading.get_ident()))
    assert [point.trial for point in metrics(completion.sample())] == [0, 1]
    completion.complete(TrialFinished(trial=0))
    assert [point.trial for point in metrics(completion.sample())] == [1]
