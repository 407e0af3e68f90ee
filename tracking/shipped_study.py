"""A study that is journalled by whoever records and shipped to MLflow by one thread in the background."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..envs.errors import StoreError
from ..envs.records import Artifact, FileArtifact, Record
from . import journal
from .completion import left_open
from .file_copy import NotCopiedError
from .journal import JournalWriter
from .shipper import Shipper
from .study_folder import JOURNAL_VARIABLE, StudyFolder
from .transport import Transport, UnsentError

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 5.0
NOT_KEPT = ".not-kept.txt"
_SILENT_S = 3.0  # of waiting at the end, before that is said
_PARTING_S = 1.0  # a call that hangs is not waited for: the thread ends with it, or with the process
_log = logging.getLogger(__name__)


class StudyInUseError(StoreError):
    """Another process records the study in the same folder."""


class ShippedStudy:
    """A study's journal, open for writing, and the thread that ships it.

    Args:
        folder: The study. What a process that died over it left open is closed as killed.
        transport: Where to.
        every: Seconds after which new records are shipped at the latest.
        tick: Called once in that time, from the thread.

    Attributes:
        past: The records of the study so far.
        key: The key of its run.

    Raises:
        StudyInUseError: Another process records this study here.
        StoreError: The folder cannot be written.
    """

    def __init__(
        self, folder: StudyFolder, transport: Transport, *, every: float, tick: Callable[[], None] = lambda: None
    ) -> None:
        self._folder, self._transport, self._every, self._tick = folder, transport, every, tick
        self._lock = contextlib.ExitStack()
        with folder.needed():
            if not self._lock.enter_context(folder.lock("writer")):
                self._lock.close()
                raise StudyInUseError(
                    f"another process records this study in {folder.path}: wait until it ends, or give this one "
                    "another name or folder"
                )
            self.key = folder.target.study
            self.past = [entry.record for entry in journal.read(folder.records)]
            self._writer = JournalWriter(folder.records)
        self._keeps_files = True
        for record in left_open(self.past, resigns=True):
            self.append(record)
            self.past.append(record)
        self._wanted, self._closed, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._progress = threading.Condition()
        self._shipped, self._failures = 0, 0
        self._shipper: Shipper | None = None
        self._thread = threading.Thread(target=self._run, name="metatuner-shipper", daemon=True)
        self._thread.start()

    @property
    def unshipped(self) -> int:
        """How many records are still to be shipped."""
        return self._folder.remaining

    def append(self, record: Record) -> None:
        """Journals a record, and for a file artifact a copy of its file; it is shipped later.

        Raises:
            OSError: The file cannot be read.
        """
        self._writer.append(self._with_copy(record) if isinstance(record, FileArtifact) else record)

    def _with_copy(self, record: FileArtifact) -> Record:
        """The artifact with its copy; where the disk does not take one, a text in its place that says so."""
        try:
            kept = replace(record, source=self._folder.keep_file(record.source))
        except NotCopiedError as error:
            size = Path(record.source).stat().st_size
            note = f"{record.path} ({size:,} bytes) was not kept: its copy did not fit into the journal ({error})"
            if self._keeps_files:  # one warning a row of them; each has its text
                _log.warning(
                    "%s. The study goes on without it. Make room in %s, or name a folder on another disk with "
                    "journal=... or %s",
                    note,
                    self._folder.path.parent,
                    JOURNAL_VARIABLE,
                )
            self._keeps_files = False
            return Artifact(trial=record.trial, path=f"{record.path}{NOT_KEPT}", text=note, time_ms=record.time_ms)
        self._keeps_files = True
        return kept

    def flush(self, seconds: float) -> bool:
        """Ships now; waits at most so long, and tells whether everything has been shipped."""
        with self._progress:
            self._wanted.set()
            self._progress.wait_for(lambda: self._done or not self._thread.is_alive(), seconds)
            return self._done

    def close(self, seconds: float) -> int:
        """Ends the writing and ships, as long as the store takes anything in so many seconds.

        On a full disk the writing waits as long for room. A study that has been shipped whole leaves nothing behind. A
        store that has never answered is asked once more, and not waited for.

        Returns:
            How many records are still to be shipped.
        """
        deadline = time.monotonic() + seconds
        while not self._writer.write_waiting() and time.monotonic() < deadline:
            self.flush(_FIRST_WAIT_S)  # copies of files that have been sent leave room behind
            time.sleep(_FIRST_WAIT_S)
        self._writer.close()
        if self._writer.unwritten:
            _log.error(
                "%d records are lost: the disk of the journal %s had no room for them; make some before the study "
                "goes on",
                self._writer.unwritten,
                self._folder.path.parent,
            )
        self._closed.set()
        done = self._wait(seconds)
        self._given_up.set()
        self._wanted.set()
        self._thread.join(None if done else _PARTING_S)
        if done and not self._writer.unwritten:
            # Here and not in the thread: only who holds the writer's lock may be sure that nobody writes.
            self._remove_if_whole()
        remaining = 0 if done else self._folder.remaining
        self._lock.close()
        return remaining

    def _wait(self, seconds: float) -> bool:
        """Until all is shipped, or the store takes nothing for so long; returns whether all is."""
        failures = self._failures

        def over() -> bool:
            return self._done or (self._failures > failures and not self._transport.experiment_id)

        with self._progress:
            self._wanted.set()
            if not self._progress.wait_for(over, min(seconds, _SILENT_S)) and seconds > _SILENT_S:
                _log.warning(
                    "sending %d records to the experiment store; they are kept, should you not wait for it",
                    self._folder.remaining,
                )
            taken = -1
            while taken < self._taken and not over():
                taken = self._taken
                self._progress.wait_for(over, seconds)
            return self._done

    @property
    def _taken(self) -> int:
        """How often the store has taken something."""
        return self._shipper.operations if self._shipper is not None else 0

    @property
    def _done(self) -> bool:
        return self._shipped >= self._writer.end

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            while not stack.enter_context(self._folder.lock("shipper")):
                if self._closed.wait(0.2):
                    return  # whoever ships it already will finish it
            self._ship_until_closed()

    def _ship_until_closed(self) -> None:
        self._shipper = shipper = Shipper(self._folder, self._transport)
        wait = 0.0
        while True:
            last = self._closed.is_set()
            self._wanted.clear()
            try:
                self._tick()
                while shipper.ship():
                    self._tell(shipper)
                wait = 0.0
                self._tell(shipper)
                if last:
                    return
            except Exception as error:
                if not wait:
                    self._warn(error)
                wait = min(max(2 * wait, _FIRST_WAIT_S), _LONGEST_WAIT_S)
                self._tell(shipper, failed=True)
            self._wanted.wait(wait or self._every)
            if wait and self._given_up.is_set():
                return

    def _tell(self, shipper: Shipper, *, failed: bool = False) -> None:
        with self._progress:
            self._shipped = shipper.sent
            self._failures += failed
            self._progress.notify_all()

    def _warn(self, error: Exception) -> None:
        if isinstance(error, UnsentError) and self._transport.experiment_id is None:
            return  # whoever opened the store has said so
        if isinstance(error, UnsentError):
            _log.warning(
                "the experiment store cannot be written now; records are kept in %s and sent later: %s",
                self._folder.path,
                error,
            )
        elif isinstance(error, OSError):
            _log.warning("the journal %s cannot be written now; sending goes on later: %s", self._folder.path, error)
        else:
            _log.error("the recorder could not send", exc_info=error)

    def _remove_if_whole(self) -> None:
        if self._folder.refused:
            _log.warning("what the experiment store refused is kept in %s", self._folder.path / "refused.jsonl")
        else:
            self._folder.remove()
