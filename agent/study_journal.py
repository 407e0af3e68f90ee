"""A study's journal file, opened so that it can be gone on with.

Optuna appends a line for each change. A process that is killed while it appends, or finds the disk full in the middle,
leaves half a line, and the next line would be written behind it: from then on nobody could read the file. So a line
that was cut off is removed first, when the file is opened and whenever something is appended.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from ..envs.plain_files import json_of
from .journal_lock import OwnedLock

_PART = 2**16


class _WholeLines(JournalFileBackend):
    """Optuna's, which here appends to whole lines only."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends changes, each as a line of JSON; where that fails, half a line may be left to whoever comes next."""
        data = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        # Whoever writes holds the lock, so that half a line is nobody's who is still at it.
        with get_lock_file(self._lock), Path(self._file_path).open("a+b", buffering=0) as file:
            _remove_half_line(file)
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())


def open_journal(path: str) -> JournalStorage:
    """The storage in a journal file, which is made unless it is there.

    Raises:
        OSError: It cannot be made, read or written.
        ValueError: It ends with something that is no entry of a journal.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is no file")
    path = str(Path(path).absolute())  # an objective may change the working directory
    backend = _WholeLines(path, lock_obj=OwnedLock(path))
    with get_lock_file(backend._lock), Path(path).open("r+b") as file:
        whole = _remove_half_line(file)
        begin = _end_of_last(file, whole - 1) if whole else 0
        file.seek(begin)
        if whole and not isinstance(json_of(file.read(whole - begin).decode()), dict):
            raise ValueError(f"{path} does not end with an entry of a journal")
    return JournalStorage(backend)


def _remove_half_line(file: IO[bytes]) -> int:
    """Removes a line that was cut off from a file's end; returns the file's size."""
    size = file.seek(0, os.SEEK_END)
    whole = _end_of_last(file, size)
    if whole < size:
        file.truncate(whole)
    return whole


def _end_of_last(file: IO[bytes], end: int) -> int:
    """The offset behind the last line break before an offset; 0 where there is none."""
    while end > 0:
        begin = max(end - _PART, 0)
        file.seek(begin)
        if (found := file.read(end - begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        end = begin
    return 0
