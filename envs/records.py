"""What happens in a study, as plain records, and the one method that takes them.

Whoever tunes emits records; whoever remembers implements `Recorder`. Neither knows the other. A record is frozen,
holds only plain data and carries the time at which it was made, so that it can be journalled, sent later, and sent
twice without being counted twice.

The life of a study: `StudyStarted` (where several processes share it, `StudyLed` in one of them), then for each trial
`TrialStarted`, any number of `ParamsChosen`, `Proposal`, `TrialConstraints`, `Metrics`, `Decision`, `Artifact` and
`FileArtifact`, and `TrialFinished`; at the end `StudyFinished`. Metrics, artifacts and data sets whose trial is None,
and `Description`, belong to the study itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

KEY_ATTRIBUTE = "metatuner:key"
"""The user attribute of an Optuna study that holds its key (`StudyStarted`); without one it is the study's name."""

OWNER_ATTRIBUTE = "metatuner:owner"
"""The user attribute of an Optuna trial of `tune` that names the worker who runs it."""

MESSAGE_ATTRIBUTE = "metatuner:message"
"""The user attribute of an Optuna trial that tells why it failed. Of those with an owner, one without was cut off."""

VOID_ATTRIBUTE = "metatuner:void"
"""The user attribute of an Optuna trial that was given up before it began: why. Nothing of it is recorded."""

WHY_ATTRIBUTE = "metatuner:why"
"""The user attribute of an Optuna trial that tells why it was proposed: `source`, `words`, `foretold` (`Proposal`)."""


