"""A write-ahead journal of records: one study, one file, on local disk. No MLflow, no network.

Each line is a checksum and a record as JSON. What `append` has written survives the death of the process; what it has
synced survives the death of the machine. A line that was cut off is at the end of the file by construction: a reader
stops before it, and the next writer cuts it away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..envs.errors import StoreError
from ..envs.records import Record, StudyFinished, StudyStarted, TrialFinished, TrialStarted
from .codec import decode, encode

_SYNCED = (StudyStarted, StudyFinished, TrialStarted, TrialFinished)
_CHECKSUM = 8  # hexadecimal digits, then a space
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A record, and the offset behind it in the file."""

    record: Record
    end: int


class JournalWriter:
    """Appends records.

    A disk that is full stops nothing: what does not fit waits in memory and is written as soon as there is room.

    Args:
        path: The file; it is made unless it exists, and a cut-off line at its end is removed.

    Raises:
        OSError: The file cannot be made or read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = intact_end(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, self._end)
        self._waiting = b""
        self._waiting_records = 0

    @property
    def end(self) -> int:
        """The offset behind the last record on disk."""
        return self._end

    @property
    def unwritten(self) -> int:
        """Records that the disk has no room for."""
        return self._waiting_records

    def append(self, record: Record) -> None:
        """Writes a record; at the start and the end of a trial and of a study, waits until the disk has it."""
        self._waiting += _line(record)
        self._waiting_records += 1
        try:
            self._write()
            if isinstance(record, _SYNCED):
                os.fsync(self._file)
        except OSError as error:
            if self._waiting_records == 1:
                _log.warning(
                    "the journal %s cannot be written now (%s); records wait in memory: make room on its disk",
                    self._path,
                    error.strerror,
                )

    def write_waiting(self) -> bool:
        """Writes what waits, if there is room now; returns whether nothing waits any more."""
        with contextlib.suppress(OSError):
            self._write()
        return not self._waiting

    def close(self) -> None:
        """Writes what waits, if there is room now, and closes the file; `unwritten` tells what is lost."""
        self.write_waiting()
        os.close(self._file)

    def _write(self) -> None:
        written = 0
        try:
            while written < len(self._waiting):
                written += os.pwrite(self._file, self._waiting[written:], self._end + written)
        except OSError:
            os.ftruncate(self._file, self._end)  # half a line would hide every line after it
            raise
        self._end += written
        self._waiting, self._waiting_records = b"", 0


def read(path: Path, start: int = 0) -> Iterator[Entry]:
    """The records from an offset on, up to the end or to the first line that is not whole.

    A whole line that is no record of this version is passed over with a warning.

    Raises:
        StoreError: The file cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"the journal {path} cannot be read ({error.strerror}): restore or delete it") from error
    with file:
        file.seek(start)
        end = start
        for line in file:
            if (text := _checked(line)) is None:
                return
            end += len(line)
            try:
                yield Entry(decode(text), end)
            except ValueError as error:
                _log.warning("a line of %s is passed over: %s", path, error)


def intact_end(path: Path) -> int:
    """The offset behind the last whole line."""
    if not path.exists():
        return 0
    end = 0
    with path.open("rb") as file:
        for line in file:
            if _checked(line) is None:
                break
            end += len(line)
    return end


def _line(record: Record) -> bytes:
    text = encode(record).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _checked(line: bytes) -> str | None:
    """The text of a line, unless the line was cut off or damaged."""
    checksum, text = line[:_CHECKSUM], line[_CHECKSUM + 1 : -1]
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return text.decode("utf-8", "replace")
