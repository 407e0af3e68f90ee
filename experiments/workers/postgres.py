"""A PostgreSQL server of one's own in a temporary folder, on loopback only; Debian's package `postgresql` has it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class Postgres:
    """A server, from `with` to the end of it, and its data with it."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise SystemExit("expected PostgreSQL's server: apt-get install -y postgresql")
        self._bin = programs[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="workers-postgres-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._databases = 0

    def __enter__(self) -> Self:
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres")
        self._run(self._bin / "initdb", "-D", self._data, "-A", "trust", "-E", "UTF8", "-U", "postgres")
        self._control("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._control("stop", "-m", "immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self, mode: str) -> None:
        """Restarts the server: "fast" drops connections, "immediate" is a crash, which it recovers from."""
        self._control("restart", "-m", mode)

    def database(self) -> str:
        """The address of a new database."""
        self._databases += 1
        name = f"studies{self._databases}"
        self._run(self._bin / "createdb", "-h", "127.0.0.1", "-p", self._port, "-U", "postgres", name)
        return f"postgresql://postgres@127.0.0.1:{self._port}/{name}"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _control(self, *what: object) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder} -c max_connections=200"
        self._run(self._bin / "pg_ctl", "-D", self._data, "-l", self._folder / "log", "-w", "-o", options, *what)

    def _run(self, *command: object) -> None:
        as_other = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, cwd="/", **as_other)
