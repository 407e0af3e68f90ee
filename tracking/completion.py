"""Adds to the records what only the process that runs the study knows: its circumstances and its costs.

Records are completed where and when they are made, before anything is journalled or sent: a program that sends them
later would measure itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..envs.records import (
    Artifact,
    Decision,
    Metrics,
    Record,
    StudyFinished,
    StudyLed,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
    now_ms,
)
from .facts import environment_json, study_tags
from .sampling import DEFAULT_DISTANCES, SamplingDistances
from .study_state import StudyState
from .trial_costs import TrialCosts

_SCOPE_TAG = "metatuner.resource_scope"


class Completion:
    """Completes the records of one study, so that it and every trial has a start, an end and its costs.

    Args:
        past: The records of the study so far, where it goes on.
        distances: How often trials that run long are sampled; None measures nothing, since the study runs elsewhere.
    """

    def __init__(self, past: Iterable[Record] = (), distances: SamplingDistances | None = DEFAULT_DISTANCES) -> None:
        self._state = StudyState()
        self._distances = distances
        self._costs: dict[int, TrialCosts] = {}
        for record in past:
            self._state.take(record)

    @property
    def is_open(self) -> bool:
        """Whether the study has started and not ended."""
        return self._state.is_open

    @property
    def finished(self) -> frozenset[int]:
        """Numbers of trials that need not be run again: they finished, or were pruned."""
        return self._state.finished

    @property
    def ended(self) -> frozenset[int]:
        """Numbers of trials that ended, however."""
        return self._state.ended

    @property
    def trial_tags(self) -> Mapping[int, Mapping[str, str]]:
        """Tags of trials by number, those that they had when they began."""
        return self._state.trial_tags

    def complete(self, record: Record) -> list[Record]:
        """The record with what belongs before and after it; nothing where it came too late.

        Raises:
            ConfigurationError: It makes no sense here, such as a metric of a trial that was never started.
        """
        if not self._state.accepts(record):
            return []
        completed = [self._state.in_time(each) for each in self._completed(record)]
        for each in completed:
            self._state.take(each)
        return completed

    def finish(self, state: TrialState, message: str = "", time_ms: int | None = None) -> list[Record]:
        """The ends of whatever is open."""
        if not self.is_open:
            return []
        ended = now_ms() if time_ms is None else time_ms
        return self.complete(StudyFinished(state=state, message=message, time_ms=ended))

    def sample(self) -> list[Record]:
        """What running trials use now, of those that are due. Call it every few seconds.

        It reads what the system keeps only for some seconds, so a call is worth it also where nothing is due.
        """
        return [point for costs in self._costs.values() for point in costs.point()]

    def _completed(self, record: Record) -> list[Record]:
        match record:
            case StudyStarted():
                tagged = replace(record, tags={**study_tags(), **record.tags})
                return [tagged] if record.shared else [tagged, _environment(record)]
            case StudyLed(leads=True):
                return [record, _environment(record)]
            case StudyFinished():
                return [*self._finish_trials(record), record]
            case TrialStarted():
                tags = {**self._measure(record), **record.tags}
                return [replace(record, attempt=self._state.next_attempt(record.trial), tags=tags)]
            case TrialFinished():
                return [*self._totals(record), record]
            case Metrics(trial=int() as trial, step=step) | Decision(trial=trial, step=step) if trial in self._costs:
                self._costs[trial].step = max(self._costs[trial].step, step)
        return [record]

    def _measure(self, record: TrialStarted) -> dict[str, str]:
        """Begins to measure a trial; a tag tells whose figures they will be."""
        if self._distances is None:
            return {}
        self._costs[record.trial] = TrialCosts(record, self._distances)
        return {_SCOPE_TAG: self._costs[record.trial].scope}

    def _totals(self, record: TrialFinished) -> list[Record]:
        costs = self._costs.pop(record.trial, None)
        if costs is not None:
            return [costs.totals(record)]
        # Another process ran it, and died, or knows its costs.
        return (
            [Metrics(trial=record.trial, step=0, values=record.costs, time_ms=record.time_ms)] if record.costs else []
        )

    def _finish_trials(self, record: StudyFinished) -> list[Record]:
        state = TrialState.FINISHED if record.state is TrialState.PRUNED else record.state
        ends = [
            TrialFinished(trial=trial, state=state, message=record.message, time_ms=record.time_ms)
            for trial in sorted(self._state.running)
        ]
        return [part for end in ends for part in (*self._totals(end), end)]


def _environment(record: Record) -> Artifact:
    return Artifact(trial=None, path="environment.json", text=environment_json(), time_ms=record.time_ms)


def left_open(past: Iterable[Record], *, resigns: bool = False) -> list[Record]:
    """The ends that a study lacks because the process that ran it died.

    Args:
        past: The records.
        resigns: Whether another process ends the study itself, where it is shared.
    """
    state, last = StudyState(), 0
    for record in past:
        state.take(record)
        last = max(last, record.time_ms)
    message = "the process that ran it ended before it did"
    trials: list[Record] = [
        TrialFinished(trial=trial, state=TrialState.KILLED, message=message, time_ms=last)
        for trial in sorted(state.running)
    ]
    if not state.is_open:
        return trials
    resigned = [StudyLed(leads=False, time_ms=last)] if resigns and state.is_shared else []
    return [*trials, *resigned, StudyFinished(state=TrialState.KILLED, message=message, time_ms=last)]
