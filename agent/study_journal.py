"""A study's journal file, opened so that it can be gone on with.

Optuna appends a line for each change. A process that is killed while it appends leaves half a line, and the next line
would be written behind it: from then on nobody could read the file. So a line that was cut off is removed first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file

from ..envs.plain_files import json_of
from .journal_lock import OwnedLock

_PART = 2**16


def open_journal(path: str) -> JournalStorage:
    """The storage in a journal file, which is made unless it is there.

    Raises:
        OSError: It cannot be made, read or written.
        ValueError: It ends with something that is no entry of a journal.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is no file")
    backend = JournalFileBackend(path, lock_obj=OwnedLock(path))
    # Whoever writes holds the lock, so that half a line is nobody's who is still at it.
    with get_lock_file(backend._lock), Path(path).open("r+b") as file:
        whole = _end_of_last(file, file.seek(0, os.SEEK_END))
        file.truncate(whole)
        begin = _end_of_last(file, whole - 1) if whole else 0
        file.seek(begin)
        if whole and not isinstance(json_of(file.read(whole - begin).decode()), dict):
            raise ValueError(f"{path} does not end with an entry of a journal")
    return JournalStorage(backend)


def _end_of_last(file: IO[bytes], end: int) -> int:
    """The offset behind the last line break before an offset; 0 where there is none."""
    while end > 0:
        begin = max(end - _PART, 0)
        file.seek(begin)
        if (found := file.read(end - begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        end = begin
    return 0
