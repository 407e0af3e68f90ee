"""Takes a study's records from its journal to MLflow, in order, however often it has to try.

What is sent is a function of the journal alone, so that a shipper can take over where another one died: it replays the
part that MLflow has, sends the rest, and sending something twice changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import asdict
from itertools import islice

from ..envs.errors import ConfigurationError, StoreError
from ..envs.records import FileArtifact, Record, StudyStarted
from . import journal
from .operations import Log, Operation, StartRun, merged, pieces
from .projection import Projection
from .study_folder import StudyFolder
from .study_state import StudyState, require_sound
from .transport import Transport, UnsentError

_AT_ONCE, _LEAST_AT_ONCE, _MOST_AT_ONCE = 50, 10, 20_000
_USUAL_S = 1.0
"""How long records that are sent at once should take: what is not sent whole is sent again by whoever goes on."""

_SUSPICIOUS = 3
_log = logging.getLogger(__name__)


class Shipper:
    """One study's way to MLflow. Not thread-safe: hold the folder's shipper lock and call it from one thread.

    Args:
        folder: The study.
        transport: Where to.

    Attributes:
        sent: The offset in the journal up to which MLflow has everything.
        operations: How many it has taken from this shipper.
    """

    def __init__(self, folder: StudyFolder, transport: Transport) -> None:
        target = folder.target
        self._folder, self._transport = folder, transport
        self._projection = Projection(target.study, folder.kept_file, draw=target.plots)
        self._state, self._begun = StudyState(), False
        self._waiting: deque[Operation] = deque()
        self._lost_runs: set[str] = set()
        self._attempts, self._at_once, self._since = 0, _AT_ONCE, time.monotonic()
        self._remembers = False
        self.operations = 0
        self.sent = self._taken = folder.acknowledged
        for entry in journal.read(folder.records):
            if entry.end > self.sent:
                break
            self._operations(entry.record)
        self._projection.flush()

    def ship(self) -> bool:
        """Sends what the journal holds; returns whether there may be more.

        Raises:
            UnsentError: The store does not take anything now; what is not sent stays, and the next call goes on.
        """
        if not self._waiting:
            self._take()
        while self._waiting:
            self._send(self._waiting[0])
        if self._taken == self.sent:
            return False
        self._folder.acknowledge(self._taken)
        self.sent = self._taken
        self._pace(time.monotonic() - self._since)
        return True

    def _pace(self, took: float) -> None:
        """More records at once where they are sent quickly, fewer where they are not."""
        if took > 2 * _USUAL_S:
            self._at_once = max(self._at_once // 2, _LEAST_AT_ONCE)
        elif took < _USUAL_S / 2:
            self._at_once = min(self._at_once * 2, _MOST_AT_ONCE)

    def _take(self, most: int | None = None) -> None:
        self._remember()
        self._since = time.monotonic()
        operations: list[Operation] = []
        for entry in islice(journal.read(self._folder.records, self._taken), most or self._at_once):
            operations += self._operations(entry.record)
            self._taken = entry.end
        self._waiting.extend(merged([*operations, *self._projection.flush()]))

    def _operations(self, record: Record) -> list[Operation]:
        """What a record asks for. A journal that was altered may hold what no recorder takes: it is passed over."""
        try:
            if isinstance(record, StudyStarted):
                require_sound(record)
            elif not self._begun:
                raise ConfigurationError(f"a {type(record).__name__} came before the start of its study")
            if isinstance(record, FileArtifact) and not self._folder.keeps(record.source):
                raise ConfigurationError(f"a file artifact has no copy {record.source!r}")
            if not self._state.accepts(record):
                return []
        except ConfigurationError as error:
            _log.warning("a record of %s is passed over: %s", self._folder.records, error)
            return []
        self._state.take(record)
        self._begun = True
        return self._projection.take(record)

    def _remember(self) -> None:
        """Once: what an earlier process has done in this study and shipped whole belongs on the study's page."""
        if self._remembers:
            return
        try:
            self._projection.remember(self._transport.trials_of(self._folder.target.study))
        except StoreError as error:
            raise UnsentError(str(error), retryable=True) from error
        self._remembers = True

    def _send(self, operation: Operation) -> None:
        """Sends the first of those that wait."""
        if isinstance(operation, StartRun) and operation.parent is not None:
            operation = self._with_parent(operation, operation.parent)
        self._attempts += 1
        try:
            if operation.run not in self._lost_runs:
                self._transport.send(operation)
        except UnsentError as error:
            if not self._is_at_fault(error):
                raise
            self._give_up(operation, error)
        else:
            self._waiting.popleft()
            self.operations += 1
        self._attempts = 0

    def _with_parent(self, start: StartRun, parent: str) -> Operation:
        """What is to be sent now where a trial's run is next: that of its study, if it is not there.

        Whose run it is to make, another process's or this one's, may have changed since: by a record further on.

        Raises:
            UnsentError: Another process makes it, and has not yet.
        """
        if self._transport.has(parent):
            return start
        self._take(_MOST_AT_ONCE)
        for each in self._waiting:
            if isinstance(each, StartRun) and each.run == parent:
                self._waiting.remove(each)
                self._waiting.appendleft(each)
                return each
        if self._projection.waits_for_run:
            raise UnsentError("the study's run is for another process to make, and not there yet", retryable=True)
        return start

    def _is_at_fault(self, error: UnsentError) -> bool:
        """Whether the operation is, and not the store: what the store will never take must not hold up the rest."""
        return (not error.retryable or self._attempts >= _SUSPICIOUS) and self._transport.takes_writes()

    def _give_up(self, operation: Operation, error: UnsentError) -> None:
        """Keeps what the store will never take, the first of those that wait: of a log only the values it refuses."""
        parts = pieces(operation) if isinstance(operation, Log) else []
        if not parts:
            self._refuse(operation, error)
        self._waiting.popleft()  # not before it is kept: a full disk may have no room for it yet
        self._waiting.extendleft(reversed(parts))

    def _refuse(self, operation: Operation, error: UnsentError) -> None:
        if isinstance(operation, StartRun):
            self._lost_runs.add(operation.run)
        what = {"operation": type(operation).__name__, "reason": str(error), **asdict(operation)}
        self._folder.refuse(what)
        _log.warning(
            "the experiment store refused a %s, which is kept in %s: %s",
            type(operation).__name__,
            self._folder.path / "refused.jsonl",
            error,
        )
