"""Runs of trials, read back as the records that they were made from."""

from __future__ import annotations

import math
from pathlib import Path

from metatuner.envs.records import Proposal, StudyFinished, StudyStarted, TrialFinished, TrialStarted, TrialState
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.trial_run import trial_records
from mlflow import MlflowClient


def test_a_run_tells_what_its_trial_was(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    figures = {"gain": 0.25, "uncertainty": 0.5}
    told = [
        TrialStarted(trial=0, name="policy", params={"läng%e": "3"}),
        Proposal(trial=0, source="prior", words="as before: good", foretold=figures),
        TrialFinished(trial=0, value=math.inf),
        TrialStarted(trial=1, name="policy"),
        TrialFinished(trial=1, state=TrialState.PRUNED),
    ]
    with MLflowRecorder(uri, plots=False, sampling=None, journal=tmp_path / "journal") as recorder:
        for record in (StudyStarted(name="s"), *told, StudyFinished()):
            recorder.record(record)
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "metatuner"]
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`metatuner.kind` = 'trial'", order_by=["tags.`metatuner.trial`"]
    )
    found = [record for run in runs for record in trial_records(run)]
    assert [type(each) for each in found] == [type(each) for each in told]
    start, proposal, end, _, pruned = found
    assert isinstance(start, TrialStarted)
    assert isinstance(proposal, Proposal)
    assert isinstance(end, TrialFinished)
    assert isinstance(pruned, TrialFinished)
    assert (start.name, start.params) == ("policy", {"läng%e": "3"})
    assert (proposal.source, proposal.words, proposal.foretold) == ("prior", "as before: good", figures)
    # Not the largest number there is, which would be the best value of a study that maximizes.
    assert (end.state, end.value) == (TrialState.FINISHED, math.inf)
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, None)
