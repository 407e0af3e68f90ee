"""What has become of a study's trials: numbers for its description and its plots."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..envs.records import (
    ParamsChosen,
    Proposal,
    Record,
    StudyStarted,
    TrialConstraints,
    TrialFinished,
    TrialStarted,
    TrialState,
)

NOT_ALLOWED = "not allowed"
"""The outcome of a trial that finished and breaks a constraint."""


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """One trial, in its latest attempt.

    Attributes:
        trial: Its number.
        attempt: Which attempt, from 0.
        run: The key of its run.
        name: What it is, for people.
        params: What it started from, as texts.
        started_ms: Milliseconds since the epoch.
        state: How it ended; None while it runs.
        value: What it is judged by; None where there is nothing, NaN where that is no number.
        seconds: How long it took.
        proposal: Why it was proposed; None where nobody told.
        allowed: Whether its constraints hold.
    """

    trial: int
    attempt: int
    run: str
    name: str
    params: Mapping[str, str]
    started_ms: int
    state: TrialState | None = None
    value: float | None = None
    seconds: float = 0.0
    proposal: Proposal | None = None
    allowed: bool = True

    @property
    def counts(self) -> bool:
        """Whether its value is one to choose by: a trial that was cut off, or is not allowed, has no such value."""
        ended = self.state is TrialState.FINISHED and self.allowed
        return ended and self.value is not None and math.isfinite(self.value)

    @property
    def outcome(self) -> str:
        """How it ended, in words."""
        if self.state is TrialState.FINISHED and not self.allowed:
            return NOT_ALLOWED
        return "running" if self.state is None else str(self.state)


class StudySummary:
    """A study's trials so far.

    Attributes:
        started: The latest start of the study.
        trials: Its trials by number, in the order in which they began.
        best: The best trial whose value counts; the earliest of equals.
    """

    def __init__(self, started: StudyStarted) -> None:
        self.started = started
        self.trials: dict[int, TrialSummary] = {}
        self.best: TrialSummary | None = None

    @property
    def maximizes(self) -> bool:
        """Whether a larger value is better."""
        return self.started.direction == "maximize"

    def begin(self, record: TrialStarted, run: str) -> None:
        """A trial, or its next attempt, began."""
        params = {name: str(value) for name, value in record.params.items()}
        self.trials[record.trial] = TrialSummary(record.trial, record.attempt, run, record.name, params, record.time_ms)

    def choose(self, record: ParamsChosen) -> None:
        """A trial's further params are known."""
        begun = self.trials[record.trial]
        params = {name: str(value) for name, value in record.params.items()}
        self.trials[record.trial] = replace(begun, params={**params, **begun.params})

    def propose(self, record: Proposal) -> None:
        """It is told why a trial was proposed."""
        self.trials[record.trial] = replace(self.trials[record.trial], proposal=record)

    def constrain(self, record: TrialConstraints) -> None:
        """It is told whether a trial is allowed."""
        self.trials[record.trial] = replace(self.trials[record.trial], allowed=record.hold)

    def end(self, record: TrialFinished, value: float | None) -> None:
        """A trial ended; `value` is what it is judged by."""
        begun = self.trials[record.trial]
        seconds = max(record.time_ms - begun.started_ms, 0) / 1000
        ended = replace(begun, state=record.state, value=value, seconds=seconds)
        self.trials[record.trial] = ended
        if self.best is not None and self.best.trial == ended.trial:
            self.best = next(iter(self.ranked()), None)  # it is told otherwise than before
        elif ended.counts and (self.best is None or self._rank(ended) < self._rank(self.best)):
            self.best = ended

    def remember(self, past: Iterable[Record], study: str) -> None:
        """Takes in what the store knows of trials that the journal does not hold, oldest first."""
        known = set(self.trials)
        for record in past:
            if isinstance(record, TrialStarted) and record.trial not in known:
                self.begin(record, run_key(study, record))
            elif isinstance(record, Proposal) and record.trial not in known:
                self.propose(record)
            elif isinstance(record, TrialConstraints) and record.trial not in known:
                self.constrain(record)
            elif isinstance(record, TrialFinished) and record.trial not in known:
                self.end(record, record.value)

    def ranked(self) -> list[TrialSummary]:
        """The trials whose values count, the best one first, the earlier one first among equals."""
        return sorted((trial for trial in self.trials.values() if trial.counts), key=self._rank)

    def _rank(self, trial: TrialSummary) -> tuple[float, int]:
        assert trial.value is not None
        return -trial.value if self.maximizes else trial.value, trial.trial

    def states(self) -> Counter[str]:
        """How many trials ended how; "running" counts those that have not."""
        return Counter(trial.outcome for trial in self.trials.values())


def run_key(study: str, record: TrialStarted) -> str:
    """The key of the run of a trial's attempt."""
    return f"{study}/{record.trial}" + (f".{record.attempt}" if record.attempt else "")


def run_title(trial: int, attempt: int, name: str, state: TrialState | None = None, value: float | None = None) -> str:
    """A run's name. What tells runs apart comes first: MLflow's list shows the first letters.

    Examples:
        "#3 tpe" while it runs, then "#3 0.0912 tpe", "#3 pruned tpe" or "#3 failed tpe".
    """
    parts = [f"#{trial}"]
    if state is TrialState.FINISHED:
        parts += [f"{value:.4g}"] if value is not None else []
    elif state is not None:
        parts.append(str(state))
    parts += [name] if name else []
    parts += [f"(attempt {attempt + 1})"] if attempt else []
    return " ".join(parts)
