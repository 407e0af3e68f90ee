"""What a schedule tells a recorder: a trial that begins with the first thing there is to tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..envs.records import (
    Artifact,
    Decision,
    Metrics,
    Recorder,
    TrialFinished,
    TrialStarted,
    TrialState,
    next_trial,
)
from .policy import Policy


class ScheduleRecord:
    """One trial.

    Args:
        recorder: Where it goes.
        trial: Its number in the recorder's study; None takes the next one.
        policy: Who decides.
        name: The trial's name.
        params: The parameters that it begins with, and its tags: asked for when it begins.
    """

    def __init__(
        self,
        recorder: Recorder,
        trial: int | None,
        policy: Policy,
        name: str,
        params: Callable[[], tuple[Mapping[str, float | str], Mapping[str, str]]],
    ) -> None:
        self._recorder, self._policy, self._name, self._params = recorder, policy, name, params
        self._trial = next_trial(recorder) if trial is None else trial
        self.begun = False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of the training after so many steps."""
        self._begin()
        self._recorder.record(Metrics(trial=self._trial, step=step, values=values))

    def decision(self, **what: Any) -> None:
        """A decision: what `Decision` takes, but for the trial."""
        self._begin()
        self._recorder.record(Decision(trial=self._trial, **what))

    def finish(self, state: TrialState, message: str) -> None:
        """The trial ends, if it has begun."""
        if self.begun:
            self._recorder.record(TrialFinished(trial=self._trial, state=state, message=message))
        self.begun = False

    def _begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        params, tags = self._params()
        tags = {"metatuner.strategy": self._policy.name, **tags}
        self._recorder.record(TrialStarted(trial=self._trial, name=self._name, params=params, tags=tags))
        if self._policy.card:
            card = self._policy.card_json()
            self._recorder.record(Artifact(trial=self._trial, path="policy/card.json", text=card))
