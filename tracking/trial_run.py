"""A trial's run in MLflow, read back as the records that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..envs.records import Proposal, Record, TrialFinished, TrialStarted, TrialState
from .names import meant_name
from .operations import FORETOLD, STATE_TAG, TITLE_TAG, VALUE_METRIC, WHY_TAG
from .told_trials import is_number

if TYPE_CHECKING:
    from mlflow.entities import Run

_STATES = {"FINISHED": TrialState.FINISHED, "FAILED": TrialState.FAILED}


def trial_records(run: Run) -> Iterator[Record]:
    """Its start, why it was proposed where that was told, and its end with what it is judged by.

    A trial that runs, as the store has it, counts as killed.
    """
    tags = run.data.tags
    trial, begun = int(tags["metatuner.trial"]), run.info.start_time
    yield TrialStarted(
        trial=trial,
        name=tags.get(TITLE_TAG, run.info.run_name or ""),
        params={meant_name(key, tags): value for key, value in run.data.params.items()},
        attempt=int(tags.get("metatuner.attempt", 0)),
        time_ms=begun,
    )
    if WHY_TAG in tags:
        metrics = run.data.metrics
        figures = {name.removeprefix(FORETOLD): metrics[name] for name in metrics if name.startswith(FORETOLD)}
        yield Proposal.told(trial, tags[WHY_TAG], figures, begun)
    yield TrialFinished(
        trial=trial,
        state=run_state(run),
        value=judged_by(run),
        time_ms=run.info.end_time or begun,
    )


def run_state(run: Run) -> TrialState:
    """How a run that is no longer worked on ended; one that MLflow shows as running was killed."""
    if run.info.status == "FINISHED" and run.data.tags.get(STATE_TAG) == TrialState.PRUNED:
        return TrialState.PRUNED
    return _STATES.get(run.info.status, TrialState.KILLED)


def judged_by(run: Run) -> float | None:
    """What a trial is judged by; None where there is nothing. Infinity comes back as the largest number there is."""
    value: float | None = run.data.metrics.get(VALUE_METRIC)
    if value is None or is_number(value) or value != value:
        return value
    return float("inf") if value > 0 else float("-inf")
