"""What database servers of one's own have in common: a temporary folder, a port of loopback, an account to run as."""

from __future__ import annotations

import abc
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Server(abc.ABC):
    """A server, from `with` to the end of it, and its data with it.

    Args:
        account: What it runs as where this process is the superuser's.
    """

    def __init__(self, account: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"workers-{account}-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.as_other: dict[str, Any] = {"user": account, "group": account} if os.getuid() == 0 else {}
        self._account, self._databases = account, 0

    def __enter__(self) -> Self:
        if self.as_other:
            shutil.chown(self.folder, self._account, self._account)
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def database(self) -> str:
        """The address of a new database."""
        self._databases += 1
        return self._make(f"studies{self._databases}")

    @abc.abstractmethod
    def restart(self, *, crash: bool) -> None:
        """Restarts the server: connections are dropped; after a crash it recovers."""

    @abc.abstractmethod
    def _begin(self) -> None: ...

    @abc.abstractmethod
    def _end(self) -> None: ...

    @abc.abstractmethod
    def _make(self, database: str) -> str: ...

    def _run(self, *command: object) -> None:
        words = [str(part) for part in command]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.as_other)
