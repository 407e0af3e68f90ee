"""A trial's run in MLflow, read back as the records that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..envs.records import Proposal, Record, TrialConstraints, TrialFinished, TrialStarted, TrialState
from .names import meant_name
from .operations import CONSTRAINT, FORETOLD, STATE_TAG, TITLE_TAG, VALUE_METRIC, WHY_TAG
from .told_trials import is_number

if TYPE_CHECKING:
    from mlflow.entities import Run

_OWN = ("mlflow.", "metatuner.")  # tags that are not the trial's own
_STATES = {"FINISHED": TrialState.FINISHED, "FAILED": TrialState.FAILED}


def trial_records(run: Run) -> Iterator[Record]:
    """Its start, why it was proposed and what its constraints say where that was told, and its end with its value.

    A trial that runs, as the store has it, counts as killed.
    """
    tags = run.data.tags
    trial, begun = int(tags["metatuner.trial"]), run.info.start_time
    yield TrialStarted(
        trial=trial,
        name=tags.get(TITLE_TAG, run.info.run_name or ""),
        params={meant_name(key, tags): value for key, value in run.data.params.items()},
        attempt=int(tags.get("metatuner.attempt", 0)),
        tags={name: text for name, text in tags.items() if not name.startswith(_OWN)},
        time_ms=begun,
    )
    if WHY_TAG in tags:
        yield Proposal.told(trial, tags[WHY_TAG], _named(run, FORETOLD), begun)
    if excess := _named(run, CONSTRAINT):
        yield TrialConstraints(trial=trial, excess=excess, time_ms=begun)
    yield TrialFinished(
        trial=trial,
        state=run_state(run),
        value=judged_by(run),
        time_ms=run.info.end_time or begun,
    )


def _named(run: Run, section: str) -> dict[str, float]:
    """The last values of a section's metrics, by their names in it."""
    metrics = {meant_name(key, run.data.tags): value for key, value in run.data.metrics.items()}
    return {name.removeprefix(section): value for name, value in metrics.items() if name.startswith(section)}


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
