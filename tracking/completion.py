"""Adds to the records what only the process that runs the study knows: its circumstances and its costs.

Records are completed where and when they are made, before anything is journalled or sent: a program that sends them
later would measure itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..envs.records import (
    Artifact,
    Metrics,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
    now_ms,
)
from .facts import environment_json, study_tags
from .resources import ResourceMeter
from .study_state import StudyState


class Completion:
    """Completes the records of one study, so that it and every trial has a start, an end and its costs.

    Args:
        past: The records of the study so far, where it goes on.
    """

    def __init__(self, past: Iterable[Record] = ()) -> None:
        self._state = StudyState()
        self._meters: dict[int, ResourceMeter] = {}
        self._steps: dict[int, int] = {}
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

    def complete(self, record: Record) -> list[Record]:
        """The record with what belongs before and after it; nothing where it came too late.

        Raises:
            ConfigurationError: It makes no sense here, such as a metric of a trial that was never started.
        """
        if not self._state.accepts(record):
            return []
        completed = self._completed(record)
        for each in completed:
            self._state.take(each)
        return completed

    def finish(self, state: TrialState, message: str = "", time_ms: int | None = None) -> list[Record]:
        """The ends of whatever is open."""
        if not self.is_open:
            return []
        ended = now_ms() if time_ms is None else time_ms
        return self.complete(StudyFinished(state=state, message=message, time_ms=ended))

    def sample(self) -> None:
        """Let running meters read what the system keeps only for some seconds."""
        for meter in list(self._meters.values()):
            meter.sample()

    def _completed(self, record: Record) -> list[Record]:
        match record:
            case StudyStarted():
                environment = Artifact(
                    trial=None, path="environment.json", text=environment_json(), time_ms=record.time_ms
                )
                return [replace(record, tags={**study_tags(), **record.tags}), environment]
            case StudyFinished():
                return [*self._finish_trials(record), record]
            case TrialStarted():
                self._meters[record.trial], self._steps[record.trial] = ResourceMeter(), 0
                self._meters[record.trial].start()
                return [replace(record, attempt=self._state.next_attempt(record.trial))]
            case TrialFinished():
                return [*self._costs(record), record]
            case Metrics(trial=int() as trial, step=step) if trial in self._steps:
                self._steps[trial] = max(self._steps[trial], step)
        return [record]

    def _costs(self, record: TrialFinished) -> list[Record]:
        meter, step = self._meters.pop(record.trial, None), self._steps.pop(record.trial, 0)
        if meter is None:  # another process ran it, and died
            return []
        return [Metrics(trial=record.trial, step=step, values=meter.stop(), time_ms=record.time_ms)]

    def _finish_trials(self, record: StudyFinished) -> list[Record]:
        state = TrialState.FINISHED if record.state is TrialState.PRUNED else record.state
        ends = [
            TrialFinished(trial=trial, state=state, message=record.message, time_ms=record.time_ms)
            for trial in sorted(self._state.running)
        ]
        return [part for end in ends for part in (*self._costs(end), end)]


def left_open(past: Iterable[Record]) -> list[Record]:
    """The ends that a study lacks because the process that ran it died."""
    state, last = StudyState(), 0
    for record in past:
        state.take(record)
        last = max(last, record.time_ms)
    message = "the process that ran it ended before it did"
    trials = [
        TrialFinished(trial=trial, state=TrialState.KILLED, message=message, time_ms=last)
        for trial in sorted(state.running)
    ]
    study = [StudyFinished(state=TrialState.KILLED, message=message, time_ms=last)] if state.is_open else []
    return [*trials, *study]
