"""What is open and what is over in a study, and which records make sense next."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from ..envs.errors import ConfigurationError
from ..envs.plain_files import json_of
from ..envs.records import (
    Artifact,
    FileArtifact,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialSeen,
    TrialStarted,
    TrialState,
)
from .codec import is_known

_REPEATABLE = (TrialState.FAILED, TrialState.KILLED)
_log = logging.getLogger(__name__)


class StudyState:
    """The state of a study, as its records tell it.

    Attributes:
        is_open: Whether the study has started and not ended.
        is_shared: Whether other processes may record it too.
        running: Numbers of trials that have started and not ended.
        trial_tags: Tags of trials by number, those that they had when they began.
    """

    def __init__(self) -> None:
        self.is_open = self.is_shared = False
        self.running: set[int] = set()
        self.trial_tags: dict[int, Mapping[str, str]] = {}
        self._over: dict[int, TrialState] = {}
        self._attempts: dict[int, int] = {}
        self._started_ms: dict[int | None, int] = defaultdict(int)

    @property
    def ended(self) -> frozenset[int]:
        """Numbers of trials that ended, however."""
        return frozenset(self._over)

    @property
    def finished(self) -> frozenset[int]:
        """Numbers of trials that need not be run again: they finished, or were pruned."""
        return frozenset(trial for trial, state in self._over.items() if state not in _REPEATABLE)

    def next_attempt(self, trial: int) -> int:
        """The number of the attempt that a trial would start now, from 0."""
        return self._attempts.get(trial, -1) + 1

    def accepts(self, record: Record) -> bool:
        """Whether a record is taken in; one that comes after its trial's end is not, and is warned of.

        Raises:
            ConfigurationError: It makes no sense: no record at all, a trial that was never started or is started
                twice, or an artifact's path that leaves its folder.
        """
        if not is_known(record):
            raise ConfigurationError(f"expected a record of metatuner.envs.records, got {type(record).__name__}")
        if isinstance(record, TrialStarted):
            self._require_startable(record.trial)
            return True
        if isinstance(record, Artifact | FileArtifact):
            _require_relative(record.path)
        trial = None if isinstance(record, TrialSeen) else getattr(record, "trial", None)
        if trial is None or trial in self.running:
            return True
        if trial not in self._over:
            raise ConfigurationError(f"trial {trial} was not started: record TrialStarted first")
        _log.warning("a record of trial %d came after its end and was dropped", trial)
        return False

    def in_time(self, record: Record) -> Record:
        """The record; an end that is before its start moves to the start.

        A clock was set back in between, or the end is by another machine's clock: how long it took, nobody knows.
        """
        match record:
            case TrialSeen():
                return replace(record, time_ms=max(record.time_ms, record.started_ms))
            case TrialFinished():
                return replace(record, time_ms=max(record.time_ms, self._started_ms[record.trial]))
            case StudyFinished():
                return replace(record, time_ms=max(record.time_ms, self._started_ms[None]))
        return record

    def take(self, record: Record) -> None:
        """Notes what an accepted record changes."""
        match record:
            case StudyStarted():
                self.is_open, self.is_shared = True, record.shared
                self._started_ms[None] = max(record.time_ms, self._started_ms[None])
            case StudyFinished():
                self.is_open = False
            case TrialStarted():
                self.running.add(record.trial)
                self._attempts[record.trial] = record.attempt
                self.trial_tags[record.trial] = record.tags
                self._started_ms[record.trial] = record.time_ms
            case TrialFinished():
                self.running.discard(record.trial)
                self._over[record.trial] = record.state

    def _require_startable(self, trial: int) -> None:
        if trial in self.running or self._over.get(trial, TrialState.KILLED) not in _REPEATABLE:
            raise ConfigurationError(f"trial {trial} was started before; give each trial a number of its own")


def require_sound(study: StudyStarted) -> None:
    """Refuses a study whose records nobody could tell anything from.

    Raises:
        ConfigurationError: Its direction is none, or a distribution of its search space is not Optuna's JSON.
    """
    if study.direction not in ("minimize", "maximize"):
        raise ConfigurationError(f"expected the direction minimize or maximize, got {study.direction!r}")
    if not study.space:
        return
    from optuna.distributions import json_to_distribution

    for name, text in study.space.items():
        try:
            json_of(text)
            json_to_distribution(text)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(
                f"expected {name!r} of the search space as JSON of optuna.distributions.distribution_to_json, got "
                f"{text!r}"
            ) from error


def _require_relative(path: str) -> None:
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise ConfigurationError(f"expected an artifact's path to be relative with forward slashes, got {path!r}")
