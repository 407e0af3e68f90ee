"""Adds to the records what only the process that runs the study knows: its circumstances and its costs.

Records are completed where and when they are made, before anything is journalled or sent: a program that sends them
later would measure itself.
"""

from __future__ import annotations

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


class Completion:
    """Completes a stream of records, so that every trial has a study, an end and its costs.

    Args:
        default_study: The name of the study that is started for a trial that has none.
    """

    def __init__(self, default_study: str) -> None:
        self._default_study = default_study
        self._study_open = False
        self._meters: dict[int, ResourceMeter] = {}
        self._steps: dict[int, int] = {}

    def complete(self, record: Record) -> list[Record]:
        """The record, with what belongs before and after it."""
        match record:
            case StudyStarted():
                return [*self.finish(TrialState.FINISHED, time_ms=record.time_ms), *self._start_study(record)]
            case StudyFinished():
                return [*self._finish_trials(record.state, record.message, record.time_ms), *self._finish_study(record)]
            case TrialStarted():
                before = self._study_for(record)
                self._meters[record.trial], self._steps[record.trial] = ResourceMeter(), 0
                self._meters[record.trial].start()
                return [*before, record]
            case TrialFinished():
                return self._finish_trial(record)
            case Metrics(trial=int() as trial, step=step) if trial in self._steps:
                self._steps[trial] = max(self._steps[trial], step)
        return [*self._study_for(record), record]

    def finish(self, state: TrialState, message: str = "", time_ms: int | None = None) -> list[Record]:
        """The ends of whatever is open."""
        if not self._study_open:
            return []
        ended = now_ms() if time_ms is None else time_ms
        return self.complete(StudyFinished(state=state, message=message, time_ms=ended))

    def sample(self) -> None:
        """Let running meters read what the system keeps only for some seconds."""
        for meter in self._meters.values():
            meter.sample()

    def _study_for(self, record: Record) -> list[Record]:
        if self._study_open:
            return []
        return self._start_study(StudyStarted(name=self._default_study, time_ms=record.time_ms))

    def _start_study(self, record: StudyStarted) -> list[Record]:
        self._study_open = True
        self._meters.clear()
        environment = Artifact(trial=None, path="environment.json", text=environment_json(), time_ms=record.time_ms)
        return [replace(record, tags={**study_tags(), **record.tags}), environment]

    def _finish_trial(self, record: TrialFinished) -> list[Record]:
        if (meter := self._meters.pop(record.trial, None)) is None:
            return [*self._study_for(record), record]
        step = self._steps.pop(record.trial)
        return [Metrics(trial=record.trial, step=step, values=meter.stop(), time_ms=record.time_ms), record]

    def _finish_trials(self, state: TrialState, message: str, time_ms: int) -> list[Record]:
        trial_state = TrialState.FINISHED if state is TrialState.PRUNED else state
        open_trials = list(self._meters)
        return [
            part
            for trial in open_trials
            for part in self._finish_trial(
                TrialFinished(trial=trial, state=trial_state, message=message, time_ms=time_ms)
            )
        ]

    def _finish_study(self, record: StudyFinished) -> list[Record]:
        was_open, self._study_open = self._study_open, False
        return [record] if was_open else []