class TrialState(StrEnum):
    """How a trial or a study ended."""

    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"
    KILLED = "killed"


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """Something that happened at `time_ms` (milliseconds since the epoch)."""

    time_ms: int = field(default_factory=now_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStarted(Record):
    """A study began, or goes on.

    Attributes:
        name: Its name, for people.
        params: Its fixed settings.
        tags: For searching.
        key: Its identity: a study that starts with the key of an earlier one goes on with it, in the same place. Empty
            begins a new one.
        metric: What trials are judged by: a trial's value is this metric's last one, unless its end names another.
        direction: "minimize" or "maximize".
        space: The search space: Optuna's distributions as JSON (`optuna.distributions.distribution_to_json`), by name.
        conditions: In words, when those hyperparameters are active that are not always.
        budget: What may be spent, in words, such as "30 trials".
        command: How to do it again.
        shared: Whether other processes record trials of this study too. Then its own run is left to one of them, see
            `StudyLed`.
    """

    name: str
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    metric: str = "val/loss"
    direction: str = "minimize"
    space: Mapping[str, str] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)
    budget: str = ""
    command: str = ""
    shared: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLed(Record):
    """From here on this process records the run of a shared study itself, or no longer does.

    Attributes:
        leads: Whether it does.
    """

    leads: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSeen(Record):
    """A trial of a shared study has ended, as the study's storage has it; whoever ran it should have recorded it.

    Attributes:
        trial: Its number.
        name: What it is, for people.
        started_ms: When it began; `time_ms` is when it ended.
        params: The values it started from.
        why: Why it was proposed, as `WHY_ATTRIBUTE` holds it; empty where nobody told.
        excess: What its constraints say, as in `TrialConstraints`.
        state: How it ended.
        value: What it is judged by.
        message: Why it failed.
    """

    trial: int
    name: str
    started_ms: int
    params: Mapping[str, object] = field(default_factory=dict)
    why: Mapping[str, object] = field(default_factory=dict)
    excess: Mapping[str, float] = field(default_factory=dict)
    state: TrialState = TrialState.FINISHED
    value: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description(Record):
    """Markdown that a person reads first on the study's page. The last one stands."""

    markdown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialStarted(Record):
    """A trial began.

    A trial that failed or was killed may be started again under its number: that is its next attempt. The recorder
    counts attempts.

    Attributes:
        trial: Its number in the study.
        name: What it is, for people, such as its strategy. Recorders put number and value beside it.
        params: The values it starts from: what changes later is a metric, never a param.
        tags: For searching.
        attempt: Which attempt, from 0.
        process: The child process that it runs in, by its id; 0 for this one.
        thread: The one thread of this process that it keeps to, by its `threading.get_ident()`; 0 for all of them.
    """

    trial: int
    name: str
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    process: int = 0
    thread: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamsChosen(Record):
    """More of the values that a running trial starts from, known only now: an objective may ask for them one by one.

    Attributes:
        trial: The trial.
        params: The values, as in `TrialStarted`; those that were told before stay as they are.
        tags: For searching.
    """

    trial: int
    params: Mapping[str, object]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal(Record):
    """Why a running trial was proposed, by whoever did.

    Attributes:
        trial: The trial.
        source: Who says so, in a word, such as "prior" or "exploration".
        words: For people.
        foretold: The figures that it was chosen by, by name.
    """

    trial: int
    source: str
    words: str
    foretold: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def told(cls, trial: int, text: str, foretold: Mapping[str, float], time_ms: int) -> Proposal:
        """That of a text, "source: words"."""
        source, _, words = text.partition(": ")
        return cls(trial=trial, source=source, words=words, foretold=foretold, time_ms=time_ms)

    @classmethod
    def kept(cls, trial: int, why: Mapping[str, object], time_ms: int) -> Proposal:
        """That of a mapping such as `WHY_ATTRIBUTE` holds; what of it is none is left out."""
        figures = why.get("foretold")
        told = figures.items() if isinstance(figures, Mapping) else ()
        foretold = {str(name): float(value) for name, value in told if isinstance(value, int | float)}
        source, words = str(why.get("source", "")), str(why.get("words", ""))
        return cls(trial=trial, source=source, words=words, foretold=foretold, time_ms=time_ms)

    def __str__(self) -> str:
        return f"{self.source}: {self.words}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConstraints(Record):
    """What a running trial's constraints say of it.

    Attributes:
        trial: The trial.
        excess: By how much it exceeds each, by name: it is allowed where none is above 0, and all are numbers.
    """

    trial: int
    excess: Mapping[str, float]

    @property
    def hold(self) -> bool:
        """Whether the trial is allowed."""
        return all(value <= 0 for value in self.excess.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSetUsed(Record):
    """A study, or a trial, uses a data set.

    Attributes:
        trial: The trial; None for the study.
        name: Its name, for people.
        digest: A fingerprint of its contents, at most 36 characters (`metatuner.envs.data_sets.fingerprint`).
        context: What for: "training", "validation", "test".
        source: Where it comes from: a path, a URL or words.
        profile: Its figures, such as rows and features.
    """

    trial: int | None
    name: str
    digest: str
    context: str = "training"
    source: str = ""
    profile: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics(Record):
    """Values at a step (optimiser steps for a training). Names are sections: `train/loss`, `val/loss`, `hp/lr`."""

    trial: int | None
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision(Record):
    """A policy decided.

    Attributes:
        trial: The trial it decided for.
        number: Which decision of this trial, from 0.
        step: Optimiser steps done when it was taken.
        signals: What the policy saw, by name.
        adjustments: What it answered, per hyperparameter, in [-1, 1].
        values: The hyperparameters that follow from it.
        reward: What the interval before this decision earned; NaN for the first decision.
        note: Anything out of the ordinary ("diverged: rolled back"), else empty.
    """

    trial: int
    number: int
    step: int
    signals: Mapping[str, float]
    adjustments: Mapping[str, float]
    values: Mapping[str, float]
    reward: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact(Record):
    """A text file to keep, such as a policy's card. `path` is relative, with forward slashes."""

    trial: int | None
    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FileArtifact(Record):
    """A file to keep, such as a checkpoint: copied from `source` when the record is taken, so it may change after."""

    trial: int | None
    path: str
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFinished(Record):
    """A trial ended.

    Attributes:
        trial: Which one.
        state: How.
        message: Why, where it failed or was pruned.
        value: What it is judged by. None: the last value of the study's metric.
        costs: What whoever ran it has measured, such as `resource/cpu_s` of a child process that is gone: it stands
            before what the recorder measures.
    """

    trial: int
    state: TrialState = TrialState.FINISHED
    message: str = ""
    value: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFinished(Record):
    """A study ended."""

    state: TrialState = TrialState.FINISHED
    message: str = ""


@runtime_checkable
class Recorder(Protocol):
    """Whoever remembers."""

    def record(self, record: Record, /) -> None:
        """Take one record. Must not raise for want of a server: what cannot be sent now is kept."""


_trials: WeakKeyDictionary[Recorder, count[int]] = WeakKeyDictionary()


def next_trial(recorder: Recorder) -> int:
    """A number for a trial that was given none: 0, 1, 2, ... for each recorder."""
    return next(_trials.setdefault(recorder, count()))


class NullRecorder:
    """Remembers nothing: the default where recording is optional."""

    def record(self, record: Record, /) -> None:
        """Drop the record."""
