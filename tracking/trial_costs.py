"""A trial's resources as records: points while it runs long, totals at its end."""

from __future__ import annotations

import os

from ..envs.records import Metrics, TrialFinished, TrialStarted
from .resources import ResourceMeter
from .sampling import SamplingDistances
from .scopes import OneThread, ProcessTree, Scope, WholeProcess


class TrialCosts:
    """Measures one trial from now on.

    Args:
        trial: Its start, which says where it runs.
        distances: How far apart points are.

    Attributes:
        scope: Whose figures they are: "process", "thread" or "subprocess".
        step: The trial's latest step, at which figures are recorded.
    """

    def __init__(self, trial: TrialStarted, distances: SamplingDistances) -> None:
        scope = _scope(trial)
        self.scope = scope.name
        self.step = 0
        self._trial, self._distances = trial.trial, distances
        self._due_s = distances.first_s
        self._meter = ResourceMeter(scope)
        self._meter.start()

    def point(self) -> list[Metrics]:
        """The figures of now, if they are due; looks in any case."""
        elapsed = self._meter.elapsed_s
        if elapsed < self._due_s:
            self._meter.sample()
            return []
        self._due_s = self._distances.next_after(elapsed)
        values = self._meter.point()
        return [Metrics(trial=self._trial, step=self.step, values=values)] if values else []

    def totals(self, end: TrialFinished) -> Metrics:
        """The figures of all of it. What the end of the trial says stands before what was measured here."""
        values = {**self._meter.stop(), **end.costs}
        return Metrics(trial=self._trial, step=self.step, values=values, time_ms=end.time_ms)


def _scope(trial: TrialStarted) -> Scope:
    if trial.process not in (0, os.getpid()):
        return ProcessTree(trial.process)
    return OneThread(trial.thread) if trial.thread else WholeProcess()
