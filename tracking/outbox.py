"""Operations on their way, in order. What cannot be sent now is kept and tried again later."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable

from .operations import Operation, StartRun
from .transport import Transport, UnsentError

_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 60.0
_SUSPICIOUS = 3
_log = logging.getLogger(__name__)


class Outbox:
    """Sends through a transport, oldest first: a run must be there before its metrics.

    A store that cannot be reached is left alone for a while, so that a training does not wait for it at every step.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._waiting: deque[Operation] = deque()
        self._attempts = 0
        self._retry_at = 0.0
        self._lost_runs: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, operations: Iterable[Operation]) -> None:
        """Put operations at the end."""
        self._waiting.extend(operations)

    def send(self, *, force: bool = False) -> None:
        """Send what can be sent.

        Args:
            force: Try even a store that failed a moment ago.
        """
        if not force and time.monotonic() < self._retry_at:
            return
        while self._waiting:
            operation = self._waiting[0]
            self._attempts += 1  # counted before: an interrupt must not make the next attempt look like the first
            try:
                if operation.run not in self._lost_runs:
                    self._transport.send(operation, again=self._attempts > 1)
            except UnsentError as error:
                if error.retryable and not self._is_at_fault():
                    self._wait(error)
                    return
                self._drop(operation, error)
            self._waiting.popleft()
            self._attempts = 0

    def _is_at_fault(self) -> bool:
        return self._attempts >= _SUSPICIOUS and self._transport.is_alive()

    def _wait(self, error: UnsentError) -> None:
        if self._attempts == 1:
            _log.warning("the experiment store cannot be written now; records are kept and sent later: %s", error)
        self._retry_at = time.monotonic() + min(_FIRST_WAIT_S * 2 ** (self._attempts - 1), _LONGEST_WAIT_S)

    def _drop(self, operation: Operation, error: UnsentError) -> None:
        if isinstance(operation, StartRun):
            self._lost_runs.add(operation.run)
        _log.warning("the experiment store refused a %s, which is lost: %s", type(operation).__name__, error)
