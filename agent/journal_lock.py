"""The lock of a study's journal file, freed at once when whoever held it was killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import time
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock

from .cut_off_trials import is_orphan, this_process

_LONGEST_WAIT_S = 0.02
_PATIENCE_S = 1.0  # a holder that cannot be asked whether it lives is left to Optuna's rule: 30 s


class OwnedLock(JournalFileSymlinkLock):
    """Optuna's lock, a symbolic link beside the file, which here names its holder.

    Optuna frees the lock of a process that was killed after 30 seconds, in which all others wait. Here whoever waits
    looks whether the holder still lives. It keeps Optuna's own processes out, and they keep this one out.

    Args:
        path: The journal file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._link, self._guard = Path(self._lock_file), Path(f"{path}.guard")

    def acquire(self) -> bool:
        """Waits for the lock."""
        wait_s, deadline = 0.0005, time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._link.symlink_to(this_process())
                return True
            except FileExistsError:
                self._free_if_orphaned()
            if time.monotonic() > deadline and not self._names_a_process_here():
                return bool(super().acquire())
            time.sleep(wait_s)
            wait_s = min(1.5 * wait_s, _LONGEST_WAIT_S)

    def _free_if_orphaned(self) -> None:
        if not is_orphan(self._holder()):
            return
        # One at a time: whoever comes second finds another link, of somebody who lives.
        with self._guard.open("ab") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            if is_orphan(self._holder()):
                self._link.unlink(missing_ok=True)

    def _names_a_process_here(self) -> bool:
        return self._holder().startswith(this_process().partition("/")[0] + "/")

    def _holder(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            try:
                return str(self._link.readlink())
            except OSError as error:
                if error.errno != errno.EINVAL:  # Optuna's other lock is a file
                    raise
        return ""
