"""A storage that is waited for: a database that restarts, or a disk that is full for a while, costs no trial."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import re
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from ..envs.errors import StoreUnreachableError

_T = TypeVar("_T")
PATIENCE_S = 120.0
_FULL_PATIENCE_S = 60.0  # a database comes back by itself; a disk is emptied by whoever has read that it is full
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0
# SQLAlchemy's; drivers have subclasses of the same names, which arrive bare where a connection is opened.
_BROKEN = {"OperationalError", "InterfaceError", "PendingRollbackError", "ResourceClosedError"}
_AWAY = ("UNAVAILABLE", "UNKNOWN")  # the proxy is away; the database behind it is
# In the words of the system, SQLite, MariaDB, MySQL and PostgreSQL.
_FULL = re.compile(r"disk (is )?full|no space left|quota exceeded|table .* is full", re.IGNORECASE)
_LONGEST_TEXT = 200
_log = logging.getLogger(__name__)


class PatientStorage(BaseStorage):
    """Another storage whose calls are tried again while it is away.

    Every call may be made twice without harm but one: a trial that was begun, and whose number got lost on the way, is
    there without anybody who runs it. Whoever begins trials looks for those of its own that it does not know.

    Args:
        storage: The storage.
        patience_s: Seconds that it is asked again, from when it was away first, and half of the usual at most where
            a disk is full; then calls raise `StoreUnreachableError`.
    """

    def __init__(self, storage: BaseStorage, patience_s: float = PATIENCE_S) -> None:
        self._storage, self._patience_s = storage, patience_s
        # Since when it has not answered, by whether it was written to: a full disk can still be read. All calls share
        # it, so that one which comes later, such as a worker's farewell, does not wait as long again.
        self._away_since_s: dict[bool, float] = {}

    def _read(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return self._ask(False, call, arguments)

    def _write(self, call: Callable[..., _T], *arguments: Any) -> _T:
        return self._ask(True, call, arguments)

    def _ask(self, writes: bool, call: Callable[..., _T], arguments: Sequence[Any]) -> _T:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                answer = call(*arguments)
            except Exception as error:
                if not is_away(error):
                    self._has_answered(writes)
                    raise
                self._note_away(writes, error)
            else:
                self._has_answered(writes)
                return answer
            with contextlib.suppress(Exception):
                self._storage.remove_session()  # what is left of a connection that broke is of no use
            time.sleep(wait_s * random.uniform(0.5, 1.0))  # not all workers at once
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _has_answered(self, writes: bool) -> None:
        if self._away_since_s:
            self._away_since_s.pop(False, None)
            if writes:
                self._away_since_s.pop(True, None)

    def _note_away(self, writes: bool, error: Exception) -> None:
        """It did not answer.

        Raises:
            StoreUnreachableError: It has not for too long.
        """
        now, full = time.monotonic(), is_full(error)
        patience_s = min(self._patience_s, _FULL_PATIENCE_S) if full else self._patience_s
        if self._away_since_s.setdefault(writes, now) == now:
            if full:
                _log.warning(
                    "the disk of the study's storage is full: free some space; for %g s it is tried again", patience_s
                )
            else:
                _log.info("the study's storage does not answer, and is asked again")
        if now - min(self._away_since_s.copy().values(), default=now) > patience_s:
            what = "is on a disk that is full" if full else "does not answer"
            then = "free some space" if full else "see to it that it does"
            raise StoreUnreachableError(
                f"the study's storage {what}, {patience_s:g} s long ({in_short(error)}): {then}, and give the "
                "same command, or call `tune`, again. Trials that have finished are kept; one that ran is tried again"
            ) from error

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """As Optuna's, like all that follow."""
        return self._write(self._storage.create_new_study, directions, study_name)

    def delete_study(self, study_id: int) -> None:
        """Deletes a study."""
        self._write(self._storage.delete_study, study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Sets a study's user attribute."""
        self._write(self._storage.set_study_user_attr, study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Sets a study's system attribute."""
        self._write(self._storage.set_study_system_attr, study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        """A study's id."""
        return self._read(self._storage.get_study_id_from_name, study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """A study's name."""
        return self._read(self._storage.get_study_name_from_id, study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """A study's directions."""
        return self._read(self._storage.get_study_directions, study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """A study's user attributes."""
        return self._read(self._storage.get_study_user_attrs, study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """A study's system attributes."""
        return self._read(self._storage.get_study_system_attrs, study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies."""
        return self._read(self._storage.get_all_studies)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Begins a trial."""
        return self._write(self._storage.create_new_trial, study_id, template_trial)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Sets a hyperparameter."""
        self._write(self._storage.set_trial_param, trial_id, param_name, param_value_internal, distribution)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """A trial's id."""
        return self._read(self._storage.get_trial_id_from_study_id_trial_number, study_id, trial_number)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Sets a trial's state and values. Where the answer was lost, what was asked for may have been done."""
        tried = False

        def call() -> bool:
            nonlocal tried
            again, tried = tried, True
            try:
                return self._storage.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                if again and self._storage.get_trial(trial_id).state is state:
                    return True
                raise

        return self._write(call)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Reports a value."""
        self._write(self._storage.set_trial_intermediate_value, trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a trial's user attribute."""
        self._write(self._storage.set_trial_user_attr, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets a trial's system attribute."""
        self._write(self._storage.set_trial_system_attr, trial_id, key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial."""
        return self._read(self._storage.get_trial, trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials."""
        return self._read(self._storage.get_all_trials, study_id, deepcopy, states)

    def remove_session(self) -> None:
        """Lets go of this thread's connection."""
        self._storage.remove_session()


def is_away(error: Exception) -> bool:
    """Whether an error of a storage says that it is away, or cannot be written to, so that it may answer later."""
    cause = _cause(error)
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    if getattr(cause, "connection_invalidated", False) or kinds & _BROKEN:
        return True
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):  # a journal file's
        return True
    code = getattr(error, "code", None)  # of a call by gRPC
    return callable(code) and getattr(code(), "name", "") in _AWAY


def is_full(error: BaseException) -> bool:
    """Whether an error of a storage says that there is no room where it lies."""
    return _FULL.search(str(_cause(error))) is not None


def _cause(error: BaseException) -> BaseException:
    return error.__cause__ or error if isinstance(error, StorageInternalError) else error


def in_short(error: Exception) -> str:
    """What a database's driver said, without the statement that it was asked to run."""
    cause = _cause(error)
    text = " ".join(str(getattr(cause, "orig", None) or cause).split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
